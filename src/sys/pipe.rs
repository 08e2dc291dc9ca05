//! pipe(7): looking into a pipe without emptying it, and moving bytes out of it without copying them.
//!
//! None of these functions waits: an empty pipe is [`io::ErrorKind::WouldBlock`], whatever the descriptor's flags say,
//! so descriptors that others share keep theirs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

/// A new pipe, read end first, both closed on exec; the ends block.
///
/// # Errors
/// When there are no descriptors left.
pub fn new() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// A new pipe, read end first, both closed on exec, whose write end does not block.
///
/// # Errors
/// When there are no descriptors left.
pub fn with_nonblocking_writer() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = new()?;
    rustix::io::ioctl_fionbio(&writer, true)?;
    Ok((reader, writer))
}

/// Asks for room for `bytes` and tells what there is. The kernel may refuse (`pipe-user-pages-soft`), the pipe then
/// stays as it was.
///
/// # Errors
/// When this is no pipe.
pub fn grow(pipe: impl AsFd, bytes: usize) -> io::Result<usize> {
    let now = rustix::pipe::fcntl_getpipe_size(&pipe)?;
    if now >= bytes {
        return Ok(now);
    }
    Ok(rustix::pipe::fcntl_setpipe_size(&pipe, bytes).unwrap_or(now))
}

/// Makes what is in `from` readable from `into` too, at most `limit` bytes; `from` keeps it. 0 is the end of `from`.
///
/// # Errors
/// `WouldBlock` when `from` is empty or `into` is full.
pub fn tee(from: impl AsFd, into: impl AsFd, limit: usize) -> io::Result<usize> {
    retry(|| rustix::pipe::tee(&from, &into, limit, SpliceFlags::NONBLOCK))
}

/// Moves at most `limit` bytes from the pipe to this place of the file; tells how many. They are either still in the
/// pipe or in the file, even when this process is killed on the way. 0 is the end of the pipe.
///
/// # Errors
/// `WouldBlock` when the pipe is empty, what write(2) says about the file, EINVAL for a file that cannot do it.
pub fn move_to_file(pipe: impl AsFd, file: &File, mut offset: u64, limit: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    retry(|| rustix::pipe::splice(&pipe, None, file, Some(&mut offset), limit, flags))
}

/// Throws away at most `limit` bytes of the pipe; tells how many. `null` is /dev/null, open for writing. 0 is the end of
/// the pipe.
///
/// # Errors
/// `WouldBlock` when the pipe is empty.
pub fn discard(pipe: impl AsFd, null: &File, limit: usize) -> io::Result<usize> {
    retry(|| rustix::pipe::splice(&pipe, None, null, None, limit, SpliceFlags::NONBLOCK))
}

/// Whether nobody can write into this pipe any more; there may still be something in it.
#[must_use]
pub fn is_over(reader: impl AsFd) -> bool {
    let mut ends = [PollFd::new(&reader, PollFlags::empty())];
    rustix::event::poll(&mut ends, Some(&Timespec::default())).is_ok() && ends[0].revents().contains(PollFlags::HUP)
}

/// Whether nobody can read what is written into this end.
#[must_use]
pub fn is_abandoned(writer: impl AsFd) -> bool {
    let mut ends = [PollFd::new(&writer, PollFlags::empty())];
    rustix::event::poll(&mut ends, Some(&Timespec::default())).is_ok() && ends[0].revents().contains(PollFlags::ERR)
}

/// Waits until something can be written into this end, or nobody can read it any more; false when that takes longer.
#[must_use]
pub fn wait_for_room(writer: impl AsFd, patience: Duration) -> bool {
    let mut ends = [PollFd::new(&writer, PollFlags::OUT)];
    let patience = Timespec { tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    loop {
        match rustix::event::poll(&mut ends, Some(&patience)) {
            Err(Errno::INTR) => (),
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}

fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => (),
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_is_looked_at_stays_and_what_is_moved_goes() {
        let (reader, writer) = new().unwrap();
        let (copy, into) = new().unwrap();
        let empty = tee(&reader, &into, 100).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        let mut writer = File::from(writer);
        writer.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(tee(&reader, &into, 100).unwrap(), 8);
        let mut seen = [0; 8];
        File::from(copy).read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"one\ntwo\n");

        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(move_to_file(&reader, &file, 0, 4).unwrap(), 4);
        let null = File::options().write(true).open("/dev/null").unwrap();
        assert_eq!(discard(&reader, &null, 100).unwrap(), 4);
        writer.write_all(b"rest").unwrap();
        assert!(!is_over(&reader));
        drop(writer);
        crate::sys::settled(|| is_over(&reader));
        assert_eq!(discard(&reader, &null, 100).unwrap(), 4);
        assert_eq!(move_to_file(&reader, &file, 4, 4).unwrap(), 0);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\n");
    }

    #[test]
    fn room_and_readers_are_known() {
        let (reader, writer) = with_nonblocking_writer().unwrap();
        let mut writer = File::from(writer);
        assert!(wait_for_room(&writer, Duration::ZERO) && !is_abandoned(&writer));
        while writer.write(&[0; 4096]).is_ok() {}
        assert!(!wait_for_room(&writer, Duration::ZERO) && !is_abandoned(&writer));
        drop(reader);
        crate::sys::settled(|| is_abandoned(&writer));
    }
}
