//! Descriptors that another process still has: pidfd_getfd(2), and pipes by way of /proc/PID/fd.
//!
//! Owns the name by which a pipe or a socket is known beyond its descriptors: what readlink(2) says of it in
//! /proc/PID/fd, kind and inode number. Must never take one that has another name than was asked for, nor look into a
//! process that is not the one meant.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::FileType;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::pidfd;

/// How one is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// The end of a pipe to read from, of which the process has the other.
    Reader,
    /// The end of a pipe to write to, of which the process has the other.
    Writer,
    /// The very socket that the process has, shared from then on.
    Socket,
}

/// The name of a pipe or a socket, such as `pipe:[4711]`; `None` for anything else, and for what cannot be looked at.
#[must_use]
pub fn name(fd: impl AsFd) -> Option<String> {
    let stat = rustix::fs::fstat(fd).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Some(format!("pipe:[{}]", stat.st_ino)),
        FileType::Socket => Some(format!("socket:[{}]", stat.st_ino)),
        _ => None,
    }
}

/// Takes what the process has of what is wanted, by name. What it has not, or what may not be taken (sockets need the
/// right to trace it, ptrace(2)), is left out; the first reason for that comes along.
///
/// # Errors
/// When the process has ended or cannot be looked into at all.
pub fn take(
    pid: u32,
    pidfd: BorrowedFd<'_>,
    wanted: &BTreeMap<String, Take>,
) -> io::Result<(BTreeMap<String, OwnedFd>, Option<io::Error>)> {
    let (mut taken, mut problem) = (BTreeMap::new(), None);
    let folder = format!("/proc/{pid}/fd");
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        // It may have been closed since it was listed.
        let Some(name) = fs::read_link(entry.path()).ok().and_then(|link| link.into_os_string().into_string().ok())
        else {
            continue;
        };
        let Some(take) = wanted.get(&name).filter(|_| !taken.contains_key(&name)) else { continue };
        let got = match (take, entry.file_name().to_str().and_then(|number| number.parse().ok())) {
            (Take::Socket, Some(number)) => {
                pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).map_err(io::Error::from)
            }
            (Take::Reader, _) => open(&entry.path(), OpenOptions::new().read(true)),
            (Take::Writer, _) => open(&entry.path(), OpenOptions::new().write(true)),
            (Take::Socket, None) => continue,
        };
        match got {
            // Between the look and the grasp its number may have been given to something else.
            Ok(fd) if self::name(&fd).as_ref() == Some(&name) => drop(taken.insert(name, fd)),
            Ok(_) => {}
            Err(error) => drop(problem.get_or_insert(error)),
        }
    }
    // Whoever can be signalled now had this pid all the time: it is given away only after its owner was collected.
    pidfd::send_signal(pidfd, 0)?;
    Ok((taken, problem))
}

/// Opening a pipe anew waits for its other end, unless told not to (fifo(7)).
fn open(path: &std::path::Path, options: &mut OpenOptions) -> io::Result<OwnedFd> {
    let file: File = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    rustix::io::ioctl_fionbio(&file, false)?;
    Ok(file.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    #[test]
    fn pipes_and_sockets_are_taken_back_by_name_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut child = Command::new("sh");
        // Between two writers it reads the end of its input.
        child.args(["-c", "echo one; until read line; do sleep 0.01; done; echo got $line; read line"]);
        let child =
            child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(OwnedFd::from(listener.try_clone().unwrap()));
        let mut child = child.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let names = [name(&stdin).unwrap(), name(&stdout).unwrap(), name(&listener).unwrap()];
        assert!(names[0].starts_with("pipe:[") && names[2].starts_with("socket:["), "{names:?}");
        let mut output = BufReader::new(stdout);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        // Whoever had the other ends is gone; a client comes meanwhile.
        drop((stdin, output, listener));
        let _client = TcpStream::connect(address).unwrap();

        let pidfd = pidfd::open(child.id()).unwrap();
        let mut wanted: BTreeMap<_, _> =
            names.iter().cloned().zip([Take::Writer, Take::Reader, Take::Socket]).collect();
        wanted.insert("socket:[1]".to_owned(), Take::Socket);
        let (mut taken, problem) = take(child.id(), pidfd.as_fd(), &wanted).unwrap();
        assert!(problem.is_none() || taken.len() == 2, "{problem:?}");
        let mut get = |name: &str| taken.remove(name);
        let mut stdin = File::from(get(&names[0]).unwrap());
        stdin.write_all(b"it\n").unwrap();
        let mut line = String::new();
        BufReader::new(File::from(get(&names[1]).unwrap())).read_line(&mut line).unwrap();
        assert_eq!(line, "got it\n");
        match get(&names[2]) {
            Some(socket) => drop(TcpListener::from(socket).accept().unwrap()),
            None => println!("skipped: other processes may not be traced here: {problem:?}"),
        }
        assert!(taken.is_empty());
        drop(stdin);
        child.wait().unwrap();
        assert!(take(child.id(), pidfd.as_fd(), &wanted).is_err());
    }
}
