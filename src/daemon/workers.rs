//! The operating-system side of each worker: pid, pidfd, process tree, standard input.
//!
//! Owns descriptors and trees; never decides when a worker starts or ends.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::task::{AbortHandle, JoinHandle};
use tracing::warn;

use super::handle::Reply;
use super::notify_socket::NotifySocket;
use super::persist::SavedWorker;
use super::requests::answer;
use crate::api::Error;
use crate::core::{AppSpec, WorkerId};
use crate::sys::identity::run_as_async;
use crate::sys::pidfd;
use crate::sys::plain;
use crate::sys::proc;
use crate::sys::tree::Tree;

/// A line for a worker's standard input waits at most this long for the worker to read.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker that has just been started, with all that belongs to it.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) pidfd: Arc<OwnedFd>,
    pub(super) tree: Tree,
    pub(super) spec: Arc<AppSpec>,
    pub(super) identity: crate::sys::identity::Identity,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) channel: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) unit: Option<String>,
    pub(super) notify: Option<NotifySocket>,
    pub(super) agent: bool,
    pub(super) mark: String,
    pub(super) pid_file: Option<PathBuf>,
    /// It was found again without its channel, which no longer was.
    pub(super) regained: bool,
}

/// What is kept of a worker while it lives.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) pidfd: Arc<OwnedFd>,
    pub(super) tree: Tree,
    pub(super) spec: Arc<AppSpec>,
    pub(super) identity: crate::sys::identity::Identity,
    pub(super) channel: bool,
    /// As in [`Started`].
    pub(super) regained: bool,
    /// The variable by which its descendants are known (`NAME=value`).
    pub(super) mark: String,
    /// Its scope, where systemd made one.
    unit: Option<String>,
    pid_file: Option<PathBuf>,
    stdin: Option<Arc<tokio::sync::Mutex<pipe::Sender>>>,
    tasks: Vec<AbortHandle>,
}

/// All workers that have not been released.
#[derive(Debug, Default)]
pub(super) struct Workers {
    live: BTreeMap<WorkerId, Live>,
    /// Ordered and not started yet; a stop that came meanwhile is made good once they are.
    starting: BTreeMap<WorkerId, Wish>,
}

/// What was asked of a worker before it existed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Wish {
    #[default]
    Run,
    Terminate,
    Kill,
}

impl Workers {
    /// A worker was ordered.
    pub(super) fn ordered(&mut self, worker: WorkerId) {
        self.starting.insert(worker, Wish::Run);
    }

    /// Notes a wish for a worker that does not exist yet. False when it exists, or never will.
    pub(super) fn wish(&mut self, worker: WorkerId, wish: Wish) -> bool {
        match self.starting.get_mut(&worker) {
            Some(old) => {
                *old = wish;
                true
            }
            None => false,
        }
    }

    /// An ordered worker could not be started.
    pub(super) fn failed(&mut self, worker: WorkerId) {
        self.starting.remove(&worker);
    }

    /// A worker was started; what was wished meanwhile is returned.
    pub(super) fn started(&mut self, worker: WorkerId, started: &mut Started) -> Wish {
        let live = Live {
            pid: started.pid,
            start_time: started.start_time,
            pidfd: started.pidfd.clone(),
            tree: started.tree.clone(),
            spec: started.spec.clone(),
            identity: started.identity.clone(),
            channel: started.channel.is_some(),
            regained: started.regained,
            mark: started.mark.clone(),
            unit: started.unit.clone(),
            pid_file: started.pid_file.take(),
            stdin: started.stdin.take().map(|stdin| Arc::new(tokio::sync::Mutex::new(stdin))),
            tasks: Vec::new(),
        };
        self.live.insert(worker, live);
        self.starting.remove(&worker).unwrap_or_default()
    }

    /// Whether no ordered worker is still on its way.
    pub(super) fn all_started(&self) -> bool {
        self.starting.is_empty()
    }

    pub(super) fn get(&self, worker: WorkerId) -> Option<&Live> {
        self.live.get(&worker)
    }

    /// How long (ms) its main process has waited for a CPU so far; `None` when that cannot be told.
    pub(super) fn awaited_cpu(&self, worker: WorkerId) -> Option<u64> {
        let live = self.live.get(&worker)?;
        proc::awaited_cpu(live.pid, live.start_time)
    }

    /// Whether the worker has a channel that it can be talked to by.
    pub(super) fn has_channel(&self, worker: WorkerId) -> bool {
        self.live.get(&worker).is_some_and(|live| live.channel)
    }

    /// A task that is of no use once the worker is released.
    pub(super) fn attach_task(&mut self, worker: WorkerId, task: &JoinHandle<()>) {
        match self.live.get_mut(&worker) {
            Some(live) => live.tasks.push(task.abort_handle()),
            None => task.abort(),
        }
    }

    /// A signal to the main process alone.
    pub(super) fn signal_main(&self, worker: WorkerId, signal: i32) {
        use std::os::fd::AsFd;
        if let Some(live) = self.live.get(&worker)
            && let Err(error) = pidfd::send_signal(live.pidfd.as_fd(), signal)
        {
            // ESRCH: it has just ended, which its pidfd tells as well.
            if error.raw_os_error() != Some(libc::ESRCH) {
                warn!(pid = live.pid, signal, %error, "cannot signal the worker");
            }
        }
    }

    /// A signal to the whole tree.
    pub(super) fn signal_tree(&self, worker: WorkerId, signal: i32) {
        if let Some(live) = self.live.get(&worker)
            && let Err(error) = live.tree.signal_all(signal)
        {
            warn!(pid = live.pid, signal, %error, "cannot signal the worker's process tree");
        }
    }

    /// SIGKILL to the whole tree, however it came to be.
    pub(super) fn kill(&mut self, worker: WorkerId) {
        if self.wish(worker, Wish::Kill) {
            return;
        }
        if let Some(live) = self.live.get(&worker)
            && let Err(error) = live.tree.kill_all()
        {
            warn!(pid = live.pid, %error, "cannot kill the worker's process tree");
        }
    }

    /// The worker is over: its descriptors, tasks and pid file go.
    pub(super) fn release(&mut self, worker: WorkerId) {
        let Some(live) = self.live.remove(&worker) else { return };
        for task in &live.tasks {
            task.abort();
        }
        // A scope's group is systemd's to remove: it learns from that group's cgroup.events that the scope has ended, and
        // the kernel may drop that notice when the group goes first. One of our own is ours to remove.
        if let Tree::Cgroup(group) = &live.tree
            && live.unit.is_none()
        {
            drop(group.remove());
        }
        if let Some(path) = live.pid_file {
            let pid = live.pid.to_string();
            // By now it may name the worker that follows; and a file of the user's is touched with their rights only.
            let remove = move || {
                if plain::has(&path, pid.as_bytes()) {
                    drop(std::fs::remove_file(&path));
                }
            };
            let identity = live.identity;
            tokio::spawn(async move { drop(run_as_async(identity, remove).await) });
        }
    }

    /// Writes a line to a worker's standard input, in a task of its own: a worker that does not read must not stop the
    /// loop.
    pub(super) fn write_line(&self, worker: WorkerId, line: String, reply: Reply<()>) {
        let Some(stdin) = self.live.get(&worker).and_then(|live| live.stdin.clone()) else {
            return answer(reply, Err(Error::NotPossible("the process has no standard input".to_owned())));
        };
        tokio::spawn(async move {
            let write = async { stdin.lock().await.write_all(format!("{line}\n").as_bytes()).await };
            let result = match tokio::time::timeout(LINE_TIMEOUT, write).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Error::Failed(format!("cannot write to its standard input: {error}"))),
                Err(_) => Err(Error::Failed("the process does not read its standard input".to_owned())),
            };
            answer(reply, result);
        });
    }

    /// The longest kill_timeout of those that live and are meant.
    pub(super) fn slowest_end(&self, meant: impl Fn(WorkerId) -> bool) -> Duration {
        let those = self.live.iter().filter(|(worker, _)| meant(**worker));
        Duration::from_millis(those.map(|(_, live)| live.spec.kill_timeout).max().unwrap_or(0))
    }

    /// What must be written down of the workers that live.
    pub(super) fn saved(&self) -> Vec<SavedWorker> {
        self.live
            .iter()
            .map(|(worker, live)| SavedWorker {
                worker: *worker,
                pid: live.pid,
                start_time: live.start_time,
                cgroup: match &live.tree {
                    Tree::Cgroup(cgroup) => Some(cgroup.path().to_owned()),
                    Tree::Session(_) => None,
                },
                mark: live.mark.clone(),
            })
            .collect()
    }
}
