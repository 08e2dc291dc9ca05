//! Starts workers as the daemon would and serves them; waits for events with a deadline.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use pm2rs::core::{AppId, AppSpec, Balance, ExecMode, ProcessId, SpawnOrder, WorkerId};
use pm2rs::node::{
    AGENT, Attachment, LaunchContext, NodeEvent, Primary, PrimaryConfig, channel_name, keep_again, kept, launch,
};
use pm2rs::sys::identity::Identity;
use pm2rs::sys::pidfd;
use pm2rs::sys::socket;
use pm2rs::sys::spawn::{Child, Spawn};
use pm2rs::sys::store::Store;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Long enough for a machine that builds at the same time.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Major versions that are tried, oldest first.
pub const MAJORS: [u32; 5] = [18, 20, 22, 24, 26];

pub fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The program of this major version, `None` (and a word about it) when it is not installed.
pub fn node(major: u32) -> Option<PathBuf> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let path = tests().join(format!("npm/node_modules/node-{major}-{arch}/bin/node"));
    if !path.exists() {
        eprintln!("SKIPPED: Node {major} is not installed; run `tests/setup npm`");
        return None;
    }
    Some(path)
}

/// All that are installed.
pub fn nodes() -> Vec<(u32, PathBuf)> {
    MAJORS.iter().filter_map(|major| Some((*major, node(*major)?))).collect()
}

/// A port that nobody uses: below those that the kernel gives to clients, and another one for each call.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 100).unwrap() * 100;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if std::net::TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
}

pub struct Rig {
    pub primary: Primary,
    events: mpsc::Receiver<NodeEvent>,
    /// What came while something else was waited for.
    pub passed: VecDeque<NodeEvent>,
    workers: BTreeMap<WorkerId, Child>,
    next: u32,
    agent: PathBuf,
    config: PrimaryConfig,
    _folder: tempfile::TempDir,
}

/// A worker to be.
#[derive(Clone)]
pub struct Plan {
    pub spec: AppSpec,
    pub app: AppId,
    pub process: ProcessId,
    pub identity: Option<Identity>,
}

impl Plan {
    /// A cluster worker of this app of tests/apps, or of this absolute path.
    pub fn new(node: &Path, script: impl AsRef<Path>) -> Plan {
        let apps = tests().join("apps");
        let mut spec = AppSpec {
            name: "test".into(),
            script: apps.join(script),
            cwd: apps,
            interpreter: node.to_string_lossy().into_owned(),
            exec_mode: ExecMode::Cluster,
            source_map_support: false,
            ..AppSpec::default()
        };
        spec.env.insert("PATH".into(), std::env::var("PATH").unwrap_or_default());
        Plan { spec, app: AppId(0), process: ProcessId(0), identity: None }
    }

    pub fn env(mut self, name: &str, value: impl std::fmt::Display) -> Plan {
        self.spec.env.insert(name.into(), value.to_string());
        self
    }

    pub fn balance(mut self, balance: Balance) -> Plan {
        self.spec.balance = balance;
        self
    }

    pub fn agent(mut self, agent: bool) -> Plan {
        self.spec.agent = agent;
        self
    }

    pub fn fork(mut self) -> Plan {
        self.spec.exec_mode = ExecMode::Fork;
        self
    }

    pub fn app(mut self, app: u32) -> Plan {
        self.app = AppId(app);
        self
    }

    pub fn row(&self, process: u32) -> Plan {
        Plan { process: ProcessId(process), ..self.clone() }
    }
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(PrimaryConfig::default())
    }

    pub fn with(config: PrimaryConfig) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let agent = folder.path().join("agent.cjs");
        std::fs::write(&agent, AGENT).unwrap();
        let (primary, events) = Primary::start(config.clone()).unwrap();
        Rig {
            primary,
            events,
            passed: VecDeque::new(),
            workers: BTreeMap::new(),
            next: 0,
            agent,
            config,
            _folder: folder,
        }
    }

    /// The primary hands everything over to another one, by the store.
    pub async fn succeed(&mut self) {
        let pause = self.primary.pause().await;
        // What it had told is not lost with it; the daemon would have taken it in first.
        while let Ok(event) = self.events.try_recv() {
            self.passed.push_back(event);
        }
        let (primary, events) = Primary::start(self.config.clone()).unwrap();
        (self.primary, self.events) = (primary, events);
        self.passed.retain(|event| !matches!(event, NodeEvent::Listening { .. }));
        drop(pause);
    }

    /// Everything that a primary keeps is lost, channels and steering for good. Its successor has what was written down,
    /// and the sockets, if they can be taken back from the workers.
    pub async fn lose_all(&mut self, but_sockets: bool) {
        let pause = self.primary.pause().await;
        let before = std::mem::replace(&mut self.config.store, Store::new(None, Vec::new()).0);
        let state = serde_json::from_slice(&kept(&before).unwrap()).unwrap();
        keep_again(&self.config.store, &state).unwrap();
        let names = before.names("l");
        // `l1` and `l1-p0`, but neither `l1-spare` nor what steers.
        let is_socket =
            |name: &&String| name.split_once('-').is_none_or(|(_, rest)| rest.starts_with('p') && rest != "program");
        for name in names.iter().filter(is_socket).filter(|_| but_sockets) {
            self.config.store.keep(name, before.get(name).unwrap());
        }
        // Dropped without a word, it closes what it has.
        drop((pause, before));
        let (primary, events) = Primary::start(self.config.clone()).unwrap();
        (self.primary, self.events) = (primary, events);
        self.passed.retain(|event| !matches!(event, NodeEvent::Listening { .. }));
    }

    pub async fn spawn(&mut self, plan: &Plan) -> WorkerId {
        self.next += 1;
        let worker = WorkerId(self.next);
        let identity = plan.identity.clone().unwrap_or_else(|| Identity::own().unwrap());
        let mut given = Vec::new();
        for address in &plan.spec.listen {
            given.push(self.primary.open(plan.app, plan.process, &identity, address).await.unwrap());
        }
        let channel_fd = 3 + i32::try_from(given.len()).unwrap();
        let order = SpawnOrder {
            worker,
            process: plan.process,
            app: plan.app,
            instance: plan.process.0,
            spec: Arc::new(plan.spec.clone()),
            restarts: 0,
        };
        let context = LaunchContext {
            pm2_home: Path::new("/nonexistent"),
            agent: &self.agent,
            channel_fd: Some(channel_fd),
            out_log: None,
            error_log: None,
            combined_log: None,
            pid_file: None,
            created_at: 0,
            now: 0,
            unique_id: "test",
            account: None,
            others_env: false,
            executable: &|path| path.is_file(),
            node_versions: &|_| Vec::new(),
        };
        let launch = launch(&order, &context).unwrap();
        let (ours, theirs) = socket::pair().unwrap();
        let mut spawn = Spawn::new(launch.program, launch.args);
        spawn.env = launch.env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        spawn.cwd = plan.spec.cwd.clone();
        spawn.identity = plan.identity.clone();
        let stderr = std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned().unwrap();
        spawn.fds = (3..).zip(given).map(|(number, fd)| (fd, number)).collect();
        spawn.fds.extend([(theirs, channel_fd), (stderr, 2)]);
        if channel_fd > 3 {
            let names: Vec<_> = plan.spec.listen.iter().map(|address| address.replace(':', "_")).collect();
            spawn.env.push(("LISTEN_FDS".into(), names.len().to_string().into()));
            spawn.env.push(("LISTEN_FDNAMES".into(), names.join(":").into()));
            spawn.pid_vars.push("LISTEN_PID".into());
        }
        let child = spawn.start().unwrap().release(DEADLINE).await.unwrap();
        self.workers.insert(worker, child);
        self.config.store.keep(&channel_name(worker), &ours);
        self.primary.attach(Attachment {
            worker,
            process: plan.process,
            app: plan.app,
            instance: plan.process.0,
            identity,
            cluster: plan.spec.exec_mode == ExecMode::Cluster,
            balance: plan.spec.balance,
            admitted: true,
            agent: launch.agent,
            channel: ours,
        });
        worker
    }

    /// Spawns and waits until it listens; the address with it.
    pub async fn serve(&mut self, plan: &Plan) -> (WorkerId, String) {
        let worker = self.spawn(plan).await;
        let address = self.listening(worker).await;
        (worker, address)
    }

    pub async fn listening(&mut self, wanted: WorkerId) -> String {
        self.wait(&format!("{wanted} to listen"), |event| match event {
            NodeEvent::Listening { worker, address } if *worker == wanted => Some(address.clone()),
            _ => None,
        })
        .await
    }

    pub async fn message(&mut self, wanted: WorkerId) -> serde_json::Value {
        self.wait(&format!("a message of {wanted}"), |event| match event {
            NodeEvent::Message { worker, message } if *worker == wanted => Some(message.clone()),
            _ => None,
        })
        .await
    }

    pub async fn event(&mut self, event: NodeEvent) {
        self.wait(&format!("{event:?}"), |e| (*e == event).then_some(())).await;
    }

    /// The first event, passed or to come, of which `pick` makes something. Others are kept.
    pub async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&NodeEvent) -> Option<T>) -> T {
        if let Some(at) = self.passed.iter().position(|event| pick(event).is_some()) {
            let event = self.passed.remove(at).unwrap();
            return pick(&event).unwrap();
        }
        let found = timeout(DEADLINE, async {
            loop {
                let event = self.events.recv().await.expect("the primary ended");
                match pick(&event) {
                    Some(found) => return found,
                    None => self.passed.push_back(event),
                }
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("waited for {what} in vain; instead: {:?}", self.passed),
        }
    }

    pub fn pid(&self, worker: WorkerId) -> u32 {
        self.workers[&worker].pid
    }

    pub fn signal(&self, worker: WorkerId, signal: i32) {
        pidfd::send_signal(std::os::fd::AsFd::as_fd(&self.workers[&worker].pidfd), signal).unwrap();
    }

    /// Waits until the process has ended, and detaches it.
    pub async fn ended(&mut self, worker: WorkerId) -> pm2rs::sys::pidfd::ExitStatus {
        let child = self.workers.remove(&worker).unwrap();
        let status = timeout(DEADLINE, pidfd::wait(std::os::fd::AsFd::as_fd(&child.pidfd))).await.unwrap().unwrap();
        self.primary.detach(worker);
        status
    }

    /// As the daemon ends a worker: drain, signal, wait.
    pub async fn stop(&mut self, worker: WorkerId) -> u32 {
        self.primary.drain(worker, 10_000);
        let left = self
            .wait(&format!("{worker} to drain"), |event| match event {
                NodeEvent::Drained { worker: w, left } if *w == worker => Some(*left),
                _ => None,
            })
            .await;
        // It may have ended by itself.
        let _ = pidfd::send_signal(std::os::fd::AsFd::as_fd(&self.workers[&worker].pidfd), libc::SIGINT);
        self.ended(worker).await;
        left
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in self.workers.values() {
            let _ = pidfd::send_signal(std::os::fd::AsFd::as_fd(&child.pidfd), libc::SIGKILL);
        }
    }
}
