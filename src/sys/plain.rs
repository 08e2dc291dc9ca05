//! Files that somebody else has named, and may put something else in the place of at any moment.
//!
//! Must never wait for one: opening a fifo waits for its other end, a file with a lease for whoever holds that (fcntl(2),
//! F_SETLEASE). And must never read without end, as of /dev/zero.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// As open(2); `InvalidInput` for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let regular = |meta: std::fs::Metadata| if meta.is_file() { Ok(()) } else { Err(io::ErrorKind::InvalidInput) };
    // Looked at before as well: opening alone does something to some devices.
    regular(std::fs::metadata(path)?)?;
    let file = options().read(true).open(path)?;
    regular(file.metadata()?)?;
    Ok(file)
}

/// Replaces a file's content, in place: others may have it open.
///
/// # Errors
/// As open(2) and write(2): ENXIO for a fifo that nobody reads.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    options().write(true).create(true).truncate(true).open(path)?.write_all(content)
}

/// Empties a regular file. Anything else has nothing to be emptied, what is not there even less.
///
/// # Errors
/// As open(2) and ftruncate(2).
pub fn empty(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => options().write(true).open(path)?.set_len(0),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a regular file has this content and no more.
#[must_use]
pub fn has(path: &Path, content: &[u8]) -> bool {
    let mut start = Vec::new();
    let read = open(path).and_then(|file| file.take(content.len() as u64 + 1).read_to_end(&mut start));
    read.is_ok() && start == content
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_what_was_written_and_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        assert!(!has(&path, b"12"));
        for (content, other) in [(&b"1234"[..], &b"123"[..]), (b"12", b"1234")] {
            write(&path, content).unwrap();
            assert!(has(&path, content) && !has(&path, other));
        }
    }

    #[test]
    fn what_is_no_regular_file_is_neither_waited_for_nor_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(write(&path, b"12").unwrap_err().raw_os_error(), Some(libc::ENXIO));
        for other in [&path, dir.path(), Path::new("/dev/zero")] {
            assert_eq!(open(other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert!(!has(other, b"12"));
        }
    }
}
