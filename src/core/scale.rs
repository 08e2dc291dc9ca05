//! Changing the number of an app's processes.

use super::jobs::{JobKind, Lane};
use super::process::{Desired, Process, State};
use super::start::StartLane;
use super::stop::StopLane;
use super::{AppId, Fleet, JobId, ProcessId};

impl Fleet {
    /// Growing adds rows as a start does. Shrinking takes rows that do not serve first, so that a scale down right
    /// after a scale up does not end those that do while the newcomers still begin; among equals it takes the lowest
    /// ids, as PM2 does. What is taken drains.
    pub(super) fn scale_requested(&mut self, job: JobId, app: AppId, instances: u32) {
        if self.refuse_when_shutting_down(job) {
            return;
        }
        if !self.apps.contains_key(&app) {
            return self.refuse_job(job, format!("there is no app {app}"));
        }
        let wanted = usize::try_from(instances.max(1)).unwrap_or(usize::MAX);
        let stays = |row: &&Process| row.desired != Desired::Removed;
        let present: Vec<&Process> = self.processes_of(app).filter(stays).collect();
        let lane = if wanted >= present.len() {
            let rows = (present.len()..wanted).map(|_| self.add_process(app, Desired::Running, None, None)).collect();
            Lane::Start(StartLane::start(app, rows, false))
        } else {
            let mut leaving: Vec<ProcessId> = self.least_serving_first(&present);
            leaving.truncate(present.len() - wanted);
            self.supersede(&leaving, JobKind::Scale);
            for process in &leaving {
                self.end_process(*process, Desired::Removed, true);
            }
            Lane::Stop(StopLane::new(app, leaving))
        };
        self.open_job(job, JobKind::Scale, vec![lane]);
    }

    /// Rows of one app: those that do not run as they should, those that have not listened yet though others have,
    /// those that serve.
    fn least_serving_first(&self, rows: &[&Process]) -> Vec<ProcessId> {
        let listens = |row: &Process| {
            row.current.and_then(|worker| self.workers.get(&worker)).is_some_and(|worker| worker.listened)
        };
        let mut sorted = rows.to_vec();
        sorted.sort_by_key(|row| (row.state == State::Ready, listens(row), row.id));
        sorted.into_iter().map(|row| row.id).collect()
    }
}
