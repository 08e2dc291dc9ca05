//! Steering the connections of a SO_REUSEPORT group: which of its sockets gets the next one.
//!
//! Owns the programs and maps of bpf(2) for that, and nothing else of BPF. [`RoundRobin`] needs CAP_BPF and
//! CAP_NET_ADMIN; [`attach_random`] needs nothing. Without either the kernel hashes over all sockets of the group.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Sockets in a group that [`RoundRobin`] can steer between.
pub const CAPACITY: usize = 254;

/// An eBPF program that deals connections out in turn, over those sockets of a group that are live.
#[derive(Debug)]
pub struct RoundRobin {
    program: Arc<OwnedFd>,
    /// An array of one element, [`State`].
    state: Arc<OwnedFd>,
    /// Socket by index.
    sockets: Arc<OwnedFd>,
}

/// What the program reads, and the counter that it keeps; the layout is known to [`program`].
#[repr(C)]
struct State {
    counter: u32,
    live: u32,
    table: [u32; CAPACITY],
}

impl RoundRobin {
    /// Loads the program. It steers nothing until it is attached.
    ///
    /// # Errors
    /// What bpf(2) says: `PermissionDenied` without the capabilities, other things on kernels that cannot (5.12 can).
    pub fn new() -> io::Result<RoundRobin> {
        const BPF_MAP_TYPE_ARRAY: u32 = 2;
        const BPF_MAP_TYPE_REUSEPORT_SOCKARRAY: u32 = 20;
        let state = map_create(BPF_MAP_TYPE_ARRAY, size_of::<State>(), 1)?;
        let sockets = map_create(BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, size_of::<u64>(), CAPACITY)?;
        let program = program_load(&program(&state, &sockets))?;
        Ok(RoundRobin::again([program, state, sockets].map(Arc::new)))
    }

    /// Program, state and sockets, by which a later process goes on with it: see [`RoundRobin::again`].
    #[must_use]
    pub fn descriptors(&self) -> [&Arc<OwnedFd>; 3] {
        [&self.program, &self.state, &self.sockets]
    }

    /// The program that an earlier process loaded and attached, from its [descriptors](RoundRobin::descriptors). (A
    /// new one could not be given the sockets: the kernel lets a socket be in one such map only.)
    #[must_use]
    pub fn again([program, state, sockets]: [Arc<OwnedFd>; 3]) -> RoundRobin {
        RoundRobin { program, state, sockets }
    }

    /// Lets the program decide for the group that this socket is in.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn attach(&self, socket: impl AsFd) -> io::Result<()> {
        const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = 52;
        set_option(&socket, SO_ATTACH_REUSEPORT_EBPF, &self.program.as_raw_fd())
    }

    /// Makes a socket of the group known by an index below [`CAPACITY`]. It must be listening; the kernel forgets it
    /// when it is closed.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn set_socket(&self, index: u32, socket: impl AsFd) -> io::Result<()> {
        let fd = u64::try_from(socket.as_fd().as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
        map_update(&self.sockets, index, &fd)
    }

    /// From now on new connections go to the sockets with these indices, in turn; with none of them, where the kernel's
    /// hash says.
    ///
    /// # Errors
    /// What bpf(2) says; `InvalidInput` for more than [`CAPACITY`].
    pub fn set_live(&self, indices: &[u32]) -> io::Result<()> {
        let mut state = State { counter: 0, live: 0, table: [0; CAPACITY] };
        state.table.get_mut(..indices.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(indices);
        state.live = u32::try_from(indices.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        map_update(&self.state, 0, &state)
    }
}

/// The program, an eBPF instruction a word: fetch-and-add the counter, take the remainder by the number of live
/// sockets, look up that entry of the table and select the socket. Whatever fails leaves it to the kernel's hash.
fn program(state: &OwnedFd, sockets: &OwnedFd) -> [u64; 28] {
    const MAP_LOOKUP_ELEM: i32 = 1;
    const SK_SELECT_REUSEPORT: i32 = 82;
    const PASS: i16 = 26;
    let to_pass = |from: i16| PASS - from - 1;
    let op = |code: u8, to: u8, from: u8, offset: i16, value: i32| {
        let [low, high] = offset.to_le_bytes();
        let value = value.to_le_bytes();
        u64::from_ne_bytes([code, from << 4 | to, low, high, value[0], value[1], value[2], value[3]])
    };
    let last_entry = i32::try_from(CAPACITY - 1).unwrap_or(0);
    [
        op(0xbf, 6, 1, 0, 0),                    // 0: r6 = r1, the context
        op(0x62, 10, 0, -4, 0),                  // 1: key = 0
        op(0x18, 1, 1, 0, state.as_raw_fd()),    // 2: r1 = state
        op(0, 0, 0, 0, 0),                       // 3:   (second half)
        op(0xbf, 2, 10, 0, 0),                   // 4: r2 = &key
        op(0x07, 2, 0, 0, -4),                   // 5:
        op(0x85, 0, 0, 0, MAP_LOOKUP_ELEM),      // 6: r0 = lookup(r1, r2)
        op(0x15, 0, 0, to_pass(7), 0),           // 7: if r0 == 0, pass
        op(0xbf, 7, 0, 0, 0),                    // 8: r7 = r0
        op(0xb7, 8, 0, 0, 1),                    // 9: r8 = 1
        op(0xc3, 7, 8, 0, 1),                    // 10: r8 = fetch_add(r7->counter, r8)
        op(0x61, 1, 7, 4, 0),                    // 11: r1 = r7->live
        op(0x15, 1, 0, to_pass(12), 0),          // 12: if r1 == 0, pass
        op(0x9c, 8, 1, 0, 0),                    // 13: w8 %= w1
        op(0x25, 8, 0, to_pass(14), last_entry), // 14: if r8 > the last entry, pass
        op(0x67, 8, 0, 0, 2),                    // 15: r8 *= 4
        op(0x0f, 7, 8, 0, 0),                    // 16: r7 += r8
        op(0x61, 1, 7, 8, 0),                    // 17: r1 = r7->table[..]
        op(0x63, 10, 1, -4, 0),                  // 18: key = r1
        op(0xbf, 1, 6, 0, 0),                    // 19: r1 = the context
        op(0x18, 2, 1, 0, sockets.as_raw_fd()),  // 20: r2 = sockets
        op(0, 0, 0, 0, 0),                       // 21:   (second half)
        op(0xbf, 3, 10, 0, 0),                   // 22: r3 = &key
        op(0x07, 3, 0, 0, -4),                   // 23:
        op(0xb7, 4, 0, 0, 0),                    // 24: r4 = 0
        op(0x85, 0, 0, 0, SK_SELECT_REUSEPORT),  // 25: select(r1, r2, r3, r4)
        op(0xb7, 0, 0, 0, 1),                    // 26: r0 = SK_PASS
        op(0x95, 0, 0, 0, 0),                    // 27: return
    ]
}

/// Has the kernel choose at random among these members of the socket's group, with a classic BPF program. Members are
/// counted in the order in which they began to listen; when one is closed, the last takes its number.
///
/// # Errors
/// What setsockopt(2) says; `InvalidInput` for none, or for more than fit into a program.
pub fn attach_random(socket: impl AsFd, members: &[u32]) -> io::Result<()> {
    const SO_ATTACH_REUSEPORT_CBPF: libc::c_int = 51;
    const LOAD_ABSOLUTE: u16 = 0x20;
    const MODULO: u16 = 0x94;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // SKF_AD_OFF + SKF_AD_RANDOM of linux/filter.h
    const RANDOM: u32 = 0xffff_f000 + 56;
    let code = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let (last, others) = members.split_last().ok_or(io::ErrorKind::InvalidInput)?;
    let count = u32::try_from(members.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut filter = vec![code(LOAD_ABSOLUTE, 0, RANDOM), code(MODULO, 0, count)];
    for (i, member) in (0..).zip(others) {
        filter.extend([code(JUMP_IF_EQUAL, 1, i), code(RETURN, 0, *member)]);
    }
    filter.push(code(RETURN, 0, *last));
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_option(&socket, SO_ATTACH_REUSEPORT_CBPF, &libc::sock_fprog { len, filter: filter.as_mut_ptr() })
}

/// Leaves the choice to the kernel's hash again.
///
/// # Errors
/// What setsockopt(2) says; `NotFound` when nothing was attached.
pub fn detach(socket: impl AsFd) -> io::Result<()> {
    const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;
    set_option(&socket, SO_DETACH_REUSEPORT_BPF, &0_i32)
}

fn set_option<T>(socket: &impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe a live value, which the kernel copies; where it holds a pointer
    // itself (sock_fprog), the caller keeps what that points to alive during the call.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, std::ptr::from_ref(value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn map_create(kind: u32, value_size: usize, entries: usize) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    const BPF_MAP_CREATE: libc::c_int = 0;
    let size = |n| u32::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
    let attributes = Attributes { kind, key_size: 4, value_size: size(value_size)?, max_entries: size(entries)? };
    bpf_new(BPF_MAP_CREATE, &attributes)
}

fn map_update<T>(map: &OwnedFd, key: u32, value: &T) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
    let attributes = Attributes {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(|_| ())
}

fn program_load(code: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_SK_REUSEPORT: u32 = 21;
    let attributes = Attributes {
        kind: BPF_PROG_TYPE_SK_REUSEPORT,
        instructions: u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        code: code.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
    };
    bpf_new(BPF_PROG_LOAD, &attributes)
}

fn bpf_new<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: these commands return a new descriptor that nobody else owns. It is closed on exec (bpf(2)).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the pointer and the size describe a live value, and the kernel takes what lies beyond as zero. Addresses
    // in it are of values that the callers keep alive during the call, and of the sizes that the command expects.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { libc::c_int::try_from(result).map_err(io::Error::other) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::socket::{self, Address, BindOptions, Kind};
    use std::net::{SocketAddr, TcpStream};

    fn group(count: usize) -> (SocketAddr, Vec<OwnedFd>) {
        let options = BindOptions { reuse_port: true, ..BindOptions::default() };
        let mut address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut sockets = Vec::new();
        for _ in 0..count {
            let socket = socket::bind_inet(Kind::Stream, address, options).unwrap();
            socket::listen(&socket, 128).unwrap();
            let Ok(Address::Inet(bound)) = socket::local_address(&socket) else { panic!() };
            address = bound;
            sockets.push(socket);
        }
        (address, sockets)
    }

    /// How many of `count` connections each socket gets.
    fn connect(address: SocketAddr, sockets: &[OwnedFd], count: usize) -> Vec<usize> {
        let clients: Vec<_> = (0..count).map(|_| TcpStream::connect(address).unwrap()).collect();
        let got = sockets.iter().map(|s| std::iter::from_fn(|| socket::accept(s).ok()).count()).collect();
        drop(clients);
        got
    }

    #[test]
    fn classic_bpf_restricts_to_the_members_named() {
        let (address, sockets) = group(4);
        attach_random(&sockets[0], &[1, 3]).unwrap();
        let got = connect(address, &sockets, 60);
        assert_eq!((got[0], got[2], got[1] + got[3]), (0, 0, 60));
        assert!(got[1] > 5 && got[3] > 5, "{got:?}");
        attach_random(&sockets[0], &[2]).unwrap();
        assert_eq!(connect(address, &sockets, 10), [0, 0, 10, 0]);
        detach(&sockets[0]).unwrap();
        assert_eq!(connect(address, &sockets, 20).iter().sum::<usize>(), 20);
        assert_eq!(attach_random(&sockets[0], &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn ebpf_deals_in_turn_over_the_live_sockets() {
        let round_robin = match RoundRobin::new() {
            Ok(round_robin) => round_robin,
            Err(error) => {
                println!("skipped: eBPF is not to be had here: {error}");
                return;
            }
        };
        let (address, sockets) = group(3);
        for (i, socket) in (0..).zip(&sockets) {
            round_robin.set_socket(10 + i, socket).unwrap();
        }
        round_robin.attach(&sockets[1]).unwrap();
        round_robin.set_live(&[10, 11, 12]).unwrap();
        assert_eq!(connect(address, &sockets, 30), [10, 10, 10]);
        round_robin.set_live(&[12, 10]).unwrap();
        assert_eq!(connect(address, &sockets, 30), [15, 0, 15]);
        // An index without a socket, or no index at all, is left to the hash: nobody is refused.
        round_robin.set_live(&[99]).unwrap();
        assert_eq!(connect(address, &sockets, 20).iter().sum::<usize>(), 20);
        round_robin.set_live(&[]).unwrap();
        assert_eq!(connect(address, &sockets, 20).iter().sum::<usize>(), 20);
        assert_eq!(round_robin.set_live(&[0; CAPACITY + 1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
