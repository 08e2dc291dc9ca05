//! The log thread: waits for pipes, commands and times, and gives each stream its turn.

mod workers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use self::workers::Worker;
use super::file::{LogFile, Writer};
use super::housekeeping::{Charge, Housekeeper};
use super::journal::Journal;
use super::loss::Losses;
use super::mailbox::{Command, Inbox, Mailbox};
use super::place::Place;
use super::sinks::{FileId, Sinks};
use super::stream::{self, Turn};
use super::suppression::Watch;
use super::tail::Beginning;
use super::{Known, LogEvent, LogsConfig, combined_path, out_path};
use crate::core::{AppSpec, ProcessId, Uid, WorkerId};
use crate::sys::epoll::Interest;
use crate::sys::poller::Poller;

/// Token of the mailbox.
const WAKE: u64 = u64::MAX;
/// Token of the journal's socket.
const JOURNAL: u64 = u64::MAX - 1;
/// Tokens of followers begin here; those of streams end well below.
const FOLLOWERS: u64 = 1 << 40;
/// Turns between two looks at what else happened.
const TURNS: usize = 16;
/// Somebody writes line by line, and fast: being woken for each costs the writer more than the line does. So when little
/// came, and at once, the next look is that much later; a pipe has room for more than comes meanwhile.
const NAP: Duration = Duration::from_millis(1);
/// How soon "at once" is.
const SOON: Duration = Duration::from_micros(200);
/// How much is little (bytes). Who writes more at a time could fill the pipe during a nap.
const SMALL: usize = 32 << 10;
/// How long a stream may take to finish a line that it has begun in a file which others write into, too.
const COURTESY: Duration = Duration::from_millis(20);
/// How long the journal may take for the last lines before another program reads on.
const LAST_LINES: Duration = Duration::from_millis(500);

/// A row of the process list.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) known: Known,
    pub(super) out: Option<FileId>,
    pub(super) err: Option<FileId>,
    pub(super) combined: Option<FileId>,
    pub(super) began: Beginning,
}

impl Row {
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        [self.out, self.err, self.combined].into_iter().flatten()
    }
}

/// Whether somebody writes into it, or something waits for it.
fn has_work(file: &LogFile) -> bool {
    file.writers > 0 || !file.is_well()
}

/// What the log thread owns.
#[derive(Debug)]
pub struct Collector {
    pub(super) config: LogsConfig,
    inbox: Inbox,
    pub(super) poller: Poller,
    pub(super) rows: BTreeMap<ProcessId, Row>,
    /// By whose rights a file is opened is part of what it is: who names another's file gets no more of it than their own
    /// rights give, and takes nothing from its owner.
    files: HashMap<Place, FileId>,
    workers: HashMap<WorkerId, Worker>,
    ready: VecDeque<Writer>,
    /// Streams that wait for the journal.
    blocked: Vec<Writer>,
    pub(super) sinks: Sinks,
    housekeeper: Housekeeper,
    suppression: Option<Watch>,
    pub(super) next_follower: u64,
    /// Who waits for us to read nothing more.
    successor: Option<oneshot::Sender<()>>,
}

impl Collector {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there are no descriptors or threads left.
    pub fn start(config: LogsConfig, events: mpsc::Sender<LogEvent>) -> io::Result<Mailbox> {
        let (mailbox, inbox) = Mailbox::new()?;
        let poller = Poller::new()?;
        poller.add(&inbox.wake, WAKE, Interest::Readable)?;
        let suppression = config.limited_unit.clone().map(|unit| Watch::new(unit, events.clone()));
        let sinks = Sinks::new(Losses::new(events), Journal::new(config.journal_socket.clone()))?;
        let collector = Collector {
            config,
            inbox,
            poller,
            rows: BTreeMap::new(),
            files: HashMap::new(),
            workers: HashMap::new(),
            ready: VecDeque::new(),
            blocked: Vec::new(),
            sinks,
            housekeeper: Housekeeper::default(),
            suppression,
            next_follower: FOLLOWERS,
            successor: None,
        };
        std::thread::Builder::new().name("logs".to_owned()).spawn(move || collector.run())?;
        Ok(mailbox)
    }

    fn run(mut self) {
        loop {
            let now = Instant::now();
            let timeout =
                if self.ready.is_empty() { self.wakes_at(now).map(|at| at - now) } else { Some(Duration::ZERO) };
            let asked = Instant::now();
            let Ok(happened) = self.poller.wait(timeout) else { return };
            let now = Instant::now();
            for readiness in happened {
                match readiness.token {
                    WAKE => {
                        if !self.on_wake(now) {
                            return;
                        }
                    }
                    JOURNAL => self.sinks.pump_journal(now),
                    token if token >= FOLLOWERS => self.on_follower(token, readiness.ended),
                    token => self.queue(stream::writer(token)),
                }
            }
            if let Some(successor) = self.successor.take() {
                self.stand_still();
                let _ = successor.send(());
                return;
            }
            for _ in 0..TURNS {
                let Some(writer) = self.ready.pop_front() else { break };
                self.turn(writer, now);
            }
            self.pump_all();
            self.on_time(now);
            self.tend_journal(now);
            self.tidy();
            let moved = self.sinks.take_moved();
            let held_up = moved == 0 && !self.ready.is_empty();
            if (held_up || (1..SMALL).contains(&moved)) && now.duration_since(asked) < SOON {
                std::thread::sleep(NAP);
            }
        }
    }

    /// Has everything that left a pipe arrive where it belongs, as far as the journal takes it in time.
    fn stand_still(&mut self) {
        let now = Instant::now();
        for (outlet, stream) in self.workers.values_mut().flat_map(|worker| &mut worker.streams) {
            stream.hand_over(outlet, &mut self.sinks, now);
        }
        self.pump_all();
        while self.sinks.journal.is_busy() && now.elapsed() < LAST_LINES {
            if self.poller.wait(Some(LAST_LINES.saturating_sub(now.elapsed()))).is_err() {
                break;
            }
            self.sinks.pump_journal(Instant::now());
        }
        let now = Instant::now();
        for (process, row) in &self.rows {
            row.files().for_each(|id| self.sinks.abandon_file(id, *process, now));
        }
        self.sinks.abandon_messages(now);
    }

    /// Has rotated files looked after when there are new ones.
    fn tidy(&mut self) {
        let rotated = self.sinks.all_files().filter_map(|(_, file)| file.take_rotated().then_some(())).count();
        if rotated == 0 {
            return;
        }
        let mut apps = BTreeMap::new();
        for row in self.rows.values() {
            apps.extend(row.files().map(|id| (id, (row.known.app, row.known.app_owner))));
        }
        let charges = self.sinks.all_files().filter_map(|(id, file)| {
            let (names, spec) = file.kept()?;
            let (names, spec) = (names.clone(), spec.clone());
            let (app, owner) = *apps.get(&id)?;
            Some(Charge { place: file.place().clone(), names, app, owner, spec })
        });
        self.housekeeper.tidy(charges.collect(), self.config.total_size);
    }

    fn tend_journal(&mut self, now: Instant) {
        if let Some(watch) = &mut self.suppression {
            watch.look(self.sinks.journal.sent(), now);
        }
        if self.sinks.journal.wakes_at().is_some_and(|at| at <= now) {
            self.sinks.pump_journal(now);
        }
        if let Some(socket) = self.sinks.journal.take_renewed() {
            // Not watched, it is tried again in any case when patience ends.
            drop(self.poller.add(socket, JOURNAL, Interest::MoreReadableOrWritable));
        }
        if !self.sinks.journal.is_busy() {
            for writer in std::mem::take(&mut self.blocked) {
                self.queue(Some(writer));
            }
        }
    }

    /// When something is to be done though nothing happens.
    fn wakes_at(&mut self, now: Instant) -> Option<Instant> {
        let files = self.sinks.all_files().filter_map(|(_, file)| file.wakes_at(now)).min();
        let workers = self.workers.values().filter_map(Worker::given_up_at);
        let receivers = self
            .sinks
            .journal
            .wakes_at()
            .into_iter()
            .chain(self.sinks.syslog.wakes_at())
            .chain(self.sinks.losses.wakes_at())
            .chain(self.suppression.as_ref().and_then(Watch::wakes_at));
        let streams = self.workers.values().flat_map(|worker| &worker.streams);
        let lines = streams.filter_map(|(outlet, stream)| stream.wakes_at(outlet));
        workers.chain(files).chain(receivers).chain(lines).min().map(|at| at.max(now))
    }

    fn on_time(&mut self, now: Instant) {
        self.sinks.wake_files(now);
        if self.sinks.syslog.wakes_at().is_some_and(|at| at <= now) {
            self.sinks.pump_syslog(now);
        }
        self.sinks.losses.tell(now);
        let streams = self.workers.values().flat_map(|worker| &worker.streams);
        let overdue = streams.filter(|(outlet, stream)| stream.wakes_at(outlet).is_some_and(|at| at <= now));
        let overdue: Vec<_> = overdue.map(|(outlet, _)| outlet.writer).collect();
        overdue.into_iter().for_each(|writer| self.queue(Some(writer)));
        self.see_off(now);
    }

    /// False when nobody will ask for anything any more.
    fn on_wake(&mut self, now: Instant) -> bool {
        let mut bytes = [0; 64];
        let open = matches!(self.inbox.wake.read(&mut bytes), Ok(length) if length > 0);
        for command in self.inbox.take() {
            self.perform(command, now);
        }
        open
    }

    fn perform(&mut self, command: Command, now: Instant) {
        match command {
            Command::Know(known) => self.know(*known),
            Command::FailedStart(process) => self.note_beginning(process),
            Command::Attach(source) => self.attach(*source),
            Command::SetPid(worker, pid) => self.set_pid(worker, pid),
            Command::Detach(worker, reply) => self.detach(worker, reply, now),
            Command::Follow(request, reply) => drop(reply.send(self.follow(&request))),
            Command::Archives(whose, reply) => drop(reply.send(self.archives(&whose))),
            Command::Tail { process, err, lines, reply } => drop(reply.send(self.tail(process, err, lines))),
            Command::Flush(processes, reply) => drop(reply.send(self.flush(&processes))),
            Command::Reopen(owner, reply) => {
                self.reopen(owner, now);
                let _ = reply.send(());
            }
            Command::StandStill(reply) => self.successor = Some(reply),
            Command::Forget(process) => self.forget(process),
            Command::Counters(process, reply) => drop(reply.send(self.counters(process))),
        }
    }

    fn know(&mut self, known: Known) {
        let out = out_path(&known.spec, known.process, false).map(|path| self.file(path, &known));
        let err = out_path(&known.spec, known.process, true).map(|path| self.file(path, &known));
        let combined = combined_path(&known.spec, known.process).map(|path| self.file(path, &known));
        let began = self.rows.get(&known.process).map(|row| row.began).unwrap_or_default();
        if let Some(before) = self.rows.insert(known.process, Row { known, out, err, combined, began }) {
            self.let_go_of(before.files(), has_work);
        }
    }

    /// Forgets those of these files that no row has and that are not busy.
    fn let_go_of(&mut self, files: impl Iterator<Item = FileId>, is_busy: impl Fn(&LogFile) -> bool) {
        for id in files {
            let used = self.rows.values().any(|row| row.files().any(|file| file == id));
            if !used && !self.sinks.file(id).is_some_and(|file| is_busy(file)) {
                self.sinks.remove_file(id);
                self.files.retain(|_, file| *file != id);
            }
        }
    }

    fn file(&mut self, path: PathBuf, known: &Known) -> FileId {
        let ours = path.parent() == Some(&self.config.folder) && known.app_owner == self.config.owner;
        let place = Place { path, owner: known.identity.clone(), ours };
        let rotate = &known.spec.log.rotate;
        if let Some((id, file)) = self.files.get(&place).and_then(|id| Some((*id, self.sinks.file(*id)?))) {
            file.reconfigure(rotate);
            return id;
        }
        let id = self.sinks.add_file(LogFile::new(place.clone(), rotate));
        self.files.insert(place, id);
        id
    }

    fn queue(&mut self, writer: Option<Writer>) {
        let Some(writer) = writer else { return };
        let Some(worker) = self.workers.get_mut(&writer.worker) else { return };
        let stream = &mut worker.streams[usize::from(writer.err)].1;
        if !stream.queued && !stream.ended {
            stream.queued = true;
            self.ready.push_back(writer);
        }
    }

    fn turn(&mut self, writer: Writer, now: Instant) {
        let in_the_way = self.is_another_within_a_line(writer);
        let Some(worker) = self.workers.get_mut(&writer.worker) else { return };
        let (outlet, stream) = &mut worker.streams[usize::from(writer.err)];
        stream.queued = false;
        if stream.ended {
            return;
        }
        if in_the_way && now.duration_since(*stream.held_up.get_or_insert(now)) < COURTESY {
            stream.queued = true;
            self.ready.push_back(writer);
            return;
        }
        stream.held_up = None;
        match stream.turn(outlet, &mut self.sinks, now) {
            Turn::More => {
                stream.queued = true;
                self.ready.push_back(writer);
            }
            Turn::Empty => {}
            Turn::Blocked => self.blocked.push(writer),
            Turn::Ended => {
                // Its end would be told again and again.
                drop(self.poller.delete(stream.pipe()));
                stream.finish(outlet, &mut self.sinks, now);
            }
        }
    }

    /// Whether the file of this stream ends within a line of one that can still finish it. That happens when two begin to
    /// share a file: while it was its own, the first one's bytes went there unseen.
    fn is_another_within_a_line(&mut self, writer: Writer) -> bool {
        let stream = |writer: Writer| self.workers.get(&writer.worker).map(|w| &w.streams[usize::from(writer.err)]);
        let Some(id) = stream(writer).and_then(|(outlet, _)| outlet.file) else { return false };
        let other = self.sinks.file(id).and_then(|file| file.is_within_line_of(writer));
        other.and_then(stream).is_some_and(|(_, stream)| !stream.ended)
    }

    pub(super) fn to_journal(&self, spec: &AppSpec) -> bool {
        spec.log.journal.unwrap_or(self.config.journal) && !spec.log.disable_logs
    }

    fn flush(&mut self, processes: &[ProcessId]) -> Vec<String> {
        let mut errors = Vec::new();
        for id in processes {
            let Some(row) = self.rows.get(id) else { continue };
            self.sinks.tally(*id).memory.clear();
            for file in row.files() {
                if let Some(Err(error)) = self.sinks.file(file).map(LogFile::empty) {
                    errors.push(error.to_string());
                }
            }
        }
        errors
    }

    fn reopen(&mut self, owner: Option<Uid>, now: Instant) {
        let theirs = self.rows.values().filter(|row| Some(row.known.app_owner) == owner);
        let theirs: BTreeSet<FileId> = theirs.flat_map(Row::files).collect();
        for (id, file) in self.sinks.all_files() {
            if owner.is_none() || theirs.contains(&id) {
                file.reopen(now);
            }
        }
    }

    fn forget(&mut self, process: ProcessId) {
        let Some(row) = self.rows.remove(&process) else { return };
        self.sinks.forget(process);
        self.let_go_of(row.files(), |file| file.writers > 0);
    }

    fn on_follower(&mut self, token: u64, left: bool) {
        if left {
            self.sinks.followers.remove(&token);
        } else if let Some(follower) = self.sinks.followers.get_mut(&token) {
            follower.room();
        }
    }

    fn pump_all(&mut self) {
        self.sinks.followers.retain(|_, follower| follower.pump());
    }
}
