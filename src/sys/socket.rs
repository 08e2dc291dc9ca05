//! Sockets as the supervisor needs them: bound for somebody else, passed over unix sockets.
//!
//! Owns the system calls about sockets that the standard library does not offer. Every descriptor that leaves here
//! is closed on exec and does not block: a file description is shared with whom it is passed to, and Node does not
//! set the flag on what it receives.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, UCred, sockopt,
};
use rustix::process::{Gid, Uid};

use super::identity::Identity;
use super::stray;

/// Descriptors that may come with one message (SCM_MAX_FD, unix(7)). What there is no room for the kernel closes within
/// the call, which may take long; see [`super::stray`].
const FDS_PER_MESSAGE: usize = 253;

/// Where a socket is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A unix socket's path; empty for one without a name.
    Unix(PathBuf),
}

/// What a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Connections.
    Stream,
    /// Datagrams.
    Datagram,
    /// Anything else.
    Other,
}

/// How an internet socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BindOptions {
    /// An IPv6 socket takes no IPv4 (IPV6_V6ONLY).
    pub v6_only: bool,
    /// Others may bind the same while it lingers (SO_REUSEADDR); for UDP, while it lives.
    pub reuse_address: bool,
    /// Others of the same user with this option may bind the same, and connections are spread (SO_REUSEPORT).
    pub reuse_port: bool,
}

/// A new socket bound to an internet address; port 0 takes a free one.
///
/// # Errors
/// What socket(2) and bind(2) say.
pub fn bind_inet(kind: Kind, address: SocketAddr, options: BindOptions) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = new_socket(family, kind)?;
    if options.reuse_address {
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    if options.reuse_port {
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    if address.is_ipv6() {
        // Said either way, so that net.ipv6.bindv6only does not matter.
        sockopt::set_ipv6_v6only(&fd, options.v6_only)?;
    }
    rustix::net::bind(&fd, &address)?;
    Ok(fd)
}

/// A new stream socket bound to a path, which must not exist. Its file belongs to the calling thread's filesystem
/// credentials.
///
/// # Errors
/// What socket(2) and bind(2) say; ENAMETOOLONG for a path that does not fit.
pub fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let fd = new_socket(AddressFamily::UNIX, Kind::Stream)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

/// Connects to a unix socket without waiting, with the calling thread's filesystem credentials.
///
/// # Errors
/// What connect(2) says; `WouldBlock` when too many wait there already.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    let fd = new_socket(AddressFamily::UNIX, Kind::Stream)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

/// Sends a datagram as this user: a receiver that asks who sent it (SO_PASSCRED, unix(7)) hears of the user and not of the
/// daemon, whose word counts for more.
///
/// # Errors
/// What sendmsg(2) says; `WouldBlock` when the receiver takes nothing just now.
pub fn send_as(socket: impl AsFd, who: &Identity, message: &[u8]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !who.is_own() {
        let (pid, uid, gid) = (rustix::process::getpid(), Uid::from_raw(who.uid), Gid::from_raw(who.gid));
        control.push(SendAncillaryMessage::ScmCredentials(UCred { pid, uid, gid }));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn new_socket(family: AddressFamily, kind: Kind) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Stream => SocketType::STREAM,
        Kind::Datagram => SocketType::DGRAM,
        Kind::Other => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

/// Lets a bound stream socket take connections; on one that does already, changes how many may wait.
///
/// # Errors
/// What listen(2) says.
pub fn listen(fd: impl AsFd, backlog: i32) -> io::Result<()> {
    Ok(rustix::net::listen(fd, backlog)?)
}

/// Has a stream socket listen no more, whoever else has duplicates of it: its address is free for others that let
/// others have theirs (SO_REUSEADDR). What waits is reset.
///
/// # Errors
/// What shutdown(2) says.
pub fn end_listening(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(fd, rustix::net::Shutdown::Both)?)
}

/// The next connection that waits, and who it is from (`None` for unix sockets).
///
/// # Errors
/// What accept4(2) says; `WouldBlock` when none waits.
pub fn accept(fd: impl AsFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let (connection, peer) = rustix::net::acceptfrom_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    Ok((connection, peer.and_then(|peer| SocketAddr::try_from(peer).ok())))
}

/// Whether a connection waits to be accepted, or data to be read, right now.
///
/// # Errors
/// What poll(2) says.
pub fn is_readable(fd: impl AsFd) -> io::Result<bool> {
    let fd = fd.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(_) => Ok(fds[0].revents().contains(PollFlags::IN)),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Where a socket is bound.
///
/// # Errors
/// What getsockname(2) says; `Unsupported` for other families.
pub fn local_address(fd: impl AsFd) -> io::Result<Address> {
    let address = rustix::net::getsockname(fd)?;
    match address.address_family() {
        AddressFamily::INET | AddressFamily::INET6 => Ok(Address::Inet(SocketAddr::try_from(address)?)),
        AddressFamily::UNIX => Ok(Address::Unix(unix_path(address))),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn unix_path(address: SocketAddrAny) -> PathBuf {
    let address = SocketAddrUnix::try_from(address).ok();
    let bytes = address.as_ref().and_then(SocketAddrUnix::path_bytes);
    bytes.map_or_else(PathBuf::new, |bytes| Path::new(std::ffi::OsStr::from_bytes(bytes)).to_owned())
}

/// What a socket carries.
///
/// # Errors
/// What getsockopt(2) says; ENOTSOCK when it is none.
pub fn kind(fd: impl AsFd) -> io::Result<Kind> {
    Ok(match sockopt::socket_type(fd)? {
        SocketType::STREAM => Kind::Stream,
        SocketType::DGRAM => Kind::Datagram,
        _ => Kind::Other,
    })
}

/// Whether an IPv6 socket takes no IPv4; `false` for every other socket.
#[must_use]
pub fn is_v6_only(fd: impl AsFd) -> bool {
    sockopt::ipv6_v6only(fd).unwrap_or(false)
}

/// Makes a descriptor that came from elsewhere not block. It holds for everybody who shares the file description.
///
/// # Errors
/// What fcntl(2) says.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// A connected pair of unix stream sockets, as libuv makes them for a channel.
///
/// # Errors
/// What socketpair(2) says.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Sends bytes, and with the first of them a descriptor, over a unix socket, without waiting. Returns how many bytes
/// went; messages of up to 32 KiB go whole or not at all on a stream socket (they are one buffer of the kernel's).
///
/// # Errors
/// What sendmsg(2) says: `WouldBlock` when the receiver is behind, `BrokenPipe` when it is gone. Nothing was sent then.
pub fn send(fd: impl AsFd, bytes: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = passed.map(|fd| [fd]);
    if let Some(fds) = &fds
        && !control.push(SendAncillaryMessage::ScmRights(fds))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// What came over a unix socket.
#[derive(Debug, Default)]
pub struct Received {
    /// How many bytes lie in the buffer now; 0 is the end.
    pub bytes: usize,
    /// Descriptors that came with the last of them (the kernel never returns bytes from behind a descriptor).
    pub fds: Vec<OwnedFd>,
    /// Descriptors were lost, since the process may open no more; or there are some and it was only looked.
    pub truncated: bool,
}

/// Receives into `buffer` without waiting. With `peek` everything stays where it is.
///
/// # Errors
/// What recvmsg(2) says; `WouldBlock` when there is nothing.
pub fn receive(fd: impl AsFd, buffer: &mut [u8], peek: bool) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    let room = if peek { 0 } else { space.len() };
    let mut control = RecvAncillaryBuffer::new(&mut space[..room]);
    let mut flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    if peek {
        flags |= RecvFlags::PEEK;
    }
    let message = loop {
        match rustix::net::recvmsg(&fd, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => (),
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    Ok(Received { bytes: message.bytes, fds, truncated: message.flags.contains(ReturnFlags::CTRUNC) })
}

/// [`receive`] for bytes alone: descriptors that come with them are closed, however long that takes, without waiting for it.
/// Tells how many bytes there were, and whether there was a descriptor.
///
/// # Errors
/// As [`receive`].
pub fn receive_bytes(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let got = receive(fd, buffer, false)?;
    let with_fd = got.truncated || !got.fds.is_empty();
    stray::close(got.fds);
    Ok((got.bytes, with_fd))
}

/// Receives no more, and takes out what lies there, so that the last close(2) finds no descriptors to close as well.
pub fn stop_receiving(fd: impl AsFd) {
    let fd = fd.as_fd();
    // Where it is connected no more, nothing more can come.
    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Read);
    let (mut buffer, mut strays) = (vec![0; 64 << 10], Vec::new());
    while let Ok(got) = receive(fd, &mut buffer, false)
        && (got.bytes > 0 || !got.fds.is_empty())
    {
        strays.extend(got.fds);
    }
    stray::close(strays);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv6Addr, TcpStream};
    use std::os::fd::AsRawFd;

    fn inet(fd: &OwnedFd) -> SocketAddr {
        match local_address(fd).unwrap() {
            Address::Inet(address) => address,
            Address::Unix(path) => panic!("{path:?}"),
        }
    }

    #[test]
    fn a_receiver_hears_of_the_user_whose_datagram_it_is() {
        let who = Identity::by_name(if nix::unistd::geteuid().is_root() { "nobody" } else { "" });
        let who = who.unwrap_or_else(|_| Identity::own().unwrap());
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        sockopt::set_socket_passcred(&theirs, true).unwrap();
        send_as(&ours, &who, b"hello").unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; 16];
        let got = rustix::net::recvmsg(&theirs, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::empty());
        assert_eq!(&text[..got.unwrap().bytes], b"hello");
        let Some(RecvAncillaryMessage::ScmCredentials(sender)) = control.drain().next() else {
            panic!("no credentials")
        };
        assert_eq!((sender.uid.as_raw(), sender.gid.as_raw()), (who.uid, who.gid));
    }

    #[test]
    fn a_bound_socket_takes_connections_once_it_listens() {
        let fd = bind_inet(Kind::Stream, "127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
        let address = inet(&fd);
        assert_ne!(address.port(), 0);
        assert!(TcpStream::connect(address).is_err());
        listen(&fd, 5).unwrap();
        assert!(!is_readable(&fd).unwrap());
        assert_eq!(accept(&fd).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = TcpStream::connect(address).unwrap();
        assert!(is_readable(&fd).unwrap());
        let (_connection, peer) = accept(&fd).unwrap();
        assert_eq!(peer, Some(client.local_addr().unwrap()));
    }

    #[test]
    fn the_same_port_is_bound_twice_only_with_reuse_port() {
        let shared = BindOptions { reuse_port: true, ..BindOptions::default() };
        let first = bind_inet(Kind::Stream, "127.0.0.1:0".parse().unwrap(), shared).unwrap();
        bind_inet(Kind::Stream, inet(&first), shared).unwrap();
        let error = bind_inet(Kind::Stream, inet(&first), BindOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_ipv6_socket_takes_ipv4_unless_told_otherwise() {
        for v6_only in [false, true] {
            let options = BindOptions { v6_only, ..BindOptions::default() };
            let Ok(fd) = bind_inet(Kind::Stream, (Ipv6Addr::UNSPECIFIED, 0).into(), options) else {
                println!("skipped: no IPv6 here");
                return;
            };
            assert_eq!(is_v6_only(&fd), v6_only);
            listen(&fd, 1).unwrap();
            assert_eq!(TcpStream::connect(("127.0.0.1", inet(&fd).port())).is_err(), v6_only);
        }
    }

    #[test]
    fn a_unix_socket_knows_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fd = bind_unix(&path).unwrap();
        assert_eq!(local_address(&fd).unwrap(), Address::Unix(path.clone()));
        assert_eq!(kind(&fd).unwrap(), Kind::Stream);
        assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(bind_unix(&dir.path().join("x".repeat(120))).is_err());
    }

    #[test]
    fn a_descriptor_travels_and_peeking_leaves_it() {
        let (here, there) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        assert_eq!(send(&here, b"one\n", None).unwrap(), 4);
        assert_eq!(send(&here, b"two\n", Some(writer.as_fd())).unwrap(), 4);
        assert_eq!(send(&here, b"three\n", None).unwrap(), 6);
        drop(writer);
        let mut buffer = [0; 64];
        for peek in [true, true, false] {
            let got = receive(&there, &mut buffer, peek).unwrap();
            let fds = usize::from(!peek);
            assert_eq!((&buffer[..got.bytes], got.fds.len(), got.truncated), (&b"one\ntwo\n"[..], fds, peek));
            if !peek {
                std::fs::File::from(got.fds.into_iter().next().unwrap()).write_all(b"!").unwrap();
            }
        }
        let got = receive(&there, &mut buffer, false).unwrap();
        assert_eq!((&buffer[..got.bytes], got.fds.len()), (&b"three\n"[..], 0));
        assert_eq!(receive(&there, &mut buffer, false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(here);
        crate::sys::settled(|| receive(&there, &mut buffer, true).is_ok_and(|got| got.bytes == 0));
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(written, "!", "a duplicate was left open");
    }

    #[test]
    fn what_is_made_here_is_closed_on_exec_and_does_not_block() {
        let (a, b) = pair().unwrap();
        let c = bind_inet(Kind::Datagram, "127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
        for fd in [&a, &b, &c] {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            assert!(rustix::fs::fcntl_getfl(fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        }
        let plain = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        set_nonblocking(&plain).unwrap();
        assert_eq!(plain.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(plain.as_raw_fd() > 2);
    }
}
