//! Reload as a transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::jobs::Report;
use super::process::{Desired, State};
use super::{AppId, AppSpec, Fleet, JobId, ProcessId, ReloadOptions, WorkerId};

/// One app's part of a reload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReloadLane {
    pub(super) app: AppId,
}

impl ReloadLane {
    pub(super) fn progress(&self) -> (usize, usize) {
        (0, 0)
    }
    pub(super) fn uses_release(&self, _release: u32) -> bool {
        false
    }
    pub(super) fn supersede(&mut self, _process: ProcessId, _by: &str, _report: &mut Report) {}
    pub(super) fn cancel(&mut self, _fleet: &mut Fleet) {}
    pub(super) fn advance(&mut self, _fleet: &mut Fleet, _queued: bool, _since: WorkerId, _report: &mut Report) {}
}

impl Fleet {
    pub(super) fn reload_requested(
        &mut self,
        job: JobId,
        processes: &[ProcessId],
        update: BTreeMap<AppId, Arc<AppSpec>>,
        _options: ReloadOptions,
    ) {
        self.restart_requested(job, processes, update);
    }
    pub(super) fn reload_by_trigger(&mut self, process: ProcessId) {
        self.restart_process(process, false);
    }
    pub(super) fn can_be_replaced(&self, _process: ProcessId) -> bool {
        false
    }
    pub(super) fn trial_failed(&mut self, _worker: WorkerId, _why: &str) {}
    pub(super) fn trial_ended(&mut self, _worker: WorkerId, _why: &str) -> bool {
        false
    }
    pub(super) fn min_uptime_reached(&mut self, _worker: WorkerId) {}

    /// Puts the worker that was to take the row over in the place of one that has gone. False if there is none.
    pub(super) fn promote_incoming(&mut self, process: ProcessId) -> bool {
        let Some(row) = self.processes.get_mut(&process).filter(|row| row.desired == Desired::Running) else {
            return false;
        };
        let Some(worker) = row.incoming.take() else { return false };
        row.current = Some(worker);
        self.set_state(process, State::Starting);
        true
    }
}
