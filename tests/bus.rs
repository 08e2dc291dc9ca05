//! The bus from both of its ends: a client's proxies, the server, and a daemon's loop played by a task.

#![allow(clippy::unwrap_used)]

#[path = "bus/daemon.rs"]
mod daemon;
#[path = "bus/private.rs"]
mod private;
