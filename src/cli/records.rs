//! Lines of output on their way from the daemon: JSON objects in a pipe that it has handed over.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

use super::exit::Failure;

/// So many last lines of each stream are remembered, to know them again.
const REMEMBERED: usize = 64;
/// Longest record that is taken from the daemon; it cuts lines far below that.
const RECORD_BOUND: u64 = 4 << 20;

/// A line of output, as the daemon sends it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Record {
    /// PM2's `pm_id`.
    pub process_id: u32,
    /// Its app's name.
    pub app_name: String,
    /// `out` or `err`.
    #[serde(rename = "type")]
    pub stream: String,
    /// Milliseconds since the epoch; 0 where that is not known.
    pub timestamp: i64,
    /// The line, without its end.
    pub message: String,
    /// Lines that were left out before this one, because we read too slowly.
    pub missed: u64,
    /// No line: what comes behind it is new.
    pub live: bool,
}

/// The records in a pipe from the daemon.
pub struct Records {
    pipe: BufReader<pipe::Receiver>,
}

impl Records {
    /// Of the pipe's read end.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(pipe: std::os::fd::OwnedFd) -> Result<Records, Failure> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)
            .map_err(|error| Failure::error(format!("cannot read the logs from the daemon: {error}")))?;
        Ok(Records { pipe: BufReader::new(pipe) })
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// When the pipe breaks or what is in it is no record.
    pub async fn next(&mut self) -> Result<Option<Record>, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.pipe).take(RECORD_BOUND).read_until(b'\n', &mut line).await;
        let cannot = |error: &dyn std::fmt::Display| Failure::error(format!("cannot read the logs: {error}"));
        if read.map_err(|error| cannot(&error))? == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&line).map(Some).map_err(|error| cannot(&error))
    }
}

/// What was shown last of each stream, so that one who comes back to it goes on where it was.
#[derive(Debug, Default)]
pub struct Shown {
    last: BTreeMap<(u32, String), VecDeque<u64>>,
}

impl Shown {
    /// This line was shown.
    pub fn add(&mut self, record: &Record) {
        if record.missed > 0 {
            return;
        }
        let last = self.last.entry((record.process_id, record.stream.clone())).or_default();
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(mark(record));
    }

    /// Of the last lines that were written, those that are not shown yet: what stands behind the last place where the
    /// lines are the ones that were shown last. Of a stream of which nothing was shown, nothing is missing.
    pub fn missing_of(&self, written: Vec<Record>) -> Vec<Record> {
        let mut streams: BTreeMap<(u32, String), Vec<Record>> = BTreeMap::new();
        for record in written {
            streams.entry((record.process_id, record.stream.clone())).or_default().push(record);
        }
        let mut missing = Vec::new();
        for (stream, mut records) in streams {
            let Some(last) = self.last.get(&stream) else { continue };
            let marks: Vec<u64> = records.iter().map(mark).collect();
            let same = |end: usize| last.iter().rev().zip(marks[..end].iter().rev()).all(|(shown, mark)| shown == mark);
            // None: everything that was shown lies further back than one looked.
            let end = (1..=marks.len()).rev().find(|end| same(*end)).unwrap_or(0);
            missing.extend(records.drain(end..));
        }
        missing.sort_by_key(|record| record.timestamp);
        missing
    }
}

fn mark(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.message.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(messages: &[&str]) -> Vec<Record> {
        let record =
            |message: &&str| Record { stream: "out".to_owned(), message: (*message).to_owned(), ..Record::default() };
        messages.iter().map(record).collect()
    }

    fn missing(shown: &[&str], written: &[&str]) -> Vec<String> {
        let mut all = Shown::default();
        records(shown).iter().for_each(|record| all.add(record));
        all.missing_of(records(written)).into_iter().map(|record| record.message).collect()
    }

    #[test]
    fn one_goes_on_where_one_was() {
        assert_eq!(missing(&["a", "b"], &["x", "a", "b", "c", "d"]), ["c", "d"]);
        assert_eq!(missing(&["a", "b"], &["a", "b"]), [""; 0]);
        assert_eq!(missing(&["tick", "tick", "a"], &["a", "tick", "tick", "a", "tick"]), ["tick"]);
        assert_eq!(missing(&["a", "b"], &["b", "c"]), ["c"], "the file was rotated");
        assert_eq!(missing(&["a", "b"], &["c", "d"]), ["c", "d"], "everything is new");
        assert_eq!(missing(&[], &["c", "d"]), [""; 0]);
    }
}
