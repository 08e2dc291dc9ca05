//! Requests that take time: what is left to do, how far it is, and exactly one outcome.
//!
//! A job has a *lane* per app it concerns; lanes go on side by side, and each knows its own order of steps. Lanes are
//! driven by looking at the rows after every event, not by the events themselves, so whatever happens to a row in
//! between, its job notices.

use serde::{Deserialize, Serialize};

use super::reload::ReloadLane;
use super::start::StartLane;
use super::stop::StopLane;
use super::{Action, AppId, Fleet, JobId, JobOutcome, ProcessId, WorkerId};

/// What kind of request a job came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Start of a new app, or of saved ones.
    Start,
    /// Restart.
    Restart,
    /// Reload.
    Reload,
    /// Stop.
    Stop,
    /// Delete.
    Delete,
    /// Scale up or down.
    Scale,
    /// The end of everything.
    Shutdown,
}

impl JobKind {
    /// As the command is called.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JobKind::Start => "start",
            JobKind::Restart => "restart",
            JobKind::Reload => "reload",
            JobKind::Stop => "stop",
            JobKind::Delete => "delete",
            JobKind::Scale => "scale",
            JobKind::Shutdown => "shutdown",
        }
    }
}

/// A request under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its number, as the request brought it.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Nobody asked for it and nobody is told of it (a graceful restart that a trigger caused).
    internal: bool,
    /// The last worker ordered before it; what it wants started has a higher number.
    pub(super) since: WorkerId,
    lanes: Vec<Lane>,
    report: Report,
    cancelled: bool,
    told: u32,
}

/// One app's part of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lane {
    Start(StartLane),
    Stop(StopLane),
    Reload(ReloadLane),
}

/// What a job will have to say in the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Report {
    warnings: Vec<String>,
    failure: Option<(Option<ProcessId>, String)>,
    more_failures: u32,
}

impl Report {
    pub(super) fn warn(&mut self, line: String) {
        if !self.warnings.contains(&line) {
            self.warnings.push(line);
        }
    }

    /// Notes a failure; the first one is told, the rest counted.
    pub(super) fn fail(&mut self, process: Option<ProcessId>, message: String) {
        if self.failure.is_some() {
            self.more_failures += 1;
        } else {
            self.failure = Some((process, message));
        }
    }

    fn outcome(self, cancelled: bool) -> JobOutcome {
        match self.failure {
            _ if cancelled => JobOutcome::Cancelled,
            None => JobOutcome::Done { warnings: self.warnings },
            Some((process, mut message)) => {
                match self.more_failures {
                    0 => {}
                    1 => message.push_str(" (and one more failed)"),
                    more => message.push_str(&format!(" (and {more} more failed)")),
                }
                JobOutcome::Failed { process, message }
            }
        }
    }
}

impl Lane {
    pub(super) fn app(&self) -> AppId {
        match self {
            Lane::Start(lane) => lane.app,
            Lane::Stop(lane) => lane.app,
            Lane::Reload(lane) => lane.app,
        }
    }

    fn progress(&self) -> (usize, usize) {
        match self {
            Lane::Start(lane) => lane.progress(),
            Lane::Stop(lane) => lane.progress(),
            Lane::Reload(lane) => lane.progress(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            Lane::Start(lane) => lane.is_over(),
            Lane::Stop(lane) => lane.is_over(),
            Lane::Reload(lane) => lane.is_over(),
        }
    }
}

impl Job {
    /// Steps done and steps in all; the latter can grow when a reload goes back.
    #[must_use]
    pub fn progress(&self) -> (u32, u32) {
        let (done, total) = self.lanes.iter().map(Lane::progress).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        (u32::try_from(done).unwrap_or(u32::MAX), u32::try_from(total).unwrap_or(u32::MAX))
    }

    pub(super) fn is_internal(&self) -> bool {
        self.internal
    }

    pub(super) fn is_over(&self) -> bool {
        self.lanes.iter().all(Lane::is_over)
    }

    pub(super) fn uses_release(&self, app: AppId, release: u32) -> bool {
        self.lanes
            .iter()
            .any(|lane| matches!(lane, Lane::Reload(lane) if lane.app == app && lane.uses_release(release)))
    }

    /// The reload lanes that are under way.
    pub(super) fn reload_lanes(&mut self) -> impl Iterator<Item = &mut ReloadLane> {
        self.lanes.iter_mut().filter_map(|lane| match lane {
            Lane::Reload(lane) if !lane.is_over() => Some(lane),
            _ => None,
        })
    }

    fn advance(&mut self, fleet: &mut Fleet, older: &[Job]) {
        for lane in &mut self.lanes {
            if lane.is_over() {
                continue;
            }
            match lane {
                Lane::Start(lane) => lane.advance(fleet, self.since, &mut self.report),
                Lane::Stop(lane) => lane.advance(fleet, &mut self.report),
                Lane::Reload(lane) => {
                    let queued = older.iter().flat_map(|job| &job.lanes).any(|o| o.app() == lane.app && !o.is_over());
                    lane.advance(fleet, queued, &mut self.report);
                }
            }
        }
    }
}

impl Fleet {
    /// Opens a job. A number that is in use already is refused by doing nothing: the shell numbers its jobs.
    pub(super) fn open_job(&mut self, id: JobId, kind: JobKind, lanes: Vec<Lane>) {
        debug_assert!(!self.jobs.iter().any(|job| job.id == id && !job.internal), "job {id} is open already");
        self.add_job(id, kind, lanes, false);
    }

    /// Opens a job of our own.
    pub(super) fn open_internal_job(&mut self, kind: JobKind, lanes: Vec<Lane>) {
        self.last_internal_job = self.last_internal_job.wrapping_add(1);
        self.add_job(JobId(self.last_internal_job), kind, lanes, true);
    }

    fn add_job(&mut self, id: JobId, kind: JobKind, lanes: Vec<Lane>, internal: bool) {
        let since = WorkerId(self.last_worker);
        self.jobs.push(Job { id, kind, internal, since, lanes, report: Report::default(), cancelled: false, told: 0 });
        // Who asked is told that it is taken, and it may be a while before it changes anything.
        self.save();
    }

    /// A job that failed before it began.
    pub(super) fn refuse_job(&mut self, id: JobId, message: String) {
        self.push(Action::JobFinished { job: id, outcome: JobOutcome::Failed { process: None, message } });
    }

    /// Takes rows away from the jobs whose wish contradicts a newer one.
    pub(super) fn supersede(&mut self, processes: &[ProcessId], by: JobKind) {
        for process in processes {
            self.discard_incoming(*process);
        }
        let ends = matches!(by, JobKind::Stop | JobKind::Delete | JobKind::Scale | JobKind::Shutdown);
        let by = by.as_str();
        for job in &mut self.jobs {
            for lane in &mut job.lanes {
                for process in processes {
                    match lane {
                        Lane::Start(lane) if ends => lane.supersede(*process, by, &mut job.report),
                        Lane::Stop(lane) if !ends => lane.supersede(*process, by, &mut job.report),
                        Lane::Reload(lane) => lane.supersede(*process, by, &mut job.report),
                        Lane::Start(_) | Lane::Stop(_) => {}
                    }
                }
            }
        }
    }

    /// Lets those who started a row know something about it.
    pub(super) fn warn_starters(&mut self, process: ProcessId, line: &str) {
        for job in &mut self.jobs {
            if job.lanes.iter().any(|lane| matches!(lane, Lane::Start(lane) if lane.is_starting(process))) {
                job.report.warn(line.to_owned());
            }
        }
    }

    pub(super) fn job_cancel_requested(&mut self, id: JobId) {
        self.save();
        let mut jobs = std::mem::take(&mut self.jobs);
        for job in jobs.iter_mut().filter(|job| job.id == id && !job.internal) {
            for lane in job.lanes.iter_mut().filter(|lane| !lane.is_over()) {
                job.cancelled |= !matches!(lane, Lane::Stop(_));
                match lane {
                    Lane::Start(lane) => lane.cancel(self),
                    // All of it was begun when it was asked for.
                    Lane::Stop(_) => {}
                    Lane::Reload(lane) => lane.cancel(self),
                }
            }
        }
        self.jobs = jobs;
    }

    /// Has every job do what can be done now, and ends those that are through.
    pub(super) fn advance_jobs(&mut self) {
        let mut jobs = std::mem::take(&mut self.jobs);
        for i in 0..jobs.len() {
            let (older, rest) = jobs.split_at_mut(i);
            rest[0].advance(self, older);
        }
        let (over, mut open): (Vec<_>, Vec<_>) = jobs.into_iter().partition(Job::is_over);
        for job in open.iter_mut().filter(|job| !job.internal) {
            let (done, total) = job.progress();
            if job.told != done {
                job.told = done;
                self.save();
                self.push(Action::JobProgressed { job: job.id, done, total });
            }
        }
        self.jobs = open;
        let mut exit = false;
        for job in over {
            exit |= job.kind == JobKind::Shutdown;
            if !job.internal {
                self.push(Action::JobFinished { job: job.id, outcome: job.report.outcome(job.cancelled) });
            }
            self.save();
        }
        if exit {
            self.push(Action::Exit);
        }
    }
}
