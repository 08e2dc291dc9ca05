//! The task that owns every channel and every listening socket: its loop and what it is told.
//!
//! One epoll instance holds all descriptors, so that for each of them it is decided separately what is waited for;
//! nothing is polled. The loop never blocks; what may (a path on a slow file system) is done elsewhere and comes back
//! as a command.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channel::{Channel, Violation};
use super::listener::{Inherited, Listener, ListenerId, Listeners, Origin};
use super::message;
use super::opening::{Opening, Order};
use super::primary::{Attachment, Command, ListenerInfo, NodeEvent, PrimaryConfig};
use super::survive::Memory;
use super::worker::Worker;
use crate::core::{AppId, ProcessId, WorkerId};
use crate::sys::epoll::{Epoll, Interest, Readiness};
use crate::sys::socket::{self, Kind};

/// State of the primary.
pub(super) struct Task {
    pub(super) config: PrimaryConfig,
    pub(super) commands: mpsc::WeakUnboundedSender<Command>,
    inbox: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<NodeEvent>,
    /// Events that did not fit; while there are any, nothing is read.
    pub(super) waiting: VecDeque<NodeEvent>,
    pub(super) epoll: Epoll,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) listeners: Listeners,
    /// Paths that are being bound, and who waits for them.
    pub(super) opening: Vec<Opening>,
    /// Workers whose channel may hold more.
    pub(super) readable: VecDeque<WorkerId>,
    timers: BTreeSet<(Instant, Due)>,
    /// Number of our last message of Node's cluster layer. Begins high and differs from start to start, so that a late
    /// answer to an earlier supervisor is not taken for one to us.
    seq: u64,
    pub(super) buffer: Box<[u8]>,
    pub(super) memory: Memory,
}

/// What is to be done at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A drain has had its time.
    Drain(WorkerId),
    /// A connection may have waited too long for a worker's answer.
    Overdue(WorkerId),
    /// A look at the queues of a listener's slots.
    Tick(ListenerId),
    /// The last server on a listener was closed a while ago.
    Abandoned(ListenerId),
    /// And newcomers have had their time to ask for it.
    Left(ListenerId),
    /// What a row's new worker has not asked for by now is not wanted any more.
    Settled(AppId, ProcessId),
    /// A slot whose row is gone may have emptied.
    Retire(ListenerId, ProcessId),
}

/// What an epoll token names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Channel(WorkerId),
    Dealt(ListenerId),
    Slot(ListenerId, ProcessId),
}

impl Token {
    /// Two bits of kind, 31 of the listener, 31 of the row. Listeners and rows are counted from 0, two thousand million
    /// of them do not happen.
    pub fn number(self) -> u64 {
        match self {
            Token::Channel(worker) => u64::from(worker.0),
            Token::Dealt(listener) => 1 << 62 | u64::from(listener.0) << 31,
            Token::Slot(listener, process) => {
                2 << 62 | u64::from(listener.0) << 31 | u64::from(process.0 & 0x7fff_ffff)
            }
        }
    }

    fn from_number(number: u64) -> Token {
        let listener = ListenerId(u32::try_from(number >> 31 & 0x7fff_ffff).unwrap_or_default());
        match number >> 62 {
            0 => Token::Channel(WorkerId(u32::try_from(number).unwrap_or_default())),
            1 => Token::Dealt(listener),
            _ => Token::Slot(listener, ProcessId(u32::try_from(number & 0x7fff_ffff).unwrap_or_default())),
        }
    }
}

impl Task {
    pub(super) fn new(
        config: PrimaryConfig,
        commands: mpsc::WeakUnboundedSender<Command>,
        inbox: mpsc::UnboundedReceiver<Command>,
        events: mpsc::Sender<NodeEvent>,
    ) -> std::io::Result<Task> {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut task = Task {
            config,
            commands,
            inbox,
            events,
            waiting: VecDeque::new(),
            epoll: Epoll::new()?,
            workers: BTreeMap::new(),
            listeners: Listeners::default(),
            opening: Vec::new(),
            readable: VecDeque::new(),
            timers: BTreeSet::new(),
            // Below 2^53, where JavaScript's numbers are exact.
            seq: since_epoch.as_secs() << 20,
            buffer: Channel::buffer(),
            memory: Memory::default(),
        };
        task.take_over();
        Ok(task)
    }

    pub(super) async fn run(mut self) {
        loop {
            self.run_due();
            self.pass_events_on();
            let next = self.timers.first().map(|(at, _)| *at);
            let blocked = !self.waiting.is_empty();
            let unread = !blocked && !self.readable.is_empty();
            let wake = tokio::select! {
                biased;
                command = self.inbox.recv() => Wake::Command(command),
                permit = self.events.clone().reserve_owned(), if blocked => Wake::Room(permit.ok()),
                told = self.epoll.next(), if !blocked => Wake::Ready(told),
                () = tokio::task::yield_now(), if unread => Wake::Unread,
                () = sleep_until(next), if next.is_some() => Wake::Due,
            };
            match wake {
                Wake::Command(Some(Command::Pause { reply, end })) => {
                    self.remember_all();
                    let _ = reply.send(());
                    if end.await.is_err() {
                        return;
                    }
                    self.memory.changed = true;
                }
                Wake::Command(Some(command)) => self.obey(command),
                Wake::Room(Some(permit)) => {
                    if let Some(event) = self.waiting.pop_front() {
                        permit.send(event);
                    }
                }
                // Nobody can tell us anything, or nobody listens.
                Wake::Command(None) | Wake::Room(None) => return,
                Wake::Ready(Ok(told)) => {
                    for one in told {
                        self.told(one);
                    }
                    self.read_once_each();
                }
                Wake::Ready(Err(error)) => {
                    tracing::error!(%error, "cannot wait for workers any more");
                    return;
                }
                Wake::Unread => self.read_once_each(),
                Wake::Due => (),
            }
            self.remember();
        }
    }

    pub(super) fn pass_events_on(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            if let Err(error) = self.events.try_send(event) {
                self.waiting.push_front(error.into_inner());
                return;
            }
        }
    }

    pub(super) fn tell(&mut self, event: NodeEvent) {
        self.waiting.push_back(event);
    }

    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn arm(&mut self, due: Due, after: Duration) {
        self.timers.insert((Instant::now() + after, due));
    }

    /// Whether it is to be done some time.
    pub(super) fn awaits(&self, wanted: &Due) -> bool {
        self.timers.iter().any(|(_, due)| due == wanted)
    }

    pub(super) fn disarm(&mut self, unwanted: impl Fn(&Due) -> bool) {
        self.timers.retain(|(_, due)| !unwanted(due));
    }

    fn run_due(&mut self) {
        let now = Instant::now();
        while let Some((at, due)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            self.memory.changed |= !matches!(due, Due::Tick(_) | Due::Overdue(_));
            match due {
                Due::Drain(worker) => self.drained(worker, 0),
                Due::Overdue(worker) => self.look_for_overdue(worker),
                Due::Tick(listener) => self.tick(listener),
                Due::Abandoned(listener) => self.close_if_abandoned(listener),
                Due::Left(listener) => self.close_if_left(listener),
                Due::Settled(app, process) => self.settle_claims(app, process),
                Due::Retire(listener, process) => self.retire(listener, process),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        self.memory.changed |= !matches!(command, Command::Send { .. } | Command::Listeners { .. });
        match command {
            // Taken by the loop.
            Command::Pause { .. } => (),
            Command::AddInherited { name, fd } => self.add_inherited(name, fd),
            Command::Attach(attachment) => self.attach(*attachment),
            Command::Send { worker, message } => self.send_message(worker, &message),
            Command::Drain { worker, timeout_ms } => self.drain(worker, timeout_ms),
            Command::Admit { worker } => self.admit(worker),
            Command::HandOver { worker, port, connection, reply } => {
                // Nobody waits any more: nothing to do.
                let _ = reply.send(self.hand_over(worker, port, connection));
            }
            Command::Terminating { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.terminating = true;
                }
            }
            Command::Detach { worker } => self.detach(worker),
            Command::RemoveProcess { process } => self.remove_process(process),
            Command::RemoveApp { app } => self.remove_app(app),
            Command::Listeners { app, reply } => {
                // Nobody waits any more: nothing to do.
                let _ = reply.send(self.listeners_of(app));
            }
            Command::Open { app, process, who, address, reply } => {
                self.open(app, &who, Order { process, address, reply });
            }
            Command::Named { app, process, who, name, reply } => {
                // Nobody waits any more: nothing to do.
                let _ = reply.send(self.named(app, process, &who, &name));
            }
            Command::PathBound { app, path, result } => self.path_bound(app, &path, result),
        }
    }

    fn add_inherited(&mut self, name: String, fd: OwnedFd) {
        let looked = socket::set_nonblocking(&fd)
            .and_then(|()| socket::local_address(&fd))
            .and_then(|address| socket::kind(&fd).map(|kind| (address, kind)));
        match looked {
            Ok((address, kind)) => {
                let v6_only = socket::is_v6_only(&fd);
                // The daemon before may have given it to an app.
                let same =
                    |l: &&Listener| matches!(l.origin, Origin::Inherited) && l.address == address && l.kind == kind;
                let taken = self.listeners.all.values().find(same).and_then(|listener| listener.apps.first().copied());
                self.listeners.inherited.push(Inherited { name, fd: Arc::new(fd), address, kind, v6_only, taken });
            }
            Err(error) => tracing::warn!(name, %error, "cannot use what systemd passed: it is no socket for servers"),
        }
    }

    fn attach(&mut self, attachment: Attachment) {
        let Attachment { worker: id, process, app, instance: _, identity, cluster, balance, agent, admitted, channel } =
            attachment;
        if self.workers.contains_key(&id) {
            // Taken over. The daemon before may have died between its decision to admit it and our hearing of it.
            if admitted {
                self.admit(id);
            }
            return;
        }
        let channel = match Channel::new(channel) {
            Ok(channel) => channel,
            Err(error) => {
                return self.tell(NodeEvent::Misbehaved { worker: id, reason: Violation::Broken(error).to_string() });
            }
        };
        if let Err(error) = self.epoll.add(&channel, Token::Channel(id).number(), Interest::MoreReadable) {
            return self.tell(NodeEvent::Misbehaved { worker: id, reason: Violation::Broken(error).to_string() });
        }
        let worker = Worker {
            process,
            app,
            identity,
            cluster,
            balance,
            channel: Some(channel),
            ended: false,
            agent_loaded: agent && cluster,
            agent: false,
            online: false,
            holds: BTreeMap::new(),
            announced: BTreeSet::new(),
            listened: false,
            unanswered: BTreeMap::new(),
            handles_out: 0,
            ping: None,
            deferred: VecDeque::new(),
            hung: false,
            // Without the agent it accepts as soon as it listens, and is to be looked after then.
            admitted: admitted || !agent || !cluster,
            draining: None,
            terminating: false,
        };
        let (agent, admitted) = (worker.agent_loaded, worker.admitted);
        self.workers.insert(id, worker);
        if agent {
            // Said to admitted ones as well: the supervisor before may have died between its decision and its word.
            self.write(id, if admitted { message::admit() } else { message::wait() }, None);
        }
        self.tell_held(app);
    }

    fn told(&mut self, ready: Readiness) {
        match Token::from_number(ready.token) {
            Token::Channel(id) => {
                let Some(worker) = self.workers.get_mut(&id) else { return };
                worker.ended |= ready.ended;
                if ready.readable && !self.readable.contains(&id) {
                    self.readable.push_back(id);
                }
                if ready.writable {
                    self.flush(id);
                }
            }
            Token::Dealt(listener) => self.pump(listener),
            Token::Slot(listener, process) => self.slot_readable(listener, process),
        }
    }

    /// Workers that have no server yet are to find the app's ports free though its sockets are there.
    pub(super) fn tell_held(&mut self, app: AppId) {
        let stream = self.listeners.of_app(app).filter(|(_, listener)| listener.kind == Kind::Stream);
        let ports: Vec<u16> = stream.filter_map(|(_, listener)| listener.inet()).map(|a| a.port()).collect();
        let starting = self.workers.iter().filter(|(_, w)| w.app == app && w.agent_loaded && w.announced.is_empty());
        let starting: Vec<_> = starting.map(|(worker, _)| *worker).collect();
        for worker in starting.into_iter().filter(|_| !ports.is_empty()) {
            self.write(worker, message::held(&ports), None);
        }
    }

    fn detach(&mut self, id: WorkerId) {
        // What it said last is still to be heard, `ready` or an exception report for instance.
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.ended = true;
        }
        for _ in 0..64 {
            if self.workers.get(&id).is_none_or(|worker| worker.channel.is_none()) {
                break;
            }
            self.read(id);
        }
        self.close_channel(id);
        let Some(mut worker) = self.workers.remove(&id) else { return };
        self.readable.retain(|other| *other != id);
        self.disarm(|due| matches!(due, Due::Drain(worker) | Due::Overdue(worker) if *worker == id));
        for (_, connection) in std::mem::take(&mut worker.unanswered) {
            self.take_back(connection);
        }
        for listener in worker.holds.into_keys() {
            self.refresh(listener);
            self.pump(listener);
        }
        self.look_after_files(worker.app);
    }

    fn listeners_of(&self, app: AppId) -> Vec<ListenerInfo> {
        let accepting = |id| {
            let own = self.workers.iter().filter(move |(_, w)| w.app == app);
            let holders = own.filter(move |(_, w)| w.holds.get(&id).is_some_and(|hold| hold.listening));
            holders.map(|(worker, _)| *worker).collect()
        };
        let info = |(id, listener): (ListenerId, &Listener)| ListenerInfo {
            address: listener.text(),
            balance: listener.balance(),
            inherited: matches!(listener.origin, Origin::Inherited),
            workers: accepting(id),
        };
        self.listeners.of_app(app).map(info).collect()
    }
}

/// Why the loop goes round.
enum Wake {
    Command(Option<Command>),
    Room(Option<mpsc::OwnedPermit<NodeEvent>>),
    Ready(std::io::Result<Vec<Readiness>>),
    Unread,
    Due,
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
