//! The log path: from a worker's pipes to files, the journal and followers.
//!
//! Owns the read ends of all workers' pipes and every log file. One thread, apart from the daemon's loop, does all the
//! reading and writing; everybody else holds a [`Logs`] and asks. Must never keep a worker waiting for a disk, a journal
//! or a reader for long, and must never lose a line without counting it.
//!
//! ```text
//!   pipe ─▶ Stream ─▶ Sinks ─┬─▶ LogFile ─▶ rotated, then compressed and capped by the Housekeeper
//!                            ├─▶ Journal
//!                            ├─▶ Syslog
//!                            ├─▶ Follower ─▶ pipe of whoever looks on
//!                            └─▶ Memory (last lines, where no file has them)
//! ```
//!
//! A service writes files and the journal: PM2's users and their tools go by the files and by the paths that `jlist` has,
//! those of systemd by the journal, and an app that nobody configured is to be found by both. Each can be switched off,
//! for an app by its keys, the journal for all by [`LogsConfig::with_environment`]. Without systemd files are all.
//!
//! What comes from a pipe leaves it only when it is where it belongs: see `stream.rs`.

mod answers;
mod backlog;
mod collector;
pub mod daemon_log;
pub mod dayjs;
mod fault;
mod file;
mod follow;
mod format;
mod history;
mod housekeeping;
mod journal;
mod last_lines;
mod loss;
mod mailbox;
pub mod message_ids;
mod own_lines;
mod paths;
mod place;
mod rate_limit;
mod rotation;
mod schedule;
mod sinks;
mod split;
mod stream;
mod suppression;
mod syslog;
mod tail;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use collector::Collector;
pub use history::Search;
use mailbox::{Command, FollowRequest, Mailbox};
pub use paths::{combined_path, out_path};
pub use rate_limit::limited_unit;

use crate::core::{AppId, AppSpec, NoSyslogAddress, ProcessId, SyslogAddress, Uid, WorkerId};
use crate::sys::identity::Identity;

/// Events that wait for the daemon; more are folded into later ones.
const MAX_EVENTS: usize = 256;

/// Settings of the log path.
#[derive(Debug, Clone)]
pub struct LogsConfig {
    /// Whether lines go to the journal where an app's spec does not say otherwise.
    pub journal: bool,
    /// Where the journal listens.
    pub journal_socket: PathBuf,
    /// The daemon's own log folder. Files right in it that its own account's apps name are created by the daemon and given
    /// to whom the app runs as, who cannot create any there.
    pub folder: PathBuf,
    /// The daemon's own account.
    pub owner: Uid,
    /// Bytes of the rotated files of all apps of one user together.
    pub total_size: u64,
    /// Where lines go besides where an app's spec does not say otherwise; `None` for nowhere.
    pub syslog: Option<SyslogAddress>,
    /// The unit of ours for which journald limits how much it takes; see [`limited_unit`].
    pub limited_unit: Option<String>,
}

impl LogsConfig {
    /// With the usual bounds.
    #[must_use]
    pub fn new(journal: bool, folder: PathBuf) -> LogsConfig {
        LogsConfig {
            journal,
            journal_socket: PathBuf::from("/run/systemd/journal/socket"),
            folder,
            owner: Uid(nix::unistd::geteuid().as_raw()),
            total_size: 4 << 30,
            syslog: None,
            limited_unit: None,
        }
    }

    /// With what the daemon's environment says for all apps; `environment` looks a variable up. `PM2RS_JOURNAL` is `true` or
    /// `false`, `PM2RS_LOG_SYSLOG` an address. What an app's spec says takes precedence. A value that means nothing is
    /// said and passed over: no app is to stay down because of where its lines go.
    #[must_use]
    pub fn with_environment(mut self, environment: impl Fn(&str) -> Option<String>) -> LogsConfig {
        let of = |name: &str| environment(name).filter(|value| !value.is_empty());
        if let Some(value) = of("PM2RS_JOURNAL") {
            match value.parse() {
                Ok(journal) => self.journal = journal,
                Err(_) => tracing::warn!(value, "PM2RS_JOURNAL is neither `true` nor `false`"),
            }
        }
        if let Some(value) = of("PM2RS_LOG_SYSLOG") {
            match value.parse() {
                Ok(address) => self.syslog = Some(address),
                Err(NoSyslogAddress) => tracing::warn!(value, "PM2RS_LOG_SYSLOG is no address: {NoSyslogAddress}"),
            }
        }
        self
    }

    fn syslog_of(&self, spec: &AppSpec) -> Option<SyslogAddress> {
        let address = spec.log.syslog.as_ref().or(self.syslog.as_ref());
        address.filter(|_| !spec.log.disable_logs).cloned()
    }
}

/// Something about logs that the daemon should tell people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// Lines of a process were lost since the last such event.
    Dropped {
        /// Whose.
        process: ProcessId,
        /// How many; a part of a line counts as one.
        lines: u64,
        /// Why, for people.
        reason: String,
    },
    /// Lines of a process can be put nowhere at the moment, and wait.
    Waiting {
        /// Whose.
        process: ProcessId,
        /// Why, for people.
        reason: String,
    },
    /// What the process writes is kept again.
    Recovered {
        /// Whose lines.
        process: ProcessId,
        /// How many were lost in between.
        lines: u64,
    },
    /// journald dropped lines, for there were too many.
    Suppressed {
        /// Whose they are for journald.
        unit: String,
        /// How many since the last such event.
        lines: u64,
    },
}

/// A process whose logs can be asked for, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Known {
    /// The row.
    pub process: ProcessId,
    /// The app.
    pub app: AppId,
    /// Its name.
    pub app_name: String,
    /// Who started it.
    pub app_owner: Uid,
    /// The owner of its files.
    pub identity: Identity,
    /// Where its output goes.
    pub spec: Arc<AppSpec>,
}

/// A worker whose output is to be read.
#[derive(Debug)]
pub struct Source {
    /// The worker.
    pub worker: WorkerId,
    /// The row it serves.
    pub process: ProcessId,
    /// The app.
    pub app: AppId,
    /// Its name.
    pub app_name: String,
    /// Who started it.
    pub app_owner: Uid,
    /// Its namespace.
    pub namespace: String,
    /// Its instance number.
    pub instance: u32,
    /// Its process id; 0 where it is not known yet, see [`Logs::set_pid`].
    pub pid: u32,
    /// The systemd unit it runs in.
    pub unit: Option<String>,
    /// Whose rights its files are opened with.
    pub identity: Identity,
    /// Where its output goes.
    pub spec: Arc<AppSpec>,
    /// Read end of its standard output.
    pub stdout: OwnedFd,
    /// Read end of its standard error.
    pub stderr: OwnedFd,
}

/// Whose lines are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Those of these processes, and of what joins an app all of whose processes these are.
    Processes(Vec<ProcessId>),
    /// Those of all that this user started, or of everybody's apps; also of what is started later.
    All(Option<Uid>),
}

/// What is known about a process's output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Bytes read since the daemon started.
    pub bytes: u64,
    /// Lines lost.
    pub dropped: u64,
    /// What is wrong with its files or the journal right now.
    pub last_error: Option<String>,
}

/// A cheap way to the log path. It ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Logs {
    mailbox: Arc<Mailbox>,
}

impl Logs {
    /// Starts the log path. When threads or descriptors have run out already the log path is dead: that is logged, everything asked of it is
    /// answered with nothing, and workers get EPIPE.
    #[must_use]
    pub fn start(config: LogsConfig) -> (Logs, mpsc::Receiver<LogEvent>) {
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let mailbox = Collector::start(config, events).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot start the log path");
            Mailbox::dead()
        });
        (Logs { mailbox: Arc::new(mailbox) }, receiver)
    }

    /// A process exists: its files can be asked for from now on, whether it runs or not.
    pub fn know(&self, known: Known) {
        self.mailbox.send(Command::Know(Box::new(known)));
    }

    /// Reads what this worker writes from now on, what is in its pipes already included.
    pub fn attach(&self, source: Source) {
        self.mailbox.send(Command::Attach(Box::new(source)));
    }

    /// A worker of this process could not be started: nothing that stands in the files is its.
    pub fn note_failed_start(&self, process: ProcessId) {
        self.mailbox.send(Command::FailedStart(process));
    }

    /// The worker's process id has become known.
    pub fn set_pid(&self, worker: WorkerId, pid: u32) {
        self.mailbox.send(Command::SetPid(worker, pid));
    }

    /// The worker has ended: reads what is left in its pipes, writes it and closes them. Returns when that is done.
    /// When somebody else still holds a pipe open it is closed after a short while; whoever writes to it then gets
    /// EPIPE. Goes on when the future is dropped.
    pub async fn detach(&self, worker: WorkerId) {
        self.ask(|reply| Command::Detach(worker, reply)).await;
    }

    /// The last lines of these processes and then what they write. The descriptor is the read end of a pipe of JSON
    /// objects, one a line: `{"process_id","app_name","type":"out|err","timestamp","message"}`. `timestamp` is in
    /// milliseconds since the epoch, 0 where the file does not tell. An object with `"missed": n` stands in for n lines
    /// that were not read in time. Where last lines were asked for, one with `"live": true` and no message stands between
    /// them and what follows.
    ///
    /// # Errors
    /// When there are no descriptors left, `reader` has too much that they do not read, or the log path is dead.
    pub async fn follow(&self, reader: Uid, whose: Whose, lines: u32, out: bool, err: bool) -> io::Result<OwnedFd> {
        let request = FollowRequest { reader, whose, lines, out, err };
        let answer = self.ask(|reply| Command::Follow(request, reply)).await;
        answer.unwrap_or_else(|| Err(io::Error::other("the log path is not running")))
    }

    /// Looks for lines that were written before, also in rotated files and in the journal. What comes out of the pipe is
    /// as [`Logs::follow`] has it.
    ///
    /// # Errors
    /// When there are no descriptors or threads left, `reader` searches too often already, or the files do not tell the time that
    /// is asked for.
    pub async fn search(&self, reader: Uid, whose: Whose, search: Search) -> io::Result<OwnedFd> {
        let archives = self.ask(|reply| Command::Archives(whose, reply)).await.unwrap_or_default();
        history::search(reader, archives, search)
    }

    /// The last lines of one stream of a process, the oldest first, of those that its newest worker wrote.
    pub async fn tail(&self, process: ProcessId, err: bool, lines: u32) -> Vec<String> {
        self.ask(|reply| Command::Tail { process, err, lines, reply }).await.unwrap_or_default()
    }

    /// Empties the files of these processes. What cannot be emptied is told.
    pub async fn flush(&self, processes: Vec<ProcessId>) -> Vec<String> {
        self.ask(|reply| Command::Flush(processes, reply)).await.unwrap_or_default()
    }

    /// Opens the files of this owner's apps anew, or all, after somebody else renamed them.
    pub async fn reopen(&self, owner: Option<Uid>) {
        self.ask(|reply| Command::Reopen(owner, reply)).await;
    }

    /// Has it finish what it has in hand and read nothing more, so that no line is torn or seen twice by whoever goes on
    /// in another program. There is no way back.
    pub async fn stand_still(&self) {
        self.ask(Command::StandStill).await;
    }

    /// The process is gone for good; its files stay.
    pub fn forget(&self, process: ProcessId) {
        self.mailbox.send(Command::Forget(process));
    }

    /// How much a process wrote, what was lost of it, and what is wrong now.
    pub async fn counters(&self, process: ProcessId) -> Counters {
        self.ask(|reply| Command::Counters(process, reply)).await.unwrap_or_default()
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(make(reply));
        answer.await.ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_speaks_for_apps_that_say_nothing() {
        let set = |journal: &'static str, syslog: &'static str| {
            LogsConfig::new(true, "/l".into()).with_environment(move |name| match name {
                "PM2RS_JOURNAL" => Some(journal.to_owned()),
                "PM2RS_LOG_SYSLOG" => Some(syslog.to_owned()),
                _ => None,
            })
        };
        let config = set("false", "udp:127.0.0.1:514");
        let mut spec = AppSpec::default();
        assert!(!config.journal);
        assert_eq!(config.syslog_of(&spec), "udp:127.0.0.1:514".parse().ok());
        spec.log.syslog = "unix:/dev/log".parse().ok();
        assert_eq!(config.syslog_of(&spec), "unix:/dev/log".parse().ok());
        spec.log.disable_logs = true;
        assert_eq!(config.syslog_of(&spec), None);
        for (journal, syslog) in [("", ""), ("maybe", "udp:collector")] {
            let config = set(journal, syslog);
            assert!(config.journal && config.syslog.is_none(), "{journal}, {syslog}");
        }
    }
}
