//! The state file: what must be found again after the daemon's end.
//!
//! Written at each change, atomically, one write at a time and off the loop; changes that come while one is under way
//! are written together after it, so a crash loop does not wear the disk. A write that fails is said once and tried
//! again; supervision never waits for it. One that was damaged on disk is noticed and set aside; the copy before it is
//! read then.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::salvage::Remains;
use super::write_schedule::Schedule;
use crate::api::JobView;
use crate::core::{Fleet, ProcessId, Time, WorkerId};
use crate::sys::cgroup::Cgroup;
use crate::sys::sealed::{self, Damage};
use crate::sys::snapshot::Snapshot;
use crate::sys::store::Store;
use crate::sys::tree::Tree;

/// Layout of the file. Raised when an older release could not read what is written.
pub(super) const FORMAT: u32 = 1;
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
    /// What apps have reported over their channels, once and for all: the daemon before got it, nobody says it again.
    #[serde(default)]
    pub reported: BTreeMap<ProcessId, Map<String, Value>>,
    /// Jobs as others see them, those that ended a moment ago included: somebody may be waiting for them.
    #[serde(default)]
    pub jobs: Vec<JobView>,
    /// Log lines that each process has lost so far.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost_lines: BTreeMap<ProcessId, u64>,
    /// When each process with a `cron_restart` is restarted by it next.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scheduled: BTreeMap<ProcessId, Time>,
    /// On disk alone: what a daemon needs for which nothing else was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remains: Option<Remains>,
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
    schedule: Schedule,
    writing: Option<JoinHandle<io::Result<()>>>,
    /// The state in memory that a daemon which is killed leaves behind.
    memory: Option<Snapshot>,
    /// Something changed since it was written to memory.
    changed: bool,
}

impl Persist {
    /// A writer of the file at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Persist {
        Persist { path, schedule: Schedule::default(), writing: None, memory: None, changed: false }
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

    /// Whether a next daemon finds the state in memory at all.
    #[must_use]
    pub fn remembers(&self) -> bool {
        self.memory.is_some()
    }

    /// Something changed that a next daemon must know of, though not one after a reboot.
    pub fn note_change(&mut self) {
        self.changed = true;
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
        self.schedule.touch(now);
    }

    /// When there is something to write, if nothing is being written.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        if self.writing.is_some() { None } else { self.schedule.due() }
    }

    /// Whether the file on disk is old because it cannot be written.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.schedule.is_failing()
    }

    /// Resolves when the write under way has ended; never where there is none.
    pub async fn written(&mut self) {
        let Some(task) = self.writing.as_mut() else { return std::future::pending().await };
        let result = task.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.writing = None;
        self.note(result);
    }

    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) if self.schedule.succeeded() => {
                info!(path = %self.path.display(), "the state file can be written again");
            }
            Ok(()) => {}
            Err(error) => {
                if self.schedule.failed(super::now()) {
                    warn!(path = %self.path.display(), %error, "cannot write the state file; supervision goes on, a restart of the daemon would not know of the last changes");
                }
            }
        }
    }

    /// Writes `saved` off the loop.
    pub fn write(&mut self, saved: &Saved) {
        self.schedule.begun();
        let Some(text) = self.encode(saved) else { return };
        let path = self.path.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || sealed::write(&path, text)));
    }

    /// Writes `saved` now and waits for it: the last write before the daemon ends. What cannot be written while nothing
    /// is wanted any more is removed: what is on disk would bring it back.
    pub async fn write_last(&mut self, saved: &Saved) {
        // Else it might end after this one, with what was before.
        if self.writing.is_some() {
            self.written().await;
        }
        self.schedule.begun();
        let Some(text) = self.encode(saved) else { return };
        let result = sealed::write(&self.path, text);
        if result.is_err()
            && saved.fleet.apps().next().is_none()
            && let Err(error) = sealed::remove(&self.path)
        {
            warn!(path = %self.path.display(), %error, "cannot remove the state file");
        }
        self.note(result);
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

/// Reads the state file. One that is damaged is set aside with a warning, and the copy before it is read; the daemon
/// starts with nothing when that is no good either.
#[must_use]
pub fn load(path: &Path) -> Option<Saved> {
    match read(path) {
        Ok(saved) => return Some(saved),
        // Also where the power went between two steps of a write.
        Err(None) => {}
        Err(Some(why)) => set_aside(path, &why),
    }
    let copy = sealed::last_copy(path);
    match read(&copy) {
        Ok(saved) => {
            warn!(path = %path.display(), copy = %copy.display(), "taking the last good copy of the state file; the last change may be missing");
            Some(saved)
        }
        Err(None) => None,
        Err(Some(why)) => {
            set_aside(&copy, &why);
            None
        }
    }
}

/// What is in a file; why not, `None` when it is not there.
fn read(path: &Path) -> Result<Saved, Option<Unusable>> {
    Saved::decode(&sealed::read(path, MAX_BYTES).map_err(|damage| damage.map(Unusable::from))?).map_err(Some)
}

/// Why a state file is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("it is not understood: {0}")]
    NotUnderstood(#[from] serde_json::Error),
    #[error("its format {0} is of a newer release")]
    Newer(u32),
}

fn set_aside(path: &Path, why: &Unusable) {
    match sealed::set_aside(path) {
        Ok(aside) => {
            warn!(path = %path.display(), aside = %aside.display(), %why, "cannot use the state file; set aside");
        }
        Err(error) => {
            warn!(path = %path.display(), %why, %error, "cannot use the state file, nor set it aside");
        }
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
        Saved {
            format: FORMAT,
            boot_id,
            fleet,
            workers,
            last_job,
            reported: BTreeMap::new(),
            jobs: Vec::new(),
            lost_lines: BTreeMap::new(),
            scheduled: BTreeMap::new(),
            remains: None,
        }
    }

    fn decode(text: &[u8]) -> Result<Saved, Unusable> {
        /// What every release understands.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        match serde_json::from_slice::<Version>(text)?.format {
            format if format > FORMAT => Err(Unusable::Newer(format)),
            _ => Ok(serde_json::from_slice(text)?),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::Arc;

    use crate::core::{AppSpec, Event, JobId, Now, Uid};

    /// A state that is told from others by its last job.
    fn saved(last_job: u32) -> Saved {
        let mut fleet = Fleet::default();
        let spec = Arc::new(AppSpec { name: "web".to_owned(), ..AppSpec::default() });
        fleet.step(Event::AppStartRequested { job: JobId(1), spec, owner: Uid(0) }, Now::default());
        Saved::new("boot".to_owned(), fleet, Vec::new(), last_job)
    }

    fn written(path: &Path, last_job: u32) -> Vec<u8> {
        sealed::write(path, serde_json::to_vec(&saved(last_job)).unwrap()).unwrap();
        fs::read(path).unwrap()
    }

    fn number(path: &Path) -> Option<u32> {
        let found = load(path)?;
        assert_eq!(found.fleet.apps().count(), 1);
        Some(found.last_job)
    }

    #[test]
    fn a_file_cut_anywhere_loses_the_last_change_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        written(&path, 1);
        let whole = written(&path, 2);
        assert_eq!(number(&path), Some(2));
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(number(&path), Some(1), "cut to {length} bytes");
            assert!(!path.exists() && dir.path().join("state.json.broken").exists());
        }
        // What is written next does not take the place of the good copy before it is whole itself.
        assert_eq!(number(&path), Some(1));
        written(&path, 3);
        assert_eq!(number(&path), Some(3));
    }

    #[test]
    fn flipped_bits_and_garbage_lose_the_last_change_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        written(&path, 1);
        let whole = written(&path, 2);
        for byte in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << (byte % 8);
            fs::write(&path, flipped).unwrap();
            assert_eq!(number(&path), Some(1), "byte {byte}");
        }
        for garbage in [&b"garbage"[..], b"{}", b"\0\0\0\0", &sealed::seal(b"{\"format\":1}".into()), &[0xff; 9000]] {
            fs::write(&path, garbage).unwrap();
            assert_eq!(number(&path), Some(1));
        }
        fs::write(&path, sealed::seal(b"{\"format\":999,\"fleet\":\"of tomorrow\"}".into())).unwrap();
        assert_eq!(number(&path), Some(1));
        // With both files gone there is nothing, and no panic.
        fs::write(&path, "x").unwrap();
        fs::write(sealed::last_copy(&path), "y").unwrap();
        assert_eq!(number(&path), None);
        assert_eq!(number(&path), None);
    }

    #[tokio::test]
    async fn the_last_write_comes_last_and_forgets_even_when_it_cannot_be_written() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let mut persist = Persist::new(path.clone());
        persist.touch(Time(1));
        persist.write(&saved(1));
        persist.write_last(&saved(2)).await;
        assert_eq!(number(&path), Some(2));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(persist.due().is_none() && !persist.is_failing());

        // Nothing new can be written there.
        fs::create_dir(dir.path().join(format!(".state.json.{}.tmp", std::process::id()))).unwrap();
        persist.write_last(&saved(3)).await;
        assert!(persist.is_failing() && persist.due().is_some());
        assert_eq!(number(&path), Some(2), "what cannot be written costs what was there");
        persist.write_last(&Saved::new("boot".to_owned(), Fleet::default(), Vec::new(), 4)).await;
        assert_eq!(number(&path), None, "what was deleted would come back");
    }
}
