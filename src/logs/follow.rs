//! Those who look on: each has a pipe into which lines go as JSON objects.
//!
//! Must never wait for one of them: what a follower does not read in time is left out for it alone, and it is told how
//! much that was.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;

use super::format::Origin;
use crate::core::{AppId, ProcessId, Uid};
use crate::sys::pipe;

/// Bytes that wait for a follower besides those in its pipe.
const MAX_WAITING: usize = 256 << 10;

/// Followers of one user.
const MAX_FOLLOWERS: usize = 256;
/// Beyond so many bytes that wait for all followers of a user, last lines that would wait as well are refused.
const MAX_LAST_LINES: usize = 48 << 20;

/// A line as followers get it.
#[derive(Debug, Serialize)]
struct Record<'a> {
    process_id: u32,
    app_name: &'a str,
    #[serde(rename = "type")]
    stream: &'a str,
    /// Milliseconds since the epoch; 0 for a line that comes from a file which does not tell.
    timestamp: i64,
    message: &'a str,
    /// Lines left out before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
}

/// Appends a line as followers get it, line feed included.
pub fn append_record(to: &mut Vec<u8>, origin: Origin<'_>, timestamp: i64, text: &[u8]) {
    append(to, origin, timestamp, &String::from_utf8_lossy(text), None);
}

fn append(to: &mut Vec<u8>, origin: Origin<'_>, timestamp: i64, message: &str, missed: Option<u64>) {
    let record = Record {
        process_id: origin.process.0,
        app_name: origin.app_name,
        stream: origin.stream(),
        timestamp,
        message,
        missed,
    };
    // Writing strings and numbers into memory cannot fail.
    drop(serde_json::to_writer(&mut *to, &record));
    to.push(b'\n');
}

/// Whose lines a follower wants.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// These processes.
    pub processes: BTreeSet<ProcessId>,
    /// And all there will be of these apps.
    pub apps: BTreeSet<AppId>,
    /// And all that there will be of what this user started, or everybody.
    pub all: Option<Option<Uid>>,
    /// Standard output.
    pub out: bool,
    /// Standard error.
    pub err: bool,
}

impl Wanted {
    fn stream(&self, err: bool) -> bool {
        if err { self.err } else { self.out }
    }

    fn process(&self, app: AppId, owner: Uid, process: ProcessId) -> bool {
        self.apps.contains(&app)
            || self.processes.contains(&process)
            || self.all.is_some_and(|of| of.is_none_or(|of| of == owner))
    }
}

/// Lines of one stream, ready for followers.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Their process and stream.
    pub origin: Origin<'a>,
    /// When they came, milliseconds since the epoch.
    pub timestamp: i64,
    /// The records, a line feed after each.
    pub records: &'a [u8],
    /// How many they are.
    pub lines: u64,
}

#[derive(Debug)]
struct Missed {
    lines: u64,
    timestamp: i64,
    process: ProcessId,
    app_name: String,
    err: bool,
}

/// One who looks on.
#[derive(Debug)]
pub struct Follower {
    /// The user who reads.
    reader: Uid,
    pipe: File,
    wanted: Wanted,
    waiting: Vec<u8>,
    /// Of `waiting`, what is in the pipe already.
    sent: usize,
    missed: Option<Missed>,
    /// Its pipe had no room when it was last tried.
    full: bool,
}

impl Follower {
    /// A follower who first gets `waiting`. Also the read end for it.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(reader: Uid, wanted: Wanted, waiting: Vec<u8>) -> io::Result<(Follower, OwnedFd)> {
        let (end, writer) = pipe::with_nonblocking_writer()?;
        let follower = Follower { reader, pipe: writer.into(), wanted, waiting, sent: 0, missed: None, full: false };
        Ok((follower, end))
    }

    /// Whether this user may have one more besides these, who first gets last lines or not.
    ///
    /// # Errors
    /// Says what there is too much of: nobody's unread lines are to fill the memory that everybody's supervisor needs.
    pub fn admit<'f>(reader: Uid, last: bool, all: impl Iterator<Item = &'f Follower>) -> io::Result<()> {
        let (mut count, mut bytes) = (0, 0);
        for follower in all.filter(|follower| follower.reader == reader) {
            count += 1;
            bytes += follower.waiting.len() - follower.sent;
        }
        if count >= MAX_FOLLOWERS {
            return Err(io::Error::other(format!("this user follows logs {count} times already")));
        }
        if last && bytes > MAX_LAST_LINES {
            let waits = bytes >> 20;
            return Err(io::Error::other(format!(
                "{waits} MiB wait for others who follow as this user and do not read"
            )));
        }
        Ok(())
    }

    /// The write end of its pipe.
    #[must_use]
    pub fn pipe(&self) -> impl AsFd + '_ {
        &self.pipe
    }

    /// Whether it wants lines of this stream.
    #[must_use]
    pub fn wants(&self, app: AppId, owner: Uid, origin: Origin<'_>) -> bool {
        self.wanted.stream(origin.err) && self.wanted.process(app, owner, origin.process)
    }

    /// Gives it these lines, or lets it miss them.
    pub fn give(&mut self, batch: &Batch<'_>) {
        if self.waiting.len() - self.sent > MAX_WAITING || self.missed.is_some() {
            let missed = self.missed.get_or_insert_with(|| Missed {
                lines: 0,
                timestamp: 0,
                process: batch.origin.process,
                app_name: batch.origin.app_name.to_owned(),
                err: batch.origin.err,
            });
            missed.lines = missed.lines.saturating_add(batch.lines);
            missed.timestamp = batch.timestamp;
            return;
        }
        self.compact();
        self.waiting.extend_from_slice(batch.records);
    }

    fn compact(&mut self) {
        if self.sent == self.waiting.len() {
            self.waiting.clear();
            self.sent = 0;
            // One burst is not to keep its memory for as long as the follower looks on.
            self.waiting.shrink_to(64 << 10);
        } else if self.sent > MAX_WAITING / 2 {
            self.waiting.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// There is room in its pipe again.
    pub fn room(&mut self) {
        self.full = false;
    }

    /// Puts what waits into the pipe, as far as there is room. False when the follower is gone.
    pub fn pump(&mut self) -> bool {
        if self.full {
            return true;
        }
        loop {
            while self.sent < self.waiting.len() {
                match self.pipe.write(&self.waiting[self.sent..]) {
                    Ok(written) => self.sent += written,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                    Err(error) => {
                        self.full = error.kind() == io::ErrorKind::WouldBlock;
                        return self.full;
                    }
                }
            }
            self.compact();
            let Some(missed) = self.missed.take() else { return true };
            let origin = Origin { process: missed.process, app_name: &missed.app_name, err: missed.err };
            let lines = missed.lines;
            let message = format!("[{lines} {} left out: read too slowly]", if lines == 1 { "line" } else { "lines" });
            append(&mut self.waiting, origin, missed.timestamp, &message, Some(lines));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn everything() -> Wanted {
        Wanted { out: true, err: true, ..Wanted::default() }
    }

    const ORIGIN: Origin<'_> = Origin { process: ProcessId(1), app_name: "api", err: false };

    #[test]
    fn a_slow_follower_is_told_how_much_it_missed() {
        let (mut follower, reader) = Follower::new(Uid(0), everything(), Vec::new()).unwrap();
        let mut given = 0;
        for n in 0..20_000u64 {
            let mut records = Vec::new();
            append_record(&mut records, ORIGIN, 5, format!("line {n}").as_bytes());
            follower.give(&Batch { origin: ORIGIN, timestamp: 5, records: &records, lines: 1 });
            assert!(follower.pump());
            given += 1;
        }
        assert!(follower.waiting.len() <= MAX_WAITING * 2);
        let told = std::thread::spawn(move || {
            let mut seen = 0u64;
            for line in BufReader::new(File::from(reader)).lines() {
                let record: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                match record.get("missed") {
                    Some(missed) => return (seen, missed.as_u64().unwrap()),
                    None => assert_eq!(record["message"], format!("line {seen}")),
                }
                seen += 1;
            }
            (seen, 0)
        });
        while follower.missed.is_some() || follower.sent < follower.waiting.len() {
            follower.room();
            assert!(follower.pump());
            std::thread::yield_now();
        }
        drop(follower);
        let (seen, missed) = told.join().unwrap();
        assert!(missed > 0);
        assert_eq!(seen + missed, given);
    }

    #[test]
    fn a_follower_that_left_is_noticed() {
        let (mut follower, reader) = Follower::new(Uid(0), everything(), b"x\n".to_vec()).unwrap();
        assert!(follower.pump());
        drop(reader);
        crate::sys::settled(|| {
            follower.give(&Batch { origin: ORIGIN, timestamp: 0, records: b"y\n", lines: 1 });
            !follower.pump()
        });
    }

    #[test]
    fn one_user_has_only_so_many_followers_and_lines_that_wait() {
        let (mallory, alice) = (Uid(1000), Uid(1001));
        let few = |count: usize, waiting: usize| -> Vec<(Follower, OwnedFd)> {
            (0..count).map(|_| Follower::new(mallory, everything(), vec![b'x'; waiting]).unwrap()).collect()
        };
        let admit = |who, last, all: &[(Follower, OwnedFd)]| Follower::admit(who, last, all.iter().map(|(f, _)| f));
        let many = few(MAX_FOLLOWERS, 0);
        assert!(admit(mallory, false, &many[1..]).is_ok());
        assert_eq!(admit(mallory, false, &many).unwrap_err().to_string(), "this user follows logs 256 times already");
        assert!(admit(alice, true, &many).is_ok());
        let full = few(4, 16 << 20);
        assert!(admit(mallory, true, &full[1..]).is_ok());
        let refused = admit(mallory, true, &full).unwrap_err().to_string();
        assert_eq!(refused, "64 MiB wait for others who follow as this user and do not read");
        assert!(admit(mallory, false, &full).is_ok() && admit(alice, true, &full).is_ok());
    }

    #[test]
    fn who_is_wanted() {
        let some = Wanted { processes: [ProcessId(1)].into(), apps: [AppId(7)].into(), out: true, ..Wanted::default() };
        let (follower, _reader) = Follower::new(Uid(0), some, Vec::new()).unwrap();
        let (root, alice, other) = (Uid(0), Uid(1000), Origin { process: ProcessId(2), ..ORIGIN });
        assert!(follower.wants(AppId(1), root, ORIGIN));
        assert!(!follower.wants(AppId(1), root, Origin { err: true, ..ORIGIN }));
        assert!(!follower.wants(AppId(1), root, other));
        assert!(follower.wants(AppId(7), root, other));
        let (hers, _reader) =
            Follower::new(Uid(0), Wanted { all: Some(Some(alice)), ..everything() }, Vec::new()).unwrap();
        assert!(hers.wants(AppId(1), alice, other) && !hers.wants(AppId(1), root, other));
        let (all, _reader) = Follower::new(Uid(0), Wanted { all: Some(None), ..everything() }, Vec::new()).unwrap();
        assert!(all.wants(AppId(1), alice, other) && all.wants(AppId(1), root, other));
    }
}
