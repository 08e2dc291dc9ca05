//! From nothing to a daemon that takes commands: folders, lock, log, sockets, bus, and what ran before.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::facts::Fact;
use super::handle::Handle;
use super::keeper;
use super::keeping;
use super::panics;
use super::persist::{self, Persist, Saved};
use super::pid_file::PidFile;
use super::run::Inputs;
use super::salvage::salvage;
use super::scopes::Scopes;
use super::spawner::Spawner;
use super::{Daemon, DaemonOptions, Mode, Paths};
use crate::core::{Uid, WorkerId};
use crate::dbus;
use crate::logs::{self, Logs, LogsConfig};
use crate::node::{self, Primary, PrimaryConfig};
use crate::sys::cgroup::Cgroup;
use crate::sys::durable;
use crate::sys::handover::{self, Handover};
use crate::sys::notify::{self, Notifier};
use crate::sys::store::Store;
use crate::sys::ulimits::{self, Limit};

/// Requests that may wait for the loop; more callers wait on their own side.
const WAITING_REQUESTS: usize = 256;

/// Longer than any daemon.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What the private socket and the lock of the home are called in the store.
const SOCKET: &str = "socket";
const LOCK: &str = "lock";

/// Runs a daemon until it is told to end.
///
/// # Errors
/// What kept it from starting or made it give up, in one line for people.
pub fn run(options: DaemonOptions) -> anyhow::Result<()> {
    let DaemonOptions { mode, ready } = options;
    if ready.is_some() {
        // Started by a command: a Ctrl-C at its terminal, or the terminal's end, is not for us. It fails for the leader
        // of a process group only (setsid(2)), which nobody who waits for us makes of us.
        let _ = nix::unistd::setsid();
    }
    let mut waiter = Waiter(ready);
    let handover = handover::take().context("cannot take what the program before has handed on");
    let result = match handover {
        Err(error) => Err(error),
        Ok(Some(handover)) if keeper::is_of_keeper(&handover) => go_on_keeping(&mode, handover),
        Ok(None) if keeper::is_needed(&mode) => keep(mode, &mut waiter),
        Ok(handover) => serve(mode, handover, &mut waiter),
    };
    if let Err(error) = &result {
        waiter.tell(&format!("{error:#}").replace('\n', " "));
    }
    result
}

/// Whoever started this daemon and waits until commands can be taken.
#[derive(Debug)]
pub(super) struct Waiter(Option<OwnedFd>);

impl Waiter {
    /// An empty line is readiness, any other the reason why there will be none. Only the first counts.
    pub(super) fn tell(&mut self, line: &str) {
        if let Some(fd) = self.0.take() {
            // It may have given up waiting.
            drop(File::from(fd).write_all(format!("{line}\n").as_bytes()));
        }
    }
}

/// Keeps a daemon, where nobody else would.
fn keep(mode: Mode, waiter: &mut Waiter) -> anyhow::Result<()> {
    let paths = paths_of(&mode);
    make_folders(&mode, &paths)?;
    logs::daemon_log::init(true);
    match keeper::prepare(&paths)? {
        Some(keeper) => keeper.run(waiter.0.take()),
        None => serve(mode, None, waiter),
    }
}

/// The same as the program that was executed here before.
fn go_on_keeping(mode: &Mode, handover: Handover) -> anyhow::Result<()> {
    logs::daemon_log::init(true);
    keeper::resume(&paths_of(mode), handover)?.run(None)
}

fn paths_of(mode: &Mode) -> Paths {
    let paths = Paths::of(mode, |name| std::env::var(name).ok());
    if matches!(mode, Mode::Private { .. }) && own_uid() == Uid(0) { paths.reachable_by_all() } else { paths }
}

fn serve(mode: Mode, handover: Option<Handover>, waiter: &mut Waiter) -> anyhow::Result<()> {
    let executed = handover.is_some();
    let (inherited, open_files) = match handover {
        Some(Handover { passed, open_files }) => (passed, open_files),
        None => (notify::take_passed().context("cannot take the sockets that systemd passed")?, None),
    };
    let notifier = || match Notifier::from_environment() {
        // It has died under the program before, and this one is all that the workers have.
        Err(_) if executed => Ok(None),
        other => other.context("cannot reach the service manager"),
    };
    // Without a service manager what is kept goes to the program that is executed in place of this one, to no other.
    let (store, inherited) = Store::new(notifier()?, inherited);
    let paths = paths_of(&mode);
    make_folders(&mode, &paths)?;
    let _lock = lock(&paths, &store)?;
    logs::daemon_log::init(matches!(mode, Mode::Private { .. }));
    if notifier()?.is_some() {
        panics::die();
    }
    let limit = ulimits::raise_open_files()
        .inspect_err(|error| warn!(%error, "cannot raise the limit of open files"))
        .map(|limit| limit.with_soft(open_files.or_else(said_open_files).unwrap_or(limit.soft)))
        .ok();
    let notifier = notifier()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Blocking work is rare (state file, look-ups of users): threads must not pile up. What there are stay, for where
        // no other can be had (TasksMax=, a container's or the machine's limit) such work waits for one of them, and
        // without any it is a panic.
        .max_blocking_threads(8)
        .thread_keep_alive(FOR_EVER)
        .build()
        .context("cannot start the event loop")?;
    let result = runtime.block_on(async {
        drop(tokio::task::spawn_blocking(|| ()));
        let (mut daemon, before, inputs, handle) = assemble(mode, paths, inherited, limit, notifier, store).await?;
        match before {
            Before::Kept(saved) => daemon.take_over(*saved),
            Before::Found(saved, regained) => daemon.take_over_regained(*saved, &regained),
            Before::Ended(saved) => daemon.restore(saved.map(|saved| *saved)),
        }
        daemon.begin_to_serve(handle);
        let result = daemon.run(inputs, waiter).await;
        daemon.clean_up();
        result
    });
    logs::daemon_log::flush();
    result
}

/// What the unit says of how many files apps may have open.
fn said_open_files() -> Option<u64> {
    let value = std::env::var(ulimits::VARIABLE).ok()?;
    value.parse().inspect_err(|_| warn!(value, "{} is not a number", ulimits::VARIABLE)).ok()
}

/// What there is of the daemon before.
enum Before {
    /// All that it had, kept for us.
    Kept(Box<Saved>),
    /// Its state file, and these of its workers, which still live.
    Found(Box<Saved>, BTreeSet<WorkerId>),
    /// Its state file at most, and nothing that could be gone on with.
    Ended(Option<Box<Saved>>),
}

/// Looks for it, and leaves nothing in the store that does not belong to it.
fn look_back(persist: &mut Persist, store: &Store, path: &Path, boot_id: &str) -> Before {
    // What is left of a daemon that was about to end is not gone on with: its apps are started anew.
    let goes_on = |saved: &Saved| saved.boot_id == boot_id && !saved.fleet.is_shutting_down();
    if let Some(saved) = persist.remember_in(store).filter(goes_on) {
        return Before::Kept(saved.into());
    }
    let kept = keeping::kept(store);
    for worker in &kept {
        keeping::end(store, *worker);
    }
    node::release_kept(store);
    let saved = persist::load(path).map(Box::new);
    match saved {
        Some(saved) if kept.is_empty() && goes_on(&saved) => match salvage(store, &saved) {
            none if none.is_empty() => Before::Ended(Some(saved)),
            regained => Before::Found(saved, regained),
        },
        saved => Before::Ended(saved),
    }
}

async fn assemble(
    mode: Mode,
    paths: Paths,
    inherited: Vec<notify::Passed>,
    limit: Option<Limit>,
    notifier: Option<Notifier>,
    store: Store,
) -> anyhow::Result<(Daemon, Before, Inputs, Handle)> {
    write_source(&paths.agent(), node::AGENT)?;
    write_source(&paths.static_server(), node::STATIC_SERVER)?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the kernel's boot id")?;
    let mut persist = Persist::new(paths.state_file());
    let before = look_back(&mut persist, &store, &paths.state_file(), boot_id.trim());
    let node = PrimaryConfig { store: store.clone(), ..PrimaryConfig::default() };
    let (primary, node_events) = Primary::start(node).context("cannot serve Node's channels")?;
    for socket in inherited {
        info!(name = socket.name, "took over a socket from systemd");
        primary.add_inherited(socket.name, socket.fd);
    }
    let service = !matches!(mode, Mode::Private { .. });
    let journal = service && Path::new("/run/systemd/journal/socket").exists();
    let mut log_settings =
        LogsConfig::new(journal, paths.logs.clone()).with_environment(|name| std::env::var(name).ok());
    if log_settings.journal {
        log_settings.limited_unit = logs::limited_unit();
    }
    if let Some(unit) = &log_settings.limited_unit {
        warn!(
            MESSAGE_ID = logs::message_ids::RATE_LIMITED,
            unit, "journald may drop lines of apps that write very many: it limits the unit's rate"
        );
    }
    let (logs, log_events) = Logs::start(log_settings);
    let (handle, requests, changes) = Handle::new(WAITING_REQUESTS);
    let (fact_sender, facts) = mpsc::unbounded_channel();
    PidFile::new(paths.pid_file()).claim();
    let spawner = Spawner {
        home: paths.home.clone(),
        many_users: matches!(mode, Mode::System),
        agent: paths.agent(),
        notify_folder: paths.notify_folder(),
        limits: limit.into_iter().collect(),
        delegated: if service { None } else { Cgroup::own().filter(Cgroup::is_delegated) },
        scopes: Scopes::of(&mode).map(Arc::new),
        boot_id: boot_id.trim().to_owned(),
        store: store.clone(),
    };
    let daemon =
        Daemon::new(mode, paths, own_uid(), spawner, primary, logs, changes, fact_sender, notifier, store, persist);
    Ok((daemon, before, Inputs { requests, facts, node: node_events, logs: log_events }, handle))
}

impl Daemon {
    /// Opens the ways by which callers come, in a task beside the loop, which they need to answer them.
    fn begin_to_serve(&self, handle: Handle) {
        let info = dbus::ManagerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: self.mode.name().to_owned(),
            home: self.paths.home.display().to_string(),
            pid: std::process::id(),
        };
        let (mode, socket, facts) = (self.mode.clone(), self.paths.socket(), self.facts.clone());
        let store = self.store.clone();
        tokio::spawn(async move {
            let result = open_ways(handle, info, &mode, &socket, &store).await;
            drop(facts.send(Fact::Serving(Box::new(result))));
        });
    }
}

async fn open_ways(
    handle: Handle,
    info: dbus::ManagerInfo,
    mode: &Mode,
    socket: &Path,
    store: &Store,
) -> Result<dbus::Server, dbus::ServeError> {
    let mut server = dbus::Server::start(handle, info).await?;
    let access = if *mode == Mode::System { dbus::Access::Everybody } else { dbus::Access::Owner };
    let listener = match store.get(SOCKET).filter(|_| socket.exists()) {
        // Who connected meanwhile waits in its queue.
        Some(kept) => UnixListener::from(kept),
        None => dbus::bind_private(socket, access).await?,
    };
    store.keep(SOCKET, &listener);
    let failed = |cause| dbus::ServeError::Socket { socket: socket.display().to_string(), cause };
    server.serve_listener(listener, access).map_err(failed)?;
    let bus = match mode {
        Mode::System => Some(dbus::Bus::System),
        Mode::User => Some(dbus::Bus::Session),
        Mode::Private { .. } => None,
    };
    if let Some(bus) = bus
        && let Err(error) = server.add_bus(bus).await
    {
        // The command line comes by the private socket; a supervisor must not wait for a bus.
        warn!(%error, "commands are taken over the private socket only, until there is a bus");
    }
    Ok(server)
}

fn own_uid() -> Uid {
    Uid(nix::unistd::geteuid().as_raw())
}

/// Makes the folders. What workers must reach lies in folders that everybody may enter; the state is nobody's but the
/// daemon's.
fn make_folders(mode: &Mode, paths: &Paths) -> anyhow::Result<()> {
    let runtime_mode = if *mode == Mode::System { 0o755 } else { 0o700 };
    let folders = [
        (&paths.state, 0o700),
        (&paths.runtime, runtime_mode),
        (&paths.shared, 0o711),
        (&paths.notify_folder(), 0o711),
    ];
    for (path, permissions) in folders {
        DirBuilder::new()
            .recursive(true)
            .mode(permissions)
            .create(path)
            .with_context(|| format!("cannot create the folder `{}`", path.display()))?;
    }
    // The caller's umask must not decide whether another user's worker reaches its agent.
    for (path, permissions) in [(&paths.shared, runtime_mode | 0o711), (&paths.notify_folder(), 0o711)] {
        fs::set_permissions(path, fs::Permissions::from_mode(permissions))
            .with_context(|| format!("cannot set permissions of `{}`", path.display()))?;
    }
    Ok(())
}

/// Workers load such a script at any time, so it is whole at any time; and where it is there already the disk may be full.
fn write_source(path: &Path, source: &str) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|there| there == source.as_bytes()) {
        return Ok(());
    }
    durable::write(path, source.as_bytes(), 0o644).with_context(|| format!("cannot write `{}`", path.display()))
}

/// One daemon a home: the lock goes with the process, however it ends (flock(2)). A program that is executed in place of
/// this one has it without a gap.
fn lock(paths: &Paths, store: &Store) -> anyhow::Result<Flock<File>> {
    let path = paths.state.join("daemon.lock");
    let open = || match File::options().create(true).truncate(false).write(true).open(&path) {
        // flock(2) is content with this. A disk that has become read-only is no reason to leave apps alone.
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => File::open(&path).or(Err(error)),
        other => other,
    };
    let file = store.get(LOCK).map_or_else(open, |kept| Ok(kept.into()));
    let file = file.with_context(|| format!("cannot open `{}`", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            store.hand_on(LOCK, &*lock);
            Ok(lock)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            bail!("another daemon already serves `{}`", paths.state.display())
        }
        Err((_, errno)) => bail!("cannot lock `{}`: {}", path.display(), errno.desc()),
    }
}
