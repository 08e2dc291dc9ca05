//! Replacing one row's worker while it serves: the newcomer on trial, the swap, and what happens when either dies.
//!
//! Verbs only; [`reload`](super::reload) decides when.

use std::ops::RangeInclusive;

use super::process::{Desired, State};
use super::restart::Record;
use super::start::Start;
use super::worker::{Readiness, WorkerState};
use super::{Action, AppSpec, ExecMode, Fleet, LogLevel, LogTopic, ProcessId, Timer, WorkerId};

/// What a newcomer has to stay up beyond `min_uptime` (ms), so that a release which crashes after exactly that time
/// does not slip through: as long as it took to get ready, within these bounds. A machine that was slow to start it is as
/// slow to let it crash.
const STAY_UP_MARGIN: RangeInclusive<u64> = 500..=3000;

/// Whether two workers of this spec can serve at once: what they listen on is the supervisor's.
fn shares_its_sockets(spec: &AppSpec) -> bool {
    spec.exec_mode == ExecMode::Cluster || !spec.listen.is_empty()
}

/// A newcomer that was ordered.
pub(super) struct Newcomer {
    pub(super) worker: WorkerId,
    /// Readiness alone says too little of it: it has to stay up.
    pub(super) has_to_stay_up: bool,
}

impl Fleet {
    /// Whether a row serves now and can go on serving while another worker gets ready in its place.
    pub(super) fn can_be_replaced(&self, process: ProcessId) -> bool {
        let Some(row) = self.processes.get(&process) else { return false };
        let shares = |release| self.apps.get(&row.app).is_some_and(|app| shares_its_sockets(app.spec_of(release)));
        row.state == State::Ready && row.desired == Desired::Running && !row.restarting && shares(row.release)
    }

    /// Orders the worker that is to take a row over.
    pub(super) fn order_newcomer(&mut self, process: ProcessId, release: u32) -> Option<Newcomer> {
        let row = self.processes.get(&process).filter(|row| row.incoming.is_none())?;
        let spec = self.apps.get(&row.app)?.spec_of(release);
        if !shares_its_sockets(spec) {
            return None;
        }
        let predecessor_listened = self.workers.get(&row.current?).is_some_and(|worker| worker.listened);
        let readiness = Readiness::at_reload(spec, predecessor_listened);
        let worker = self.order_worker(process, release, readiness, true)?;
        if let Some(row) = self.processes.get_mut(&process) {
            row.incoming = Some(worker);
        }
        self.touch(process);
        Some(Newcomer { worker, has_to_stay_up: matches!(readiness, Readiness::Spawned | Readiness::Online) })
    }

    /// Whether a ready newcomer has stayed up long enough; sees to it that it is asked again.
    pub(super) fn has_stayed_up(&mut self, worker: WorkerId) -> bool {
        let min_uptime = self.spec_of_worker(worker).map_or(0, |spec| spec.min_uptime);
        if min_uptime == 0 || self.workers.get(&worker).is_some_and(|worker| worker.stayed_up) {
            return true;
        }
        if self.timers.at(Timer::MinUptime(worker)).is_none() {
            let spawned_at = self.workers.get(&worker).and_then(|worker| worker.spawned_at);
            let took = spawned_at.map_or(0, |at| self.now().mono.since(at));
            let margin = took.clamp(*STAY_UP_MARGIN.start(), *STAY_UP_MARGIN.end());
            self.arm(Timer::MinUptime(worker), min_uptime.saturating_add(margin));
        }
        false
    }

    /// Whether a ready newcomer listens if its predecessor does, which may have begun to only after the newcomer was
    /// ordered: nobody would serve the row's address between them. Sees to it that it is asked again, within
    /// the time it has to get ready.
    pub(super) fn listens_like_its_predecessor(&mut self, process: ProcessId, worker: WorkerId) -> Start {
        let listened = |id: WorkerId| self.workers.get(&id).is_some_and(|worker| worker.listened);
        let predecessor = self.processes.get(&process).and_then(|row| row.current).filter(|id| *id != worker);
        if listened(worker) || !predecessor.is_some_and(listened) {
            return Start::Ready;
        }
        let Some(spawned_at) = self.workers.get(&worker).and_then(|worker| worker.spawned_at) else {
            return Start::Pending;
        };
        let timeout = self.time_to_get_ready(worker);
        let left = timeout.saturating_sub(self.now().mono.since(spawned_at));
        if left == 0 {
            let without_cpu = self.but_without_cpu(worker);
            return Start::Failed(format!("did not listen within {timeout} ms, as its predecessor does{without_cpu}"));
        }
        if self.timers.at(Timer::MinUptime(worker)).is_none() {
            self.arm(Timer::MinUptime(worker), left);
        }
        Start::Pending
    }

    pub(super) fn min_uptime_reached(&mut self, worker: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.stayed_up = true;
            self.save();
        }
    }

    /// Puts a ready newcomer in its predecessor's place and has that one drain. Returns the predecessor.
    pub(super) fn swap(&mut self, process: ProcessId) -> Option<WorkerId> {
        let row = self.processes.get_mut(&process)?;
        let worker = row.incoming.take()?;
        let old = row.current.replace(worker);
        row.outgoing.extend(old);
        // PM2 counts when it orders the newcomer. Here the count belongs to who serves: whoever waits for it to grow
        // meets the new release, and a reload that failed was no restart.
        row.restarts = row.restarts.saturating_add(1);
        row.record = Record::default();
        self.serve(process, worker);
        self.set_state(process, State::Ready);
        self.log(LogTopic::Online, LogLevel::Info, process, "online");
        let manually = self.processes.get_mut(&process).is_some_and(|row| std::mem::take(&mut row.manually));
        self.announce(process, "online", manually);
        self.announce(process, "reload", manually);
        if let Some(old) = old {
            self.retire(old);
        }
        old
    }

    /// Puts the newcomer in the place of a worker that has gone by itself. False if there is none that lives.
    pub(super) fn promote_incoming(&mut self, process: ProcessId) -> bool {
        let wanted = self.processes.get_mut(&process).filter(|row| row.desired == Desired::Running);
        let Some(row) = wanted else { return false };
        let Some(worker) = row.incoming else { return false };
        let state = match self.workers.get(&worker).map(|worker| worker.state) {
            Some(WorkerState::Starting) => State::Starting,
            Some(WorkerState::Ready) => State::Ready,
            _ => return false,
        };
        row.incoming = None;
        row.current = Some(worker);
        row.restarts = row.restarts.saturating_add(1);
        let ready = state == State::Ready;
        self.serve(process, worker);
        self.set_state(process, state);
        if ready {
            self.log(LogTopic::Online, LogLevel::Info, process, "online");
            self.announce(process, "online", false);
        }
        true
    }

    /// The row shows this worker from now on.
    fn serve(&mut self, process: ProcessId, worker: WorkerId) {
        self.push(Action::AdmitWorker { worker });
        let Some(worker) = self.workers.get(&worker) else { return };
        let Some(row) = self.processes.get_mut(&process) else { return };
        row.release = worker.release;
        row.started_at = worker.started_at.or(row.started_at);
        row.reason.clear();
        self.touch(process);
        self.save();
    }

    /// A newcomer will not do, though it still runs. False if no reload waits for it.
    pub(super) fn trial_failed(&mut self, worker: WorkerId, why: &str) -> bool {
        self.jobs.iter_mut().flat_map(|job| job.reload_lanes()).any(|lane| lane.note_failed_trial(worker, why))
    }

    /// A worker ended by itself. True if a reload watches it and will see to its row.
    pub(super) fn trial_ended(&mut self, worker: WorkerId, why: &str) -> bool {
        self.jobs.iter_mut().flat_map(|job| job.reload_lanes()).any(|lane| lane.note_end(worker, why))
    }
}
