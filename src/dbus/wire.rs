//! The two halves of a private socket as zbus reads and writes them, with the bounds that zbus leaves to its user.
//!
//! zbus takes greetings of any length and messages of up to 128 MiB, and sets memory aside for the length that a
//! message's header claims. A stranger's connection must not be able to do that to the daemon, nor hold it up by not
//! reading. Descriptors are never taken: no method has one among its arguments. Who sends some is not served any longer.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use zbus::Message;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;
use zbus::fdo::ConnectionCredentials;

use super::serve::PATIENCE;
use crate::sys::socket;

/// Bytes of a greeting: the command line's takes 60.
const GREETING: usize = 1024;
/// Bytes of a message: an app's spec with the largest environment that execve(2) takes, twice.
const MESSAGE: usize = 8 << 20;
/// Bytes of a message's fixed part, from which its length is known (D-Bus specification, "Message Format").
const FIXED_HEADER: usize = 16;

/// A private socket before it is split.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: UnixStream,
    uid: u32,
    pid: u32,
    gate: Arc<Shutters>,
}

#[derive(Debug, Default)]
struct Shutters {
    open: Notify,
    broken: Notify,
}

/// What the serving side holds of a guarded socket.
#[derive(Debug)]
pub(super) struct Gate(Arc<Shutters>);

impl Gate {
    /// Lets messages through. zbus begins to read as soon as the greeting is over and drops what nobody listens for;
    /// so nothing is read until somebody does.
    pub(super) fn open(&self) {
        self.0.open.notify_one();
    }

    /// Returns when the peer has not read for too long.
    pub(super) async fn broken(&self) {
        self.0.broken.notified().await;
    }
}

impl Guarded {
    pub(super) fn new(stream: UnixStream, uid: u32, pid: u32) -> (Guarded, Gate) {
        let gate = Arc::new(Shutters::default());
        (Guarded { stream, uid, pid, gate: Arc::clone(&gate) }, Gate(gate))
    }
}

impl Socket for Guarded {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.stream.into_split();
        let reader = Reader {
            bytes: Bytes(read),
            uid: self.uid,
            pid: self.pid,
            greeting_left: GREETING,
            last: 0,
            closed_gate: Some(Arc::clone(&self.gate)),
        };
        Split::new(reader, Writer { half: write, gate: self.gate })
    }
}

/// What comes in.
#[derive(Debug)]
pub(super) struct Reader {
    bytes: Bytes,
    uid: u32,
    pid: u32,
    greeting_left: usize,
    last: u8,
    closed_gate: Option<Arc<Shutters>>,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn receive_message(
        &mut self,
        seq: u64,
        already: &mut Vec<u8>,
        already_fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        if let Some(gate) = self.closed_gate.take() {
            gate.open.notified().await;
        }
        while already.len() < FIXED_HEADER {
            let mut rest = [0; FIXED_HEADER];
            let wanted = FIXED_HEADER - already.len();
            let (count, _) = self.bytes.recvmsg(&mut rest[..wanted]).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            already.extend_from_slice(&rest[..count]);
        }
        if claimed_length(already).is_none_or(|length| length > MESSAGE) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long").into());
        }
        self.bytes.receive_message(seq, already, already_fds).await
    }

    /// Reads a part of the greeting.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let length = buffer.len().min(self.greeting_left);
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "greeting too long"));
        }
        let (count, fds) = self.bytes.recvmsg(&mut buffer[..length]).await?;
        self.greeting_left -= count;
        // zbus looks at the byte before each line feed, and panics where there is none.
        for byte in &buffer[..count] {
            if *byte == b'\n' && self.last != b'\r' {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "greeting with a bare line feed"));
            }
            self.last = *byte;
        }
        Ok((count, fds))
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        Ok(ConnectionCredentials::default().set_unix_user_id(self.uid).set_process_id(self.pid))
    }
}

/// The length of a message, from its fixed part.
fn claimed_length(header: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        let number = if header[0] == b'B' { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        usize::try_from(number).ok()
    };
    let (body, fields) = (number(4)?, number(12)?);
    fields.checked_next_multiple_of(8)?.checked_add(FIXED_HEADER)?.checked_add(body)
}

/// Bytes without descriptors.
#[derive(Debug)]
struct Bytes(OwnedReadHalf);

impl Drop for Bytes {
    fn drop(&mut self) {
        let stream: &UnixStream = self.0.as_ref();
        socket::stop_receiving(stream);
    }
}

#[async_trait]
impl ReadHalf for Bytes {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let stream: &UnixStream = self.0.as_ref();
        match stream.async_io(Interest::READABLE, || socket::receive_bytes(stream, buffer)).await? {
            (_, true) => Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors are not taken")),
            (count, false) => Ok((count, Vec::new())),
        }
    }
}

/// What goes out.
#[derive(Debug)]
pub(super) struct Writer {
    half: OwnedWriteHalf,
    gate: Arc<Shutters>,
}

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let stream: &UnixStream = self.half.as_ref();
        let sent = stream.async_io(Interest::WRITABLE, || socket::send(stream, buffer, fds.first().copied()));
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(sent) => sent,
            Err(_) => {
                self.gate.broken.notify_one();
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        self.half.shutdown().await
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        Ok(ConnectionCredentials::default())
    }
}
