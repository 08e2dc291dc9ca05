//! Lines out of pieces. Pure; knows nothing of pipes.
//!
//! Bytes are never changed: invalid UTF-8, NUL and lone carriage returns stay in a line as they came.

use std::ops::ControlFlow;

/// Longest line (bytes) that is kept together. What is longer arrives in pieces of this length, each but the last
/// [`LineEnd::Split`].
pub const MAX_LINE: usize = 256 << 10;

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// By a line feed, perhaps after a carriage return.
    Newline,
    /// Not yet: it was longer than [`MAX_LINE`] or its end did not come in time; the next piece goes on with it.
    Split,
    /// Never: the writer ended first.
    Cut,
}

/// A line, or a piece of one that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// As it came, line end included.
    pub raw: &'a [u8],
    /// How it ended.
    pub end: LineEnd,
    /// Whether this goes on with the line before.
    pub continues: bool,
}

impl<'a> Line<'a> {
    /// The line without its end: without `\n` or `\r\n`.
    #[must_use]
    pub fn text(&self) -> &'a [u8] {
        match self.end {
            LineEnd::Newline => {
                let text = self.raw.strip_suffix(b"\n").unwrap_or(self.raw);
                text.strip_suffix(b"\r").unwrap_or(text)
            }
            LineEnd::Split | LineEnd::Cut => self.raw,
        }
    }
}

/// Makes lines of what comes, and holds the head of an unfinished one.
#[derive(Debug, Default)]
pub struct Splitter {
    held: Vec<u8>,
    continues: bool,
}

impl Splitter {
    /// Takes what came and hands out each line that is complete by it.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while !bytes.is_empty() {
            let step = if self.held.is_empty() {
                self.whole(&mut bytes, &mut each)
            } else {
                self.complete(&mut bytes, &mut each)
            };
            if step.is_break() {
                return;
            }
        }
    }

    /// The end of the line does not come: hands out what there is of it.
    pub fn split(&mut self, mut each: impl FnMut(Line<'_>)) {
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.emit(&held, LineEnd::Split, &mut each);
        }
    }

    /// The writer ended: hands out what it left without a line feed.
    pub fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if !self.held.is_empty() {
            each(Line { raw: &self.held, end: LineEnd::Cut, continues: self.continues });
        }
        self.held = Vec::new();
        self.continues = false;
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// A line that lies in `bytes` from its start; what has no end yet is held.
    fn whole(&mut self, bytes: &mut &[u8], each: &mut impl FnMut(Line<'_>)) -> ControlFlow<()> {
        let window = &bytes[..bytes.len().min(MAX_LINE)];
        let (length, end) = match window.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, LineEnd::Newline),
            None if window.len() == MAX_LINE => (MAX_LINE, LineEnd::Split),
            None => {
                self.held.extend_from_slice(bytes);
                return ControlFlow::Break(());
            }
        };
        let (raw, rest) = bytes.split_at(length);
        self.emit(raw, end, each);
        *bytes = rest;
        ControlFlow::Continue(())
    }

    /// Goes on with the line that is held.
    fn complete(&mut self, bytes: &mut &[u8], each: &mut impl FnMut(Line<'_>)) -> ControlFlow<()> {
        let room = MAX_LINE - self.held.len();
        let window = &bytes[..bytes.len().min(room)];
        let newline = window.iter().position(|byte| *byte == b'\n');
        let (head, rest) = bytes.split_at(newline.map_or(window.len(), |at| at + 1));
        self.held.extend_from_slice(head);
        *bytes = rest;
        let end = match newline {
            Some(_) => LineEnd::Newline,
            None if self.held.len() == MAX_LINE => LineEnd::Split,
            None => return ControlFlow::Break(()),
        };
        // Given back at once: a held line is rare and its memory is not to stay with every stream.
        let held = std::mem::take(&mut self.held);
        self.emit(&held, end, each);
        ControlFlow::Continue(())
    }

    fn emit(&mut self, raw: &[u8], end: LineEnd, each: &mut impl FnMut(Line<'_>)) {
        each(Line { raw, end, continues: self.continues });
        self.continues = end == LineEnd::Split;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]]) -> Vec<(Vec<u8>, LineEnd, bool)> {
        let mut lines = Vec::new();
        let mut splitter = Splitter::default();
        for piece in pieces {
            splitter.feed(piece, |line| lines.push((line.raw.to_vec(), line.end, line.continues)));
        }
        splitter.finish(|line| lines.push((line.raw.to_vec(), line.end, line.continues)));
        lines
    }

    #[test]
    fn pieces_make_lines() {
        let lines = split(&[b"on", b"e\ntwo\nth", b"", b"ree\r\n\n", b"last"]);
        let expected: Vec<(Vec<u8>, LineEnd, bool)> = vec![
            (b"one\n".to_vec(), LineEnd::Newline, false),
            (b"two\n".to_vec(), LineEnd::Newline, false),
            (b"three\r\n".to_vec(), LineEnd::Newline, false),
            (b"\n".to_vec(), LineEnd::Newline, false),
            (b"last".to_vec(), LineEnd::Cut, false),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_line_that_is_split_goes_on() {
        let mut lines = Vec::new();
        let mut splitter = Splitter::default();
        splitter.split(|_| panic!("nothing was held"));
        for piece in [&b"is it"[..], b" ready?", b" yes\nnext\n"] {
            splitter.feed(piece, |line| lines.push((line.raw.to_vec(), line.end, line.continues)));
            splitter.split(|line| lines.push((line.raw.to_vec(), line.end, line.continues)));
        }
        let expected: Vec<(Vec<u8>, LineEnd, bool)> = vec![
            (b"is it".to_vec(), LineEnd::Split, false),
            (b" ready?".to_vec(), LineEnd::Split, true),
            (b" yes\n".to_vec(), LineEnd::Newline, true),
            (b"next\n".to_vec(), LineEnd::Newline, false),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_text_is_without_the_line_end_only() {
        let text = |raw: &'static [u8], end| Line { raw, end, continues: false }.text();
        assert_eq!(text(b"a\r\n", LineEnd::Newline), b"a");
        assert_eq!(text(b"a\r\r\n", LineEnd::Newline), b"a\r");
        assert_eq!(text(b"\n", LineEnd::Newline), b"");
        assert_eq!(text(b"a\r", LineEnd::Cut), b"a\r");
        assert_eq!(text(b"\xff\x00", LineEnd::Split), b"\xff\x00");
    }

    #[test]
    fn a_long_line_comes_in_bounded_pieces() {
        let mut long = vec![b'x'; MAX_LINE * 2 + 10];
        long.push(b'\n');
        for step in [1000, 65536, MAX_LINE, long.len()] {
            let pieces: Vec<&[u8]> = long.chunks(step).collect();
            let lines = split(&pieces);
            let shape: Vec<(usize, LineEnd, bool)> =
                lines.iter().map(|(raw, end, on)| (raw.len(), *end, *on)).collect();
            let expected =
                vec![(MAX_LINE, LineEnd::Split, false), (MAX_LINE, LineEnd::Split, true), (11, LineEnd::Newline, true)];
            assert_eq!(shape, expected, "in steps of {step}");
        }
    }

    proptest! {
        /// However the bytes are cut, the same lines come out, nothing is lost, nothing is added.
        #[test]
        fn cuts_do_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..400),
            cuts in proptest::collection::vec(0usize..400, 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let lines = split(&pieces);
            prop_assert_eq!(&lines, &split(&[&bytes]));
            let joined: Vec<u8> = lines.iter().flat_map(|(raw, ..)| raw.clone()).collect();
            prop_assert_eq!(joined, bytes);
            for (at, (raw, end, _)) in lines.iter().enumerate() {
                prop_assert_eq!(raw.ends_with(b"\n"), *end == LineEnd::Newline);
                prop_assert_eq!(raw.iter().filter(|byte| **byte == b'\n').count(), usize::from(raw.ends_with(b"\n")));
                prop_assert!(*end == LineEnd::Newline || at + 1 == lines.len());
            }
        }
    }
}
