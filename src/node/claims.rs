//! How long an address is kept: as long as a row of an app that has it wants it.
//!
//! A row claims an address when one of its workers asks for it, and the claim outlives the worker: between two workers
//! connections wait. It ends when the row is removed (then rows that have only just begun inherit it), when the app
//! closes its server and lives on, or when the row's new worker does not ask for it any more. Apps that share an address
//! leave it one by one.

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
