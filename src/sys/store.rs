//! Descriptors that outlive this process: in the service manager's fd store, or handed on over execve(2).
//!
//! Owns a duplicate of each, under a name of ours. Must never lose count of what the manager holds: what is not needed
//! any more is taken out there too, or a peer would wait for ever for an end that was closed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::foreign;
use super::notify::{Notifier, Passed};

/// Begins the names of what is ours, so that no socket of a .socket unit is taken for it.
const PREFIX: &str = "pm2rs.";

/// A cheap handle. The default one keeps nothing, for whoever need not survive.
#[derive(Debug, Clone, Default)]
pub struct Store(Option<Arc<Mutex<Inner>>>);

#[derive(Debug)]
struct Inner {
    manager: Option<Notifier>,
    kept: BTreeMap<String, OwnedFd>,
    /// Not ours to store: the manager passes them at each start. They only go over an execve(2).
    passed: Vec<(String, OwnedFd)>,
    /// The manager does not listen; said once.
    failed: bool,
}

impl Store {
    /// A store with what the daemon before this one left, and the sockets that are not of the store. `manager` gets to
    /// hold what is kept; without one it survives an execve(2) only.
    #[must_use]
    pub fn new(manager: Option<Notifier>, passed: Vec<Passed>) -> (Store, Vec<Passed>) {
        let mut inner = Inner { manager, kept: BTreeMap::new(), passed: Vec::new(), failed: false };
        let mut others = Vec::new();
        for Passed { fd, name } in passed {
            match name.strip_prefix(PREFIX) {
                Some(own) => drop(inner.kept.insert(own.to_owned(), fd)),
                None => {
                    if let Ok(duplicate) = fd.try_clone() {
                        inner.passed.push((name.clone(), duplicate));
                    }
                    others.push(Passed { fd, name });
                }
            }
        }
        (Store(Some(Arc::new(Mutex::new(inner)))), others)
    }

    /// Whether it keeps anything.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.0.is_some()
    }

    /// Keeps a duplicate of this descriptor under this name, in place of what had the name before. A failure is logged:
    /// there is nothing that the caller could do about it.
    pub fn keep(&self, name: &str, fd: impl AsFd) {
        let Some(mut inner) = self.lock() else { return };
        if inner.kept.contains_key(name) {
            inner.release(name);
        }
        match fd.as_fd().try_clone_to_owned() {
            Ok(duplicate) => {
                // Kept even when its other end has gone: what lies in a pipe or a channel is still to be read.
                inner.tell(|manager, full| manager.store(full, duplicate.as_fd(), false), name);
                inner.kept.insert(name.to_owned(), duplicate);
            }
            Err(error) => tracing::warn!(name, %error, "cannot keep a descriptor for the next daemon"),
        }
    }

    /// Keeps a duplicate of this descriptor for an execve(2) alone: it is to end with this process.
    pub fn hand_on(&self, name: &str, fd: impl AsFd) {
        let Some(mut inner) = self.lock() else { return };
        match fd.as_fd().try_clone_to_owned() {
            Ok(duplicate) => drop(inner.kept.insert(name.to_owned(), duplicate)),
            Err(error) => tracing::warn!(name, %error, "cannot keep a descriptor for the next program"),
        }
    }

    /// Lets go of what has this name, if anything.
    pub fn release(&self, name: &str) {
        if let Some(mut inner) = self.lock() {
            inner.release(name);
        }
    }

    /// Lets go of all whose names begin so.
    pub fn release_all(&self, prefix: &str) {
        for name in self.names(prefix) {
            self.release(&name);
        }
    }

    /// The names that begin so.
    #[must_use]
    pub fn names(&self, prefix: &str) -> BTreeSet<String> {
        let Some(inner) = self.lock() else { return BTreeSet::new() };
        inner.kept.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// A duplicate of what has this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<OwnedFd> {
        self.lock()?.kept.get(name)?.try_clone().ok()
    }

    /// What is kept of pipes and sockets, with what [`foreign`] calls each.
    #[must_use]
    pub fn known(&self) -> BTreeMap<String, String> {
        let Some(inner) = self.lock() else { return BTreeMap::new() };
        inner.kept.iter().filter_map(|(name, fd)| Some((name.clone(), foreign::name(fd)?))).collect()
    }

    /// Has `act` see all that goes over an execve(2), by the names under which [`Store::new`] is to get it there. Nothing
    /// is kept or released meanwhile.
    pub fn with_all<T>(&self, act: impl FnOnce(&[(String, BorrowedFd<'_>)]) -> T) -> T {
        let Some(inner) = self.lock() else { return act(&[]) };
        let kept = inner.kept.iter().map(|(name, fd)| (format!("{PREFIX}{name}"), fd.as_fd()));
        let all: Vec<_> = kept.chain(inner.passed.iter().map(|(name, fd)| (name.clone(), fd.as_fd()))).collect();
        act(&all)
    }

    fn lock(&self) -> Option<MutexGuard<'_, Inner>> {
        // A panic elsewhere leaves the map as it was before or after one of its changes.
        self.0.as_ref().map(|inner| inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn release(&mut self, name: &str) {
        if self.kept.remove(name).is_some() {
            self.tell(Notifier::unstore, name);
        }
    }

    fn tell(&mut self, say: impl Fn(&Notifier, &str) -> io::Result<()>, name: &str) {
        let Some(manager) = &self.manager else { return };
        match say(manager, &format!("{PREFIX}{name}")) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(name, %error, "cannot have the service manager keep descriptors; a crash would end workers");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    fn said(socket: &UnixDatagram) -> (String, usize) {
        let mut buffer = [0; 4096];
        let got = socket::receive(socket, &mut buffer, false).unwrap();
        (String::from_utf8(buffer[..got.bytes].to_vec()).unwrap(), got.fds.len())
    }

    #[test]
    fn what_is_kept_is_with_the_manager_until_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let manager = Notifier::to(dir.path().join("notify").as_os_str()).unwrap();
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let passed = vec![
            Passed { fd: open(), name: "pm2rs.w1-out".to_owned() },
            Passed { fd: open(), name: "http".to_owned() },
        ];
        let (store, others) = Store::new(Some(manager), passed);
        assert_eq!(others.iter().map(|other| other.name.as_str()).collect::<Vec<_>>(), ["http"]);
        assert!(store.get("w1-out").is_some() && store.get("http").is_none());
        store.keep("w12-out", open());
        assert_eq!(said(&socket), ("FDSTORE=1\nFDNAME=pm2rs.w12-out\nFDPOLL=0\n".to_owned(), 1));
        store.hand_on("lock", open());
        let names = |all: &[(String, BorrowedFd<'_>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(store.with_all(names), ["pm2rs.lock", "pm2rs.w1-out", "pm2rs.w12-out", "http"]);
        store.release_all("w1-");
        assert_eq!(said(&socket), ("FDSTOREREMOVE=1\nFDNAME=pm2rs.w1-out\n".to_owned(), 0));
        assert_eq!(store.names("w"), BTreeSet::from(["w12-out".to_owned()]));
        store.release("never");
        store.keep("w12-out", open());
        assert_eq!(said(&socket).0, "FDSTOREREMOVE=1\nFDNAME=pm2rs.w12-out\n");
        assert_eq!(said(&socket).1, 1);
    }

    #[test]
    fn the_default_keeps_nothing() {
        let store = Store::default();
        store.keep("a", std::io::stdin());
        assert!(store.get("a").is_none() && store.with_all(|all| all.is_empty()));
    }
}
