//! The contract that both sides of the bus share: names, plain types, errors, client proxies.
//!
//! Must never know how the daemon works or what the command line prints.
//!
//! # The object tree
//!
//! ```text
//! /org/pm2rs1               org.pm2rs1.Manager, org.freedesktop.DBus.ObjectManager
//! /org/pm2rs1/app/NAME      org.pm2rs1.App       (NAME bus-escaped; `NAME__APPID` where that is taken)
//! /org/pm2rs1/process/ID    org.pm2rs1.Process
//! /org/pm2rs1/job/ID        org.pm2rs1.Job       (stays for a minute after its end)
//! ```
//!
//! # org.pm2rs1.Manager
//!
//! *Targets* are PM2's: an id, a name, a script path (absolute), a namespace, `all`, `/regex/`. They are resolved by the
//! daemon, among the processes the caller may control. Whatever takes time returns a job; `Job.Wait` returns when it ended.
//!
//! | method | in | out |
//! |---|---|---|
//! | StartApp | `s` spec: a JSON object with the keys of `core::AppSpec`, `a{sv}` options (`force` b) | `o` job |
//! | Restart, Reload | `as` targets, `a{sv}` options: `env` a{ss} (merged over), `spec` s (replaces the spec), `batch` u | `o` job |
//! | Stop, Delete | `as` targets | `o` job |
//! | Scale | `s` app name or id, `s` count: `4`, `+2`, `-1` | `o` job |
//! | Reset | `as` targets | |
//! | SendSignal | `as` targets, `s` signal name or number | |
//! | SendLine | `u` process, `s` line: written to its standard input | |
//! | SendMessage | `u` process, `s` JSON: arrives as `process.on('message')` | |
//! | Trigger | `as` targets, `s` action, `s` parameters | `a(us)` process, reply (JSON) |
//! | Resolve | `as` targets | `au` process ids |
//! | ListProcesses | | `s` JSON array, PM2's jlist; only what the caller may see |
//! | GetEnvironment | `u` process | `a{ss}` |
//! | GetSpec | `u` process | `s` its app's spec: a JSON object with the keys of `core::AppSpec` |
//! | OpenLogs | `as` targets, `a{sv}` options: `lines` u, `follow` b, `streams` s (`out`, `err`, `all`) | `h` read end: JSON lines |
//! | FlushLogs | `as` targets | |
//! | ReopenLogs | | |
//! | Save | `b` force | `s` path of the dump |
//! | ClearSaved | | |
//! | Resurrect | | `o` job |
//! | Kill | | `o` job: everything ends, then the daemon |
//! | Reexecute | | |
//! | Report | | `s` text |
//! | GetHostMetrics | | `s` JSON object: `cpu` and `ram` in percent; `interface`, `received`, `sent`, `read`, `written` in bytes per second |
//! | Ping | | `s` `pong` |
//!
//! Properties: `Version` s, `Mode` s (`system`, `user`, `private`), `Pid` u, `Home` s, `Apps` u, `Processes` u, `Online` u.
//! Signals: `ProcessEvent(u process, s name, s event, b manually, t at)`, `JobNew(o)`, `JobRemoved(o, s result)` (at its
//! end; its object stays for a minute).
//!
//! A private socket has no subscriptions: its client is sent all signals, from the time on that it has read a property,
//! asked for the managed objects or introspected. A command that only asks for something is thus not told of a
//! thousand processes. It answers what busctl(1) and gdbus(1) ask of a bus first, so that they can be pointed at it
//! (`busctl --address=unix:path=SOCKET`).
//!
//! # org.pm2rs1.App, Process, Job
//!
//! App: `Name` s, `Namespace` s, `Owner` u, `Mode` s, `Instances` u, `Status` s, `Processes` ao; Stop, Restart, Reload,
//! Delete () -> o; Scale (s) -> o.
//! Process: `Id` u, `App` o, `Name` s, `Namespace` s, `Owner` u, `Instance` u, `Status` s (PM2's word), `State` s (ours),
//! `Pid` u, `Restarts` u, `UnstableRestarts` u, `StartedAt` t, `CreatedAt` t (ms since the epoch, 0 for none),
//! `ExitCode` i (-1 for none), `ExitSignal` s, `Reason` s (why it is not running, or what is amiss); Stop, Restart, Reload,
//! Delete () -> o; SendSignal (s); GetEnvironment () -> a{ss}.
//! Job: `Id` u, `Kind` s, `Target` s, `State` s (`running`, `done`, `failed`, `cancelled`), `Done` u, `Total` u, `Message` s
//! (`Target` and `Message` for who asked and root only, and in no signal);
//! Wait () -> (s state, s message, as warnings); Cancel ().

mod client;
mod error;
pub mod names;
mod options;
pub mod proxy;
mod types;

pub use client::{Client, ConnectError, Outcome};
pub use error::Error;
pub use options::{LogsDict, StartDict, UpdateDict};
pub use types::{AppView, JobState, JobView, ProcessView};
