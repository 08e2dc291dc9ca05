//! What survives a reboot, and how it comes back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::jobs::{JobKind, Lane};
use super::process::{Desired, Process};
use super::start::StartLane;
use super::{AppSpec, Fleet, JobId, ProcessId, Uid};

/// An app as it is saved: what is needed to have it back after a reboot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedApp {
    /// What it runs.
    pub spec: Arc<AppSpec>,
    /// Whose it is.
    pub owner: Uid,
    /// Its rows.
    pub processes: Vec<SavedProcess>,
}

/// A row as it is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedProcess {
    /// The id it shall have if that is free; the next free one otherwise.
    pub id: Option<ProcessId>,
    /// Its instance number; the smallest free one if that is taken.
    pub instance: u32,
    /// Whether it is to run; one to be `Removed` is left out.
    pub desired: Desired,
    /// Its count of restarts.
    pub restarts: u32,
    /// When it was created, milliseconds since the epoch; `None` for now.
    pub created_at: Option<u64>,
}

impl Process {
    /// What is saved of it.
    fn saved(&self) -> SavedProcess {
        SavedProcess {
            id: Some(self.id),
            instance: self.instance,
            desired: self.desired,
            restarts: self.restarts,
            created_at: Some(self.created_at),
        }
    }
}

impl Fleet {
    /// What a reboot is to survive: every app and what is wanted of its rows.
    #[must_use]
    pub fn saved(&self) -> Vec<SavedApp> {
        let saved = self.apps.values().map(|app| SavedApp {
            spec: app.spec().clone(),
            owner: app.owner,
            processes: self
                .processes_of(app.id)
                .filter(|row| row.desired != Desired::Removed)
                .map(Process::saved)
                .collect(),
        });
        saved.filter(|app| !app.processes.is_empty()).collect()
    }

    pub(super) fn restore_requested(&mut self, job: JobId, apps: Vec<SavedApp>) {
        if self.refuse_when_shutting_down(job) {
            return;
        }
        let mut lanes = Vec::new();
        for saved in apps {
            let rows: Vec<_> = saved.processes.into_iter().filter(|row| row.desired != Desired::Removed).collect();
            if rows.is_empty() {
                continue;
            }
            let app = self.add_app(saved.spec, saved.owner);
            let mut to_start = Vec::new();
            for row in rows {
                let process = self.add_process(app, row.desired, row.id, Some(row.instance));
                if let Some(added) = self.processes.get_mut(&process) {
                    added.restarts = row.restarts;
                    added.created_at = row.created_at.unwrap_or(added.created_at);
                }
                if row.desired == Desired::Running {
                    to_start.push(process);
                }
            }
            lanes.push(Lane::Start(StartLane::start(app, to_start, false)));
        }
        self.open_job(job, JobKind::Start, lanes);
    }
}
