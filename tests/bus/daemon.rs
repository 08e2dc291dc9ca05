//! A daemon's loop that has a fixed fleet and decides by owner, as the real one does.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pm2rs::api::{AppView, Client, Error, JobState, JobView, ProcessView};
use pm2rs::core::Uid;
use pm2rs::daemon::{Caller, Change, Handle, Request, What};
use pm2rs::dbus::{ManagerInfo, Server};
use tokio::sync::{broadcast, mpsc};

/// Whoever waits for something in these tests waits no longer.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The one who runs the tests owns process 0; somebody else owns process 1.
pub fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

pub const SOMEBODY_ELSE: u32 = 54_321;

/// The other side of a [`Handle`].
pub struct Daemon {
    pub handle: Handle,
    pub changes: broadcast::Sender<Change>,
    asked: Arc<Mutex<Vec<(Caller, String)>>>,
}

impl Daemon {
    /// Starts the loop with these processes, each with an app of the same number.
    pub fn start(processes: Vec<ProcessView>) -> Daemon {
        let (handle, requests, changes) = Handle::new(64);
        let asked = Arc::default();
        let fleet = Loop { processes, jobs: BTreeMap::new(), changes: changes.clone(), asked: Arc::clone(&asked) };
        tokio::spawn(fleet.run(requests));
        Daemon { handle, changes, asked }
    }

    /// A fleet of two apps with a process each: `api`, mine, and `shop`, somebody else's.
    pub fn of_two() -> Daemon {
        Daemon::start(vec![process(0, "api", me()), process(1, "shop", SOMEBODY_ELSE)])
    }

    pub async fn server(&self) -> Server {
        Server::start(self.handle.clone(), info()).await.unwrap()
    }

    /// A server and a client of it, over a pair of sockets.
    pub async fn connected(&self) -> (Server, Client) {
        let mut server = self.server().await;
        let client = connect(&mut server).await;
        (server, client)
    }

    /// What was asked, in order, as text.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(_, what)| what.clone()).collect()
    }

    /// Who asked last.
    pub fn last_caller(&self) -> Caller {
        self.asked.lock().unwrap().last().unwrap().0.clone()
    }

    pub fn tell(&self, change: Change) {
        self.changes.send(change).unwrap();
    }
}

pub async fn connect(server: &mut Server) -> Client {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    server.serve_stream(tokio::net::UnixStream::from_std(theirs).unwrap());
    within(Client::over(ours)).await.unwrap()
}

/// The result, or a failure of the test.
///
/// In real time also where the test's clock is paused: that clock leaps ahead while everybody waits, and an end that was
/// closed may stay open for a moment in a child that another test starts (fork(2)).
pub async fn within<F: Future>(future: F) -> F::Output {
    let (too_late, late) = tokio::sync::oneshot::channel();
    let (_in_time, done) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || match done.recv_timeout(DEADLINE) {
        Err(RecvTimeoutError::Timeout) => drop(too_late.send(())),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
    });
    tokio::select! {
        value = future => value,
        Ok(()) = late => panic!("nothing came within the deadline"),
    }
}

pub fn info() -> ManagerInfo {
    ManagerInfo { version: "9.8.7".into(), mode: "private".into(), home: "/home/x".into(), pid: 4321 }
}

pub fn process(id: u32, name: &str, owner: u32) -> ProcessView {
    ProcessView {
        id,
        app: id,
        name: name.into(),
        namespace: "default".into(),
        owner,
        instance: 0,
        status: "online".into(),
        state: "ready".into(),
        pid: 1000 + id,
        restarts: 0,
        unstable_restarts: 0,
        started_at: 1_700_000_000_000,
        created_at: 1_600_000_000_000,
        exit_code: -1,
        exit_signal: String::new(),
        reason: String::new(),
    }
}

pub fn app_of(view: &ProcessView) -> AppView {
    AppView {
        id: view.app,
        name: view.name.clone(),
        namespace: view.namespace.clone(),
        owner: view.owner,
        mode: "fork_mode".into(),
        instances: 1,
        status: view.status.clone(),
        processes: vec![view.id],
    }
}

pub fn job(id: u32, kind: &str, owner: u32, state: JobState) -> JobView {
    JobView {
        id,
        kind: kind.into(),
        target: "what I typed".into(),
        owner,
        state,
        done: 0,
        total: 2,
        message: String::new(),
        warnings: Vec::new(),
    }
}

struct Loop {
    processes: Vec<ProcessView>,
    jobs: BTreeMap<u32, JobView>,
    changes: broadcast::Sender<Change>,
    asked: Arc<Mutex<Vec<(Caller, String)>>>,
}

impl Loop {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(Request { caller, what }) = requests.recv().await {
            let text = format!("{what:?}").split("Sender {").next().unwrap_or_default().to_owned();
            self.asked.lock().unwrap().push((caller.clone(), text));
            self.answer(&caller, what);
        }
    }

    /// The processes that targets stand for, if the caller may have them.
    fn resolve(&self, caller: &Caller, targets: &[String]) -> Result<Vec<u32>, Error> {
        let mut found = Vec::new();
        for target in targets {
            let matching =
                |view: &&ProcessView| *target == view.id.to_string() || *target == view.name || target == "all";
            let matches: Vec<&ProcessView> = self.processes.iter().filter(matching).collect();
            if matches.is_empty() {
                return Err(Error::NoSuchTarget(target.clone()));
            }
            if let Some(view) = matches.iter().find(|view| !caller.controls(Uid(view.owner))) {
                return Err(Error::AccessDenied(format!("`{}` belongs to somebody else", view.name)));
            }
            found.extend(matches.iter().map(|view| view.id));
        }
        Ok(found)
    }

    /// A job that is done at once, told of as the real loop does: after the answer.
    fn job(&mut self, kind: &str, caller: &Caller, allowed: Result<Vec<u32>, Error>) -> Result<u32, Error> {
        allowed?;
        let id = u32::try_from(self.jobs.len()).unwrap() + 1;
        let mut view = job(id, kind, caller.uid.0, JobState::Done);
        view.warnings = vec!["a warning".into()];
        self.jobs.insert(id, view);
        Ok(id)
    }

    fn show_job(&self, id: &Result<u32, Error>) {
        if let Ok(id) = id {
            self.changes.send(Change::Job(self.jobs[id].clone())).unwrap();
        }
    }

    fn daemon_only(caller: &Caller) -> Result<(), Error> {
        match caller.controls(Uid(me())) {
            true => Ok(()),
            false => Err(Error::AccessDenied("only root may do that".into())),
        }
    }

    fn answer(&mut self, caller: &Caller, what: What) {
        macro_rules! starts_job {
            ($reply:expr, $kind:expr, $allowed:expr) => {{
                let allowed = $allowed;
                let job = self.job($kind, caller, allowed);
                let _ = $reply.send(job.clone());
                self.show_job(&job);
            }};
        }
        match what {
            What::Start(_, options, reply) => {
                let allowed = if options.force { Ok(Vec::new()) } else { Err(Error::AlreadyLaunched("a.js".into())) };
                starts_job!(reply, "start", allowed);
            }
            What::Restart(targets, _, reply) => starts_job!(reply, "restart", self.resolve(caller, &targets)),
            What::Reload(targets, _, reply) => starts_job!(reply, "reload", self.resolve(caller, &targets)),
            What::Stop(targets, reply) => starts_job!(reply, "stop", self.resolve(caller, &targets)),
            What::Delete(targets, reply) => starts_job!(reply, "delete", self.resolve(caller, &targets)),
            What::Scale(app, count, reply) => {
                let allowed = match count.as_str() {
                    "1" => Err(Error::NothingToDo),
                    _ => self.resolve(caller, &[app]),
                };
                starts_job!(reply, "scale", allowed);
            }
            What::Resurrect(reply) => starts_job!(reply, "resurrect", Ok(Vec::new())),
            What::Kill(reply) => starts_job!(reply, "kill", Loop::daemon_only(caller).map(|()| Vec::new())),
            What::Reset(targets, reply) | What::SendSignal(targets, _, reply) | What::FlushLogs(targets, reply) => {
                let _ = reply.send(self.resolve(caller, &targets).map(|_| ()));
            }
            What::SendLine(id, _, reply) => {
                let allowed = self.resolve(caller, &[id.to_string()]);
                let _ = reply.send(allowed.and(Err(Error::NotPossible("it has no standard input".into()))));
            }
            What::SendMessage(id, json, reply) => {
                let valid = serde_json::from_str::<serde_json::Value>(&json);
                let valid = valid.map_err(|error| Error::InvalidArgument(error.to_string()));
                let _ = reply.send(self.resolve(caller, &[id.to_string()]).and(valid.map(|_| ())));
            }
            What::Trigger(targets, action, _, reply) => {
                let found = self.resolve(caller, &targets);
                let _ = reply.send(found.map(|ids| ids.iter().map(|id| (*id, format!("\"{action}\""))).collect()));
            }
            What::Resolve(targets, reply) => {
                let _ = reply.send(self.resolve(caller, &targets));
            }
            What::List(reply) => {
                let mine = self.processes.iter().filter(|view| caller.controls(Uid(view.owner)));
                let rows: Vec<_> = mine.map(|view| serde_json::json!({"pm_id": view.id, "name": view.name})).collect();
                let _ = reply.send(Ok(serde_json::to_string(&rows).unwrap()));
            }
            What::Environment(id, reply) => {
                let allowed = self.resolve(caller, &[id.to_string()]);
                let _ = reply.send(allowed.map(|_| BTreeMap::from([("SECRET".to_owned(), "x".to_owned())])));
            }
            What::HostMetrics(reply) => {
                let _ = reply.send(Ok("{\"cpu\":0.0}".to_owned()));
            }
            What::Spec(id, reply) => {
                let allowed = self.resolve(caller, &[id.to_string()]);
                let _ = reply.send(allowed.map(|_| "{\"name\":\"x\"}".to_owned()));
            }
            What::OpenLogs(request, reply) => {
                let (read, write) = std::io::pipe().unwrap();
                let allowed = self.resolve(caller, &request.targets);
                let mut write = write;
                writeln!(write, "{{\"message\":\"lines {}\"}}", request.lines).unwrap();
                let _ = reply.send(allowed.map(|_| read.into()));
            }
            What::ReopenLogs(reply) | What::Reexecute(reply) => {
                let _ = reply.send(Loop::daemon_only(caller));
            }
            What::Save(_, reply) => {
                let _ = reply.send(Ok("/home/x/dump.json".into()));
            }
            What::ClearSaved(reply) => {
                let _ = reply.send(Ok(()));
            }
            What::Report(reply) => {
                let _ = reply.send(Loop::daemon_only(caller).map(|()| "all is well".into()));
            }
            What::CancelJob(_, reply) => {
                let _ = reply.send(Ok(()));
            }
            What::Snapshot(reply) => {
                let apps = self.processes.iter().map(app_of).collect();
                let _ = reply.send(Ok((apps, self.processes.clone(), self.jobs.values().cloned().collect())));
            }
        }
    }
}
