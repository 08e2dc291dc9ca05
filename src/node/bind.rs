//! What a server asks for, and the socket that answers it.
//!
//! Binds for workers with the rights of the worker's user and never more: the supervisor may be root. Knows the rules
//! of Node's own primary (lib/net.js, lib/dgram.js, libuv's uv__tcp_bind) so that an app meets the same errors.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::message::Query;
use crate::sys::identity::{Identity, run_as};
use crate::sys::socket::{self, Address, BindOptions, Kind};

/// libuv's UV_TCP_IPV6ONLY and UV_UDP_IPV6ONLY.
const FLAG_V6_ONLY: u32 = 1;
/// libuv's UV_UDP_REUSEADDR.
const FLAG_REUSE_ADDRESS: u32 = 4;
/// Connections that may wait; the kernel takes net.core.somaxconn if that is less. Node's 511 would be few for a
/// socket that has to bridge a restart.
pub(super) const BACKLOG: i32 = 4096;
/// Where the kernel tells below which port an ordinary user binds none, for IPv6 and UDP as well (ip(7)).
const UNPRIVILEGED_PORT_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// An error number, positive as in errno(3).
pub(super) type Errno = i32;

/// What a server wants to listen on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Wanted {
    /// TCP; without a host on all addresses, of both families where there are two.
    Tcp { host: Option<Host>, port: u16, v6_only: bool },
    /// UDP.
    Udp { host: Host, port: u16, v6_only: bool, reuse: bool },
    /// A unix socket.
    Path(PathBuf),
    /// A descriptor of the supervisor's, by its number.
    Fd(i32),
}

/// A numeric address, with the interface of a link-local one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Host {
    pub ip: IpAddr,
    pub scope: u32,
}

impl Host {
    fn parse(text: &str) -> Option<Host> {
        if let Ok(ip) = text.parse() {
            return Some(Host { ip, scope: 0 });
        }
        let (ip, zone) = text.split_once('%')?;
        let ip = IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?);
        let named = || std::fs::read_to_string(Path::new("/sys/class/net").join(zone).join("ifindex")).ok();
        let scope = match zone.parse() {
            Ok(number) => number,
            Err(_) if !zone.contains('/') => named()?.trim().parse().ok()?,
            Err(_) => return None,
        };
        Some(Host { ip, scope })
    }

    fn with_port(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Host {
        Host { ip, scope: 0 }
    }
}

impl From<SocketAddr> for Host {
    fn from(address: SocketAddr) -> Host {
        let scope = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
        Host { ip: address.ip(), scope }
    }
}

impl Wanted {
    /// # Errors
    /// EINVAL for what no Node sends.
    pub fn from_query(query: &Query) -> Result<Wanted, Errno> {
        let v6_only = query.flags.unwrap_or(0) & FLAG_V6_ONLY != 0;
        let port = || query.port.and_then(|port| u16::try_from(port).ok()).ok_or(libc::EINVAL);
        let host = || match query.address.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => Host::parse(text).map(Some).ok_or(libc::EINVAL),
        };
        match (query.fd, query.address_type.as_str()) {
            (Some(fd), _) if fd >= 0 => Ok(Wanted::Fd(fd)),
            (_, Some(kind @ ("udp4" | "udp6"))) => {
                let any: IpAddr =
                    if kind == "udp4" { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let host = host()?.unwrap_or(Host::from(any));
                let reuse = query.flags.unwrap_or(0) & FLAG_REUSE_ADDRESS != 0;
                Ok(Wanted::Udp { host, port: port()?, v6_only, reuse })
            }
            (_, Some(_)) => Err(libc::EINVAL),
            (_, None) if query.port == Some(-1) => match query.address.as_deref() {
                Some(path) if path.starts_with('/') => Ok(Wanted::Path(path.into())),
                _ => Err(libc::EINVAL),
            },
            (_, None) => Ok(Wanted::Tcp { host: host()?, port: port()?, v6_only }),
        }
    }

    /// From a configuration: `8080`, `*:8080`, `127.0.0.1:80`, `[::1]:80` or an absolute path.
    pub fn from_text(text: &str) -> Option<Wanted> {
        if text.starts_with('/') {
            return Some(Wanted::Path(text.into()));
        }
        let any = |port: &str| Some(Wanted::Tcp { host: None, port: port.parse().ok()?, v6_only: false });
        if let Some(port) = text.strip_prefix("*:") {
            return any(port);
        }
        match text.parse::<SocketAddr>() {
            Ok(address) => Some(Wanted::Tcp { host: Some(address.into()), port: address.port(), v6_only: false }),
            Err(_) => any(text),
        }
    }

    /// Exactly what a bound socket serves; `None` for a kind that is neither of these.
    pub fn of(address: &Address, kind: Kind, v6_only: bool) -> Option<Wanted> {
        Some(match address {
            Address::Inet(address) => {
                let (host, port) = (Host::from(*address), address.port());
                match kind {
                    Kind::Stream => Wanted::Tcp { host: Some(host), port, v6_only },
                    Kind::Datagram => Wanted::Udp { host, port, v6_only, reuse: false },
                    Kind::Other => return None,
                }
            }
            Address::Unix(path) if kind == Kind::Stream && path.is_absolute() => Wanted::Path(path.clone()),
            Address::Unix(_) => return None,
        })
    }

    /// Whether the kernel chooses the port, so that equal questions may mean different sockets.
    pub fn takes_any_port(&self) -> bool {
        matches!(self, Wanted::Tcp { port: 0, .. } | Wanted::Udp { port: 0, .. })
    }

    /// Whether a worker may have several, of which the first is every worker's first, and so on: of those with any port,
    /// and of UDP sockets that let others have their address, as two libraries for multicast have them in one program.
    pub fn is_one_of_many(&self) -> bool {
        self.takes_any_port() || matches!(self, Wanted::Udp { reuse: true, .. })
    }

    /// Whether a socket that is bound there is what is wanted. A dual-stack socket, as systemd makes it of a bare port,
    /// will do for "all IPv4 addresses" as well.
    pub fn is_served_by(&self, kind: Kind, address: &Address, v6_only: bool) -> bool {
        match (self, kind, address) {
            (Wanted::Tcp { host, port, .. }, Kind::Stream, Address::Inet(bound)) => {
                *port == bound.port() && *port != 0 && serves(host.map(|host| host.ip), bound.ip(), v6_only)
            }
            (Wanted::Udp { host, port, .. }, Kind::Datagram, Address::Inet(bound)) => {
                *port == bound.port() && *port != 0 && serves(Some(host.ip), bound.ip(), v6_only)
            }
            (Wanted::Path(path), Kind::Stream, Address::Unix(bound)) => path == bound,
            _ => false,
        }
    }
}

fn serves(wanted: Option<IpAddr>, bound: IpAddr, v6_only: bool) -> bool {
    let dual = bound == IpAddr::from(Ipv6Addr::UNSPECIFIED) && !v6_only;
    match wanted {
        None => bound.is_unspecified(),
        Some(ip) => ip == bound || (dual && ip == IpAddr::from(Ipv4Addr::UNSPECIFIED)),
    }
}

/// Binds an internet socket; stream sockets listen already, so that what is refused is refused here. `shared` makes
/// it the first of several on the same address ([`bind_another`]).
///
/// # Errors
/// As the app's own attempt would have failed.
pub(super) fn bind_inet(wanted: &Wanted, who: &Identity, shared: bool) -> Result<OwnedFd, Errno> {
    match *wanted {
        Wanted::Tcp { host, port, v6_only } => {
            may_bind_port(port, who)?;
            let Some(host) = host else {
                // As net._createServerHandle does it: all addresses of both families, else of IPv4.
                let any: Host = IpAddr::from(Ipv6Addr::UNSPECIFIED).into();
                return match bind_tcp(any.with_port(port), false, shared) {
                    Err(libc::EADDRINUSE) => Err(libc::EADDRINUSE),
                    Err(_) => bind_tcp((Ipv4Addr::UNSPECIFIED, port).into(), false, shared),
                    bound => bound,
                };
            };
            bind_tcp(host.with_port(port), v6_only, shared)
        }
        Wanted::Udp { host, port, v6_only, reuse } => {
            may_bind_port(port, who)?;
            let options = BindOptions { v6_only, reuse_address: reuse, reuse_port: false };
            socket::bind_inet(Kind::Datagram, host.with_port(port), options).map_err(|e| errno(&e))
        }
        Wanted::Path(_) | Wanted::Fd(_) => Err(libc::EINVAL),
    }
}

fn bind_tcp(address: SocketAddr, v6_only: bool, shared: bool) -> Result<OwnedFd, Errno> {
    let alone = BindOptions { v6_only, reuse_address: true, reuse_port: false };
    if shared && address.port() != 0 {
        // With SO_REUSEPORT the kernel would let us join any other process of our user that has set it, too. Whoever
        // listens there already comes to light without.
        socket::bind_inet(Kind::Stream, address, alone).map_err(|e| errno(&e))?;
    }
    let options = BindOptions { reuse_port: shared, ..alone };
    let fd = socket::bind_inet(Kind::Stream, address, options).map_err(|e| errno(&e))?;
    if !shared {
        socket::listen(&fd, BACKLOG).map_err(|e| errno(&e))?;
    }
    Ok(fd)
}

/// A further socket on an address that [`bind_inet`] has bound as shared. It does not listen yet.
///
/// # Errors
/// As bind(2).
pub(super) fn bind_another(address: SocketAddr, v6_only: bool) -> Result<OwnedFd, Errno> {
    let options = BindOptions { v6_only, reuse_address: true, reuse_port: true };
    socket::bind_inet(Kind::Stream, address, options).map_err(|e| errno(&e))
}

/// Binds a unix socket with the rights of the user on files, and listens. An existing file is in the way, stale or not,
/// as it is for Node's primary. May block as long as the file system does.
///
/// # Errors
/// As the app's own attempt would have failed.
pub(super) fn bind_path(path: &Path, who: &Identity) -> Result<OwnedFd, Errno> {
    let fd = run_as(who, || socket::bind_unix(path)).map_err(|_| libc::EACCES)?.map_err(|e| errno(&e))?;
    socket::listen(&fd, BACKLOG).map_err(|e| errno(&e))?;
    Ok(fd)
}

/// Whether nothing has this path, as its user sees it. May block as long as the file system does.
pub(super) fn is_path_free(path: &Path, who: &Identity) -> bool {
    let found = run_as(who, || std::fs::symlink_metadata(path));
    matches!(found, Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound)
}

/// Removes a socket's file as libuv does when it closes one, with the rights of its user.
pub(super) fn unlink_path(path: &Path, who: &Identity) {
    let result = run_as(who, || std::fs::remove_file(path));
    if let Ok(Err(error)) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove socket");
    }
}

/// The kernel asks the supervisor's capability; it is the worker's user who must have the right.
fn may_bind_port(port: u16, who: &Identity) -> Result<(), Errno> {
    if port == 0 || who.uid == 0 {
        return Ok(());
    }
    let text = std::fs::read_to_string(UNPRIVILEGED_PORT_START);
    let first: u32 = text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    if u32::from(port) < first { Err(libc::EACCES) } else { Ok(()) }
}

pub(super) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
