//! Where a daemon keeps its things, by the way it was started.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::api::names::PRIVATE_SOCKET;
use crate::config::HomeFile;
use crate::core::STATIC_SERVER;

/// The three ways to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The system service: the system bus, everybody's apps.
    System,
    /// A user's service: the session bus, their apps.
    User,
    /// No bus but a socket in this folder; started by the first command that finds nothing else.
    Private {
        /// PM2RS_HOME, or PM2_HOME when called as `pm2`.
        home: PathBuf,
    },
}

impl Mode {
    /// As the bus's `Mode` property has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Mode::System => "system",
            Mode::User => "user",
            Mode::Private { .. } => "private",
        }
    }
}

/// A daemon's folders. The runtime folder goes with the machine's uptime, the state folder stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Socket, worker's agent, notify sockets.
    pub runtime: PathBuf,
    /// State file and saved lists.
    pub state: PathBuf,
    /// What PM2 calls its home; apps see it as PM2_HOME.
    pub home: PathBuf,
    /// What workers must reach whoever they run as: the agent, their notify sockets.
    pub shared: PathBuf,
    /// Log files whose configuration names no other place.
    pub logs: PathBuf,
    /// Saved lists: the file of the one user, in system mode the folder of everybody's.
    saved: PathBuf,
    /// The pid of a private daemon.
    pid: Option<PathBuf>,
}

impl Paths {
    /// The folders of `mode`, from systemd's RUNTIME_DIRECTORY and STATE_DIRECTORY (systemd.exec(5)) where it set them.
    #[must_use]
    pub fn of(mode: &Mode, env: impl Fn(&str) -> Option<String>) -> Paths {
        let from = |name: &str| env(name).filter(|v| v.starts_with('/')).map(PathBuf::from);
        match mode {
            Mode::System => {
                let state = from("STATE_DIRECTORY").unwrap_or_else(|| "/var/lib/pm2rs".into());
                let runtime = from("RUNTIME_DIRECTORY").unwrap_or_else(|| "/run/pm2rs".into());
                Paths {
                    shared: runtime.clone(),
                    runtime,
                    home: state.clone(),
                    logs: state.join("logs"),
                    saved: state.join("saved"),
                    pid: None,
                    state,
                }
            }
            Mode::User => {
                let user_home = from("HOME").unwrap_or_else(|| "/".into());
                let state = from("STATE_DIRECTORY").unwrap_or_else(|| {
                    from("XDG_STATE_HOME").unwrap_or_else(|| user_home.join(".local/state")).join("pm2rs")
                });
                let runtime = from("RUNTIME_DIRECTORY")
                    .or_else(|| from("XDG_RUNTIME_DIR").map(|d| d.join("pm2rs")))
                    .unwrap_or_else(|| state.join("run"));
                Paths {
                    shared: runtime.clone(),
                    runtime,
                    home: state.clone(),
                    logs: state.join("logs"),
                    saved: state.join("dump.pm2"),
                    pid: None,
                    state,
                }
            }
            Mode::Private { home } => Paths {
                runtime: home.clone(),
                state: home.clone(),
                home: home.clone(),
                shared: home.join("run"),
                logs: HomeFile::Logs.path(home, &env),
                saved: HomeFile::Dump.path(home, &env),
                pid: Some(HomeFile::DaemonPid.path(home, &env)),
            },
        }
    }

    /// The same, for a private daemon that runs as root: its workers may be other users, who cannot enter root's home.
    #[must_use]
    pub fn reachable_by_all(mut self) -> Paths {
        let mut hasher = DefaultHasher::new();
        self.home.hash(&mut hasher);
        self.shared = PathBuf::from(format!("/run/pm2rs-private/{:016x}", hasher.finish()));
        self
    }

    /// The peer-to-peer socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join(PRIVATE_SOCKET)
    }

    /// The script that is loaded into Node workers.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.shared.join("agent.cjs")
    }

    /// The server of static files: beside the agent, by the name that specs have for it.
    #[must_use]
    pub fn static_server(&self) -> PathBuf {
        self.agent().with_file_name(Path::new(STATIC_SERVER).file_name().unwrap_or_default())
    }

    /// What the daemon must find again after its end.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.state.join("state.json")
    }

    /// The saved list of one user: PM2's dump.pm2 in the home, or one a user in system mode.
    #[must_use]
    pub fn dump_file(&self, mode: &Mode, owner: u32) -> PathBuf {
        match mode {
            Mode::System => self.saved.join(format!("{owner}.pm2")),
            _ => self.saved.clone(),
        }
    }

    /// The daemon's pid file, which PM2's users read.
    #[must_use]
    pub fn pid_file(&self) -> Option<&Path> {
        self.pid.as_deref()
    }

    /// The folder of the sockets by which workers say that they are ready (sd_notify(3)).
    #[must_use]
    pub fn notify_folder(&self) -> PathBuf {
        self.shared.join("notify")
    }
}
