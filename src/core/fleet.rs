//! The fleet: all apps, processes, workers and jobs, and the one function that changes them.
//!
//! Owns the dispatch of events, read access, and the small verbs that every other file of this folder writes its rules
//! with: changing a state, arming a timer, saying something. Must never decide anything itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::jobs::Job;
use super::process::{Process, State};
use super::timers::{self, Timers};
use super::worker::{Worker, WorkerState};
use super::{Action, App, AppId, AppSpec, Event, LogLevel, LogTopic, Now, ProcessId, Time, Timer, WorkerId};

/// The truth.
///
/// Serialised, it is all that a daemon needs to take over from one that died or was replaced: it deserialises the
/// fleet, calls [`Fleet::rearm`], and then tells by events what became of each worker meanwhile (`WorkerExited` with
/// [`Exit::Unknown`](super::Exit::Unknown) for one that is no longer there, `SpawnFailed` for one whose
/// [`pid`](Worker::pid) is still `None`). It holds monotonic times and so is of no use after a reboot; what survives
/// that is [`Fleet::saved`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Fleet {
    pub(super) apps: BTreeMap<AppId, App>,
    pub(super) processes: BTreeMap<ProcessId, Process>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    /// In the order they came in.
    pub(super) jobs: Vec<Job>,
    pub(super) timers: Timers,
    pub(super) next_app: u32,
    pub(super) next_process: u32,
    pub(super) last_worker: u32,
    pub(super) last_internal_job: u32,
    /// Everything is being ended for good.
    pub(super) shutting_down: bool,
    #[serde(skip)]
    turn: Turn,
}

/// What one call of `step` collects.
#[derive(Debug, Clone, Default)]
struct Turn {
    now: Now,
    actions: Vec<Action>,
    apps: BTreeSet<AppId>,
    processes: BTreeSet<ProcessId>,
    save: bool,
}

impl Fleet {
    /// Takes an event in and says what is to be done about it. Events about what is not there any more change nothing.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        self.turn.now = now;
        self.dispatch(event);
        self.advance_jobs();
        self.flush()
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::AppStartRequested { job, spec, owner } => self.app_start_requested(job, spec, owner),
            Event::RestoreRequested { job, apps } => self.restore_requested(job, apps),
            Event::RestartRequested { job, processes, update } => self.restart_requested(job, &processes, update),
            Event::ReloadRequested { job, processes, update, options } => {
                self.reload_requested(job, &processes, update, options);
            }
            Event::StopRequested { job, processes } => self.stop_requested(job, &processes),
            Event::DeleteRequested { job, processes } => self.delete_requested(job, &processes),
            Event::ScaleRequested { job, app, instances } => self.scale_requested(job, app, instances),
            Event::ResetRequested { processes } => self.reset_requested(&processes),
            Event::JobCancelRequested { job } => self.job_cancel_requested(job),
            Event::ShutdownRequested { job } => self.shutdown_requested(job),
            Event::RestartTriggered { process, cause, reason, graceful } => {
                self.restart_triggered(process, cause, &reason, graceful);
            }
            Event::WorkerSpawned { worker, pid } => self.worker_spawned(worker, pid),
            Event::SpawnFailed { worker, failure } => self.spawn_failed(worker, failure),
            Event::WorkerOnline { worker } => self.worker_online(worker),
            Event::WorkerListening { worker } => self.worker_listening(worker),
            Event::ReadyReceived { worker } => self.ready_received(worker),
            Event::ProbeSucceeded { worker } => self.probe_succeeded(worker),
            Event::WorkerDrained { worker } => self.worker_drained(worker),
            Event::WorkerExited { worker, exit, leftovers } => self.worker_exited(worker, exit, leftovers),
            Event::LeftoversGone { worker } => self.leftovers_gone(worker),
            Event::CpuAwaited { worker, ms } => self.cpu_awaited(worker, ms),
            Event::TimerElapsed { timer } => self.timer_elapsed(timer),
        }
    }

    fn timer_elapsed(&mut self, timer: Timer) {
        // One that was disarmed while its event was under way says nothing.
        if !self.timers.disarm(timer) {
            return;
        }
        self.save();
        match timer {
            Timer::Listen(worker) => self.listen_timed_out(worker),
            Timer::MinUptime(worker) => self.min_uptime_reached(worker),
            Timer::Drain(worker) => self.drain_timed_out(worker),
            Timer::Kill(worker) => self.kill_timed_out(worker),
            Timer::Unkillable(worker) => self.found_unkillable(worker),
            Timer::Restart(process) => self.backoff_over(process),
        }
    }

    /// Orders again what a daemon that takes over cannot know to be under way: all armed timers, probes and drains.
    pub fn rearm(&mut self, now: Now) -> Vec<Action> {
        self.turn.now = now;
        let armed: Vec<_> = self.timers.iter().collect();
        for (timer, at) in &armed {
            self.push(Action::ArmTimer { timer: *timer, at: *at });
        }
        let ids: Vec<_> = self.workers.keys().copied().collect();
        for worker in ids {
            let state = self.workers[&worker].state;
            if state == WorkerState::Draining {
                let timeout = self.timers.at(Timer::Drain(worker)).map_or(0, |at| at.since(now.mono));
                self.push(Action::DrainWorker { worker, timeout });
            }
            if state == WorkerState::Starting && self.workers[&worker].probing {
                self.push(Action::StartProbe { worker });
            }
        }
        self.flush()
    }

    /// All apps, by number.
    pub fn apps(&self) -> impl Iterator<Item = &App> {
        self.apps.values()
    }

    /// One app.
    #[must_use]
    pub fn app(&self, id: AppId) -> Option<&App> {
        self.apps.get(&id)
    }

    /// All rows, by id.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// One row.
    #[must_use]
    pub fn process(&self, id: ProcessId) -> Option<&Process> {
        self.processes.get(&id)
    }

    /// The rows of an app, by id.
    pub fn processes_of(&self, app: AppId) -> impl Iterator<Item = &Process> {
        self.processes.values().filter(move |process| process.app == app)
    }

    /// The spec a row runs with, or will when it is started next. `None` if there is no such row.
    #[must_use]
    pub fn spec_of_process(&self, id: ProcessId) -> Option<&Arc<AppSpec>> {
        let process = self.processes.get(&id)?;
        Some(self.apps.get(&process.app)?.spec_of(process.release))
    }

    /// All workers that are not over.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// One worker that is not over.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// The spec a worker was started with. `None` if it is over.
    #[must_use]
    pub fn spec_of_worker(&self, id: WorkerId) -> Option<&Arc<AppSpec>> {
        let worker = self.workers.get(&id)?;
        Some(self.apps.get(&worker.app)?.spec_of(worker.release))
    }

    /// The jobs that requests opened and that have not ended, in the order they came in.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(|job| !job.is_internal())
    }

    /// The timers that are armed.
    pub fn timers(&self) -> impl Iterator<Item = (Timer, Time)> + '_ {
        self.timers.iter()
    }

    /// Whether everything is being ended for good.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down
    }
}

/// The verbs of the other files.
impl Fleet {
    pub(super) fn now(&self) -> Now {
        self.turn.now
    }

    pub(super) fn push(&mut self, action: Action) {
        self.turn.actions.push(action);
    }

    pub(super) fn save(&mut self) {
        self.turn.save = true;
    }

    /// Has `ProcessChanged` said at the end of this step.
    pub(super) fn touch(&mut self, process: ProcessId) {
        self.turn.processes.insert(process);
    }

    /// Has `AppChanged` said at the end of this step.
    pub(super) fn touch_app(&mut self, app: AppId) {
        self.turn.apps.insert(app);
    }

    pub(super) fn arm(&mut self, timer: Timer, delay: u64) {
        let at = self.now().mono.after(delay);
        self.timers.arm(timer, at);
        self.save();
        self.push(Action::ArmTimer { timer, at });
    }

    pub(super) fn disarm(&mut self, timer: Timer) {
        if self.timers.disarm(timer) {
            self.save();
            self.push(Action::DisarmTimer { timer });
        }
    }

    pub(super) fn disarm_all(&mut self, worker: WorkerId) {
        for timer in timers::of_worker(worker) {
            self.disarm(timer);
        }
    }

    pub(super) fn announce(&mut self, process: ProcessId, event: &'static str, manually: bool) {
        self.push(Action::Announce { process, event, manually });
    }

    /// Says `App [NAME:ID] WHAT` in the daemon's log, the form that PM2's users grep for.
    pub(super) fn log(&mut self, topic: LogTopic, level: LogLevel, process: ProcessId, what: &str) {
        let name = self.name_of(process);
        let message = format!("App [{name}:{process}] {what}");
        self.push(Action::Log { topic, level, process, app: name, message });
    }

    pub(super) fn name_of(&self, process: ProcessId) -> String {
        self.spec_of_process(process).map(|spec| spec.name.clone()).unwrap_or_default()
    }

    /// Changes a row's state; everything about a row's state goes through here.
    pub(super) fn set_state(&mut self, process: ProcessId, state: State) {
        let Some(row) = self.processes.get_mut(&process) else { return };
        if row.state == state {
            return;
        }
        debug_assert!(row.state.may_become(state), "row {process}: {:?} to {state:?} is not in the table", row.state);
        row.state = state;
        let app = row.app;
        self.touch(process);
        self.touch_app(app);
        self.save();
    }

    /// Changes a worker's state; everything about a worker's state goes through here.
    pub(super) fn set_worker_state(&mut self, id: WorkerId, state: WorkerState) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state == state {
            return;
        }
        debug_assert!(
            worker.state.may_become(state),
            "worker {id}: {:?} to {state:?} is not in the table",
            worker.state
        );
        worker.state = state;
        self.save();
    }

    fn flush(&mut self) -> Vec<Action> {
        if self.turn.save {
            self.forget_releases();
        }
        let turn = std::mem::take(&mut self.turn);
        let mut actions = turn.actions;
        let apps = turn.apps.into_iter().filter(|app| self.apps.contains_key(app));
        let rows = turn.processes.into_iter().filter(|process| self.processes.contains_key(process));
        actions.extend(rows.map(|process| Action::ProcessChanged { process }));
        actions.extend(apps.map(|app| Action::AppChanged { app }));
        if turn.save {
            actions.push(Action::SaveState);
        }
        // The end of a job and of the daemon come after all they follow from.
        let (last, mut first): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, Action::JobFinished { .. } | Action::Exit));
        first.extend(last);
        first
    }

    fn forget_releases(&mut self) {
        let (rows, workers, jobs) = (&self.processes, &self.workers, &self.jobs);
        for app in self.apps.values_mut().filter(|app| app.releases() > 1) {
            let id = app.id;
            app.retain_releases(|release| {
                rows.values().any(|row| row.app == id && row.release == release)
                    || workers.values().any(|worker| worker.app == id && worker.release == release)
                    || jobs.iter().any(|job| job.uses_release(id, release))
            });
        }
    }
}
