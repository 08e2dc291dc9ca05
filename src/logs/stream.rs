//! One pipe of a worker: what is in it goes to the sinks and only then out of the pipe.
//!
//! Nothing is taken out of the pipe before it is where it belongs. So a daemon that is killed loses nothing: the next
//! one finds in the pipe what did not arrive. Where nobody needs to see the lines, bytes are moved from the pipe into the
//! file by the kernel alone; else they are looked at first (tee(2)), and an unfinished line stays in the pipe until
//! its end joins it there, its writer goes, or the pipe fills. Files and followers get it before, when its end is not
//! there within [`LINE_TIME`]: who asks a question or prints dots is seen to do so.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::file::Writer;
use super::sinks::{Outlet, Sinks};
use super::split::Splitter;
use crate::sys::pipe;

/// Bytes that are handled at a time, and the size that pipes are given. Small enough that 64 MiB, the default of
/// /proc/sys/fs/pipe-user-pages-soft, are enough for a hundred workers of one user.
pub const CHUNK: usize = 256 << 10;

/// How long a line may take from its first byte to its end. The journal and syslog take whole lines only, however long
/// it takes: what they got cannot be gone on with.
pub const LINE_TIME: Duration = Duration::from_secs(1);

/// What is to become of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There may be more: it wants another turn.
    More,
    /// It is empty, or holds the head of a line: it wants a turn when something comes.
    Empty,
    /// The journal takes no more just now: it wants a turn when that has changed.
    Blocked,
    /// The writer ended.
    Ended,
}

/// A worker's standard output or standard error.
#[derive(Debug)]
pub struct Stream {
    pipe: OwnedFd,
    capacity: usize,
    splitter: Splitter,
    /// Since when the head of a line is left in it.
    unfinished: Option<Instant>,
    /// Since when it lets another one finish a line in the file that they share.
    pub held_up: Option<Instant>,
    /// It waits for its turn already.
    pub queued: bool,
    /// Its writer ended.
    pub ended: bool,
    /// Nothing was left to do with what was in it when it was looked at last.
    pub empty: bool,
}

impl Stream {
    /// Of this read end.
    #[must_use]
    pub fn new(read_end: OwnedFd) -> Stream {
        let capacity = pipe::grow(&read_end, CHUNK).unwrap_or(CHUNK);
        Stream {
            pipe: read_end,
            capacity,
            splitter: Splitter::default(),
            unfinished: None,
            held_up: None,
            queued: false,
            ended: false,
            empty: false,
        }
    }

    /// The read end.
    #[must_use]
    pub fn pipe(&self) -> impl AsFd + '_ {
        &self.pipe
    }

    /// Handles what is in the pipe, at most [`CHUNK`] bytes of it.
    pub fn turn(&mut self, outlet: &Outlet, sinks: &mut Sinks, now: Instant) -> Turn {
        let looks = sinks.look(outlet) || !self.splitter.is_empty();
        if !looks && let Some(moved) = sinks.move_unseen(outlet, &self.pipe, CHUNK, now) {
            self.unfinished = None;
            return self.outcome(&moved);
        }
        if sinks.is_blocked(outlet) {
            return Turn::Blocked;
        }
        let unfinished = self.unfinished.take();
        let seen = match sinks.peek(&self.pipe, CHUNK) {
            Ok(seen) if !seen.is_empty() => seen,
            Ok(_) => return self.outcome(&Ok(0)),
            Err(error) => return self.outcome(&Err(error)),
        };
        // A file in trouble gets whole lines, too: of what it does not take no head may be missing to the next daemon.
        let by_line = looks || sinks.is_in_trouble(outlet);
        let ready = if by_line { self.ready(&seen, unfinished, outlet, sinks, now) } else { Some(seen.as_slice()) };
        let turn = if ready.is_some() { Turn::More } else { Turn::Empty };
        match ready {
            Some(lines) if looks => self.deliver(lines, unfinished, outlet, sinks, now),
            // The file alone wants them, but cannot have them unseen: it is full, or is about to be rotated.
            Some(bytes) => sinks.take(outlet, &self.pipe, bytes, now),
            None => {}
        }
        sinks.give_back(seen);
        self.empty = turn == Turn::Empty;
        turn
    }

    fn outcome(&mut self, moved: &io::Result<usize>) -> Turn {
        self.empty = matches!(moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        match moved {
            Ok(0) => Turn::Ended,
            Ok(_) => Turn::More,
            Err(_) if self.empty => Turn::Empty,
            // Not a pipe: there is nothing that could be read.
            Err(_) => Turn::Ended,
        }
    }

    fn deliver(&mut self, lines: &[u8], unfinished: Option<Instant>, outlet: &Outlet, sinks: &mut Sinks, now: Instant) {
        sinks.deliver(outlet, &self.pipe, &mut self.splitter, lines, now);
        if !lines.ends_with(b"\n") && is_overdue(unfinished, outlet, now) {
            sinks.split(outlet, &mut self.splitter, now);
        }
    }

    /// What there is but for the head of a line, which stays in the pipe: `None` when that is all. It comes as well when
    /// its end cannot join it there, or did not in time. `unfinished` is since when the line that begins here waits for its
    /// end.
    fn ready<'a>(
        &mut self,
        seen: &'a [u8],
        unfinished: Option<Instant>,
        outlet: &Outlet,
        sinks: &Sinks,
        now: Instant,
    ) -> Option<&'a [u8]> {
        if let Some(end) = seen.iter().rposition(|byte| *byte == b'\n') {
            return Some(&seen[..=end]);
        }
        // Pages of a pipe can be half empty, so a pipe that is half full may be full and its writer waiting for room.
        let full = seen.len() >= self.capacity.min(sinks.peek_limit()) / 2;
        if full || is_overdue(unfinished, outlet, now) || !self.splitter.is_empty() || pipe::is_over(&self.pipe) {
            return Some(seen);
        }
        self.unfinished = unfinished.or(Some(now));
        None
    }

    /// When a line that is unfinished is not waited for any more.
    #[must_use]
    pub fn wakes_at(&self, outlet: &Outlet) -> Option<Instant> {
        let since = self.unfinished.filter(|_| outlet.takes_parts() && !self.ended)?;
        Some(since + LINE_TIME)
    }

    /// Nothing more will be read: hands over what is left of an unfinished line.
    pub fn finish(&mut self, outlet: &Outlet, sinks: &mut Sinks, now: Instant) {
        self.ended = true;
        sinks.finish(outlet, &mut self.splitter, now);
    }

    /// Somebody else reads on: hands over what has been taken out of the pipe of an unfinished line.
    pub fn hand_over(&mut self, outlet: &Outlet, sinks: &mut Sinks, now: Instant) {
        sinks.finish(outlet, &mut self.splitter, now);
    }

    /// Nothing more will be read though the writer did not end: takes an unfinished line out of the pipe, too.
    pub fn abandon(&mut self, outlet: &Outlet, sinks: &mut Sinks, now: Instant) {
        if self.unfinished.is_some()
            && let Ok(seen) = sinks.peek(&self.pipe, CHUNK)
        {
            sinks.deliver(outlet, &self.pipe, &mut self.splitter, &seen, now);
            sinks.give_back(seen);
        }
        self.finish(outlet, sinks, now);
    }
}

/// Whether the end of a line is not waited for any more.
fn is_overdue(unfinished: Option<Instant>, outlet: &Outlet, now: Instant) -> bool {
    outlet.takes_parts() && unfinished.is_some_and(|since| since + LINE_TIME <= now)
}

/// What identifies a stream in epoll's answers.
#[must_use]
pub fn token(writer: Writer) -> u64 {
    u64::from(writer.worker.0) << 1 | u64::from(writer.err)
}

/// The stream of a token that [`token`] made.
#[must_use]
pub fn writer(token: u64) -> Option<Writer> {
    let worker = u32::try_from(token >> 1).ok()?;
    Some(Writer { worker: crate::core::WorkerId(worker), err: token & 1 == 1 })
}
