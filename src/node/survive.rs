//! What the primary of the next daemon must know, so that workers notice nothing.
//!
//! The state is written down before anything that follows from it can be seen: before a worker gets a socket, before
//! what a worker said is taken off its channel. A daemon that dies in between hears it again and does the same again.
//! Sockets are kept in the store under the names `l3` (listener 3), `l3-p7` (its socket for row 7), `l3-spare` and
//! `l3-program`, `l3-state`, `l3-sockets` (its steering); channels by the daemon, as `w5-channel`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bind::Wanted;
use super::channel::{Channel, Residue};
use super::listener::{Dealt, Listener, ListenerId, Origin, Sockets};
use super::message::Query;
use super::primary::NodeEvent;
use super::slots::{SavedSlots, Slots};
use super::task::{Task, Token};
use super::worker::{Drain, Hold, Worker};
use crate::core::{AppId, Balance, ProcessId, WorkerId};
use crate::sys::epoll::Interest;
use crate::sys::identity::Identity;
use crate::sys::snapshot::Snapshot;
use crate::sys::socket::{self, Address, Kind};
use crate::sys::store::Store;

/// The name of the snapshot in the store.
const NAME: &str = "node";

/// The name of a worker's channel in the store.
#[must_use]
pub fn channel_name(worker: WorkerId) -> String {
    format!("w{worker}-channel")
}

/// What is written down in this store: the state of a primary, for [`check_kept`].
#[must_use]
pub fn kept(store: &Store) -> Option<Vec<u8>> {
    if store.names(NAME).is_empty() {
        return None;
    }
    Snapshot::open(store, NAME).ok()?.1
}

/// Writes down in this store, in which nothing is, what another one had: for a daemon that finds it elsewhere. Sockets are
/// to be put there under their names by the caller, those that can be had.
///
/// # Errors
/// What keeps it from being written or understood.
pub fn keep_again(store: &Store, state: &Value) -> std::io::Result<()> {
    let (mut snapshot, _) = Snapshot::open(store, NAME)?;
    snapshot.write(&serde_json::to_vec(state)?)
}

/// The workers that cannot serve without a channel, by the state that [`kept`] gave: the supervisor accepts for them.
///
/// # Errors
/// What is not understood.
pub fn lost_without_channel(state: &Value) -> Result<BTreeSet<WorkerId>, serde_json::Error> {
    let saved = Saved::deserialize(state)?;
    let dealt: BTreeSet<u32> = saved
        .listeners
        .iter()
        .filter(|listener| matches!(listener.sockets, SavedSockets::Dealt { .. }))
        .map(|listener| listener.id)
        .collect();
    let is_lost = |worker: &&SavedWorker| worker.holds.iter().any(|hold| dealt.contains(&hold.listener));
    Ok(saved.workers.iter().filter(is_lost).map(|worker| worker.id).collect())
}

/// Whether something of this name in the store is of a listener: `l3`, `l3-p7`.
#[must_use]
pub fn is_of_listener(name: &str) -> bool {
    name.strip_prefix('l').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Lets go of all listeners and of what was written down of them.
pub fn release_kept(store: &Store) {
    for name in store.names("l").iter().filter(|name| is_of_listener(name)) {
        store.release(name);
    }
    store.release_all("node-");
}

/// Whether a primary of this release would understand what another one wrote down.
///
/// # Errors
/// What it does not understand.
pub fn check_kept(state: Value) -> Result<(), serde_json::Error> {
    serde_json::from_value::<Saved>(state).map(drop)
}

/// All of it. Fields may be added with a default, none may change its meaning: releases read each other's.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    last_listener: u32,
    listeners: Vec<SavedListener>,
    workers: Vec<SavedWorker>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedListener {
    id: u32,
    app: AppId,
    /// Other apps that share it.
    #[serde(default)]
    with: BTreeSet<AppId>,
    #[serde(default)]
    uid: Option<u32>,
    wanted: Wanted,
    index: Option<u32>,
    data: Value,
    claims: BTreeSet<ProcessId>,
    origin: SavedOrigin,
    /// Where it is bound, of internet sockets.
    #[serde(default)]
    address: Option<SocketAddr>,
    handed_out: bool,
    sockets: SavedSockets,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedOrigin {
    Bound,
    File(Identity),
    Inherited,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedSockets {
    Shared,
    Dealt { sticky: bool },
    Slots(SavedSlots),
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedWorker {
    id: WorkerId,
    process: ProcessId,
    app: AppId,
    identity: Identity,
    cluster: bool,
    balance: Balance,
    agent_loaded: bool,
    admitted: bool,
    agent: bool,
    online: bool,
    holds: Vec<SavedHold>,
    announced: BTreeSet<String>,
    #[serde(default)]
    listened: bool,
    draining: Option<bool>,
    terminating: bool,
    /// Without the agent: a ping is under way.
    #[serde(default)]
    pinged: bool,
    #[serde(default)]
    residue: Residue,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedHold {
    listener: u32,
    query: Query,
    listening: bool,
}

/// The snapshot as the task keeps it; inert where nothing is to survive.
#[derive(Debug, Default)]
pub(super) struct Memory {
    store: Store,
    snapshot: Option<Snapshot>,
    /// Something changed since it was written.
    pub changed: bool,
}

impl Task {
    /// Takes over what the primary before this one left in the store, and tells what is true of its workers.
    pub(super) fn take_over(&mut self) {
        let store = self.config.store.clone();
        if !store.keeps() {
            return;
        }
        let found = match Snapshot::open(&store, NAME) {
            Ok((snapshot, found)) => {
                self.memory = Memory { store: store.clone(), snapshot: Some(snapshot), changed: true };
                found
            }
            Err(error) => return tracing::warn!(%error, "cannot keep Node's channels for the next daemon"),
        };
        let saved = match found.map(|bytes| serde_json::from_slice::<Saved>(&bytes)).transpose() {
            Ok(saved) => saved.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "cannot understand what the daemon before kept of Node's channels");
                Saved::default()
            }
        };
        self.listeners.continue_after(saved.last_listener);
        for listener in saved.listeners {
            let id = listener.id;
            if self.take_over_listener(listener).is_none() {
                tracing::warn!(listener = id, "cannot take over a listening socket");
            }
        }
        for worker in saved.workers {
            self.take_over_worker(worker);
        }
        let all: Vec<_> = self.listeners.all.keys().copied().collect();
        for id in all {
            self.refresh(id);
            self.pump(id);
        }
        self.remember();
    }

    fn take_over_listener(&mut self, saved: SavedListener) -> Option<()> {
        let id = ListenerId(saved.id);
        let store = &self.config.store;
        let get = |suffix: &str| store.get(&format!("l{}{suffix}", saved.id)).map(Arc::new);
        let (sockets, any) = match saved.sockets {
            SavedSockets::Shared => get("").map(|fd| (Sockets::Shared(Arc::clone(&fd)), Some(fd)))?,
            SavedSockets::Dealt { sticky } => {
                let fd = get("")?;
                self.watch_dealt(id, &fd).ok()?;
                (Sockets::Dealt(Dealt { fd: Arc::clone(&fd), sticky, watched: false }), Some(fd))
            }
            SavedSockets::Slots(saved) => {
                let slots = Slots::again(saved, get);
                let any = slots.any();
                (Sockets::Slots(slots), any)
            }
        };
        // With no socket left, workers that have theirs serve on, and others will be bound to the same address.
        let (address, kind) = match any {
            Some(any) => (socket::local_address(&any).ok()?, socket::kind(&any).ok()?),
            None => (Address::Inet(saved.address?), Kind::Stream),
        };
        let listener = Listener {
            apps: saved.with.into_iter().chain([saved.app]).collect(),
            uid: saved.uid,
            wanted: saved.wanted,
            index: saved.index,
            address,
            kind,
            sockets,
            data: saved.data,
            claims: saved.claims,
            origin: match saved.origin {
                SavedOrigin::Bound => Origin::Bound,
                SavedOrigin::File(who) => Origin::File(who),
                SavedOrigin::Inherited => Origin::Inherited,
            },
            handed_out: saved.handed_out,
            homeless: VecDeque::new(),
            last: None,
        };
        self.listeners.all.insert(id, listener);
        if let Some(Sockets::Slots(slots)) = self.listeners.all.get(&id).map(|listener| &listener.sockets) {
            let all: Vec<_> = slots.all.iter().map(|(process, slot)| (*process, Arc::clone(&slot.fd))).collect();
            let retiring: Vec<_> = slots.retiring().collect();
            for (process, fd) in all {
                self.watch_slot(id, process, &fd).ok()?;
            }
            for process in retiring {
                self.go_on_retiring(id, process);
            }
        }
        Some(())
    }

    fn take_over_worker(&mut self, saved: SavedWorker) {
        let id = saved.id;
        let channel = self.config.store.get(&channel_name(id)).and_then(|fd| Channel::again(fd, saved.residue).ok());
        let writing = channel.as_ref().is_some_and(Channel::is_writing);
        let interest = if writing { Interest::MoreReadableOrWritable } else { Interest::MoreReadable };
        if let Some(channel) = &channel
            && let Err(error) = self.epoll.add(channel, Token::Channel(id).number(), interest)
        {
            return tracing::warn!(worker = id.0, %error, "cannot watch the worker's channel");
        }
        let holds = saved
            .holds
            .into_iter()
            .map(|hold| (ListenerId(hold.listener), Hold { query: hold.query, listening: hold.listening }));
        let holds: BTreeMap<_, _> = holds.filter(|(id, _)| self.listeners.all.contains_key(id)).collect();
        let worker = Worker {
            process: saved.process,
            app: saved.app,
            identity: saved.identity,
            cluster: saved.cluster,
            balance: saved.balance,
            channel,
            ended: false,
            agent_loaded: saved.agent_loaded,
            admitted: saved.admitted,
            agent: saved.agent,
            online: saved.online,
            holds,
            listened: saved.listened || !saved.announced.is_empty(),
            announced: saved.announced,
            unanswered: BTreeMap::new(),
            // Without the agent a ping must not overtake a handle, and one may be under way.
            handles_out: u32::from(!saved.agent),
            ping: saved.pinged.then(tokio::time::Instant::now),
            deferred: VecDeque::new(),
            hung: false,
            draining: saved.draining.map(|done| if done { Drain::Done } else { Drain::Asked }),
            terminating: saved.terminating,
        };
        // The daemon may not have got to hear of it.
        if worker.online {
            self.tell(NodeEvent::Online { worker: id });
        }
        for address in &worker.announced {
            self.waiting.push_back(NodeEvent::Listening { worker: id, address: address.clone() });
        }
        self.workers.insert(id, worker);
    }

    /// Writes down how things are, if that has changed.
    pub(super) fn remember(&mut self) {
        if std::mem::take(&mut self.memory.changed) {
            self.write_down(false);
        }
    }

    /// The same, with what lies between two messages: nothing is read or written after this.
    pub(super) fn remember_all(&mut self) {
        self.write_down(true);
    }

    fn write_down(&mut self, with_residue: bool) {
        if self.memory.snapshot.is_none() {
            return;
        }
        let (saved, fds) = self.saved(with_residue);
        let Memory { store, snapshot: Some(snapshot), .. } = &mut self.memory else { return };
        let mut known = store.names("l");
        known.retain(|name| is_of_listener(name));
        for (name, fd) in &fds {
            if !known.contains(name) {
                store.keep(name, fd);
            }
        }
        let written = serde_json::to_vec(&saved).map_err(Into::into).and_then(|bytes| snapshot.write(&bytes));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write down the state of Node's channels for the next daemon");
        }
        // Only when nothing written says that they are there.
        for name in known.iter().filter(|name| !fds.contains_key(*name)) {
            store.release(name);
        }
    }

    fn saved(&self, with_residue: bool) -> (Saved, BTreeMap<String, Arc<OwnedFd>>) {
        let mut fds = BTreeMap::new();
        let listeners = self.listeners.all.iter().filter_map(|(id, listener)| {
            let app = listener.apps.first().copied()?;
            let name = format!("l{}", id.0);
            let sockets = match &listener.sockets {
                Sockets::Shared(fd) => {
                    fds.insert(name, Arc::clone(fd));
                    SavedSockets::Shared
                }
                Sockets::Dealt(dealt) => {
                    fds.insert(name, Arc::clone(&dealt.fd));
                    SavedSockets::Dealt { sticky: dealt.sticky }
                }
                Sockets::Slots(slots) => {
                    let (saved, own) = slots.saved();
                    fds.extend(own.into_iter().map(|(suffix, fd)| (format!("{name}{suffix}"), fd)));
                    SavedSockets::Slots(saved)
                }
            };
            Some(SavedListener {
                id: id.0,
                app,
                with: listener.apps.iter().copied().filter(|other| *other != app).collect(),
                uid: listener.uid,
                wanted: listener.wanted.clone(),
                index: listener.index,
                data: listener.data.clone(),
                claims: listener.claims.clone(),
                origin: match &listener.origin {
                    Origin::Bound => SavedOrigin::Bound,
                    Origin::File(who) => SavedOrigin::File(who.clone()),
                    Origin::Inherited => SavedOrigin::Inherited,
                },
                address: listener.inet(),
                handed_out: listener.handed_out,
                sockets,
            })
        });
        let listeners = listeners.collect();
        let workers = self.workers.iter().map(|(id, worker)| SavedWorker {
            id: *id,
            process: worker.process,
            app: worker.app,
            identity: worker.identity.clone(),
            cluster: worker.cluster,
            balance: worker.balance,
            agent_loaded: worker.agent_loaded,
            admitted: worker.admitted,
            agent: worker.agent,
            online: worker.online,
            holds: worker
                .holds
                .iter()
                .map(|(id, hold)| SavedHold { listener: id.0, query: hold.query.clone(), listening: hold.listening })
                .collect(),
            announced: worker.announced.clone(),
            listened: worker.listened,
            draining: worker.draining.map(|drain| drain == Drain::Done),
            terminating: worker.terminating,
            pinged: worker.ping.is_some() && !worker.agent,
            residue: worker.channel.as_ref().filter(|_| with_residue).map(Channel::residue).unwrap_or_default(),
        });
        (Saved { last_listener: self.listeners.last(), listeners, workers: workers.collect() }, fds)
    }
}
