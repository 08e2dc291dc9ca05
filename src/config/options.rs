//! What the command line adds to a configuration: its options, and the circumstances it was called in.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{HomeFile, units};

/// Options as typed. Text stays text: it is checked as the same key of a file is, with the same messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CliOverrides {
    /// `--name`
    pub name: Option<String>,
    /// `--namespace`
    pub namespace: Option<String>,
    /// `-i`
    pub instances: Option<String>,
    /// `--cwd`
    pub cwd: Option<PathBuf>,
    /// `--interpreter`
    pub interpreter: Option<String>,
    /// `--node-args`, `--interpreter-args`: one string, split as a shell would
    pub node_args: Option<String>,
    /// `-x`
    pub execute_command: bool,
    /// `--env`
    pub env_name: Option<String>,
    /// `--update-env`; for restarts, no key of its own.
    pub update_env: bool,
    /// `--filter-env`, each
    pub filter_env: Vec<String>,
    /// `--uid`, `--user`
    pub uid: Option<String>,
    /// `--gid`
    pub gid: Option<String>,
    /// `--pid`
    pub pid: Option<PathBuf>,
    /// `-o`
    pub output: Option<String>,
    /// `-e`
    pub error: Option<String>,
    /// `-l`; empty for PM2's default path
    pub log: Option<String>,
    /// `--log-type`
    pub log_type: Option<String>,
    /// `--log-date-format`
    pub log_date_format: Option<String>,
    /// `--time`
    pub time: bool,
    /// `--disable-logs`
    pub disable_logs: bool,
    /// `--merge-logs`
    pub merge_logs: bool,
    /// `--watch`, each; one empty string for the working folder
    pub watch: Vec<String>,
    /// `--ignore-watch`, each; separated by commas or spaces
    pub ignore_watch: Vec<String>,
    /// `--watch-delay`: seconds, or milliseconds as `500ms`
    pub watch_delay: Option<String>,
    /// `--ext`: extensions separated by commas
    pub ext: Option<String>,
    /// `--cron-restart`; `0` for none
    pub cron_restart: Option<String>,
    /// `--max-memory-restart`
    pub max_memory_restart: Option<String>,
    /// `--restart-delay`
    pub restart_delay: Option<String>,
    /// `--exp-backoff-restart-delay`
    pub exp_backoff_restart_delay: Option<String>,
    /// `--max-restarts`
    pub max_restarts: Option<String>,
    /// `--stop-exit-codes`: numbers separated by commas or spaces
    pub stop_exit_codes: Option<String>,
    /// `--kill-timeout`
    pub kill_timeout: Option<String>,
    /// `--listen-timeout`
    pub listen_timeout: Option<String>,
    /// `--wait-ready`
    pub wait_ready: bool,
    /// `--shutdown-with-message`
    pub shutdown_with_message: bool,
    /// `--no-autorestart`
    pub no_autorestart: bool,
    /// `--no-autostart`
    pub no_autostart: bool,
    /// `--no-treekill`
    pub no_treekill: bool,
    /// `--source-map-support`
    pub source_map_support: bool,
    /// `--disable-source-map-support`
    pub disable_source_map_support: bool,
    /// `--no-vizion`, `--no-pmx`, `--no-automation`: shown, without effect
    pub switched_off: Vec<&'static str>,
    /// Further keys by name, as options that only pm2rs has set them (`drain_timeout`, `balance`, ...).
    pub more: BTreeMap<String, Value>,
}

impl CliOverrides {
    /// The options as the keys a file would have.
    pub(super) fn keys(&self) -> Map<String, Value> {
        let mut keys = Map::new();
        let mut text = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                keys.insert(key.to_owned(), json!(value));
            }
        };
        text("name", self.name.as_deref());
        text("namespace", self.namespace.as_deref());
        text("instances", self.instances.as_deref());
        text("cwd", self.cwd.as_deref().and_then(Path::to_str));
        text("exec_interpreter", self.interpreter.as_deref());
        text("node_args", self.node_args.as_deref());
        text("uid", self.uid.as_deref());
        text("gid", self.gid.as_deref());
        text("pid_file", self.pid.as_deref().and_then(Path::to_str));
        text("out_file", self.output.as_deref());
        text("error_file", self.error.as_deref());
        text("log_type", self.log_type.as_deref());
        text("log_date_format", self.log_date_format.as_deref());
        text("cron_restart", self.cron_restart.as_deref());
        text("max_memory_restart", self.max_memory_restart.as_deref());
        text("restart_delay", self.restart_delay.as_deref());
        text("exp_backoff_restart_delay", self.exp_backoff_restart_delay.as_deref());
        text("max_restarts", self.max_restarts.as_deref().filter(|n| !n.is_empty()));
        text("kill_timeout", self.kill_timeout.as_deref());
        text("listen_timeout", self.listen_timeout.as_deref());
        let flags = [
            ("execute_command", self.execute_command, true),
            ("time", self.time, true),
            ("disable_logs", self.disable_logs, true),
            ("merge_logs", self.merge_logs, true),
            ("wait_ready", self.wait_ready, true),
            ("shutdown_with_message", self.shutdown_with_message, true),
            ("autorestart", self.no_autorestart, false),
            ("autostart", self.no_autostart, false),
            ("treekill", self.no_treekill, false),
            ("source_map_support", self.source_map_support, true),
            ("disable_source_map_support", self.disable_source_map_support, true),
        ];
        for (key, given, value) in flags {
            if given {
                keys.insert(key.to_owned(), json!(value));
            }
        }
        for key in &self.switched_off {
            keys.insert((*key).to_owned(), json!(false));
        }
        if let Some(log) = &self.log {
            keys.insert("log_file".to_owned(), if log.is_empty() { json!(true) } else { json!(log) });
        }
        match self.filter_env.as_slice() {
            [] => {}
            [one] if one.is_empty() => {
                keys.insert("filter_env".to_owned(), json!(true));
            }
            [one] => {
                keys.insert("filter_env".to_owned(), json!(one));
            }
            many => {
                keys.insert("filter_env".to_owned(), json!(many));
            }
        }
        if let Some(codes) = &self.stop_exit_codes {
            keys.insert("stop_exit_codes".to_owned(), json!(units::list(codes)));
        }
        self.watch_keys(&mut keys);
        for (key, value) in &self.more {
            keys.insert(key.clone(), value.clone());
        }
        keys
    }

    /// The options about watching, which also complete an app of a file that says nothing about it.
    pub(super) fn watch_keys(&self, keys: &mut Map<String, Value>) {
        if !self.watch.is_empty() {
            let paths: Vec<&String> = self.watch.iter().filter(|path| !path.is_empty()).collect();
            keys.insert("watch".to_owned(), if paths.is_empty() { json!(true) } else { json!(paths) });
        }
        let ignore: Vec<String> = self.ignore_watch.iter().flat_map(|list| units::list(list)).collect();
        if !ignore.is_empty() {
            keys.insert("ignore_watch".to_owned(), json!(ignore));
        }
        if let Some(delay) = &self.watch_delay {
            // PM2 takes a bare number as seconds here, and here only.
            let bare = delay.parse::<f64>().is_ok();
            keys.insert("watch_delay".to_owned(), json!(if bare { format!("{delay}s") } else { delay.clone() }));
        }
        if let Some(ext) = &self.ext {
            keys.insert("watch_ext".to_owned(), json!(units::list(ext)));
        }
    }

    /// Options that a configuration file makes pointless: they were given and its apps do not take them.
    pub(super) fn without_effect_on_files(&self) -> Vec<&'static str> {
        let given = [
            ("--name", self.name.is_some()),
            ("--instances", self.instances.is_some()),
            ("--interpreter", self.interpreter.is_some()),
            ("--node-args", self.node_args.is_some()),
            ("--execute-command", self.execute_command),
            ("--pid", self.pid.is_some()),
            ("--output", self.output.is_some()),
            ("--error", self.error.is_some()),
            ("--log", self.log.is_some()),
            ("--log-type", self.log_type.is_some()),
            ("--log-date-format", self.log_date_format.is_some()),
            ("--time", self.time),
            ("--disable-logs", self.disable_logs),
            ("--merge-logs", self.merge_logs),
            ("--cron-restart", self.cron_restart.is_some()),
            ("--max-memory-restart", self.max_memory_restart.is_some()),
            ("--restart-delay", self.restart_delay.is_some()),
            ("--exp-backoff-restart-delay", self.exp_backoff_restart_delay.is_some()),
            ("--max-restarts", self.max_restarts.is_some()),
            ("--stop-exit-codes", self.stop_exit_codes.is_some()),
            ("--kill-timeout", self.kill_timeout.is_some()),
            ("--listen-timeout", self.listen_timeout.is_some()),
            ("--wait-ready", self.wait_ready),
            ("--shutdown-with-message", self.shutdown_with_message),
            ("--no-autorestart", self.no_autorestart),
            ("--no-autostart", self.no_autostart),
            ("--no-treekill", self.no_treekill),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect()
    }
}

/// The circumstances of a call.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CallerContext {
    /// Working folder, as the shell shows it: symbolic links kept.
    pub cwd: PathBuf,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// PM2RS_HOME or PM2_HOME.
    pub home: PathBuf,
    /// Who calls.
    pub username: String,
    /// CPUs that may be used.
    pub cpus: u32,
    /// Where logs go that no path was given for.
    pub log_dir: PathBuf,
    /// Where pid files go that no path was given for.
    pub pid_dir: PathBuf,
}

impl fmt::Debug for CallerContext {
    /// Without the environment, in which secrets are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallerContext").field("cwd", &self.cwd).field("home", &self.home).finish_non_exhaustive()
    }
}

impl CallerContext {
    /// The circumstances of this very process. Logs and pid files go where PM2 has them.
    ///
    /// Variables that are not UTF-8 are left out: neither the bus nor JSON can carry them.
    #[must_use]
    pub fn of_this_process(home: PathBuf) -> CallerContext {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        CallerContext {
            cwd: working_folder(env.get("PWD").map(Path::new)),
            username: user_name(&env),
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            log_dir: HomeFile::Logs.path(&home, |name| env.get(name).cloned()),
            pid_dir: HomeFile::Pids.path(&home, |name| env.get(name).cloned()),
            env,
            home,
        }
    }
}

/// `$PWD` where it names the folder we are in, else the kernel's answer, which has symbolic links resolved.
fn working_folder(pwd: Option<&Path>) -> PathBuf {
    let same = |path: &&Path| match (path.metadata(), Path::new(".").metadata()) {
        (Ok(a), Ok(b)) => path.is_absolute() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    match pwd.filter(same) {
        Some(path) => path.to_owned(),
        None => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
    }
}

/// The name that passwd(5) has for our uid, else what the environment says.
fn user_name(env: &BTreeMap<String, String>) -> String {
    let uid = std::fs::metadata("/proc/self").map(|meta| meta.uid().to_string()).unwrap_or_default();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    listed.or_else(|| env.get("USER").or_else(|| env.get("LOGNAME")).cloned()).unwrap_or(uid)
}

/// What reading a file needs to know of its caller.
#[derive(Clone, PartialEq, Eq)]
pub struct LoadContext {
    /// Relative paths resolve against it, and code runs in it.
    pub cwd: PathBuf,
    /// The environment that code sees.
    pub env: BTreeMap<String, String>,
    /// What code finds in `process.argv` after its first two: some files look for `--env` there.
    pub argv: Vec<String>,
    /// How long code may take.
    pub timeout: Duration,
}

impl fmt::Debug for LoadContext {
    /// Without the environment, in which secrets are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadContext").field("cwd", &self.cwd).finish_non_exhaustive()
    }
}

impl LoadContext {
    /// Time that a file's code has to finish.
    pub const TIMEOUT: Duration = Duration::from_secs(30);

    /// For this caller, with `argv` as typed after the program's name.
    #[must_use]
    pub fn new(caller: &CallerContext, argv: Vec<String>) -> LoadContext {
        LoadContext { cwd: caller.cwd.clone(), env: caller.env.clone(), argv, timeout: LoadContext::TIMEOUT }
    }
}
