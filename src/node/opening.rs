//! Sockets that take their time, and those that are for programs other than Node.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::bind::{self, Errno, Wanted};
use super::listener::{Inherited, ListenerId, Origin, Sockets};
use super::message::Query;
use super::primary::{Command, OpenError};
use super::task::Task;
use crate::core::{AppId, Balance, ProcessId, WorkerId};
use crate::sys::identity::Identity;
use crate::sys::socket::Kind;

/// A path that is being bound elsewhere, since the file system may take its time.
pub(super) struct Opening {
    app: AppId,
    path: PathBuf,
    who: Identity,
    balance: Balance,
    askers: Vec<Asker>,
}

/// Who waits for a socket.
pub(super) enum Asker {
    Worker(WorkerId, Box<Query>),
    Daemon(Order),
}

/// A socket that the daemon wants for a row's program.
pub(super) struct Order {
    pub process: ProcessId,
    pub address: String,
    pub reply: oneshot::Sender<Result<OwnedFd, OpenError>>,
}

impl Order {
    fn answer(self, result: Result<OwnedFd, Errno>) {
        let Order { address, reply, .. } = self;
        // Whoever asked may have given up.
        let _ = reply.send(result.map_err(|errno| open_error(address, errno)));
    }
}

impl Task {
    pub(super) fn open_path(&mut self, app: AppId, path: PathBuf, who: &Identity, balance: Balance, asker: Asker) {
        let same = |opening: &&mut Opening| opening.app == app && opening.path == path;
        if let Some(opening) = self.opening.iter_mut().find(same) {
            return opening.askers.push(asker);
        }
        let wanted = Wanted::Path(path.clone());
        let opening = Opening { app, path: path.clone(), who: who.clone(), balance, askers: vec![asker] };
        let of_app = self.listeners.of_app(app).count() + self.opening.iter().filter(|o| o.app == app).count();
        self.opening.push(opening);
        if of_app >= self.config.max_listeners {
            return self.path_bound(app, &path, Err(libc::EMFILE));
        }
        if self.listeners.is_foreign(app, &wanted) {
            return self.path_bound(app, &path, Err(libc::EADDRINUSE));
        }
        let (who, commands) = (who.clone(), self.commands.clone());
        tokio::task::spawn_blocking(move || {
            let result = bind::bind_path(&path, &who);
            if let Some(commands) = commands.upgrade() {
                // Without a task nobody wants the socket.
                let _ = commands.send(Command::PathBound { app, path, result });
            }
        });
    }

    pub(super) fn path_bound(&mut self, app: AppId, path: &Path, result: Result<OwnedFd, Errno>) {
        let Some(at) = self.opening.iter().position(|o| o.app == app && o.path == path) else { return };
        let Opening { path, who, balance, askers, .. } = self.opening.swap_remove(at);
        let listener = result.and_then(|fd| {
            let wanted = Wanted::Path(path);
            self.add(app, who.uid, wanted, None, Arc::new(fd), Kind::Stream, balance, Origin::File(who))
        });
        for asker in askers {
            match (asker, &listener) {
                (Asker::Worker(id, query), Ok(listener)) => self.answer(id, *listener, query),
                (Asker::Worker(id, query), Err(errno)) => self.refuse(id, &query, *errno),
                (Asker::Daemon(order), Ok(listener)) => self.hand_out(*listener, order),
                (Asker::Daemon(order), Err(errno)) => order.answer(Err(*errno)),
            }
        }
        // The only one who asked may be gone.
        if let Ok(listener) = listener
            && self.listeners.all.get(&listener).is_some_and(|l| l.claims.is_empty())
            && !self.is_held(listener)
        {
            self.close_listener(listener);
        }
    }

    pub(super) fn open(&mut self, app: AppId, who: &Identity, order: Order) {
        let Some(wanted) = Wanted::from_text(&order.address) else {
            let Order { address, reply, .. } = order;
            let reason = "it is no port, `ADDRESS:PORT` or absolute path".to_owned();
            // Whoever asked may have given up.
            let _ = reply.send(Err(OpenError { address, reason }));
            return;
        };
        if let Some(listener) = self.listeners.find(app, &wanted, None) {
            return self.hand_out(listener, order);
        }
        if let Wanted::Path(path) = &wanted
            && self.listeners.find_inherited(app, who, &wanted).is_none()
        {
            return self.open_path(app, path.clone(), who, Balance::Shared, Asker::Daemon(order));
        }
        match self.create(app, wanted, None, who, Balance::Shared) {
            Ok(listener) => self.hand_out(listener, order),
            Err(errno) => order.answer(Err(errno)),
        }
    }

    fn hand_out(&mut self, id: ListenerId, order: Order) {
        let fd = self.share(id, order.process);
        order.answer(fd);
    }

    fn share(&mut self, id: ListenerId, process: ProcessId) -> Result<OwnedFd, Errno> {
        let listener = self.listeners.all.get_mut(&id).ok_or(libc::EBADF)?;
        let Sockets::Shared(fd) = &listener.sockets else { return Err(libc::EADDRINUSE) };
        let fd = fd.try_clone().map_err(|error| bind::errno(&error))?;
        listener.handed_out = true;
        listener.claims.insert(process);
        Ok(fd)
    }

    /// The sockets with this name that systemd passed and that the app may have, with their whole names.
    pub(super) fn named(
        &mut self,
        app: AppId,
        process: ProcessId,
        who: &Identity,
        name: &str,
    ) -> Vec<(OwnedFd, String)> {
        let meant = |socket: &&Inherited| {
            socket.is_for(who) && socket.is_named(name) && socket.taken.is_none_or(|taken| taken == app)
        };
        let known = |socket: &Inherited| {
            Wanted::of(&socket.address, socket.kind, socket.v6_only).map(|wanted| (socket.name.clone(), wanted))
        };
        let all: Vec<_> = self.listeners.inherited.iter().filter(meant).filter_map(known).collect();
        let mut sockets = Vec::new();
        for (name, wanted) in all {
            let listener = match self.listeners.find(app, &wanted, None) {
                Some(listener) => Ok(listener),
                None => self.create(app, wanted, None, who, Balance::Shared),
            };
            match listener.and_then(|listener| self.share(listener, process)) {
                Ok(fd) => sockets.push((fd, name)),
                Err(errno) => {
                    let reason = open_error(name.clone(), errno).reason;
                    tracing::warn!(%app, name, reason, "cannot hand on a socket from systemd");
                }
            }
        }
        sockets
    }
}

fn open_error(address: String, errno: Errno) -> OpenError {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let reason = match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_lowercase(),
        None => text,
    };
    OpenError { address, reason }
}
