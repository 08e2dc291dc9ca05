//! What was written before: the last lines of log files, rotated ones included, and of the journal.
//!
//! Searched in a thread of its own for each request, so that the log path never waits for it. Must never hold more than
//! what is asked for, and ends early when nobody reads.

mod clock;
mod journal;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use regex::bytes::Regex;

pub use self::clock::Clock;
use super::dayjs;
use super::follow::append_record;
use super::format::{Form, Origin};
use super::place::Place;
use super::rotation::{self, Kept, Names};
use super::tail::{self, Remembered};
use crate::core::{ProcessId, Uid};
use crate::sys::{pipe, plain};

/// Bytes that one file or process can contribute.
const MAX_BYTES: usize = 16 << 20;
/// Longest line that is read in one piece.
const MAX_LINE: u64 = 1 << 20;
/// Searches of one user at a time, so that nobody keeps others from searching.
const MAX_SEARCHES: usize = 8;
/// Lines between two looks whether somebody still reads.
const LOOK_EVERY: usize = 4096;
/// A reader that takes nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which lines are wanted.
#[derive(Debug, Clone)]
pub struct Search {
    /// So many last ones of each file, or of each process where the journal has them.
    pub lines: u32,
    /// Standard output wanted.
    pub out: bool,
    /// Standard error wanted.
    pub err: bool,
    /// Only those written since then, milliseconds since the epoch.
    pub since: Option<i64>,
    /// Only those written until then.
    pub until: Option<i64>,
    /// Only those in which this is found.
    pub pattern: Option<Regex>,
}

impl Search {
    /// The last lines of both streams.
    #[must_use]
    pub fn last(lines: u32) -> Search {
        Search { lines, out: true, err: true, since: None, until: None, pattern: None }
    }

    fn is_timed(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    fn wants_all(&self) -> bool {
        !self.is_timed() && self.pattern.is_none()
    }

    fn wants(&self, timestamp: i64, text: &[u8]) -> bool {
        self.since.is_none_or(|since| since <= timestamp)
            && self.until.is_none_or(|until| timestamp <= until)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
    }

    fn count(&self) -> usize {
        usize::try_from(self.lines).unwrap_or(usize::MAX)
    }
}

/// A log file and what its rotated ones are called.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// Standard error's.
    pub err: bool,
    /// Where it is.
    pub place: Place,
    /// Names of its rotated files.
    pub names: Option<Names>,
}

/// Where the lines of one process are.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Whose.
    pub process: ProcessId,
    /// Its app's name.
    pub app_name: String,
    /// The user it runs as.
    pub uid: u32,
    /// How lines are written into its files.
    pub form: Form,
    /// Its files.
    pub shelves: Vec<Shelf>,
    /// Whether its files are those of another archive, which tells what is in them.
    pub shared: bool,
    /// Whether the journal has its lines.
    pub journal: bool,
    /// Its last lines, if they are in no file.
    pub memory: Vec<Remembered>,
}

/// What is found, on its way to whoever asked.
struct Out {
    pipe: File,
}

impl Out {
    /// False when nobody reads any more.
    fn write(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.pipe.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !pipe::wait_for_room(&self.pipe, PATIENCE) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }

    fn is_read(&self) -> bool {
        !pipe::is_abandoned(&self.pipe)
    }
}

/// The newest lines found so far, within bounds.
#[derive(Debug, Default)]
struct Found {
    lines: VecDeque<(i64, Vec<u8>)>,
    bytes: usize,
}

impl Found {
    fn push(&mut self, timestamp: i64, text: Vec<u8>, most: usize) {
        self.bytes += text.len();
        self.lines.push_back((timestamp, text));
        while self.lines.len() > most || self.bytes > MAX_BYTES {
            let Some((_, oldest)) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// Puts older lines before those that are there.
    fn prepend(&mut self, older: Found, most: usize) {
        for (timestamp, text) in older.lines.into_iter().rev() {
            if self.lines.len() >= most || self.bytes + text.len() > MAX_BYTES {
                break;
            }
            self.bytes += text.len();
            self.lines.push_front((timestamp, text));
        }
    }
}

/// How many each user has under way.
static SEARCHES: Mutex<BTreeMap<Uid, usize>> = Mutex::new(BTreeMap::new());

/// Held while a search is under way.
#[derive(Debug)]
struct Permit(Uid);

impl Permit {
    fn take(reader: Uid) -> io::Result<Permit> {
        let mut searches = searches();
        let count = searches.entry(reader).or_default();
        if *count >= MAX_SEARCHES {
            return Err(io::Error::other(format!("this user searches the logs {count} times just now")));
        }
        *count += 1;
        Ok(Permit(reader))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut searches = searches();
        if let Some(count) = searches.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                searches.remove(&self.0);
            }
        }
    }
}

fn searches() -> MutexGuard<'static, BTreeMap<Uid, usize>> {
    SEARCHES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a search; what it finds comes out of the pipe as [`super::Logs::follow`] has it, the file that was written to
/// longest ago first.
///
/// # Errors
/// When there are no descriptors or threads left, when this user has too many under way, or when a file does not tell when its
/// lines were written and that is asked.
pub fn search(reader: Uid, mut archives: Vec<Archive>, search: Search) -> io::Result<OwnedFd> {
    for archive in archives.iter_mut().filter(|archive| search.is_timed() && !archive.tells_time()) {
        if !archive.journal {
            let name = &archive.app_name;
            return Err(io::Error::other(format!(
                "the log files of `{name}` do not tell when a line was written: set `time`, or `log_type: json`, or log to the journal"
            )));
        }
        archive.shelves.clear();
        archive.shared = false;
    }
    archives.retain(|archive| !archive.shared || !archive.shelves.is_empty());
    let permit = Permit::take(reader)?;
    let (end, writer) = pipe::with_nonblocking_writer()?;
    let out = Out { pipe: writer.into() };
    std::thread::Builder::new().name("logs-search".to_owned()).spawn(move || {
        let _permit = permit;
        run(&archives, &search, out);
    })?;
    Ok(end)
}

fn run(archives: &[Archive], search: &Search, mut out: Out) {
    let mut sources = Vec::new();
    for archive in archives {
        if archive.shelves.is_empty() {
            sources.push((archive.newest(), archive, None));
        }
        for shelf in archive.shelves.iter().filter(|shelf| if shelf.err { search.err } else { search.out }) {
            let modified = shelf.place.with_rights(|path| std::fs::metadata(path)?.modified());
            sources.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), archive, Some(shelf)));
        }
    }
    sources.sort_by_key(|(modified, ..)| *modified);
    for (_, archive, shelf) in sources {
        let mut records = Vec::new();
        let origin = |err| Origin { process: archive.process, app_name: &archive.app_name, err };
        match shelf {
            Some(shelf) => {
                let found = archive.in_files(shelf, search, &out);
                found.lines.iter().for_each(|(at, text)| append_record(&mut records, origin(shelf.err), *at, text));
            }
            None => {
                let mut lines = if archive.journal { journal::search(archive, search, &out) } else { Vec::new() };
                if lines.is_empty() {
                    lines = archive.in_memory(search);
                }
                lines.iter().for_each(|line| append_record(&mut records, origin(line.err), line.timestamp, &line.text));
            }
        }
        if !out.write(&records) {
            return;
        }
    }
}

impl Archive {
    fn tells_time(&self) -> bool {
        match &self.form {
            Form::Raw => self.shelves.is_empty() && !self.shared,
            Form::Timed(format) | Form::Json(Some(format)) => dayjs::Reader::of(format).is_some(),
            Form::Json(None) => true,
        }
    }

    fn newest(&self) -> SystemTime {
        let newest = self.memory.last().and_then(|line| Timestamp::from_millisecond(line.timestamp).ok());
        newest.map_or(SystemTime::UNIX_EPOCH, SystemTime::from)
    }

    fn in_memory(&self, search: &Search) -> Vec<Remembered> {
        let wanted = self.memory.iter().rev().filter(|line| {
            (if line.err { search.err } else { search.out }) && search.wants(line.timestamp, &line.text)
        });
        let mut lines: Vec<Remembered> = wanted.take(search.count()).cloned().collect();
        lines.reverse();
        lines
    }

    /// The last lines that are wanted, from the newest file back to the oldest, until there are enough.
    fn in_files(&self, shelf: &Shelf, search: &Search, out: &Out) -> Found {
        let mut found = Found::default();
        let mut files = vec![(shelf.place.path.clone(), false)];
        let mut rotated = match &shelf.names {
            Some(names) => shelf.place.with_rights(|path| list(path, names)).unwrap_or_default(),
            None => Vec::new(),
        };
        rotation::newest_first(&mut rotated);
        files.extend(rotated.into_iter().map(|kept| (kept.path, kept.rotated.compressed)));
        for (path, compressed) in files {
            let most = search.count().saturating_sub(found.lines.len());
            if most == 0 || !out.is_read() {
                break;
            }
            let place = Place { path, ..shelf.place.clone() };
            // A file that was removed or rotated on meanwhile has nothing to give.
            let Ok(older) = self.in_file(&place, compressed, search, most, out) else { continue };
            found.prepend(older, search.count());
        }
        found
    }

    fn in_file(&self, place: &Place, compressed: bool, search: &Search, most: usize, out: &Out) -> io::Result<Found> {
        let mut found = Found::default();
        let mut clock = Clock::of(&self.form);
        if !compressed && search.wants_all() {
            for line in tail::of_file(place, most, 0)?.1 {
                let (timestamp, text) = clock.read(&line);
                found.push(timestamp, text, most);
            }
            return Ok(found);
        }
        let file = place.with_rights(plain::open)?;
        let mut reader: Box<dyn BufRead> = if compressed {
            Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(file))))
        } else {
            Box::new(BufReader::with_capacity(64 << 10, file))
        };
        let mut line = Vec::new();
        for n in 1usize.. {
            line.clear();
            if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let (timestamp, text) = clock.read(line.strip_suffix(b"\n").unwrap_or(&line));
            if search.wants(timestamp, &text) {
                found.push(timestamp, text, most);
            }
            if n.is_multiple_of(LOOK_EVERY) && !out.is_read() {
                break;
            }
        }
        Ok(found)
    }
}

/// The rotated files beside this one.
fn list(path: &std::path::Path, names: &Names) -> io::Result<Vec<Kept>> {
    let (mut files, names) = (Vec::new(), names.recognizer());
    for entry in std::fs::read_dir(path.parent().unwrap_or(std::path::Path::new("/")))? {
        let entry = entry?;
        let Some(rotated) = names.parse(&entry.file_name()) else { continue };
        let Ok(meta) = entry.metadata() else { continue };
        files.push(Kept { path: entry.path(), size: meta.len(), modified: meta.modified()?, rotated });
    }
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::identity::Identity;

    /// The messages that a search in these files finds.
    fn found(form: Form, files: &[(&str, &[u8])], search: Search) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (n, (name, content)) in files.iter().enumerate() {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(n as u64 * 100);
            File::options().append(true).open(path).unwrap().set_modified(written).unwrap();
        }
        let path = dir.path().join("api.log");
        let names = Some(Names::of(&path, ""));
        let place = Place { path, owner: Identity::own().unwrap(), ours: false };
        let shelves = vec![Shelf { err: false, place, names }];
        let archive = Archive { form, shelves, ..archive(0) };
        let mut text = String::new();
        File::from(super::search(Uid(0), vec![archive], search).unwrap()).read_to_string(&mut text).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        records.map(|record| record["message"].as_str().unwrap().to_owned()).collect()
    }

    fn archive(id: u32) -> Archive {
        Archive {
            process: ProcessId(id),
            app_name: "api".to_owned(),
            uid: 0,
            form: Form::Raw,
            shelves: Vec::new(),
            shared: false,
            journal: false,
            memory: Vec::new(),
        }
    }

    fn compressed(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn rotated_files_are_searched_back_to_the_oldest() {
        let oldest = compressed(b"1 a\n2 b\n3 a\n");
        let files: [(&str, &[u8]); 4] = [
            ("api__2026-11-20_00-00-00.log.gz", &oldest),
            ("api__2026-11-21_00-00-00.log", b"4 b\n5 a\n"),
            ("api__other.log", b"not one of ours: a\n"),
            ("api.log", b"6 b\n7 a"),
        ];
        assert_eq!(found(Form::Raw, &files, Search::last(3)), ["5 a", "6 b", "7 a"]);
        assert_eq!(found(Form::Raw, &files, Search::last(6)), ["2 b", "3 a", "4 b", "5 a", "6 b", "7 a"]);
        let search = |lines| Search { pattern: Some(Regex::new("a$").unwrap()), ..Search::last(lines) };
        assert_eq!(found(Form::Raw, &files, search(3)), ["3 a", "5 a", "7 a"]);
        assert_eq!(found(Form::Raw, &files, search(100)), ["1 a", "3 a", "5 a", "7 a"]);
        assert_eq!(found(Form::Raw, &files, search(0)), [""; 0]);
    }

    #[test]
    fn times_are_those_that_the_file_shows() {
        let text = b"2026-11-21T01:00:00Z: one\n2026-11-21T02:00:00Z: two\n  at two\n2026-11-21T03:00:00Z: three\n";
        let form = || Form::Timed("YYYY-MM-DDTHH:mm:ssZ".to_owned());
        let text = String::from_utf8(text.to_vec()).unwrap().replace("Z:", "+00:00:");
        let files = [("api.log", text.as_bytes())];
        let at =
            |hour: &str| format!("2026-11-21T{hour}:00:00Z").parse::<Timestamp>().map(Timestamp::as_millisecond).ok();
        let search = Search { since: at("02"), until: at("02"), ..Search::last(9) };
        assert_eq!(found(form(), &files, search), ["2026-11-21T02:00:00+00:00: two", "  at two"]);
        let since = Search { since: at("03"), ..Search::last(9) };
        assert_eq!(found(form(), &files, since), ["2026-11-21T03:00:00+00:00: three"]);
    }

    #[test]
    fn what_is_in_a_shared_file_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.log");
        std::fs::write(&path, "of both\n").unwrap();
        let place = Place { path, owner: Identity::own().unwrap(), ours: false };
        let told = |search: Search| {
            let first = Archive {
                shelves: vec![Shelf { err: false, place: place.clone(), names: None }],
                journal: true,
                ..archive(0)
            };
            // What is remembered stands for what the journal has.
            let again = vec![Remembered { err: false, timestamp: 5, text: (*b"of the second").into() }];
            let second = Archive { shared: true, journal: true, memory: again, ..archive(1) };
            let mut text = String::new();
            let pipe = super::search(Uid(70_002), vec![first, second], search).unwrap();
            File::from(pipe).read_to_string(&mut text).unwrap();
            let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            records.map(|record| record["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(told(Search::last(9)), ["of both"]);
        // When it was written, the file does not tell, but the journal.
        assert_eq!(told(Search { since: Some(5), ..Search::last(9) }), ["of the second"]);
    }

    #[test]
    fn nobody_keeps_others_from_searching() {
        // Numbers that no other test has.
        let (mallory, alice) = (Uid(70_000), Uid(70_001));
        let all: Vec<Permit> = (0..MAX_SEARCHES).map(|_| Permit::take(mallory).unwrap()).collect();
        assert_eq!(Permit::take(mallory).unwrap_err().to_string(), "this user searches the logs 8 times just now");
        assert!(Permit::take(alice).is_ok());
        drop(all);
        assert!(Permit::take(mallory).is_ok());
        assert!(!searches().contains_key(&mallory));
    }

    #[test]
    fn a_file_that_tells_no_time_is_not_searched_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { path: dir.path().join("api.log"), owner: Identity::own().unwrap(), ours: false };
        let archive = Archive { shelves: vec![Shelf { err: false, place, names: None }], ..archive(0) };
        let refused = search(Uid(0), vec![archive], Search { since: Some(0), ..Search::last(1) }).unwrap_err();
        assert!(refused.to_string().starts_with("the log files of `api` do not tell when"), "{refused}");
    }
}
