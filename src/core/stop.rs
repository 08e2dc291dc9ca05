//! Ending: asking a worker to end, insisting, and the requests that want it.

use serde::{Deserialize, Serialize};

use super::jobs::{JobKind, Lane, Report};
use super::process::{Desired, Process, State};
use super::worker::WorkerState;
use super::{Action, AppId, Fleet, JobId, LogLevel, LogTopic, ProcessId, Timer, WorkerId};

/// After SIGKILL, a worker ought to be gone within so many milliseconds; one that is not hangs in the kernel.
pub const UNKILLABLE_AFTER: u64 = 5_000;

/// One app's part of a stop, delete, scale down or shutdown. All of it is begun at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StopLane {
    pub(super) app: AppId,
    steps: Vec<(ProcessId, bool)>,
}

impl StopLane {
    pub(super) fn new(app: AppId, processes: Vec<ProcessId>) -> StopLane {
        StopLane { app, steps: processes.into_iter().map(|process| (process, false)).collect() }
    }

    pub(super) fn progress(&self) -> (usize, usize) {
        (self.steps.iter().filter(|(_, over)| *over).count(), self.steps.len())
    }

    pub(super) fn is_over(&self) -> bool {
        self.steps.iter().all(|(_, over)| *over)
    }

    pub(super) fn supersede(&mut self, process: ProcessId, by: &str, report: &mut Report) {
        for (_, over) in self.steps.iter_mut().filter(|(id, over)| *id == process && !*over) {
            *over = true;
            report.fail(Some(process), format!("process {process}: superseded by {by}"));
        }
    }

    pub(super) fn advance(&mut self, fleet: &mut Fleet, report: &mut Report) {
        for (process, over) in self.steps.iter_mut().filter(|(_, over)| !*over) {
            let Some(row) = fleet.processes.get(process) else {
                *over = true;
                continue;
            };
            if row.workers().next().is_none() {
                *over = true;
            } else if let Some(pid) = fleet.hopeless(row) {
                *over = true;
                let name = fleet.name_of(*process);
                report.fail(
                    Some(*process),
                    format!("cannot end `{name}` (process {process}): pid {pid} does not even obey SIGKILL"),
                );
            }
        }
    }
}

/// Requests.
impl Fleet {
    pub(super) fn stop_requested(&mut self, job: JobId, processes: &[ProcessId]) {
        self.end_on_request(job, JobKind::Stop, processes, Desired::Stopped);
    }

    pub(super) fn delete_requested(&mut self, job: JobId, processes: &[ProcessId]) {
        self.end_on_request(job, JobKind::Delete, processes, Desired::Removed);
    }

    fn end_on_request(&mut self, job: JobId, kind: JobKind, processes: &[ProcessId], desired: Desired) {
        self.supersede(processes, kind);
        let apps = self.by_app(processes);
        for process in apps.values().flatten() {
            let drain = self.others_serve_on(*process, processes);
            if let Some(row) = self.processes.get_mut(process) {
                row.manually = true;
            }
            self.end_process(*process, desired, drain);
        }
        let lanes = apps.into_iter().map(|(app, rows)| Lane::Stop(StopLane::new(app, rows))).collect();
        self.open_job(job, kind, lanes);
    }

    /// Whether a row that serves has others of its app beside it that go on when `leaving` have gone. If so, its clients
    /// need not notice that it goes: it drains. Not where it drains already, for then somebody insists.
    fn others_serve_on(&self, process: ProcessId, leaving: &[ProcessId]) -> bool {
        let Some(row) = self.processes.get(&process).filter(|_| self.can_be_replaced(process)) else { return false };
        self.processes_of(row.app).any(|other| !leaving.contains(&other.id) && self.can_be_replaced(other.id))
    }

    pub(super) fn shutdown_requested(&mut self, job: JobId) {
        self.shutting_down = true;
        let all: Vec<_> = self.processes.keys().copied().collect();
        self.supersede(&all, JobKind::Shutdown);
        let apps = self.by_app(&all);
        for process in all {
            let desired = self.processes[&process].desired;
            self.end_process(process, desired, false);
        }
        let lanes = apps.into_iter().map(|(app, rows)| Lane::Stop(StopLane::new(app, rows))).collect();
        self.open_job(job, JobKind::Shutdown, lanes);
    }
}

/// Rows.
impl Fleet {
    /// Ends whatever serves a row. `drain` lets the current worker finish what it has in hands first.
    pub(super) fn end_process(&mut self, process: ProcessId, desired: Desired, drain: bool) {
        self.discard_incoming(process);
        let Some(row) = self.processes.get_mut(&process) else { return };
        // What is to be removed is not kept by a later wish to stop it.
        if row.desired != Desired::Removed {
            row.desired = desired;
        }
        row.restarting = false;
        row.restart_at = None;
        row.backoff_since = None;
        let (current, state, outgoing) = (row.current, row.state, row.outgoing.clone());
        self.touch(process);
        self.save();
        self.disarm(Timer::Restart(process));
        for worker in outgoing {
            self.terminate(worker);
        }
        match current {
            Some(worker) if drain && state == State::Ready => self.retire(worker),
            Some(_) if drain && state == State::Draining => {}
            Some(worker) => {
                self.terminate(worker);
                self.set_state(process, State::Stopping);
            }
            None => {
                if let Some(row) = self.processes.get_mut(&process) {
                    row.reason.clear();
                }
                self.set_state(process, State::Stopped);
                self.remove_if_over(process);
            }
        }
    }

    /// Ends the worker that was to take a row over.
    pub(super) fn discard_incoming(&mut self, process: ProcessId) {
        let Some(row) = self.processes.get_mut(&process) else { return };
        if let Some(worker) = row.incoming.take() {
            row.outgoing.push(worker);
            self.touch(process);
            self.terminate(worker);
        }
    }

    /// The pid that stands in the way when all that is left of a row cannot be killed.
    fn hopeless(&self, row: &Process) -> Option<u32> {
        let mut stuck = None;
        for worker in row.workers().filter_map(|worker| self.workers.get(&worker)) {
            if !worker.unkillable {
                return None;
            }
            stuck = worker.pid;
        }
        stuck
    }

    pub(super) fn remove_if_over(&mut self, process: ProcessId) {
        let over = |row: &&Process| row.desired == Desired::Removed && row.workers().next().is_none();
        let Some(row) = self.processes.get(&process).filter(over) else { return };
        let (app, manually) = (row.app, row.manually);
        self.log(LogTopic::Deleted, LogLevel::Info, process, "deleted");
        self.announce(process, "delete", manually);
        self.forget_process(process);
        if self.processes_of(app).next().is_none() {
            self.forget_app(app);
        } else {
            self.touch_app(app);
        }
    }

    fn forget_process(&mut self, process: ProcessId) {
        self.disarm(Timer::Restart(process));
        if self.processes.remove(&process).is_some() {
            self.push(Action::ProcessRemoved { process });
            self.save();
        }
        if self.processes.is_empty() {
            self.next_process = 0;
        }
    }

    /// Forgets an app and its rows, none of which has a worker.
    pub(super) fn forget_app(&mut self, id: AppId) {
        let rows: Vec<_> = self.processes_of(id).map(|row| row.id).collect();
        for process in rows {
            self.forget_process(process);
        }
        if let Some(app) = self.apps.remove(&id) {
            self.push(Action::AppRemoved { app: id, name: app.name().to_owned() });
            self.save();
        }
    }
}

/// Workers.
impl Fleet {
    /// Asks a worker to end, unless that was done already.
    pub(super) fn terminate(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.state {
            WorkerState::Starting | WorkerState::Ready | WorkerState::Draining => {
                self.disarm_all(id);
                self.set_worker_state(id, WorkerState::Stopping);
                self.signal_end(id);
            }
            WorkerState::Stopping | WorkerState::Exited if worker.unkillable => {
                worker.unkillable = false;
                self.kill(id);
            }
            WorkerState::Stopping | WorkerState::Exited => {}
        }
    }

    /// Sends the signal, or leaves that to the answer to its start.
    pub(super) fn signal_end(&mut self, id: WorkerId) {
        let Some(timeout) = self.spec_of_worker(id).map(|spec| spec.kill_timeout) else { return };
        if self.workers.get(&id).is_some_and(|worker| worker.pid.is_some()) {
            self.push(Action::TerminateWorker { worker: id });
            self.arm(Timer::Kill(id), timeout);
        }
    }

    /// Has a worker finish what it has in hands, then end.
    pub(super) fn retire(&mut self, id: WorkerId) {
        let Some(timeout) = self.spec_of_worker(id).map(|spec| spec.drain_timeout) else { return };
        let Some(worker) = self.workers.get(&id) else { return };
        let process = worker.process;
        let is_current = self.processes.get(&process).is_some_and(|row| row.current == Some(id));
        if worker.state != WorkerState::Ready || timeout == 0 {
            self.terminate(id);
            if is_current {
                self.set_state(process, State::Stopping);
            }
            return;
        }
        self.disarm_all(id);
        self.set_worker_state(id, WorkerState::Draining);
        if is_current {
            self.set_state(process, State::Draining);
        }
        self.push(Action::DrainWorker { worker: id, timeout });
        self.arm(Timer::Drain(id), timeout);
    }

    pub(super) fn worker_drained(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(|worker| worker.state == WorkerState::Draining) {
            self.end_draining(id);
        }
    }

    pub(super) fn drain_timed_out(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (process, timeout) = (worker.process, self.spec_of_worker(id).map_or(0, |spec| spec.drain_timeout));
        let text = format!("requests still in flight after {timeout} ms, ends now");
        self.log(LogTopic::DrainTimeout, LogLevel::Warning, process, &text);
        self.end_draining(id);
    }

    fn end_draining(&mut self, id: WorkerId) {
        self.terminate(id);
        let Some(process) = self.workers.get(&id).map(|worker| worker.process) else { return };
        if self.processes.get(&process).is_some_and(|row| row.current == Some(id)) {
            self.set_state(process, State::Stopping);
        }
    }

    pub(super) fn kill(&mut self, id: WorkerId) {
        self.disarm(Timer::Kill(id));
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.killed = true;
            self.push(Action::KillWorker { worker: id });
            self.arm(Timer::Unkillable(id), UNKILLABLE_AFTER);
        }
    }

    pub(super) fn kill_timed_out(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let process = worker.process;
        let timeout = self.spec_of_worker(id).map_or(0, |spec| spec.kill_timeout);
        let text = format!("did not end within {timeout} ms, sending SIGKILL");
        self.log(LogTopic::KillTimeout, LogLevel::Warning, process, &text);
        self.kill(id);
    }

    /// A worker that outlived SIGKILL hangs in the kernel (state D). Nobody can help that; the row is free again.
    pub(super) fn found_unkillable(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.unkillable = true;
        let (process, pid) = (worker.process, worker.pid.unwrap_or_default());
        let reason = format!("pid {pid} could not be stopped, not even by SIGKILL");
        self.log(LogTopic::Unkillable, LogLevel::Error, process, &reason);
        let Some(row) = self.processes.get_mut(&process) else { return };
        row.reason = reason;
        row.restarting = false;
        if row.current == Some(id) {
            row.current = None;
            row.outgoing.push(id);
            if !self.promote_incoming(process) {
                self.set_state(process, State::Errored);
            }
        }
        let hopeless = self.processes.get(&process).is_some_and(|row| self.hopeless(row).is_some());
        if let Some(row) = self.processes.get_mut(&process).filter(|row| hopeless && row.desired == Desired::Removed) {
            row.desired = Desired::Stopped;
        }
        self.touch(process);
        self.save();
    }
}
