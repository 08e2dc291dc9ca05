//! The keeper executes the program that is installed now, once its daemon has: same process, daemon and descriptors.
//!
//! Owns what one program tells the next, and the question whether it would understand that. Whatever is in the way, the
//! program of before goes on: a keeper is needed more than a new one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Daemon, Keeper, Lives, Paths};
use crate::daemon::previous::is_own;
use crate::sys::handover::{self, Handover};
use crate::sys::inbox::Inbox;
use crate::sys::memfd;
use crate::sys::notify::{Notifier, Passed};
use crate::sys::pidfd::{self, ExitStatus};
use crate::sys::spawn::{Child, Spawn};
use crate::sys::ulimits;

/// Layout of [`State`]. Raised when an older release could not go on with it.
const FORMAT: u32 = 1;
/// A program that has not answered within this time is none that one would want to become; even a machine that has no time
/// for it lets it answer in less. The daemon is not looked after meanwhile.
const DEADLINE: Duration = Duration::from_secs(10);
/// A state that is larger is none of ours.
const MAX_STATE: usize = 64 << 10;

/// What the descriptors are called that go over the execution.
const STATE: &str = "keeper.state";
const INBOX: &str = "keeper.inbox";
const LOCK: &str = "keeper.lock";
/// Begins the names of what the daemon wants kept, and of the sockets that each daemon gets.
const KEPT: &str = "kept.";
const SOCKET: &str = "socket.";

/// What is told besides. Fields may be added with a default.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    /// The daemon, which stays our child.
    daemon: u32,
    daemon_start_time: u64,
    /// For how long (ms) it has been ready.
    ready_for: Option<u64>,
    lives: Lives,
}

/// Whether a keeper of this program could go on with what `text` tells.
///
/// # Errors
/// What is not understood.
pub fn check(text: &[u8]) -> anyhow::Result<()> {
    let state: State = serde_json::from_slice(text).context("cannot understand the keeper's state")?;
    if state.format > FORMAT {
        bail!(
            "cannot read the keeper's state: its format {} is newer than {FORMAT}, the last one known here",
            state.format
        );
    }
    Ok(())
}

/// Whether a handover comes from a keeper.
pub(in crate::daemon) fn is_of_keeper(handover: &Handover) -> bool {
    handover.passed.iter().any(|passed| passed.name == STATE)
}

/// Goes on as the keeper that executed this program.
///
/// # Errors
/// What is missing. The daemon goes on without a keeper then.
pub(in crate::daemon) fn resume(paths: &Paths, handover: Handover) -> anyhow::Result<Keeper> {
    let (mut state, mut inbox, mut lock) = (None, None, None);
    let (mut kept, mut sockets) = (Vec::new(), Vec::new());
    for Passed { fd, name } in handover.passed {
        match name.as_str() {
            STATE => state = Some(memfd::read_all(fd, MAX_STATE).context("cannot read the keeper's state")?),
            INBOX => inbox = Some(fd),
            LOCK => lock = Some(File::from(fd)),
            _ => match (name.strip_prefix(KEPT), name.strip_prefix(SOCKET)) {
                (Some(name), _) => kept.push(Passed { name: name.to_owned(), fd }),
                (None, Some(name)) => sockets.push(Passed { name: name.to_owned(), fd }),
                (None, None) => {}
            },
        }
    }
    let (Some(state), Some(inbox), Some(lock)) = (state, inbox, lock) else {
        bail!("the keeper before has not handed on all that it had");
    };
    check(&state)?;
    let state: State = serde_json::from_slice(&state)?;
    let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else { bail!("the keeper's lock is another's") };
    // Our child: until it is collected here nobody else has its pid.
    let pidfd = pidfd::open(state.daemon).context("cannot open the daemon")?;
    let child = Child { pid: state.daemon, pidfd, start_time: state.daemon_start_time };
    let now = Instant::now();
    let ready_since = state.ready_for.map(|ms| now.checked_sub(Duration::from_millis(ms)).unwrap_or(now));
    let limit = ulimits::raise_open_files().ok();
    Ok(Keeper {
        sockets,
        above: Notifier::from_environment().ok().flatten(),
        limit: limit.map(|limit| limit.with_soft(handover.open_files.unwrap_or(limit.soft))),
        daemon: Some(Daemon { child, ready_since, heard: now }),
        restart_at: None,
        // Whatever ended meanwhile.
        mourning: Some(now),
        lives: state.lives,
        ..Keeper::new(Inbox::again(inbox, paths.runtime.join(super::INBOX), kept)?, lock)?
    })
}

impl Keeper {
    /// Executes the installed program, if it is another one and can go on where we are.
    pub(super) fn renew(&self) {
        if is_own(&self.program) {
            return;
        }
        let program = self.program.display();
        let Err(error) = self.try_to_renew();
        warn!(%program, error = format!("{error:#}"), "the keeper goes on with the program of before");
    }

    fn try_to_renew(&self) -> anyhow::Result<std::convert::Infallible> {
        let daemon = self.daemon.as_ref().context("there is no daemon")?;
        let state = State {
            format: FORMAT,
            daemon: daemon.child.pid,
            daemon_start_time: daemon.child.start_time,
            ready_for: daemon.ready_since.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            lives: self.lives.clone(),
        };
        let state = serde_json::to_vec(&state)?;
        ask(&self.program, &state).context("the installed program cannot keep the daemon")?;
        let state = memfd::sealed("pm2rs-keeper", &state)?;
        let mut fds: Vec<(String, BorrowedFd<'_>)> = vec![
            (STATE.to_owned(), state.as_fd()),
            (INBOX.to_owned(), self.inbox.as_fd()),
            (LOCK.to_owned(), self.lock.as_fd()),
        ];
        fds.extend(self.inbox.kept().iter().map(|kept| (format!("{KEPT}{}", kept.name), kept.fd.as_fd())));
        fds.extend(self.sockets.iter().map(|socket| (format!("{SOCKET}{}", socket.name), socket.fd.as_fd())));
        info!(program = %self.program.display(), "the keeper executes the installed program");
        let args: Vec<_> = std::env::args_os().collect();
        let error = handover::execute(&self.program, &args, &fds, self.limit.map(|limit| limit.soft));
        Err(error).context("cannot execute it")
    }
}

/// Has the program say whether it could go on with this.
fn ask(program: &Path, state: &[u8]) -> anyhow::Result<()> {
    let mut spawn = Spawn::new(program, ["daemon", "--check-keeper"]);
    spawn.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    // It says why not where the keeper's own log goes.
    spawn.fds = vec![(memfd::sealed("pm2rs-keeper", state)?, 0), (io::stderr().as_fd().try_clone_to_owned()?, 2)];
    let child = spawn.start()?.let_go();
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = pidfd::try_wait(child.pidfd.as_fd())? {
            return if status == ExitStatus::Code(0) { Ok(()) } else { bail!("it ended with {status}") };
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Collected with the orphans.
            let _ = pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            bail!("it did not say so within {} s", DEADLINE.as_secs());
        }
        match rustix::event::poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&left.try_into()?)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_a_later_format_is_not_gone_on_with() {
        let of = |format: u32| {
            let state = State { format, daemon: 1, daemon_start_time: 2, ready_for: None, lives: Lives::default() };
            serde_json::to_vec(&state).unwrap()
        };
        check(&of(FORMAT)).unwrap();
        assert!(check(&of(FORMAT + 1)).unwrap_err().to_string().contains("newer"));
        check(b"{}").unwrap_err();
    }
}
