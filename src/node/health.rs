//! Whether workers keep up, and what becomes of connections when one does not.
//!
//! Nothing here wakes up an idle machine. The first connection that comes to a slot's socket is told once; from then
//! on the queues are looked at every few milliseconds until they are empty. A worker whose queue is not empty is asked
//! for a sign of life; only if that does not come are its connections given to others: under load, queues of healthy
//! workers are seldom empty.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bind::{self, Errno};
use super::listener::{ListenerId, Sockets};
use super::message::{self, Incoming};
use super::primary::NodeEvent;
use super::slots::Watch;
use super::task::{Due, Task, Token};
use super::worker::{Connection, Worker};
use crate::core::{ProcessId, WorkerId};
use crate::sys::epoll::Interest;
use crate::sys::socket;

/// Between two looks at the queues. Each costs a message to every worker with a queue.
const TICK: Duration = Duration::from_millis(50);
/// A worker that has owed a sign of life for so long does not serve its queue. Less, and a busy machine would take
/// connections away from healthy workers: that spoils the balance of those that are kept alive, and costs the
/// supervisor an accept(2) and a message for each.
const STUCK: Duration = Duration::from_millis(250);
/// Connections taken out of one slot's queue in one go.
const BURST: usize = 64;
/// A slot whose row is gone: between two looks, and how many. Handshakes that were under way when it was taken out of
/// the steering end in its queue; closing resets them, and a host that takes a CPU away can delay them for seconds.
const RETIRE: Duration = Duration::from_millis(500);
const RETIRE_LOOKS: u32 = 10;

impl Task {
    pub(super) fn watch_slot(&mut self, id: ListenerId, process: ProcessId, fd: &OwnedFd) -> Result<(), Errno> {
        let token = Token::Slot(id, process).number();
        match self.epoll.add(fd, token, Interest::Nothing) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(bind::errno(&error)),
            _ => Ok(()),
        }
    }

    /// Who accepts where has changed.
    pub(super) fn refresh(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        let Sockets::Slots(slots) = &mut listener.sockets else { return };
        for (process, slot) in &mut slots.all {
            slot.live = slot.retiring.is_none()
                && self.workers.values().any(|worker| worker.process == *process && worker.serves(id));
            slot.stuck &= slot.live;
        }
        slots.steer();
        self.watch_slots(id);
    }

    pub(super) fn refresh_all_of(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let listeners: Vec<_> = worker.holds.keys().copied().collect();
        for listener in listeners {
            self.refresh(listener);
            self.pump(listener);
        }
    }

    fn watch_slots(&mut self, id: ListenerId) {
        let takers = self.choose(id, None, &[]).is_some();
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        let Sockets::Slots(slots) = &mut listener.sockets else { return };
        let ticking = slots.ticking;
        for (process, slot) in &mut slots.all {
            let wanted = match (slot.needs_rescue(), ticking) {
                (true, _) if takers => Watch::All,
                // While ticks come, they look.
                (false, false) => Watch::Next,
                _ => Watch::Off,
            };
            if slot.watch != wanted {
                slot.watch = wanted;
                let interest = match wanted {
                    Watch::Off => Interest::Nothing,
                    Watch::Next => Interest::ReadableOnce,
                    Watch::All => Interest::Readable,
                };
                let token = Token::Slot(id, *process).number();
                if let Err(error) = self.epoll.modify(&slot.fd, token, interest) {
                    tracing::error!(listener = id.0, %error, "cannot watch a listening socket");
                }
            }
        }
    }

    pub(super) fn slot_readable(&mut self, id: ListenerId, process: ProcessId) {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        let Sockets::Slots(slots) = &mut listener.sockets else { return };
        let Some(slot) = slots.all.get_mut(&process) else { return };
        match slot.watch {
            Watch::All => self.rescue_all(id),
            Watch::Next => {
                // The kernel has disarmed it.
                slot.watch = Watch::Off;
                if !std::mem::replace(&mut slots.ticking, true) {
                    self.arm(Due::Tick(id), TICK);
                    self.watch_slots(id);
                }
            }
            Watch::Off => (),
        }
    }

    pub(super) fn tick(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        let Sockets::Slots(slots) = &mut listener.sockets else { return };
        slots.ticking = false;
        let mut queued = Vec::new();
        for (process, slot) in slots.all.iter_mut().filter(|(_, slot)| slot.live) {
            if socket::is_readable(&slot.fd).unwrap_or(false) {
                queued.push(*process);
            } else {
                slot.stuck = false;
            }
        }
        slots.ticking = !queued.is_empty();
        if slots.ticking {
            self.arm(Due::Tick(id), TICK);
        }
        for process in queued {
            self.ask_for_life(id, process);
        }
        self.rescue_all(id);
    }

    /// Connections wait for this row's workers: are they there?
    fn ask_for_life(&mut self, id: ListenerId, process: ProcessId) {
        let now = Instant::now();
        let own = |w: &Worker| w.process == process && w.serves(id) && w.channel.is_some();
        let workers: Vec<WorkerId> = self.workers.iter().filter(|(_, w)| own(w)).map(|(id, _)| *id).collect();
        let mut stuck = !workers.is_empty();
        for worker in workers {
            let Some(state) = self.workers.get_mut(&worker) else { continue };
            match state.ping {
                Some(since) => {
                    let ms = now.duration_since(since);
                    stuck &= ms >= STUCK;
                    if ms >= Duration::from_millis(self.config.hang_ms) {
                        self.hung(worker, ms);
                    }
                }
                None => {
                    stuck = false;
                    self.ping(worker);
                }
            }
        }
        if let Some(listener) = self.listeners.all.get_mut(&id)
            && let Sockets::Slots(slots) = &mut listener.sockets
            && let Some(slot) = slots.all.get_mut(&process)
        {
            slot.stuck = stuck;
        }
    }

    fn ping(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.agent {
            worker.ping = Some(Instant::now());
            self.write(id, message::ping(), None);
        } else if worker.cluster && worker.handles_out == 0 {
            worker.ping = Some(Instant::now());
            worker.handles_out = 1;
            // The next daemon must know, too: a handle would be lost behind it.
            self.memory.changed = true;
            self.remember();
            self.write(id, message::missing_handle(), None);
        }
    }

    /// Sends a line that a descriptor goes with.
    pub(super) fn write_handle(&mut self, id: WorkerId, line: Vec<u8>, fd: Arc<OwnedFd>) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.ping.is_some() && !worker.agent {
            // The unanswered ping would swallow the descriptor.
            worker.deferred.push_back((line, fd));
            return;
        }
        worker.handles_out += 1;
        self.write(id, line, Some(fd));
    }

    pub(super) fn handle_answered(&mut self, id: WorkerId, message: &Incoming) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.handles_out = worker.handles_out.saturating_sub(1);
        if *message == Incoming::HandleMissing && worker.ping.is_some() && !worker.agent {
            self.memory.changed = true;
            self.alive(id);
        }
    }

    /// The worker's event loop has turned.
    pub(super) fn alive(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.ping = None;
        let process = worker.process;
        let deferred = std::mem::take(&mut worker.deferred);
        worker.handles_out += u32::try_from(deferred.len()).unwrap_or(0);
        let was_hung = std::mem::replace(&mut worker.hung, false);
        for (line, fd) in deferred {
            self.write(id, line, Some(fd));
        }
        if was_hung {
            self.tell(NodeEvent::Responsive { worker: id });
        }
        if self.unstick(id, process) || was_hung {
            self.refresh_all_of(id);
        } else {
            self.pump_all_of(id);
        }
    }

    /// The row's worker serves its queues itself again. Whether any was taken for stuck.
    fn unstick(&mut self, id: WorkerId, process: ProcessId) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let mut any = false;
        for listener in worker.holds.keys() {
            if let Some(Sockets::Slots(slots)) = self.listeners.all.get_mut(listener).map(|l| &mut l.sockets)
                && let Some(slot) = slots.all.get_mut(&process)
            {
                any |= std::mem::take(&mut slot.stuck);
            }
        }
        any
    }

    fn hung(&mut self, id: WorkerId, since: Duration) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !std::mem::replace(&mut worker.hung, true) {
            let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            self.tell(NodeEvent::Hung { worker: id, since_ms });
            self.refresh_all_of(id);
        }
    }

    /// A worker that takes too long to answer for a connection is hung as well.
    pub(super) fn look_for_overdue(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let Some(oldest) = worker.unanswered.values().map(|connection| connection.sent).min() else { return };
        let limit = Duration::from_millis(self.config.hang_ms);
        let waited = oldest.elapsed();
        if waited >= limit {
            // The next word from it makes it alive again; until then there is nothing to look for.
            self.hung(id, waited);
        } else {
            self.arm(Due::Overdue(id), limit - waited);
        }
    }

    /// Accepts for slots whose workers do not, and gives the connections to workers that do.
    pub(super) fn rescue_all(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.all.get(&id) else { return };
        let Sockets::Slots(slots) = &listener.sockets else { return };
        let waiting: Vec<_> = slots.all.values().filter(|s| s.needs_rescue()).map(|s| Arc::clone(&s.fd)).collect();
        for fd in waiting {
            for _ in 0..BURST {
                if self.choose(id, None, &[]).is_none() {
                    break;
                }
                let Some((connection, peer)) = self.accept(id, &fd) else { break };
                self.home(Connection { listener: id, fd: connection, peer, refused: Vec::new(), sent: Instant::now() });
            }
        }
        self.watch_slots(id);
    }

    /// The row does not come back: its socket is closed after a while, in which what still arrives there is given to others.
    pub(super) fn begin_retiring(&mut self, id: ListenerId, process: ProcessId) {
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        let Sockets::Slots(slots) = &mut listener.sockets else { return };
        let Some(slot) = slots.all.get_mut(&process) else { return };
        slot.retiring = Some(RETIRE_LOOKS);
        self.arm(Due::Retire(id, process), RETIRE);
        self.refresh(id);
        self.rescue_all(id);
    }

    /// As [`Task::begin_retiring`], for a socket that the daemon before was about to close.
    pub(super) fn go_on_retiring(&mut self, id: ListenerId, process: ProcessId) {
        self.arm(Due::Retire(id, process), RETIRE);
    }

    pub(super) fn retire(&mut self, id: ListenerId, process: ProcessId) {
        self.rescue_all(id);
        let Some(listener) = self.listeners.all.get_mut(&id) else { return };
        let Sockets::Slots(slots) = &mut listener.sockets else { return };
        let serving = slots.all.values().any(|slot| slot.live);
        let Some(slot) = slots.all.get_mut(&process) else { return };
        // The row may have come back meanwhile.
        let Some(looks) = slot.retiring else { return };
        if !serving {
            // With no other to choose, the kernel deals to this one still.
            return self.arm(Due::Retire(id, process), RETIRE);
        }
        if looks > 0 {
            slot.retiring = Some(looks - 1);
            return self.arm(Due::Retire(id, process), RETIRE);
        }
        if let Err(error) = self.epoll.delete(&slot.fd) {
            tracing::trace!(%error, "socket was not watched");
        }
        slots.remove(process);
        self.refresh(id);
    }
}
