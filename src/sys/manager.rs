//! The ways to systemd's manager: over the message bus, or straight to it.
//!
//! The bus is a service like others: it may not be installed, be stopped, hang, or be restarted, after which systemd itself
//! comes back to it only a moment later. What the daemon asks of systemd must not depend on that, so whatever fails over the
//! bus is asked once more over the manager's own socket, which is systemctl(1)'s way as well.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::Builder;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;
use zbus::{Connection, Message};

/// Which manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceManager {
    /// The machine's.
    System,
    /// That of the user whose process this is.
    User,
}

/// No answer, neither over the bus nor without it.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The bus or the manager does not work.
    #[error(transparent)]
    Bus(#[from] zbus::Error),
    /// No answer in time.
    #[error("systemd did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

impl ServiceManager {
    /// Over the message bus.
    ///
    /// # Errors
    /// When the bus does not work.
    pub async fn over_bus(self) -> zbus::Result<Connection> {
        match self {
            ServiceManager::System => Connection::system().await,
            ServiceManager::User => Connection::session().await,
        }
    }

    /// Over the manager's own socket, which takes root, or the user themselves.
    ///
    /// # Errors
    /// When systemd does not run here or does not let this process in.
    pub async fn direct(self) -> zbus::Result<Connection> {
        let runtime = match self {
            ServiceManager::System => Some(PathBuf::from("/run")),
            ServiceManager::User => std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        };
        let socket = runtime.map(|folder| folder.join("systemd/private")).ok_or(zbus::Error::Unsupported)?;
        Builder::socket(Direct(UnixStream::connect(socket).await?)).p2p().build().await
    }

    /// Asks the one way, then the other; each may take as long as `deadline`.
    ///
    /// # Errors
    /// That of the bus, when neither way leads to an answer.
    pub async fn ask<T>(
        self,
        deadline: Duration,
        question: impl AsyncFn(Connection) -> zbus::Result<T>,
    ) -> Result<T, ManagerError> {
        let failed = match within(deadline, async { question(self.over_bus().await?).await }).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        tracing::debug!(error = %failed, "asking systemd without the bus");
        within(deadline, async { question(self.direct().await?).await }).await.map_err(|_| failed)
    }
}

async fn within<T>(deadline: Duration, answer: impl Future<Output = zbus::Result<T>>) -> Result<T, ManagerError> {
    let answer = tokio::time::timeout(deadline, answer).await;
    answer.map_err(|_| ManagerError::TimedOut(deadline))?.map_err(ManagerError::from)
}

/// The manager's own socket. What comes over it bears systemd's well-known name as its sender, where zbus takes unique
/// names only and gives the connection up.
#[derive(Debug)]
struct Direct(UnixStream);

impl Socket for Direct {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.0.into_split();
        Split::new(Reader(Bytes(read)), Writer(write))
    }
}

/// Messages as zbus takes them.
#[derive(Debug)]
struct Reader(Bytes);

/// Bytes of a message's fixed part (D-Bus specification, "Message Format").
const FIXED_HEADER: usize = 16;
/// More than systemd's header fields ever take.
const FIELDS_MAX: usize = 64 << 10;

#[async_trait]
impl ReadHalf for Reader {
    async fn receive_message(
        &mut self,
        seq: u64,
        already: &mut Vec<u8>,
        already_fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        self.0.fill(already, FIXED_HEADER).await?;
        let fields = fields_length(already).filter(|length| *length <= FIELDS_MAX);
        let fields = fields.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "header too long"))?;
        self.0.fill(already, FIXED_HEADER + fields).await?;
        hide_sender(&mut already[FIXED_HEADER..FIXED_HEADER + fields]);
        self.0.receive_message(seq, already, already_fds).await
    }

    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.0.recvmsg(buffer).await
    }
}

/// The length of the array of header fields, from the fixed part.
fn fields_length(header: &[u8]) -> Option<usize> {
    let bytes = header.get(12..FIXED_HEADER)?.try_into().ok()?;
    let length = if header[0] == b'B' { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    usize::try_from(length).ok()
}

/// Makes the sender's name the destination's, for which any name is good. Over this socket there is none.
fn hide_sender(fields: &mut [u8]) {
    /// What a field of type `s` begins with, after its code.
    const TEXT: &[u8] = &[1, b's', 0];
    const NAME: &[u8] = b"org.freedesktop.systemd1\0";
    const SENDER: u8 = 7;
    const DESTINATION: u8 = 6;
    // Fields begin at multiples of 8 bytes: code, signature, length, text.
    for at in (0..fields.len()).step_by(8) {
        let field = &mut fields[at..];
        if field[0] == SENDER && field[1..].starts_with(TEXT) && field.get(8..).is_some_and(|t| t.starts_with(NAME)) {
            field[0] = DESTINATION;
        }
    }
}

/// What comes in, without descriptors.
#[derive(Debug)]
struct Bytes(OwnedReadHalf);

impl Bytes {
    /// Reads until there are so many.
    async fn fill(&mut self, bytes: &mut Vec<u8>, count: usize) -> io::Result<()> {
        let have = bytes.len();
        if have < count {
            bytes.resize(count, 0);
            self.0.read_exact(&mut bytes[have..]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ReadHalf for Bytes {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((self.0.read(buffer).await?, Vec::new()))
    }
}

/// What goes out.
#[derive(Debug)]
struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As systemd sends it: the answer `done` to this call, from its well-known name.
    fn answer(call: &[u8]) -> Vec<u8> {
        let mut fields = vec![5, 1, b'u', 0];
        fields.extend(&call[8..12]);
        fields.extend([7, 1, b's', 0, 24, 0, 0, 0]);
        fields.extend(b"org.freedesktop.systemd1\0\0\0\0\0\0\0\0");
        fields.extend([8, 1, b'g', 0, 1, b's', 0]);
        let mut message = vec![b'l', 2, 1, 1, 9, 0, 0, 0, 1, 0, 0, 0];
        message.extend(u32::try_from(fields.len()).unwrap().to_le_bytes());
        message.extend(fields);
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend(b"\x04\0\0\0done\0");
        message
    }

    #[tokio::test]
    async fn answers_are_taken_though_their_sender_has_no_unique_name() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let manager = async {
            let mut greeting = Vec::new();
            while !greeting.ends_with(b"BEGIN\r\n") {
                greeting.push(theirs.read_u8().await.unwrap());
            }
            theirs.write_all(b"OK 74c1bfd3947746b78867430b369440a7\r\n").await.unwrap();
            let mut call = [0; 4096];
            assert!(theirs.read(&mut call).await.unwrap() > FIXED_HEADER);
            theirs.write_all(&answer(&call)).await.unwrap();
        };
        let client = async {
            let connection = Builder::socket(Direct(ours)).p2p().build().await.unwrap();
            let answer = connection.call_method(None::<&str>, "/", None::<&str>, "Anything", &()).await.unwrap();
            answer.body().deserialize::<String>().unwrap()
        };
        let both = async { tokio::join!(manager, client).1 };
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), both).await.unwrap(), "done");
    }

    #[test]
    fn whatever_is_no_sender_stays_as_it_is() {
        for text in [&b""[..], b"\x07", b"\x07\x01s\0", b"\x06\x01s\0\x18\0\0\0org.freedesktop.systemd1\0", &[7; 100]] {
            let mut fields = text.to_vec();
            hide_sender(&mut fields);
            assert_eq!(fields, text);
        }
    }
}
