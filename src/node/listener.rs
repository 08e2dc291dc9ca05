//! A listening address: its sockets, whose they are, and who may accept on them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::bind::Wanted;
use super::slots::Slots;
use super::worker::Connection;
use crate::core::{AppId, ProcessId, WorkerId};
use crate::sys::identity::Identity;
use crate::sys::socket::{Address, Kind};

/// Names a listener; workers see it as the `key` of their handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ListenerId(pub u32);

/// One address of one app, or of several of one user: who starts `green` beside `blue` on one port and then deletes
/// `blue` has both serve meanwhile, as with PM2, whose daemon is one primary for all its cluster workers. It lives as
/// long as a row of these apps wants it, whoever of their workers come and go.
#[derive(Debug)]
pub(super) struct Listener {
    /// Never empty.
    pub apps: BTreeSet<AppId>,
    /// The user whose workers asked for it; only apps that run as the same one may join. `None` where the release that
    /// opened it did not write it down.
    pub uid: Option<u32>,
    /// What was asked for; with `index` the name by which the apps' other workers find it.
    pub wanted: Wanted,
    /// Tells apart those of which a worker may have several ([`Wanted::is_one_of_many`]).
    pub index: Option<u32>,
    /// Where it is bound.
    pub address: Address,
    pub kind: Kind,
    pub sockets: Sockets,
    /// TLS ticket keys of the first worker that asked, for all.
    pub data: Value,
    /// Rows whose workers asked for it and that have not been removed since.
    pub claims: BTreeSet<ProcessId>,
    pub origin: Origin,
    /// Handed out by [`super::Primary::open`]: it stays until its rows go, whatever is known of who accepts.
    pub handed_out: bool,
    /// Connections that were accepted or taken back and wait for a worker. Bounded by what workers may have
    /// unanswered, and by [`Dealt::HELD`].
    pub homeless: VecDeque<Connection>,
    /// Who got the last connection from us.
    pub last: Option<WorkerId>,
}

/// The sockets of a listener.
#[derive(Debug)]
pub(super) enum Sockets {
    /// One that all workers accept on.
    Shared(Arc<OwnedFd>),
    /// One that the supervisor accepts on.
    Dealt(Dealt),
    /// One for each row.
    Slots(Slots),
}

/// A socket whose connections the supervisor deals out.
#[derive(Debug)]
pub(super) struct Dealt {
    pub fd: Arc<OwnedFd>,
    /// A client's address always meets the same row.
    pub sticky: bool,
    /// Whether it is waited for connections.
    pub watched: bool,
}

impl Dealt {
    /// Connections accepted for a worker that is busy.
    pub const HELD: usize = 64;
}

/// Where the socket came from, which decides how it ends.
#[derive(Debug)]
pub(super) enum Origin {
    /// Bound for a worker.
    Bound,
    /// Bound for a worker, as a file that is removed in the end with its owner's rights.
    File(Identity),
    /// From systemd; goes back into the pool.
    Inherited,
}

/// A socket from systemd.
#[derive(Debug)]
pub(super) struct Inherited {
    /// FileDescriptorName=.
    pub name: String,
    pub fd: Arc<OwnedFd>,
    pub address: Address,
    pub kind: Kind,
    pub v6_only: bool,
    /// The app that has it, or one of them.
    pub taken: Option<AppId>,
}

impl Inherited {
    /// `USER@NAME` is for apps of that user, any other name for everybody's.
    pub fn is_for(&self, who: &Identity) -> bool {
        match self.name.split_once('@') {
            Some((user, _)) => user == who.name || user.parse() == Ok(who.uid),
            None => true,
        }
    }

    /// By its whole name, or by what follows the user's.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.name.split_once('@').is_some_and(|(_, own)| own == name)
    }
}

impl Listener {
    /// For people and for [`super::NodeEvent::Listening`].
    pub fn text(&self) -> String {
        text(&self.address, self.kind)
    }

    pub fn inet(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Inet(address) => Some(address),
            Address::Unix(_) => None,
        }
    }

    /// The path of a socket that is a file.
    pub fn path(&self) -> Option<&Path> {
        match &self.address {
            Address::Unix(path) => Some(path),
            Address::Inet(_) => None,
        }
    }

    /// What a worker's `server.address()` shows when it gets no socket.
    pub fn sockname(&self) -> Option<Value> {
        let address = self.inet()?;
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        Some(json!({ "address": address.ip().to_string(), "family": family, "port": address.port() }))
    }

    /// As in [`super::ListenerInfo::balance`].
    pub fn balance(&self) -> &'static str {
        match &self.sockets {
            Sockets::Shared(_) => "shared",
            Sockets::Dealt(Dealt { sticky: false, .. }) => "round robin",
            Sockets::Dealt(Dealt { sticky: true, .. }) => "sticky",
            Sockets::Slots(slots) => slots.steering(),
        }
    }
}

/// An address as people write it.
pub(super) fn text(address: &Address, kind: Kind) -> String {
    match address {
        Address::Inet(address) if kind == Kind::Datagram => format!("udp {address}"),
        Address::Inet(address) => address.to_string(),
        Address::Unix(path) => path.display().to_string(),
    }
}

/// All listeners and the sockets from systemd that nobody has asked for yet.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub all: BTreeMap<ListenerId, Listener>,
    pub inherited: Vec<Inherited>,
    next: u32,
}

impl Listeners {
    /// Takes it in under a new name.
    pub fn insert(&mut self, listener: Listener) -> ListenerId {
        self.next += 1;
        let id = ListenerId(self.next);
        self.all.insert(id, listener);
        id
    }

    /// The last number given out.
    pub fn last(&self) -> u32 {
        self.next
    }

    /// Numbers go on after `last`.
    pub fn continue_after(&mut self, last: u32) {
        self.next = self.next.max(last);
    }

    /// The app's listener that answers this question.
    pub fn find(&self, app: AppId, wanted: &Wanted, index: Option<u32>) -> Option<ListenerId> {
        let same = |l: &Listener| l.apps.contains(&app) && l.wanted == *wanted && l.index == index;
        self.all.iter().find(|(_, listener)| same(listener)).map(|(id, _)| *id)
    }

    /// Whether only others have exactly this address. The kernel would tell, but for a socket that is only bound yet.
    pub fn is_foreign(&self, app: AppId, wanted: &Wanted, index: Option<u32>) -> bool {
        let same = |l: &Listener| l.wanted == *wanted && l.index == index;
        !wanted.takes_any_port() && self.all.values().any(|l| !l.apps.contains(&app) && same(l))
    }

    /// Another app's listener on this address that workers of this user may share. Not one that was handed out to a
    /// program: of who accepts there nothing is known.
    pub fn find_shareable(&self, uid: u32, wanted: &Wanted, index: Option<u32>) -> Option<ListenerId> {
        let fits = |l: &Listener| l.uid == Some(uid) && l.wanted == *wanted && l.index == index && !l.handed_out;
        let mut fitting = self.all.iter().filter(|(_, listener)| !wanted.takes_any_port() && fits(listener));
        fitting.next().map(|(id, _)| *id)
    }

    pub fn of_app(&self, app: AppId) -> impl Iterator<Item = (ListenerId, &Listener)> {
        self.all.iter().filter(move |(_, listener)| listener.apps.contains(&app)).map(|(id, listener)| (*id, listener))
    }

    /// The inherited socket that a worker of this user means, not taken by another app.
    pub fn find_inherited(&self, app: AppId, who: &Identity, wanted: &Wanted) -> Option<usize> {
        let mut visible = self.inherited.iter().enumerate().filter(|(_, socket)| socket.is_for(who));
        let free = |socket: &Inherited| socket.taken.is_none_or(|taken| taken == app);
        match wanted {
            // As sd_listen_fds(3) numbers them, counting those that the user may have.
            Wanted::Fd(fd) => {
                let nth = usize::try_from(fd - 3).ok()?;
                visible.nth(nth).filter(|(_, socket)| free(socket)).map(|(i, _)| i)
            }
            _ => visible
                .find(|(_, socket)| free(socket) && wanted.is_served_by(socket.kind, &socket.address, socket.v6_only))
                .map(|(i, _)| i),
        }
    }
}
