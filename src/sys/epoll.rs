//! epoll(7): many descriptors in one, for an owner that decides for each of them what it waits for.
//!
//! Owns nothing but the instance; descriptors are named by a number of the caller's. The instance itself is watched by
//! the runtime, to which it is readable while anything in it is.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::unix::AsyncFd;

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(AsyncFd<OwnedFd>);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Nothing; errors and hang-ups are told nevertheless (epoll_ctl(2)).
    Nothing,
    /// It is readable, told again and again for as long as it is.
    Readable,
    /// It is readable, told once; then [`Epoll::modify`] arms it again.
    ReadableOnce,
    /// More has come to read than when it was last told.
    MoreReadable,
    /// As `MoreReadable`, or it can be written again.
    MoreReadableOrWritable,
}

impl Interest {
    pub(super) fn flags(self) -> EventFlags {
        match self {
            Interest::Nothing => EventFlags::empty(),
            Interest::Readable => EventFlags::IN,
            Interest::ReadableOnce => EventFlags::IN | EventFlags::ONESHOT,
            Interest::MoreReadable => EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
            Interest::MoreReadableOrWritable => EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        }
    }
}

/// Something happened to a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The caller's number of it.
    pub token: u64,
    /// There may be something to read, the end included.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The other end writes no more.
    pub ended: bool,
}

impl Epoll {
    /// A new instance, closed on exec.
    ///
    /// # Errors
    /// When there are no descriptors or no memory left.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> io::Result<Epoll> {
        let fd = epoll::create(CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is valid, and it is neither replaced nor closed while the `AsyncFd` owns it.
        Ok(Epoll(unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE)? }))
    }

    /// Begins to watch a descriptor. It leaves by itself when its last duplicate is closed; before a duplicate has
    /// been given away, [`Epoll::delete`] is needed.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(self.0.get_ref(), fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Waits for something else from now on; what has happened already is told again.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(self.0.get_ref(), fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Watches the descriptor no more.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(self.0.get_ref(), fd)?)
    }

    /// Waits until something has happened, and tells at least one thing. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// As [`Epoll::poll`].
    pub async fn next(&self) -> io::Result<Vec<Readiness>> {
        loop {
            let mut ready = self.0.readable().await?;
            let told = self.poll()?;
            if !told.is_empty() {
                return Ok(told);
            }
            ready.clear_ready();
        }
    }

    /// What has happened, at most 64 things at a time; returns at once.
    ///
    /// # Errors
    /// As epoll_wait(2); an interrupted call counts as nothing.
    pub fn poll(&self) -> io::Result<Vec<Readiness>> {
        let mut events = Vec::with_capacity(64);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(self.0.get_ref(), rustix::buffer::spare_capacity(&mut events), Some(&now)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
        Ok(events.into_iter().map(readiness).collect())
    }
}

pub(super) fn readiness(event: epoll::Event) -> Readiness {
    let flags = event.flags;
    let ended = flags.intersects(EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR);
    Readiness {
        token: event.data.u64(),
        readable: ended || flags.contains(EventFlags::IN),
        writable: flags.contains(EventFlags::OUT),
        ended,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[tokio::test]
    async fn each_interest_is_told_as_often_as_it_says() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&here, 7, Interest::Nothing).unwrap();
        there.write_all(b"x").unwrap();
        assert_eq!(epoll.poll().unwrap(), []);
        let told = Readiness { token: 7, readable: true, writable: false, ended: false };
        for (interest, times) in [(Interest::Readable, 3), (Interest::ReadableOnce, 1), (Interest::MoreReadable, 1)] {
            epoll.modify(&here, 7, interest).unwrap();
            for time in 0..3 {
                let expected: &[Readiness] = if time < times { &[told] } else { &[] };
                assert_eq!(epoll.poll().unwrap(), expected, "{interest:?}, time {time}");
            }
        }
        there.write_all(b"y").unwrap();
        assert_eq!(epoll.next().await.unwrap(), [told]);
        drop(there);
        crate::sys::settled(|| epoll.poll().unwrap() == [Readiness { ended: true, ..told }]);
        epoll.delete(&here).unwrap();
        assert_eq!(epoll.poll().unwrap(), []);
    }
}
