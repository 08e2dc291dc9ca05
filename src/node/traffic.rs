//! What goes over the workers' channels: read in turn, written as there is room, closed when one breaks or ends.
//!
//! Never reads from a channel while an event waits to be told, and takes nothing off one before what it said is
//! remembered.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde_json::Value;

use super::channel::{Next, Violation, Written};
use super::message;
use super::primary::NodeEvent;
use super::survive::channel_name;
use super::task::{Task, Token};
use crate::core::WorkerId;
use crate::sys::epoll::Interest;
use crate::sys::socket;

/// A user's message beyond this is not written in one piece; it is bounded all the same.
const MESSAGE_LIMIT: usize = 1 << 20;

impl Task {
    /// One batch from each channel that has something, so that none holds up the others.
    pub(super) fn read_once_each(&mut self) {
        for _ in 0..self.readable.len() {
            if !self.waiting.is_empty() {
                self.pass_events_on();
                if !self.waiting.is_empty() {
                    return;
                }
            }
            if let Some(worker) = self.readable.pop_front() {
                self.read(worker);
            }
        }
    }

    pub(super) fn read(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(channel) = worker.channel.as_mut() else { return };
        let mut batch = match channel.look(worker.ended, &mut self.buffer) {
            Ok(batch) => batch,
            Err(violation) => return self.misbehaved(id, &violation),
        };
        for received in std::mem::take(&mut batch.messages) {
            self.received(id, received);
        }
        // A daemon that dies now must not have taken off what nobody knows of.
        self.remember();
        // Acting on them may have closed the channel.
        let Some(channel) = self.workers.get_mut(&id).and_then(|worker| worker.channel.as_mut()) else { return };
        if let Err(violation) = channel.consume(&batch, &mut self.buffer) {
            return self.misbehaved(id, &violation);
        }
        match batch.next {
            Next::More => self.readable.push_back(id),
            Next::Wait => (),
            Next::End => self.disconnected(id),
        }
    }

    /// Sends a line to a worker, if it has a channel still.
    pub(super) fn write(&mut self, id: WorkerId, bytes: Vec<u8>, fd: Option<Arc<OwnedFd>>) {
        let Some(channel) = self.workers.get_mut(&id).and_then(|worker| worker.channel.as_mut()) else { return };
        let before = channel.is_writing();
        match channel.write(bytes, fd) {
            Ok(Written::Waits) if !before => self.wait_for(id, Interest::MoreReadableOrWritable),
            Ok(_) => (),
            Err(violation) => self.misbehaved(id, &violation),
        }
    }

    pub(super) fn flush(&mut self, id: WorkerId) {
        let Some(channel) = self.workers.get_mut(&id).and_then(|worker| worker.channel.as_mut()) else { return };
        if !channel.is_writing() {
            return;
        }
        match channel.flush() {
            Ok(Written::Sent) => {
                self.wait_for(id, Interest::MoreReadable);
                self.pump_all_of(id);
            }
            Ok(Written::Waits) => (),
            Err(violation) => self.misbehaved(id, &violation),
        }
    }

    fn wait_for(&mut self, id: WorkerId, interest: Interest) {
        let Some(channel) = self.workers.get(&id).and_then(|worker| worker.channel.as_ref()) else { return };
        if let Err(error) = self.epoll.modify(channel, Token::Channel(id).number(), interest) {
            self.misbehaved(id, &Violation::Broken(error));
        }
    }

    pub(super) fn misbehaved(&mut self, id: WorkerId, violation: &Violation) {
        if self.close_channel(id) {
            self.tell(NodeEvent::Misbehaved { worker: id, reason: violation.to_string() });
        }
    }

    fn disconnected(&mut self, id: WorkerId) {
        if self.close_channel(id) {
            self.tell(NodeEvent::Disconnected { worker: id });
        }
    }

    /// Whether there was one to close.
    pub(super) fn close_channel(&mut self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else { return false };
        let Some(channel) = worker.channel.take() else { return false };
        worker.deferred.clear();
        self.memory.changed = true;
        socket::stop_receiving(&channel);
        self.config.store.release(&channel_name(id));
        // A duplicate may live on in a descriptor store, and with it the registration.
        if let Err(error) = self.epoll.delete(&channel) {
            tracing::debug!(worker = id.0, %error, "channel was not watched");
        }
        drop(channel);
        // Nothing is left that could say so itself.
        self.drained(id, 0);
        true
    }

    pub(super) fn send_message(&mut self, id: WorkerId, message: &Value) {
        match message::user(message) {
            Some(line) if line.len() <= MESSAGE_LIMIT => self.write(id, line, None),
            refused => {
                let bytes = refused.map_or(0, |line| line.len());
                tracing::warn!(worker = id.0, bytes, "message not sent: Node's own kind, or too long");
            }
        }
    }
}
