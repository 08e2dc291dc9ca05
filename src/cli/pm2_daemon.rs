//! PM2's own daemon, where one runs beside us.
//!
//! Must never take another process for it: what is signalled is held by a descriptor, and its title is read after that.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::exit::Failure;

/// PM2 stops its apps one after the other, each with its own time; when this is over it is not coming to an end.
const END_DEADLINE: Duration = Duration::from_secs(300);

/// PM2's daemon of one home.
pub struct Pm2Daemon {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Pm2Daemon {
    /// The daemon of a home: by its pid file, or, where somebody else has written that, by its title.
    ///
    /// # Errors
    /// When the process cannot be watched.
    pub fn of(home: &Path) -> Result<Option<Pm2Daemon>, Failure> {
        let pid = fs::read_to_string(home.join("pm2.pid")).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let by_file = |title: &str| is_pm2(title) || title.contains("/lib/Daemon.js");
        if let Some(found) = pid.map(|pid| Pm2Daemon::with_pid(pid, by_file)).transpose()?.flatten() {
            return Ok(Some(found));
        }
        // Everybody can take on a title, but not the user to whom the home belongs, nor root.
        let Ok(owner) = fs::metadata(home).map(|meta| meta.uid()) else { return Ok(None) };
        let named = format!("God Daemon ({})", home.display());
        let by_title = |title: &str| is_pm2(title) && title.contains(&named);
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let trusted = entry.metadata().is_ok_and(|meta| [owner, 0].contains(&meta.uid()));
            if trusted && by_title(&title(pid)) {
                return Pm2Daemon::with_pid(pid, by_title);
            }
        }
        Ok(None)
    }

    fn with_pid(pid: i32, is_it: impl Fn(&str) -> bool) -> Result<Option<Pm2Daemon>, Failure> {
        let Some(id) = Pid::from_raw(pid) else { return Ok(None) };
        let pidfd = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(Failure::error(format!("cannot watch PM2's daemon: {}", io::Error::from(error)))),
        };
        Ok(is_it(&title(pid)).then_some(Pm2Daemon { pid: id, pidfd }))
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Has it write its list and end, and waits until it has.
    ///
    /// # Errors
    /// When it may not be signalled, or does not end.
    pub fn end(&self) -> Result<(), Failure> {
        pidfd_send_signal(&self.pidfd, Signal::TERM)
            .map_err(|error| Failure::error(format!("cannot stop PM2's daemon: {}", io::Error::from(error))))?;
        let deadline = Instant::now() + END_DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: 0 };
            // A pidfd is readable once its process has ended (pidfd_open(2)).
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(Failure::error("PM2's daemon does not end; nothing was taken over")),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(Failure::error(format!("cannot wait for PM2's end: {}", io::Error::from(error))));
                }
            }
        }
    }
}

/// What a process calls itself; empty when it is gone.
fn title(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

fn is_pm2(title: &str) -> bool {
    title.starts_with("PM2 ") && title.contains("God Daemon")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn only_pm2s_daemon_is_taken_for_it() {
        let home = tempfile::tempdir().unwrap();
        let pid_file = home.path().join("pm2.pid");
        assert!(Pm2Daemon::of(home.path()).unwrap().is_none());
        fs::write(&pid_file, std::process::id().to_string()).unwrap();
        assert!(Pm2Daemon::of(home.path()).unwrap().is_none(), "this test is not PM2");
        fs::write(&pid_file, "nonsense").unwrap();
        assert!(Pm2Daemon::of(home.path()).unwrap().is_none());
    }

    /// A process with the title of a home's daemon, ended with the test.
    struct StandIn(Child);

    impl StandIn {
        fn of(home: &Path, uid: u32) -> StandIn {
            let named = format!("PM2 v7.0.4: God Daemon ({})", home.display());
            let stand_in = StandIn(Command::new("sleep").arg0(named).arg("1000").uid(uid).spawn().unwrap());
            // exec(2) closes the pipe by which spawn waits for it before the new arguments are to be read in /proc.
            let deadline = Instant::now() + Duration::from_secs(20);
            while !is_pm2(&title(stand_in.pid())) {
                assert!(Instant::now() < deadline, "it has no title");
                std::thread::yield_now();
            }
            stand_in
        }

        fn pid(&self) -> i32 {
            self.0.id().cast_signed()
        }
    }

    impl Drop for StandIn {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn it_is_found_and_ended_though_the_pid_file_names_another() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("pm2.pid"), std::process::id().to_string()).unwrap();
        let mut stand_in = StandIn::of(home.path(), nix::unistd::geteuid().as_raw());
        let found = Pm2Daemon::of(home.path()).unwrap().unwrap();
        assert_eq!(found.pid(), stand_in.pid());
        assert!(Pm2Daemon::of(&home.path().join("other")).unwrap().is_none());
        let ending = std::thread::spawn(move || stand_in.0.wait().unwrap());
        found.end().unwrap();
        assert!(!ending.join().unwrap().success());
    }

    #[test]
    fn another_users_process_of_that_title_is_not_taken_for_it() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can act for two users");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let _impostor = StandIn::of(home.path(), 1);
        assert_eq!(Pm2Daemon::of(home.path()).unwrap().map(|found| found.pid()), None);
    }
}
