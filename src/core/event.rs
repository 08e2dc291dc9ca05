//! What can happen. Past tense; facts and requests alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AppId, AppSpec, Exit, JobId, ProcessId, SavedApp, Uid, WorkerId};

/// Something that happened. Requests come authorised and with their targets resolved to processes.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A new app is wanted. Its processes get the next free ids; they are started in order.
    AppStartRequested {
        /// The job that reports on it.
        job: JobId,
        /// What to run.
        spec: Arc<AppSpec>,
        /// Whose it is.
        owner: Uid,
    },
    /// Saved apps are wanted back, as they were: at boot and by `resurrect`. Rows that were to run are started, the others
    /// are there as `stopped`. One job for all of them; an app that cannot be started stays, errored.
    RestoreRequested {
        /// The job that reports on it.
        job: JobId,
        /// What was saved, see [`Fleet::saved`](super::Fleet::saved).
        apps: Vec<SavedApp>,
    },
    /// These processes are to run: those that do not are started, the others restarted (PM2's `restart`).
    RestartRequested {
        /// The job that reports on it.
        job: JobId,
        /// Which.
        processes: Vec<ProcessId>,
        /// Replaces the specs of the apps concerned (`restart FILE`, `--update-env`); none keeps them.
        update: BTreeMap<AppId, Arc<AppSpec>>,
    },
    /// These processes are to be replaced by new workers, old ones serving until then; cluster processes only, others
    /// are restarted unless their app has a `listen` socket of the supervisor's.
    ReloadRequested {
        /// The job that reports on it.
        job: JobId,
        /// Which.
        processes: Vec<ProcessId>,
        /// Replaces the specs of the apps concerned; rolled back when the reload fails and the app says so.
        update: BTreeMap<AppId, Arc<AppSpec>>,
        /// How.
        options: ReloadOptions,
    },
    /// These processes are to end and stay in the list. While others of their app serve on, they drain first, and are not
    /// waited for if they are asked again.
    StopRequested {
        /// The job that reports on it.
        job: JobId,
        /// Which.
        processes: Vec<ProcessId>,
    },
    /// These processes are to end, as by a stop, and be forgotten.
    DeleteRequested {
        /// The job that reports on it.
        job: JobId,
        /// Which.
        processes: Vec<ProcessId>,
    },
    /// This app is to have this many processes. Growing fills the smallest free instance numbers; shrinking drains and
    /// removes the lowest ids first, as PM2 does.
    ScaleRequested {
        /// The job that reports on it.
        job: JobId,
        /// Which app.
        app: AppId,
        /// How many processes it shall have, at least 1.
        instances: u32,
    },
    /// Counters of these processes go to 0, `created_at` to now.
    ResetRequested {
        /// Which.
        processes: Vec<ProcessId>,
    },
    /// A job is not wanted any more: what it has not begun it does not begin. A reload goes back to where it began; what
    /// ends processes goes on.
    JobCancelRequested {
        /// Which.
        job: JobId,
    },
    /// The daemon is going down for good: everything ends, in parallel, nothing starts any more, and the desired
    /// state of processes stays as it was, so that the next boot starts them.
    ShutdownRequested {
        /// The job that reports on it.
        job: JobId,
    },
    /// Something other than a person wants this process restarted. One that a person stopped is left alone; one that
    /// ended by itself, or is errored, is started.
    RestartTriggered {
        /// Which.
        process: ProcessId,
        /// What wants it.
        cause: RestartCause,
        /// Why, in a few words ("memory 120 MB over 100 MB", "cron", "changed: src/a.js").
        reason: String,
        /// Replace gracefully where the mode allows it.
        graceful: bool,
    },

    /// A worker was started (fork done, exec succeeded).
    WorkerSpawned {
        /// Which.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
    },
    /// A worker could not be started; there is no process.
    SpawnFailed {
        /// Which.
        worker: WorkerId,
        /// Why.
        failure: SpawnFailure,
    },
    /// A worker's cluster layer said `online`: Node runs, user code follows.
    WorkerOnline {
        /// Which.
        worker: WorkerId,
    },
    /// A worker listens on a socket (its first `listening`, or a fork worker's socket seen by the shell).
    WorkerListening {
        /// Which.
        worker: WorkerId,
    },
    /// A worker says that it is ready: `process.send('ready')` or READY=1. Means something only with `wait_ready`.
    ReadyReceived {
        /// Which.
        worker: WorkerId,
    },
    /// A worker's probe, begun by `StartProbe`, succeeded.
    ProbeSucceeded {
        /// Which.
        worker: WorkerId,
    },
    /// A worker has drained: it accepts nothing more and nothing is in flight.
    WorkerDrained {
        /// Which.
        worker: WorkerId,
    },
    /// A worker's main process ended.
    WorkerExited {
        /// Which.
        worker: WorkerId,
        /// How.
        exit: Exit,
        /// Whether descendants of it are still alive; `LeftoversGone` follows when they are not.
        leftovers: bool,
    },
    /// The descendants that outlived a worker are gone.
    LeftoversGone {
        /// Which.
        worker: WorkerId,
    },
    /// So long a worker that has a time to get ready in has waited for a CPU; told before its timer elapses.
    CpuAwaited {
        /// Which.
        worker: WorkerId,
        /// Milliseconds since its start, all taken together.
        ms: u64,
    },
    /// A timer that was armed and not disarmed is due.
    TimerElapsed {
        /// Which.
        timer: Timer,
    },
}

/// How a reload is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReloadOptions {
    /// Workers replaced at a time; `None` takes the app's `reload_batch`.
    pub batch: Option<u32>,
}

/// What other than a person has a process restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartCause {
    /// `cron_restart`.
    Schedule,
    /// A watched file changed.
    FileChange,
    /// `max_memory_restart`.
    Memory,
}

/// Why a worker could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnFailure {
    /// One line for people: what could not be done, to what, why.
    pub message: String,
    /// Whether trying again can help (EAGAIN, ENOMEM); if not, the process is errored at once.
    pub transient: bool,
}

/// A timer, by what it is for. At most one of each is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// `listen_timeout`: the worker ought to be ready by then.
    Listen(WorkerId),
    /// `min_uptime`: the worker counts as stable from then on.
    MinUptime(WorkerId),
    /// `drain_timeout`: the signal comes now whether it drained or not.
    Drain(WorkerId),
    /// `kill_timeout`: SIGKILL.
    Kill(WorkerId),
    /// The worker's tree was sent SIGKILL and ought to be gone; if not, it is `errored` (a process in state D).
    Unkillable(WorkerId),
    /// `restart_delay` or back-off.
    Restart(ProcessId),
}
