//! What others may ask of the daemon's loop, and what it tells them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::api::{AppView, Error, JobView, ProcessView};
use crate::core::{AppSpec, Uid};

/// Who asks. From the bus's or the socket's credentials, never from the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Effective uid.
    pub uid: Uid,
    /// Process id, for polkit and the log; 0 when unknown.
    pub pid: u32,
    /// Whether a policy (polkit) grants this caller rights over everybody's apps for this call.
    pub privileged: bool,
}

impl Caller {
    /// Whether the caller controls what belongs to `owner`: root all, everybody their own.
    #[must_use]
    pub fn controls(&self, owner: Uid) -> bool {
        self.controls_everything() || self.uid == owner
    }

    /// Whether everybody's apps are the caller's to control.
    #[must_use]
    pub fn controls_everything(&self) -> bool {
        self.uid == Uid(0) || self.privileged
    }
}

/// Options of a start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// Start though the same script runs under the same name.
    pub force: bool,
}

/// Options of restart and reload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateOptions {
    /// Variables merged over the environment (`--update-env`).
    pub env: Option<BTreeMap<String, String>>,
    /// A new spec for the app (start or restart of a file).
    pub spec: Option<Box<AppSpec>>,
    /// Workers replaced at a time.
    pub batch: Option<u32>,
}

/// Which output is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRequest {
    /// Targets; empty means all of the caller's.
    pub targets: Vec<String>,
    /// So many last lines of each file.
    pub lines: u32,
    /// Go on with what comes.
    pub follow: bool,
    /// Standard output wanted.
    pub out: bool,
    /// Standard error wanted.
    pub err: bool,
    /// Only what was written since then, milliseconds since the epoch.
    pub since: Option<i64>,
    /// Only what was written until then.
    pub until: Option<i64>,
    /// Only lines in which this regular expression is found.
    pub grep: Option<String>,
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A request to the daemon's loop. Every one carries who asks; the loop decides in one place whether they may.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub caller: Caller,
    /// What.
    pub what: What,
}

/// What is asked.
#[derive(Debug)]
pub enum What {
    /// Manager.StartApp
    Start(Box<AppSpec>, StartOptions, Reply<u32>),
    /// Manager.Restart
    Restart(Vec<String>, UpdateOptions, Reply<u32>),
    /// Manager.Reload
    Reload(Vec<String>, UpdateOptions, Reply<u32>),
    /// Manager.Stop
    Stop(Vec<String>, Reply<u32>),
    /// Manager.Delete
    Delete(Vec<String>, Reply<u32>),
    /// Manager.Scale: app name or id, count as typed.
    Scale(String, String, Reply<u32>),
    /// Manager.Reset
    Reset(Vec<String>, Reply<()>),
    /// Manager.SendSignal
    SendSignal(Vec<String>, String, Reply<()>),
    /// Manager.SendLine
    SendLine(u32, String, Reply<()>),
    /// Manager.SendMessage: JSON text.
    SendMessage(u32, String, Reply<()>),
    /// Manager.Trigger: targets, action, parameters.
    Trigger(Vec<String>, String, String, Reply<Vec<(u32, String)>>),
    /// Manager.Resolve
    Resolve(Vec<String>, Reply<Vec<u32>>),
    /// Manager.ListProcesses: JSON text.
    List(Reply<String>),
    /// Manager.GetEnvironment
    Environment(u32, Reply<BTreeMap<String, String>>),
    /// Manager.GetSpec: JSON text.
    Spec(u32, Reply<String>),
    /// Manager.OpenLogs
    OpenLogs(LogRequest, Reply<OwnedFd>),
    /// Manager.FlushLogs
    FlushLogs(Vec<String>, Reply<()>),
    /// Manager.ReopenLogs
    ReopenLogs(Reply<()>),
    /// Manager.Save
    Save(bool, Reply<String>),
    /// Manager.ClearSaved
    ClearSaved(Reply<()>),
    /// Manager.Resurrect
    Resurrect(Reply<u32>),
    /// Manager.Kill
    Kill(Reply<u32>),
    /// Manager.Reexecute
    Reexecute(Reply<()>),
    /// Manager.Report
    Report(Reply<String>),
    /// Manager.GetHostMetrics: JSON text.
    HostMetrics(Reply<String>),
    /// Job.Cancel
    CancelJob(u32, Reply<()>),
    /// What exists now, for a transport that begins to serve (apps, processes, jobs).
    Snapshot(Reply<(Vec<AppView>, Vec<ProcessView>, Vec<JobView>)>),
}

/// Something that those who show the fleet must know.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An app is new or differs.
    App(AppView),
    /// An app is gone.
    AppRemoved(u32),
    /// A process row is new or differs.
    Process(ProcessView),
    /// A process row is gone.
    ProcessRemoved(u32),
    /// A job is new or differs (its end included).
    Job(JobView),
    /// A job's object is to go away.
    JobRemoved(u32),
    /// PM2's bus event of a process.
    Event {
        /// Its row.
        process: u32,
        /// Its app's name.
        name: String,
        /// `start`, `online`, `exit`, ...
        event: String,
        /// A person asked for it.
        manually: bool,
        /// Milliseconds since the epoch.
        at: u64,
    },
}

/// A cheap way to the daemon's loop.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    changes: broadcast::Sender<Change>,
}

impl Handle {
    /// A handle and the ends that the loop keeps. At most `bound` requests wait; more callers wait themselves.
    #[must_use]
    pub fn new(bound: usize) -> (Handle, mpsc::Receiver<Request>, broadcast::Sender<Change>) {
        let (requests, receiver) = mpsc::channel(bound);
        let (changes, _) = broadcast::channel(4096);
        (Handle { requests, changes: changes.clone() }, receiver, changes)
    }

    /// Asks the loop. `make` puts the reply's sender into the request.
    ///
    /// # Errors
    /// What the loop answers; [`Error::ShuttingDown`] when it has ended.
    pub async fn ask<T>(&self, caller: &Caller, make: impl FnOnce(Reply<T>) -> What) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let request = Request { caller: caller.clone(), what: make(reply) };
        self.requests.send(request).await.map_err(|_| Error::ShuttingDown)?;
        answer.await.map_err(|_| Error::ShuttingDown)?
    }

    /// What changes from now on. A receiver that lags must take a new `Snapshot`.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}
