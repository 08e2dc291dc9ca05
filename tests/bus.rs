//! The bus from both of its ends: a client's proxies, the server, and a daemon's loop played by a task.

#![allow(clippy::unwrap_used)]

#[path = "bus/contract.rs"]
mod contract;
#[path = "bus/daemon.rs"]
mod daemon;
#[path = "bus/hostile.rs"]
mod hostile;
#[path = "bus/message_bus.rs"]
mod message_bus;
#[path = "bus/private.rs"]
mod private;
#[path = "bus/scripts.rs"]
mod scripts;
