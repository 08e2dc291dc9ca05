//! Reload as a transaction: an app's workers are replaced a few at a time, each only once its successor has proved
//! itself, and the first failure ends it.
//!
//! ```text
//!   row:     Waiting ──▶ Trial ──ready──▶ (first ones: stay up) ──▶ swap ──▶ Leaving ──old one over──▶ Over
//!               │          │ exits, not ready in time
//!               │          ▼
//!   lane:    Queued ──▶ Forward ──────────────────▶ Back ──▶ finished, failed
//!                          └─▶ finished, done
//! ```
//!
//! * Reloads queue behind everything that is under way for their app; nothing queues behind them.
//! * What a newcomer must show is [`Readiness::at_reload`](super::Readiness::at_reload). The first ones must also stay
//!   up for a little more than `min_uptime`, and so must each whose readiness says little (a cluster worker that never
//!   listens, as its predecessor never did; a program that got its sockets by LISTEN_FDS).
//! * Until the reload is over, every worker it brought in is watched: should one end by itself, that is a failure too.
//! * A failure ends newcomers that are on trial; their predecessors never noticed. Rows replaced already go back to
//!   the release before by the same way if there is another one to go back to (the spec was changed) and the app does
//!   not say `on_reload_failure: keep`.
//! * A row that cannot have two workers at once (fork mode without the supervisor's sockets) or does not run is
//!   restarted in its turn.
//! * A cancel is a failure that a person brings about.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::jobs::{JobKind, Lane, Report};
use super::process::{Desired, State};
use super::start::Start;
use super::worker::WorkerState;
use super::{
    AppId, AppSpec, Fleet, JobId, LogLevel, LogTopic, OnReloadFailure, ProcessId, ReloadOptions, Timer, WorkerId,
};

/// One app's part of a reload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReloadLane {
    pub(super) app: AppId,
    /// Replaced at a time; `None` takes the app's.
    batch: Option<u32>,
    /// The new spec, until the reload begins.
    update: Option<Arc<AppSpec>>,
    by_trigger: bool,
    phase: Phase,
    /// The app's release before, and the one that is brought in.
    from: u32,
    to: u32,
    /// A worker of the new release has stayed up.
    proven: bool,
    /// What ended it: the row and the reason. A cancel has none.
    failure: Option<(ProcessId, String)>,
    /// Rows that could not be brought back.
    stuck: Vec<ProcessId>,
    /// Some had been replaced and were to be brought back.
    #[serde(default)]
    taken_back: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Queued,
    Forward,
    Back,
    Finished,
}

/// One row's part.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    process: ProcessId,
    /// The release the row ran before.
    before: u32,
    state: StepState,
    /// The worker that was brought in.
    worker: Option<WorkerId>,
    has_to_stay_up: bool,
    /// Why that worker will not do.
    broken: Option<String>,
    /// Another request has taken the row over.
    superseded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StepState {
    Waiting,
    /// The newcomer gets ready.
    Trial,
    /// This worker, replaced or rejected, is on its way out.
    Leaving(WorkerId),
    /// The row was (re)started; its worker has a higher number than this.
    Restarting(WorkerId),
    Over,
}

impl Step {
    fn new(process: ProcessId, before: u32) -> Step {
        let state = StepState::Waiting;
        Step { process, before, state, worker: None, has_to_stay_up: false, broken: None, superseded: false }
    }

    fn is_active(&self) -> bool {
        !matches!(self.state, StepState::Waiting | StepState::Over)
    }
}

impl ReloadLane {
    fn new(app: AppId, processes: Vec<ProcessId>, update: Option<Arc<AppSpec>>, batch: Option<u32>) -> ReloadLane {
        ReloadLane {
            app,
            batch,
            update,
            by_trigger: false,
            phase: Phase::Queued,
            from: 0,
            to: 0,
            proven: false,
            failure: None,
            stuck: Vec::new(),
            taken_back: false,
            steps: processes.into_iter().map(|process| Step::new(process, 0)).collect(),
        }
    }

    pub(super) fn progress(&self) -> (usize, usize) {
        (self.steps.iter().filter(|step| step.state == StepState::Over).count(), self.steps.len())
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Finished
    }

    pub(super) fn uses_release(&self, release: u32) -> bool {
        let begun = matches!(self.phase, Phase::Forward | Phase::Back);
        begun && (release == self.from || release == self.to || self.steps.iter().any(|step| step.before == release))
    }

    fn is_waiting_for(&self, process: ProcessId) -> bool {
        self.phase == Phase::Queued && self.steps.iter().any(|step| step.process == process)
    }

    pub(super) fn supersede(&mut self, process: ProcessId, by: &str, report: &mut Report) {
        if self.is_over() {
            return;
        }
        for step in self.steps.iter_mut().filter(|step| step.process == process && !step.superseded) {
            step.superseded = true;
            if step.state != StepState::Over {
                step.state = StepState::Over;
                report.fail(Some(process), format!("process {process}: superseded by {by}"));
            }
        }
    }

    /// A newcomer will not do. True if this lane has it on trial.
    pub(super) fn note_failed_trial(&mut self, worker: WorkerId, why: &str) -> bool {
        let on_trial = |step: &&mut Step| step.worker == Some(worker) && step.state == StepState::Trial;
        match self.steps.iter_mut().find(on_trial) {
            Some(step) => {
                step.broken = Some(why.to_owned());
                true
            }
            None => false,
        }
    }

    /// A worker ended by itself. True if this lane brought it in and that is to be its failure.
    pub(super) fn note_end(&mut self, worker: WorkerId, why: &str) -> bool {
        let forward = self.phase == Phase::Forward;
        let watched = |step: &&mut Step| {
            step.worker == Some(worker) && !step.superseded && (forward || step.state == StepState::Trial)
        };
        match self.steps.iter_mut().find(watched) {
            Some(step) => {
                step.broken.get_or_insert_with(|| why.to_owned());
                true
            }
            None => false,
        }
    }

    pub(super) fn cancel(&mut self, fleet: &mut Fleet) {
        match self.phase {
            Phase::Queued => self.phase = Phase::Finished,
            Phase::Forward => self.turn_back(fleet),
            Phase::Back | Phase::Finished => {}
        }
    }

    pub(super) fn advance(&mut self, fleet: &mut Fleet, queued: bool, report: &mut Report) {
        if self.phase == Phase::Queued {
            if queued {
                return;
            }
            self.begin(fleet);
        }
        loop {
            self.see_to_failures(fleet);
            let settled = self.settle(fleet, report);
            let begun = self.begin_steps(fleet);
            if !settled && !begun {
                break;
            }
        }
        if self.steps.iter().all(|step| step.state == StepState::Over) {
            self.finish(fleet, report);
        }
    }

    fn begin(&mut self, fleet: &mut Fleet) {
        self.phase = Phase::Forward;
        let Some(app) = fleet.apps.get_mut(&self.app) else {
            return self.steps.clear();
        };
        self.from = app.release;
        if let Some(spec) = self.update.take() {
            app.release = app.add_release(spec);
            fleet.touch_app(self.app);
        }
        let Some(app) = fleet.apps.get(&self.app) else { return };
        self.to = app.release;
        self.batch = Some(self.batch.unwrap_or(app.spec().reload_batch).max(1));
        for step in &mut self.steps {
            match fleet.processes.get(&step.process) {
                Some(row) => step.before = row.release,
                None => step.state = StepState::Over,
            }
        }
        fleet.save();
    }

    /// Begins as many steps as the batch has room for.
    fn begin_steps(&mut self, fleet: &mut Fleet) -> bool {
        let batch = self.batch.and_then(|batch| usize::try_from(batch).ok()).unwrap_or(1);
        let mut begun = false;
        for i in 0..self.steps.len() {
            if self.steps.iter().filter(|step| step.is_active()).count() >= batch {
                break;
            }
            if self.steps[i].state == StepState::Waiting {
                begun |= self.begin_step(fleet, i);
            }
        }
        begun
    }

    fn begin_step(&mut self, fleet: &mut Fleet, i: usize) -> bool {
        let step = &mut self.steps[i];
        let release = if self.phase == Phase::Back { step.before } else { self.to };
        let Some(row) = fleet.processes.get_mut(&step.process) else {
            step.state = StepState::Over;
            return true;
        };
        let settled = !matches!(row.state, State::Starting | State::Draining | State::Stopping);
        if !settled || row.incoming.is_some() {
            return false;
        }
        row.manually = !self.by_trigger;
        step.broken = None;
        let newcomer =
            if fleet.can_be_replaced(step.process) { fleet.order_newcomer(step.process, release) } else { None };
        if let Some(newcomer) = newcomer {
            step.worker = Some(newcomer.worker);
            step.has_to_stay_up = self.phase == Phase::Forward && (newcomer.has_to_stay_up || !self.proven);
            step.state = StepState::Trial;
        } else {
            step.worker = None;
            step.state = StepState::Restarting(WorkerId(fleet.last_worker));
            if let Some(row) = fleet.processes.get_mut(&step.process) {
                row.release = release;
            }
            fleet.restart_process(step.process, !self.by_trigger);
        }
        true
    }

    /// Looks how the steps under way stand.
    fn settle(&mut self, fleet: &mut Fleet, report: &mut Report) -> bool {
        let mut changed = false;
        for step in self.steps.iter_mut().filter(|step| step.is_active() && step.broken.is_none()) {
            let before = step.state;
            match step.state {
                StepState::Waiting | StepState::Over => {}
                StepState::Trial => {
                    let Some(worker) = step.worker else { continue };
                    let row = fleet.processes.get(&step.process);
                    let its = row.is_some_and(|row| row.incoming == Some(worker) || row.current == Some(worker));
                    let ready = fleet.workers.get(&worker).is_some_and(|worker| worker.state == WorkerState::Ready);
                    if !its {
                        // It stood in for its predecessor, and a trigger has restarted the row since.
                        step.state = StepState::Restarting(worker);
                    } else if ready && (!step.has_to_stay_up || fleet.has_stayed_up(worker)) {
                        match fleet.listens_like_its_predecessor(step.process, worker) {
                            Start::Pending => {}
                            Start::Failed(why) => step.broken = Some(why),
                            Start::Ready => {
                                self.proven = true;
                                fleet.end_trial(worker);
                                step.state = match fleet.swap(step.process) {
                                    Some(old) => StepState::Leaving(old),
                                    None => StepState::Over,
                                };
                            }
                        }
                    }
                }
                StepState::Leaving(worker) => match fleet.workers.get(&worker) {
                    None => step.state = StepState::Over,
                    Some(worker) if worker.unkillable => {
                        report.warn(format!("pid {} does not even obey SIGKILL", worker.pid.unwrap_or_default()));
                        step.state = StepState::Over;
                    }
                    Some(_) => {}
                },
                StepState::Restarting(since) => match fleet.start_of(step.process, since) {
                    Start::Pending => {}
                    Start::Ready => step.state = StepState::Over,
                    Start::Failed(why) => step.broken = Some(why),
                },
            }
            changed |= step.state != before || step.broken.is_some();
        }
        changed
    }

    fn see_to_failures(&mut self, fleet: &mut Fleet) {
        let Some(i) = self.steps.iter().position(|step| step.broken.is_some() && !step.superseded) else { return };
        if self.phase == Phase::Forward {
            let why = self.steps[i].broken.clone().unwrap_or_default();
            self.failure = Some((self.steps[i].process, why));
            return self.turn_back(fleet);
        }
        for step in self.steps.iter_mut().filter(|step| step.broken.is_some()) {
            step.broken = None;
            self.stuck.push(step.process);
            step.state = match step.worker.filter(|_| step.state == StepState::Trial) {
                Some(worker) => reject(fleet, step.process, worker),
                None => StepState::Over,
            };
        }
    }

    /// Whether rows replaced already are to be brought back.
    fn rolls_back(&self, fleet: &Fleet) -> bool {
        let policy = fleet.apps.get(&self.app).map(|app| app.spec_of(self.to).on_reload_failure);
        self.from != self.to && policy == Some(OnReloadFailure::Rollback)
    }

    /// Ends the transaction without success.
    fn turn_back(&mut self, fleet: &mut Fleet) {
        self.phase = Phase::Back;
        let roll_back = self.rolls_back(fleet);
        let to = self.to;
        for step in self.steps.iter_mut().filter(|step| !step.superseded) {
            step.broken = None;
            let replaced = fleet.processes.get(&step.process).is_some_and(|row| row.release == to && step.before != to);
            step.state = match step.state {
                StepState::Waiting => StepState::Over,
                StepState::Trial => {
                    let worker = step.worker.unwrap_or(WorkerId(0));
                    let row = fleet.processes.get(&step.process);
                    let promoted = row.is_some_and(|row| row.incoming != step.worker);
                    let serves = promoted && row.is_some_and(|row| row.state == State::Ready);
                    // A newcomer that stands in for a predecessor that has died is no worse than any replaced row,
                    // as long as it serves; if it does not, the release before is started in its place.
                    if serves && replaced && roll_back {
                        StepState::Waiting
                    } else if promoted && replaced && !serves {
                        fleet.end_trial(worker);
                        fleet.take_back(step.process, step.before)
                    } else {
                        reject(fleet, step.process, worker)
                    }
                }
                // A row that has no worker any more does not wait for its turn.
                StepState::Leaving(_) | StepState::Restarting(_) | StepState::Over
                    if roll_back && replaced && fleet.processes[&step.process].current.is_none() =>
                {
                    fleet.take_back(step.process, step.before)
                }
                StepState::Leaving(_) | StepState::Restarting(_) | StepState::Over if roll_back && replaced => {
                    StepState::Waiting
                }
                StepState::Restarting(_) => StepState::Over,
                state => state,
            };
            if step.state != StepState::Over && !matches!(step.state, StepState::Leaving(_)) {
                step.worker = None;
            }
        }
        if roll_back {
            // Rows that a scale up added meanwhile.
            let known: Vec<_> = self.steps.iter().map(|step| step.process).collect();
            let added = fleet.processes_of(self.app).filter(|row| row.release == to && !known.contains(&row.id));
            self.steps.extend(added.map(|row| Step::new(row.id, self.from)));
        }
        self.taken_back = self.steps.iter().any(|step| !matches!(step.state, StepState::Over | StepState::Leaving(_)));
        if let Some(app) = fleet.apps.get_mut(&self.app).filter(|app| roll_back && app.release == to) {
            app.release = self.from;
        }
        fleet.touch_app(self.app);
        fleet.save();
    }

    fn finish(&mut self, fleet: &mut Fleet, report: &mut Report) {
        let turned_back = self.phase == Phase::Back;
        self.phase = Phase::Finished;
        fleet.save();
        if !turned_back {
            return;
        }
        let at = |release| fleet.processes_of(self.app).filter(|row| row.release == release).count();
        let new = if self.from == self.to { 0 } else { at(self.to) };
        if let Some(app) = fleet.apps.get_mut(&self.app).filter(|app| app.release == self.to && new == 0) {
            app.release = self.from;
        }
        let Some((process, why)) = self.failure.take() else { return };
        let name = fleet.name_of(process);
        let rest = match (self.stuck.as_slice(), new) {
            ([], 0) => "what served before serves on".to_owned(),
            ([], 1) => "1 process stays on the new release".to_owned(),
            ([], new) => format!("{new} processes stay on the new release"),
            (stuck, _) => {
                let list: Vec<_> = stuck.iter().map(ToString::to_string).collect();
                format!("and going back failed for process {}", list.join(", "))
            }
        };
        let message = format!("cannot reload `{name}`: process {process}: {why}; {rest}");
        let topic = if self.taken_back { LogTopic::ReloadRolledBack } else { LogTopic::ReloadFailed };
        fleet.log(topic, LogLevel::Error, process, &format!("reload failed: {why}; {rest}"));
        report.fail(Some(process), message);
    }
}

/// Ends a newcomer that will not do.
fn reject(fleet: &mut Fleet, process: ProcessId, worker: WorkerId) -> StepState {
    if fleet.processes.get(&process).is_some_and(|row| row.incoming == Some(worker)) {
        fleet.discard_incoming(process);
        return StepState::Leaving(worker);
    }
    fleet.end_trial(worker);
    fleet.see_whether_overdue(worker);
    StepState::Over
}

impl Fleet {
    pub(super) fn reload_requested(
        &mut self,
        job: JobId,
        processes: &[ProcessId],
        mut update: BTreeMap<AppId, Arc<AppSpec>>,
        options: ReloadOptions,
    ) {
        if self.refuse_when_shutting_down(job) {
            return;
        }
        let lanes = self.by_app(processes).into_iter().map(|(app, rows)| {
            let update = update.remove(&app);
            Lane::Reload(ReloadLane::new(app, rows, update, options.batch))
        });
        let lanes = lanes.collect();
        self.open_job(job, JobKind::Reload, lanes);
    }

    /// Reloads one row on nobody's request; at most one such reload waits.
    pub(super) fn reload_by_trigger(&mut self, process: ProcessId) {
        let Some(app) = self.processes.get(&process).map(|row| row.app) else { return };
        if self.jobs.iter_mut().flat_map(|job| job.reload_lanes()).any(|lane| lane.is_waiting_for(process)) {
            return;
        }
        let mut lane = ReloadLane::new(app, vec![process], None, None);
        lane.by_trigger = true;
        self.open_internal_job(JobKind::Reload, vec![Lane::Reload(lane)]);
    }

    /// From now on the worker is one like any other.
    fn end_trial(&mut self, worker: WorkerId) {
        self.disarm(Timer::MinUptime(worker));
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.on_trial = false;
        }
    }

    /// Starts a row's release before anew, in place of a newcomer that has no predecessor to step back for.
    fn take_back(&mut self, process: ProcessId, release: u32) -> StepState {
        let since = WorkerId(self.last_worker);
        if let Some(row) = self.processes.get_mut(&process).filter(|row| row.desired == Desired::Running) {
            row.release = release;
            self.restart_process(process, false);
        }
        StepState::Restarting(since)
    }
}
