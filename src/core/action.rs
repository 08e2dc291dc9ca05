//! What is to be done. Imperative; the shell performs, the core never does.

use std::sync::Arc;

use super::{AppId, AppSpec, JobId, ProcessId, Time, Timer, WorkerId};

/// Something for the shell to do. In the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a worker. Answered by `WorkerSpawned` or `SpawnFailed`, always.
    SpawnWorker(Box<SpawnOrder>),
    /// Ask a worker to end the way its app expects: `shutdown` by message, or `kill_signal` to its whole tree (only to
    /// the main process with `treekill: false`).
    TerminateWorker {
        /// Which.
        worker: WorkerId,
    },
    /// SIGKILL to the worker and everything that descends from it.
    KillWorker {
        /// Which.
        worker: WorkerId,
    },
    /// Have the worker drain: new connections go elsewhere, its requests in flight finish. Answered by
    /// `WorkerDrained`, which may come at once for a worker that cannot drain.
    DrainWorker {
        /// Which.
        worker: WorkerId,
        /// After this many milliseconds the core goes on without an answer.
        timeout: u64,
    },
    /// The newcomer has proved itself and serves its row from now on: connections may come to it. Workers that were
    /// their row's from the start have them without a word.
    AdmitWorker {
        /// Which.
        worker: WorkerId,
    },
    /// Begin probing the worker for readiness as its spec's `probe` says; `ProbeSucceeded` when it succeeded.
    StartProbe {
        /// Which.
        worker: WorkerId,
    },
    /// Have `TimerElapsed` come at this time. Arming an armed timer moves it.
    ArmTimer {
        /// Which.
        timer: Timer,
        /// When.
        at: Time,
    },
    /// Have it not come.
    DisarmTimer {
        /// Which.
        timer: Timer,
    },
    /// The worker is over (exited and leftovers gone, or its start failed): release its descriptors, pipes, cgroup and pid file.
    ReleaseWorker {
        /// Which.
        worker: WorkerId,
    },
    /// A new app exists.
    AppAdded {
        /// Which.
        app: AppId,
    },
    /// An app's shown data changed (its spec, its process count).
    AppChanged {
        /// Which.
        app: AppId,
    },
    /// An app is gone: close its listening sockets and log files.
    AppRemoved {
        /// Which.
        app: AppId,
        /// Its name, for those who only know it by that.
        name: String,
    },
    /// A new process row exists.
    ProcessAdded {
        /// Which.
        process: ProcessId,
    },
    /// A process row's shown data changed.
    ProcessChanged {
        /// Which.
        process: ProcessId,
    },
    /// A process row is gone.
    ProcessRemoved {
        /// Which.
        process: ProcessId,
    },
    /// PM2's bus event of a process: `start`, `online`, `exit`, `stop`, `restart`, `reload`, `delete`,
    /// `restart overlimit`.
    Announce {
        /// About which.
        process: ProcessId,
        /// PM2's name of it.
        event: &'static str,
        /// Whether a person asked for it.
        manually: bool,
    },
    /// A job made progress.
    JobProgressed {
        /// Which.
        job: JobId,
        /// Steps done.
        done: u32,
        /// Steps in all.
        total: u32,
    },
    /// A job ended. Comes exactly once for each job that a request opened.
    JobFinished {
        /// Which.
        job: JobId,
        /// How.
        outcome: JobOutcome,
    },
    /// A line for the daemon's own log, about a process.
    Log {
        /// What it tells.
        topic: LogTopic,
        /// How bad it is.
        level: LogLevel,
        /// About which.
        process: ProcessId,
        /// The name of its app; the row may be gone by the time this is performed.
        app: String,
        /// What.
        message: String,
    },
    /// What must survive has changed.
    SaveState,
    /// Everything has ended after `ShutdownRequested`: exit.
    Exit,
}

/// All that is needed to start a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct SpawnOrder {
    /// Its id.
    pub worker: WorkerId,
    /// The row it serves.
    pub process: ProcessId,
    /// The app.
    pub app: AppId,
    /// The instance number (`NODE_APP_INSTANCE`).
    pub instance: u32,
    /// The spec as of now: a reload's new workers have the new one, its old ones keep theirs.
    pub spec: Arc<AppSpec>,
    /// Restarts so far, for the app's environment.
    pub restarts: u32,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// As asked. `warnings` are for the person who asked.
    Done {
        /// What they should know nevertheless, a line each.
        warnings: Vec<String>,
    },
    /// Not as asked.
    Failed {
        /// The process that failed first, if it was one.
        process: Option<ProcessId>,
        /// One line: what could not be done, to what, why, what happened to the rest.
        message: String,
    },
    /// Cancelled by somebody.
    Cancelled,
}

/// What a log line tells; each has an id of its own in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogTopic {
    /// A worker is started.
    Starting,
    /// A row is served.
    Online,
    /// A worker was not ready in time and counts as ready all the same.
    LateReady,
    /// A worker ended by itself.
    Exited,
    /// A worker ended because it was asked to.
    Ended,
    /// It is started again after a while.
    Backoff,
    /// It ended too often and is not started again.
    CrashLoop,
    /// There was nothing to start.
    StartFailed,
    /// It is restarted because of a schedule or a changed file.
    Triggered,
    /// It is restarted because it uses too much memory.
    MemoryLimit,
    /// It was stopped.
    Stopped,
    /// The row is gone.
    Deleted,
    /// Requests are cut off because they take too long.
    DrainTimeout,
    /// A worker that does not end is killed.
    KillTimeout,
    /// And cannot be killed.
    Unkillable,
    /// A reload failed; nothing had been replaced, or what had been stays.
    ReloadFailed,
    /// A reload failed half-way and was taken back.
    ReloadRolledBack,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Life as usual.
    Info,
    /// Somebody should look.
    Warning,
    /// Something does not run that should.
    Error,
}
