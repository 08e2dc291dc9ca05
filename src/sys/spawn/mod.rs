//! Starting a process: everything about it is said beforehand, nothing else is inherited.
//!
//! Owns fork and exec. The parent prepares all that the child needs, down to pointers; [`child`] uses it and nothing
//! else. A child that cannot become the wanted program says where and why over a pipe. Must never leave a process
//! behind that its caller does not know of.

mod child;
mod error;
#[cfg(test)]
mod tests;

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::identity::Identity;
use super::ulimits::Limit;
use super::{pidfd, proc};
use child::{Credentials, Plan, Report};
pub use error::{SpawnError, Stage};

/// A process to be. Descriptors 0, 1 and 2 are /dev/null unless given; signals have their default meaning and none is
/// blocked; it is the leader of a session of its own and does not end with its parent (no PR_SET_PDEATHSIG).
#[derive(Debug)]
pub struct Spawn {
    /// The program's path, absolute.
    pub program: PathBuf,
    /// Its argument list, the name it goes by first.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Names of variables that hold the process's own id (`LISTEN_PID`); they replace those of the same name in `env`.
    pub pid_vars: Vec<OsString>,
    /// Working folder, entered with the process's own rights.
    pub cwd: PathBuf,
    /// Whom it runs as; `None` leaves user and groups as they are.
    pub identity: Option<Identity>,
    /// File mode creation mask.
    pub umask: u32,
    /// Resource limits that differ from the daemon's.
    pub limits: Vec<Limit>,
    /// Nice value, -20 to 19; `None` leaves it.
    pub nice: Option<i32>,
    /// Descriptors it gets, each with the number it has there. Any numbers, in any order.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// The folder of the cgroup (v2) it is born into.
    pub cgroup: Option<OwnedFd>,
    /// Wait before exec until released.
    pub hold: bool,
}

/// A process that was started by us.
#[derive(Debug)]
pub struct Child {
    /// Its id, which is also its session's and process group's.
    pub pid: u32,
    /// The descriptor of it, for waiting and signals.
    pub pidfd: OwnedFd,
    /// When it started (clock ticks since boot); with the pid it names the process for good.
    pub start_time: u64,
}

/// A process that exists but has not yet proved to be the wanted program. Dropped, it is killed and collected.
#[derive(Debug)]
pub struct Held {
    /// `None` once it has been handed out.
    child: Option<Child>,
    /// The child's words; ends when it has executed the program.
    report: OwnedFd,
    /// What it waits for, if it was to be held.
    hold: Option<OwnedFd>,
    about: About,
}

/// What errors are about.
#[derive(Debug, Clone)]
struct About {
    program: PathBuf,
    cwd: PathBuf,
    user: Option<String>,
}

impl Spawn {
    /// A process of this program with these arguments (without the name it goes by, which is its path), in `/`, with
    /// nothing in its environment.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Spawn {
        let program = program.into();
        let args = std::iter::once(program.clone().into()).chain(args.into_iter().map(Into::into)).collect();
        Spawn {
            program,
            args,
            env: Vec::new(),
            pid_vars: Vec::new(),
            cwd: PathBuf::from("/"),
            identity: None,
            umask: 0o022,
            limits: Vec::new(),
            nice: None,
            fds: Vec::new(),
            cgroup: None,
            hold: false,
        }
    }

    /// Makes the process. It goes on by itself unless it is to be held; either way [`Held::release`] tells what has
    /// come of it. Our copies of its descriptors are closed when this returns.
    ///
    /// # Errors
    /// When there can be no process: descriptors, processes or memory have run out, or an argument holds a NUL byte.
    pub fn start(self) -> Result<Held, SpawnError> {
        self.start_by(child::fork)
    }

    fn start_by(self, fork: fn(&Plan) -> io::Result<(u32, OwnedFd)>) -> Result<Held, SpawnError> {
        let about = About {
            program: self.program.clone(),
            cwd: self.cwd.clone(),
            user: self.identity.as_ref().map(|identity| identity.name.clone()),
        };
        let cannot = |stage: Stage| {
            let about = about.clone();
            move |source: io::Error| SpawnError::of_parent(stage, &about, &source)
        };
        let (report, report_end) = pipe().map_err(cannot(Stage::Prepare))?;
        let hold = self.hold.then(pipe).transpose().map_err(cannot(Stage::Prepare))?;
        let (hold_end, hold) = hold.unzip();
        let plan = self.plan(report_end.as_fd(), hold_end.as_ref().map(OwnedFd::as_fd));
        let plan = plan.map_err(cannot(Stage::Prepare))?;
        let (pid, pidfd) = fork(&plan).map_err(cannot(Stage::Fork))?;
        // A child stays readable in /proc until it is collected.
        let start_time = proc::start_time(pid).unwrap_or(0);
        Ok(Held { child: Some(Child { pid, pidfd, start_time }), report, hold, about })
    }

    /// Everything the child needs, in the form in which the kernel takes it.
    fn plan(self, report: BorrowedFd<'_>, hold: Option<BorrowedFd<'_>>) -> io::Result<Plan> {
        let highest = self.fds.iter().map(|(_, target)| *target).max().unwrap_or(0).max(2);
        let mut sources = Vec::new();
        // Descriptors are put above all targets first, so that giving one its number never closes another.
        let above = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, highest + 1).map_err(io::Error::from);
        for (fd, target) in &self.fds {
            if *target < 0 || sources.iter().any(|(_, other)| other == target) {
                let problem = format!("descriptor number {target} is negative or given twice");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
            }
            sources.push((above(fd.as_fd())?, *target));
        }
        if (0..=2).any(|number| !sources.iter().any(|(_, target)| *target == number)) {
            let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
            for number in 0..=2 {
                if !sources.iter().any(|(_, target)| *target == number) {
                    sources.push((above(null.as_fd())?, number));
                }
            }
        }
        let report = above(report)?;
        let hold = hold.map(above).transpose()?;
        let mut env = Vec::with_capacity(self.env.len());
        for (name, value) in &self.env {
            if !self.pid_vars.contains(name) {
                env.push(variable(name, value)?);
            }
        }
        Ok(Plan::new(child::Parts {
            program: c_string(self.program.as_os_str())?,
            args: self.args.iter().map(|arg| c_string(arg)).collect::<io::Result<_>>()?,
            env,
            pid_vars: self.pid_vars.iter().map(|name| variable(name, OsStr::new(""))).collect::<io::Result<_>>()?,
            cwd: c_string(self.cwd.as_os_str())?,
            credentials: self.identity.as_ref().and_then(Credentials::needed),
            umask: self.umask,
            limits: self.limits,
            nice: self.nice,
            sources,
            cgroup: self.cgroup,
            report,
            hold,
        }))
    }
}

impl Held {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    /// When it started (clock ticks since boot).
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.child.as_ref().map_or(0, |child| child.start_time)
    }

    /// Lets it go on, waits until it has executed its program and hands it out.
    ///
    /// # Errors
    /// What kept it from it. A process that has not got there by the deadline (its folder or program on a share that
    /// does not answer) is killed. No process is left behind.
    pub async fn release(mut self, deadline: Duration) -> Result<Child, SpawnError> {
        if let Some(hold) = self.hold.take() {
            // If nobody reads it any more, the report says why.
            let _ = rustix::io::write(&hold, &[1]);
        }
        let failure = match tokio::time::timeout(deadline, self.read_report()).await {
            Ok(Ok(None)) => match self.child.take() {
                Some(child) => return Ok(child),
                None => SpawnError::timed_out(&self.about, deadline),
            },
            Ok(Ok(Some(report))) => SpawnError::of_child(&report, &self.about),
            Ok(Err(error)) => SpawnError::of_parent(Stage::Prepare, &self.about, &error),
            Err(_) => SpawnError::timed_out(&self.about, deadline),
        };
        if let Some(child) = self.child.take() {
            discard(child);
        }
        Err(failure)
    }

    /// Lets it go on and hands it out, without waiting for its exec. One that does not get there ends by itself, with
    /// code 127.
    #[must_use]
    pub fn let_go(mut self) -> Child {
        if let Some(hold) = self.hold.take() {
            // If nobody reads it any more, it has ended.
            let _ = rustix::io::write(&hold, &[1]);
        }
        self.child.take().unwrap_or_else(|| unreachable!("it is handed out once, by a method that takes it"))
    }

    /// What the child says; `None` when it executed its program (or was killed on the way, which its end will tell).
    async fn read_report(&self) -> io::Result<Option<Report>> {
        let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(self.report.try_clone()?)?;
        let mut report = Report::default();
        // The child writes it in one piece that is smaller than PIPE_BUF.
        let read = tokio::io::AsyncReadExt::read(&mut pipe, report.as_bytes_mut()).await?;
        Ok((read == Report::SIZE).then_some(report))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            discard(child);
        }
    }
}

/// Ends a process that nobody will hear of, and collects it. In a thread: a process that sleeps in a system call of
/// a dead network share takes no signal.
fn discard(child: Child) {
    let _ = pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    let collect = move || {
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
    };
    // Without a thread it stays a zombie until this process ends, which is all that can be done then.
    let _ = std::thread::Builder::new().name("collect".to_owned()).spawn(collect);
}

/// A pipe closed on exec, read end first.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| {
        let text = text.to_string_lossy();
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` holds a NUL byte", text.replace('\0', "\\0")))
    })
}

fn variable(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut text = OsString::with_capacity(name.len() + value.len() + 1);
    text.push(name);
    text.push("=");
    text.push(value);
    c_string(&text)
}
