//! The service manager's end of sd_notify(3), for a keeper that stands in for one: what a daemon says of itself, and the
//! descriptors that it wants kept.
//!
//! Owns the socket and what is kept. Must never believe anybody but who may connect to the socket: its owner and root.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::notify::{self, Passed};
use super::socket;

/// A message that is longer is cut; ours have a line of status at most.
const LONGEST: usize = 4096;
/// Descriptors that are kept at most: some hundred workers with all they have.
const MOST: usize = 8192;

/// The socket, and what is kept.
#[derive(Debug)]
pub struct Inbox {
    socket: UnixDatagram,
    path: PathBuf,
    kept: Vec<Passed>,
}

/// What a message said, apart from what is to be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Start or reload is complete.
    pub ready: bool,
    /// A reload has begun.
    pub reloading: bool,
    /// The end has begun.
    pub stopping: bool,
    /// What another manager may want to know; nothing about descriptors.
    pub text: String,
}

impl Inbox {
    /// A socket at this path, for this user alone. What is in its place is removed.
    ///
    /// # Errors
    /// As bind(2): a path that is too long, a full disk.
    pub fn bind(path: &Path) -> io::Result<Inbox> {
        let _ = std::fs::remove_file(path);
        let socket = UnixDatagram::bind(path)?;
        let inbox = Inbox { socket, path: path.to_owned(), kept: Vec::new() };
        // connect(2) asks for the right to write. Before this moment nothing is believed, for nobody is listened to.
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(inbox)
    }

    /// The socket of the program that was executed before this one in the same process, and what it kept.
    ///
    /// # Errors
    /// When it is no such socket.
    pub fn again(socket: OwnedFd, path: PathBuf, kept: Vec<Passed>) -> io::Result<Inbox> {
        let socket = UnixDatagram::from(socket);
        socket.local_addr()?;
        Ok(Inbox { socket, path, kept })
    }

    /// Where a daemon is to send its messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept, in the order in which it came.
    #[must_use]
    pub fn kept(&self) -> &[Passed] {
        &self.kept
    }

    /// Lets go of all of it.
    pub fn let_go(&mut self) {
        self.kept.clear();
    }

    /// Takes a message, and does what it says about descriptors. `None` when there is none.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub fn take(&mut self) -> io::Result<Option<Word>> {
        let mut buffer = [0; LONGEST];
        let received = match socket::receive(&self.socket, &mut buffer, false) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&buffer[..received.bytes]);
        let has = |line| text.lines().any(|other| other == line);
        let name =
            text.lines().find_map(|line| line.strip_prefix("FDNAME=")).filter(|name| notify::is_valid_name(name));
        match name {
            Some(name) if has("FDSTORE=1") => {
                let room = MOST.saturating_sub(self.kept.len());
                let fds = received.fds.into_iter().take(room);
                self.kept.extend(fds.map(|fd| Passed { fd, name: name.to_owned() }));
                Ok(Some(Word::default()))
            }
            Some(name) if has("FDSTOREREMOVE=1") => {
                self.kept.retain(|kept| kept.name != name);
                Ok(Some(Word::default()))
            }
            // What came with it, as with BARRIER=1, is closed here.
            _ => Ok(Some(Word {
                ready: has("READY=1"),
                reloading: has("RELOADING=1"),
                stopping: has("STOPPING=1"),
                text: text.into_owned(),
            })),
        }
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // Nobody is to find it; and if that fails, the next one removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Descriptors as the next daemon gets them: with numbers from 3 on, and what `LISTEN_FDNAMES` is to say.
///
/// # Errors
/// When there are no descriptors left.
pub fn listed<'a>(passed: impl Iterator<Item = &'a Passed>) -> io::Result<(Vec<(OwnedFd, RawFd)>, String)> {
    let (mut fds, mut names) = (Vec::new(), Vec::new());
    for (passed, number) in passed.zip(notify::FIRST..) {
        fds.push((passed.fd.try_clone()?, number));
        names.push(passed.name.as_str());
    }
    Ok((fds, names.join(":")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::notify::{Notice, Notifier};

    #[test]
    fn what_a_daemon_wants_kept_is_kept_until_it_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inbox");
        std::fs::write(&path, "in its place").unwrap();
        let mut inbox = Inbox::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(inbox.take().unwrap(), None);
        let daemon = Notifier::to(path.as_os_str()).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        daemon.store("w1-out", writer.as_fd(), false).unwrap();
        daemon.store("w1-err", io::stdin().as_fd(), false).unwrap();
        drop(writer);
        daemon.unstore("w1-err").unwrap();
        daemon.send(&[Notice::Ready, Notice::Status("3 apps")]).unwrap();
        daemon.send(&[Notice::Stopping]).unwrap();
        let mut words = Vec::new();
        while let Some(word) = inbox.take().unwrap() {
            words.push((word.ready, word.stopping, word.text));
        }
        let nothing = || (false, false, String::new());
        assert_eq!(words[..3], [nothing(), nothing(), nothing()]);
        assert_eq!(words[3], (true, false, "READY=1\nSTATUS=3 apps\n".to_owned()));
        assert!(words[4].1 && words.len() == 5);

        let (fds, names) = listed(inbox.kept().iter()).unwrap();
        assert_eq!((names.as_str(), fds[0].1), ("w1-out", 3));
        drop(fds);
        inbox.let_go();
        let mut rest = String::new();
        io::Read::read_to_string(&mut reader, &mut rest).unwrap();
        drop(inbox);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_barrier_is_over_once_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut inbox = Inbox::bind(&dir.path().join("inbox")).unwrap();
        let daemon = Notifier::to(inbox.path().as_os_str()).unwrap();
        let waiting = daemon.barrier(std::time::Duration::from_secs(20));
        let taking = async {
            while inbox.take().unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(waiting, taking).0.unwrap();
        assert!(inbox.kept().is_empty());
    }
}
