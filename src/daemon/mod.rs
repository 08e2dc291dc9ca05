//! The shell around the core: performs its actions, turns what happens into its events.
//!
//! One loop owns everything mutable; everybody else holds a [`Handle`] and sends requests.

mod handle;
mod jobs;
mod paths;
mod timers;

use std::os::fd::OwnedFd;

pub use handle::{Caller, Change, Handle, LogRequest, Reply, Request, StartOptions, UpdateOptions, What};
pub use paths::{Mode, Paths};

/// How a daemon is started.
#[derive(Debug)]
pub struct DaemonOptions {
    /// Which of the three ways to stand.
    pub mode: Mode,
    /// Gets one byte `\n` when commands can be taken, or a line of text saying why not, and is closed.
    pub ready: Option<OwnedFd>,
}

/// Runs a daemon until it is told to end.
///
/// # Errors
/// What kept it from starting or made it give up, in one line for people.
pub fn run(options: DaemonOptions) -> anyhow::Result<()> {
    drop(options);
    Ok(())
}
