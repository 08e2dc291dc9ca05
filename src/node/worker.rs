//! What the primary knows of a worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::time::Instant;

use super::channel::Channel;
use super::listener::ListenerId;
use super::message::Query;
use crate::core::{AppId, Balance, ProcessId, WorkerId};
use crate::sys::identity::Identity;

/// A worker and its channel.
#[derive(Debug)]
pub(super) struct Worker {
    pub process: ProcessId,
    pub app: AppId,
    pub identity: Identity,
    pub cluster: bool,
    pub balance: Balance,
    /// `None` once either side has closed it.
    pub channel: Option<Channel>,
    /// The worker writes no more; what it wrote is still to be read.
    pub ended: bool,
    /// The agent was loaded into it.
    pub agent_loaded: bool,
    /// The agent has said hello.
    pub agent: bool,
    pub online: bool,
    /// The handles that it has from us.
    pub holds: BTreeMap<ListenerId, Hold>,
    /// Addresses that were reported as listening.
    pub announced: BTreeSet<String>,
    /// It has listened, if only for a while.
    pub listened: bool,
    /// Connections that we sent and that it has not answered for, by our number.
    pub unanswered: BTreeMap<u64, Connection>,
    /// NODE_HANDLE messages that it has not answered for.
    pub handles_out: u32,
    /// Since when it owes a sign of life.
    pub ping: Option<Instant>,
    /// Handles that must wait until the ping is answered (see [`super::message::missing_handle`]).
    pub deferred: VecDeque<(Vec<u8>, Arc<OwnedFd>)>,
    pub hung: bool,
    /// Connections may come to it.
    pub admitted: bool,
    pub draining: Option<Drain>,
    /// It has been told to end.
    pub terminating: bool,
}

/// A handle that a worker has.
#[derive(Debug)]
pub(super) struct Hold {
    /// How it asked, to recognise its `listening`.
    pub query: Query,
    /// It accepts.
    pub listening: bool,
}

/// A drain that is under way or over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    Asked,
    Done,
}

/// A connection that the supervisor has accepted.
#[derive(Debug)]
pub(super) struct Connection {
    pub listener: ListenerId,
    pub fd: Arc<OwnedFd>,
    /// Who connected; `None` for unix sockets.
    pub peer: Option<SocketAddr>,
    /// Workers that did not want it.
    pub refused: Vec<WorkerId>,
    /// When it was last sent to a worker.
    pub sent: Instant,
}

impl Worker {
    /// Whether it accepts there and shall go on doing so.
    pub fn serves(&self, listener: ListenerId) -> bool {
        self.admitted
            && self.draining.is_none()
            && !self.hung
            && self.holds.get(&listener).is_some_and(|hold| hold.listening)
    }

    /// Whether a connection can be sent to it now, with so many unanswered at most.
    pub fn takes(&self, listener: ListenerId, window: usize) -> bool {
        let reachable = self.channel.as_ref().is_some_and(|channel| !channel.is_writing()) && !self.ended;
        reachable && self.ping.is_none() && self.unanswered.len() < window && self.serves(listener)
    }
}
