//! Appending to files that others may read, move, truncate or append to as well.
//!
//! The descriptors are open without O_APPEND, with which splice(2) refuses to move bytes into a file; appending is asked
//! for with each write instead.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::{Errno, ReadWriteFlags};

/// Opens a file to append to; creates it with mode 0640 less the umask. For reading too where the rights suffice, but
/// not a fifo or a device.
///
/// Never waits for a fifo's reader and never makes a terminal the process's own.
///
/// # Errors
/// As open(2); ENXIO for a fifo that nobody reads.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o640).custom_flags(flags);
    let special = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
    if special {
        return options.create(false).open(path);
    }
    match options.read(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => options.read(false).open(path),
        other => other,
    }
}

/// Whether bytes cannot pile up in what this is: a fifo, a socket or a device.
#[must_use]
pub fn is_special(meta: &std::fs::Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_fifo() || kind.is_char_device() || kind.is_socket() || kind.is_block_device()
}

/// Appends bytes; tells how many. One call of a single writer is not mixed with others'.
///
/// # Errors
/// As write(2).
pub fn append(file: &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::pwritev2(file, &[IoSlice::new(bytes)], u64::MAX, ReadWriteFlags::APPEND) {
            Err(Errno::INTR) => (),
            // Kernels and file systems without RWF_APPEND, and files that have no position.
            Err(Errno::OPNOTSUPP | Errno::SPIPE | Errno::INVAL) => return at_end(file, bytes),
            other => return Ok(other?),
        }
    }
}

fn at_end(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    // A fifo or a terminal has no end to go to.
    drop(file.seek(SeekFrom::End(0)));
    loop {
        match io::Write::write(&mut file, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            other => return other,
        }
    }
}

/// The last byte of a file that has one and may be read.
#[must_use]
pub fn last_byte(mut file: &File) -> Option<u8> {
    let mut byte = [0];
    file.seek(SeekFrom::End(-1)).ok()?;
    file.read_exact(&mut byte).ok()?;
    Some(byte[0])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn appends_wherever_the_end_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        assert_eq!(last_byte(&file), None);
        assert_eq!(append(&file, b"one\n").unwrap(), 4);
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(append(&file, b"two\n").unwrap(), 4);
        assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
        assert_eq!(last_byte(&file), Some(b'\n'));
    }

    #[test]
    fn a_fifo_without_reader_is_an_error_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(open(&path).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    }

    #[test]
    fn a_device_takes_bytes() {
        let file = open(Path::new("/dev/null")).unwrap();
        assert!(is_special(&file.metadata().unwrap()));
        assert_eq!(append(&file, b"gone").unwrap(), 4);
    }
}
