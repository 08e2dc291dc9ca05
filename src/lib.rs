//! pm2rs keeps Node.js applications alive, as a real Linux service.
//!
//! # Theory of operation
//!
//! One thing happens over and over: the kernel, the bus or a timer says that something *happened* (an
//! [`core::Event`]); the pure core decides what that means and returns what is to be *done* (a list of
//! [`core::Action`]s); the shell around it does those things, and what comes of them is the next event.
//!
//! ```text
//!   command line ──D-Bus──▶ dbus ──Request──▶ daemon ──Event──▶ core::Fleet::step
//!   kernel (pidfd, pipes, channels) ────────▶   │                      │
//!   timers ─────────────────────────────────▶   ◀──────── Actions ─────┘
//!                                               │
//!                                               ├─▶ sys   spawn, signal, cgroup, sockets, fd store
//!                                               ├─▶ node  the cluster channel of each worker
//!                                               ├─▶ logs  pipes to files and journal
//!                                               └─▶ dbus  changed properties, jobs, signals
//! ```
//!
//! * An **app** is what a user started: a name, an owner and an [`core::AppSpec`]. It has one or more
//!   **processes**, the numbered rows of `pm2rs list`; a process keeps its id over restarts and reloads.
//! * A **worker** is one operating-system process that serves a process row for a while. A restart ends one worker
//!   and starts another; during a reload a row has two for a moment. Worker ids are never reused.
//! * A **job** is a request that takes time (start, reload, scale). It has progress and exactly one outcome.
//!
//! Who owns what: the [`core::Fleet`] owns the truth about apps, processes and jobs and is touched by the daemon's
//! one loop only. The daemon owns pidfds, timers and the state file; `node` owns worker channels and every listening
//! socket; `logs` owns the pipes and log files. Everybody else holds a [`daemon::Handle`] and asks.
//!
//! Where a change belongs:
//!
//! | you want to add | go to |
//! |---|---|
//! | a state or a rule of restarting | [`core`] (the transition table is in `core/process.rs`) |
//! | a configuration key | `core/spec.rs` for its meaning, `config/keys.rs` for how it is written |
//! | a bus method or property | `api/` for the contract, `dbus/` for the server, `packaging/dbus/` for the XML |
//! | a command | `cli/args.rs` for its syntax, `cli/cmd/` for what it does |
//! | a system call | `sys/`, the only folder with `unsafe` |
//! | something Node does | `node/` |
//! | a log format or sink | `logs/` |
//!
//! Which folder may use which is fixed, and `tests/layering.rs` reads the imports to see that it holds.

pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod daemon;
pub mod dbus;
pub mod logs;
pub mod node;
pub mod sys;
