//! What an app is: every setting with its meaning and default, after all aliases, files and options are resolved.
//!
//! Serialised, it has PM2's key names, so that what goes over the bus and into the state file reads like an
//! ecosystem entry. How keys are *written* by people is `config`'s business.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SyslogAddress;

/// The `script` of an app that serves static files. It stands for pm2rs's own server, wherever the daemon of the moment
/// keeps that; no such file is needed.
pub const STATIC_SERVER: &str = "/pm2rs/serve.cjs";

/// A fully resolved app: absolute paths, complete environment, defaults filled in.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppSpec {
    /// What `pm2rs list` shows and most commands take.
    pub name: String,
    /// PM2's grouping of apps; `default`.
    pub namespace: String,
    /// The program or script, absolute.
    pub script: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What runs the script: an absolute path or a name looked up in the app's PATH at each start; `none` executes the
    /// script itself.
    pub interpreter: String,
    /// Arguments before the script.
    pub node_args: Vec<String>,
    /// Working folder, absolute, symbolic links kept (looked up at each start).
    pub cwd: PathBuf,
    /// Fork or cluster.
    pub exec_mode: ExecMode,
    /// How many processes; resolved against the machine's CPUs by the daemon.
    pub instances: Instances,
    /// The complete environment: the caller's, overlaid by the file's.
    pub env: BTreeMap<String, String>,
    /// Variable that carries the instance number.
    pub instance_var: String,
    /// Variable that is counted up from instance to instance.
    pub increment_var: Option<String>,
    /// Variables of `env` that the app's own configuration set; the others are its caller's.
    pub own_env: Vec<String>,
    /// Variables of `env` that the file gave as a number or a boolean, which `jlist` shows them as.
    pub unquoted_env: Vec<String>,
    /// Variables that the app must not get from its caller.
    pub filter_env: FilterEnv,

    /// Whether an ended worker is started again.
    pub autorestart: bool,
    /// Whether it is started when the app is added; else it waits as `stopped`.
    pub autostart: bool,
    /// A worker that lived this long (ms) counts as stable.
    pub min_uptime: u64,
    /// So many unstable ends within the window make the process `errored`.
    pub max_restarts: u32,
    /// Fixed delay before a restart (ms).
    pub restart_delay: u64,
    /// First back-off delay (ms), growing by half up to 15 s; 0 takes the default back-off.
    pub exp_backoff_restart_delay: u64,
    /// Exit codes after which it is not restarted.
    pub stop_exit_codes: Vec<i32>,
    /// croner pattern of planned restarts.
    pub cron_restart: Option<String>,
    /// Restart when resident memory (bytes) is above this.
    pub max_memory_restart: Option<u64>,

    /// From the stop signal to SIGKILL (ms).
    pub kill_timeout: u64,
    /// The stop signal, `SIGINT` by default.
    pub kill_signal: String,
    /// Signal the whole tree rather than the main process alone.
    pub treekill: bool,
    /// Send `shutdown` over the channel in place of the signal.
    pub shutdown_with_message: bool,
    /// How long requests in flight may take before the stop signal (ms).
    pub drain_timeout: u64,

    /// Ready only when the app says so.
    pub wait_ready: bool,
    /// How long a worker may take to get ready (ms). In a reload it has longer where its predecessor needed it, unless
    /// this was set.
    pub listen_timeout: u64,
    /// Asks the app from outside whether it is ready.
    pub probe: Option<Probe>,
    /// Workers replaced at a time by a reload.
    pub reload_batch: u32,
    /// What a failed reload does with what it has replaced already.
    pub on_reload_failure: OnReloadFailure,
    /// How connections are dealt out to the workers.
    pub balance: Balance,
    /// Whether pm2rs's small script is loaded into Node workers; without it draining is not loss-free.
    pub agent: bool,
    /// Sockets handed over by LISTEN_FDS: `8080`, `127.0.0.1:80`, `/run/x.sock` are opened for the app; a name (see
    /// [`is_socket_name`]) is that of a .socket unit's FileDescriptorName=.
    pub listen: Vec<String>,

    /// User to run as, when the owner is root: name or number.
    pub uid: Option<String>,
    /// Group to run as: name or number.
    pub gid: Option<String>,

    /// Files whose change restarts the app.
    pub watch: Option<WatchSpec>,
    /// Where its output goes.
    pub log: LogSpec,
    /// Path of the pid file without the `-ID` part; `None` for none.
    pub pid_file: Option<PathBuf>,
    /// Node's `--enable-source-maps`.
    pub source_map_support: bool,
    /// The `version` of the nearest package.json, shown in lists.
    pub version: Option<String>,
    /// Who started it, by name; shown as `username`.
    pub username: String,
    /// The ecosystem file this came from, if one did.
    pub source_file: Option<PathBuf>,
    /// Keys that PM2 knows, that have no effect here and that jlist shows as they were given (`pmx`, `vizion`, `env_*`, ...).
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl fmt::Debug for AppSpec {
    /// As JSON, without the values of variables: what is logged for debugging must hold no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        let hide = |variables: &mut serde_json::Value| {
            if let Some(variables) = variables.as_object_mut() {
                variables.values_mut().for_each(|value| *value = "***".into());
            }
        };
        hide(&mut shown["env"]);
        for key in self.extra.keys().filter(|key| key.starts_with("env_")) {
            hide(&mut shown["extra"][key.as_str()]);
        }
        write!(f, "AppSpec{shown}")
    }
}

/// Whether an entry of [`AppSpec::listen`] is a socket's name rather than an address: it begins with a letter and has no
/// colon, slash, space or control character (sd_listen_fds(3) allows some more).
#[must_use]
pub fn is_socket_name(entry: &str) -> bool {
    entry.len() <= 255
        && entry.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && entry.chars().all(|c| c.is_ascii_graphic() && c != ':' && c != '/')
}

impl AppSpec {
    /// PM2's `listen_timeout` (ms), where none was set.
    pub const USUAL_LISTEN_TIMEOUT: u64 = 3000;

    /// The variable that is counted up from instance to instance, and its number for this one.
    #[must_use]
    pub fn incremented(&self, instance: u32) -> Option<(&str, i64)> {
        let name = self.increment_var.as_deref()?;
        let first: i64 = self.env.get(name).and_then(|value| value.trim().parse().ok()).unwrap_or(0);
        Some((name, first.saturating_add(i64::from(instance))))
    }

    /// What is watched; `None` while it is turned off, too.
    #[must_use]
    pub fn watched(&self) -> Option<&WatchSpec> {
        self.watch.as_ref().filter(|watch| !watch.off)
    }
}

impl Default for AppSpec {
    fn default() -> Self {
        AppSpec {
            name: String::new(),
            namespace: "default".to_owned(),
            script: PathBuf::new(),
            args: Vec::new(),
            interpreter: "node".to_owned(),
            node_args: Vec::new(),
            cwd: PathBuf::from("/"),
            exec_mode: ExecMode::Fork,
            instances: Instances::default(),
            env: BTreeMap::new(),
            instance_var: "NODE_APP_INSTANCE".to_owned(),
            increment_var: None,
            own_env: Vec::new(),
            unquoted_env: Vec::new(),
            filter_env: FilterEnv::default(),
            autorestart: true,
            autostart: true,
            min_uptime: 1000,
            max_restarts: 16,
            restart_delay: 0,
            exp_backoff_restart_delay: 0,
            stop_exit_codes: Vec::new(),
            cron_restart: None,
            max_memory_restart: None,
            kill_timeout: 1600,
            kill_signal: "SIGINT".to_owned(),
            treekill: true,
            shutdown_with_message: false,
            drain_timeout: 10_000,
            wait_ready: false,
            listen_timeout: AppSpec::USUAL_LISTEN_TIMEOUT,
            probe: None,
            reload_batch: 1,
            on_reload_failure: OnReloadFailure::Rollback,
            balance: Balance::Auto,
            agent: true,
            listen: Vec::new(),
            uid: None,
            gid: None,
            watch: None,
            log: LogSpec::default(),
            pid_file: None,
            source_map_support: true,
            version: None,
            username: String::new(),
            source_file: None,
            extra: BTreeMap::new(),
        }
    }
}

/// Which of its caller's variables an app must not get. Written as PM2 does: a boolean, a name, a list of parts of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FilterEnv {
    /// `false` none; `true` all but what a login gives ([`FilterEnv::LOGIN`]).
    All(bool),
    /// The variable of this name.
    Name(String),
    /// Every variable whose name contains one of these.
    Parts(Vec<String>),
}

impl Default for FilterEnv {
    fn default() -> Self {
        FilterEnv::All(false)
    }
}

impl FilterEnv {
    /// What an app gets of its caller under `filter_env: true`: without these no interpreter is found and no text is
    /// read right. Besides them all of `LC_*`.
    pub const LOGIN: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "PWD"];

    /// Whether the caller's variable of this name reaches the app.
    #[must_use]
    pub fn passes(&self, name: &str) -> bool {
        match self {
            FilterEnv::All(all) => !all || FilterEnv::LOGIN.contains(&name) || name.starts_with("LC_"),
            FilterEnv::Name(filtered) => name != filtered,
            FilterEnv::Parts(parts) => !parts.iter().any(|part| name.contains(part.as_str())),
        }
    }
}

/// How an app's processes are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecMode {
    /// Each by itself.
    #[serde(rename = "fork_mode")]
    Fork,
    /// As Node cluster workers that share their listening sockets.
    #[serde(rename = "cluster_mode")]
    Cluster,
}

/// PM2's number of instances: 0 is one per CPU, -n is CPUs minus n (at least 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instances(pub i32);

impl Default for Instances {
    fn default() -> Self {
        Instances(1)
    }
}

impl Instances {
    /// The count on a machine with this many CPUs; at least 1.
    #[must_use]
    pub fn on(self, cpus: u32) -> u32 {
        if self.0 > 0 { self.0.unsigned_abs() } else { cpus.saturating_sub(self.0.unsigned_abs()).max(1) }
    }
}

/// How connections are dealt out to the workers of a cluster app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One SO_REUSEPORT socket per process, steered by BPF, rescued by the supervisor; one shared socket where that
    /// cannot be had.
    #[default]
    Auto,
    /// One listening socket for all workers; whoever is free accepts.
    Shared,
    /// The supervisor accepts and deals out in turn.
    #[serde(rename = "rr")]
    RoundRobin,
    /// As round robin, but a client's address always meets the same worker.
    Sticky,
}

/// What becomes of workers already replaced when a reload fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnReloadFailure {
    /// They are replaced again, by the release before.
    #[default]
    Rollback,
    /// They stay.
    Keep,
}

/// A question from outside whether a worker is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked.
    #[serde(flatten)]
    pub kind: ProbeKind,
    /// Between two tries (ms).
    #[serde(default = "Probe::default_interval")]
    pub interval: u64,
    /// For one try (ms).
    #[serde(default = "Probe::default_timeout")]
    pub timeout: u64,
    /// So many successes in a row.
    #[serde(default = "Probe::default_count")]
    pub count: u32,
}

impl Probe {
    fn default_interval() -> u64 {
        200
    }
    fn default_timeout() -> u64 {
        1000
    }
    fn default_count() -> u32 {
        1
    }
}

/// The kinds of probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// GET this URL (http, loopback or any host); the answer's status must be 200 to 399.
    Http(String),
    /// Connect to this `host:port` or socket path.
    Tcp(String),
    /// Run this command as the app's user; it must exit with 0.
    Exec(Vec<String>),
}

/// Files whose change restarts the app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchSpec {
    /// Paths; empty means the working folder.
    pub paths: Vec<PathBuf>,
    /// Globs (PM2's anymatch lists) of what to ignore, or `regex:PATTERN`; empty takes PM2's default (dot files,
    /// node_modules).
    pub ignore: Vec<String>,
    /// Extensions, without dot; empty means all.
    pub ext: Vec<String>,
    /// From the last change to the restart (ms).
    pub delay: u64,
    /// Reload rather than restart in cluster mode.
    pub reload: bool,
    /// Nothing is watched; the rest says how it will be once somebody turns it on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub off: bool,
}

/// Where an app's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSpec {
    /// Standard output's file, without the `-ID` part; `None` for none.
    pub out_file: Option<PathBuf>,
    /// Standard error's file; `None` for none.
    pub error_file: Option<PathBuf>,
    /// A file for both.
    pub log_file: Option<PathBuf>,
    /// All instances write into one file rather than `NAME-ID.log`.
    pub merge_logs: bool,
    /// Nothing is kept at all.
    pub disable_logs: bool,
    /// How lines are written into files.
    pub log_type: LogType,
    /// dayjs format of the time before each line; `None` for none.
    pub log_date_format: Option<String>,
    /// Rotation of the files.
    pub rotate: RotateSpec,
    /// Whether lines go to the journal; `None` means in system and user mode.
    pub journal: Option<bool>,
    /// Whether lines go to files; `None` means that they do.
    pub files: Option<bool>,
    /// Where lines go besides, as syslog messages; `None` for nowhere.
    pub syslog: Option<SyslogAddress>,
}

/// How lines are written into files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogType {
    /// As they come.
    #[default]
    Raw,
    /// One JSON object each, as PM2's `log_type: "json"`.
    Json,
}

/// When log files are rotated and what is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotateSpec {
    /// Off leaves files to grow (logrotate(8) users).
    pub enabled: bool,
    /// Rotate above this size (bytes).
    pub max_size: u64,
    /// Rotated files kept per log file.
    pub retain: u32,
    /// Bytes kept in rotated files of this app altogether.
    pub total_size: u64,
    /// Compress rotated files with gzip.
    pub compress: bool,
    /// Also rotate at these times (croner pattern), `None` for size only.
    pub interval: Option<String>,
    /// dayjs format in the rotated file's name, as pm2-logrotate has it.
    pub date_format: String,
}

impl Default for RotateSpec {
    fn default() -> Self {
        RotateSpec {
            enabled: true,
            max_size: 10 << 20,
            retain: 30,
            total_size: 512 << 20,
            compress: true,
            interval: None,
            date_format: "YYYY-MM-DD_HH-mm-ss".to_owned(),
        }
    }
}
