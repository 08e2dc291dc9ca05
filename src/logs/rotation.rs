//! When a log file has had enough, what it is called afterwards, what is kept. Pure.
//!
//! Names are those of pm2-logrotate: `api-out.log` becomes `api-out__2026-11-21_00-00-00.log`, compressed
//! `api-out__2026-11-21_00-00-00.log.gz`; a second one with the same time gets `-1` before the extension.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use regex::bytes::Regex;

use super::dayjs;

/// What pm2-logrotate calls times when nothing else is said.
const DEFAULT_FORMAT: &str = "YYYY-MM-DD_HH-mm-ss";

/// What a file does with bytes that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many go into it; then the rest is asked about again.
    Write(usize),
    /// It is rotated now.
    Rotate,
}

/// What becomes of the head of `bytes` in a file that has `size` bytes and should stay within `max`.
///
/// Files begin and end at line boundaries: a line that does not fit goes into the next file; one longer than `max` has
/// a file of its own. `at_line_start` says whether the file ends with a whole line.
#[must_use]
pub fn step(bytes: &[u8], size: u64, max: u64, at_line_start: bool) -> Step {
    let room = usize::try_from(max.saturating_sub(size)).unwrap_or(usize::MAX);
    if bytes.len() <= room {
        return Step::Write(bytes.len());
    }
    if let Some(at) = bytes[..room].iter().rposition(|byte| *byte == b'\n') {
        return Step::Write(at + 1);
    }
    if at_line_start && size > 0 {
        return Step::Rotate;
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => Step::Write(at + 1),
        None => Step::Write(bytes.len()),
    }
}

/// The names that a log file's rotated ones have.
#[derive(Debug, Clone)]
pub struct Names {
    stem: Vec<u8>,
    extension: Vec<u8>,
    format: String,
}

/// Tells a log file's rotated ones by their names. Made for one look at a folder: it takes hundreds of KiB.
#[derive(Debug)]
pub struct Recognizer<'a> {
    names: &'a Names,
    time: Option<Regex>,
}

/// What the name of a rotated file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rotated {
    /// Which of those with the same time.
    pub sequence: u32,
    /// Whether it is compressed.
    pub compressed: bool,
}

impl Names {
    /// Of the file with this path, the time in this dayjs format.
    #[must_use]
    pub fn of(path: &Path, date_format: &str) -> Names {
        use std::os::unix::ffi::OsStrExt;
        let format = if date_format.is_empty() { DEFAULT_FORMAT } else { date_format };
        // A slash would make it a path.
        let format = format.replace(['/', '\0'], "-");
        let stem = path.file_stem().unwrap_or_default().as_bytes().to_vec();
        let extension = path.extension().map_or_else(Vec::new, |extension| [b".", extension.as_bytes()].concat());
        Names { stem, extension, format }
    }

    /// The name of a file rotated at this time, the `sequence`th with it.
    #[must_use]
    pub fn at(&self, now: &jiff::Zoned, sequence: u32) -> std::ffi::OsString {
        use std::os::unix::ffi::OsStringExt;
        let mut name = self.stem.clone();
        name.extend_from_slice(b"__");
        name.extend_from_slice(dayjs::format(&self.format, now).as_bytes());
        if sequence > 0 {
            name.extend_from_slice(format!("-{sequence}").as_bytes());
        }
        name.extend_from_slice(&self.extension);
        std::ffi::OsString::from_vec(name)
    }

    /// The other way round: what tells these names from others.
    #[must_use]
    pub fn recognizer(&self) -> Recognizer<'_> {
        // Strict about the time, or `app.log` would take `app__errors.log`, which is somebody's, for one of its own.
        let time = Regex::new(&format!(r"^{}(?:-([0-9]{{1,9}}))?$", dayjs::pattern(&self.format))).ok();
        Recognizer { names: self, time }
    }
}

impl Recognizer<'_> {
    /// What this name tells, if it is that of one of the rotated files.
    #[must_use]
    pub fn parse(&self, name: &OsStr) -> Option<Rotated> {
        use std::os::unix::ffi::OsStrExt;
        let name = name.as_bytes().strip_prefix(self.names.stem.as_slice())?.strip_prefix(b"__")?;
        let (name, compressed) = match name.strip_suffix(b".gz") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let captures = self.time.as_ref()?.captures(name.strip_suffix(self.names.extension.as_slice())?)?;
        let sequence = match captures.get(1) {
            Some(digits) => std::str::from_utf8(digits.as_bytes()).ok()?.parse().ok()?,
            None => 0,
        };
        Some(Rotated { sequence, compressed })
    }
}

/// A rotated file that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// When it was last written to, which is when it was rotated or a little before.
    pub modified: SystemTime,
    /// What its name tells.
    pub rotated: Rotated,
}

/// Sorts the newest to the front.
pub fn newest_first(files: &mut [Kept]) {
    files.sort_by_key(|file| std::cmp::Reverse((file.modified, file.rotated.sequence)));
}

/// Those of one log file's rotated files, newest first, that are too many.
#[must_use]
pub fn beyond_count(newest_first: &[Kept], retain: u32) -> &[Kept] {
    let retain = usize::try_from(retain).unwrap_or(usize::MAX).min(newest_first.len());
    &newest_first[retain..]
}

/// Those of several log files' rotated files, newest first, that are too much: from the first one that does not fit on.
#[must_use]
pub fn beyond_total(newest_first: &[Kept], total: u64) -> &[Kept] {
    let mut sum = 0u64;
    let fit = newest_first.iter().take_while(|file| {
        sum = sum.saturating_add(file.size);
        sum <= total
    });
    &newest_first[fit.count()..]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn now() -> jiff::Zoned {
        "2026-11-21T00:00:00+00:00[UTC]".parse().unwrap()
    }

    #[test]
    fn names_are_pm2_logrotates() {
        let names = Names::of(Path::new("/l/api-out-0.log"), "YYYY-MM-DD_HH-mm-ss");
        assert_eq!(names.at(&now(), 0), "api-out-0__2026-11-21_00-00-00.log");
        assert_eq!(names.at(&now(), 2), "api-out-0__2026-11-21_00-00-00-2.log");
        assert_eq!(Names::of(Path::new("/l/x"), "YYYY/MM").at(&now(), 0), "x__2026-11");
        assert_eq!(Names::of(Path::new("/l/x.log"), "").at(&now(), 0), "x__2026-11-21_00-00-00.log");
    }

    #[test]
    fn other_peoples_files_are_not_taken_for_rotated_ones() {
        let names = Names::of(Path::new("/l/app.log"), "YYYY-MM-DD_HH-mm-ss");
        let parse = |name: &str| names.recognizer().parse(OsStr::new(name));
        assert_eq!(parse("app__2026-11-21_00-00-00.log"), Some(Rotated { sequence: 0, compressed: false }));
        assert_eq!(parse("app__2026-11-21_00-00-00-12.log.gz"), Some(Rotated { sequence: 12, compressed: true }));
        for other in [
            "app.log",
            "app__err.log",
            "app__2026-11-21_00-00-00",
            "app__2026-11-21_00-00-00.log.gz.tmp",
            "app__2026-11-21_00-00-00.txt",
            "api__2026-11-21_00-00-00.log",
            "app__2026-11-21_00-00-00-x.log",
            "app-1__2026-11-21_00-00-00.log",
            "app__.log",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    fn kept(size: u64, age: u64, sequence: u32) -> Kept {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age);
        Kept {
            path: PathBuf::from(format!("{age}-{sequence}")),
            size,
            modified,
            rotated: Rotated { sequence, compressed: false },
        }
    }

    #[test]
    fn the_newest_stay() {
        let mut files = vec![kept(10, 5, 0), kept(10, 1, 0), kept(10, 1, 1), kept(10, 3, 0)];
        newest_first(&mut files);
        let order: Vec<_> = files.iter().map(|file| file.path.to_str().unwrap()).collect();
        assert_eq!(order, ["1-1", "1-0", "3-0", "5-0"]);
        assert_eq!(beyond_count(&files, 3), &files[3..]);
        assert_eq!(beyond_count(&files, 9), &[]);
        assert_eq!(beyond_total(&files, 29), &files[2..]);
        assert_eq!(beyond_total(&files, 30), &files[3..]);
        assert_eq!(beyond_total(&files, 0), &files[..]);
    }

    proptest! {
        #[test]
        fn a_rotated_name_is_recognised(
            stem in "[a-zA-Z0-9._-]{1,12}", sequence in 0u32..1000, second in 0i64..4_000_000_000,
            format in prop_oneof![Just("YYYY-MM-DD_HH-mm-ss"), Just("DD.MM.YY"), Just("x YYYYMMDDHHmmssSSS"), Just("ddd D MMM hh:mm a ZZ")],
            compressed: bool,
        ) {
            let names = Names::of(&Path::new("/l").join(format!("{stem}.log")), format);
            let at = jiff::Timestamp::from_second(second).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
            let mut name = names.at(&at, sequence);
            if compressed {
                name.push(".gz");
            }
            prop_assert_eq!(names.recognizer().parse(&name), Some(Rotated { sequence, compressed }));
            prop_assert!(!name.to_str().unwrap().contains('/'));
        }

        /// Whatever exists, what stays obeys both caps, and nothing stays that is older than something removed.
        #[test]
        fn caps_hold(sizes in proptest::collection::vec((0u64..1000, 0u64..50), 0..40), retain in 0u32..40, total in 0u64..20_000) {
            let mut files: Vec<Kept> = sizes.iter().zip(0..).map(|((size, age), at)| kept(*size, *age, at)).collect();
            newest_first(&mut files);
            let counted = files.len() - beyond_count(&files, retain).len();
            prop_assert!(counted <= retain as usize);
            prop_assert!(counted == files.len() || counted == retain as usize);
            let fit = files.len() - beyond_total(&files, total).len();
            prop_assert!(files[..fit].iter().map(|file| file.size).sum::<u64>() <= total);
            prop_assert!(fit == files.len() || files[..=fit].iter().map(|file| file.size).sum::<u64>() > total);
            prop_assert!(files.windows(2).all(|pair| pair[0].modified >= pair[1].modified));
        }

        /// Files put together are what came; each begins at a line's start, ends at one, and is no larger than allowed
        /// unless one line alone is.
        #[test]
        fn files_are_cut_between_lines(
            lines in proptest::collection::vec(0usize..30, 1..60), max in 1u64..100, chunk in 1usize..200,
        ) {
            let text: Vec<u8> = lines.iter().flat_map(|length| [vec![b'x'; *length], vec![b'\n']].concat()).collect();
            let mut files: Vec<Vec<u8>> = vec![Vec::new()];
            for mut bytes in text.chunks(chunk) {
                while !bytes.is_empty() {
                    let file = files.last_mut().unwrap();
                    match step(bytes, file.len() as u64, max, file.last().is_none_or(|byte| *byte == b'\n')) {
                        Step::Write(length) => {
                            prop_assert!(length > 0);
                            file.extend_from_slice(&bytes[..length]);
                            bytes = &bytes[length..];
                        }
                        Step::Rotate => {
                            prop_assert!(!file.is_empty());
                            files.push(Vec::new());
                        }
                    }
                }
            }
            prop_assert_eq!(files.concat(), text);
            for file in &files {
                prop_assert!(file.ends_with(b"\n"));
                let line_count = file.iter().filter(|byte| **byte == b'\n').count();
                // A line that arrives in pieces is not known to be too long until it is.
                prop_assert!(file.len() as u64 <= max || line_count <= 1 || file.len() as u64 <= max + 30);
            }
        }
    }
}
