//! What workers say: what each message means, and the answer to who wants to listen.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::bind::{self, Errno, Wanted};
use super::channel::Received;
use super::listener::{Dealt, Listener, ListenerId, Origin, Sockets};
use super::message::{self, AgentNote, Incoming, Query};
use super::opening::Asker;
use super::primary::NodeEvent;
use super::slots::Slots;
use super::task::{Due, Task};
use super::worker::Hold;
use crate::core::{AppId, Balance, ProcessId, WorkerId};
use crate::sys::identity::Identity;
use crate::sys::socket::{self, Kind};

/// How long nobody listens before an address is given up, when a worker has closed its server and lives on.
const ABANDONED: Duration = Duration::from_secs(2);
/// How long after its first `listening` a row's new worker may take to ask for what the old one had.
pub(super) const SETTLED: Duration = Duration::from_secs(10);
/// Addresses of one worker that are reported.
const ANNOUNCED: usize = 64;

impl Task {
    pub(super) fn received(&mut self, id: WorkerId, received: Received) {
        let passing = matches!(
            received.message,
            Incoming::Connection { .. }
                | Incoming::HandleArrived
                | Incoming::HandleMissing
                | Incoming::Handle { .. }
                | Incoming::Agent(AgentNote::Pong)
                | Incoming::User(_)
                | Incoming::Unknown
        );
        self.memory.changed |= !passing;
        match received.message {
            Incoming::Online => self.online(id),
            Incoming::Query(query) => self.query(id, query),
            Incoming::Listening(query) => self.listening(id, &query),
            Incoming::Closed { key } => self.closed(id, &key),
            Incoming::Connection { ack, accepted } => self.answered(id, ack, accepted),
            Incoming::Leaving { seq } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.terminating = true;
                }
                let own = self.next_seq();
                self.write(id, message::acknowledge(seq, own), None);
            }
            Incoming::HandleArrived | Incoming::HandleMissing => self.handle_answered(id, &received.message),
            Incoming::Handle { message } => {
                // The worker says nothing more until it has an answer.
                self.write(id, message::handle_answer(received.with_fd), None);
                if received.with_fd {
                    self.tell(NodeEvent::Message { worker: id, message });
                }
            }
            Incoming::Agent(note) => self.agent_says(id, note),
            Incoming::User(message) => self.tell(NodeEvent::Message { worker: id, message }),
            Incoming::Unknown => (),
        }
    }

    fn online(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !std::mem::replace(&mut worker.online, true) {
            self.tell(NodeEvent::Online { worker: id });
        }
    }

    fn agent_says(&mut self, id: WorkerId, note: AgentNote) {
        match note {
            AgentNote::Hello { node } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.agent = true;
                }
                self.online(id);
                self.tell(NodeEvent::Version { worker: id, node });
            }
            AgentNote::Pong => self.alive(id),
            AgentNote::Listening { address, port } => {
                let address = match u16::try_from(port) {
                    Ok(port) if address.contains(':') => format!("[{address}]:{port}"),
                    Ok(port) => format!("{address}:{port}"),
                    Err(_) => address,
                };
                // Of a server that listens through us, Node's own word counts: it follows, and only then can the
                // worker be given connections.
                if !self.holds_address(id, &address) {
                    self.announce(id, address);
                }
            }
            AgentNote::Drained { left } => self.drained(id, left),
        }
    }

    fn holds_address(&self, id: WorkerId, address: &str) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        worker.holds.keys().any(|id| self.listeners.all.get(id).is_some_and(|listener| listener.text() == address))
    }

    fn announce(&mut self, id: WorkerId, address: String) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.listened = true;
        if worker.announced.len() >= ANNOUNCED || !worker.announced.insert(address.clone()) {
            return;
        }
        if worker.announced.len() == 1 {
            let (app, process) = (worker.app, worker.process);
            self.arm(Due::Settled(app, process), SETTLED);
        }
        self.tell(NodeEvent::Listening { worker: id, address });
    }

    fn query(&mut self, id: WorkerId, query: Box<Query>) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (app, balance, who) = (worker.app, worker.balance, worker.identity.clone());
        let wanted = match Wanted::from_query(&query) {
            Ok(wanted) => wanted,
            Err(errno) => return self.refuse(id, &query, errno),
        };
        let index = wanted.is_one_of_many().then_some(query.index);
        let known = self.listeners.find(app, &wanted, index).or_else(|| self.join(app, &who, &wanted, index));
        if let Some(path) = self.path_to_open(app, &who, &wanted, known) {
            return self.open_path(app, path, &who, balance, Some(Asker::Worker(id, query)));
        }
        if let Some(listener) = known {
            return self.answer(id, listener, query);
        }
        match self.create(app, wanted, index, &who, balance) {
            Ok(listener) => self.answer(id, listener, query),
            Err(errno) => self.refuse(id, &query, errno),
        }
    }

    /// Another app of the same user is on this address: they share it from now on.
    fn join(&mut self, app: AppId, who: &Identity, wanted: &Wanted, index: Option<u32>) -> Option<ListenerId> {
        let id = self.listeners.find_shareable(who.uid, wanted, index)?;
        if self.is_full(app) {
            return None;
        }
        let listener = self.listeners.all.get_mut(&id)?;
        tracing::info!(%app, address = listener.text(), with = ?listener.apps, "an address is shared with other apps");
        listener.apps.insert(app);
        self.tell_held(app);
        Some(id)
    }

    pub(super) fn refuse(&mut self, id: WorkerId, query: &Query, errno: Errno) {
        let seq = self.next_seq();
        // A key that no listener has: the worker keeps none for a server that failed.
        self.write(id, message::error_reply(query.seq, seq, "0", errno), None);
    }

    /// A listener on an address that the app does not have yet; not for paths, unless they were inherited.
    pub(super) fn create(
        &mut self,
        app: AppId,
        wanted: Wanted,
        index: Option<u32>,
        who: &Identity,
        balance: Balance,
    ) -> Result<ListenerId, Errno> {
        if self.is_full(app) {
            return Err(libc::EMFILE);
        }
        if let Some(found) = self.listeners.find_inherited(app, who, &wanted) {
            let inherited = &mut self.listeners.inherited[found];
            inherited.taken = Some(app);
            let (fd, kind) = (Arc::clone(&inherited.fd), inherited.kind);
            if kind == Kind::Stream {
                // systemd's sockets listen already; one passed by hand may not.
                socket::listen(&fd, bind::BACKLOG).map_err(|e| bind::errno(&e))?;
            }
            return self.add(app, who.uid, wanted, index, fd, kind, balance, Origin::Inherited);
        }
        if matches!(wanted, Wanted::Fd(_)) {
            return Err(libc::EBADF);
        }
        if self.listeners.is_foreign(app, &wanted, index) {
            return Err(libc::EADDRINUSE);
        }
        let kind = if matches!(wanted, Wanted::Udp { .. }) { Kind::Datagram } else { Kind::Stream };
        let bind = || bind::bind_inet(&wanted, who, balance == Balance::Auto && kind == Kind::Stream);
        let fd = match bind() {
            // What is in the way may be ours.
            Err(libc::EADDRINUSE) if self.give_up_unused(app, &wanted, kind) => bind()?,
            bound => bound?,
        };
        self.add(app, who.uid, wanted, index, Arc::new(fd), kind, balance, Origin::Bound)
    }

    #[allow(clippy::too_many_arguments)] // It is a constructor.
    pub(super) fn add(
        &mut self,
        app: AppId,
        uid: u32,
        wanted: Wanted,
        index: Option<u32>,
        fd: Arc<OwnedFd>,
        kind: Kind,
        balance: Balance,
        origin: Origin,
    ) -> Result<ListenerId, Errno> {
        let address = socket::local_address(&fd).map_err(|e| bind::errno(&e))?;
        let dealt = |sticky| Sockets::Dealt(Dealt { fd: Arc::clone(&fd), sticky, watched: false });
        let sockets = match balance {
            _ if kind == Kind::Datagram => Sockets::Shared(fd),
            Balance::RoundRobin => dealt(false),
            Balance::Sticky => dealt(true),
            Balance::Auto if matches!(origin, Origin::Bound) => Sockets::Slots(Slots::new(fd, &self.config)),
            Balance::Auto | Balance::Shared => Sockets::Shared(fd),
        };
        let watched = if let Sockets::Dealt(dealt) = &sockets { Some(Arc::clone(&dealt.fd)) } else { None };
        let id = self.listeners.insert(Listener {
            apps: BTreeSet::from([app]),
            uid: Some(uid),
            wanted,
            index,
            address,
            kind,
            sockets,
            data: Value::Null,
            claims: BTreeSet::new(),
            origin,
            handed_out: false,
            homeless: VecDeque::new(),
            last: None,
        });
        if let Some(fd) = watched
            && let Err(error) = self.watch_dealt(id, &fd)
        {
            self.listeners.all.remove(&id);
            return Err(bind::errno(&error));
        }
        self.tell_held(app);
        Ok(id)
    }

    /// Gives a worker what it needs to serve on a listener.
    pub(super) fn answer(&mut self, id: WorkerId, listener: ListenerId, query: Box<Query>) {
        let Some(worker) = self.workers.get(&id) else { return };
        // The same question again: a daemon died before it was done with it.
        if worker.holds.get(&listener).is_some_and(|hold| hold.query != *query) {
            // As a second listen() of one process would end.
            return self.refuse(id, &query, libc::EADDRINUSE);
        }
        let process = worker.process;
        let fd = match self.socket_for(listener, process) {
            Ok(fd) => fd,
            Err(errno) => return self.refuse(id, &query, errno),
        };
        let Some(entry) = self.listeners.all.get_mut(&listener) else { return };
        if entry.data.is_null() {
            entry.data.clone_from(&query.data);
        }
        entry.claims.insert(process);
        let (data, datagram, sockname) = (entry.data.clone(), entry.kind == Kind::Datagram, entry.sockname());
        let key = listener.0.to_string();
        let (ack, seq) = (query.seq, self.next_seq());
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.holds.insert(listener, Hold { query: *query, listening: false });
        }
        self.memory.changed = true;
        self.remember();
        match fd {
            Some(fd) => self.write_handle(id, message::shared_reply(ack, seq, &key, &data, datagram), fd),
            None => self.write(id, message::dealt_reply(ack, seq, &key, &data, sockname), None),
        }
    }

    /// The socket that workers of this row accept on; `None` when the supervisor does it.
    fn socket_for(&mut self, id: ListenerId, process: ProcessId) -> Result<Option<Arc<OwnedFd>>, Errno> {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return Err(libc::EBADF) };
        let address = listener.inet();
        match &mut listener.sockets {
            Sockets::Shared(fd) => Ok(Some(Arc::clone(fd))),
            Sockets::Dealt(_) => Ok(None),
            Sockets::Slots(slots) => {
                let fd = slots.socket_for(process, address)?;
                self.watch_slot(id, process, &fd)?;
                Ok(Some(fd))
            }
        }
    }

    fn listening(&mut self, id: WorkerId, query: &Query) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let listeners = &self.listeners.all;
        let found = worker.holds.iter_mut().find(|(listener, hold)| {
            let asked = &hold.query;
            let bound = listeners.get(listener).and_then(|l| l.inet()).map(|address| i32::from(address.port()));
            !hold.listening
                && (asked.index, &asked.address, &asked.address_type, asked.fd)
                    == (query.index, &query.address, &query.address_type, query.fd)
                && (asked.port == query.port || (bound.is_some() && bound == query.port))
        });
        let Some((listener, hold)) = found else { return };
        hold.listening = true;
        let listener = *listener;
        let Some(entry) = self.listeners.all.get(&listener) else { return };
        let address = entry.text();
        if entry.kind == Kind::Stream {
            self.restore_backlog(listener, id);
        }
        self.refresh(listener);
        self.announce(id, address);
        self.pump(listener);
    }

    /// The worker's own listen() has set Node's 511 on the socket that outlives it.
    fn restore_backlog(&self, listener: ListenerId, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let fd = match self.listeners.all.get(&listener).map(|l| &l.sockets) {
            Some(Sockets::Shared(fd)) => fd,
            Some(Sockets::Slots(slots)) => match slots.all.get(&worker.process) {
                Some(slot) => &slot.fd,
                None => return,
            },
            Some(Sockets::Dealt(_)) | None => return,
        };
        if let Err(error) = socket::listen(fd, bind::BACKLOG) {
            tracing::debug!(%error, "backlog stays as the worker has set it");
        }
    }

    fn closed(&mut self, id: WorkerId, key: &str) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(listener) = key.parse().ok().map(ListenerId) else { return };
        if worker.holds.remove(&listener).is_none() {
            return;
        }
        let (app, meant) = (worker.app, !worker.terminating);
        if meant && let Some(entry) = self.listeners.all.get(&listener) {
            // So that it is told anew when the server comes back.
            worker.announced.remove(&entry.text());
        }
        self.refresh(listener);
        self.pump(listener);
        if meant {
            self.arm(Due::Abandoned(listener), ABANDONED);
        }
        self.look_after_files(app);
    }
}
