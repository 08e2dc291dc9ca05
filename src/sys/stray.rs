//! Descriptors that strangers have sent, to be closed.
//!
//! Must never be closed by who serves others: the last close(2) of a TCP socket with SO_LINGER waits for as long as its
//! sender liked, that of a file may wait for its file system. A process or thread that ends does not linger (inet_release
//! in net/ipv4/af_inet.c), so what is stray ends with a thread that has a table of descriptors of its own.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc;
use std::thread::Builder;

/// Has these closed, without waiting for it.
pub fn close(fds: Vec<OwnedFd>) {
    if fds.is_empty() {
        return;
    }
    // Where there is no thread to be had they stay open: that is better than to wait.
    let fds = ManuallyDrop::new(fds);
    let closing = Builder::new().name("close".to_owned()).spawn(move || end(ManuallyDrop::into_inner(fds)));
    if let Err(error) = closing {
        tracing::warn!(%error, "cannot close descriptors that somebody sent");
    }
}

fn end(fds: Vec<OwnedFd>) {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let ((tell, told), (go, gone)) = (mpsc::channel(), mpsc::channel::<()>());
    let last = Builder::new().name("close-last".to_owned()).spawn(move || {
        let kept = keep_only(numbers);
        // Whoever waits for it lives until this has ended.
        let _ = tell.send(kept);
        let _ = gone.recv();
    });
    if let (Ok(_), Ok(Err(error))) = (&last, told.recv()) {
        tracing::warn!(%error, "cannot close descriptors elsewhere");
    }
    // Not for good as long as that thread has them, too.
    drop(fds);
    drop(go);
}

/// Gives the calling thread a table of descriptors of its own, with these alone.
fn keep_only(mut numbers: Vec<RawFd>) -> io::Result<()> {
    // SAFETY: takes a flag only. The thread does nothing with descriptors from here on, so that it misses none.
    if unsafe { libc::unshare(libc::CLONE_FILES) } < 0 {
        return Err(io::Error::last_os_error());
    }
    numbers.sort_unstable();
    let mut first: RawFd = 0;
    for number in numbers.into_iter().chain([RawFd::MAX]) {
        if first < number {
            // SAFETY: takes numbers only, and closes what is this thread's own; where the kernel has no such call, they
            // are closed at its end, which is near.
            unsafe { libc::syscall(libc::SYS_close_range, first, number - 1, 0) };
        }
        first = number.saturating_add(1);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    #[test]
    fn what_lingers_is_closed_at_once_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lingering = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        lingering.set_nonblocking(true).unwrap();
        while lingering.write(&[0; 65536]).is_ok() {}
        rustix::net::sockopt::set_socket_linger(&lingering, Some(Duration::from_secs(3600))).unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        let (mut ended, stray) = io::pipe().unwrap();
        let begun = Instant::now();
        close(vec![lingering.into(), stray.into()]);
        assert_eq!(ended.read(&mut [0]).unwrap(), 0);
        // What it had sent comes, and then the end, or the news that the rest was dropped.
        other.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let end = loop {
            match other.read(&mut buffer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break error.kind() == io::ErrorKind::ConnectionReset,
            }
        };
        assert!(end && begun.elapsed() < Duration::from_secs(20));
        writer.write_all(b"!").unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap(), 1);
    }
}
