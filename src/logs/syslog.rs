//! Lines to a syslog daemon, over a unix or a UDP socket.
//!
//! Must never let anything wait: what the other side does not take in time is dropped, and counted.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Zoned;

use super::journal::severity;
use super::loss::{Losses, Lost};
use super::split::Line;
use crate::core::{ProcessId, SyslogAddress};
use crate::sys::identity::{Identity, run_as};
use crate::sys::socket;

/// Bytes that wait for one receiver.
const MAX_WAITING: usize = 1 << 20;
/// Longest message. What is longer comes in pieces: rsyslog and syslog-ng take no more unless told to.
const MAX_MESSAGE: usize = 8 << 10;
/// Before a receiver that takes nothing just now is tried again.
const BUSY: Duration = Duration::from_millis(20);
/// Before one that is not there is looked for again.
const ABSENT: Duration = Duration::from_secs(1);
/// Facility `user` (RFC 5424, 6.2.1), what syslog(3) takes where nothing else is said.
const USER: u8 = 1;
/// Longest APP-NAME (RFC 5424, 6.2.5).
const MAX_NAME: usize = 48;

/// A receiver, and who sends to it: its socket is opened with that user's rights.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receiver {
    /// Where it listens.
    pub address: SyslogAddress,
    /// The user's number.
    pub uid: u32,
}

/// What the messages of one stream have in common.
#[derive(Debug, Clone)]
pub struct Sender {
    receiver: Receiver,
    identity: Identity,
    process: ProcessId,
    err: bool,
    name: String,
    pid: u32,
}

impl Sender {
    /// Of a stream. `pid` is 0 where it is not known.
    #[must_use]
    pub fn new(
        address: SyslogAddress,
        identity: &Identity,
        process: ProcessId,
        app_name: &str,
        err: bool,
        pid: u32,
    ) -> Sender {
        // Neither form has a way to quote.
        let plain = |character: char| if character.is_ascii_graphic() { character } else { '_' };
        let name = app_name.chars().map(plain).take(MAX_NAME).collect();
        let receiver = Receiver { address, uid: identity.uid };
        Sender { receiver, identity: identity.clone(), process, err, name, pid }
    }

    /// The same, now that the process id is known.
    #[must_use]
    pub fn with_pid(&self, pid: u32) -> Sender {
        Sender { pid, ..self.clone() }
    }

    /// To whom.
    #[must_use]
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// What stands before a line that came then, but for the priority. A daemon on this machine gets what syslog(3) sends, which
    /// is RFC 3164 without a host; one elsewhere gets RFC 5424.
    fn head(&self, at: &Zoned, host: &str) -> String {
        match &self.receiver.address {
            SyslogAddress::Unix(_) => {
                let time = at.strftime("%b %e %H:%M:%S");
                if self.pid == 0 {
                    format!("{time} {}: ", self.name)
                } else {
                    format!("{time} {}[{}]: ", self.name, self.pid)
                }
            }
            SyslogAddress::Udp(_) => {
                let time = at.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z");
                let pid = if self.pid == 0 { "-".to_owned() } else { self.pid.to_string() };
                let stream = if self.err { "err" } else { "out" };
                format!("1 {time} {host} {} {pid} {stream} - ", self.name)
            }
        }
    }
}

/// Lines of one stream on their way.
#[derive(Debug)]
pub struct Messages {
    sender: Arc<Sender>,
    head: String,
    list: Vec<Box<[u8]>>,
}

impl Messages {
    /// Adds a line.
    pub fn add(&mut self, line: &Line<'_>) {
        let (severity, text) = severity(line, self.sender.err);
        let text = visible(text);
        let mut rest = text.as_ref();
        loop {
            let (piece, more) = rest.split_at(rest.len().min(MAX_MESSAGE));
            let priority = format!("<{}>", USER * 8 + severity);
            self.list.push([priority.as_bytes(), self.head.as_bytes(), piece].concat().into());
            if more.is_empty() {
                return;
            }
            rest = more;
        }
    }
}

/// The text without what some receivers take for an end: a carriage return is one of a line (to systemd, when it hears
/// notifications), NUL of everything. They are shown as rsyslog shows them.
fn visible(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'\r' | 0)) {
        return Cow::Borrowed(text);
    }
    let mut shown = Vec::with_capacity(text.len() + 16);
    for byte in text {
        match byte {
            b'\r' => shown.extend_from_slice(b"#015"),
            0 => shown.extend_from_slice(b"#000"),
            other => shown.push(*other),
        }
    }
    Cow::Owned(shown)
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Socket {
    fn connect(address: &SyslogAddress, identity: &Identity) -> io::Result<Socket> {
        match address {
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                run_as(identity, || socket.connect(path)).map_err(io::Error::other)??;
                Ok(Socket::Unix(socket))
            }
            SyslogAddress::Udp(address) => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                socket.connect(address)?;
                Ok(Socket::Udp(socket))
            }
        }
    }

    fn send(&self, message: &[u8], identity: &Identity) -> io::Result<()> {
        match self {
            Socket::Unix(socket) => socket::send_as(socket, identity, message),
            Socket::Udp(socket) => match socket.send(message) {
                // That is about an earlier message: nobody listened then.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => socket.send(message).map(drop),
                sent => sent.map(drop),
            },
        }
    }
}

#[derive(Debug, Default)]
struct Link {
    socket: Option<Socket>,
    waiting: VecDeque<(ProcessId, Box<[u8]>)>,
    bytes: usize,
    retry: Option<Instant>,
    error: Option<String>,
    victims: Vec<ProcessId>,
}

impl Link {
    fn pump(&mut self, sender: &Sender, losses: &mut Losses, now: Instant) {
        if self.retry.is_some_and(|at| at > now) {
            return;
        }
        self.retry = None;
        while let Some((_, message)) = self.waiting.front() {
            let socket = match &self.socket {
                Some(socket) => Ok(socket),
                None => Socket::connect(&sender.receiver.address, &sender.identity)
                    .map(|socket| &*self.socket.insert(socket)),
            };
            match socket.and_then(|socket| socket.send(message, &sender.identity)) {
                Ok(()) => {
                    self.bytes -= message.len();
                    self.waiting.pop_front();
                    self.error = None;
                    for process in self.victims.drain(..) {
                        losses.recovered(process, now);
                    }
                }
                // Linux says ENOBUFS when a queue on the way is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_full(&error) => {
                    self.retry = Some(now + BUSY);
                    self.error.get_or_insert_with(|| reason(&sender.receiver.address, &"it takes nothing just now"));
                    return;
                }
                Err(error) => {
                    // The receiver was restarted, or is no more.
                    self.socket = None;
                    self.retry = Some(now + ABSENT);
                    self.error = Some(reason(&sender.receiver.address, &error));
                    return;
                }
            }
        }
    }

    fn push(&mut self, process: ProcessId, message: Box<[u8]>, losses: &mut Losses, now: Instant) {
        if self.bytes + message.len() > MAX_WAITING {
            let lost = Lost { lines: 1, bytes: message.len() as u64 };
            losses.add(process, lost, self.error.as_deref().unwrap_or_default(), now);
            if !self.victims.contains(&process) {
                self.victims.push(process);
            }
            return;
        }
        self.bytes += message.len();
        self.waiting.push_back((process, message));
    }
}

fn reason(address: &SyslogAddress, cause: &dyn std::fmt::Display) -> String {
    format!("cannot send to syslog at `{address}`: {cause}")
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// All receivers.
#[derive(Debug)]
pub struct Syslog {
    host: String,
    links: BTreeMap<Receiver, (Arc<Sender>, Link)>,
}

impl Default for Syslog {
    fn default() -> Syslog {
        // As uname(2) has it; "-" is RFC 5424's word for none.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
        Syslog { host: if host.is_empty() { "-".to_owned() } else { host }, links: BTreeMap::new() }
    }
}

impl Syslog {
    /// None yet, from this stream, whose lines came at this time.
    #[must_use]
    pub fn messages(&self, sender: &Arc<Sender>, at: &Zoned) -> Messages {
        Messages { sender: sender.clone(), head: sender.head(at, &self.host), list: Vec::new() }
    }

    /// Takes lines and sends what can be sent.
    pub fn submit(&mut self, messages: Messages, losses: &mut Losses, now: Instant) {
        let Messages { sender, list, .. } = messages;
        let fresh = || (sender.clone(), Link::default());
        let (by, link) = self.links.entry(sender.receiver.clone()).or_insert_with(fresh);
        for message in list {
            link.push(sender.process, message, losses, now);
            link.pump(by, losses, now);
        }
    }

    /// What is wrong with this receiver.
    #[must_use]
    pub fn error(&self, receiver: &Receiver) -> Option<String> {
        let (_, link) = self.links.get(receiver)?;
        link.error.clone().filter(|_| !link.waiting.is_empty())
    }

    /// When [`Syslog::pump`] is wanted though nothing happens.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.links.values().filter(|(_, link)| !link.waiting.is_empty()).filter_map(|(_, link)| link.retry).min()
    }

    /// Sends on what waits.
    pub fn pump(&mut self, losses: &mut Losses, now: Instant) {
        for (sender, link) in self.links.values_mut() {
            link.pump(sender, losses, now);
        }
    }

    /// Lets go of what still waits: there will be nobody to send it.
    pub fn abandon(&mut self, losses: &mut Losses, now: Instant) {
        for (_, link) in self.links.values_mut() {
            let reason = link.error.clone().unwrap_or_default();
            link.bytes = 0;
            for (process, message) in link.waiting.drain(..) {
                losses.add(process, Lost { lines: 1, bytes: message.len() as u64 }, &reason, now);
            }
        }
    }

    /// Lets go of all receivers but those that are still in use, and those for which something waits.
    pub fn keep(&mut self, used: impl Fn(&Receiver) -> bool) {
        self.links.retain(|receiver, (_, link)| used(receiver) || !link.waiting.is_empty());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::logs::LogEvent;
    use crate::logs::split::LineEnd;
    use tokio::sync::mpsc;

    fn line(raw: &[u8]) -> Line<'_> {
        Line { raw, end: LineEnd::Newline, continues: false }
    }

    fn at() -> Zoned {
        "2026-11-01T02:03:04.567+01:00[Europe/Berlin]".parse().unwrap()
    }

    fn sender(address: SyslogAddress, err: bool) -> Arc<Sender> {
        Arc::new(Sender::new(address, &Identity::own().unwrap(), ProcessId(3), "my app", err, 4711))
    }

    fn send(syslog: &mut Syslog, sender: &Arc<Sender>, lines: &[&[u8]], losses: &mut Losses, now: Instant) {
        let mut messages = syslog.messages(sender, &at());
        lines.iter().for_each(|raw| messages.add(&line(raw)));
        syslog.submit(messages, losses, now);
    }

    #[test]
    fn a_local_daemon_gets_what_the_c_library_sends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        let (events, _receiver) = mpsc::channel(8);
        let (mut syslog, mut losses) = (Syslog::default(), Losses::new(events));
        let sender = sender(SyslogAddress::Unix(path), false);
        let long = [b"x".repeat(MAX_MESSAGE + 1), b"\n".to_vec()].concat();
        let lines: [&[u8]; 4] = [b"hello\r\n", b"<4>careful\n", b"x\rREADY=1\0y\n", &long];
        send(&mut syslog, &sender, &lines, &mut losses, Instant::now());
        let mut datagram = vec![0; 1 << 16];
        let mut next = || {
            let length = server.recv(&mut datagram).unwrap();
            String::from_utf8(datagram[..length].to_vec()).unwrap()
        };
        assert_eq!(next(), "<14>Nov  1 02:03:04 my_app[4711]: hello");
        assert_eq!(next(), "<12>Nov  1 02:03:04 my_app[4711]: careful");
        assert_eq!(next(), "<14>Nov  1 02:03:04 my_app[4711]: x#015READY=1#000y");
        assert!(next().ends_with(&"x".repeat(MAX_MESSAGE)));
        assert_eq!(next(), "<14>Nov  1 02:03:04 my_app[4711]: x");
    }

    #[test]
    fn one_elsewhere_gets_rfc_5424() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (events, _receiver) = mpsc::channel(8);
        let (mut syslog, mut losses) = (Syslog::default(), Losses::new(events));
        let sender = sender(SyslogAddress::Udp(server.local_addr().unwrap()), true);
        send(&mut syslog, &sender, &[b"oops\n"], &mut losses, Instant::now());
        let mut datagram = [0; 512];
        let length = server.recv(&mut datagram).unwrap();
        let expected = format!("<11>1 2026-11-01T02:03:04.567+01:00 {} my_app 4711 err - oops", syslog.host);
        assert_eq!(std::str::from_utf8(&datagram[..length]).unwrap(), expected);
    }

    #[test]
    fn one_that_takes_nothing_costs_counted_lines_and_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (events, mut receiver) = mpsc::channel(8);
        let (mut syslog, mut losses) = (Syslog::default(), Losses::new(events));
        let sender = sender(SyslogAddress::Unix(path.clone()), false);
        let start = Instant::now();
        let raw = [b"x".repeat(999), b"\n".to_vec()].concat();
        for _ in 0..2000 {
            send(&mut syslog, &sender, &[&raw], &mut losses, start);
        }
        let LogEvent::Dropped { reason, .. } = receiver.try_recv().unwrap() else { panic!("no loss told") };
        assert!(reason.starts_with("cannot send to syslog at `unix:"), "{reason}");
        assert!(syslog.error(sender.receiver()).unwrap().contains("No such file"));
        assert_eq!(syslog.wakes_at(), Some(start + ABSENT));
        let lost = losses.of(ProcessId(3)).lines;
        assert!(lost > 900 && lost < 2000, "{lost}");

        // Once somebody listens, what waited arrives, and then what comes.
        let server = UnixDatagram::bind(&path).unwrap();
        server.set_nonblocking(true).unwrap();
        let (mut now, mut arrived, mut datagram) = (start + ABSENT, 0, vec![0; 4096]);
        while syslog.wakes_at().is_some() {
            syslog.pump(&mut losses, now);
            while server.recv(&mut datagram).is_ok() {
                arrived += 1;
            }
            now += BUSY;
        }
        assert_eq!(arrived + lost, 2000);
        assert_eq!(syslog.error(sender.receiver()), None);
        let recovered = std::iter::from_fn(|| receiver.try_recv().ok()).last();
        assert_eq!(recovered, Some(LogEvent::Recovered { process: ProcessId(3), lines: lost }));
        syslog.keep(|_| false);
        assert!(syslog.links.is_empty());
    }
}
