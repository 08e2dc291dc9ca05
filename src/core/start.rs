//! Starting: new rows, new workers, and when a worker counts as ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::jobs::{JobKind, Lane, Report};
use super::process::{Desired, Process, State};
use super::restart::Record;
use super::worker::{Readiness, Worker, WorkerState};
use super::{
    Action, App, AppId, AppSpec, ExecMode, Fleet, JobId, LogLevel, LogTopic, ProcessId, RestartCause, SpawnOrder,
    Timer, Uid, WorkerId,
};

/// After the first process of an app has proved that it starts, so many are started at a time.
const STARTS_AT_ONCE: usize = 4;

/// One app's part of a start, restart or scale up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StartLane {
    pub(super) app: AppId,
    /// Running rows are ended first.
    restart: bool,
    /// The app is new: if it cannot be executed at all, it is forgotten again.
    fresh: bool,
    at_once: usize,
    steps: Vec<(ProcessId, StartStep)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartStep {
    Waiting,
    Begun,
    Over,
}

/// How the start of a row stands.
pub(super) enum Start {
    Pending,
    Ready,
    Failed(String),
}

impl StartLane {
    /// Starts rows: the first alone, the others a few at a time.
    pub(super) fn start(app: AppId, processes: Vec<ProcessId>, fresh: bool) -> StartLane {
        StartLane { app, restart: false, fresh, at_once: STARTS_AT_ONCE, steps: waiting(processes) }
    }

    /// Restarts rows: half of them at a time, at least two (PM2: always two), so that the other half goes on serving.
    pub(super) fn restart(app: AppId, processes: Vec<ProcessId>) -> StartLane {
        let at_once = processes.len().div_ceil(2).max(2);
        StartLane { app, restart: true, fresh: false, at_once, steps: waiting(processes) }
    }

    pub(super) fn progress(&self) -> (usize, usize) {
        (self.count(StartStep::Over), self.steps.len())
    }

    pub(super) fn is_over(&self) -> bool {
        self.count(StartStep::Over) == self.steps.len()
    }

    fn count(&self, step: StartStep) -> usize {
        self.steps.iter().filter(|(_, state)| *state == step).count()
    }

    pub(super) fn is_starting(&self, process: ProcessId) -> bool {
        self.steps.contains(&(process, StartStep::Begun))
    }

    pub(super) fn supersede(&mut self, process: ProcessId, by: &str, report: &mut Report) {
        for (_, step) in self.steps.iter_mut().filter(|(id, step)| *id == process && *step != StartStep::Over) {
            *step = StartStep::Over;
            report.fail(Some(process), format!("process {process}: superseded by {by}"));
        }
    }

    /// Rows that were not begun are left as they are; new ones among them stay stopped.
    pub(super) fn cancel(&mut self, fleet: &mut Fleet) {
        for (process, step) in self.steps.iter_mut().filter(|(_, step)| *step == StartStep::Waiting) {
            *step = StartStep::Over;
            if let Some(row) = fleet.processes.get_mut(process).filter(|row| row.state == State::Stopped) {
                row.desired = Desired::Stopped;
                fleet.touch(*process);
                fleet.save();
            }
        }
    }

    pub(super) fn advance(&mut self, fleet: &mut Fleet, since: WorkerId, report: &mut Report) {
        loop {
            self.settle(fleet, since, report);
            let begun = self.count(StartStep::Begun);
            let proven = self.restart || self.count(StartStep::Over) > 0;
            let room = if proven { self.at_once.saturating_sub(begun) } else { 1usize.saturating_sub(begun) };
            let waiting = self.steps.iter_mut().filter(|(_, step)| *step == StartStep::Waiting);
            let next: Vec<_> = waiting
                .take(room)
                .map(|(process, step)| {
                    *step = StartStep::Begun;
                    *process
                })
                .collect();
            if next.is_empty() {
                return;
            }
            for process in next {
                self.begin(fleet, since, process);
            }
        }
    }

    fn begin(&self, fleet: &mut Fleet, since: WorkerId, process: ProcessId) {
        // A newer request may have done it already.
        let Some(row) = fleet.processes.get_mut(&process).filter(|row| row.latest <= Some(since)) else { return };
        row.desired = Desired::Running;
        if self.restart {
            fleet.restart_process(process, true);
        } else if row.current.is_none() {
            fleet.start_process(process);
        }
    }

    fn settle(&mut self, fleet: &mut Fleet, since: WorkerId, report: &mut Report) {
        let begun = self.steps.iter_mut().filter(|(_, step)| *step == StartStep::Begun);
        for (process, step) in begun {
            match fleet.start_of(*process, since) {
                Start::Pending => {}
                Start::Ready => *step = StartStep::Over,
                Start::Failed(why) => {
                    *step = StartStep::Over;
                    let name = fleet.name_of(*process);
                    report.fail(Some(*process), format!("cannot start `{name}` (process {process}): {why}"));
                    // Nothing of it ever ran: it is as if it had not been asked for.
                    let impossible = fleet.processes.get(process).is_some_and(|row| row.state == State::Errored)
                        && fleet.apps.get(&self.app).is_some_and(|app| !app.executed)
                        && fleet.workers.values().all(|worker| worker.app != self.app);
                    if self.fresh && impossible {
                        fleet.forget_app(self.app);
                        self.steps.iter_mut().for_each(|(_, step)| *step = StartStep::Over);
                        return;
                    }
                }
            }
        }
    }
}

fn waiting(processes: Vec<ProcessId>) -> Vec<(ProcessId, StartStep)> {
    processes.into_iter().map(|process| (process, StartStep::Waiting)).collect()
}

/// Requests.
impl Fleet {
    pub(super) fn app_start_requested(&mut self, job: JobId, spec: Arc<AppSpec>, owner: Uid) {
        if self.refuse_when_shutting_down(job) {
            return;
        }
        // The daemon has resolved the count against the machine's CPUs; a spec that still says `max` means one here.
        let instances = spec.instances.on(1);
        let desired = if spec.autostart { Desired::Running } else { Desired::Stopped };
        let app = self.add_app(spec, owner);
        let rows: Vec<_> = (0..instances).map(|_| self.add_process(app, desired, None, None)).collect();
        let lanes = match desired {
            Desired::Running => vec![Lane::Start(StartLane::start(app, rows, true))],
            _ => Vec::new(),
        };
        self.open_job(job, JobKind::Start, lanes);
    }

    pub(super) fn restart_requested(
        &mut self,
        job: JobId,
        processes: &[ProcessId],
        update: BTreeMap<AppId, Arc<AppSpec>>,
    ) {
        if self.refuse_when_shutting_down(job) {
            return;
        }
        let releases = self.add_releases(update);
        self.supersede(processes, JobKind::Restart);
        let mut lanes = Vec::new();
        for (app, rows) in self.by_app(processes) {
            for process in &rows {
                let Some(row) = self.processes.get_mut(process) else { continue };
                row.desired = Desired::Running;
                row.release = releases.get(&app).copied().unwrap_or(row.release);
                self.touch(*process);
            }
            lanes.push(Lane::Start(StartLane::restart(app, rows)));
        }
        self.save();
        self.open_job(job, JobKind::Restart, lanes);
    }

    fn add_releases(&mut self, update: BTreeMap<AppId, Arc<AppSpec>>) -> BTreeMap<AppId, u32> {
        let mut releases = BTreeMap::new();
        for (id, spec) in update {
            if let Some(app) = self.apps.get_mut(&id) {
                app.release = app.add_release(spec);
                releases.insert(id, app.release);
                self.touch_app(id);
            }
        }
        releases
    }

    pub(super) fn reset_requested(&mut self, processes: &[ProcessId]) {
        let wall = self.now().wall;
        for process in processes {
            let Some(row) = self.processes.get_mut(process) else { continue };
            row.restarts = 0;
            row.record = Record::default();
            row.created_at = wall;
            self.touch(*process);
            self.save();
        }
    }

    /// A trigger starts what has ended by itself (a planned job that ran to its end, an errored app whose file was
    /// changed). What a person has stopped only its plan starts: as PM2 has it, a stop leaves `cron_restart` in force.
    pub(super) fn restart_triggered(&mut self, process: ProcessId, cause: RestartCause, reason: &str, graceful: bool) {
        let Some(row) = self.processes.get(&process) else { return };
        let wanted = match row.desired {
            Desired::Running => true,
            Desired::Stopped => cause == RestartCause::Schedule,
            Desired::Removed => false,
        };
        if self.shutting_down || !wanted {
            return;
        }
        let (state, replacing) = (row.state, row.incoming.is_some());
        let topic = match cause {
            RestartCause::Memory => LogTopic::MemoryLimit,
            RestartCause::Schedule | RestartCause::FileChange => LogTopic::Triggered,
        };
        match state {
            State::Draining | State::Stopping => {}
            State::Starting | State::Ready if graceful && replacing => {}
            State::Ready if replacing || (graceful && self.can_be_replaced(process)) => {
                self.log(topic, LogLevel::Info, process, &format!("reloads: {reason}"));
                self.reload_by_trigger(process);
            }
            _ => {
                self.log(topic, LogLevel::Info, process, &format!("restarts: {reason}"));
                // A stop may still wait for what the row's last worker left behind.
                self.supersede(&[process], JobKind::Restart);
                self.restart_process(process, false);
            }
        }
    }

    /// The rows that exist, by app, in the order given.
    pub(super) fn by_app(&self, processes: &[ProcessId]) -> BTreeMap<AppId, Vec<ProcessId>> {
        let mut apps: BTreeMap<AppId, Vec<ProcessId>> = BTreeMap::new();
        for row in processes.iter().filter_map(|process| self.processes.get(process)) {
            let rows = apps.entry(row.app).or_default();
            if !rows.contains(&row.id) {
                rows.push(row.id);
            }
        }
        apps
    }

    pub(super) fn refuse_when_shutting_down(&mut self, job: JobId) -> bool {
        if self.shutting_down {
            self.refuse_job(job, "the daemon is shutting down".to_owned());
        }
        self.shutting_down
    }
}

/// Rows.
impl Fleet {
    pub(super) fn add_app(&mut self, spec: Arc<AppSpec>, owner: Uid) -> AppId {
        self.next_app += 1;
        let id = AppId(self.next_app);
        self.apps.insert(id, App::new(id, owner, spec));
        self.push(Action::AppAdded { app: id });
        self.save();
        id
    }

    pub(super) fn add_process(
        &mut self,
        app: AppId,
        desired: Desired,
        wanted_id: Option<ProcessId>,
        wanted_instance: Option<u32>,
    ) -> ProcessId {
        let taken = self.instances_taken(app);
        let instance = wanted_instance
            .filter(|instance| !taken.contains(instance))
            .or_else(|| (0..=u32::MAX).find(|instance| !taken.contains(instance)))
            .unwrap_or_default();
        let id = wanted_id
            .filter(|id| !self.processes.contains_key(id) && id.0 < u32::MAX)
            .unwrap_or(ProcessId(self.next_process));
        self.next_process = self.next_process.max(id.0 + 1);
        let row = Process {
            id,
            app,
            instance,
            release: self.apps.get(&app).map_or(0, |app| app.release),
            desired,
            state: State::Stopped,
            current: None,
            incoming: None,
            outgoing: Vec::new(),
            latest: None,
            restarts: 0,
            record: Record::default(),
            created_at: self.now().wall,
            started_at: None,
            restart_at: None,
            backoff_since: None,
            last_exit: None,
            reason: String::new(),
            restarting: false,
            manually: true,
        };
        self.processes.insert(id, row);
        self.push(Action::ProcessAdded { process: id });
        self.touch_app(app);
        self.save();
        id
    }

    /// Instance numbers are shared by all rows of the same name and owner.
    fn instances_taken(&self, app: AppId) -> Vec<u32> {
        let Some(app) = self.apps.get(&app) else { return Vec::new() };
        let same = |other: &&Process| {
            self.apps.get(&other.app).is_some_and(|other| other.owner == app.owner && other.name() == app.name())
        };
        self.processes.values().filter(same).map(|row| row.instance).collect()
    }
}

/// Workers.
impl Fleet {
    /// Orders a worker for a row that has none.
    pub(super) fn start_process(&mut self, process: ProcessId) {
        if self.shutting_down {
            return;
        }
        let now = self.now().mono;
        self.disarm(Timer::Restart(process));
        let Some(row) = self.processes.get_mut(&process) else { return };
        debug_assert!(row.current.is_none(), "row {process} has a worker");
        row.restarting = false;
        row.restart_at = None;
        if let Some(since) = row.backoff_since.take() {
            row.record.waited(now.since(since));
        }
        row.reason.clear();
        let (app, release) = (row.app, row.release);
        let Some(spec) = self.apps.get(&app).map(|app| app.spec_of(release)) else { return };
        let readiness = Readiness::at_start(spec);
        let mode = if spec.exec_mode == ExecMode::Cluster { "cluster" } else { "fork" };
        let line = format!("starting in -{mode} mode-");
        if let Some(worker) = self.order_worker(process, release, readiness, false) {
            if let Some(row) = self.processes.get_mut(&process) {
                row.current = Some(worker);
            }
            self.log(LogTopic::Starting, LogLevel::Info, process, &line);
            self.set_state(process, State::Starting);
        }
    }

    /// Ends a row's worker, if it has one, to start another at once. Counts as a restart only in that case.
    pub(super) fn restart_process(&mut self, process: ProcessId, manually: bool) {
        self.discard_incoming(process);
        let Some(row) = self.processes.get_mut(&process) else { return };
        row.desired = Desired::Running;
        row.manually = manually;
        if manually {
            row.record = Record::default();
        }
        let Some(worker) = row.current else {
            return self.start_process(process);
        };
        if !row.restarting {
            row.restarting = true;
            row.restarts = row.restarts.saturating_add(1);
        }
        self.touch(process);
        self.terminate(worker);
        self.set_state(process, State::Stopping);
    }

    pub(super) fn order_worker(
        &mut self,
        process: ProcessId,
        release: u32,
        readiness: Readiness,
        on_trial: bool,
    ) -> Option<WorkerId> {
        let row = self.processes.get_mut(&process)?;
        let app = self.apps.get(&row.app)?;
        let id = WorkerId(self.last_worker + 1);
        let order = SpawnOrder {
            worker: id,
            process,
            app: row.app,
            instance: row.instance,
            spec: app.spec_of(release).clone(),
            // A newcomer beside a worker that still serves counts when it takes its place.
            restarts: row.restarts.saturating_add(u32::from(row.current.is_some())),
        };
        let worker = Worker {
            id,
            process,
            app: row.app,
            release,
            state: WorkerState::Starting,
            pid: None,
            spawned_at: None,
            started_at: None,
            online: false,
            listened: false,
            was_ready: false,
            proven_after: None,
            patience: None,
            awaited_cpu: 0,
            exit: None,
            first: row.latest.is_none(),
            readiness,
            told: false,
            probing: false,
            on_trial,
            stayed_up: false,
            killed: false,
            unkillable: false,
            own_end: false,
        };
        row.latest = Some(id);
        self.last_worker = id.0;
        self.workers.insert(id, worker);
        self.push(Action::SpawnWorker(Box::new(order)));
        self.save();
        Some(id)
    }

    /// How the start of a row stands that was asked for when `since` was the last worker.
    pub(super) fn start_of(&self, process: ProcessId, since: WorkerId) -> Start {
        let Some(row) = self.processes.get(&process) else { return Start::Failed("it was deleted".to_owned()) };
        match row.state {
            State::Ready => Start::Ready,
            State::Starting | State::Draining | State::Stopping => Start::Pending,
            State::Stopped | State::Errored | State::Backoff
                if row.latest > Some(since) || row.state == State::Errored =>
            {
                Start::Failed(row.reason.clone())
            }
            State::Stopped | State::Errored | State::Backoff => Start::Failed("it was not started".to_owned()),
        }
    }
}
