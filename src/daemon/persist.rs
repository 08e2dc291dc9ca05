//! The state file: what must be found again after the daemon's end.
//!
//! Written at each change, atomically, one write at a time and off the loop; changes that come while one is under way
//! are written together after it, so a crash loop does not wear the disk. A write that fails is said once and tried
//! again; supervision never waits for it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::core::{Fleet, Time, WorkerId};
use crate::sys::cgroup::Cgroup;
use crate::sys::durable;
use crate::sys::snapshot::Snapshot;
use crate::sys::store::Store;
use crate::sys::tree::Tree;

/// Layout of the file. Raised when an older release could not read what is written.
const FORMAT: u32 = 1;
/// From a change to its write: what a burst changes is written once.
const SETTLE_MS: u64 = 20;
/// From a failed write to the next try.
const RETRY_MS: u64 = 5_000;
/// A state file larger than this is not ours.
const MAX_BYTES: u64 = 256 << 20;

/// What is written.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    /// Layout.
    pub format: u32,
    /// The boot in which it was written (proc(5), random/boot_id): worker pids mean nothing in another one.
    pub boot_id: String,
    /// Apps, processes, workers.
    pub fleet: Fleet,
    /// What the shell knows of each worker that was alive.
    pub workers: Vec<SavedWorker>,
    /// Number of the last job, so that none is used twice.
    #[serde(default)]
    pub last_job: u32,
}

/// A worker as it can be found again: a pid alone never names a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedWorker {
    /// Which.
    pub worker: WorkerId,
    /// Its process id.
    pub pid: u32,
    /// Its start time, clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
    /// Its cgroup, when it has one of its own.
    pub cgroup: Option<PathBuf>,
    /// The variable (`NAME=value`) by which its descendants are known.
    pub mark: String,
}

/// The writer.
#[derive(Debug)]
pub struct Persist {
    path: PathBuf,
    due: Option<Time>,
    writing: Option<JoinHandle<std::io::Result<()>>>,
    failed: bool,
    /// The state in memory that a daemon which is killed leaves behind.
    memory: Option<Snapshot>,
    /// Something changed since it was written to memory.
    changed: bool,
}

impl Persist {
    /// A writer of the file at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Persist {
        Persist { path, due: None, writing: None, failed: false, memory: None, changed: false }
    }

    /// From now on keeps the state in memory as well, and returns what the daemon before left there.
    pub fn remember_in(&mut self, store: &Store) -> Option<Saved> {
        if !store.keeps() {
            return None;
        }
        let (memory, found) = Snapshot::open(store, "state")
            .inspect_err(|error| warn!(%error, "cannot keep the state for the next daemon"))
            .ok()?;
        self.memory = Some(memory);
        let saved: Saved = serde_json::from_slice(&found?)
            .inspect_err(|error| warn!(%error, "cannot understand the state of the daemon before"))
            .ok()?;
        (saved.format <= FORMAT).then_some(saved)
    }

    /// Whether the state in memory is not that of now.
    #[must_use]
    pub fn forgets(&self) -> bool {
        self.changed && self.memory.is_some()
    }

    /// Writes `saved` to memory, at once: what was done since must not be undone by a crash.
    pub fn remember(&mut self, saved: &Saved) {
        self.changed = false;
        let Some(text) = self.encode(saved) else { return };
        if let Some(memory) = &mut self.memory
            && let Err(error) = memory.write(&text)
        {
            warn!(%error, "cannot keep the state for the next daemon");
        }
    }

    /// Something that must survive changed.
    pub fn touch(&mut self, now: Time) {
        self.changed = true;
        self.due.get_or_insert(now.after(SETTLE_MS));
    }

    /// When there is something to write, if nothing is being written.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        if self.writing.is_some() { None } else { self.due }
    }

    /// Resolves when the write under way has ended; never where there is none.
    pub async fn written(&mut self) {
        let Some(task) = self.writing.as_mut() else { return std::future::pending().await };
        let result = task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        self.writing = None;
        self.note(result);
    }

    fn note(&mut self, result: std::io::Result<()>) {
        match result {
            Ok(()) if self.failed => {
                self.failed = false;
                info!(path = %self.path.display(), "the state file can be written again");
            }
            Ok(()) => {}
            Err(error) => {
                if !self.failed {
                    warn!(path = %self.path.display(), %error, "cannot write the state file; supervision goes on, a restart of the daemon would not know of the last changes");
                }
                self.failed = true;
                self.due = Some(super::now().after(RETRY_MS));
            }
        }
    }

    /// Writes `saved` off the loop.
    pub fn write(&mut self, saved: &Saved) {
        self.due = None;
        let Some(text) = self.encode(saved) else { return };
        let path = self.path.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || durable::write(&path, &text, 0o600)));
    }

    /// Writes `saved` now and waits for it: the last write before the daemon ends.
    pub fn write_now(&mut self, saved: &Saved) {
        self.due = None;
        if let Some(text) = self.encode(saved) {
            let result = durable::write(&self.path, &text, 0o600);
            self.note(result);
        }
    }

    fn encode(&self, saved: &Saved) -> Option<Vec<u8>> {
        match serde_json::to_vec(saved) {
            Ok(text) => Some(text),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "cannot encode the state");
                None
            }
        }
    }
}

/// Reads the state file. One that cannot be understood is set aside with a warning, and the daemon starts with nothing.
#[must_use]
pub fn load(path: &std::path::Path) -> Option<Saved> {
    let text = match std::fs::metadata(path).and_then(|meta| {
        if meta.len() > MAX_BYTES {
            return Err(std::io::Error::other("the file is too large"));
        }
        std::fs::read(path)
    }) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            set_aside(path, &error.to_string());
            return None;
        }
    };
    match serde_json::from_slice::<Saved>(&text) {
        Ok(saved) if saved.format <= FORMAT => Some(saved),
        Ok(saved) => {
            set_aside(path, &format!("its format {} is of a newer release", saved.format));
            None
        }
        Err(error) => {
            set_aside(path, &error.to_string());
            None
        }
    }
}

fn set_aside(path: &std::path::Path, why: &str) {
    let aside = path.with_extension("json.broken");
    match std::fs::rename(path, &aside) {
        Ok(()) => warn!(path = %path.display(), aside = %aside.display(), why, "cannot read the state file; set aside"),
        Err(error) => warn!(path = %path.display(), why, %error, "cannot read the state file, nor set it aside"),
    }
}

impl SavedWorker {
    /// The worker with all that descends from it.
    #[must_use]
    pub fn tree(&self) -> Tree {
        match &self.cgroup {
            Some(cgroup) => Tree::Cgroup(Cgroup::at(cgroup)),
            None => Tree::session(self.pid, self.start_time, Some(&self.mark)),
        }
    }
}

impl Saved {
    /// What is to be written now.
    #[must_use]
    pub fn new(boot_id: String, fleet: Fleet, workers: Vec<SavedWorker>, last_job: u32) -> Saved {
        Saved { format: FORMAT, boot_id, fleet, workers, last_job }
    }
}
