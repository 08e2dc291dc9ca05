//! How long an address is kept: as long as a row of an app that has it wants it.
//!
//! A row claims an address when one of its workers asks for it, and the claim outlives the worker: between two workers
//! connections wait. It ends when the row is removed (then rows that have only just begun inherit it), when the app
//! closes its server and lives on, or when the row's new worker does not ask for it any more; at once when the app asks for
//! another address that it is in the way of. Apps that share an address leave it one by one.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::bind::{self, Wanted};
use super::listener::{ListenerId, Origin, Sockets};
use super::query::SETTLED;
use super::task::{Due, Task};
use super::worker::Worker;
use crate::core::{AppId, ProcessId};
use crate::sys::socket::{self, Kind};

impl Task {
    pub(super) fn is_held(&self, listener: ListenerId) -> bool {
        self.workers.values().any(|worker| worker.holds.contains_key(&listener))
    }

    /// The app closed its server while it lives on: it does not want the address any more, and others may. Unless a worker
    /// has only just begun: it may be about to ask for it, and connections wait for that. One that takes long may never listen.
    pub(super) fn close_if_abandoned(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.all.get(&id) else { return };
        let begins = |worker: &Worker| !worker.listened && !worker.ended && !worker.terminating;
        let awaited = self.workers.values().any(|worker| listener.apps.contains(&worker.app) && begins(worker));
        if awaited && !self.is_held(id) {
            return self.arm(Due::Left(id), SETTLED);
        }
        self.close_if_left(id);
    }

    pub(super) fn close_if_left(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.all.get(&id) else { return };
        let has_left = |app: &AppId| {
            let mut own = self.workers.values().filter(|worker| worker.app == *app).peekable();
            own.peek().is_some() && own.all(|worker| !worker.terminating && !worker.holds.contains_key(&id))
        };
        if listener.handed_out {
            return;
        }
        let leaving: Vec<_> = listener.apps.iter().copied().filter(has_left).collect();
        for app in leaving {
            self.leave(id, app);
        }
    }

    /// An app that closes a server and opens another on the same port of other addresses, as those do that look for a
    /// free port, or whose next worker does, is not to meet its own past there: what none of its workers has any more goes.
    /// Whether anything went.
    pub(super) fn give_up_unused(&mut self, app: AppId, wanted: &Wanted, kind: Kind) -> bool {
        let port = match wanted {
            Wanted::Tcp { port, .. } | Wanted::Udp { port, .. } if *port != 0 => *port,
            _ => return false,
        };
        let own = self.listeners.of_app(app).filter(|(id, listener)| {
            matches!(listener.origin, Origin::Bound)
                && listener.kind == kind
                && listener.inet().is_some_and(|address| address.port() == port)
                && listener.apps.len() == 1
                && !listener.handed_out
                && !self.is_held(*id)
        });
        let unused: Vec<_> = own.map(|(id, _)| id).collect();
        for id in &unused {
            self.close_listener(*id);
        }
        !unused.is_empty()
    }

    /// Whether the app has, or is about to have, as many sockets as it may, not counting those that it has closed.
    pub(super) fn is_full(&mut self, app: AppId) -> bool {
        let opening = self.opening.iter().filter(|opening| opening.is_of(app)).count();
        let most = self.config.max_listeners.saturating_sub(opening);
        if self.listeners.of_app(app).count() < most {
            return false;
        }
        let closed = |id: &ListenerId| self.awaits(&Due::Abandoned(*id)) || self.awaits(&Due::Left(*id));
        let closed: Vec<_> = self.listeners.of_app(app).map(|(id, _)| id).filter(closed).collect();
        for id in closed {
            self.close_if_left(id);
        }
        self.listeners.of_app(app).count() >= most
    }

    /// The app does not want the address any more; the last one closes it.
    fn leave(&mut self, id: ListenerId, app: AppId) {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        listener.apps.remove(&app);
        let Some(other) = listener.apps.first().copied() else { return self.close_listener(id) };
        if let Origin::Inherited = listener.origin {
            let own = self.listeners.inherited.iter_mut().filter(|i| i.taken == Some(app));
            let same = own.filter(|i| i.address == listener.address && i.kind == listener.kind);
            same.for_each(|i| i.taken = Some(other));
        }
        let rows: Vec<_> = self.workers.values().filter(|w| w.app == app).map(|w| w.process).collect();
        for process in rows {
            if self.listeners.all.get(&id).is_some_and(|listener| listener.claims.contains(&process)) {
                self.drop_claim(id, process);
            }
        }
    }

    /// A row's worker has served for a while: addresses that only its predecessors had are given up.
    pub(super) fn settle_claims(&mut self, app: AppId, process: ProcessId) {
        let holds = |id: ListenerId| {
            self.workers.values().any(|w| w.app == app && w.process == process && w.holds.contains_key(&id))
        };
        let serving = self.workers.values().any(|w| w.app == app && w.process == process && !w.announced.is_empty());
        if !serving {
            return;
        }
        let stale: Vec<_> = self
            .listeners
            .of_app(app)
            .filter(|(id, l)| l.claims.contains(&process) && !l.handed_out && !holds(*id))
            .collect();
        let stale: Vec<_> = stale.into_iter().map(|(id, _)| id).collect();
        for id in stale {
            self.drop_claim(id, process);
        }
    }

    pub(super) fn remove_process(&mut self, process: ProcessId) {
        let claimed = self.listeners.all.iter().filter(|(_, listener)| listener.claims.contains(&process));
        let claimed: Vec<_> = claimed.map(|(id, _)| *id).collect();
        for id in claimed {
            self.bequeath(id, process);
            self.drop_claim(id, process);
        }
    }

    /// Rows that begin have not asked for everything yet: the last one that had an address leaves it to them, for as
    /// long as that takes. Otherwise a scale up and a deletion of what was there before would close it in between.
    fn bequeath(&mut self, id: ListenerId, process: ProcessId) {
        let Some(listener) = self.listeners.all.get(&id) else { return };
        let begins = |worker: &&Worker| {
            let asks = worker.announced.is_empty() || self.awaits(&Due::Settled(worker.app, worker.process));
            listener.apps.contains(&worker.app)
                && worker.process != process
                && !worker.terminating
                && !worker.ended
                && asks
        };
        let heirs: Vec<_> = self.workers.values().filter(begins).map(|worker| worker.process).collect();
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        if listener.claims.len() == 1 && !heirs.is_empty() {
            listener.claims.extend(heirs);
            self.arm(Due::Abandoned(id), SETTLED);
        }
    }

    fn drop_claim(&mut self, id: ListenerId, process: ProcessId) {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        listener.claims.remove(&process);
        if listener.claims.is_empty() {
            self.close_listener(id);
        } else {
            self.begin_retiring(id, process);
        }
    }

    pub(super) fn remove_app(&mut self, app: AppId) {
        let all: Vec<_> = self.listeners.of_app(app).map(|(id, _)| id).collect();
        for id in all {
            self.leave(id, app);
        }
    }

    pub(super) fn close_listener(&mut self, id: ListenerId) {
        let unused = !self.is_held(id);
        let Some(listener) = self.listeners.all.remove(&id) else { return };
        let ours = matches!(listener.origin, Origin::Bound) && listener.kind == Kind::Stream && !listener.handed_out;
        for fd in listener.sockets.fds() {
            // Who keeps our descriptors for the next daemon closes them later than this; the address is free now.
            if ours
                && unused
                && let Err(error) = socket::end_listening(fd)
            {
                tracing::trace!(%error, "socket was not listening");
            }
            // Workers may have duplicates, which would keep the registration alive.
            if let Err(error) = self.epoll.delete(fd) {
                tracing::trace!(%error, "socket was not watched");
            }
        }
        for worker in self.workers.values_mut() {
            worker.holds.remove(&id);
        }
        match &listener.origin {
            Origin::Inherited => {
                let address = &listener.address;
                let own =
                    self.listeners.inherited.iter_mut().filter(|i| {
                        i.taken.is_some_and(|app| listener.apps.contains(&app) || listener.apps.is_empty())
                    });
                own.filter(|i| i.address == *address && i.kind == listener.kind).for_each(|i| i.taken = None);
            }
            Origin::File(who) => {
                if let Some(path) = listener.path().map(Path::to_owned) {
                    let who = who.clone();
                    tokio::task::spawn_blocking(move || bind::unlink_path(&path, &who));
                }
            }
            Origin::Bound => (),
        }
    }
}

impl Sockets {
    fn fds(&self) -> Vec<&OwnedFd> {
        match self {
            Sockets::Shared(fd) => vec![fd],
            Sockets::Dealt(dealt) => vec![&dealt.fd],
            Sockets::Slots(slots) => slots.fds().collect(),
        }
    }
}
