//! Orphans: being the one to whom descendants fall whose parents have died, and collecting them.
//!
//! Owns prctl(2)'s PR_SET_CHILD_SUBREAPER. Must never collect a child that somebody waits for.

use std::io;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::pidfd::ExitStatus;
use super::proc::{self, Stat};

/// Makes this process the parent of all descendants whose parents die, in place of init. Inherited by nobody, lost by
/// nothing but its end (an exec keeps it).
///
/// # Errors
/// Before Linux 3.4.
pub fn enable() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Collects the children that have ended and that are nobody's: those for which `is_own` says no. It must say yes for
/// every child that was started here and has a waiter. To be called when SIGCHLD came.
///
/// # Errors
/// When /proc cannot be read.
pub fn collect(is_own: impl Fn(u32) -> bool) -> io::Result<Vec<(u32, ExitStatus)>> {
    let mut collected = Vec::new();
    for pid in proc::children(std::process::id())? {
        if is_own(pid) || !Stat::read(pid).is_ok_and(|stat| stat.is_dead()) {
            continue;
        }
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        // Nobody but this function collects it, so its pid has not been reused since it was listed.
        if let Ok(Some(status)) = waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            collected.push((pid, ExitStatus::from_waitid(&status)));
        }
    }
    Ok(collected)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use crate::sys::pidfd;

    /// Runs in a process of its own: what is set here holds for the whole process, and the other tests' children
    /// are nobody's to it.
    const ALONE: &str = "PM2RS_TEST_SUBREAPER";

    #[test]
    fn orphans_are_collected_and_our_own_children_are_not() {
        if std::env::var_os(ALONE).is_none() {
            let name = "sys::subreaper::tests::orphans_are_collected_and_our_own_children_are_not";
            let mut command = Command::new(std::env::current_exe().unwrap());
            let output = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            enable().unwrap();
            // A shell that leaves an orphan behind, and is a child of ours itself.
            let mut shell = Command::new("sh")
                .args(["-c", "sleep 600 >/dev/null & echo $!; exit 4"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let orphan: u32 = line.trim().parse().unwrap();
            let (shell_fd, orphan_fd) = (pidfd::open(shell.id()).unwrap(), pidfd::open(orphan).unwrap());
            pidfd::ended(shell_fd.as_fd()).await.unwrap();
            assert_eq!(Stat::read(orphan).unwrap().ppid, std::process::id());
            assert_eq!(collect(|pid| pid == shell.id()).unwrap(), []);
            pidfd::send_signal(orphan_fd.as_fd(), libc::SIGTERM).unwrap();
            pidfd::ended(orphan_fd.as_fd()).await.unwrap();
            let collected = collect(|pid| pid == shell.id()).unwrap();
            assert_eq!(collected, [(orphan, ExitStatus::Signal(libc::SIGTERM))]);
            assert_eq!(shell.wait().unwrap().code(), Some(4));
        });
    }
}
