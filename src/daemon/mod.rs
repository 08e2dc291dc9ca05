//! The shell around the core: performs its actions, turns what happens into its events.
//!
//! One loop ([`run`](run())) owns everything mutable; everybody else holds a [`Handle`] and sends requests.
//!
//! | file | is about |
//! |---|---|
//! | `startup.rs` | from nothing to a daemon that takes commands |
//! | `keeper` | where nobody else does: starts it again when it dies, keeps what it needs then |
//! | `run.rs` | the loop: what it waits for, what is due |
//! | `requests.rs`, `targets.rs`, `script.rs`, `accounts.rs` | what callers ask, whether they may, whether it is there |
//! | `actions.rs` | performs what the core decided |
//! | `happenings.rs`, `facts.rs` | what workers, Node and tasks tell, as events for the core |
//! | `spawner.rs`, `workers.rs` | starts workers; the operating-system side of those that live |
//! | `pid_file.rs` | pm2.pid, which others write, too |
//! | `persist.rs`, `write_schedule.rs`, `keeping.rs` | what survives the daemon: state, and when it is written; descriptors |
//! | `restore.rs`, `salvage.rs` | taking up what ran before; with the state file alone |
//! | `leftovers.rs` | a stopped service whose daemon was dead leaves nothing behind |
//! | `succession.rs`, `check.rs` | making way for another daemon while workers run on; whether it can take over |
//! | `previous.rs` | the way back to the program of before, under systemd |
//! | `panics.rs` | a panic is the end of the daemon, at once |
//! | `triggers.rs` | cron, memory limits, watched files |
//! | `saved_list.rs` | PM2's save and resurrect |
//! | `views.rs`, `fleet_views.rs`, `sampling.rs` | the fleet as others see it |

mod accounts;
mod actions;
mod check;
mod facts;
mod fleet_views;
mod handle;
mod happenings;
mod jobs;
mod keeper;
mod keeping;
mod leftovers;
mod notify_socket;
mod output;
mod panics;
mod paths;
mod persist;
mod pid_file;
mod previous;
mod probe;
mod reports;
mod requests;
mod restore;
mod run;
mod salvage;
mod sampling;
mod saved_list;
mod saying;
mod scopes;
mod script;
mod spawner;
mod startup;
mod succession;
mod targets;
mod timers;
mod triggers;
mod views;
mod watching;
mod workers;
mod write_schedule;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{broadcast, mpsc};

pub use check::{CheckError, check_state};
pub use handle::{Caller, Change, Handle, LogRequest, Reply, Request, StartOptions, UpdateOptions, What};
pub use keeper::check as check_keeper;
pub use leftovers::end_leftovers;
pub use paths::{Mode, Paths};
pub use startup::run;

use crate::api::Error;
use crate::core::{Fleet, JobId, Now, ProcessId, Time, Uid, WorkerId};
use crate::dbus;
use crate::logs::Logs;
use crate::node::Primary;
use crate::sys::clock;
use crate::sys::notify::{Notice, Notifier};
use crate::sys::store::Store;

/// How a daemon is started.
#[derive(Debug)]
pub struct DaemonOptions {
    /// Which of the three ways to stand.
    pub mode: Mode,
    /// Gets one byte `\n` when commands can be taken, or a line of text saying why not, and is closed.
    pub ready: Option<OwnedFd>,
}

/// On top of the slowest app's kill_timeout a shutdown may take this long.
const END_MARGIN: Duration = Duration::from_secs(15);

/// Everything mutable.
struct Daemon {
    mode: Mode,
    paths: Paths,
    owner: Uid,
    cpus: u32,
    boot_id: String,
    fleet: Fleet,
    jobs: jobs::Jobs,
    timers: timers::Timers,
    workers: workers::Workers,
    spawner: spawner::Spawner,
    sampler: sampling::Sampler,
    persist: persist::Persist,
    pid_file: pid_file::PidFile,
    primary: Primary,
    logs: Logs,
    changes: broadcast::Sender<Change>,
    facts: mpsc::UnboundedSender<facts::Fact>,
    /// What apps reported over their channels.
    reported: HashMap<ProcessId, Map<String, Value>>,
    triggers: Vec<reports::PendingTrigger>,
    restart_triggers: triggers::Triggers,
    /// Lines lost on the way to the log files.
    losses: HashMap<ProcessId, output::Loss>,
    /// Lines that journald dropped.
    suppressed: u64,
    notifier: Option<Notifier>,
    /// It does not listen.
    unheard: std::cell::Cell<bool>,
    /// What of all this outlives the daemon.
    store: Store,
    /// Where callers come in; `None` until it is open.
    server: Option<dbus::Server>,
    serving_problem: Option<anyhow::Error>,
    /// What `systemctl status` was told last.
    status: String,
    /// What is executed when this program has been replaced by another one.
    program: PathBuf,
    /// Another daemon is to go on where we are.
    succession: succession::Succession,
    /// Workers, sockets and files stay as they are when we end: the next daemon goes on with them.
    left: bool,
    /// A shutdown is under way: nothing new is taken.
    ending: bool,
    /// The list is to be forgotten at the end (`kill`), not taken up again.
    forget: bool,
    /// Everything has ended.
    exit: bool,
}

impl Daemon {
    #[allow(clippy::too_many_arguments, reason = "called once, with what was made for it")]
    fn new(
        mode: Mode,
        paths: Paths,
        owner: Uid,
        spawner: spawner::Spawner,
        primary: Primary,
        logs: Logs,
        changes: broadcast::Sender<Change>,
        facts: mpsc::UnboundedSender<facts::Fact>,
        notifier: Option<Notifier>,
        store: Store,
        persist: persist::Persist,
    ) -> Daemon {
        let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        Daemon {
            boot_id: spawner.boot_id.clone(),
            persist,
            pid_file: pid_file::PidFile::new(paths.pid_file()),
            store,
            mode,
            owner,
            cpus,
            fleet: Fleet::default(),
            jobs: jobs::Jobs::default(),
            timers: timers::Timers::default(),
            workers: workers::Workers::default(),
            spawner,
            sampler: sampling::Sampler::default(),
            primary,
            logs,
            changes,
            facts,
            reported: HashMap::new(),
            triggers: Vec::new(),
            restart_triggers: triggers::Triggers::default(),
            losses: HashMap::new(),
            suppressed: 0,
            notifier,
            unheard: std::cell::Cell::new(false),
            server: None,
            serving_problem: None,
            status: String::new(),
            program: previous::instead_of(&paths).unwrap_or_else(succession::own_program),
            paths,
            succession: succession::Succession::default(),
            left: false,
            ending: false,
            forget: false,
            exit: false,
        }
    }

    fn open_job(&mut self, kind: &str, target: String, owner: Uid) -> JobId {
        let job = self.jobs.open(kind, target, owner);
        self.persist.note_change();
        if let Some(view) = self.jobs.get(job).cloned() {
            self.publish(Change::Job(view));
        }
        job
    }

    /// Ends everything and the daemon; the next one starts what runs now.
    fn begin_shutdown(&mut self, job: JobId) {
        self.call_off(&Error::ShuttingDown);
        self.ending = true;
        self.notify(Notice::Stopping);
        // All end at the same time, each within its own kill_timeout; systemd is asked to wait for the slowest. Not for those
        // of ordinary users, who would say how long the machine takes to shut down: they have the unit's TimeoutStopSec=.
        let slowest = self.workers.slowest_end(|worker| self.owner_of(worker) == Some(self.owner));
        self.notify(Notice::ExtendTimeout(slowest + END_MARGIN));
        self.feed(crate::core::Event::ShutdownRequested { job });
    }

    /// Whose app a worker is of.
    fn owner_of(&self, worker: WorkerId) -> Option<Uid> {
        let process = self.fleet.process(self.fleet.worker(worker)?.process)?;
        Some(self.fleet.app(process.app)?.owner)
    }

    /// Ends everything and the daemon; the next one starts with an empty list, as PM2's `kill` leaves it.
    fn begin_kill(&mut self, job: JobId) {
        self.forget = true;
        self.begin_shutdown(job);
    }

    fn saved(&self) -> persist::Saved {
        let fleet = if self.forget { Fleet::default() } else { self.fleet.clone() };
        let saved = persist::Saved::new(self.boot_id.clone(), fleet, self.workers.saved(), self.jobs.last());
        let reported = self.reported.iter().map(|(id, all)| (*id, all.clone())).collect();
        let lost = self.losses.iter().filter(|(_, loss)| loss.lines > 0);
        let lost_lines = lost.map(|(id, loss)| (*id, loss.lines)).collect();
        let jobs = self.jobs.all().cloned().collect();
        persist::Saved { reported, jobs, lost_lines, scheduled: self.restart_triggers.scheduled(), ..saved }
    }

    fn clean_up(&self) {
        if self.left {
            return;
        }
        if self.can_go_back() {
            drop(previous::let_go(&self.paths));
        }
        drop(std::fs::remove_file(self.paths.socket()));
        self.pid_file.remove();
    }
}

/// Monotonic and wall time now.
fn present() -> Now {
    Now { mono: now(), wall: clock::wall_ms() }
}

/// Monotonic time now.
fn now() -> Time {
    Time(clock::boot_ms())
}
