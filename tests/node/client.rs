//! Clients that never retry.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::rig::{DEADLINE, tests};

/// What went wrong with a request; tests show it.
#[derive(Debug)]
#[allow(dead_code)] // Only shown.
pub struct Failed(pub String);

/// A connection on which requests follow each other.
pub struct Connection<S> {
    stream: S,
    buffer: Vec<u8>,
    /// The server has said that it will close.
    pub closing: bool,
}

impl Connection<TcpStream> {
    pub async fn tcp(port: u16) -> Result<Self, Failed> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| Failed(format!("connect: {e}")))?;
        Ok(Connection { stream, buffer: Vec::new(), closing: false })
    }
}

impl Connection<UnixStream> {
    pub async fn unix(path: &Path) -> Result<Self, Failed> {
        let stream = UnixStream::connect(path).await.map_err(|e| Failed(format!("connect: {e}")))?;
        Ok(Connection { stream, buffer: Vec::new(), closing: false })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// The body of the answer, which must be 200.
    pub async fn get(&mut self, path: &str, keep: bool) -> Result<String, Failed> {
        let word = if keep { "keep-alive" } else { "close" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: {word}\r\n\r\n");
        self.send(request.as_bytes()).await?;
        self.answer().await
    }

    /// Sends what may be more or less than a request.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let sent = timeout(DEADLINE, self.stream.write_all(bytes)).await;
        sent.map_err(|_| Failed("not taken in time".into()))?.map_err(|e| Failed(format!("write: {e}")))
    }

    /// The body of the next answer, which must be 200.
    pub async fn answer(&mut self) -> Result<String, Failed> {
        timeout(DEADLINE, self.read_answer()).await.unwrap_or_else(|_| Err(Failed("no answer in time".into())))
    }

    async fn read_answer(&mut self) -> Result<String, Failed> {
        let end = loop {
            match self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.fill().await?,
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
        self.buffer.drain(..end);
        if !head.starts_with("http/1.1 200") {
            return Err(Failed(head));
        }
        self.closing = head.contains("connection: close");
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
        let mut body = Vec::new();
        if header("transfer-encoding:") == Some("chunked") {
            loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(&line, 16).map_err(|e| Failed(format!("chunk {line}: {e}")))?;
                body.extend(self.take(size).await?);
                self.take(2).await?;
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = header("content-length:").and_then(|text| text.parse().ok());
            body = self.take(length.ok_or_else(|| Failed(format!("no length: {head}")))?).await?;
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn line(&mut self) -> Result<String, Failed> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.take(end + 2).await?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, count: usize) -> Result<Vec<u8>, Failed> {
        while self.buffer.len() < count {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    async fn fill(&mut self) -> Result<(), Failed> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Failed("connection closed in mid-answer or before it".into())),
            Ok(_) => Ok(()),
            Err(error) => Err(Failed(format!("read: {error}"))),
        }
    }
}

/// One request on a connection of its own.
pub async fn get(port: u16, path: &str) -> Result<Value, Failed> {
    let body = Connection::tcp(port).await?.get(path, false).await?;
    serde_json::from_str(&body).map_err(|e| Failed(format!("{body}: {e}")))
}

/// Which processes answer so many requests, each on a connection of its own, one after the other.
pub async fn pids(port: u16, count: usize) -> Vec<u32> {
    let mut pids = Vec::new();
    for _ in 0..count {
        let answer = get(port, "/").await.unwrap();
        pids.push(u32::try_from(answer["pid"].as_u64().unwrap()).unwrap());
    }
    pids
}

/// Runs tests/apps/client.js.
pub async fn ask(node: &Path, kind: &str, port: u16, count: usize) -> Vec<Value> {
    let mut command = tokio::process::Command::new(node);
    command.arg(tests().join("apps/client.js")).args([kind, &port.to_string(), &count.to_string()]);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(DEADLINE, output).await.expect("the client takes too long").unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a client may pause between two requests, so that the machine has time for what is tested with it.
pub const THINK: Duration = Duration::from_millis(5);

/// Clients that ask until they are told to stop.
pub struct Load {
    stop: tokio::sync::watch::Sender<bool>,
    clients: Vec<tokio::task::JoinHandle<(usize, Vec<Failed>)>>,
}

impl Load {
    /// So many clients, each on kept-alive connections or on one per request.
    pub fn start(port: u16, clients: usize, keep: bool, path: &'static str, think: Duration) -> Load {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let clients = (0..clients).map(|_| tokio::spawn(client(port, keep, path, think, stopped.clone()))).collect();
        Load { stop, clients }
    }

    /// Answers and failures of all clients.
    pub async fn end(self) -> (usize, Vec<Failed>) {
        self.stop.send(true).unwrap();
        let (mut answers, mut failures) = (0, Vec::new());
        for client in self.clients {
            let (count, failed) = timeout(DEADLINE, client).await.unwrap().unwrap();
            answers += count;
            failures.extend(failed);
        }
        (answers, failures)
    }
}

async fn client(
    port: u16,
    keep: bool,
    path: &'static str,
    think: Duration,
    stop: tokio::sync::watch::Receiver<bool>,
) -> (usize, Vec<Failed>) {
    let (mut answers, mut failures) = (0, Vec::new());
    let mut connection = None;
    while !*stop.borrow() {
        let mut current = match connection.take() {
            Some(current) => current,
            None => match Connection::tcp(port).await {
                Ok(new) => new,
                Err(failed) => {
                    failures.push(failed);
                    continue;
                }
            },
        };
        match current.get(path, keep).await {
            Ok(_) => answers += 1,
            Err(failed) => {
                failures.push(failed);
                continue;
            }
        }
        if keep && !current.closing {
            connection = Some(current);
        }
        if !think.is_zero() {
            tokio::time::sleep(think).await;
        }
    }
    (answers, failures)
}
