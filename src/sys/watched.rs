//! Any descriptor in tokio's loop.
//!
//! tokio's `AsyncFd` cannot be made safely of any type, because the type might give another number each time it is
//! asked. An owned descriptor that nobody can exchange may.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is registered with tokio's loop; has the methods of [`AsyncFd`] that take `&self` (`readable`,
/// `writable`, `async_io`, `try_io`, ...). Make it non-blocking first. Must be made inside a runtime.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Registers it for reading and writing.
    ///
    /// # Errors
    /// EEXIST when this very descriptor is registered already, EPERM when it is of a kind that epoll(7) does not
    /// take (regular files, folders), ENOSPC when there are too many.
    pub fn new(fd: OwnedFd) -> io::Result<Watched> {
        Watched::with_interest(fd, Interest::READABLE | Interest::WRITABLE)
    }

    /// Registers it for what is of interest.
    ///
    /// # Errors
    /// As [`Watched::new`].
    pub fn with_interest(fd: OwnedFd, interest: Interest) -> io::Result<Watched> {
        // SAFETY: an OwnedFd always gives the same number and is open until dropped; nothing hands out `&mut` to
        // it, so it is neither closed nor exchanged while registered.
        unsafe { AsyncFd::register_with_interest(fd, interest) }.map(Watched).map_err(io::Error::from)
    }

    /// Takes it out of the loop.
    #[must_use]
    pub fn into_inner(self) -> OwnedFd {
        self.0.into_inner()
    }
}

impl Deref for Watched {
    type Target = AsyncFd<OwnedFd>;

    fn deref(&self) -> &AsyncFd<OwnedFd> {
        &self.0
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
