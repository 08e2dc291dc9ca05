//! Connections that the supervisor has accepted, and who gets them: round robin, sticky, and rescue.
//!
//! A worker has few unanswered connections at a time (Node's primary: one), so that one that is busy does not hold
//! what another could serve. A connection is in exactly one place: the kernel's queue, `homeless`, or unanswered with
//! a worker; it is given up only when every worker has refused it or there is no listener any more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::listener::{Dealt, Listener, ListenerId, Sockets};
use super::message;
use super::primary::HandedOver;
use super::task::{Due, Task, Token};
use super::worker::Connection;
use crate::core::{ProcessId, WorkerId};
use crate::sys::epoll::Interest;
use crate::sys::socket;

/// Unanswered connections of a worker that others could take as well.
const WINDOW: usize = 1;
/// Unanswered connections of a worker that nobody else is to get.
const STICKY_WINDOW: usize = 16;
/// Accepted in one go, so that nobody else waits too long.
const BURST: usize = 64;

impl Task {
    pub(super) fn watch_dealt(&self, id: ListenerId, fd: &OwnedFd) -> io::Result<()> {
        self.epoll.add(fd, Token::Dealt(id).number(), Interest::Nothing)
    }

    /// Gives out what can be given out on this listener.
    pub(super) fn pump(&mut self, id: ListenerId) {
        self.house_homeless(id);
        match self.listeners.all.get(&id).map(|listener| &listener.sockets) {
            Some(Sockets::Dealt(_)) => self.pump_dealt(id),
            Some(Sockets::Slots(_)) => self.rescue_all(id),
            Some(Sockets::Shared(_)) | None => (),
        }
    }

    pub(super) fn pump_all_of(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let listeners: Vec<_> = worker.holds.keys().copied().collect();
        for listener in listeners {
            self.pump(listener);
        }
    }

    fn house_homeless(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        let waiting = std::mem::take(&mut listener.homeless);
        for connection in waiting {
            match self.choose(id, connection.peer, &connection.refused) {
                Some(worker) => self.place(worker, connection),
                None => self.keep(connection),
            }
        }
    }

    fn keep(&mut self, connection: Connection) {
        if let Some(listener) = self.listeners.all.get_mut(&connection.listener) {
            listener.homeless.push_back(connection);
        }
    }

    fn pump_dealt(&mut self, id: ListenerId) {
        for _ in 0..BURST {
            let Some(listener) = self.listeners.all.get(&id) else { return };
            let Sockets::Dealt(dealt) = &listener.sockets else { return };
            // Whom a sticky client meets is known only once it is accepted; the held ones are bounded instead.
            let room = match dealt.sticky {
                true => listener.homeless.len() < Dealt::HELD && self.workers.values().any(|w| w.serves(id)),
                false => self.choose(id, None, &[]).is_some(),
            };
            if !room {
                return self.watch(id, false);
            }
            let Some((fd, peer)) = self.accept(id, &Arc::clone(&dealt.fd)) else {
                return self.watch(id, true);
            };
            self.home(Connection { listener: id, fd, peer, refused: Vec::new(), sent: Instant::now() });
        }
        self.watch(id, true);
    }

    /// Takes in what waits at a socket of this listener that is about to be closed.
    pub(super) fn accept_all(&mut self, id: ListenerId, fd: &Arc<OwnedFd>) {
        while let Some((fd, peer)) = self.accept(id, fd) {
            self.home(Connection { listener: id, fd, peer, refused: Vec::new(), sent: Instant::now() });
        }
    }

    /// `None` when none waits, or the process may not open more descriptors: then too it is tried at the next event.
    pub(super) fn accept(&self, id: ListenerId, fd: &OwnedFd) -> Option<(Arc<OwnedFd>, Option<SocketAddr>)> {
        match socket::accept(fd) {
            Ok((connection, peer)) => Some((Arc::new(connection), peer)),
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(listener = id.0, %error, "cannot accept a connection");
                }
                None
            }
        }
    }

    pub(super) fn home(&mut self, connection: Connection) {
        match self.choose(connection.listener, connection.peer, &connection.refused) {
            Some(worker) => self.place(worker, connection),
            None => self.keep(connection),
        }
    }

    fn watch(&mut self, id: ListenerId, wanted: bool) {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        let Sockets::Dealt(dealt) = &mut listener.sockets else { return };
        if std::mem::replace(&mut dealt.watched, wanted) != wanted {
            let interest = if wanted { Interest::Readable } else { Interest::Nothing };
            if let Err(error) = self.epoll.modify(&dealt.fd, Token::Dealt(id).number(), interest) {
                tracing::error!(listener = id.0, %error, "cannot watch a listening socket");
            }
        }
    }

    /// The worker that gets the next connection, if one can take it now.
    pub(super) fn choose(&self, id: ListenerId, peer: Option<SocketAddr>, refused: &[WorkerId]) -> Option<WorkerId> {
        let listener = self.listeners.all.get(&id)?;
        let sticky = matches!(listener.sockets, Sockets::Dealt(Dealt { sticky: true, .. }));
        if let (true, Some(peer)) = (sticky, peer) {
            return self.choose_sticky(id, peer.ip(), refused);
        }
        let window = if sticky { STICKY_WINDOW } else { WINDOW };
        let able = |(_, worker): &(&WorkerId, &super::worker::Worker)| worker.takes(id, window);
        let wanting = |(worker, _): &(&WorkerId, &super::worker::Worker)| !refused.contains(worker);
        let after = listener.last.map_or(0, |last| last.0.saturating_add(1));
        let later = self.workers.range(WorkerId(after)..);
        let earlier = self.workers.range(..WorkerId(after));
        later.chain(earlier).filter(wanting).find(able).map(|(worker, _)| *worker)
    }

    /// Rendezvous hashing: each row has a rank for each client, and the best that serves is the one. When rows come
    /// and go, only the clients of those move.
    fn choose_sticky(&self, id: ListenerId, client: IpAddr, refused: &[WorkerId]) -> Option<WorkerId> {
        let serving = self.workers.iter().filter(|(worker, w)| w.serves(id) && !refused.contains(worker));
        // Of a row's workers the newest.
        let (worker, state) = serving.max_by_key(|(worker, w)| (rank(client, w.process), worker.0))?;
        state.takes(id, STICKY_WINDOW).then_some(*worker)
    }

    fn place(&mut self, id: WorkerId, mut connection: Connection) {
        let seq = self.next_seq();
        let key = connection.listener.0.to_string();
        if let Some(listener) = self.listeners.all.get_mut(&connection.listener) {
            listener.last = Some(id);
        }
        connection.sent = Instant::now();
        let fd = Arc::clone(&connection.fd);
        let Some(worker) = self.workers.get_mut(&id) else { return self.take_back(connection) };
        let first = worker.unanswered.is_empty();
        worker.unanswered.insert(seq, connection);
        if first {
            self.arm(Due::Overdue(id), Duration::from_millis(self.config.hang_ms));
        }
        self.write_handle(id, message::connection(seq, &key), fd);
    }

    /// The worker may accept connections.
    pub(super) fn admit(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !std::mem::replace(&mut worker.admitted, true) {
            self.write(id, message::admit(), None);
            self.refresh_all_of(id);
        }
    }

    /// Gives a connection to this worker alone; if it does not want it, it closes it.
    pub(super) fn hand_over(&mut self, id: WorkerId, port: u16, connection: OwnedFd) -> HandedOver {
        let Some(worker) = self.workers.get(&id) else { return HandedOver::NotListening };
        let is_there = |listener: &Listener| {
            listener.kind == socket::Kind::Stream && listener.inet().is_some_and(|address| address.port() == port)
        };
        let mut there = self.listeners.of_app(worker.app).filter(|(_, listener)| is_there(listener)).peekable();
        if there.peek().is_none() {
            return HandedOver::Unknown;
        }
        let listens = |listener: &ListenerId| worker.holds.get(listener).is_some_and(|hold| hold.listening);
        let Some(listener) = there.map(|(listener, _)| listener).find(listens) else { return HandedOver::NotListening };
        let seq = self.next_seq();
        self.write_handle(id, message::connection(seq, &listener.0.to_string()), Arc::new(connection));
        HandedOver::Given
    }

    /// A worker's word on a connection that we sent.
    pub(super) fn answered(&mut self, id: WorkerId, seq: u64, accepted: bool) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(mut connection) = worker.unanswered.remove(&seq) else { return };
        let listener = connection.listener;
        if !accepted {
            connection.refused.push(id);
            // net.Server drops a connection beyond maxConnections; we do so once all workers are full.
            let wanted = |(worker, w): (&WorkerId, &super::worker::Worker)| {
                w.serves(listener) && !connection.refused.contains(worker)
            };
            if self.workers.iter().any(wanted) || !self.workers.values().any(|w| w.serves(listener)) {
                self.home(connection);
            }
        }
        self.alive(id);
    }

    /// A connection whose worker is gone.
    pub(super) fn take_back(&mut self, connection: Connection) {
        self.home(connection);
    }
}

/// A number that depends on nothing but its arguments (FNV-1a, finished by the mixer of splitmix64).
fn rank(client: IpAddr, row: ProcessId) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match client.to_canonical() {
        IpAddr::V4(ip) => add(&ip.octets()),
        IpAddr::V6(ip) => add(&ip.octets()),
    }
    add(&row.0.to_le_bytes());
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn best(client: u32, rows: &[u32]) -> u32 {
        let rank = |row: &&u32| rank(Ipv4Addr::from(client).into(), ProcessId(**row));
        rows.iter().max_by_key(rank).copied().unwrap_or_default()
    }

    #[test]
    fn clients_are_spread_and_move_only_when_they_must() {
        let mut count = BTreeMap::new();
        for client in 0x0a00_0000..0x0a00_1000 {
            let row = best(client, &[0, 1, 2, 3]);
            *count.entry(row).or_insert(0) += 1;
            if row != 3 {
                assert_eq!(best(client, &[0, 1, 2]), row);
            }
        }
        assert_eq!(count.len(), 4);
        assert!(count.values().all(|n| (850..1200).contains(n)), "{count:?}");
    }

    #[test]
    fn an_ipv4_client_is_the_same_over_ipv6() {
        let (v4, mapped) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        assert_eq!(rank(v4.into(), ProcessId(1)), rank(mapped.into(), ProcessId(1)));
    }
}
