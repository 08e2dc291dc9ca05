//! What is to be kept running, and what each event means for it: states, rules and decisions.
//!
//! Owns the truth about apps, processes, workers and jobs ([`Fleet`]). Must never do anything: no files, no system
//! calls, no clock, no runtime. Time comes in with every event ([`Now`]), timers go out as actions, so every test
//! runs in simulated time.
//!
//! | file | what it decides |
//! |---|---|
//! | `fleet` | which rule an event goes to; the verbs that all rules are written with |
//! | `process`, `worker` | the states, and which may follow which |
//! | `start`, `ready` | what is started in which order; when a worker counts as ready |
//! | `stop`, `ended` | how a worker is ended; what follows when it is over |
//! | `restart` | whether and when an ended one is started again |
//! | `reload`, `replace` | the transaction over an app's rows; the swap of one row's worker |
//! | `scale`, `restore` | the number of rows; what survives a reboot |
//! | `jobs` | what a request still waits for, and its one outcome |

mod action;
mod app;
mod ended;
mod event;
mod exit;
mod fleet;
mod ids;
mod jobs;
mod process;
mod ready;
mod reload;
mod replace;
mod restart;
mod restore;
mod scale;
mod settings;
mod spec;
mod start;
mod stop;
mod syslog;
mod time;
mod timers;
mod worker;

pub use action::{Action, JobOutcome, LogLevel, LogTopic, SpawnOrder};
pub use app::App;
pub use event::{Event, ReloadOptions, RestartCause, SpawnFailure, Timer};
pub use exit::Exit;
pub use fleet::Fleet;
pub use ids::{AppId, JobId, ProcessId, Uid, WorkerId};
pub use jobs::{Job, JobKind};
pub use process::{Desired, Process, State, TRANSITIONS};
pub use restart::Record;
pub use restore::{SavedApp, SavedProcess};
pub use spec::{
    AppSpec, Balance, ExecMode, FilterEnv, Instances, LogSpec, LogType, OnReloadFailure, Probe, ProbeKind, RotateSpec,
    STATIC_SERVER, WatchSpec, is_socket_name,
};
pub use syslog::{NoSyslogAddress, SyslogAddress};
pub use time::{Now, Time};
pub use worker::{Readiness, WORKER_TRANSITIONS, Worker, WorkerState};

#[cfg(test)]
mod tests;
