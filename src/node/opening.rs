//! Sockets that take their time, and those that are for programs other than Node.
//!
//! Among them are files. Apps remove what is left of their last run before they listen, and what is theirs when they end;
//! but here the socket is everybody's and outlives them. So whenever one asks for a path or may have removed it, the file
//! is looked for, and another socket bound where there is none. Workers that accept on the old one cannot be given the new
//! one: the supervisor accepts there, for all.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::bind::{self, Errno, Wanted};
use super::listener::{Dealt, Inherited, Listener, ListenerId, Origin, Sockets};
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
    /// Who asked since it began, and may have removed the file since; and that there may be a worker who did.
    later: Vec<Asker>,
    again: bool,
}

impl Opening {
    pub fn is_of(&self, app: AppId) -> bool {
        self.app == app
    }
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
    /// The path to be looked at on disk before a socket is given out, `known` or yet to be made: of a file that the
    /// supervisor makes and may have to make again. None for one that systemd made.
    pub(super) fn path_to_open(
        &self,
        app: AppId,
        who: &Identity,
        wanted: &Wanted,
        known: Option<ListenerId>,
    ) -> Option<PathBuf> {
        let Wanted::Path(path) = wanted else { return None };
        let ours = match known.map(|id| self.listeners.all.get(&id)) {
            Some(listener) => listener.is_some_and(|listener| matches!(listener.origin, Origin::File(_))),
            None => self.listeners.find_inherited(app, who, wanted).is_none(),
        };
        ours.then(|| path.clone())
    }

    /// A worker of the app has ended or closed a server, and may have removed files although they are others', too.
    pub(super) fn look_after_files(&mut self, app: AppId) {
        let file = |listener: &Listener| match &listener.origin {
            Origin::File(who) => Some((listener.path()?.to_owned(), who.clone())),
            Origin::Bound | Origin::Inherited => None,
        };
        let files: Vec<_> = self.listeners.of_app(app).filter_map(|(_, listener)| file(listener)).collect();
        for (path, who) in files {
            self.open_path(app, path, &who, Balance::Auto, None);
        }
    }

    /// Binds a path for the asker, where the app does not have it or its file is gone.
    pub(super) fn open_path(
        &mut self,
        app: AppId,
        path: PathBuf,
        who: &Identity,
        balance: Balance,
        asker: Option<Asker>,
    ) {
        let same = |opening: &&mut Opening| opening.app == app && opening.path == path;
        if let Some(opening) = self.opening.iter_mut().find(same) {
            opening.again = true;
            return opening.later.extend(asker);
        }
        let askers = asker.into_iter().collect();
        self.begin_opening(Opening { app, path, who: who.clone(), balance, askers, later: Vec::new(), again: false });
    }

    fn begin_opening(&mut self, opening: Opening) {
        let Opening { app, path, who, .. } = &opening;
        let (app, path, who) = (*app, path.clone(), who.clone());
        let wanted = Wanted::Path(path.clone());
        let known = self.listeners.find(app, &wanted, None).is_some();
        let full = !known && self.is_full(app);
        self.opening.push(opening);
        if full {
            return self.path_bound(app, &path, Err(libc::EMFILE));
        }
        if !known && self.listeners.is_foreign(app, &wanted, None) {
            return self.path_bound(app, &path, Err(libc::EADDRINUSE));
        }
        let commands = self.commands.clone();
        tokio::task::spawn_blocking(move || {
            let there = known && !bind::is_path_free(&path, &who);
            let result = if there { Ok(None) } else { bind::bind_path(&path, &who).map(Some) };
            if let Some(commands) = commands.upgrade() {
                // Without a task nobody wants the socket.
                let _ = commands.send(Command::PathBound { app, path, result });
            }
        });
    }

    /// `None` when the app's socket was there already.
    pub(super) fn path_bound(&mut self, app: AppId, path: &Path, result: Result<Option<OwnedFd>, Errno>) {
        let Some(at) = self.opening.iter().position(|o| o.app == app && o.path == path) else { return };
        let Opening { path, who, balance, askers, later, again, .. } = self.opening.swap_remove(at);
        let wanted = Wanted::Path(path.clone());
        let listener = match (result, self.listeners.find(app, &wanted, None)) {
            (Ok(Some(fd)), Some(known)) => self.renew(known, fd).map(|()| known),
            // Or another app's worker was faster.
            (Ok(None) | Err(libc::EADDRINUSE), Some(known)) => Ok(known),
            (Ok(Some(fd)), None) => {
                self.add(app, who.uid, wanted, None, Arc::new(fd), Kind::Stream, balance, Origin::File(who.clone()))
            }
            // It was given up meanwhile.
            (Ok(None), None) => return self.ask_again(app, path, who, balance, askers.into_iter().chain(later)),
            (Err(errno), _) => Err(errno),
        };
        if let (Err(errno), true) = (&listener, askers.is_empty()) {
            let reason = open_error(path.display().to_string(), *errno).reason;
            tracing::warn!(%app, path = %path.display(), reason, "cannot bind a socket again that was removed");
        }
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
        if again {
            self.ask_again(app, path, who, balance, later);
        }
    }

    fn ask_again(
        &mut self,
        app: AppId,
        path: PathBuf,
        who: Identity,
        balance: Balance,
        askers: impl IntoIterator<Item = Asker>,
    ) {
        let askers: Vec<_> = askers.into_iter().collect();
        let known = self.listeners.find(app, &Wanted::Path(path.clone()), None).is_some();
        if known || !askers.is_empty() {
            self.begin_opening(Opening { app, path, who, balance, askers, later: Vec::new(), again: false });
        }
    }

    /// Puts this socket in the place of the app's, whose file is gone. What waits at the old one is not lost.
    fn renew(&mut self, id: ListenerId, fd: OwnedFd) -> Result<(), Errno> {
        let fd = Arc::new(fd);
        let Some(listener) = self.listeners.all.get_mut(&id) else { return Err(libc::EBADF) };
        tracing::info!(address = listener.text(), "a socket was removed and is bound again");
        // Only the program itself accepts on what was handed out: its successor gets the new one.
        let new = match &listener.sockets {
            Sockets::Shared(_) if listener.handed_out => Sockets::Shared(Arc::clone(&fd)),
            Sockets::Dealt(Dealt { sticky: true, .. }) => dealt(&fd, true),
            _ => dealt(&fd, false),
        };
        let old = std::mem::replace(&mut listener.sockets, new);
        let handed_out = listener.handed_out;
        self.config.store.keep(&format!("l{}", id.0), &fd);
        self.memory.changed = true;
        if let Sockets::Dealt(dealt) = &old
            && let Err(error) = self.epoll.delete(&dealt.fd)
        {
            tracing::debug!(listener = id.0, %error, "socket was not watched");
        }
        if handed_out {
            return Ok(());
        }
        self.watch_dealt(id, &fd).map_err(|error| bind::errno(&error))?;
        if let Sockets::Shared(old) | Sockets::Dealt(Dealt { fd: old, .. }) = &old {
            self.accept_all(id, old);
        }
        self.pump(id);
        Ok(())
    }

    pub(super) fn open(&mut self, app: AppId, who: &Identity, order: Order) {
        let Some(wanted) = Wanted::from_text(&order.address) else {
            let Order { address, reply, .. } = order;
            let reason = "it is no port, `ADDRESS:PORT` or absolute path".to_owned();
            // Whoever asked may have given up.
            let _ = reply.send(Err(OpenError { address, reason }));
            return;
        };
        let known = self.listeners.find(app, &wanted, None);
        if let Some(path) = self.path_to_open(app, who, &wanted, known) {
            return self.open_path(app, path, who, Balance::Shared, Some(Asker::Daemon(order)));
        }
        if let Some(listener) = known {
            return self.hand_out(listener, order);
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

fn dealt(fd: &Arc<OwnedFd>, sticky: bool) -> Sockets {
    Sockets::Dealt(Dealt { fd: Arc::clone(fd), sticky, watched: false })
}

fn open_error(address: String, errno: Errno) -> OpenError {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let reason = match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_lowercase(),
        None => text,
    };
    OpenError { address, reason }
}
