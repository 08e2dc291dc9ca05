//! Lines to the journal, with who wrote them.
//!
//! Native protocol, so that a line bears fields of ours, and from the daemon, whose unit's rate limit then counts.
//! Must never let a worker wait for a journal that does not answer: after a while lines are dropped, and counted.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::loss::{Losses, Lost};
use super::split::{Line, LineEnd};
use crate::core::ProcessId;
use crate::sys::journal::{JournalSocket, is_too_large};

/// Datagrams for one system call.
const BATCH: usize = 64;
/// How long a journal may take no line before lines are dropped.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before a journal that is gone is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// What the lines of a stream have in common.
#[derive(Debug, Clone)]
pub struct Sender<'a> {
    /// The app's name.
    pub app_name: &'a str,
    /// The process.
    pub process: ProcessId,
    /// Its instance number.
    pub instance: u32,
    /// Its namespace.
    pub namespace: &'a str,
    /// The user it runs as.
    pub uid: u32,
    /// Standard error rather than standard output.
    pub err: bool,
    /// The worker.
    pub worker: u32,
    /// Its process id; 0 when unknown.
    pub pid: u32,
    /// The systemd unit it runs in.
    pub unit: Option<&'a str>,
}

impl Sender<'_> {
    /// The fields that are the same for all its lines, in the journal's format.
    #[must_use]
    pub fn head(&self) -> Arc<[u8]> {
        let mut head = Vec::new();
        let mut text = |name: &str, value: &str| append_field(&mut head, name, value.as_bytes());
        text("SYSLOG_IDENTIFIER", self.app_name);
        text("PM2RS_APP", self.app_name);
        text("PM2RS_PROCESS", &self.process.to_string());
        text("PM2RS_INSTANCE", &self.instance.to_string());
        text("PM2RS_NAMESPACE", self.namespace);
        text("PM2RS_UID", &self.uid.to_string());
        text("PM2RS_STREAM", if self.err { "err" } else { "out" });
        text("PM2RS_GENERATION", &self.worker.to_string());
        if self.pid != 0 {
            text("SYSLOG_PID", &self.pid.to_string());
            // Makes journald add what it knows about that process, its unit among it.
            text("OBJECT_PID", &self.pid.to_string());
        }
        if let Some(unit) = self.unit {
            text("PM2RS_UNIT", unit);
        }
        head.into()
    }
}

/// Appends a field; a value with a line feed in its counted form, so that nobody adds fields by it.
fn append_field(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    to.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        to.push(b'\n');
        to.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        to.push(b'=');
    }
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// syslog(3)'s severity of a line, and the line without the `<N>` that said so (sd-daemon(3)).
#[must_use]
pub fn severity<'a>(line: &Line<'a>, err: bool) -> (u8, &'a [u8]) {
    let text = line.text();
    match text {
        [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] if !line.continues => (digit - b'0', rest),
        // As other supervisors have it: 6 is "info", 3 is "error".
        _ => (if err { 3 } else { 6 }, text),
    }
}

const MIDDLES: [&[u8]; 8] = [
    b"PRIORITY=0\nMESSAGE=",
    b"PRIORITY=1\nMESSAGE=",
    b"PRIORITY=2\nMESSAGE=",
    b"PRIORITY=3\nMESSAGE=",
    b"PRIORITY=4\nMESSAGE=",
    b"PRIORITY=5\nMESSAGE=",
    b"PRIORITY=6\nMESSAGE=",
    b"PRIORITY=7\nMESSAGE=",
];

/// Marks a piece of a line that was too long as journald's `_LINE_BREAK` does, which only journald may set.
const SPLIT: &[u8] = b"\nPM2RS_LINE_BREAK=line-max\n";

#[derive(Debug, Clone, Copy)]
struct Entry {
    end: usize,
    severity: u8,
    split: bool,
}

/// Lines of one stream on their way to the journal.
#[derive(Debug)]
pub struct Block {
    head: Arc<[u8]>,
    process: ProcessId,
    err: bool,
    text: Vec<u8>,
    entries: Vec<Entry>,
    sent: usize,
}

impl Block {
    /// An empty one.
    #[must_use]
    pub fn new(head: Arc<[u8]>, process: ProcessId, err: bool) -> Block {
        Block { head, process, err, text: Vec::new(), entries: Vec::new(), sent: 0 }
    }

    /// Adds a line.
    pub fn add(&mut self, line: &Line<'_>) {
        let (severity, text) = severity(line, self.err);
        self.text.extend_from_slice(text);
        self.entries.push(Entry { end: self.text.len(), severity, split: line.end == LineEnd::Split });
    }

    fn datagram(&self, at: usize) -> Vec<IoSlice<'_>> {
        let entry = self.entries[at];
        let start = at.checked_sub(1).map_or(0, |before| self.entries[before].end);
        vec![
            IoSlice::new(&self.head),
            IoSlice::new(MIDDLES[usize::from(entry.severity)]),
            IoSlice::new(&self.text[start..entry.end]),
            IoSlice::new(if entry.split { SPLIT } else { b"\n" }),
        ]
    }

    fn rest(&self) -> Lost {
        let start = self.sent.checked_sub(1).map_or(0, |before| self.entries[before].end);
        Lost { lines: (self.entries.len() - self.sent) as u64, bytes: (self.text.len() - start) as u64 }
    }
}

/// The way to the journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    socket: Option<JournalSocket>,
    /// The socket is another one than when this was last asked.
    renewed: bool,
    waiting: VecDeque<Block>,
    /// Since when it took nothing.
    stuck_since: Option<Instant>,
    retry: Option<Instant>,
    error: Option<String>,
    victims: Vec<ProcessId>,
    sent: u64,
}

impl Journal {
    /// To the journal that listens at `path`, once there is something to say.
    #[must_use]
    pub fn new(path: PathBuf) -> Journal {
        Journal {
            path,
            socket: None,
            renewed: false,
            waiting: VecDeque::new(),
            stuck_since: None,
            retry: None,
            error: None,
            victims: Vec::new(),
            sent: 0,
        }
    }

    /// Lines that it took in all; it may have dropped some of them by itself.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether lines wait, so that no more should be brought.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What is wrong with it.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The socket, if it has not been asked for yet, to be watched for being writable.
    pub fn take_renewed(&mut self) -> Option<BorrowedFd<'_>> {
        if std::mem::take(&mut self.renewed) { self.socket.as_ref().map(AsFd::as_fd) } else { None }
    }

    /// When [`Journal::pump`] is wanted though nothing happens.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        let patience =
            self.stuck_since.filter(|_| self.is_busy() && self.error.is_none()).map(|since| since + PATIENCE);
        [patience, self.retry.filter(|_| self.is_busy())].into_iter().flatten().min()
    }

    /// Takes lines and sends what can be sent.
    pub fn submit(&mut self, block: Block, losses: &mut Losses, now: Instant) {
        if !block.entries.is_empty() {
            self.waiting.push_back(block);
            self.pump(losses, now);
        }
    }

    /// Sends what waits, as far as the journal takes it.
    pub fn pump(&mut self, losses: &mut Losses, now: Instant) {
        while let Some(block) = self.waiting.front() {
            let last = block.entries.len().min(block.sent + BATCH);
            let datagrams: Vec<Vec<IoSlice<'_>>> = (block.sent..last).map(|at| block.datagram(at)).collect();
            let sent = connected(&mut self.socket, &mut self.renewed, &self.path, &mut self.retry, now)
                .and_then(|socket| send(socket, &datagrams));
            match sent {
                Ok(sent) => self.went(sent, losses, now),
                Err(error) => {
                    self.failed(&error, losses, now);
                    return;
                }
            }
        }
    }

    /// Lets go of what still waits: there will be nobody to send it.
    pub fn abandon(&mut self, losses: &mut Losses, now: Instant) {
        for block in self.waiting.drain(..) {
            losses.add(block.process, block.rest(), "the daemon made way before the journal took them", now);
        }
    }

    fn went(&mut self, sent: usize, losses: &mut Losses, now: Instant) {
        self.stuck_since = None;
        self.error = None;
        for process in self.victims.drain(..) {
            losses.recovered(process, now);
        }
        let Some(block) = self.waiting.front_mut() else { return };
        block.sent += sent;
        self.sent += sent as u64;
        if block.sent >= block.entries.len() {
            self.waiting.pop_front();
        }
    }

    fn failed(&mut self, error: &io::Error, losses: &mut Losses, now: Instant) {
        if error.kind() != io::ErrorKind::WouldBlock {
            // The journal was restarted without its socket unit, or is no more.
            self.socket = None;
            self.retry.get_or_insert(now + RETRY);
        }
        let since = *self.stuck_since.get_or_insert(now);
        // Once found stuck, it gets no second time until it takes something again.
        if self.error.is_some() || now.duration_since(since) >= PATIENCE {
            let reason = format!("cannot write to the journal: {error}");
            for block in self.waiting.drain(..) {
                losses.add(block.process, block.rest(), &reason, now);
                if !self.victims.contains(&block.process) {
                    self.victims.push(block.process);
                }
            }
            self.error = Some(reason);
        }
    }
}

fn connected<'a>(
    socket: &'a mut Option<JournalSocket>,
    renewed: &mut bool,
    path: &std::path::Path,
    retry: &mut Option<Instant>,
    now: Instant,
) -> io::Result<&'a JournalSocket> {
    if socket.is_none() {
        if retry.is_some_and(|at| at > now) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        *retry = Some(now + RETRY);
        *socket = Some(JournalSocket::connect(path)?);
        *renewed = true;
        *retry = None;
    }
    socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

fn send(socket: &JournalSocket, datagrams: &[Vec<IoSlice<'_>>]) -> io::Result<usize> {
    match socket.send(datagrams) {
        Err(error) if is_too_large(&error) => socket.send_large(&datagrams[0]).map(|()| 1),
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use tokio::sync::mpsc;

    use crate::logs::LogEvent;

    fn sender<'a>() -> Sender<'a> {
        Sender {
            app_name: "api",
            process: ProcessId(3),
            instance: 1,
            namespace: "default",
            uid: 1000,
            err: true,
            worker: 9,
            pid: 4711,
            unit: None,
        }
    }

    fn line(raw: &[u8]) -> Line<'_> {
        Line { raw, end: LineEnd::Newline, continues: false }
    }

    /// Fields of a datagram in the journal's format.
    fn fields(mut datagram: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut fields = Vec::new();
        while !datagram.is_empty() {
            let end = datagram.iter().position(|byte| *byte == b'\n').unwrap();
            let (head, rest) = datagram.split_at(end);
            if let Some(equals) = head.iter().position(|byte| *byte == b'=') {
                fields.push((String::from_utf8(head[..equals].to_vec()).unwrap(), head[equals + 1..].to_vec()));
                datagram = &rest[1..];
            } else {
                let length = usize::try_from(u64::from_le_bytes(rest[1..9].try_into().unwrap())).unwrap();
                fields.push((String::from_utf8(head.to_vec()).unwrap(), rest[9..9 + length].to_vec()));
                datagram = &rest[10 + length..];
            }
        }
        fields
    }

    fn receive(journal: &UnixDatagram) -> Vec<(String, Vec<u8>)> {
        let mut datagram = vec![0; 1 << 20];
        let length = journal.recv(&mut datagram).unwrap();
        fields(&datagram[..length])
    }

    fn value<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> &'a [u8] {
        let mut found = fields.iter().filter(|(field, _)| field == name);
        let value = &found.next().unwrap_or_else(|| panic!("no {name}")).1;
        assert!(found.next().is_none(), "{name} twice");
        value
    }

    #[test]
    fn lines_bear_who_wrote_them_and_hostile_names_add_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        let (events, _receiver) = mpsc::channel(8);
        let (mut losses, mut journal) = (Losses::new(events), Journal::new(path));
        let hostile = Sender { app_name: "a\nPRIORITY=0", namespace: "n=1", ..sender() };
        let mut block = Block::new(hostile.head(), ProcessId(3), true);
        block.add(&line(b"<4>careful\n"));
        block.add(&line(b"\xff PM2RS_APP=x\r\n"));
        block.add(&line(b"\n"));
        block.add(&Line { raw: b"<1>long", end: LineEnd::Split, continues: true });
        journal.submit(block, &mut losses, Instant::now());
        assert!(journal.take_renewed().is_some() && journal.take_renewed().is_none());
        let all: Vec<_> = (0..4).map(|_| receive(&server)).collect();
        for (entry, (priority, message)) in
            all.iter().zip([("4", &b"careful"[..]), ("3", b"\xff PM2RS_APP=x"), ("3", b""), ("3", b"<1>long")])
        {
            assert_eq!(value(entry, "PRIORITY"), priority.as_bytes());
            assert_eq!(value(entry, "MESSAGE"), message);
            assert_eq!(value(entry, "PM2RS_APP"), b"a\nPRIORITY=0");
            assert_eq!(value(entry, "PM2RS_NAMESPACE"), b"n=1");
            assert_eq!(value(entry, "PM2RS_STREAM"), b"err");
            assert_eq!(value(entry, "PM2RS_GENERATION"), b"9");
            assert_eq!(value(entry, "OBJECT_PID"), b"4711");
        }
        assert_eq!(value(&all[3], "PM2RS_LINE_BREAK"), b"line-max");
    }

    #[test]
    fn a_busy_journal_is_waited_for_and_a_stuck_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        server.set_nonblocking(true).unwrap();
        let (events, mut receiver) = mpsc::channel(8);
        let (mut losses, mut journal) = (Losses::new(events), Journal::new(path));
        let start = Instant::now();
        let block = |lines: usize| {
            let mut block = Block::new(sender().head(), ProcessId(3), false);
            (0..lines).for_each(|n| block.add(&line(format!("{n}\n").as_bytes())));
            block
        };
        journal.submit(block(2000), &mut losses, start);
        assert!(journal.is_busy(), "a datagram socket that is not read takes some and no more");
        // Read again, everything arrives in order.
        let mut next = 0;
        let mut datagram = vec![0; 4096];
        while next < 2000 {
            if let Ok(length) = server.recv(&mut datagram) {
                assert_eq!(value(&fields(&datagram[..length]), "MESSAGE"), next.to_string().as_bytes());
                next += 1;
            } else {
                journal.pump(&mut losses, start);
            }
        }
        assert!(!journal.is_busy() && receiver.try_recv().is_err());

        journal.submit(block(2000), &mut losses, start);
        assert_eq!(journal.wakes_at(), Some(start + PATIENCE));
        journal.pump(&mut losses, start + PATIENCE);
        assert!(!journal.is_busy());
        let LogEvent::Dropped { lines, reason, .. } = receiver.try_recv().unwrap() else { panic!("no loss told") };
        assert!(reason.starts_with("cannot write to the journal: "), "{reason}");
        while server.recv(&mut datagram).is_ok() {}
        journal.submit(block(1), &mut losses, start + PATIENCE);
        assert_eq!(receiver.try_recv().unwrap(), LogEvent::Recovered { process: ProcessId(3), lines });
        assert_eq!(journal.error(), None);
    }

    #[test]
    fn a_journal_that_is_restarted_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (events, _receiver) = mpsc::channel(8);
        let (mut losses, mut journal) = (Losses::new(events), Journal::new(path.clone()));
        let start = Instant::now();
        let mut block = Block::new(sender().head(), ProcessId(3), false);
        block.add(&line(b"<9>not a severity\n"));
        journal.submit(block, &mut losses, start);
        assert!(journal.is_busy());
        assert_eq!(journal.wakes_at(), Some(start + RETRY));
        let server = UnixDatagram::bind(&path).unwrap();
        journal.pump(&mut losses, start + RETRY);
        assert!(!journal.is_busy());
        assert_eq!(value(&receive(&server), "MESSAGE"), b"<9>not a severity");
    }

    #[test]
    fn a_journal_that_is_gone_for_long_costs_counted_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (events, mut receiver) = mpsc::channel(8);
        let (mut losses, mut journal) = (Losses::new(events), Journal::new(path.clone()));
        let start = Instant::now();
        let block = || {
            let mut block = Block::new(sender().head(), ProcessId(3), false);
            block.add(&line(b"x\n"));
            block
        };
        journal.submit(block(), &mut losses, start);
        journal.pump(&mut losses, start + PATIENCE);
        assert!(!journal.is_busy(), "nobody waits for it any more");
        let LogEvent::Dropped { lines: 1, reason, .. } = receiver.try_recv().unwrap() else { panic!("no loss told") };
        assert!(reason.contains("No such file"), "{reason}");
        journal.submit(block(), &mut losses, start + PATIENCE * 100);
        assert!(!journal.is_busy() && journal.error().is_some());
        let server = UnixDatagram::bind(&path).unwrap();
        journal.submit(block(), &mut losses, start + PATIENCE * 200);
        assert_eq!(value(&receive(&server), "MESSAGE"), b"x");
        assert_eq!((journal.error(), losses.of(ProcessId(3)).lines), (None, 2));
        let last = std::iter::from_fn(|| receiver.try_recv().ok()).last();
        assert_eq!(last, Some(LogEvent::Recovered { process: ProcessId(3), lines: 2 }));
    }
}
