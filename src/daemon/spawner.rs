//! Starts a worker: who it is, what it executes, its descriptors, its place among the cgroups.
//!
//! Runs as a task beside the loop, since a scope takes systemd a moment; the outcome comes back as a fact.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;
use tracing::warn;

use super::Daemon;
use super::accounts;
use super::facts::Fact;
use super::fleet_views::{log_paths, pid_path};
use super::keeping;
use super::notify_socket::NotifySocket;
use super::present;
use super::scopes::Scopes;
use super::workers::Started;
use crate::api::names::WORKER_MARK;
use crate::core::{AppId, AppSpec, ExecMode, SpawnFailure, SpawnOrder, Uid, is_socket_name};
use crate::node::{self, Account, LaunchContext, Primary};
use crate::sys::cgroup::Cgroup;
use crate::sys::identity::{Identity, run_as_async};
use crate::sys::pidfd::{self, ExitStatus};
use crate::sys::plain;
use crate::sys::scope::Scope;
use crate::sys::socket;
use crate::sys::spawn::{Child, Held, Spawn};
use crate::sys::store::Store;
use crate::sys::tree::Tree;
use crate::sys::ulimits::Limit;

/// From fork to a successful exec; a folder on a share that does not answer must not hold a start for ever.
const EXEC_DEADLINE: Duration = Duration::from_secs(20);
/// The first descriptor beyond the standard ones (SD_LISTEN_FDS_START, sd_listen_fds(3)).
const FIRST_FD: i32 = 3;

/// What all starts have in common. Cheap to clone into tasks.
#[derive(Debug, Clone)]
pub(super) struct Spawner {
    pub(super) home: PathBuf,
    /// Whether apps belong to whoever started them, as in system mode.
    pub(super) many_users: bool,
    pub(super) agent: PathBuf,
    pub(super) notify_folder: PathBuf,
    /// The daemon raised its own; workers get what it was started with.
    pub(super) limits: Vec<Limit>,
    /// systemd's part of the job; `None` in private mode and where its bus cannot be had.
    pub(super) scopes: Option<Arc<Scopes>>,
    /// Where there is no systemd to ask: the control group that was delegated to us, if one was.
    pub(super) delegated: Option<Cgroup>,
    /// Names this daemon's start, for PM2's `unique_id`.
    pub(super) boot_id: String,
    /// Where workers are kept for the next daemon.
    pub(super) store: Store,
}

/// How the variables begin by which the workers of one home are known, and those of a worker's descendants where there is
/// no control group to tell.
pub(super) fn marks(boot_id: &str, home: &Path) -> String {
    format!("{WORKER_MARK}={boot_id}:{}:", home.display())
}

impl Daemon {
    /// Begins to start a worker.
    pub(super) fn spawn_worker(&mut self, order: SpawnOrder) {
        let worker = order.worker;
        self.workers.ordered(worker);
        let owner = self.fleet.app(order.app).map_or(self.owner, |app| app.owner);
        let created_at = self.fleet.process(order.process).map_or(0, |process| process.created_at);
        let (spawner, primary, facts) = (self.spawner.clone(), self.primary.clone(), self.facts.clone());
        tokio::spawn(async move {
            let result = spawner.start(order, owner, created_at, &primary).await;
            drop(facts.send(Fact::Spawned(worker, Box::new(result))));
        });
    }
}

impl Spawner {
    /// The soft limit of open files that the daemon was started with, which a program that it executes is to know: it
    /// inherits the raised one.
    pub(super) fn own_open_files(&self) -> Option<u64> {
        self.limits.first().map(|limit| limit.soft)
    }

    /// PM2's `unique_id` of an app's processes.
    pub(super) fn unique_id(&self, app: AppId) -> String {
        format!("{}-{app}", self.boot_id)
    }

    async fn start(
        &self,
        order: SpawnOrder,
        owner: Uid,
        created_at: u64,
        primary: &Primary,
    ) -> Result<Started, SpawnFailure> {
        let spec = order.spec.clone();
        let identity = accounts::of_worker(owner, &spec).await.map_err(lasting)?;

        let sockets = sockets_of(&order, &identity, primary).await?;
        let listen_count = sockets.len();
        let (mut fds, mut names): (Vec<(OwnedFd, i32)>, Vec<String>) = Default::default();
        for ((fd, name), number) in sockets.into_iter().zip(FIRST_FD..) {
            fds.push((fd, number));
            names.push(name);
        }
        let channel_number = FIRST_FD + i32::try_from(listen_count).unwrap_or(0);
        let (channel, worker_end) = socket::pair().map_err(|error| cannot("make a channel", &error))?;
        fds.push((worker_end, channel_number));
        let (stdin_read, stdin_write) = pipe_pair()?;
        let (stdout_read, stdout_write) = pipe_pair()?;
        let (stderr_read, stderr_write) = pipe_pair()?;
        fds.extend([(stdin_read, 0), (stdout_write, 1), (stderr_write, 2)]);

        let (launch, notify) = self.prepare(&order, &identity, channel_number, created_at)?;
        let mut spawn = Spawn::new(&launch.program, &launch.args);
        spawn.env = launch.env.iter().map(|(key, value)| (key.into(), value.into())).collect();
        if listen_count > 0 {
            spawn.env.push(("LISTEN_FDS".into(), listen_count.to_string().into()));
            spawn.env.push(("LISTEN_FDNAMES".into(), names.join(":").into()));
            spawn.pid_vars.push("LISTEN_PID".into());
        }
        let mark = format!("{}{}", marks(&self.boot_id, &self.home), order.worker);
        if let Some((name, value)) = mark.split_once('=') {
            spawn.env.push((name.into(), value.into()));
        }
        if let Some((_, path)) = &notify {
            spawn.env.push(("NOTIFY_SOCKET".into(), path.into()));
        }
        spawn.cwd.clone_from(&spec.cwd);
        spawn.identity = Some(identity.clone());
        spawn.limits.clone_from(&self.limits);
        spawn.fds = fds;
        // Until it is where it belongs, and kept: one that is held ends with its daemon.
        spawn.hold = self.scopes.is_some() || self.store.keeps();
        let own_group = self.own_group(&order);
        spawn.cgroup = own_group.as_ref().and_then(|group| group.open().ok());
        let held = spawn.start().map_err(|error| of_spawn(&error))?;
        let scope = self.scope_for(&order, &held).await;
        let group = scope.as_ref().map(|scope| scope.cgroup.clone()).or(own_group);
        let pid_file = pid_path(&spec, order.process);
        let record = keeping::Record {
            pid: held.pid(),
            start_time: held.start_time(),
            cgroup: group.map(|group| group.path().to_owned()),
            unit: scope.map(|scope| scope.unit),
            mark,
            agent: launch.agent,
            pid_file: pid_file.clone(),
            notify: notify.as_ref().map(|(_, path)| path.clone()),
            identity: identity.clone(),
            regained: false,
        };
        let ends = keeping::Ends {
            channel: &channel,
            stdin: &stdin_write,
            stdout: &stdout_read,
            stderr: &stderr_read,
            notify: notify.as_ref().map(|(socket, _)| socket),
        };
        keeping::keep(&self.store, order.worker, &record, &ends);
        let child = held.release(EXEC_DEADLINE).await.map_err(|error| of_spawn(&error))?;
        if let Some(path) = pid_file.clone() {
            write_pid_file(&spec, path, &identity, child.pid).await;
        }
        Ok(Started {
            pid: child.pid,
            start_time: child.start_time,
            pidfd: Arc::new(child.pidfd),
            tree: record.tree(),
            agent: launch.agent,
            mark: record.mark,
            pid_file,
            spec,
            identity,
            stdin: pipe::Sender::from_owned_fd(stdin_write).ok(),
            channel: Some(channel),
            stdout: Some(stdout_read),
            stderr: Some(stderr_read),
            unit: record.unit,
            notify: notify.map(|(socket, _)| socket),
            regained: false,
        })
    }

    /// What is executed, and where the worker says that it is ready.
    fn prepare(
        &self,
        order: &SpawnOrder,
        identity: &Identity,
        channel_number: i32,
        created_at: u64,
    ) -> Result<(node::Launch, Option<(NotifySocket, PathBuf)>), SpawnFailure> {
        let spec = &order.spec;
        let paths = log_paths(spec, order.process);
        let as_path = |path: &Option<String>| path.as_ref().map(PathBuf::from);
        let (out, err, pid) = (as_path(&paths.out), as_path(&paths.err), as_path(&paths.pid));
        let both = as_path(&paths.both);
        let account = Account {
            name: identity.name.clone(),
            uid: identity.uid,
            gid: identity.gid,
            home: identity.home.clone(),
            shell: identity.shell.clone(),
        };
        // A command that root gives for somebody's app brings root's environment. Where there is but one user, whatever
        // the environment has is meant: containers have a HOME of their own and no USER.
        let others_env = self.many_users && spec.env.get("USER").is_none_or(|user| *user != identity.name);
        let context = LaunchContext {
            pm2_home: &self.home,
            agent: &self.agent,
            channel_fd: Some(channel_number),
            out_log: out.as_deref(),
            error_log: err.as_deref(),
            combined_log: both.as_deref(),
            pid_file: pid.as_deref(),
            created_at,
            now: present().wall,
            unique_id: &self.unique_id(order.app),
            account: Some(&account),
            others_env,
            executable: &is_executable,
            node_versions: &node_versions,
        };
        let launch = node::launch(order, &context).map_err(|error| lasting(error.to_string()))?;
        if !spec.wait_ready && spec.exec_mode == ExecMode::Cluster {
            return Ok((launch, None));
        }
        let path = self.notify_folder.join(order.worker.to_string());
        let socket = NotifySocket::bind(&path, identity).map_err(|error| cannot("bind the notify socket", &error))?;
        Ok((launch, Some((socket, path))))
    }

    /// A control group for the worker within ours, so that nothing it forks escapes.
    fn own_group(&self, order: &SpawnOrder) -> Option<Cgroup> {
        let name = format!("pm2rs-{}-{}", std::process::id(), order.worker);
        match self.delegated.as_ref()?.create(&name) {
            Ok(group) => Some(group),
            Err(error) => {
                warn!(app = order.spec.name, %error, "cannot make a control group for the worker");
                None
            }
        }
    }

    /// Moves a held worker into a scope of its own, where there is systemd to make one.
    async fn scope_for(&self, order: &SpawnOrder, held: &Held) -> Option<Scope> {
        let scopes = self.scopes.as_ref()?;
        match scopes.start(order, held.pid()).await {
            Ok(scope) => Some(scope),
            Err(error) => {
                // Better a worker in the daemon's own control group than none.
                warn!(app = order.spec.name, error, "cannot make a scope for the worker");
                None
            }
        }
    }
}

/// What the program gets by LISTEN_FDS: what its configuration names, and in fork mode the sockets of .socket units that
/// are named like the app. (Cluster workers ask for theirs by address.)
async fn sockets_of(
    order: &SpawnOrder,
    identity: &Identity,
    primary: &Primary,
) -> Result<Vec<(OwnedFd, String)>, SpawnFailure> {
    let (spec, app, process) = (&order.spec, order.app, order.process);
    let mut sockets = Vec::new();
    for entry in &spec.listen {
        if is_socket_name(entry) {
            let named = primary.named(app, process, identity, entry).await;
            if named.is_empty() {
                return Err(lasting(format!(
                    "there is no socket `{entry}` for it: none of the .socket units of pm2rs.service that were active when it \
                     started has FileDescriptorName={entry}"
                )));
            }
            sockets.extend(named);
        } else {
            let opened = primary.open(app, process, identity, entry).await;
            // LISTEN_FDNAMES is separated by colons, so a name has none.
            sockets.push((opened.map_err(|error| passing(error.to_string()))?, entry.replace(':', "_")));
        }
    }
    if spec.exec_mode == ExecMode::Fork && !spec.listen.contains(&spec.name) {
        sockets.extend(primary.named(app, process, identity, &spec.name).await);
    }
    Ok(sockets)
}

/// Runs a command as the app's user, in its folder and with its environment and `more`, and says whether it exited with
/// 0. Ended when it is no longer waited for; what it leaves behind ends with the worker, into whose control group it is
/// born: what is in ours speaks for the service (`_SYSTEMD_UNIT=`) and uses up what the service may have.
pub(super) async fn run_to_end(
    argv: &[String],
    spec: &AppSpec,
    more: &[(String, String)],
    identity: &Identity,
    tree: &Tree,
    limits: Vec<Limit>,
) -> bool {
    let Some((program, args)) = argv.split_first() else { return false };
    let program = if program.contains('/') {
        spec.cwd.join(program)
    } else {
        let path = spec.env.get("PATH").map_or("/usr/bin:/bin", String::as_str);
        match path.split(':').map(|folder| Path::new(folder).join(program)).find(|path| is_executable(path)) {
            Some(found) => found,
            None => return false,
        }
    };
    let mut spawn = Spawn::new(program, args);
    let own = spec.env.iter().filter(|(key, _)| more.iter().all(|(name, _)| name != *key));
    let more = more.iter().map(|(key, value)| (key, value));
    spawn.env = own.chain(more).map(|(key, value)| (key.into(), value.into())).collect();
    spawn.cwd.clone_from(&spec.cwd);
    spawn.identity = Some(identity.clone());
    spawn.limits = limits;
    if let Tree::Cgroup(group) = tree {
        let Ok(group) = group.open() else { return false };
        spawn.cgroup = Some(group);
    }
    let Ok(held) = spawn.start() else { return false };
    let Ok(child) = held.release(EXEC_DEADLINE).await else { return false };
    let running = Running(child);
    pidfd::wait(running.pidfd()).await.is_ok_and(|status| status == ExitStatus::Code(0))
}

/// A command of ours; one that is no longer waited for is ended, and collected in any case.
pub(super) struct Running(pub(super) Child);

impl Running {
    /// For waiting.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pidfd = self.0.pidfd.as_fd();
        if pidfd::send_signal(pidfd, libc::SIGKILL).is_ok()
            && let Ok(pidfd) = pidfd.try_clone_to_owned()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            tokio::spawn(async move { drop(pidfd::wait(pidfd.as_fd()).await) });
        }
    }
}

async fn write_pid_file(spec: &AppSpec, path: PathBuf, identity: &Identity, pid: u32) {
    let shown = path.display().to_string();
    let written = run_as_async(identity.clone(), move || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        plain::write(&path, pid.to_string().as_bytes())
    })
    .await;
    let problem = match written {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    warn!(app = spec.name, path = shown, problem, "cannot write the pid file");
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn node_versions(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).take(1000).collect()
}

fn pipe_pair() -> Result<(OwnedFd, OwnedFd), SpawnFailure> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| cannot("make a pipe", &error.into()))
}

fn lasting(message: String) -> SpawnFailure {
    SpawnFailure { message, transient: false }
}

fn passing(message: String) -> SpawnFailure {
    SpawnFailure { message, transient: true }
}

fn cannot(what: &str, error: &std::io::Error) -> SpawnFailure {
    passing(format!("cannot {what}: {error}"))
}

fn of_spawn(error: &crate::sys::spawn::SpawnError) -> SpawnFailure {
    SpawnFailure { message: error.to_string(), transient: error.is_transient() }
}
