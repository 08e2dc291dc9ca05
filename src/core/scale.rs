//! Changing the number of an app's processes.

use super::jobs::{JobKind, Lane};
use super::process::{Desired, Process};
use super::start::StartLane;
use super::stop::StopLane;
use super::{AppId, Fleet, JobId, ProcessId};

impl Fleet {
    /// Growing adds rows as a start does. Shrinking takes the lowest ids first, as PM2 does, and drains them.
    pub(super) fn scale_requested(&mut self, job: JobId, app: AppId, instances: u32) {
        if self.refuse_when_shutting_down(job) {
            return;
        }
        if !self.apps.contains_key(&app) {
            return self.refuse_job(job, format!("there is no app {app}"));
        }
        let wanted = usize::try_from(instances.max(1)).unwrap_or(usize::MAX);
        let stays = |row: &&Process| row.desired != Desired::Removed;
        let present: Vec<ProcessId> = self.processes_of(app).filter(stays).map(|row| row.id).collect();
        let lane = if wanted >= present.len() {
            let rows = (present.len()..wanted).map(|_| self.add_process(app, Desired::Running, None, None)).collect();
            Lane::Start(StartLane::start(app, rows, false))
        } else {
            let leaving = present[..present.len() - wanted].to_vec();
            self.supersede(&leaving, JobKind::Scale);
            for process in &leaving {
                self.end_process(*process, Desired::Removed, true);
            }
            Lane::Stop(StopLane::new(app, leaving))
        };
        self.open_job(job, JobKind::Scale, vec![lane]);
    }
}
