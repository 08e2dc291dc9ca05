//! One operating-system process that serves a row for a while: its states and what it must show to count as ready.

use serde::{Deserialize, Serialize};

use super::{AppId, AppSpec, ExecMode, Exit, ProbeKind, ProcessId, Time, WorkerId};

/// The state of a worker. A worker that is over (exited, no descendants left, or never executed) is forgotten.
///
/// ```text
///   Starting ──▶ Ready ──▶ Draining ──▶ Stopping ──▶ Exited ──▶ over
///      │           │           │            ▲ │        ▲
///      ├───────────┼───────────┼────────────┘ │        │ descendants left behind
///      └───────────┴───────────┴──────────────┴────────┘ (without any: over at once)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Ordered or running, not ready yet.
    Starting,
    /// Serving.
    Ready,
    /// Takes nothing new, finishes what it has.
    Draining,
    /// Told to end; or to be told as soon as its start is answered.
    Stopping,
    /// Its main process has ended, descendants of it have not.
    Exited,
}

/// Every change of a worker's state that is allowed, as (from, to).
pub const WORKER_TRANSITIONS: &[(WorkerState, WorkerState)] = &[
    (WorkerState::Starting, WorkerState::Ready),
    (WorkerState::Starting, WorkerState::Stopping),
    (WorkerState::Starting, WorkerState::Exited),
    (WorkerState::Ready, WorkerState::Draining),
    (WorkerState::Ready, WorkerState::Stopping),
    (WorkerState::Ready, WorkerState::Exited),
    (WorkerState::Draining, WorkerState::Stopping),
    (WorkerState::Draining, WorkerState::Exited),
    (WorkerState::Stopping, WorkerState::Exited),
];

impl WorkerState {
    /// Whether [`WORKER_TRANSITIONS`] allows this change.
    #[must_use]
    pub fn may_become(self, next: WorkerState) -> bool {
        WORKER_TRANSITIONS.contains(&(self, next))
    }
}

/// What makes a worker count as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// That it was executed: fork mode, where nothing else is known of it.
    Spawned,
    /// That Node runs in it: cluster mode, as PM2 has it.
    Online,
    /// That it listens: a cluster worker that is to replace one that listened.
    Listening,
    /// That it, or its probe, says so: `wait_ready`, `probe`.
    Told,
}

impl Readiness {
    /// What a worker must show that replaces nobody.
    #[must_use]
    pub fn at_start(spec: &AppSpec) -> Readiness {
        if spec.wait_ready || spec.probe.is_some() {
            return Readiness::Told;
        }
        match spec.exec_mode {
            ExecMode::Fork => Readiness::Spawned,
            ExecMode::Cluster => Readiness::Online,
        }
    }

    /// What a worker must show that is to replace another, which did or did not listen itself. A worker whose
    /// predecessor never listened (the consumer of a queue) need not either; it has to stay up instead.
    #[must_use]
    pub fn at_reload(spec: &AppSpec, predecessor_listened: bool) -> Readiness {
        match Readiness::at_start(spec) {
            Readiness::Spawned | Readiness::Online if predecessor_listened => Readiness::Listening,
            other => other,
        }
    }
}

/// A worker that is not over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// The row it serves.
    pub process: ProcessId,
    /// That row's app.
    pub app: AppId,
    /// The release of the app it was started with, and keeps.
    pub release: u32,
    /// How it stands.
    pub state: WorkerState,
    /// Its process id, once its start was answered.
    pub pid: Option<u32>,
    /// When its start was answered.
    pub spawned_at: Option<Time>,
    /// The same, milliseconds since the epoch.
    pub started_at: Option<u64>,
    /// Whether Node's `online` came.
    pub online: bool,
    /// Whether it ever listened.
    pub listened: bool,
    /// Whether it was ready at any time.
    pub was_ready: bool,
    /// How long after its start (ms) it last showed more of what makes a worker ready: that Node runs, that it listens,
    /// that it says so.
    #[serde(default)]
    pub(super) proven_after: Option<u64>,
    /// How long after its start (ms) it has to be ready, decided when it was spawned.
    #[serde(default)]
    pub(super) patience: Option<u64>,
    /// How long (ms) it has waited for a CPU since its start, as far as that is known.
    #[serde(default)]
    pub(super) awaited_cpu: u64,
    /// How its main process ended, in state `Exited`.
    pub exit: Option<Exit>,
    /// It is the first of its row.
    pub(super) first: bool,
    /// What makes it ready.
    pub(super) readiness: Readiness,
    /// It said that it is ready, or its probe did where it has one.
    pub(super) told: bool,
    /// Its probe is under way.
    pub(super) probing: bool,
    /// It replaces another one, so that a timeout does not count as ready.
    pub(super) on_trial: bool,
    /// It stayed up for as long as its reload wants to see.
    pub(super) stayed_up: bool,
    /// It was sent SIGKILL.
    pub(super) killed: bool,
    /// It outlived SIGKILL.
    pub(super) unkillable: bool,
    /// It ended by itself: nobody had asked it to.
    pub(super) own_end: bool,
}

impl Worker {
    /// Whether it has shown what makes it ready.
    pub(super) fn is_proven(&self) -> bool {
        match self.readiness {
            Readiness::Spawned => self.pid.is_some(),
            Readiness::Online => self.online,
            Readiness::Listening => self.listened,
            Readiness::Told => self.told,
        }
    }

    /// Whether the time has come to begin its probe. Where the port is shared with other workers (cluster mode), an
    /// answer says nothing about this one before it listens itself.
    pub(super) fn wants_probe(&self, spec: &AppSpec) -> bool {
        let Some(probe) = &spec.probe else { return false };
        if self.probing || self.state != WorkerState::Starting || spec.wait_ready {
            return false;
        }
        match (spec.exec_mode, &probe.kind) {
            (ExecMode::Fork, _) => self.pid.is_some(),
            (ExecMode::Cluster, ProbeKind::Exec(_)) => self.online,
            (ExecMode::Cluster, ProbeKind::Http(_) | ProbeKind::Tcp(_)) => self.listened,
        }
    }
}
