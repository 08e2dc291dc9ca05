//! What the loop's own tasks report back: answers to what it ordered.

use std::path::PathBuf;

use crate::config::dump::SavedApp;
use crate::core::{AppId, Exit, JobId, JobOutcome, SpawnFailure, WorkerId};

use crate::dbus;

use super::accounts::Accounts;
use super::handle::{Caller, Reply, Request};
use super::workers::Started;

/// Something that a task found out.
#[derive(Debug)]
pub(super) enum Fact {
    /// An ordered worker runs, or could not be started.
    Spawned(WorkerId, Box<Result<Started, SpawnFailure>>),
    /// What a request would run was looked at.
    Looked(Box<Request>, Accounts),
    /// What somebody saved, with who would run it, and who waits for its return.
    SavedListRead(Caller, Vec<(SavedApp, Accounts)>, Reply<u32>),
    /// A worker's main process ended.
    Exited(WorkerId, Exit),
    /// Nothing of a worker's tree is left.
    TreeEmpty(WorkerId),
    /// READY=1 came from a worker.
    Ready(WorkerId),
    /// A worker's probe succeeded.
    Probed(WorkerId),
    /// The ways by which callers come are open, or cannot be opened.
    Serving(Box<Result<dbus::Server, dbus::ServeError>>),
    /// The program that is installed now can take over from this one, or why it cannot; who asked for it.
    Asked(Reply<()>, Result<(), String>),
    /// Whether a signal to end means that the service is being restarted; its name.
    EndMeant(&'static str, bool),
    /// A watched file of an app changed.
    FileChanged(AppId, PathBuf),
    /// A failed job's message has been completed with the worker's last words.
    JobEnded(JobId, JobOutcome),
}
