//! Asks a worker from outside whether it is ready: HTTP, TCP or a command.
//!
//! Must never decide what readiness means; it says "succeeded" once, or goes on asking until it is aborted.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::core::{Probe, ProbeKind, WorkerId};
use crate::node::{HandedOver, Primary};
use crate::sys::identity::{Identity, run_as_async};
use crate::sys::socket;

/// Of an answer's head, so much is read at most; the status line is within.
const HEAD: usize = 1024;

/// Returns when the probe has succeeded `count` times in a row. `exec` runs a command as the app's user and says whether
/// it exited with 0.
pub(super) async fn succeed<F, Fut>(probe: &Probe, reach: &Reach, exec: F)
where
    F: Fn(Vec<String>) -> Fut,
    Fut: Future<Output = bool>,
{
    let limit = Duration::from_millis(probe.timeout.max(1));
    let mut in_a_row = 0;
    loop {
        let ok = match &probe.kind {
            ProbeKind::Http(url) => timeout(limit, http(reach, url)).await.unwrap_or(false),
            ProbeKind::Tcp(address) => timeout(limit, tcp(reach, address)).await.unwrap_or(false),
            ProbeKind::Exec(argv) => timeout(limit, exec(argv.clone())).await.unwrap_or(false),
        };
        in_a_row = if ok { in_a_row + 1 } else { 0 };
        if in_a_row >= probe.count.max(1) {
            return;
        }
        sleep(Duration::from_millis(probe.interval.max(1))).await;
    }
}

/// The way to the worker that is meant. Its app's other workers share its port, and one of an older release must not
/// answer for it.
#[derive(Debug)]
pub(super) struct Reach {
    /// Which.
    pub(super) worker: WorkerId,
    /// Who can give it a connection; none for a worker without a channel, which has its address to itself.
    pub(super) primary: Option<Primary>,
    /// With whose rights a unix socket is connected to.
    pub(super) identity: Identity,
}

/// Names that are looked up at a time. Each has a thread of its own, for as long as a name server takes.
static LOOKUPS: Semaphore = Semaphore::const_new(8);

/// Where an address with a port is. What takes longer than whoever asks waits goes on: asking again must not pile up
/// look-ups, behind which everybody's would wait.
async fn find(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    if let Some(port) = address.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()]);
    }
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let (address, (tell, told)) = (address.to_owned(), oneshot::channel());
    std::thread::Builder::new().name("look-up".to_owned()).spawn(move || {
        let found = address.to_socket_addrs().map(Vec::from_iter);
        drop(permit);
        // Nobody may wait for it any more.
        let _ = tell.send(found);
    })?;
    told.await.map_err(io::Error::other)?
}

impl Reach {
    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        if let (Some(primary), Some(port)) = (&self.primary, port) {
            let (ours, its) = pair().await?;
            match primary.hand_over(self.worker, port, its.into()).await {
                HandedOver::Given => return Ok(ours),
                HandedOver::NotListening => return Err(io::ErrorKind::ConnectionRefused.into()),
                HandedOver::Unknown => {}
            }
        }
        TcpStream::connect(find(address).await?.as_slice()).await
    }
}

/// Both ends of a connection, the second one in the form in which workers take it: not blocking.
async fn pair() -> io::Result<(TcpStream, std::net::TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (ours, accepted) = tokio::try_join!(TcpStream::connect(listener.local_addr()?), listener.accept())?;
    let (its, peer) = accepted;
    // Anybody on this machine may have been faster.
    if peer != ours.local_addr()? {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok((ours, its.into_std()?))
}

async fn tcp(reach: &Reach, address: &str) -> bool {
    if address.starts_with('/') {
        let path = PathBuf::from(address);
        let connected = run_as_async(reach.identity.clone(), move || socket::connect_unix(&path)).await;
        connected.is_ok_and(|connected| connected.is_ok())
    } else {
        reach.connect(address).await.is_ok()
    }
}

/// The host, port and path of an `http://` address; the port is 80 where none is given.
fn split_url(url: &str) -> Option<(&str, String, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    (!authority.is_empty()).then_some((authority, address, path))
}

async fn http(reach: &Reach, url: &str) -> bool {
    let Some((host, address, path)) = split_url(url) else { return false };
    let Ok(mut stream) = reach.connect(&address).await else { return false };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pm2rs\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut head = Vec::with_capacity(HEAD);
    while head.len() < HEAD && !head.contains(&b'\n') {
        match stream.read_buf(&mut head).await {
            Ok(n) if n > 0 => {}
            _ => break,
        }
    }
    status_of(&head).is_some_and(|status| (200..400).contains(&status))
}

/// The status of an answer's first line (RFC 9112, section 4).
fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(
            split_url("http://localhost:3000/health"),
            Some(("localhost:3000", "localhost:3000".into(), "/health"))
        );
        assert_eq!(split_url("http://[::1]"), Some(("[::1]", "[::1]:80".into(), "/")));
        assert_eq!(split_url("https://x"), None);
        assert_eq!(split_url("http:///x"), None);
    }

    #[test]
    fn status_lines() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\nX: y"), Some(204));
        assert_eq!(status_of(b"SSH-2.0-x\r\n"), None);
        assert_eq!(status_of(b""), None);
    }

    #[tokio::test]
    async fn asks_until_so_many_answers_in_a_row_are_good() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut asked = 0;
            for status in ["200 OK", "500 No", "200 OK", "302 Found"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
                asked += 1;
            }
            asked
        });
        let probe = Probe { kind: ProbeKind::Http(url), interval: 1, timeout: 2000, count: 2 };
        let reach = Reach { worker: WorkerId(1), primary: None, identity: Identity::own().unwrap() };
        timeout(Duration::from_secs(10), succeed(&probe, &reach, |_| async { false })).await.unwrap();
        assert_eq!(server.await.unwrap(), 4);
    }
}
