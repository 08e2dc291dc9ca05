//! One connection that is served: who is at the other end, how much they may ask at a time, what they are told.
//!
//! On a bus many callers share a connection and are told apart by their unique names; on a private socket there is
//! one. Who they are comes from the bus or the kernel, never from a message.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{Notify, broadcast};
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::BusName;
use zbus::proxy::CacheProperties;
use zbus::{Connection, Message};

use super::authority::Asker;
use crate::api::Error;
use crate::core::Uid;
use crate::daemon::Caller;

/// Calls of one caller that are being answered at a time. Waiting for a job is one.
const CALLS_OF_ONE: usize = 64;
/// Calls of one user, over however many connections to the bus; root may have more.
const CALLS_OF_A_USER: usize = 256;
/// Calls of all callers of a connection.
const CALLS_OF_ALL: usize = 4096;
/// Callers on a bus whose credentials are remembered. The bus never gives a unique name to somebody else, so what is
/// remembered stays true; the bound is for memory.
const KNOWN_CALLERS: usize = 256;

/// A served connection.
#[derive(Debug)]
pub(super) struct Peer {
    connection: Connection,
    kind: Kind,
    in_hand: Mutex<Counts>,
    subscription: Mutex<Subscription>,
    subscribed: Notify,
}

#[derive(Debug)]
enum Kind {
    Bus { polkit_knows_names: bool, known: Mutex<Known> },
    Private { uid: u32, pid: u32 },
}

/// Signals on their way from the first look to the connection's loop.
#[derive(Debug, Default)]
struct Subscription {
    made: bool,
    signals: Option<broadcast::Receiver<Message>>,
}

/// Calls in hand, by sender and, once that is known, by user.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    senders: HashMap<String, usize>,
    users: HashMap<u32, usize>,
}

#[derive(Debug, Default)]
struct Known {
    callers: HashMap<String, (u32, u32)>,
    order: VecDeque<String>,
}

impl Peer {
    /// A message bus; `system` when it is the one that polkit is on too.
    pub(super) fn bus(connection: Connection, system: bool) -> Peer {
        Peer::new(connection, Kind::Bus { polkit_knows_names: system, known: Mutex::default() })
    }

    /// The process that connected to a private socket.
    pub(super) fn private(connection: Connection, uid: u32, pid: u32) -> Peer {
        Peer::new(connection, Kind::Private { uid, pid })
    }

    fn new(connection: Connection, kind: Kind) -> Peer {
        Peer { connection, kind, in_hand: Mutex::default(), subscription: Mutex::default(), subscribed: Notify::new() }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn is_bus(&self) -> bool {
        matches!(self.kind, Kind::Bus { .. })
    }

    /// Notes that the peer looks at an object, so that it is told of changes from now on. A private peer has no match
    /// rules to say so, and a command that only starts something need not hear of a thousand processes.
    pub(super) fn subscribe(&self, signals: &broadcast::Sender<Message>) {
        let mut subscription = locked(&self.subscription);
        if !subscription.made {
            subscription.made = true;
            subscription.signals = Some(signals.subscribe());
            self.subscribed.notify_one();
        }
    }

    /// The signals since the peer looked at an object; returns once it has, and only once.
    pub(super) async fn subscription(&self) -> Option<broadcast::Receiver<Message>> {
        self.subscribed.notified().await;
        locked(&self.subscription).signals.take()
    }

    /// Who sent this call.
    pub(super) async fn caller(&self, call: &Header<'_>) -> Result<Caller, Error> {
        let (uid, pid) = match &self.kind {
            Kind::Private { uid, pid } => (*uid, *pid),
            Kind::Bus { known, .. } => self.credentials(call, known).await?,
        };
        Ok(Caller { uid: Uid(uid), pid, privileged: false })
    }

    /// How to name them to polkit; `None` where polkit has no say.
    pub(super) fn asker<'m>(&self, call: &'m Header<'m>) -> Option<Asker<'m>> {
        match &self.kind {
            Kind::Private { uid, pid } => Some(Asker::OnSocket { uid: *uid, pid: *pid, call }),
            Kind::Bus { polkit_knows_names, .. } => polkit_knows_names.then_some(Asker::OnBus(call)),
        }
    }

    async fn credentials(&self, call: &Header<'_>, known: &Mutex<Known>) -> Result<(u32, u32), Error> {
        let unknown = |cause: &dyn std::fmt::Display| Error::AccessDenied(format!("cannot tell who calls: {cause}"));
        let sender = call.sender().ok_or_else(|| unknown(&"the call has no sender"))?;
        if let Some(credentials) = locked(known).callers.get(sender.as_str()) {
            return Ok(*credentials);
        }
        let bus = DBusProxy::builder(&self.connection).cache_properties(CacheProperties::No).build().await;
        let bus = bus.map_err(|error| unknown(&error))?;
        let answer = bus.get_connection_credentials(BusName::Unique(sender.clone())).await;
        let answer = answer.map_err(|error| unknown(&error))?;
        let uid = answer.unix_user_id().ok_or_else(|| unknown(&"the bus does not know their uid"))?;
        let credentials = (uid, answer.process_id().unwrap_or(0));
        locked(known).remember(sender.as_str(), credentials);
        Ok(credentials)
    }

    /// Takes a call in hand; `None` when the caller has too many in hand already.
    pub(super) fn admit(self: &Arc<Self>, call: &Header<'_>) -> Option<InHand> {
        let sender = call.sender().map(ToString::to_string).unwrap_or_default();
        let mut counts = locked(&self.in_hand);
        if counts.all >= CALLS_OF_ALL || !up(&mut counts.senders, sender.clone(), CALLS_OF_ONE) {
            return None;
        }
        counts.all += 1;
        Some(InHand { peer: Arc::clone(self), sender, user: OnceLock::new() })
    }
}

impl Known {
    fn remember(&mut self, sender: &str, credentials: (u32, u32)) {
        if self.callers.insert(sender.to_owned(), credentials).is_none() {
            self.order.push_back(sender.to_owned());
        }
        while self.order.len() > KNOWN_CALLERS {
            self.order.pop_front().map(|oldest| self.callers.remove(&oldest));
        }
    }
}

/// A call being answered; counts until it is dropped.
#[derive(Debug)]
pub(super) struct InHand {
    peer: Arc<Peer>,
    sender: String,
    user: OnceLock<u32>,
}

impl InHand {
    /// Counts the call for its user too; false when they have too many in hand already.
    pub(super) fn count_for(&self, uid: u32) -> bool {
        if uid == 0 || self.user.get().is_some() {
            return true;
        }
        let admitted = up(&mut locked(&self.peer.in_hand).users, uid, CALLS_OF_A_USER);
        if admitted {
            let _ = self.user.set(uid);
        }
        admitted
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut counts = locked(&self.peer.in_hand);
        counts.all -= 1;
        down(&mut counts.senders, &self.sender);
        if let Some(uid) = self.user.get() {
            down(&mut counts.users, uid);
        }
    }
}

fn up<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, bound: usize) -> bool {
    let count = counts.entry(key).or_default();
    let free = *count < bound;
    *count += usize::from(free);
    free
}

fn down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// A lock that a panic elsewhere has not made useless: what it guards is whole after every statement.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_callers_are_remembered() {
        let mut known = Known::default();
        for number in 0..KNOWN_CALLERS + 10 {
            known.remember(&format!(":1.{number}"), (1000, 1));
            known.remember(":1.5", (1000, 1));
        }
        assert_eq!(known.callers.len(), KNOWN_CALLERS);
        assert_eq!(known.order.len(), KNOWN_CALLERS);
    }
}
