//! The last lines of several processes, as a follower gets them first.

use std::time::SystemTime;

use jiff::Timestamp;

use super::follow::append_record;
use super::format::{Form, Origin};
use super::history::Clock;
use super::place::Place;
use super::tail::{self, Memory};

/// Bytes that one follower may get this way.
const MAX_BYTES: usize = 16 << 20;

/// Collects them file by file.
#[derive(Debug)]
pub struct LastLines {
    wanted: usize,
    bytes: usize,
    groups: Vec<(SystemTime, Vec<u8>)>,
}

impl LastLines {
    /// So many of each file.
    #[must_use]
    pub fn new(wanted: u32) -> LastLines {
        LastLines { wanted: usize::try_from(wanted).unwrap_or(usize::MAX), bytes: 0, groups: Vec::new() }
    }

    /// Adds those of a file. One that cannot be read has none.
    pub fn add_file(&mut self, place: &Place, origin: Origin<'_>, form: &Form) {
        let Ok((modified, lines)) = tail::of_file(place, self.wanted, 0) else { return };
        let (mut records, mut clock) = (Vec::new(), Clock::of(form));
        for line in &lines {
            let (timestamp, text) = clock.read(line);
            append_record(&mut records, origin, timestamp, &text);
        }
        self.add(modified, records);
    }

    /// Whether what files that were written to longer ago have would not be told any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes > MAX_BYTES
    }

    fn add(&mut self, modified: SystemTime, records: Vec<u8>) {
        self.bytes += records.len();
        self.groups.push((modified, records));
    }

    /// Adds those that are remembered of a process without files.
    pub fn add_memory(&mut self, memory: &Memory, origin: Origin<'_>, out: bool, err: bool) {
        let lines = memory.last(self.wanted, out, err);
        let Some(newest) = lines.last() else { return };
        let modified = SystemTime::from(Timestamp::from_millisecond(newest.timestamp).unwrap_or_default());
        let mut records = Vec::new();
        for line in &lines {
            append_record(&mut records, Origin { err: line.err, ..origin }, line.timestamp, &line.text);
        }
        self.add(modified, records);
    }

    /// Appends them all, those of the file that was written to longest ago first.
    pub fn append_to(mut self, waiting: &mut Vec<u8>) {
        self.groups.sort_by_key(|(modified, _)| *modified);
        // When it is too much, the files written to last are the ones to keep.
        let mut room = MAX_BYTES;
        let fit = self.groups.iter().rev().take_while(|(_, records)| {
            let fits = records.len() <= room;
            room = room.saturating_sub(records.len());
            fits
        });
        let skip = self.groups.len() - fit.count();
        for (_, records) in &self.groups[skip..] {
            waiting.extend_from_slice(records);
        }
    }
}

/// The last lines of a file from a place on, as the process wrote them.
#[must_use]
pub fn texts(place: &Place, form: &Form, lines: u32, from: u64) -> Vec<String> {
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    let Ok((_, lines)) = tail::of_file(place, wanted, from) else { return Vec::new() };
    let mut clock = Clock::of(form);
    lines.iter().map(|line| String::from_utf8_lossy(&clock.read(line).1).into_owned()).collect()
}
