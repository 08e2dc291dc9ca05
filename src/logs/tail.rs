//! The last lines: of a file, or of what is remembered of a process that has none.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use super::place::Place;
use super::split::Line;
use crate::sys::plain;

/// Of each file, so many bytes from its end are looked at.
const MAX_LOOK: u64 = 4 << 20;
/// Of each process, so many bytes are remembered where no file has them.
const MAX_REMEMBERED: usize = 64 << 10;
/// Of a line, so many bytes are remembered, lest one takes the place of all others.
const MAX_REMEMBERED_LINE: usize = 8 << 10;
/// What a remembered line costs besides its text.
const LINE_COST: usize = 48;

/// Where the lines of a row's newest worker begin among those that are kept of the row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beginning {
    /// In the file of standard output (bytes).
    pub out: u64,
    /// In that of standard error.
    pub err: u64,
    /// In time (milliseconds since the epoch), for what is remembered.
    pub ms: i64,
}

/// The last lines of a file, the oldest first, and when it was last written to. A line that is not finished yet counts.
/// What stands before `from` does not, unless the file is shorter by now: then it is another one, or was emptied.
///
/// # Errors
/// When its owner cannot read it.
pub fn of_file(place: &Place, lines: usize, from: u64) -> io::Result<(SystemTime, Vec<Vec<u8>>)> {
    // Nothing else has an end to look at.
    let file = place.with_rights(plain::open)?;
    let meta = file.metadata()?;
    let length = if from <= meta.len() { meta.len() - from } else { meta.len() };
    let mut end = vec![0; usize::try_from(length.min(MAX_LOOK)).unwrap_or(0)];
    let mut found = 0;
    let mut start = end.len();
    let base = meta.len() - end.len() as u64;
    // Block by block from the end, for as long as lines are missing.
    while start > 0 && found <= lines {
        let block = start.saturating_sub(64 << 10)..start;
        if file.read_exact_at(&mut end[block.clone()], base + block.start as u64).is_err() {
            break;
        }
        found += end[block.clone()].iter().filter(|byte| **byte == b'\n').count();
        start = block.start;
    }
    let text = &end[start..];
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut last: Vec<Vec<u8>> = text.rsplit(|byte| *byte == b'\n').take(lines).map(<[u8]>::to_vec).collect();
    if text.is_empty() {
        last.clear();
    }
    last.reverse();
    Ok((meta.modified()?, last))
}

/// A line that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Of standard error rather than standard output.
    pub err: bool,
    /// When it came, milliseconds since the epoch.
    pub timestamp: i64,
    /// Without its line end.
    pub text: Box<[u8]>,
}

/// The last lines of a process whose lines are in no file.
#[derive(Debug, Default)]
pub struct Memory {
    lines: VecDeque<Remembered>,
    bytes: usize,
}

impl Memory {
    /// Remembers a line, forgets the oldest ones for it.
    pub fn add(&mut self, err: bool, timestamp: i64, line: &Line<'_>) {
        let text = line.text();
        let text = &text[..text.len().min(MAX_REMEMBERED_LINE)];
        self.bytes += text.len() + LINE_COST;
        self.lines.push_back(Remembered { err, timestamp, text: text.into() });
        while self.bytes > MAX_REMEMBERED {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.len() + LINE_COST;
        }
    }

    /// The last lines of these streams, the oldest first.
    #[must_use]
    pub fn last(&self, lines: usize, out: bool, err: bool) -> Vec<&Remembered> {
        let wanted = self.lines.iter().rev().filter(|line| if line.err { err } else { out });
        let mut last: Vec<&Remembered> = wanted.take(lines).collect();
        last.reverse();
        last
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Memory::default();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::logs::split::LineEnd;
    use crate::sys::identity::Identity;

    fn last_of(content: &[u8], lines: usize) -> Vec<String> {
        last_from(0, content, lines)
    }

    fn last_from(from: u64, content: &[u8], lines: usize) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, content).unwrap();
        let place = Place { path, owner: Identity::own().unwrap(), ours: false };
        let (_, lines) = of_file(&place, lines, from).unwrap();
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn last_lines_of_files() {
        assert_eq!(last_of(b"", 3), [""; 0]);
        assert_eq!(last_of(b"a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(last_of(b"a\nb\nc", 2), ["b", "c"]);
        assert_eq!(last_of(b"a\nb\n", 5), ["a", "b"]);
        assert_eq!(last_of(b"a\n\n", 5), ["a", ""]);
        assert_eq!(last_of(b"a\n", 0), [""; 0]);
        let many: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        let last = last_of(many.as_bytes(), 20_000);
        assert_eq!((last.len(), last[0].as_str(), last[19_999].as_str()), (20_000, "line 80000", "line 99999"));
    }

    #[test]
    fn last_lines_from_a_place_on() {
        assert_eq!(last_from(4, b"old\nnew\n", 5), ["new"]);
        assert_eq!(last_from(8, b"old\nnew\n", 5), [""; 0]);
        assert_eq!(last_from(9, b"old\nnew\n", 5), ["old", "new"], "it was emptied since");
        let many: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        let last = last_from(many.len() as u64 - 22, many.as_bytes(), 10);
        assert_eq!(last, ["line 99998", "line 99999"]);
    }

    #[test]
    fn memory_is_bounded_and_has_the_newest() {
        let mut memory = Memory::default();
        for n in 0..100_000i64 {
            let raw = format!("line {n}\n");
            memory.add(n % 2 == 1, n, &Line { raw: raw.as_bytes(), end: LineEnd::Newline, continues: false });
        }
        assert!(memory.bytes <= MAX_REMEMBERED);
        let texts = |out, err| -> Vec<String> {
            let last = memory.last(2, out, err);
            last.into_iter().map(|line| String::from_utf8(line.text.to_vec()).unwrap()).collect()
        };
        assert_eq!(texts(true, true), ["line 99998", "line 99999"]);
        assert_eq!(texts(true, false), ["line 99996", "line 99998"]);
        let long = vec![b'x'; MAX_REMEMBERED * 2];
        memory.add(false, 0, &Line { raw: &long, end: LineEnd::Split, continues: false });
        assert_eq!(memory.last(1, true, true)[0].text.len(), MAX_REMEMBERED_LINE);
        assert!(memory.lines.len() > 500);
        memory.clear();
        assert!(memory.last(9, true, true).is_empty());
    }
}
