//! One worker's channel: bytes to messages and back, on an `AF_UNIX` stream socket.
//!
//! Reading peeks, lets the caller act, and only then takes the lines off the socket. A supervisor that dies in
//! between finds them again, as long as somebody else holds a duplicate of the socket: a message may be seen twice,
//! none is lost. Writing never leaves a torn line in front of another one, which would end the worker (Node treats
//! it as an uncaught exception).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::message::{self, Incoming, Malformed};
use crate::sys::socket;

/// Longest message of an app.
const LINE_LIMIT: usize = 16 << 20;
/// Taken off the socket at once; its own buffer holds some 200 KiB.
const CHUNK: usize = 64 << 10;
/// So much of an unfinished line may stay in the socket. More would count against the worker's send buffer, of which the
/// kernel wants three quarters free before it lets the worker write on (unix_writable in net/unix/af_unix.c).
const TAIL: usize = 4 << 10;
/// What may wait for a worker that does not read its channel.
const OUT_LIMIT: usize = 4 << 20;
/// Lines that are no messages, in a row.
const NONSENSE_LIMIT: u32 = 100;

/// The supervisor's end.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
    /// The beginning of a line that is longer than what the socket holds, taken off already.
    partial: Vec<u8>,
    /// A descriptor came, and the message that it belongs to not yet.
    fd_arrived: bool,
    /// Lines in a row that were none.
    nonsense: u32,
    out: VecDeque<Outgoing>,
    out_bytes: usize,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fd: Option<Arc<OwnedFd>>,
}

/// What is neither with us nor with the worker.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Residue {
    partial: Vec<u8>,
    fd_arrived: bool,
    unsent: Vec<u8>,
}

/// What lay in the socket.
#[derive(Debug)]
pub(super) struct Batch {
    /// The complete lines, in order. For [`Incoming::Handle`] see [`Received`].
    pub messages: Vec<Received>,
    /// Bytes to take off once they are acted upon.
    consume: usize,
    /// What to do next.
    pub next: Next,
}

/// A message and whether a descriptor came for it, which has been closed.
#[derive(Debug, PartialEq)]
pub(super) struct Received {
    pub message: Incoming,
    pub with_fd: bool,
}

/// How a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// There may be more: look again.
    More,
    /// There is no further line until the socket becomes readable again.
    Wait,
    /// The worker closed its end.
    End,
}

/// Why a worker's channel has to be closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Violation {
    #[error("sent a message of more than {} MiB", LINE_LIMIT >> 20)]
    LineTooLong,
    #[error("sent {NONSENSE_LIMIT} lines that are no messages")]
    Nonsense,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("does not read its channel: {} MiB wait", OUT_LIMIT >> 20)]
    DoesNotRead,
    #[error("its channel broke: {0}")]
    Broken(#[from] io::Error),
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It is with the kernel.
    Sent,
    /// It waits until the socket becomes writable.
    Waits,
}

impl Channel {
    /// # Errors
    /// When the descriptor cannot be made non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Channel> {
        socket::set_nonblocking(&fd)?;
        Ok(Channel { fd, partial: Vec::new(), fd_arrived: false, nonsense: 0, out: VecDeque::new(), out_bytes: 0 })
    }

    /// A channel that an earlier daemon read and wrote until then.
    ///
    /// # Errors
    /// As [`Channel::new`].
    pub fn again(fd: OwnedFd, residue: Residue) -> io::Result<Channel> {
        let mut channel = Channel::new(fd)?;
        let Residue { partial, fd_arrived, unsent } = residue;
        (channel.partial, channel.fd_arrived, channel.out_bytes) = (partial, fd_arrived, unsent.len());
        if !unsent.is_empty() {
            channel.out.push_back(Outgoing { bytes: unsent, sent: 0, fd: None });
        }
        Ok(channel)
    }

    /// What a later daemon needs in order to go on in the middle of a line. Lines that a descriptor goes with and that
    /// are not under way are left out.
    pub fn residue(&self) -> Residue {
        let unsent = self.out.iter().filter(|line| line.fd.is_none()).flat_map(|line| &line.bytes[line.sent..]);
        Residue { partial: self.partial.clone(), fd_arrived: self.fd_arrived, unsent: unsent.copied().collect() }
    }

    /// A buffer for [`Channel::look`], to be kept and used again.
    pub fn buffer() -> Box<[u8]> {
        vec![0; CHUNK].into()
    }

    /// The next lines, left where they are until [`Channel::consume`]. `ended` says that the worker writes no more.
    ///
    /// # Errors
    /// When the worker must not be listened to any longer.
    pub fn look(&mut self, ended: bool, buffer: &mut [u8]) -> Result<Batch, Violation> {
        loop {
            let got = match socket::receive(&self.fd, buffer, true) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Batch::empty(Next::Wait)),
                // The worker was killed with data of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Batch::empty(Next::End)),
                Err(error) => return Err(error.into()),
            };
            if got.bytes == 0 {
                return Ok(Batch::empty(Next::End));
            }
            let with_fd = got.truncated;
            let bytes = &buffer[..got.bytes];
            let Some(end) = bytes.iter().rposition(|b| *b == b'\n') else {
                if !with_fd && got.bytes < TAIL {
                    // The rest of the line is on its way; at the end, it will never come.
                    return Ok(Batch::empty(if ended { Next::End } else { Next::Wait }));
                }
                // Too much to be left there, or in front of a descriptor, behind which nothing can be peeked.
                self.partial.extend_from_slice(bytes);
                self.fd_arrived |= with_fd;
                if self.partial.len() > LINE_LIMIT {
                    return Err(Violation::LineTooLong);
                }
                self.consume_bytes(got.bytes, buffer)?;
                continue;
            };
            // A descriptor comes with the last buffer that was returned, whose message may end in a later one.
            self.fd_arrived |= with_fd;
            let more = with_fd || got.bytes == buffer.len() || got.bytes - end > TAIL || ended;
            let messages = self.parse(&bytes[..end])?;
            return Ok(Batch { messages, consume: end + 1, next: if more { Next::More } else { Next::Wait } });
        }
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<Vec<Received>, Violation> {
        let mut messages = Vec::new();
        for (i, piece) in bytes.split(|b| *b == b'\n').enumerate() {
            let parsed = if i == 0 && !self.partial.is_empty() {
                self.partial.extend_from_slice(piece);
                message::parse(&std::mem::take(&mut self.partial))
            } else {
                message::parse(piece)
            };
            match parsed {
                Ok(message) => {
                    self.nonsense = 0;
                    let with_fd = matches!(message, Incoming::Handle { .. }) && std::mem::take(&mut self.fd_arrived);
                    messages.push(Received { message, with_fd });
                }
                Err(Malformed::NoMessage) => {
                    self.nonsense += 1;
                    if self.nonsense >= NONSENSE_LIMIT {
                        return Err(Violation::Nonsense);
                    }
                }
                Err(error @ Malformed::TooLong) => return Err(error.into()),
            }
        }
        Ok(messages)
    }

    /// Takes a batch off the socket.
    ///
    /// # Errors
    /// When the socket does not give what it showed.
    pub fn consume(&mut self, batch: &Batch, buffer: &mut [u8]) -> Result<(), Violation> {
        self.consume_bytes(batch.consume, buffer)
    }

    fn consume_bytes(&mut self, mut count: usize, buffer: &mut [u8]) -> Result<(), Violation> {
        while count > 0 {
            let step = count.min(buffer.len());
            // Nothing of a worker's is kept.
            let (bytes, _) = socket::receive_bytes(&self.fd, &mut buffer[..step])?;
            if bytes == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            count -= bytes;
        }
        Ok(())
    }

    /// Sends a line, and a descriptor with it.
    ///
    /// # Errors
    /// [`Violation::DoesNotRead`] when too much waits already; a broken channel is no error here, reading tells.
    pub fn write(&mut self, bytes: Vec<u8>, fd: Option<Arc<OwnedFd>>) -> Result<Written, Violation> {
        if self.out_bytes + bytes.len() > OUT_LIMIT {
            return Err(Violation::DoesNotRead);
        }
        self.out_bytes += bytes.len();
        self.out.push_back(Outgoing { bytes, sent: 0, fd });
        if self.out.len() > 1 { Ok(Written::Waits) } else { self.flush() }
    }

    /// Sends what waits, as far as it goes.
    ///
    /// # Errors
    /// When the kernel refuses for another reason than a full socket or a closed end.
    pub fn flush(&mut self) -> Result<Written, Violation> {
        while let Some(line) = self.out.front_mut() {
            match socket::send(&self.fd, &line.bytes[line.sent..], line.fd.as_deref().map(AsFd::as_fd)) {
                Ok(count) => {
                    // The descriptor has gone with the first byte.
                    line.fd = None;
                    line.sent += count;
                    self.out_bytes -= count;
                    if line.sent == line.bytes.len() {
                        self.out.pop_front();
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Written::Waits),
                    io::ErrorKind::Interrupted => (),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        self.out.clear();
                        self.out_bytes = 0;
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(Written::Sent)
    }

    /// Whether a line is being written; then the worker must not be abandoned without need.
    pub fn is_writing(&self) -> bool {
        !self.out.is_empty()
    }
}

impl Batch {
    fn empty(next: Next) -> Batch {
        Batch { messages: Vec::new(), consume: 0, next }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
