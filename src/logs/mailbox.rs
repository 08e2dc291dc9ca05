//! What the rest of the daemon asks of the log thread, and the way it gets there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::history::Archive;
use super::{Counters, Known, Source, Whose};
use crate::core::{ProcessId, Uid, WorkerId};
use crate::sys::pipe;

/// What a follower asks for.
#[derive(Debug)]
pub struct FollowRequest {
    /// Who reads.
    pub reader: Uid,
    /// Whose lines.
    pub whose: Whose,
    /// So many last lines of each file first.
    pub lines: u32,
    /// Standard output wanted.
    pub out: bool,
    /// Standard error wanted.
    pub err: bool,
}

/// A request to the log thread. A dropped reply is an answer, too: the log path is gone.
#[derive(Debug)]
pub enum Command {
    /// See [`super::Logs::know`].
    Know(Box<Known>),
    /// See [`super::Logs::attach`].
    Attach(Box<Source>),
    /// See [`super::Logs::note_failed_start`].
    FailedStart(ProcessId),
    /// See [`super::Logs::set_pid`].
    SetPid(WorkerId, u32),
    /// See [`super::Logs::detach`].
    Detach(WorkerId, oneshot::Sender<()>),
    /// See [`super::Logs::follow`].
    Follow(FollowRequest, oneshot::Sender<io::Result<OwnedFd>>),
    /// See [`super::Logs::search`].
    Archives(Whose, oneshot::Sender<Vec<Archive>>),
    /// See [`super::Logs::tail`].
    Tail {
        /// Whose lines.
        process: ProcessId,
        /// Of standard error.
        err: bool,
        /// How many.
        lines: u32,
        /// Where they go.
        reply: oneshot::Sender<Vec<String>>,
    },
    /// See [`super::Logs::flush`].
    Flush(Vec<ProcessId>, oneshot::Sender<Vec<String>>),
    /// See [`super::Logs::reopen`].
    Reopen(Option<Uid>, oneshot::Sender<()>),
    /// See [`super::Logs::stand_still`].
    StandStill(oneshot::Sender<()>),
    /// See [`super::Logs::forget`].
    Forget(ProcessId),
    /// See [`super::Logs::counters`].
    Counters(ProcessId, oneshot::Sender<Counters>),
}

/// Commands on their way; `None` once nobody takes them any more.
type Queue = Arc<Mutex<Option<Vec<Command>>>>;

/// The sending side. The log thread ends when it is dropped.
#[derive(Debug)]
pub struct Mailbox {
    queue: Queue,
    wake: Option<File>,
}

/// The log thread's side.
#[derive(Debug)]
pub struct Inbox {
    queue: Queue,
    /// Readable when something came; at its end when nothing will come any more.
    pub wake: File,
}

impl Mailbox {
    /// Both sides.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<(Mailbox, Inbox)> {
        let (woken, wake) = pipe::with_nonblocking_writer()?;
        let queue = Queue::new(Mutex::new(Some(Vec::new())));
        Ok((Mailbox { queue: queue.clone(), wake: Some(wake.into()) }, Inbox { queue, wake: woken.into() }))
    }

    /// One that nobody reads.
    #[must_use]
    pub fn dead() -> Mailbox {
        Mailbox { queue: Queue::default(), wake: None }
    }

    /// Sends a command; drops it, and with it its reply, when nobody reads.
    pub fn send(&self, command: Command) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = queue.as_mut() else { return };
        waiting.push(command);
        let first = waiting.len() == 1;
        drop(queue);
        if let Some(mut wake) = self.wake.as_ref().filter(|_| first) {
            // A full pipe wakes as well as one more byte in it.
            drop(wake.write(&[0]));
        }
    }
}

impl Inbox {
    /// What came.
    #[must_use]
    pub fn take(&self) -> Vec<Command> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
