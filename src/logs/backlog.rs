//! What a log file does not take at present: kept in whole lines as far as there is room, dropped beyond it.
//!
//! Must never keep the head of a line whose end was dropped, nor its end without its head.

use super::file::Writer;
use super::loss::Lost;

/// Bytes that wait for a file that cannot be written; what comes beyond is dropped.
const ROOM: usize = 64 << 10;

/// What waits for a file.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    /// Lines of this writer are dropped up to the next line feed.
    skipping: Option<Writer>,
}

impl Backlog {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the rest of anybody's line is dropped.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skipping.is_some()
    }

    /// Whether the rest of this one's line is dropped.
    #[must_use]
    pub fn skips(&self, writer: Writer) -> bool {
        self.skipping == Some(writer)
    }

    /// How many of these bytes go on with a line whose head was dropped.
    pub fn skip(&mut self, bytes: &[u8], writer: Writer) -> usize {
        if !self.skips(writer) {
            return 0;
        }
        match bytes.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                self.skipping = None;
                at + 1
            }
            None => bytes.len(),
        }
    }

    /// All that waits, which does so no longer.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Has the rest of what was taken wait again.
    pub fn put_back(&mut self, rest: &[u8]) {
        self.bytes = rest.to_vec();
    }

    /// Has these bytes wait, as far as there is room. `goes_on`: nobody else was the last to write into the file.
    /// `file_ends_line`: the file itself ends with a whole line. Tells what was lost.
    pub fn add(&mut self, bytes: &[u8], writer: Writer, goes_on: bool, file_ends_line: bool) -> Lost {
        let room = ROOM.saturating_sub(self.bytes.len());
        let fits = if bytes.len() <= room { bytes.len() } else { whole_lines(&bytes[..room]) };
        let (kept, dropped) = bytes.split_at(fits);
        if !kept.is_empty() {
            let ends_line = if self.is_empty() { file_ends_line } else { self.bytes.ends_with(b"\n") };
            if !ends_line && !goes_on {
                self.bytes.push(b'\n');
            }
            self.bytes.extend_from_slice(kept);
        }
        let mut lost = Lost::all_of(dropped);
        if !dropped.is_empty() {
            if !dropped.ends_with(b"\n") {
                self.skipping = Some(writer);
            }
            lost.bytes += self.drop_head(file_ends_line);
        }
        lost
    }

    /// The end of a line is gone, so its head goes as well: tells how many bytes. Where that is in the file already, what
    /// comes next is not to go on with it.
    fn drop_head(&mut self, file_ends_line: bool) -> u64 {
        let whole = whole_lines(&self.bytes);
        if whole == 0 && !file_ends_line {
            self.bytes.push(b'\n');
            return 0;
        }
        let head = self.bytes.len() - whole;
        self.bytes.truncate(whole);
        head as u64
    }
}

/// How many of these bytes are whole lines.
#[must_use]
pub fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}
