//! epoll(7) for a thread of its own, apart from any runtime.
//!
//! Owns nothing but the instance; descriptors are named by a number of the caller's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData};

use super::epoll::{Interest, Readiness, readiness};

/// What happened is told, at most this many things at a time.
const AT_ONCE: usize = 64;

/// An epoll instance that its thread waits in.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// A new instance, closed on exec.
    ///
    /// # Errors
    /// When there are no descriptors or no memory left.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Begins to watch a descriptor.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Watches the descriptor no more.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits for something to happen, for as long as `timeout` says at most.
    ///
    /// # Errors
    /// As epoll_wait(2); an interrupted call counts as nothing.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Readiness>> {
        let mut events = Vec::with_capacity(AT_ONCE);
        let timeout = timeout.map(|timeout| rustix::event::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
        Ok(events.into_iter().map(readiness).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn waits_no_longer_than_it_is_told_and_tells_what_happened() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&reader, 7, Interest::MoreReadable).unwrap();
        assert_eq!(poller.wait(Some(Duration::from_millis(1))).unwrap(), []);
        writer.write_all(b"x").unwrap();
        let told = Readiness { token: 7, readable: true, writable: false, ended: false };
        assert_eq!(poller.wait(None).unwrap(), [told]);
        // Told once: nothing more has come.
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), []);
        poller.delete(&reader).unwrap();
        drop(writer);
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), []);
    }
}
