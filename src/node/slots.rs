//! One SO_REUSEPORT socket for each row of an app, all on one address.
//!
//! The kernel spreads connections over the sockets that listen; each row's workers accept on their own, so the
//! supervisor is not in the way of the data. It holds every socket itself: a worker's death resets no connection, what
//! waits in its queue is accepted by the supervisor and given to others.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bind::{self, Errno};
use super::primary::PrimaryConfig;
use crate::core::ProcessId;
use crate::sys::reuseport::{self, RoundRobin};
use crate::sys::socket;

/// The sockets of an address.
#[derive(Debug)]
pub(super) struct Slots {
    pub all: BTreeMap<ProcessId, Slot>,
    /// A look at the queues is due.
    pub ticking: bool,
    /// The first socket, until a row takes it.
    spare: Option<Arc<OwnedFd>>,
    v6_only: bool,
    steering: Steering,
    /// In the order in which their sockets began to listen, as classic BPF counts them.
    order: Vec<ProcessId>,
}

/// What a later daemon needs in order to go on with them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedSlots {
    /// Row, place in the program's map, looks left; in the order in which they began to listen.
    slots: Vec<(ProcessId, u32, Option<u32>)>,
    #[serde(default)]
    v6_only: bool,
}

/// One row's socket.
#[derive(Debug)]
pub(super) struct Slot {
    pub fd: Arc<OwnedFd>,
    /// A worker of the row accepts here.
    pub live: bool,
    /// Connections wait here and the worker does not answer: others serve them.
    pub stuck: bool,
    /// The row is gone; so many looks are left before the socket is closed.
    pub retiring: Option<u32>,
    pub watch: Watch,
    /// Its place in the eBPF program's map.
    index: u32,
}

/// What the supervisor waits for at a slot's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Nothing.
    Off,
    /// The first connection, to begin looking after the worker. Told once.
    Next,
    /// Any connection, to accept it.
    All,
}

/// How the kernel chooses among the sockets.
#[derive(Debug)]
enum Steering {
    /// In turn.
    Ebpf { program: RoundRobin, live: Vec<u32> },
    /// At random; these are let in.
    Classic { live: Vec<u32> },
    /// By its hash, over all that listen.
    Hash,
}

impl Slots {
    /// Begins with a socket that is bound to be shared and does not listen yet.
    pub fn new(first: Arc<OwnedFd>, config: &PrimaryConfig) -> Slots {
        let steering = match config.ebpf.then(RoundRobin::new) {
            Some(Ok(program)) => Steering::Ebpf { program, live: Vec::new() },
            Some(Err(error)) => {
                tracing::debug!(%error, "no eBPF here, classic BPF spreads connections");
                Steering::Classic { live: Vec::new() }
            }
            None => Steering::Classic { live: Vec::new() },
        };
        let v6_only = socket::is_v6_only(&first);
        Slots { all: BTreeMap::new(), ticking: false, spare: Some(first), v6_only, steering, order: Vec::new() }
    }

    /// Goes on with sockets and steering of an earlier daemon, which `get` finds by the end of their names. Where some
    /// sockets have been lost, their rows get others, and the kernel's hash spreads connections: in which order it counts
    /// those that are left is not known.
    pub fn again(saved: SavedSlots, get: impl Fn(&str) -> Option<Arc<OwnedFd>>) -> Slots {
        let mut all = BTreeMap::new();
        let mut order = Vec::new();
        let mut complete = true;
        for (process, index, retiring) in saved.slots {
            let Some(fd) = get(&format!("-p{process}")) else {
                complete = false;
                continue;
            };
            order.push(process);
            all.insert(process, Slot { fd, live: false, stuck: false, retiring, watch: Watch::Off, index });
        }
        let spare = get("-spare");
        let any = all.values().map(|slot: &Slot| &slot.fd).chain(&spare).next();
        let v6_only = any.map_or(saved.v6_only, socket::is_v6_only);
        if let Some(any) = any.filter(|_| !complete) {
            leave_to_hash(any);
        }
        let steering = match (get("-program"), get("-state"), get("-sockets")) {
            _ if !complete => Steering::Hash,
            // No index is as large: whatever is live now, it is told to the program.
            (Some(program), Some(state), Some(sockets)) => {
                Steering::Ebpf { program: RoundRobin::again([program, state, sockets]), live: vec![u32::MAX] }
            }
            _ => Steering::Classic { live: vec![u32::MAX] },
        };
        Slots { all, ticking: false, spare, v6_only, steering, order }
    }

    /// What [`Slots::again`] needs: the state, and the descriptors by the end of their names.
    pub fn saved(&self) -> (SavedSlots, Vec<(String, Arc<OwnedFd>)>) {
        let of = |process: &ProcessId| self.all.get(process).map(|slot| (*process, slot.index, slot.retiring));
        let slots = self.order.iter().filter_map(of).collect();
        let mut fds: Vec<_> =
            self.all.iter().map(|(process, slot)| (format!("-p{process}"), Arc::clone(&slot.fd))).collect();
        fds.extend(self.spare.as_ref().map(|fd| ("-spare".to_owned(), Arc::clone(fd))));
        if let Steering::Ebpf { program, .. } = &self.steering {
            let names = ["-program", "-state", "-sockets"].map(str::to_owned);
            fds.extend(names.into_iter().zip(program.descriptors().map(Arc::clone)));
        }
        (SavedSlots { slots, v6_only: self.v6_only }, fds)
    }

    /// Any of the sockets: their address is the same.
    pub fn any(&self) -> Option<Arc<OwnedFd>> {
        self.all.values().map(|slot| &slot.fd).chain(&self.spare).next().cloned()
    }

    /// Rows that do not come back.
    pub fn retiring(&self) -> impl Iterator<Item = ProcessId> + '_ {
        self.all.iter().filter(|(_, slot)| slot.retiring.is_some()).map(|(process, _)| *process)
    }

    /// As in [`super::ListenerInfo::balance`].
    pub fn steering(&self) -> &'static str {
        match self.steering {
            Steering::Ebpf { .. } => "reuseport+ebpf",
            Steering::Classic { .. } => "reuseport+cbpf",
            Steering::Hash => "reuseport",
        }
    }

    /// All sockets.
    pub fn fds(&self) -> impl Iterator<Item = &OwnedFd> {
        self.all.values().map(|slot| &*slot.fd).chain(self.spare.as_deref())
    }

    /// The row's socket, a new one if it has none.
    ///
    /// # Errors
    /// As bind(2) and listen(2) say.
    pub fn socket_for(&mut self, process: ProcessId, address: Option<SocketAddr>) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(slot) = self.all.get_mut(&process) {
            slot.retiring = None;
            return Ok(Arc::clone(&slot.fd));
        }
        let fd = match (self.spare.take(), address) {
            (Some(fd), _) => fd,
            (None, Some(address)) => Arc::new(bind::bind_another(address, self.v6_only)?),
            (None, None) => return Err(libc::EINVAL),
        };
        if let Steering::Hash = self.steering {
            // Connections come to whoever listens: not before the worker does. There may be an older program.
            leave_to_hash(&fd);
        } else {
            // The worker will do so, too; but classic BPF counts sockets in the order of this, which must be known.
            socket::listen(&fd, bind::BACKLOG).map_err(|e| bind::errno(&e))?;
        }
        let index = (0..).find(|i| self.all.values().all(|slot| slot.index != *i)).unwrap_or(u32::MAX);
        if let Steering::Ebpf { program, .. } = &self.steering {
            let first = self.all.is_empty();
            let result = program.set_socket(index, &fd).and_then(|()| if first { program.attach(&fd) } else { Ok(()) });
            if let Err(error) = result {
                self.fall_back(&error);
            }
        }
        let slot = Slot { fd: Arc::clone(&fd), live: false, stuck: false, retiring: None, watch: Watch::Off, index };
        self.all.insert(process, slot);
        self.order.push(process);
        Ok(fd)
    }

    /// Closes the supervisor's end of a row's socket, which must be the last.
    pub fn remove(&mut self, process: ProcessId) {
        self.all.remove(&process);
        if let Some(at) = self.order.iter().position(|other| *other == process) {
            // As reuseport_detach_sock in net/core/sock_reuseport.c does it.
            self.order.swap_remove(at);
        }
    }

    /// Tells the kernel where connections may go, if that has changed.
    pub fn steer(&mut self) {
        let result = match &mut self.steering {
            Steering::Ebpf { program, live } => {
                let now: Vec<u32> = self.all.values().filter(|slot| slot.live).map(|slot| slot.index).collect();
                if now == *live {
                    return;
                }
                live.clone_from(&now);
                program.set_live(&now)
            }
            Steering::Classic { live } => {
                let is_live = |process| self.all.get(process).is_some_and(|slot| slot.live);
                let members = (0..).zip(&self.order).filter(|(_, process)| is_live(process));
                let now: Vec<u32> = members.map(|(member, _)| member).collect();
                let Some(any) = self.all.values().next() else { return };
                if now == *live {
                    return;
                }
                live.clone_from(&now);
                if now.is_empty() { reuseport::detach(&any.fd) } else { reuseport::attach_random(&any.fd, &now) }
            }
            Steering::Hash => return,
        };
        if let Err(error) = result {
            self.fall_back(&error);
            self.steer();
        }
    }

    /// What the kernel does not take is not tried again.
    fn fall_back(&mut self, error: &io::Error) {
        let before = self.steering();
        self.steering = match self.steering {
            Steering::Ebpf { .. } => Steering::Classic { live: Vec::new() },
            Steering::Classic { .. } | Steering::Hash => Steering::Hash,
        };
        tracing::warn!(%error, before, now = self.steering(), "connections are spread by other means");
    }
}

/// Takes whatever steers the group of this socket away, if anything does.
fn leave_to_hash(fd: &OwnedFd) {
    if let Err(error) = reuseport::detach(fd)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, "how connections are spread stays as it was");
    }
}

impl Slot {
    /// Whether the supervisor is to accept what waits here.
    pub fn needs_rescue(&self) -> bool {
        !self.live || self.stuck
    }
}
