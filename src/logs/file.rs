//! One log file: appended to by its writers, rotated, and doing without when it cannot be written.
//!
//! Must never lose a line without counting it, and never wait for a disk that is full.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::backlog::{Backlog, whole_lines};
use super::fault::FileError;
use super::loss::Lost;
use super::place::{Open, Place};
use super::rotation::{self, Names, Step};
use super::schedule::Schedule;
use crate::core::{RotateSpec, WorkerId};
use crate::sys::{append, pipe, plain};

/// Before a file that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Between two looks whether somebody moved or removed the file.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Which stream of which worker writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The worker.
    pub worker: WorkerId,
    /// Its standard error rather than its standard output.
    pub err: bool,
}

#[derive(Debug)]
struct Fault {
    error: FileError,
    retry: Instant,
}

/// A log file, shared by all who write into it.
#[derive(Debug)]
pub struct LogFile {
    place: Place,
    rotation: Option<Schedule>,
    open: Option<Open>,
    /// Streams that write into it.
    pub writers: u32,
    last_writer: Option<Writer>,
    /// Whether what was written last ended with a line feed; `None` when nobody looked.
    at_line_start: Option<bool>,
    backlog: Backlog,
    fault: Option<Fault>,
    complaint: Option<FileError>,
    rotated: bool,
}

impl LogFile {
    /// A file that is opened when somebody writes.
    #[must_use]
    pub fn new(place: Place, spec: &RotateSpec) -> LogFile {
        LogFile {
            rotation: Schedule::of(&place.path, spec),
            place,
            open: None,
            writers: 0,
            last_writer: None,
            at_line_start: None,
            backlog: Backlog::default(),
            fault: None,
            complaint: None,
            rotated: false,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Takes on another spec's idea of rotation.
    pub fn reconfigure(&mut self, spec: &RotateSpec) {
        if self.rotation.as_ref().is_none_or(|rotation| rotation.spec() != spec) {
            self.rotation = Schedule::of(&self.place.path, spec);
        }
    }

    /// Names and settings of its rotated files, where it has any.
    #[must_use]
    pub fn kept(&self) -> Option<(&Names, &RotateSpec)> {
        self.rotation.as_ref().map(|rotation| (rotation.names(), rotation.spec()))
    }

    /// Whether it was rotated since this was last asked.
    pub fn take_rotated(&mut self) -> bool {
        std::mem::take(&mut self.rotated)
    }

    /// What is wrong with it.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let error = self.fault.as_ref().map(|fault| &fault.error).or(self.complaint.as_ref());
        error.map(ToString::to_string)
    }

    /// What keeps it from being written.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault.as_ref().map(|fault| fault.error.to_string())
    }

    /// Whether nothing keeps it from being written.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.fault.is_none() && self.backlog.is_empty()
    }

    /// When something is to be done though nobody writes: a new try, a planned rotation.
    #[must_use]
    pub fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let waiting = self.writers > 0 || !self.backlog.is_empty();
        let retry = self.fault.as_ref().filter(|_| waiting).map(|fault| fault.retry);
        let due = self.rotation.as_ref().filter(|_| self.open.is_some()).and_then(Schedule::wait);
        [retry, due.map(|wait| now + wait)].into_iter().flatten().min()
    }

    /// Does what [`LogFile::wakes_at`] announced.
    pub fn wake(&mut self, now: Instant) {
        if self.fault.is_some() {
            self.write_pending(now);
            if self.writers == 0 && self.is_well() {
                self.close();
            }
        }
        let due = self.rotation.as_mut().is_some_and(Schedule::take_due);
        if due && self.open.as_ref().is_some_and(|open| open.size > 0) {
            self.rotate(now);
        }
    }

    /// Somebody is going to write. The file is there from now on, as in PM2: people follow it before its first line.
    pub fn expect_writer(&mut self, now: Instant) {
        self.writers += 1;
        self.ensure_open(now);
    }

    /// Closes it until somebody writes again.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Closes it, so that what is there under its name now is opened instead; at once if somebody writes into it.
    pub fn reopen(&mut self, now: Instant) {
        self.open = None;
        self.fault = None;
        if self.writers > 0 {
            self.ensure_open(now);
            self.write_pending(now);
        }
    }

    /// Tries a last time to write what waits, and lets go of the rest. Tells what was lost.
    pub fn abandon(&mut self, now: Instant) -> Lost {
        if !self.backlog.is_empty() {
            self.reopen(now);
        }
        Lost::all_of(&self.backlog.take())
    }

    /// Empties it.
    ///
    /// # Errors
    /// When its owner may not.
    pub fn empty(&mut self) -> Result<(), FileError> {
        let emptied = match &self.open {
            Some(open) if open.regular => open.file.set_len(0),
            Some(_) => Ok(()),
            None => self.place.with_rights(plain::empty),
        };
        emptied.map_err(|source| FileError::Empty { path: self.place.path.clone(), source })?;
        if let Some(open) = &mut self.open {
            open.size = 0;
        }
        self.at_line_start = Some(true);
        drop(self.backlog.take());
        Ok(())
    }

    /// Moves what is in the pipe into the file unseen, at most `limit` bytes; `None` when that cannot be done now and
    /// the bytes must be looked at.
    pub fn move_unseen(
        &mut self,
        pipe: impl AsFd,
        limit: usize,
        writer: Writer,
        now: Instant,
    ) -> Option<io::Result<usize>> {
        if !self.can_move(writer, now) {
            return None;
        }
        if self
            .rotation
            .as_ref()
            .is_some_and(|rotation| self.size().saturating_add(limit as u64) > rotation.spec().max_size)
        {
            return None;
        }
        match self.move_in(pipe, limit, now) {
            Ok(moved) => {
                self.at_line_start = None;
                Some(Ok(moved))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Err(error)),
            Err(_) => None,
        }
    }

    /// Takes these bytes, which were seen at the head of the pipe, out of it and into the file; one in trouble leaves the
    /// head of a line in the pipe. Tells what was lost.
    pub fn take(&mut self, pipe: impl AsFd, bytes: &[u8], writer: Writer, null: &File, now: Instant) -> Lost {
        let was_well = self.is_well();
        let mut rest = bytes;
        while !rest.is_empty() && self.can_move(writer, now) {
            let length = match self.step(rest, now) {
                Step::Write(length) => length,
                Step::Rotate => {
                    self.rotate(now);
                    continue;
                }
            };
            match self.move_in(&pipe, length, now) {
                Ok(moved) if moved > 0 => {
                    self.at_line_start = Some(rest[moved - 1] == b'\n');
                    rest = &rest[moved..];
                }
                _ => break,
            }
        }
        // What a file in trouble does not take may be dropped, or be lost with the daemon: not the head of a line whose end is
        // still to come, which would be taken for a line by itself. One whose end cannot come there is not left to wait.
        let head_at = if was_well { whole_lines(rest) } else { rest.len() };
        let (lines, head) = rest.split_at(head_at);
        let mut lost = self.push(lines, writer, now);
        let taken = if self.backlog.skips(writer) {
            lost.add(self.push(head, writer, now));
            head.len()
        } else {
            self.push_head(head, writer, now)
        };
        let mut left = lines.len() + taken;
        while left > 0 {
            match pipe::discard(&pipe, null, left) {
                Ok(gone) if gone > 0 => left -= gone,
                _ => break,
            }
        }
        lost
    }

    /// Appends bytes. Tells what was lost.
    pub fn push(&mut self, mut bytes: &[u8], writer: Writer, now: Instant) -> Lost {
        let mut lost = Lost::default();
        let skipped = self.backlog.skip(bytes, writer);
        lost.bytes += skipped as u64;
        bytes = &bytes[skipped..];
        if bytes.is_empty() {
            return lost;
        }
        if self.ensure_open(now) {
            if !self.is_well() {
                self.write_pending(now);
            }
            if self.is_well() {
                self.separate(writer);
            }
        }
        while !bytes.is_empty() && self.is_well() && self.open.is_some() {
            match self.step(bytes, now) {
                Step::Rotate => self.rotate(now),
                Step::Write(length) => {
                    let written = self.append(&bytes[..length], now);
                    bytes = &bytes[written..];
                }
            }
        }
        if !bytes.is_empty() {
            lost.add(self.put_off(bytes, writer));
        }
        lost
    }

    /// Appends as much of the head of a line as the file takes now; tells how much that was.
    fn push_head(&mut self, head: &[u8], writer: Writer, now: Instant) -> usize {
        if head.is_empty() || !self.is_well() || !self.ensure_open(now) {
            return 0;
        }
        self.separate(writer);
        match self.step(head, now) {
            Step::Write(length) => self.append(&head[..length], now),
            Step::Rotate => {
                self.rotate(now);
                0
            }
        }
    }

    /// Keeps what the file does not take now, as far as there is room.
    fn put_off(&mut self, bytes: &[u8], writer: Writer) -> Lost {
        let goes_on = self.last_writer.is_none_or(|last| last == writer);
        let ends_line = self.ends_line();
        let lost = self.backlog.add(bytes, writer, goes_on, ends_line);
        if lost.bytes < bytes.len() as u64 {
            self.last_writer = Some(writer);
        }
        lost
    }

    fn write_pending(&mut self, now: Instant) {
        if self.fault.as_ref().is_some_and(|fault| fault.retry > now) || !self.ensure_open(now) {
            return;
        }
        let pending = self.backlog.take();
        let mut rest = pending.as_slice();
        while !rest.is_empty() {
            match self.step(rest, now) {
                Step::Rotate => self.rotate(now),
                Step::Write(length) => match self.append(&rest[..length], now) {
                    0 => break,
                    written => rest = &rest[written..],
                },
            }
        }
        if rest.is_empty() {
            self.fault = None;
        } else {
            self.backlog.put_back(rest);
        }
    }

    fn size(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.size)
    }

    /// What becomes of these bytes, the file being open.
    fn step(&mut self, bytes: &[u8], now: Instant) -> Step {
        let regular = self.open.as_ref().is_some_and(|open| open.regular);
        let max = self.rotation.as_ref().filter(|_| regular).and_then(|rotation| rotation.max_size(now));
        let Some(max) = max else { return Step::Write(bytes.len()) };
        if self.size().saturating_add(bytes.len() as u64) <= max {
            return Step::Write(bytes.len());
        }
        let at_line_start = self.ends_line();
        rotation::step(bytes, self.size(), max, at_line_start)
    }

    /// Whether the file ends with a whole line, or nothing tells that it does not.
    fn ends_line(&mut self) -> bool {
        if let Some(known) = self.at_line_start {
            return known;
        }
        let ends = match &self.open {
            Some(open) if open.regular && open.size > 0 => {
                append::last_byte(&open.file).is_none_or(|byte| byte == b'\n')
            }
            _ => true,
        };
        self.at_line_start = Some(ends);
        ends
    }

    /// Who has written the head of a line into it and not yet the rest, if that is somebody else.
    pub fn is_within_line_of(&mut self, writer: Writer) -> Option<Writer> {
        let last = self.last_writer.filter(|last| *last != writer)?;
        (!self.ends_line()).then_some(last)
    }

    /// Ends a line that another writer left unfinished.
    fn separate(&mut self, writer: Writer) {
        if self.last_writer == Some(writer) {
            return;
        }
        // A file just opened may end within a line of this very writer, who wrote it to the daemon before this one.
        if self.last_writer.is_some() && !self.ends_line() {
            if let Some(open) = &mut self.open
                && append::append(&open.file, b"\n").is_ok()
            {
                open.size += 1;
            }
            self.at_line_start = Some(true);
        }
        self.last_writer = Some(writer);
    }

    fn can_move(&mut self, writer: Writer, now: Instant) -> bool {
        if !self.is_well() || self.backlog.is_skipping() || !self.ensure_open(now) {
            return false;
        }
        self.separate(writer);
        self.open.as_ref().is_some_and(|open| open.regular && open.movable)
    }

    fn move_in(&mut self, pipe: impl AsFd, limit: usize, now: Instant) -> io::Result<usize> {
        let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotFound.into()) };
        let size = open.file.metadata()?.size();
        if size > open.size {
            // Somebody else appends, too.
            open.movable = false;
            open.size = size;
            return Err(io::ErrorKind::Unsupported.into());
        }
        open.size = size;
        match pipe::move_to_file(pipe, &open.file, size, limit) {
            Ok(moved) => {
                open.size += moved as u64;
                Ok(moved)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                open.movable = false;
                Err(error)
            }
            Err(error) => {
                let kind = error.kind();
                self.fail_writing(error, now);
                Err(kind.into())
            }
        }
    }

    /// Appends what the file takes; tells how much that was. Less than all is a fault.
    fn append(&mut self, bytes: &[u8], now: Instant) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            let Some(open) = &mut self.open else { break };
            match append::append(&open.file, &bytes[written..]) {
                Ok(0) => {
                    self.fail_writing(io::ErrorKind::WriteZero.into(), now);
                    break;
                }
                Ok(n) => {
                    open.size = open.size.saturating_add(n as u64);
                    written += n;
                }
                Err(error) => {
                    self.fail_writing(error, now);
                    break;
                }
            }
        }
        if written > 0 {
            self.at_line_start = Some(bytes[written - 1] == b'\n');
        }
        written
    }

    fn fail_writing(&mut self, source: io::Error, now: Instant) {
        let error = FileError::Write { path: self.place.path.clone(), source };
        self.fault = Some(Fault { error, retry: now + RETRY });
    }

    fn ensure_open(&mut self, now: Instant) -> bool {
        if let Some(open) = &mut self.open {
            if now.duration_since(open.looked) < LOOK_AFTER || !open.regular {
                return true;
            }
            open.looked = now;
            if !open.has_moved(&self.place.path) {
                return true;
            }
            self.open = None;
        }
        if self.fault.as_ref().is_some_and(|fault| fault.retry > now) {
            return false;
        }
        match self.place.open(now) {
            Ok(open) => {
                self.at_line_start = if open.size == 0 { Some(true) } else { None };
                self.open = Some(open);
                if self.backlog.is_empty() {
                    self.fault = None;
                }
                true
            }
            Err(source) => {
                let error = FileError::Open { path: self.place.path.clone(), source };
                self.fault = Some(Fault { error, retry: now + RETRY });
                false
            }
        }
    }

    /// Gives the file the name of a rotated one and goes on in a new one. When that cannot be done it just grows.
    fn rotate(&mut self, now: Instant) {
        let Some(rotation) = &mut self.rotation else { return };
        let rotated = self.place.rotate(rotation.names(), self.open.as_ref());
        match rotated.and_then(|()| self.place.open(now)) {
            Ok(open) => {
                self.at_line_start = if open.size == 0 { Some(true) } else { None };
                self.open = Some(open);
                self.complaint = None;
                self.rotated = true;
            }
            Err(source) => {
                rotation.failed(now);
                self.complaint = Some(FileError::Rotate { path: self.place.path.clone(), source });
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::sys::identity::Identity;

    fn file(path: &str) -> LogFile {
        let place = Place { path: path.into(), owner: Identity::own().unwrap(), ours: false };
        LogFile::new(place, &RotateSpec::default())
    }

    fn writer(worker: u32) -> Writer {
        Writer { worker: WorkerId(worker), err: false }
    }

    /// What a file, which was well so far, leaves in the pipe of what is in it.
    fn left(path: &str, text: &[u8]) -> Vec<u8> {
        let (reader, app) = pipe::new().unwrap();
        let (mut reader, mut app) = (File::from(reader), File::from(app));
        app.write_all(text).unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        file(path).take(&reader, text, writer(1), &null, Instant::now());
        drop(app);
        let mut left = Vec::new();
        reader.read_to_end(&mut left).unwrap();
        left
    }

    #[test]
    fn the_head_of_a_line_that_a_file_does_not_take_stays_in_the_pipe() {
        assert_eq!(left("/dev/full", b"hea"), b"hea");
        assert_eq!(left("/dev/full", b"line\nhea"), b"hea");
        assert_eq!(left("/dev/null", b"line\nhea"), b"");
    }

    #[test]
    fn writers_of_one_file_do_not_go_on_with_each_other_s_lines_while_these_wait() {
        let (mut file, now) = (file("/dev/full"), Instant::now());
        for (worker, text) in [(1, "hea"), (2, "line\n"), (2, "a "), (2, "b\n"), (1, "d\n")] {
            assert_eq!(file.push(text.as_bytes(), writer(worker), now), Lost::default());
        }
        assert_eq!(String::from_utf8(file.backlog.take()).unwrap(), "hea\nline\na b\nd\n");
    }
}
