//! Which daemon a command talks to, and how it gets there: the choice, the connection, the start of a private daemon.
//!
//! Never starts anything but this very program, and only where no daemon serves and none was named that cannot be
//! started from here.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::console::Console;
use super::exit::Failure;
use super::options::Options;
use super::pm2_daemon::Pm2Daemon;
use crate::api::{Client, ConnectError, names};
use crate::config::HomeFile;

/// The system daemon's own socket; quicker than the bus, and there when the bus is not.
const SYSTEM_SOCKET: &str = "/run/pm2rs/bus.sock";
/// Where a system bus is, if there is one.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// How long a private daemon may take from its start until it takes commands.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How long another command's daemon may take from holding our home until it takes commands.
const RIVAL_DEADLINE: Duration = Duration::from_secs(2);
/// How long a daemon may take to end once its apps have.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks for a daemon that comes or goes: there is no event for it on a socket that it unlinks.
const RETRY: Duration = Duration::from_millis(20);

/// The daemon that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The system service.
    System,
    /// The user's service.
    User,
    /// The private daemon of [`Choice::home`].
    Private,
    /// Nothing was said: the system service where there is one, else the private daemon.
    Any,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which daemon.
    pub place: Place,
    /// PM2RS_HOME or what stands for it, absolute: the private daemon's folder, and that of the caller's own files.
    pub home: PathBuf,
    /// What such a folder is called in somebody's home: `.pm2rs`, or `.pm2` for who calls this program so.
    pub folder: &'static str,
}

impl Choice {
    /// What the options and the environment say. `as_pm2`: the program was called through a link named `pm2`.
    pub fn of(options: &Options, as_pm2: bool, env: &dyn Fn(&str) -> Option<PathBuf>) -> Choice {
        let own = env("PM2RS_HOME");
        let named = options.home.clone().or_else(|| if as_pm2 { env("PM2_HOME").or(own) } else { own });
        let folder = if as_pm2 { ".pm2" } else { ".pm2rs" };
        let place = match (options.system, options.user.as_deref(), &named) {
            (true, ..) => Place::System,
            (_, Some(""), _) => Place::User,
            (.., Some(_)) => Place::Private,
            (.., None) => Place::Any,
        };
        let home = named.unwrap_or_else(|| std::env::home_dir().unwrap_or_else(|| "/etc".into()).join(folder));
        Choice { place, home: std::path::absolute(&home).unwrap_or(home), folder }
    }

    /// The socket of the private daemon.
    pub fn private_socket(&self) -> PathBuf {
        self.home.join(names::PRIVATE_SOCKET)
    }

    /// A connection to the daemon if it runs, or would be started by its bus.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub async fn find(&self) -> Result<Option<Client>, Failure> {
        match self.place {
            Place::System => system().await,
            Place::User => user().await,
            Place::Private => private(&self.private_socket()).await,
            Place::Any => match system().await {
                Ok(Some(client)) => Ok(Some(client)),
                Ok(None) => private(&self.private_socket()).await,
                // A system service that cannot be used is no reason to leave a private daemon alone.
                Err(failure) => match private(&self.private_socket()).await? {
                    Some(client) => Ok(Some(client)),
                    None => Err(failure),
                },
            },
        }
    }

    /// A connection to the daemon; a private one is started where none serves. Whether it was started is the second part.
    ///
    /// # Errors
    /// When there is none and none can be started.
    pub async fn connect(&self, console: &Console) -> Result<(Client, bool), Failure> {
        if let Some(client) = self.find().await? {
            return Ok((client, false));
        }
        match self.place {
            Place::System => Err(Failure::error("the system service does not run: systemctl start pm2rs")),
            Place::User => Err(Failure::error("your user service does not run: systemctl --user start pm2rs")),
            Place::Private | Place::Any => self.start(console).await,
        }
    }

    /// Waits until a private daemon that was told to end has gone, so that the next command starts a new one.
    ///
    /// # Errors
    /// When it still answers after a while.
    pub async fn gone(&self, client: &Client) -> Result<(), Failure> {
        if client.connection().is_bus() {
            return Ok(());
        }
        let ended = async {
            while client.manager().ping().await.is_ok() {
                tokio::time::sleep(RETRY).await;
            }
        };
        let ended = tokio::time::timeout(END_DEADLINE, ended).await;
        ended.map_err(|_| Failure::error("the daemon has stopped its apps and does not end"))
    }

    /// A connection to the daemon that replaces itself.
    ///
    /// # Errors
    /// When it does not come back in time.
    pub async fn back(&self) -> Result<Client, Failure> {
        let back = async {
            loop {
                match self.find().await {
                    Ok(Some(client)) if client.manager().ping().await.is_ok() => break client,
                    _ => tokio::time::sleep(RETRY).await,
                }
            }
        };
        let back = tokio::time::timeout(START_DEADLINE, back).await;
        back.map_err(|_| Failure::error("the daemon does not come back; apps go on as they are"))
    }

    /// A connection to the next daemon after one that went away, if there is one within this time. None is started.
    pub async fn again(&self, within: Duration) -> Option<Client> {
        let end = Instant::now() + within;
        loop {
            let next = async {
                let client = self.find_running().await?;
                client.manager().ping().await.is_ok().then_some(client)
            };
            // Who waits in the socket's queue has found one, which may be long in taking over from the one before.
            match tokio::time::timeout(START_DEADLINE, next).await {
                Ok(Some(client)) => return Some(client),
                _ if Instant::now() >= end => return None,
                _ => tokio::time::sleep(RETRY).await,
            }
        }
    }

    async fn find_running(&self) -> Option<Client> {
        let own = self.private_socket();
        let socket = match self.place {
            Place::System => PathBuf::from(SYSTEM_SOCKET),
            Place::User => Path::new(&std::env::var_os("XDG_RUNTIME_DIR")?).join("pm2rs").join(names::PRIVATE_SOCKET),
            Place::Private => own,
            Place::Any if !Path::new(SYSTEM_SOCKET).exists() => own,
            Place::Any => PathBuf::from(SYSTEM_SOCKET),
        };
        if let Ok(Some(client)) = private(&socket).await {
            return Some(client);
        }
        let bus = match self.place {
            Place::Private => return None,
            Place::User => Client::session().await,
            Place::System | Place::Any => Client::system().await,
        };
        // A mere call would start a service that somebody has stopped.
        let bus = bus.ok()?;
        bus.is_running().await.then_some(bus)
    }

    async fn start(&self, console: &Console) -> Result<(Client, bool), Failure> {
        // Its apps go on, and whoever calls this program by PM2's name takes them for lost.
        if let Ok(Some(pm2)) = Pm2Daemon::of(&self.home) {
            let (pid, home) = (pm2.pid(), self.home.display());
            console.notice(format!(
                "[PM2][WARN] PM2's own daemon (process {pid}) runs in {home}, too; `pm2 migrate` takes its apps over"
            ));
        }
        console.notice(format!("[PM2] Spawning PM2 daemon with pm2_home={}", self.home.display()));
        let (client, started) = match self.spawn().await {
            Ok(()) => (private(&self.private_socket()).await?, true),
            // Another command may have been quicker: its daemon keeps ours from starting, and is as good.
            Err(failure) => {
                let other = tokio::time::timeout(RIVAL_DEADLINE, self.back()).await;
                (Some(other.map_err(|_| failure)??), false)
            }
        };
        let client = client.ok_or_else(|| Failure::error("the daemon has started and does not answer"))?;
        console.notice("[PM2] PM2 Successfully daemonized");
        Ok((client, started))
    }

    /// Starts a daemon and waits until it takes commands.
    async fn spawn(&self) -> Result<(), Failure> {
        let cannot = |what: &str, path: &Path, cause: &dyn std::fmt::Display| {
            Failure::error(format!("cannot {what} `{}`: {cause}", path.display()))
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.home)
            .map_err(|e| cannot("create", &self.home, &e))?;
        // PM2's users look into them before there is an app; whoever writes there makes them where this cannot.
        for folder in [HomeFile::Logs, HomeFile::Pids] {
            drop(DirBuilder::new().recursive(true).create(folder.here(&self.home)));
        }
        let log_path = HomeFile::DaemonLog.here(&self.home);
        let mut log = OpenOptions::new();
        log.read(true).append(true).create(true).mode(0o600);
        let mut log = log.open(&log_path).map_err(|e| cannot("open", &log_path, &e))?;
        let log_start = log.seek(SeekFrom::End(0)).unwrap_or_default();
        let program = std::env::current_exe().map_err(|e| Failure::error(format!("cannot find this program: {e}")))?;
        let stdio = || log.try_clone().map(Stdio::from).map_err(|e| cannot("use", &log_path, &e));
        let (ready, child_end) =
            std::io::pipe().map_err(|e| Failure::error(format!("cannot create a pipe for the daemon: {e}")))?;
        let mut command = Command::new(&program);
        // Of the descriptors a child gets, standard input is the one that a daemon has no other use for.
        command.args(["daemon", "--detached", "--home"]).arg(&self.home);
        // Called by an app, it is no part of that app.
        command.env_remove(names::WORKER_MARK);
        command.stdin(child_end).stdout(stdio()?).stderr(stdio()?).current_dir("/");
        let mut child = command.spawn().map_err(|e| cannot("start", &program, &e))?;
        // The command holds our copy of the daemon's end: with it open, the end of the daemon would not be seen.
        drop(command);
        let said = tokio::time::timeout(START_DEADLINE, first_line(ready)).await;
        match said {
            Ok(Ok(line)) if line == "\n" => Ok(()),
            Ok(Ok(line)) if !line.trim().is_empty() => Err(Failure::error(line.trim().to_owned())),
            Ok(Ok(_)) => {
                let _ = child.wait();
                let mut last = String::new();
                let _ = log.seek(SeekFrom::Start(log_start)).and_then(|_| log.take(64 << 10).read_to_string(&mut last));
                let why = last.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing about it");
                Err(Failure::error(format!("the daemon ended at once: {why} (see {})", log_path.display())))
            }
            Ok(Err(error)) => Err(Failure::error(format!("cannot hear from the daemon: {error}"))),
            Err(_) => {
                let seconds = START_DEADLINE.as_secs();
                let log = log_path.display();
                Err(Failure::error(format!("the daemon is not ready after {seconds} s (see {log})")))
            }
        }
    }
}

/// One line, its line break included, or what came before the end.
async fn first_line(pipe: std::io::PipeReader) -> std::io::Result<String> {
    const BOUND: u64 = 4096;
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe.into())?.take(BOUND);
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        if pipe.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

async fn private(socket: &Path) -> Result<Option<Client>, Failure> {
    if !socket.exists() {
        return Ok(None);
    }
    present(Client::private(socket).await)
}

async fn system() -> Result<Option<Client>, Failure> {
    // Whoever may not use the socket may still use the bus.
    if let Ok(Some(client)) = private(Path::new(SYSTEM_SOCKET)).await {
        return Ok(Some(client));
    }
    if !Path::new(SYSTEM_BUS).exists() {
        return Ok(None);
    }
    served(present(Client::system().await)?).await
}

async fn user() -> Result<Option<Client>, Failure> {
    let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) else {
        return Err(Failure::error("there is no user service here: XDG_RUNTIME_DIR is not set"));
    };
    if let Some(client) = private(&runtime.join("pm2rs").join(names::PRIVATE_SOCKET)).await? {
        return Ok(Some(client));
    }
    served(present(Client::session().await)?).await
}

async fn served(client: Option<Client>) -> Result<Option<Client>, Failure> {
    let Some(client) = client else { return Ok(None) };
    let is_served = client.is_served().await.map_err(|error| Failure::error(error.to_string()))?;
    Ok(is_served.then_some(client))
}

/// A connection, or none where nobody is.
fn present(connected: Result<Client, ConnectError>) -> Result<Option<Client>, Failure> {
    match connected {
        Ok(client) => Ok(Some(client)),
        Err(ConnectError::Absent(_)) => Ok(None),
        Err(error) => Err(Failure::error(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(options: &Options, as_pm2: bool, env: &[(&str, &str)]) -> Choice {
        let find = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value));
        Choice::of(options, as_pm2, &find)
    }

    #[tokio::test]
    async fn a_daemon_that_is_long_in_taking_over_is_waited_for() -> Result<(), Box<dyn std::error::Error>> {
        struct Manager;
        #[zbus::interface(name = "org.pm2rs1.Manager")]
        impl Manager {
            fn ping(&self) -> &str {
                "pong"
            }
        }
        let home = tempfile::tempdir()?;
        let choice = Choice { place: Place::Private, home: home.path().to_owned(), folder: ".pm2rs" };
        let within = Duration::from_millis(50);
        assert!(choice.again(within).await.is_none());
        let listener = tokio::net::UnixListener::bind(choice.private_socket())?;
        let daemon = async {
            let (stream, _) = listener.accept().await?;
            tokio::time::sleep(10 * within).await;
            let builder =
                zbus::connection::Builder::unix_stream(stream.into_std()?).server(zbus::Guid::generate()).p2p();
            let connection = builder.serve_at("/org/pm2rs1", Manager).build().await?;
            connection.closed().await;
            Ok::<(), Box<dyn std::error::Error>>(())
        };
        let asked = async { choice.again(within).await.is_some() };
        let (found, served) = tokio::join!(asked, daemon);
        assert!(found);
        served
    }

    #[test]
    fn a_named_home_means_its_private_daemon() {
        let plain = Options::default();
        let named = Options { home: Some("/h".into()), ..Options::default() };
        let private = |home: &str, folder| Choice { place: Place::Private, home: home.into(), folder };
        assert_eq!(chosen(&named, false, &[("PM2RS_HOME", "/e")]), private("/h", ".pm2rs"));
        assert_eq!(chosen(&plain, false, &[("PM2RS_HOME", "/e"), ("PM2_HOME", "/p")]), private("/e", ".pm2rs"));
        assert_eq!(chosen(&plain, true, &[("PM2RS_HOME", "/e"), ("PM2_HOME", "/p")]), private("/p", ".pm2"));
        assert_eq!(chosen(&plain, true, &[("PM2RS_HOME", "/e")]), private("/e", ".pm2"));
    }

    #[test]
    fn without_a_word_any_daemon_will_do() {
        let plain = Options::default();
        assert_eq!(chosen(&plain, false, &[("PM2_HOME", "/p")]).place, Place::Any);
        assert!(chosen(&plain, false, &[]).home.ends_with(".pm2rs"));
        assert!(chosen(&plain, true, &[]).home.ends_with(".pm2"));
    }

    #[test]
    fn services_are_chosen_by_option() {
        let system = Options { system: true, ..Options::default() };
        let user = Options { user: Some(String::new()), ..Options::default() };
        let uid = Options { user: Some("www-data".into()), ..Options::default() };
        assert_eq!(chosen(&system, false, &[("PM2RS_HOME", "/e")]).place, Place::System);
        assert_eq!(chosen(&user, false, &[]).place, Place::User);
        assert_eq!(chosen(&uid, false, &[]).place, Place::Any);
    }
}
