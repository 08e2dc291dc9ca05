//! Where lines go, and what each of those gets: files, the journal, followers, the memory of a process without files.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use jiff::Zoned;

use super::file::{LogFile, Writer};
use super::follow::{self, Batch, Follower};
use super::format::{Form, Origin};
use super::journal::{Block, Journal};
use super::loss::{Losses, Lost};
use super::split::{Line, Splitter};
use super::stream::CHUNK;
use super::syslog::{self, Syslog};
use super::tail::Memory;
use crate::core::{AppId, ProcessId, Uid};
use crate::sys::pipe;

/// Scratch memory beyond this is given back after use.
const KEEP_SCRATCH: usize = 512 << 10;

/// A log file by its place in [`Sinks::files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub usize);

/// Where the lines of one stream go.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// The stream.
    pub writer: Writer,
    /// The app.
    pub app: AppId,
    /// Who started it.
    pub owner: Uid,
    /// Its name.
    pub app_name: String,
    /// The process.
    pub process: ProcessId,
    /// How lines are written into files.
    pub form: Form,
    /// Its file.
    pub file: Option<FileId>,
    /// The file for both streams.
    pub combined: Option<FileId>,
    /// Fields of its lines in the journal; `None` when they do not go there.
    pub journal: Option<Arc<[u8]>>,
    /// What its syslog messages bear; `None` when there are none.
    pub syslog: Option<Arc<syslog::Sender>>,
    /// Whether the last lines are remembered, there being no file to read them from.
    pub remember: bool,
}

impl Outlet {
    /// Whose lines these are.
    #[must_use]
    pub fn origin(&self) -> Origin<'_> {
        Origin { process: self.process, app_name: &self.app_name, err: self.writer.err }
    }

    /// Whether all sinks can go on with a line of which they got a part.
    #[must_use]
    pub fn takes_parts(&self) -> bool {
        self.journal.is_none() && self.syslog.is_none()
    }
}

/// A file and whose lines wait for it or were lost by it.
#[derive(Debug)]
struct Shelf {
    file: LogFile,
    victims: Vec<ProcessId>,
}

/// What is kept about a process besides its files.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes read from its pipes.
    pub bytes: u64,
    /// Its last lines, if they are in no file.
    pub memory: Memory,
}

/// All sinks.
#[derive(Debug)]
pub struct Sinks {
    files: Vec<Option<Shelf>>,
    /// Those who look on, by their token.
    pub followers: HashMap<u64, Follower>,
    /// Accounts of what was lost.
    pub losses: Losses,
    /// The journal.
    pub journal: Journal,
    /// Syslog daemons.
    pub syslog: Syslog,
    tallies: BTreeMap<ProcessId, Tally>,
    /// Bytes that came since this was last asked.
    moved: usize,
    null: File,
    scratch: (File, OwnedFd),
    scratch_size: usize,
    seen: Vec<u8>,
    text: Vec<u8>,
    records: Vec<u8>,
}

impl Sinks {
    /// None yet.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(losses: Losses, journal: Journal) -> io::Result<Sinks> {
        let (scratch, into_scratch) = pipe::new()?;
        let scratch_size = pipe::grow(&scratch, CHUNK)?;
        Ok(Sinks {
            files: Vec::new(),
            followers: HashMap::new(),
            losses,
            journal,
            syslog: Syslog::default(),
            tallies: BTreeMap::new(),
            moved: 0,
            null: File::options().write(true).open("/dev/null")?,
            scratch: (scratch.into(), into_scratch),
            scratch_size,
            seen: Vec::new(),
            text: Vec::new(),
            records: Vec::new(),
        })
    }

    /// Adds a file.
    pub fn add_file(&mut self, file: LogFile) -> FileId {
        let shelf = Some(Shelf { file, victims: Vec::new() });
        match self.files.iter().position(Option::is_none) {
            Some(free) => {
                self.files[free] = shelf;
                FileId(free)
            }
            None => {
                self.files.push(shelf);
                FileId(self.files.len() - 1)
            }
        }
    }

    /// Removes a file from the sinks, not from the disk.
    pub fn remove_file(&mut self, id: FileId) {
        if let Some(shelf) = self.files.get_mut(id.0) {
            *shelf = None;
        }
    }

    /// A file.
    pub fn file(&mut self, id: FileId) -> Option<&mut LogFile> {
        self.files.get_mut(id.0)?.as_mut().map(|shelf| &mut shelf.file)
    }

    /// All files.
    pub fn all_files(&mut self) -> impl Iterator<Item = (FileId, &mut LogFile)> {
        let files = self.files.iter_mut().enumerate();
        files.filter_map(|(at, shelf)| shelf.as_mut().map(|shelf| (FileId(at), &mut shelf.file)))
    }

    /// What is kept about a process.
    pub fn tally(&mut self, process: ProcessId) -> &mut Tally {
        self.tallies.entry(process).or_default()
    }

    /// Bytes that came since this was last asked.
    pub fn take_moved(&mut self) -> usize {
        std::mem::take(&mut self.moved)
    }

    /// The process is gone for good.
    pub fn forget(&mut self, process: ProcessId) {
        self.tallies.remove(&process);
        self.losses.forget(process);
    }

    /// Whether somebody needs to see the lines of this stream.
    #[must_use]
    pub fn look(&self, outlet: &Outlet) -> bool {
        let shared =
            |id: FileId| self.files.get(id.0).and_then(Option::as_ref).is_some_and(|shelf| shelf.file.writers > 1);
        outlet.journal.is_some()
            || outlet.syslog.is_some()
            || outlet.remember
            || outlet.combined.is_some()
            || outlet.file.is_some_and(|id| outlet.form != Form::Raw || shared(id))
            || self.is_followed(outlet)
    }

    fn is_followed(&self, outlet: &Outlet) -> bool {
        self.followers.values().any(|follower| follower.wants(outlet.app, outlet.owner, outlet.origin()))
    }

    /// Whether a sink asks this stream to wait.
    #[must_use]
    pub fn is_blocked(&self, outlet: &Outlet) -> bool {
        outlet.journal.is_some() && self.journal.is_busy()
    }

    /// Whether its file takes nothing just now.
    #[must_use]
    pub fn is_in_trouble(&self, outlet: &Outlet) -> bool {
        let shelf = outlet.file.and_then(|id| self.files.get(id.0)?.as_ref());
        shelf.is_some_and(|shelf| !shelf.file.is_well())
    }

    /// Moves bytes to where they go without looking at them; `None` when they must be looked at.
    pub fn move_unseen(
        &mut self,
        outlet: &Outlet,
        pipe: impl AsFd,
        limit: usize,
        now: Instant,
    ) -> Option<io::Result<usize>> {
        let moved = match outlet.file {
            None => Some(pipe::discard(pipe, &self.null, limit)),
            Some(id) => self.files.get_mut(id.0)?.as_mut()?.file.move_unseen(pipe, limit, outlet.writer, now),
        };
        if let Some(Ok(bytes)) = &moved {
            self.count(outlet, *bytes);
        }
        moved
    }

    /// How many bytes [`Sinks::peek`] can see.
    #[must_use]
    pub fn peek_limit(&self) -> usize {
        self.scratch_size.min(CHUNK)
    }

    /// What is in the pipe, left there. Empty when the writer ended. The memory is to be given back.
    ///
    /// # Errors
    /// `WouldBlock` when the pipe is empty.
    pub fn peek(&mut self, pipe: impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
        let length = pipe::tee(pipe, &self.scratch.1, limit)?;
        let mut seen = std::mem::take(&mut self.seen);
        seen.resize(length, 0);
        self.scratch.0.read_exact(&mut seen)?;
        Ok(seen)
    }

    /// Gives back what [`Sinks::peek`] lent.
    pub fn give_back(&mut self, seen: Vec<u8>) {
        self.seen = seen;
        self.seen.clear();
    }

    /// Moves what was seen into the file.
    pub fn take(&mut self, outlet: &Outlet, pipe: impl AsFd, seen: &[u8], now: Instant) {
        self.count(outlet, seen.len());
        self.write_file(outlet.file, outlet, now, |file, null| file.take(&pipe, seen, outlet.writer, null, now));
    }

    /// Hands the lines in `bytes` to all that want them; `bytes` were seen at the head of the pipe and leave it.
    pub fn deliver(&mut self, outlet: &Outlet, pipe: impl AsFd, splitter: &mut Splitter, bytes: &[u8], now: Instant) {
        self.count(outlet, bytes.len());
        // Bytes that need no change go from the pipe into the file by themselves.
        let direct = outlet.form == Form::Raw && splitter.is_empty() && bytes.ends_with(b"\n");
        let text = self.hand_out(outlet, direct, now, |each| splitter.feed(bytes, each));
        self.write_file(outlet.combined, outlet, now, |file, _| {
            file.push(if direct { bytes } else { &text }, outlet.writer, now)
        });
        let file = outlet.file.filter(|id| self.files.get(id.0).is_some_and(Option::is_some));
        if direct && file.is_some() {
            self.write_file(file, outlet, now, |file, null| file.take(&pipe, bytes, outlet.writer, null, now));
        } else {
            self.write_file(file, outlet, now, |file, _| file.push(&text, outlet.writer, now));
            let mut left = bytes.len();
            while left > 0 {
                match pipe::discard(&pipe, &self.null, left) {
                    Ok(gone) if gone > 0 => left -= gone,
                    _ => break,
                }
            }
        }
        self.keep_scratch(text);
    }

    /// Hands out the unfinished line that a writer left.
    pub fn finish(&mut self, outlet: &Outlet, splitter: &mut Splitter, now: Instant) {
        if !splitter.is_empty() {
            self.push(outlet, now, |each| splitter.finish(each));
        }
    }

    /// Hands out what there is of a line whose end does not come.
    pub fn split(&mut self, outlet: &Outlet, splitter: &mut Splitter, now: Instant) {
        if !splitter.is_empty() {
            self.push(outlet, now, |each| splitter.split(each));
        }
    }

    /// Hands out lines that have left the pipe before.
    fn push(&mut self, outlet: &Outlet, now: Instant, lines: impl FnOnce(&mut dyn FnMut(Line<'_>))) {
        let text = self.hand_out(outlet, false, now, lines);
        for file in [outlet.file, outlet.combined] {
            self.write_file(file, outlet, now, |file, _| file.push(&text, outlet.writer, now));
        }
        self.keep_scratch(text);
    }

    fn keep_scratch(&mut self, text: Vec<u8>) {
        self.text = text;
        for scratch in [&mut self.text, &mut self.records] {
            scratch.clear();
            scratch.shrink_to(KEEP_SCRATCH);
        }
    }

    /// Gives lines to all sinks but files; returns them as files want them, unless `direct`.
    fn hand_out(
        &mut self,
        outlet: &Outlet,
        direct: bool,
        now: Instant,
        lines: impl FnOnce(&mut dyn FnMut(Line<'_>)),
    ) -> Vec<u8> {
        let (wall, origin) = (Zoned::now(), outlet.origin());
        let timestamp = wall.timestamp().as_millisecond();
        let stamp = outlet.form.stamp(&wall);
        let followed = self.is_followed(outlet);
        let to_files = !direct && (outlet.file.is_some() || outlet.combined.is_some());
        let mut text = std::mem::take(&mut self.text);
        let mut block = outlet.journal.clone().map(|head| Block::new(head, outlet.process, outlet.writer.err));
        let mut messages = outlet.syslog.as_ref().map(|sender| self.syslog.messages(sender, &wall));
        let mut memory = outlet.remember.then(|| &mut self.tallies.entry(outlet.process).or_default().memory);
        let (records, mut count) = (&mut self.records, 0);
        let mut shown = Vec::new();
        lines(&mut |line: Line<'_>| {
            if to_files {
                outlet.form.append(&mut text, &line, &stamp, origin);
            }
            if followed {
                let message = outlet.form.shown(&mut shown, &line, &stamp, origin);
                follow::append_record(records, origin, timestamp, message);
                count += 1;
            }
            if let Some(block) = &mut block {
                block.add(&line);
            }
            if let Some(messages) = &mut messages {
                messages.add(&line);
            }
            if let Some(memory) = &mut memory {
                memory.add(outlet.writer.err, timestamp, &line);
            }
        });
        if count > 0 {
            let batch = Batch { origin, timestamp, records: &self.records, lines: count };
            for follower in
                self.followers.values_mut().filter(|follower| follower.wants(outlet.app, outlet.owner, origin))
            {
                follower.give(&batch);
            }
            self.records.clear();
        }
        if let Some(block) = block {
            self.journal.submit(block, &mut self.losses, now);
        }
        if let Some(messages) = messages {
            self.syslog.submit(messages, &mut self.losses, now);
        }
        text
    }

    fn write_file(
        &mut self,
        id: Option<FileId>,
        outlet: &Outlet,
        now: Instant,
        write: impl FnOnce(&mut LogFile, &File) -> Lost,
    ) {
        let Some(shelf) = id.and_then(|id| self.files.get_mut(id.0)?.as_mut()) else { return };
        let lost = write(&mut shelf.file, &self.null);
        if lost != Lost::default() {
            let reason = shelf.file.error().unwrap_or_default();
            self.losses.add(outlet.process, lost, &reason, now);
        }
        // What it wrote is lost, or waits; if that goes on, somebody should know.
        if lost != Lost::default() || !shelf.file.is_well() {
            if !shelf.victims.contains(&outlet.process) {
                shelf.victims.push(outlet.process);
            }
        } else {
            for process in shelf.victims.drain(..) {
                self.losses.recovered(process, now);
            }
        }
    }

    /// Tries a file a last time; what it does not take is lost, to `process`.
    pub fn abandon_file(&mut self, id: FileId, process: ProcessId, now: Instant) {
        let Some(file) = self.file(id) else { return };
        let lost = file.abandon(now);
        let reason = file.error().unwrap_or_default();
        self.losses.add(process, lost, &reason, now);
    }

    /// Lets go of what waits for the journal and for syslog daemons, and tells all that was lost.
    pub fn abandon_messages(&mut self, now: Instant) {
        self.journal.abandon(&mut self.losses, now);
        self.syslog.abandon(&mut self.losses, now);
        self.losses.tell_rest(now);
    }

    /// Sends on what waits for the journal.
    pub fn pump_journal(&mut self, now: Instant) {
        self.journal.pump(&mut self.losses, now);
    }

    /// Sends on what waits for syslog daemons.
    pub fn pump_syslog(&mut self, now: Instant) {
        self.syslog.pump(&mut self.losses, now);
    }

    /// Does what is due in the files.
    pub fn wake_files(&mut self, now: Instant) {
        for shelf in self.files.iter_mut().flatten() {
            if shelf.file.wakes_at(now).is_some_and(|at| at <= now) {
                shelf.file.wake(now);
                // Tried again, and in vain.
                if let Some(reason) = shelf.file.fault() {
                    shelf.victims.iter().for_each(|process| self.losses.waits(*process, &reason));
                }
            }
            if !shelf.victims.is_empty() && shelf.file.is_well() {
                for process in shelf.victims.drain(..) {
                    self.losses.recovered(process, now);
                }
            }
        }
    }

    fn count(&mut self, outlet: &Outlet, bytes: usize) {
        let tally = self.tallies.entry(outlet.process).or_default();
        tally.bytes = tally.bytes.saturating_add(bytes as u64);
        self.moved = self.moved.saturating_add(bytes);
    }
}
