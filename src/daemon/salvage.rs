//! Going on with workers though nothing was kept of them: the daemon has died together with whoever kept its descriptors.
//!
//! The state file says of each worker what was kept, and the kernel's name of each pipe and socket. What of that the
//! workers themselves still have is taken back and put into the store, so that the next step is that of any daemon that
//! takes over. Only a worker's channel is lost for good: it serves on without one until it is replaced. Must never take a
//! process for a worker by its pid alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use super::Daemon;
use super::keeping::{self, Record};
use super::persist::Saved;
use crate::core::{WorkerId, WorkerState};
use crate::node;
use crate::sys::foreign::{self, Take};
use crate::sys::pidfd;
use crate::sys::proc::Stat;
use crate::sys::store::Store;

/// What is written down of the store.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Remains {
    workers: BTreeMap<WorkerId, Record>,
    /// What the kernel calls each pipe and socket, by the name under which it was kept.
    descriptors: BTreeMap<String, String>,
    /// Sockets and channels, as they were kept.
    node: Value,
}

impl Remains {
    fn of(store: &Store) -> Remains {
        let record = |worker| Some((worker, keeping::record(store, worker)?));
        let node = node::kept(store).and_then(|text| serde_json::from_slice(&text).ok());
        Remains {
            workers: keeping::kept(store).into_iter().filter_map(record).collect(),
            descriptors: store.known(),
            node: node.unwrap_or_default(),
        }
    }
}

impl Daemon {
    /// The state as it is written to disk, where it may be all that the next daemon finds.
    pub(super) fn saved_with_remains(&self) -> Saved {
        Saved { remains: Some(Remains::of(&self.store)), ..self.saved() }
    }
}

/// Puts what can be had again into the empty store, and says which workers that is.
pub(super) fn salvage(store: &Store, saved: &Saved) -> BTreeSet<WorkerId> {
    let Some(remains) = &saved.remains else { return BTreeSet::new() };
    let lost = match node::lost_without_channel(&remains.node) {
        Ok(lost) => lost,
        Err(_) if remains.node.is_null() => BTreeSet::new(),
        Err(error) => {
            warn!(%error, "cannot understand what the daemon before wrote of Node's channels");
            return BTreeSet::new();
        }
    };
    let serves = |worker: WorkerId, record: &Record| {
        // One that had not got ready could neither say so any more nor be let in.
        let was_ready = |state| !matches!(state, WorkerState::Starting | WorkerState::Exited);
        let known = saved.fleet.worker(worker);
        known.is_some_and(|known| was_ready(known.state) && known.pid == Some(record.pid)) && !lost.contains(&worker)
    };
    let mut found = BTreeSet::new();
    for (worker, record) in remains.workers.iter().filter(|(worker, record)| serves(**worker, record)) {
        match take_back(store, *worker, record, &remains.descriptors) {
            Ok(true) => drop(found.insert(*worker)),
            Ok(false) => {}
            Err(error) => warn!(%worker, pid = record.pid, %error, "cannot go on with a worker of the daemon before"),
        }
    }
    if !found.is_empty()
        && !remains.node.is_null()
        && let Err(error) = node::keep_again(store, &remains.node)
    {
        warn!(%error, "cannot go on with the sockets of the daemon before");
    }
    found
}

/// False when it has ended.
fn take_back(
    store: &Store,
    worker: WorkerId,
    record: &Record,
    descriptors: &BTreeMap<String, String>,
) -> std::io::Result<bool> {
    use std::os::fd::AsFd;
    let Some(pidfd) = pidfd::open_exact(record.pid, record.start_time)? else { return Ok(false) };
    if Stat::read(record.pid)?.is_dead() {
        return Ok(false);
    }
    let own = keeping::regainable(worker);
    let sockets = descriptors.keys().filter(|name| node::is_of_listener(name) && store.get(name).is_none());
    let names: BTreeMap<&str, Take> = own
        .iter()
        .map(|(name, take)| (name.as_str(), *take))
        .chain(sockets.map(|name| (name.as_str(), Take::Socket)))
        .collect();
    let wanted: BTreeMap<String, Take> =
        names.iter().filter_map(|(name, take)| Some((descriptors.get(*name)?.clone(), *take))).collect();
    let (taken, problem) = foreign::take(record.pid, pidfd.as_fd(), &wanted)?;
    if let Some(error) = problem {
        warn!(%worker, pid = record.pid, %error, "cannot take all back that a worker of the daemon before has");
    }
    for name in names.keys() {
        if let Some(fd) = descriptors.get(*name).and_then(|known| taken.get(known)) {
            store.keep(name, fd);
        }
    }
    keeping::keep_again(store, worker, record.clone(), &pidfd)?;
    Ok(true)
}
