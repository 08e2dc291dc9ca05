//! A row of the process list: its states and which may follow which.

use serde::{Deserialize, Serialize};

use super::restart::Record;
use super::{AppId, Exit, ProcessId, Time, WorkerId};

/// The state of a process row.
///
/// ```text
///              start                ready               drain (scale down)
///   Stopped ───────────▶ Starting ─────────▶ Ready ───────────────▶ Draining
///      ▲                  ▲  ▲ │ │            │ │ │                     │
///      │           delay  │  │ │ │ ended      │ │ │ stop, restart       │ drained, timeout
///      │           over   │  │ │ └──────┐     │ │ └──────▶ Stopping ◀───┘
///      │                  │  │ │        ▼     │ │           │  │  │
///      │                Backoff ◀────── ended ◀─┘           │  │  └▶ Starting (restart)
///      │                     │                              │  └───▶ Errored  (cannot be killed)
///      ◀─────────────────────┴───────── stop ───────────────┘
///   Errored ◀── ended too often, or cannot be executed;   Errored ──▶ Starting, Stopped (on request)
/// ```
///
/// An end at which nothing is to wait for (the first crash, a restart's second half) goes to `Starting` at once. The
/// complete list is [`TRANSITIONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its worker was ordered and is not ready yet.
    Starting,
    /// Its worker serves.
    Ready,
    /// Its worker finishes what it has in hands and is then to end (scale down, a stop of one of several).
    Draining,
    /// Its worker was told to end, or has ended and left descendants behind that are being ended.
    Stopping,
    /// Its worker has ended; the next one starts after a delay.
    Backoff,
    /// It does not run and will not by itself.
    Errored,
    /// It does not run: not started yet, stopped on request, or done with its work.
    Stopped,
}

/// Every change of a row's state that is allowed, as (from, to).
pub const TRANSITIONS: &[(State, State)] = &[
    (State::Stopped, State::Starting),
    (State::Starting, State::Ready),
    (State::Starting, State::Stopping),
    (State::Starting, State::Backoff),
    (State::Starting, State::Errored),
    (State::Starting, State::Stopped),
    (State::Ready, State::Starting),
    (State::Ready, State::Draining),
    (State::Ready, State::Stopping),
    (State::Ready, State::Backoff),
    (State::Ready, State::Errored),
    (State::Ready, State::Stopped),
    (State::Draining, State::Stopping),
    (State::Draining, State::Stopped),
    (State::Stopping, State::Starting),
    (State::Stopping, State::Ready),
    (State::Stopping, State::Backoff),
    (State::Stopping, State::Errored),
    (State::Stopping, State::Stopped),
    (State::Backoff, State::Starting),
    (State::Backoff, State::Stopped),
    (State::Errored, State::Starting),
    (State::Errored, State::Stopped),
];

impl State {
    /// Whether [`TRANSITIONS`] allows this change.
    #[must_use]
    pub fn may_become(self, next: State) -> bool {
        TRANSITIONS.contains(&(self, next))
    }

    /// Our word for it, as the bus and the state file have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Stopping => "stopping",
            State::Backoff => "backoff",
            State::Errored => "errored",
            State::Stopped => "stopped",
        }
    }

    /// PM2's word for it.
    #[must_use]
    pub fn pm2_status(self) -> &'static str {
        match self {
            State::Starting => "launching",
            State::Ready => "online",
            State::Draining | State::Stopping => "stopping",
            State::Backoff => "waiting restart",
            State::Errored => "errored",
            State::Stopped => "stopped",
        }
    }
}

/// What was last asked of a row. Survives reboots; nothing but a request changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It is to run.
    Running,
    /// It is to stay in the list and not run.
    Stopped,
    /// It is to end and be forgotten.
    Removed,
}

/// One row of `pm2rs list`. It keeps its id over restarts and reloads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// PM2's `pm_id`.
    pub id: ProcessId,
    /// Whose row it is.
    pub app: AppId,
    /// Instance number, `NODE_APP_INSTANCE`.
    pub instance: u32,
    /// Its app's release (see [`App::spec_of`](super::App::spec_of)) that it runs, or will when it is started next.
    pub release: u32,
    /// What was asked of it.
    pub desired: Desired,
    /// How it stands.
    pub state: State,
    /// The worker that serves it, in the states that have one.
    pub current: Option<WorkerId>,
    /// During a reload: the worker that is to take its place.
    pub incoming: Option<WorkerId>,
    /// Workers that serve it no more (or never did) and are on their way out. Mostly none or one.
    pub outgoing: Vec<WorkerId>,
    /// The worker that was started last, gone or not.
    pub latest: Option<WorkerId>,
    /// Restarts since it was created or reset: automatic ones and those of a running process on request.
    pub restarts: u32,
    /// Memory of unstable ends and of the delays before restarts.
    pub record: Record,
    /// When the row was created or reset, milliseconds since the epoch.
    pub created_at: u64,
    /// When its worker was started, milliseconds since the epoch; of the last one when none runs.
    pub started_at: Option<u64>,
    /// When the delay before the next start is over, in state `Backoff`.
    pub restart_at: Option<Time>,
    /// Since when it waits, in state `Backoff`.
    pub(super) backoff_since: Option<Time>,
    /// How its last worker ended.
    pub last_exit: Option<Exit>,
    /// Why it does not run, or what is amiss; empty when all is well.
    pub reason: String,
    /// Its worker is being ended so that another can be started at once.
    pub(super) restarting: bool,
    /// Whether a person asked for what is going on (PM2's `manually`).
    pub(super) manually: bool,
}

impl Process {
    /// PM2's word for its state.
    #[must_use]
    pub fn pm2_status(&self) -> &'static str {
        self.state.pm2_status()
    }

    /// Unstable ends within the window, as of its last end.
    #[must_use]
    pub fn unstable_restarts(&self) -> u32 {
        self.record.unstable()
    }

    /// Every worker that is not over: the current one, the incoming one, the outgoing ones.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.current.into_iter().chain(self.incoming).chain(self.outgoing.iter().copied())
    }
}
