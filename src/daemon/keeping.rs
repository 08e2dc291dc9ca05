//! What is kept of each worker outside this process, so that the next daemon can take it over.
//!
//! Under the names `w7-channel`, `w7-in`, `w7-out`, `w7-err`, `w7-notify` and `w7-pidfd` lie the descriptors of worker 7,
//! under `w7-record` what else must be known of it. All of it is kept before the worker executes its program: one that
//! runs can always be found.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe::Sender;
use tracing::warn;

use super::notify_socket::NotifySocket;
use super::workers::Started;
use crate::core::{AppSpec, WorkerId};
use crate::node::channel_name;
use crate::sys::cgroup::Cgroup;
use crate::sys::foreign::Take;
use crate::sys::identity::Identity;
use crate::sys::store::Store;
use crate::sys::tree::Tree;
use crate::sys::{memfd, pidfd, pipe};

/// A record that is larger is none of ours.
const MAX_RECORD: usize = 1 << 20;

/// What must be known of a worker besides its descriptors. Fields may be added with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) pid: u32,
    /// With the pid it names the process for good (proc_pid_stat(5), field 22).
    pub(super) start_time: u64,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) unit: Option<String>,
    pub(super) mark: String,
    pub(super) agent: bool,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) notify: Option<PathBuf>,
    pub(super) identity: Identity,
    /// All that was kept of it was lost once, its channel for good.
    #[serde(default)]
    pub(super) regained: bool,
}

impl Record {
    /// Its process tree.
    pub(super) fn tree(&self) -> Tree {
        match &self.cgroup {
            Some(cgroup) => Tree::Cgroup(Cgroup::at(cgroup)),
            None => Tree::session(self.pid, self.start_time, Some(&self.mark)),
        }
    }

    /// The same process as this pid and start time.
    pub(super) fn is(&self, pid: Option<u32>) -> bool {
        pid == Some(self.pid)
    }
}

/// Descriptors of a worker that is about to run.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    pub(super) channel: &'a OwnedFd,
    pub(super) stdin: &'a OwnedFd,
    pub(super) stdout: &'a OwnedFd,
    pub(super) stderr: &'a OwnedFd,
    pub(super) notify: Option<&'a NotifySocket>,
}

fn name(worker: WorkerId, what: &str) -> String {
    format!("w{worker}-{what}")
}

/// Keeps what a worker is about to run with.
pub(super) fn keep(store: &Store, worker: WorkerId, record: &Record, ends: &Ends<'_>) {
    if !store.keeps() {
        return;
    }
    keep_record(store, worker, record);
    store.keep(&channel_name(worker), ends.channel);
    for (what, fd) in [("in", ends.stdin), ("out", ends.stdout), ("err", ends.stderr)] {
        store.keep(&name(worker, what), fd);
    }
    if let Some(notify) = ends.notify {
        store.keep(&name(worker, "notify"), notify);
    }
    match pidfd::open_exact(record.pid, record.start_time) {
        Ok(Some(fd)) => store.keep(&name(worker, "pidfd"), fd),
        Ok(None) => {}
        Err(error) => warn!(%worker, %error, "cannot keep the worker's pidfd for the next daemon"),
    }
}

fn keep_record(store: &Store, worker: WorkerId, record: &Record) {
    let text = serde_json::to_vec(record).map_err(std::io::Error::from);
    match text.and_then(|text| memfd::sealed("pm2rs-worker", &text)) {
        Ok(fd) => store.keep(&name(worker, "record"), fd),
        Err(error) => warn!(%worker, %error, "cannot keep the worker for the next daemon"),
    }
}

/// What of a worker's descriptors can be had again from the worker itself, by the names under which they are kept.
pub(super) fn regainable(worker: WorkerId) -> [(String, Take); 3] {
    [("in", Take::Writer), ("out", Take::Reader), ("err", Take::Reader)].map(|(what, take)| (name(worker, what), take))
}

/// Keeps a worker of which everything was lost but its process, as if it had been kept all the time. Its descriptors
/// have been, as far as there are any; what it would write to nobody ends at once.
pub(super) fn keep_again(store: &Store, worker: WorkerId, record: Record, pidfd: &OwnedFd) -> std::io::Result<()> {
    for what in ["out", "err"].map(|what| name(worker, what)) {
        if store.get(&what).is_none() {
            store.keep(&what, pipe::new()?.0);
        }
    }
    store.keep(&name(worker, "pidfd"), pidfd);
    keep_record(store, worker, &Record { regained: true, notify: None, ..record });
    Ok(())
}

/// Lets go of all that is kept of a worker.
pub(super) fn release(store: &Store, worker: WorkerId) {
    store.release_all(&name(worker, ""));
}

/// The workers of which something is kept.
pub(super) fn kept(store: &Store) -> std::collections::BTreeSet<WorkerId> {
    let number = |name: String| name.strip_prefix('w')?.split_once('-')?.0.parse().ok();
    store.names("w").into_iter().filter_map(number).map(WorkerId).collect()
}

/// What was written down of a worker.
pub(super) fn record(store: &Store, worker: WorkerId) -> Option<Record> {
    let text = memfd::read_all(store.get(&name(worker, "record"))?, MAX_RECORD).ok()?;
    serde_json::from_slice(&text).inspect_err(|error| warn!(%worker, %error, "cannot understand its record")).ok()
}

/// Ends a worker that cannot be taken over, and lets go of it.
pub(super) fn end(store: &Store, worker: WorkerId) {
    if let Some(tree) = record(store, worker).map(|record| record.tree())
        && !tree.is_empty().unwrap_or(true)
    {
        warn!(%worker, "ending a worker of the daemon before");
        if let Err(error) = tree.kill_all() {
            warn!(%worker, %error, "cannot end it");
        }
    }
    release(store, worker);
}

/// Takes a worker over as if it had just been started. `None` when that cannot be: its output went nowhere meanwhile, or
/// it has ended and nobody can tell how.
pub(super) fn take_over(store: &Store, worker: WorkerId, record: Record, spec: Arc<AppSpec>) -> Option<Started> {
    let get = |what| store.get(&name(worker, what));
    let pidfd = match get("pidfd") {
        Some(pidfd) => pidfd,
        None => pidfd::open_exact(record.pid, record.start_time).ok().flatten()?,
    };
    let notify = record.notify.as_ref().zip(get("notify"));
    Some(Started {
        pid: record.pid,
        start_time: record.start_time,
        pidfd: Arc::new(pidfd),
        tree: record.tree(),
        spec,
        stdin: get("in").and_then(|fd| Sender::from_owned_fd(fd).ok()),
        channel: store.get(&channel_name(worker)),
        stdout: Some(get("out")?),
        stderr: Some(get("err")?),
        notify: notify.and_then(|(path, fd)| NotifySocket::again(path, fd).ok()),
        unit: record.unit,
        agent: record.agent,
        mark: record.mark,
        pid_file: record.pid_file,
        identity: record.identity,
        regained: record.regained,
    })
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
