//! A worker that is to end: nothing new reaches it, and it is told to finish what it has.
//!
//! With the agent that loses nothing. Without it Node's own `disconnect` has to do: it closes idle kept-alive
//! connections, and a busy one keeps the worker from ending. Whoever has no channel cannot be told.

use std::time::Duration;

use super::message;
use super::primary::NodeEvent;
use super::task::{Due, Task};
use super::worker::Drain;
use crate::core::WorkerId;

/// Beyond a drain's own time, for the answer to arrive.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
impl Task {
    pub(super) fn drain(&mut self, id: WorkerId, timeout_ms: u64) {
        let awaited = self.awaits(&Due::Drain(id));
        let Some(worker) = self.workers.get_mut(&id) else {
            return self.tell(NodeEvent::Drained { worker: id, left: 0 });
        };
        match worker.draining {
            // By the daemon before this one.
            Some(Drain::Asked) if !awaited => {}
            Some(Drain::Asked) => return,
            Some(Drain::Done) => return self.tell(NodeEvent::Drained { worker: id, left: 0 }),
            None => worker.draining = Some(Drain::Asked),
        }
        worker.terminating = true;
        let (agent, cluster, reachable) = (worker.agent, worker.cluster, worker.channel.is_some());
        // New connections must find their way elsewhere before the worker stops accepting.
        self.refresh_all_of(id);
        if reachable && agent {
            self.write(id, message::drain(timeout_ms), None);
        } else if reachable && cluster {
            let seq = self.next_seq();
            self.write(id, message::disconnect(seq), None);
        } else {
            return self.drained(id, 0);
        }
        self.arm(Due::Drain(id), Duration::from_millis(timeout_ms).saturating_add(DRAIN_GRACE));
    }

    pub(super) fn drained(&mut self, id: WorkerId, left: u32) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.draining == Some(Drain::Asked) {
            worker.draining = Some(Drain::Done);
            self.disarm(|due| *due == Due::Drain(id));
            self.tell(NodeEvent::Drained { worker: id, left });
        }
    }
}
