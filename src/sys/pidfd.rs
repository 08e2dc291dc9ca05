//! Processes by descriptor: pidfd_open(2), signals without a race, the end of a process as an event.
//!
//! Owns how an exit status is had, of children and of others. Must never wait by pid.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::{WaitId, WaitIdOptions};
use tokio::io::Interest;

use super::proc;
use super::watched::Watched;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called exit(3) with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It is gone and the kernel does not tell how: it was not our child, its parent was quicker to collect it and
    /// Linux is older than 6.15.
    Unknown,
}

impl ExitStatus {
    /// From the word that wait(2) and PIDFD_GET_INFO give.
    fn from_wait_word(word: i32) -> ExitStatus {
        if libc::WIFEXITED(word) {
            ExitStatus::Code(libc::WEXITSTATUS(word))
        } else if libc::WIFSIGNALED(word) {
            ExitStatus::Signal(libc::WTERMSIG(word))
        } else {
            ExitStatus::Unknown
        }
    }

    /// From what waitid(2) gives for a process that has ended.
    pub(super) fn from_waitid(status: &rustix::process::WaitIdStatus) -> ExitStatus {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, Some(signal)) => ExitStatus::Signal(signal),
            (None, None) => ExitStatus::Unknown,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "code {code}"),
            ExitStatus::Signal(signal) => write!(f, "signal {signal}"),
            ExitStatus::Unknown => f.write_str("unknown status"),
        }
    }
}

/// For an ended process whose status we may not see until its parent collects it: how long that parent is waited for.
const REAPED_BY_OTHERS: Duration = Duration::from_millis(500);

/// A descriptor of the process that has this pid now (zombies too).
///
/// # Errors
/// ESRCH when there is none; ENOSYS before Linux 5.3.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// A descriptor of the process with this pid and start time (clock ticks since boot); `None` when that one is gone,
/// also when its pid belongs to another by now.
///
/// # Errors
/// As [`open`], but for ESRCH.
pub fn open_exact(pid: u32, start_time: u64) -> io::Result<Option<OwnedFd>> {
    match open(pid) {
        // The descriptor pins the process, so what /proc says afterwards is about it or about nobody.
        Ok(fd) => Ok((proc::start_time(pid) == Some(start_time)).then_some(fd)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a signal to exactly that process; 0 only asks whether that may be done.
///
/// # Errors
/// ESRCH when it has ended and was collected, EPERM when it is somebody else's.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: pidfd_send_signal(2) takes two integers, a null siginfo (fill in as kill(2) would) and flags.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until the process has ended and tells how. A child of this process is collected by this, and must not be
/// waited for elsewhere. Of others the status is known for certain from Linux 6.15 on.
///
/// # Errors
/// When the descriptor is none of a process, or no descriptors are left.
pub async fn wait(pidfd: BorrowedFd<'_>) -> io::Result<ExitStatus> {
    // A duplicate, because a descriptor can be registered with epoll(7) only once.
    let registered = Watched::with_interest(pidfd.try_clone_to_owned()?, Interest::READABLE)?;
    let mut ready = registered.readable().await?;
    if let Some(status) = try_wait(pidfd)? {
        return Ok(status);
    }
    // Ended, not our child, not collected yet, not ours to look at: the kernel reports a hang-up when it is collected.
    let collected = async {
        loop {
            ready.clear_ready();
            ready = registered.readable().await?;
            if let Some(status) = try_wait(pidfd)? {
                return Ok(status);
            }
        }
    };
    tokio::time::timeout(REAPED_BY_OTHERS, collected).await.unwrap_or(Ok(ExitStatus::Unknown))
}

/// Waits until the process has ended and collects nothing: for those whose status is somebody else's business.
///
/// # Errors
/// As [`wait`].
pub async fn ended(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let registered = Watched::with_interest(pidfd.try_clone_to_owned()?, Interest::READABLE)?;
    registered.readable().await?.retain_ready();
    Ok(())
}

/// The status of a process that has ended; `None` when it runs, or when its status is not to be had yet. A child of this
/// process is collected by this.
///
/// # Errors
/// When the descriptor is none of a process.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(None) => Ok(None),
        Ok(Some(status)) => Ok(Some(ExitStatus::from_waitid(&status))),
        Err(rustix::io::Errno::CHILD) => match uncollected_status(pidfd) {
            Some(status) => Ok(Some(status)),
            None => collected_status(pidfd),
        },
        Err(error) => Err(error.into()),
    }
}

/// The status of somebody else's child that has ended and waits to be collected.
fn uncollected_status(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    let word = proc::zombie_wait_word(pid)?;
    // Until it is collected nobody else gets its pid: if it can be signalled now, /proc spoke of it.
    match send_signal(pidfd, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
        _ => Some(ExitStatus::from_wait_word(word)),
    }
}

/// What the kernel remembers of a process that somebody else collected (PIDFD_INFO_EXIT of ioctl_pidfd(2), Linux 6.15).
fn collected_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    // SAFETY: the structure is integers only, for which zero is a value.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the request's number carries the size of the structure, which the kernel does not write beyond.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    if result == 0 {
        let known = info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
        return Ok(known.then(|| ExitStatus::from_wait_word(info.exit_code)));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Before 6.13 there is no such request, before 6.15 it knows of no exits and finds nobody.
        Some(libc::ENOTTY | libc::EINVAL | libc::ENOSYS | libc::ESRCH | libc::EOPNOTSUPP) => {
            Ok(Some(ExitStatus::Unknown))
        }
        _ => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn status_of(script: &str, signal: Option<i32>) -> ExitStatus {
        let mut child = Command::new("sh").arg("-c").arg(script).spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        if let Some(signal) = signal {
            send_signal(pidfd.as_fd(), signal).unwrap();
        }
        let status = tokio::time::timeout(DEADLINE, wait(pidfd.as_fd())).await.unwrap().unwrap();
        assert!(child.wait().is_err(), "it was collected");
        status
    }

    #[tokio::test]
    async fn a_childs_code_and_signal_are_told() {
        assert_eq!(status_of("exit 7", None).await, ExitStatus::Code(7));
        assert_eq!(status_of("exec sleep 60", Some(libc::SIGKILL)).await, ExitStatus::Signal(libc::SIGKILL));
        assert_eq!(status_of("exec sleep 60", Some(libc::SIGTERM)).await, ExitStatus::Signal(libc::SIGTERM));
    }

    #[tokio::test]
    async fn a_process_that_is_not_our_child_is_waited_for() {
        // The shell prints its child's pid and ends; the child goes to init.
        let mut shell =
            Command::new("sh").args(["-c", "sleep 60 >/dev/null & echo $!"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        shell.wait().unwrap();
        let pidfd = open(line.trim().parse().unwrap()).unwrap();
        let waiting = wait(pidfd.as_fd());
        send_signal(pidfd.as_fd(), libc::SIGTERM).unwrap();
        let status = tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert_eq!(status, ExitStatus::Signal(libc::SIGTERM));
    }

    #[tokio::test]
    async fn two_may_wait_for_the_same_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        let (one, two) = (wait(pidfd.as_fd()), wait(pidfd.as_fd()));
        child.kill().unwrap();
        let (one, two) = tokio::time::timeout(DEADLINE, async { tokio::join!(one, two) }).await.unwrap();
        // The first one collects it; the second asks the kernel's memory.
        assert_eq!(one.unwrap(), ExitStatus::Signal(libc::SIGKILL));
        assert!(matches!(two.unwrap(), ExitStatus::Signal(libc::SIGKILL) | ExitStatus::Unknown));
        child.wait().unwrap_err();
    }

    #[test]
    fn a_pid_alone_names_nobody() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let start_time = proc::start_time(child.id()).unwrap();
        assert!(open_exact(child.id(), start_time).unwrap().is_some());
        assert!(open_exact(child.id(), start_time + 1).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(open_exact(child.id(), start_time).unwrap().is_none());
        assert!(open(0).is_err() && open(u32::MAX).is_err());
    }
}
