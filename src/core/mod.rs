//! What is to be kept running, and what each event means for it: states, rules and decisions.
//!
//! Owns the truth about apps, processes, workers and jobs ([`Fleet`]). Must never do anything: no files, no system
//! calls, no clock, no runtime. Time comes in with every event ([`Now`]), timers go out as actions, so every test
//! runs in simulated time.

mod action;
mod event;
mod exit;
mod fleet;
mod ids;
mod spec;
mod time;

pub use action::{Action, JobOutcome, LogLevel, SpawnOrder};
pub use event::{Event, ReloadOptions, SpawnFailure, Timer};
pub use exit::Exit;
pub use fleet::Fleet;
pub use ids::{AppId, JobId, ProcessId, Uid, WorkerId};
pub use spec::{
    AppSpec, Balance, ExecMode, FilterEnv, Instances, LogSpec, LogType, OnReloadFailure, Probe, ProbeKind, RotateSpec,
    WatchSpec,
};
pub use time::{Now, Time};
