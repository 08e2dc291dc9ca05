//! The journal's native socket: datagrams, many with one system call, without ever waiting.
//!
//! See systemd's "Native Journal Protocol". What a datagram says is the caller's business.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::memfd;

/// Room for datagrams on their way; as much as sd_journal_send(3) asks for.
const SEND_BUFFER: usize = 8 << 20;

/// A connected socket.
#[derive(Debug)]
pub struct JournalSocket(OwnedFd);

impl JournalSocket {
    /// Connects to the journal that listens at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> io::Result<JournalSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        // Less is enough, too: larger datagrams go by memfd then.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(JournalSocket(socket))
    }

    /// Sends datagrams, each put together from parts; tells how many went.
    ///
    /// # Errors
    /// About the first one: `WouldBlock` when the journal is busy, EMSGSIZE when it is too large for a datagram,
    /// ECONNREFUSED or ENOTCONN when the journal is gone.
    pub fn send(&self, datagrams: &[Vec<IoSlice<'_>>]) -> io::Result<usize> {
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            datagrams.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let parts = datagrams.iter().zip(&mut controls);
        let mut headers: Vec<MMsgHdr<'_>> = parts.map(|(parts, control)| MMsgHdr::new(parts, control)).collect();
        loop {
            match rustix::net::sendmmsg(&self.0, &mut headers, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => (),
                other => return Ok(other?),
            }
        }
    }

    /// Sends what is too large for a datagram: in a sealed file.
    ///
    /// # Errors
    /// As [`JournalSocket::send`], and when there are no descriptors or no memory left.
    pub fn send_large(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let content: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let file = memfd::sealed("journal-entry", &content)?;
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        rustix::net::sendmsg(&self.0, &[], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl AsFd for JournalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a datagram was too large.
#[must_use]
pub fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn datagrams_are_put_together_and_a_busy_journal_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(JournalSocket::connect(&path).is_err());
        let journal = UnixDatagram::bind(&path).unwrap();
        let socket = JournalSocket::connect(&path).unwrap();
        let two = [vec![IoSlice::new(b"a="), IoSlice::new(b"1\n")], vec![IoSlice::new(b"b=2\n")]];
        assert_eq!(socket.send(&two).unwrap(), 2);
        let mut got = [0; 64];
        for expected in [&b"a=1\n"[..], b"b=2\n"] {
            let length = journal.recv(&mut got).unwrap();
            assert_eq!(&got[..length], expected);
        }
        let busy = (0..100_000).find_map(|_| socket.send(&two).err()).unwrap();
        assert_eq!(busy.kind(), io::ErrorKind::WouldBlock);
        drop(journal);
        crate::sys::settled(|| socket.send(&two).unwrap_err().kind() != io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_too_large_goes_as_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let socket = JournalSocket::connect(&path).unwrap();
        let large = vec![b'x'; 32 << 20];
        let error = socket.send(&[vec![IoSlice::new(&large)]]).unwrap_err();
        assert!(is_too_large(&error), "{error}");
        socket.send_large(&[IoSlice::new(b"MESSAGE="), IoSlice::new(&large[..1000])]).unwrap();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(&journal, &mut [], &mut control, rustix::net::RecvFlags::empty()).unwrap();
        let file = control.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let content = memfd::read_all(file.unwrap(), 1 << 20).unwrap();
        assert_eq!((content.len(), &content[..9]), (1008, &b"MESSAGE=x"[..]));
    }
}
