//! The keeper: stands in for the little of a service manager that a daemon needs, where there is none. A private daemon
//! has one above it, and a container's first process is one.
//!
//! Starts the daemon, keeps what it wants kept, starts it again when it dies and gives it back what was kept; passes
//! signals on; collects orphans. Owns nothing else and knows nothing of apps. It must stay so simple that it has no reason
//! to die: one thread, one poll(2), no event loop.

mod renewal;

pub use renewal::check;
pub(super) use renewal::{is_of_keeper, resume};

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode as FileMode, umask};
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::succession::own_program;
use super::{Mode, Paths, keeping, previous};
use crate::sys::handover;
use crate::sys::inbox::{self, Inbox};
use crate::sys::notify::{self, Notifier, Passed};
use crate::sys::pidfd::{self, ExitStatus};
use crate::sys::spawn::{Child, Spawn};
use crate::sys::store::Store;
use crate::sys::subreaper;
use crate::sys::ulimits::{self, Limit};

/// Where the daemon is listened to.
const INBOX: &str = "keeper.sock";
/// What is passed on to the daemon.
const SIGNALS: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
/// A daemon that says nothing for so long hangs. As in the packaged units.
const WATCHDOG: Duration = Duration::from_secs(30);
/// A daemon that was ready for so long did not die of how it started.
const GOOD_LIFE: Duration = Duration::from_secs(1);
/// From a daemon's death to the next one; doubled with each that had no good life. One that gets ready at least does some
/// good, and is not waited for long.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE_UNREADY: Duration = Duration::from_secs(10);
/// When so many in a row crashed before they were ready, it is what they were given that has them crash. That takes more
/// than a minute, within which somebody may mend what else it is.
const HOPELESS: u32 = 16;
/// The exit code of a Rust program that panics.
const PANIC: i32 = 101;
/// Orphans are collected a little after their end: until then the daemon, which is not their parent, sees how it came.
const MOURNING: Duration = Duration::from_millis(200);
/// How long whoever held the home before us may take to let go of it.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(10);

/// Whether a daemon of this mode is to have a keeper above it: nobody else has started it who listens. A container's
/// first process has nobody above it whatever its variables say.
pub(super) fn is_needed(mode: &Mode) -> bool {
    let watched = std::env::var_os("NOTIFY_SOCKET").is_some_and(|address| !address.is_empty());
    // A daemon that has executed itself anew, and whose keeper has died.
    let executed = std::env::var_os(handover::VARIABLE).is_some();
    matches!(mode, Mode::Private { .. }) && (!watched || std::process::id() == 1) && !executed
}

/// A keeper for this home, before it keeps anything. `None` where it could not be heard: a daemon without one is better
/// than none.
///
/// # Errors
/// When another daemon serves the home, or signals cannot be received.
pub(super) fn prepare(paths: &Paths) -> anyhow::Result<Option<Keeper>> {
    let lock = lock(paths)?;
    let inbox = paths.runtime.join(INBOX);
    let inbox = match Inbox::bind(&inbox) {
        Ok(inbox) => inbox,
        Err(error) => {
            warn!(path = %inbox.display(), %error, "cannot listen; nobody starts the daemon again if it dies");
            return Ok(None);
        }
    };
    let sockets = notify::take_passed().context("cannot take the sockets that were passed")?;
    let above = Notifier::from_environment().ok().flatten();
    Ok(Some(Keeper { sockets, above, limit: ulimits::raise_open_files().ok(), ..Keeper::new(inbox, lock)? }))
}

/// One keeper a home. One that is just going is waited for; one whose daemon serves is not.
fn lock(paths: &Paths) -> anyhow::Result<Flock<File>> {
    let path = paths.state.join("keeper.lock");
    let open = || File::options().create(true).truncate(false).write(true).open(&path);
    let end = Instant::now() + PATIENCE;
    loop {
        let file = open().with_context(|| format!("cannot open `{}`", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, nix::errno::Errno::EWOULDBLOCK))
                if Instant::now() < end && UnixStream::connect(paths.socket()).is_err() =>
            {
                std::thread::sleep(RETRY);
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!("another daemon already serves `{}`", paths.state.display())
            }
            Err((_, errno)) => bail!("cannot lock `{}`: {}", path.display(), errno.desc()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Keeper {
    program: PathBuf,
    /// Not of the daemon's making: each one gets them.
    sockets: Vec<Passed>,
    /// Who wants to hear of the daemon besides us.
    above: Option<Notifier>,
    /// What the daemon is to have.
    limit: Option<Limit>,
    inbox: Inbox,
    signals: SignalFd,
    /// Who waits for the first daemon to be ready; it tells them itself.
    ready: Option<OwnedFd>,
    daemon: Option<Daemon>,
    restart_at: Option<Instant>,
    /// When orphans are to be collected.
    mourning: Option<Instant>,
    /// The daemon is ending on purpose.
    ending: bool,
    /// It would end a daemon that does not listen to it yet.
    to_pass_on: Option<Signal>,
    lives: Lives,
    /// The daemon is executing another program.
    reloading: bool,
    /// It has, and so should we.
    renewal_due: bool,
    /// The installed program, by device and inode, which died when the daemon executed it.
    distrusted: Option<(u64, u64)>,
    lock: Flock<File>,
}

#[derive(Debug)]
struct Daemon {
    child: Child,
    ready_since: Option<Instant>,
    heard: Instant,
}

impl Daemon {
    fn hangs(&self, now: Instant) -> bool {
        self.ready_since.is_some() && now.saturating_duration_since(self.heard) >= WATCHDOG
    }
}

/// How daemons fared lately.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Lives {
    /// Since the last that had a good life.
    short: u32,
    /// Since the last that was ready.
    never_ready: u32,
    /// Those of them that did not say themselves why they could not start.
    crashed: u32,
    /// Whether any ever was.
    any_ready: bool,
}

impl Lives {
    fn ended(&mut self, ready_for: Option<Duration>, status: ExitStatus) {
        if ready_for.is_some() {
            (self.never_ready, self.crashed) = (0, 0);
        } else {
            self.never_ready = self.never_ready.saturating_add(1);
            let crashed = matches!(status, ExitStatus::Signal(_) | ExitStatus::Code(PANIC));
            self.crashed = self.crashed.saturating_add(u32::from(crashed));
        }
        let good = ready_for.is_some_and(|time| time >= GOOD_LIFE);
        self.short = if good { 0 } else { self.short.saturating_add(1) };
    }

    fn pause(&self) -> Duration {
        let longest = if self.never_ready == 0 { LONGEST_PAUSE } else { LONGEST_PAUSE_UNREADY };
        PAUSE.saturating_mul(1 << self.short.min(16)).min(longest)
    }
}

impl Keeper {
    /// One that has no daemon yet and is about to start it.
    fn new(inbox: Inbox, lock: Flock<File>) -> anyhow::Result<Keeper> {
        let mask: SigSet = SIGNALS.into_iter().chain([Signal::SIGCHLD]).collect();
        mask.thread_block().context("cannot hold signals back")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        if let Err(error) = subreaper::enable() {
            warn!(%error, "cannot collect orphans");
        }
        Ok(Keeper {
            program: own_program(),
            sockets: Vec::new(),
            above: None,
            limit: None,
            inbox,
            signals: signals.context("cannot receive signals")?,
            ready: None,
            daemon: None,
            restart_at: Some(Instant::now()),
            mourning: None,
            ending: false,
            to_pass_on: None,
            lives: Lives::default(),
            reloading: false,
            renewal_due: false,
            distrusted: None,
            lock,
        })
    }

    /// Keeps a daemon until it ends in peace. `ready` is for the first: it tells whoever waits for it.
    ///
    /// # Errors
    /// That the first one was killed before it was ready. One that failed has said why, and this process ends as it did.
    pub(super) fn run(mut self, ready: Option<OwnedFd>) -> anyhow::Result<()> {
        self.ready = ready;
        let end = self.keep()?;
        // Others must not find what is left of it once this process has said that it is over.
        drop(self);
        match end {
            ExitStatus::Code(0) => Ok(()),
            ExitStatus::Code(code) => std::process::exit(code),
            end => bail!("the daemon was ended by {end} before it was ready"),
        }
    }

    /// Goes on until a daemon has ended in peace, or the first could not start.
    fn keep(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            self.wait().context("cannot wait for anything")?;
            while let Some(word) = self.inbox.take().context("cannot hear the daemon")? {
                self.hear(&word);
            }
            while let Some(info) = self.signals.read_signal().context("cannot receive signals")? {
                self.on_signal(info.ssi_signo.cast_signed());
            }
            if let Some(status) = self.collect_daemon()?
                && let Some(end) = self.after_death(status)
            {
                return Ok(end);
            }
            if std::mem::take(&mut self.renewal_due) {
                self.renew();
            }
            let now = Instant::now();
            if self.restart_at.is_some_and(|at| at <= now) {
                self.restart_at = None;
                if let Err(error) = self.start() {
                    if !self.lives.any_ready {
                        return Err(error).context("cannot start the daemon");
                    }
                    error!(%error, "cannot start the daemon");
                    self.plan_restart(None, ExitStatus::Unknown);
                }
            }
            if let Some(daemon) = self.daemon.as_ref().filter(|daemon| daemon.hangs(now)) {
                error!(pid = daemon.child.pid, "the daemon hangs and is killed");
                let _ = pidfd::send_signal(daemon.child.pidfd.as_fd(), libc::SIGKILL);
            }
            if self.mourning.is_some_and(|at| at <= now) {
                self.collect_orphans();
            }
        }
    }

    /// Sleeps until something happens or is due.
    fn wait(&self) -> io::Result<()> {
        let beat = self.daemon.as_ref().filter(|daemon| daemon.ready_since.is_some()).map(|d| d.heard + WATCHDOG);
        let due = [self.restart_at, self.mourning, beat].into_iter().flatten().min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = left.map(rustix::event::Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut fds = vec![PollFd::new(&self.inbox, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.daemon.as_ref().map(|daemon| PollFd::new(&daemon.child.pidfd, PollFlags::IN)));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear(&mut self, word: &inbox::Word) {
        let now = Instant::now();
        if let Some(daemon) = &mut self.daemon {
            daemon.heard = now;
            if word.ready {
                daemon.ready_since.get_or_insert(now);
                self.lives.any_ready = true;
            }
        }
        self.ending |= word.stopping;
        self.reloading |= word.reloading;
        if word.ready
            && let Some(signal) = self.to_pass_on.take()
        {
            self.pass_on(signal);
        }
        if word.ready && std::mem::take(&mut self.reloading) {
            self.renewal_due = true;
        }
        if let Some(above) = &self.above
            && !word.text.is_empty()
        {
            // Whoever does not listen misses something; nothing depends on it.
            let _ = above.pass_on(&word.text);
        }
    }

    fn on_signal(&mut self, number: i32) {
        match Signal::try_from(number) {
            Ok(Signal::SIGCHLD) => drop(self.mourning.get_or_insert(Instant::now() + MOURNING)),
            Ok(signal) => {
                let is_ready = self.daemon.as_ref().is_some_and(|daemon| daemon.ready_since.is_some());
                if is_ready {
                    self.pass_on(signal);
                } else {
                    self.to_pass_on = Some(signal);
                    // A dead daemon's workers are ended by the next one, in their time.
                    self.restart_at = self.restart_at.map(|_| Instant::now());
                }
            }
            Err(_) => {}
        }
    }

    fn pass_on(&self, signal: Signal) {
        if let Some(daemon) = &self.daemon
            && let Err(error) = pidfd::send_signal(daemon.child.pidfd.as_fd(), signal as i32)
        {
            warn!(%error, %signal, "cannot pass a signal on to the daemon");
        }
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let (mut fds, names) = inbox::listed(self.sockets.iter().chain(self.inbox.kept()))?;
        // During an upgrade there may be no such file for a moment.
        let installed = previous::file(&self.program).filter(|file| Some(*file) != self.distrusted);
        let program = if installed.is_some() { &self.program } else { Path::new("/proc/self/exe") };
        let mut spawn = Spawn::new(program, std::env::args_os().skip(1));
        spawn.env = environment(self.inbox.path());
        if !fds.is_empty() {
            spawn.env.push(("LISTEN_FDS".into(), fds.len().to_string().into()));
            spawn.env.push(("LISTEN_FDNAMES".into(), names.into()));
            spawn.pid_vars = vec!["LISTEN_PID".into()];
        }
        fds.push((io::stdout().as_fd().try_clone_to_owned()?, 1));
        fds.push((io::stderr().as_fd().try_clone_to_owned()?, 2));
        // Nobody waits for the later ones.
        let first = self.ready.take();
        let is_first = first.is_some();
        fds.extend(first.map(|ready| (ready, 0)));
        spawn.fds = fds;
        spawn.umask = current_umask();
        // It keeps our raised limit: with a lower one and more descriptors than that, it could not open its libraries.
        if let Some(limit) = self.limit {
            spawn.env.push((ulimits::VARIABLE.into(), limit.soft.to_string().into()));
        }
        spawn.cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let child = spawn.start()?.let_go();
        if is_first {
            // With a copy of it open here, who waits would not see its end.
            nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        }
        if self.lives.any_ready {
            info!(pid = child.pid, descriptors = self.inbox.kept().len(), "started another daemon");
        }
        self.daemon = Some(Daemon { child, ready_since: None, heard: Instant::now() });
        Ok(())
    }

    fn collect_daemon(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(daemon) = &self.daemon else { return Ok(None) };
        pidfd::try_wait(daemon.child.pidfd.as_fd()).context("cannot tell how the daemon ended")
    }

    /// How all of this ends, if it does.
    fn after_death(&mut self, status: ExitStatus) -> Option<ExitStatus> {
        let daemon = self.daemon.take()?;
        let ready_for = daemon.ready_since.map(|since| since.elapsed());
        // It said that it could take over, and could not. What runs here is the program that could.
        let failed = std::mem::take(&mut self.reloading) && !self.ending;
        let in_peace = status == ExitStatus::Code(0) && !failed;
        if in_peace || !self.lives.any_ready {
            return Some(status);
        }
        if failed {
            error!(program = %self.program.display(), "the installed program did not get ready; the one before goes on");
            self.distrusted = previous::file(&self.program);
        }
        let pid = daemon.child.pid;
        if self.ending {
            warn!(pid, %status, "the daemon died while it was ending; what it left is ended");
            self.end_workers();
            return Some(ExitStatus::Code(1));
        }
        error!(pid, %status, "the daemon died");
        self.plan_restart(ready_for, status);
        None
    }

    fn plan_restart(&mut self, ready_for: Option<Duration>, status: ExitStatus) {
        self.lives.ended(ready_for, status);
        if self.lives.crashed == HOPELESS && !self.inbox.kept().is_empty() {
            error!("no daemon gets ready with what the one before left; the next one starts the apps anew");
            self.end_workers();
        }
        self.restart_at = Some(Instant::now() + self.lives.pause());
    }

    /// SIGKILL to what the daemon left running, and lets go of all that it wanted kept.
    fn end_workers(&mut self) {
        let copy = |kept: &Passed| Some(Passed { fd: kept.fd.try_clone().ok()?, name: kept.name.clone() });
        let (store, _) = Store::new(None, self.inbox.kept().iter().filter_map(copy).collect());
        for worker in keeping::kept(&store) {
            keeping::end(&store, worker);
        }
        self.inbox.let_go();
    }

    fn collect_orphans(&mut self) {
        let is_ready = self.daemon.as_ref().is_some_and(|daemon| daemon.ready_since.is_some());
        if !is_ready && self.lives.never_ready < HOPELESS {
            // The next daemon wants to know how they ended.
            self.mourning = Some(Instant::now() + MOURNING);
            return;
        }
        self.mourning = None;
        let own = self.daemon.as_ref().map(|daemon| daemon.child.pid);
        if let Err(error) = subreaper::collect(|pid| Some(pid) == own) {
            warn!(%error, "cannot collect orphans");
        }
    }
}

/// What the daemon gets of our variables, and what a service manager says by them.
fn environment(inbox: &Path) -> Vec<(OsString, OsString)> {
    let is_ours = |name: &OsString| {
        notify::VARIABLES.iter().chain([&handover::VARIABLE, &ulimits::VARIABLE]).any(|ours| name == ours)
    };
    let mut variables: Vec<_> = std::env::vars_os().filter(|(name, _)| !is_ours(name)).collect();
    variables.push(("NOTIFY_SOCKET".into(), inbox.into()));
    variables.push(("WATCHDOG_USEC".into(), WATCHDOG.as_micros().to_string().into()));
    variables
}

/// It can only be read by changing it (umask(2)); there is one thread.
fn current_umask() -> u32 {
    let mask = umask(FileMode::empty());
    umask(mask);
    mask.bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_dies_at_once_is_started_less_and_less_often() {
        let mut lives = Lives::default();
        let mut after = |ready_for: Option<Duration>, status| {
            lives.ended(ready_for, status);
            (lives.pause(), lives.crashed)
        };
        let killed = ExitStatus::Signal(libc::SIGKILL);
        assert_eq!(after(Some(Duration::from_secs(60)), killed), (PAUSE, 0));
        let pauses: Vec<_> = (0..12).map(|_| after(Some(Duration::from_millis(5)), killed).0).collect();
        assert_eq!(pauses[..3], [40, 80, 160].map(Duration::from_millis));
        assert!(pauses.is_sorted() && pauses[11] == LONGEST_PAUSE);
        assert_eq!(after(None, killed), (LONGEST_PAUSE_UNREADY, 1));
        assert_eq!(after(None, ExitStatus::Code(1)), (LONGEST_PAUSE_UNREADY, 1));
        assert_eq!(after(None, ExitStatus::Code(PANIC)), (LONGEST_PAUSE_UNREADY, 2));
        assert_eq!(after(Some(GOOD_LIFE), killed), (PAUSE, 0));
    }

    #[test]
    fn a_daemon_gets_no_variable_that_was_meant_for_us() {
        let variables = environment(Path::new("/home/keeper.sock"));
        let value =
            |name: &str| variables.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
        assert_eq!(value("NOTIFY_SOCKET"), ["/home/keeper.sock"]);
        assert_eq!(value("WATCHDOG_USEC"), ["30000000"]);
        assert_eq!(value("PATH").len(), 1);
    }
}
