//! What knows Node: the cluster channel, its listening sockets, the worker's agent.
//!
//! pm2rs is the *primary* of Node's cluster protocol, so that an unmodified `server.listen(80)` in a worker asks us
//! for the socket. [`Primary`] is a handle to one task that owns every worker's channel and every listening socket;
//! a socket lives as long as its app wants it, and workers come and go on it. [`launch()`] decides how a worker is
//! started, and [`AGENT`] is the script that is loaded into it.
//!
//! ```text
//!   worker ──lines──▶ channel ──▶ message ──▶ task ──▶ listener: whose is the address, who binds it, who accepts
//!     ▲                                        │           └─ slots: one SO_REUSEPORT socket a row, steered by BPF
//!     └────lines, sockets, connections ────────┴──▶ NodeEvent to the daemon
//! ```
//!
//! A worker is not trusted: its lines are bounded, its numbers are looked up, and it binds nothing that its user may
//! not bind. Nothing here decides about the life of a process; that is the core's.

mod bind;
mod channel;
mod claims;
mod deal;
mod drain;
mod health;
mod launch;
mod listener;
mod message;
mod opening;
mod primary;
mod query;
mod slots;
mod survive;
mod task;
mod traffic;
mod worker;

pub use launch::{Account, Launch, LaunchContext, LaunchError, OF_ACCOUNT, launch};
pub use primary::{Attachment, HandedOver, ListenerInfo, NodeEvent, OpenError, Pause, Primary, PrimaryConfig};
pub use survive::{channel_name, check_kept, is_of_listener, keep_again, kept, lost_without_channel, release_kept};

/// The agent's source. It is to be written into a folder that every worker's user can read.
pub const AGENT: &str = include_str!("agent.cjs");

/// The source of the server of static files, to be written beside the agent under the name that
/// [`crate::core::STATIC_SERVER`] has.
pub const STATIC_SERVER: &str = include_str!("serve.cjs");
