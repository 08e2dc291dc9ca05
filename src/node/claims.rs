//! How long an address is kept: as long as a row of the app wants it.
//!
//! A row claims an address when one of its workers asks for it, and the claim outlives the worker: between two workers
//! connections wait. It ends when the row is removed (then rows that have only just begun inherit it), when the app
//! closes its server and lives on, or when the row's new worker does not ask for it any more.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::bind;
use super::listener::{ListenerId, Origin, Sockets};
use super::query::SETTLED;
use super::task::{Due, Task};
use super::worker::Worker;
use crate::core::{AppId, ProcessId};

impl Task {
    pub(super) fn is_held(&self, listener: ListenerId) -> bool {
        self.workers.values().any(|worker| worker.holds.contains_key(&listener))
    }

    /// The app closed its server while it lives on: it does not want the address any more, and others may.
    pub(super) fn close_if_abandoned(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.all.get(&id) else { return };
        let app = listener.app;
        let ending = self.workers.values().any(|worker| worker.app == app && worker.terminating);
        let alive = self.workers.values().any(|worker| worker.app == app);
        if alive && !ending && !listener.handed_out && !self.is_held(id) {
            self.close_listener(id);
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
        let claimed: Vec<_> = claimed.map(|(id, listener)| (*id, listener.app)).collect();
        for (id, app) in claimed {
            self.bequeath(id, app, process);
            self.drop_claim(id, process);
        }
    }

    /// Rows that begin have not asked for everything yet: the last one that had an address leaves it to them, for as
    /// long as that takes. Otherwise a scale up and a deletion of what was there before would close it in between.
    fn bequeath(&mut self, id: ListenerId, app: AppId, process: ProcessId) {
        let begins = |worker: &&Worker| {
            let asks = worker.announced.is_empty() || self.awaits(&Due::Settled(app, worker.process));
            worker.app == app && worker.process != process && !worker.terminating && !worker.ended && asks
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
            self.close_listener(id);
        }
    }

    pub(super) fn close_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.all.remove(&id) else { return };
        for fd in listener.sockets.fds() {
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
                let own = self.listeners.inherited.iter_mut().filter(|i| i.taken == Some(listener.app));
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
