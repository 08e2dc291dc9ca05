//! How a worker is started: its program, arguments and environment, from the app's spec.
//!
//! A pure function of what it is given: the file system is asked through [`LaunchContext::executable`] and
//! [`LaunchContext::node_versions`] only. It starts nothing and opens nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::core::{AppSpec, ExecMode, STATIC_SERVER, SpawnOrder};

/// Where a shell would look when the app's environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables that say something about one particular process, so that what the caller's shell had must not reach the
/// worker. Those that apply to the worker are set anew by us or by whoever spawns it.
const NOT_INHERITED: [&str; 12] = [
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
];

/// The variables that login(1) sets for an account.
pub const OF_ACCOUNT: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

/// The account that a worker runs as, for the variables that login(1) would set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the group that it runs as.
    pub gid: u32,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// What the daemon knows and the order does not.
pub struct LaunchContext<'a> {
    /// `PM2_HOME` as the app sees it.
    pub pm2_home: &'a Path,
    /// Where [`super::AGENT`] was written; it is loaded into Node workers whose spec wants it.
    pub agent: &'a Path,
    /// The descriptor number at which the worker finds its end of the channel; `None` starts it without one.
    pub channel_fd: Option<i32>,
    /// This process's file of standard output.
    pub out_log: Option<&'a Path>,
    /// This process's file of standard error.
    pub error_log: Option<&'a Path>,
    /// This process's file of both.
    pub combined_log: Option<&'a Path>,
    /// This process's pid file.
    pub pid_file: Option<&'a Path>,
    /// When the process row was created, milliseconds since the epoch.
    pub created_at: u64,
    /// The present, milliseconds since the epoch.
    pub now: u64,
    /// PM2's `unique_id`: the same for all that one `start` started.
    pub unique_id: &'a str,
    /// Who the worker runs as.
    pub account: Option<&'a Account>,
    /// Whether the environment that the spec carries may be another user's than the worker's.
    pub others_env: bool,
    /// Whether this is a file that can be executed.
    pub executable: &'a dyn Fn(&Path) -> bool,
    /// The folders that lie in `NVM_DIR/versions/node` (`v22.1.0`), in any order.
    pub node_versions: &'a dyn Fn(&Path) -> Vec<String>,
}

/// What is to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program, absolute.
    pub program: PathBuf,
    /// Its arguments, without the program itself.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Whether the program is Node with the agent loaded.
    pub agent: bool,
}

/// Why a worker cannot be started. For people; the missing thing is named, the app by who tells them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The name is in no folder of the app's PATH.
    #[error("interpreter `{interpreter}` not found in PATH ({path})")]
    InterpreterNotFound {
        /// The name that was looked up.
        interpreter: String,
        /// The PATH that was searched.
        path: String,
    },
    /// The interpreter was given as a path, and that is no executable file.
    #[error("interpreter `{}` is not an executable file", .interpreter.display())]
    NotExecutable {
        /// The path.
        interpreter: PathBuf,
    },
    /// `node@X`, and there is no folder of nvm's.
    #[error("`{interpreter}` needs nvm, and neither NVM_DIR nor HOME is set in the environment")]
    NoNvm {
        /// As configured.
        interpreter: String,
    },
    /// `node@X`, and nvm has no such version.
    #[error("Node {version} is not in `{}`; install it with `nvm install {version}`", .folder.display())]
    NodeVersionMissing {
        /// The version that was asked for.
        version: String,
        /// Where nvm keeps its versions.
        folder: PathBuf,
    },
}

/// Decides how the worker of this order is started.
///
/// # Errors
/// When its interpreter cannot be found now; another try can succeed only once somebody installed it.
pub fn launch(order: &SpawnOrder, context: &LaunchContext<'_>) -> Result<Launch, LaunchError> {
    let spec = &*order.spec;
    let script = if spec.script == Path::new(STATIC_SERVER) {
        context.agent.with_file_name(spec.script.file_name().unwrap_or_default())
    } else {
        spec.script.clone()
    };
    let script = script.to_string_lossy().into_owned();
    let Some(program) = find_interpreter(spec, context)? else {
        let env = environment(order, context, &spec.script);
        return Ok(Launch { program: spec.script.clone(), args: spec.args.clone(), env, agent: false });
    };

    let node = is_node(&program);
    let agent = node && spec.agent && context.channel_fd.is_some();
    let mut args = spec.node_args.clone();
    if node && spec.source_map_support && !args.iter().any(|arg| arg == "--enable-source-maps") {
        args.push("--enable-source-maps".to_owned());
    }
    if agent && restricts_files(spec) {
        args.push(format!("--allow-fs-read={}", context.agent.display()));
    }
    if agent {
        args.extend(["--require".to_owned(), context.agent.to_string_lossy().into_owned()]);
    }
    args.push(script);
    args.extend(spec.args.iter().cloned());
    let env = environment(order, context, &program);
    Ok(Launch { program, args, env, agent })
}

/// Whether a program of this name is Node: `node`, `nodejs` (Debian), `node18`, `node-22`.
fn is_node(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_prefix("node") {
        Some("" | "js") => true,
        Some(rest) => rest.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()),
        None => false,
    }
}

/// Whether Node's permission model is on: Node 20 reads only what it is allowed to then, the agent's file included.
fn restricts_files(spec: &AppSpec) -> bool {
    let options = spec.env.get("NODE_OPTIONS").map_or("", String::as_str).split_ascii_whitespace();
    let mut all = spec.node_args.iter().map(String::as_str).chain(options);
    all.any(|arg| arg == "--permission" || arg == "--experimental-permission")
}

/// The interpreter's path, `None` when the script is executed itself.
fn find_interpreter(spec: &AppSpec, context: &LaunchContext<'_>) -> Result<Option<PathBuf>, LaunchError> {
    let interpreter = spec.interpreter.as_str();
    if interpreter.is_empty() || interpreter == "none" {
        return Ok(None);
    }
    if let Some(version) = interpreter.strip_prefix("node@") {
        return find_in_nvm(spec, version, context).map(Some);
    }
    if interpreter.contains('/') {
        let path = spec.cwd.join(interpreter);
        if (context.executable)(&path) {
            return Ok(Some(path));
        }
        return Err(LaunchError::NotExecutable { interpreter: path });
    }
    let path = spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    // An empty element of PATH means the working folder (POSIX, 8.3), which `join` gives for "" as well.
    let found = path.split(':').map(|folder| spec.cwd.join(folder).join(interpreter)).find(|p| (context.executable)(p));
    found
        .map(Some)
        .ok_or_else(|| LaunchError::InterpreterNotFound { interpreter: interpreter.to_owned(), path: path.to_owned() })
}

/// `node@20` takes the newest 20 that nvm installed, `node@20.1.0` that one.
fn find_in_nvm(spec: &AppSpec, version: &str, context: &LaunchContext<'_>) -> Result<PathBuf, LaunchError> {
    let nvm = match (spec.env.get("NVM_DIR"), spec.env.get("HOME")) {
        (Some(folder), _) if !folder.is_empty() => PathBuf::from(folder),
        (_, Some(home)) => Path::new(home).join(".nvm"),
        _ => {
            return Err(LaunchError::NoNvm { interpreter: spec.interpreter.clone() });
        }
    };
    let folder = nvm.join("versions/node");
    let wanted = version.trim_start_matches('v');
    let newest = (context.node_versions)(&folder)
        .into_iter()
        .filter(|name| {
            let have = name.trim_start_matches('v');
            have == wanted || have.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
        })
        .map(|name| (version_numbers(&name), folder.join(name).join("bin/node")))
        .filter(|(_, node)| (context.executable)(node))
        .max();
    newest.map(|(_, node)| node).ok_or_else(|| LaunchError::NodeVersionMissing { version: wanted.to_owned(), folder })
}

fn version_numbers(name: &str) -> Vec<u32> {
    name.trim_start_matches('v').split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The app's own environment, then what PM2's apps see, then what Node reads at its start. Later ones win: the spec may
/// carry another app's values when it was started from within one.
fn environment(order: &SpawnOrder, context: &LaunchContext<'_>, interpreter: &Path) -> BTreeMap<String, String> {
    let spec = &*order.spec;
    let mut env = spec.env.clone();
    env.retain(|name, _| !NOT_INHERITED.contains(&name.as_str()));

    let cluster = spec.exec_mode == ExecMode::Cluster;
    let path = |path: Option<&Path>| path.map_or_else(String::new, |p| p.to_string_lossy().into_owned());
    let mut set = |name: &str, value: String| {
        env.insert(name.to_owned(), value);
    };
    set("PM2_HOME", path(Some(context.pm2_home)));
    set("PM2_USAGE", "CLI".to_owned());
    set("name", spec.name.clone());
    set("namespace", spec.namespace.clone());
    set("pm_id", order.process.to_string());
    set("exec_mode", if cluster { "cluster_mode" } else { "fork_mode" }.to_owned());
    set("instances", spec.instances.0.to_string());
    set("instance_var", spec.instance_var.clone());
    set("status", "launching".to_owned());
    set("pm_uptime", context.now.to_string());
    set("created_at", context.created_at.to_string());
    set("restart_time", order.restarts.to_string());
    set("unstable_restarts", "0".to_owned());
    set("unique_id", context.unique_id.to_owned());
    set("username", spec.username.clone());
    set("pm_exec_path", path(Some(&spec.script)));
    set("pm_cwd", path(Some(&spec.cwd)));
    set("exec_interpreter", spec.interpreter.clone());
    let log_path = |given: Option<&Path>| path(Some(given.unwrap_or(Path::new("/dev/null"))));
    set("pm_out_log_path", log_path(context.out_log));
    set("pm_err_log_path", log_path(context.error_log));
    if context.combined_log.is_some() {
        set("pm_log_path", path(context.combined_log));
    }
    set("pm_pid_path", path(context.pid_file));
    set("autostart", spec.autostart.to_string());
    set("autorestart", spec.autorestart.to_string());
    set("treekill", spec.treekill.to_string());
    set("kill_retry_time", "100".to_owned());
    for name in ["windowsHide", "vizion", "pmx", "automation"] {
        set(name, "true".to_owned());
    }
    for name in ["vizion_running", "km_link"] {
        set(name, "false".to_owned());
    }
    if spec.source_file.is_some() {
        set("PM2_JSON_PROCESSING", "true".to_owned());
    }
    for (name, value) in settings(spec) {
        set(&name, value);
    }
    if let Some(account) = context.account.filter(|_| spec.uid.is_some()) {
        set("uid", account.uid.to_string());
        set("gid", account.gid.to_string());
    }

    set(&spec.instance_var, order.instance.to_string());
    if let Some((name, number)) = spec.incremented(order.instance) {
        set(name, number.to_string());
    }
    if interpreter.file_name().is_some_and(|name| name.to_string_lossy().contains("python")) {
        set("PYTHONUNBUFFERED", "1".to_owned());
    }
    if let Some(account) = context.account {
        let (home, user, shell) = (path(Some(&account.home)), account.name.clone(), path(Some(&account.shell)));
        for (name, value) in OF_ACCOUNT.into_iter().zip([home, user.clone(), user, shell]) {
            // What the app itself names stays, but for its home where it is given a user: there PM2 sets it in any case.
            let named = spec.own_env.iter().any(|own| own == name) && (name != "HOME" || spec.uid.is_none());
            if !spec.env.contains_key(name) || (context.others_env || spec.uid.is_some()) && !named {
                set(name, value);
            }
        }
    }
    if let Some(fd) = context.channel_fd {
        set("NODE_CHANNEL_FD", fd.to_string());
        set("NODE_CHANNEL_SERIALIZATION_MODE", "json".to_owned());
        // Without a channel a worker's listen() would wait for ever for its primary.
        if cluster {
            set("NODE_UNIQUE_ID", order.worker.to_string());
        }
    }
    env
}

/// Settings as PM2 hands them to its apps: all that are no lists, by their names. A variable that the app was given under
/// such a name stays what it is.
fn settings(spec: &AppSpec) -> impl Iterator<Item = (String, String)> {
    let given = spec.given().filter(|(name, _)| *name != "watch" && !name.starts_with("env_"));
    let given = given.map(|(name, value)| (name.to_owned(), value));
    let watch = spec.watch_as_given().map(|watch| ("watch".to_owned(), watch));
    let all = spec.settings().into_iter().chain(watch).chain(given);
    all.filter(|(name, _)| !spec.own_env.contains(name)).filter_map(|(name, value)| match value {
        Value::String(text) => Some((name, text)),
        Value::Bool(_) | Value::Number(_) => Some((name, value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    })
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
