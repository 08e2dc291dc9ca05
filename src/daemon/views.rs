//! The fleet as others see it: the bus's plain views and PM2's jlist.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::output::Loss;
use super::reports::is_hung;
use super::sampling::Usage;
use crate::api::{AppView, ProcessView};
use crate::core::{App, AppSpec, Desired, ExecMode, Exit, Process};

/// An app as anybody may see it.
#[must_use]
pub fn app_view(app: &App, processes: &[&Process]) -> AppView {
    // The worst first: what a person must look at wins.
    const ORDER: [&str; 6] = ["errored", "waiting restart", "launching", "stopping", "online", "stopped"];
    let status = ORDER.iter().find(|status| processes.iter().any(|p| p.pm2_status() == **status));
    AppView {
        id: app.id.0,
        name: app.name().to_owned(),
        namespace: app.spec().namespace.clone(),
        owner: app.owner.0,
        mode: mode_name(app.spec().exec_mode).to_owned(),
        instances: u32::try_from(processes.len()).unwrap_or(u32::MAX),
        status: status.copied().unwrap_or("stopped").to_owned(),
        processes: processes.iter().map(|p| p.id.0).collect(),
    }
}

/// A process row as anybody may see it.
#[must_use]
pub fn process_view(app: &App, process: &Process, pid: u32) -> ProcessView {
    let (exit_code, exit_signal) = match process.last_exit {
        Some(Exit::Code(code)) => (code, String::new()),
        Some(Exit::Signal(_)) => (0, process.last_exit.and_then(Exit::signal_name).unwrap_or_default()),
        Some(Exit::Unknown) | None => (-1, String::new()),
    };
    ProcessView {
        id: process.id.0,
        app: app.id.0,
        name: app.name().to_owned(),
        namespace: app.spec().namespace.clone(),
        owner: app.owner.0,
        instance: process.instance,
        status: process.pm2_status().to_owned(),
        state: process.state.as_str().to_owned(),
        pid,
        restarts: process.restarts,
        unstable_restarts: process.unstable_restarts(),
        started_at: process.started_at.unwrap_or(0),
        created_at: process.created_at,
        exit_code,
        exit_signal,
        reason: process.reason.clone(),
    }
}

fn mode_name(mode: ExecMode) -> &'static str {
    match mode {
        ExecMode::Fork => "fork_mode",
        ExecMode::Cluster => "cluster_mode",
    }
}

/// What of a process PM2's jlist shows and the fleet does not know.
#[derive(Debug, Default)]
pub struct Extras<'a> {
    /// Process id of its worker, 0 for none.
    pub pid: u32,
    /// Memory and CPU.
    pub usage: Usage,
    /// What the app reported over its channel: `axm_monitor`, `axm_actions`, `axm_options`, `node_version`.
    pub reported: Option<&'a Map<String, Value>>,
    /// Its worker has no channel any more.
    pub regained: bool,
    /// What of its output was lost.
    pub loss: Option<&'a Loss>,
    /// Count of the app's processes.
    pub instances: usize,
    /// What the app's instances have in common, as their environment has it.
    pub unique_id: String,
    /// Resolved paths of the log and pid files.
    pub paths: LogPaths,
    /// Numbers of the user and group that its worker runs as.
    pub account: Option<(u32, u32)>,
    /// That user's home folder, where it is not the one of the caller's environment.
    pub home: Option<&'a Path>,
}

/// Resolved paths of one process's files.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LogPaths {
    /// Standard output's.
    pub out: Option<String>,
    /// Standard error's.
    pub err: Option<String>,
    /// Both.
    pub both: Option<String>,
    /// Pid file.
    pub pid: Option<String>,
}

/// One element of PM2's jlist.
#[must_use]
pub fn jlist_entry(app: &App, process: &Process, spec: &AppSpec, extras: &Extras<'_>) -> Value {
    json!({
        "pid": extras.pid,
        "name": spec.name,
        "pm2_env": pm2_env(app, process, spec, extras),
        "pm_id": process.id.0,
        "monit": { "memory": extras.usage.memory, "cpu": number(extras.usage.cpu) },
    })
}

/// PM2's `pm2_env`: settings, state, and the app's whole environment flattened into it.
fn pm2_env(app: &App, process: &Process, spec: &AppSpec, extras: &Extras<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |key: &str, value: Value| {
        all.insert(key.to_owned(), value);
    };
    let path = |path: &Option<String>| path.clone().map_or_else(|| json!("/dev/null"), Value::from);

    let mut environment: Map<String, Value> =
        spec.env.iter().map(|(key, value)| (key.clone(), variable(spec, key, value))).collect();
    environment.insert("PM2_USAGE".to_owned(), json!("CLI"));
    if spec.source_file.is_some() {
        environment.insert("PM2_JSON_PROCESSING".to_owned(), json!("true"));
    }
    if let Some(home) = extras.home {
        environment.insert("HOME".to_owned(), json!(home));
    }
    environment.insert("unique_id".to_owned(), json!(extras.unique_id));
    // Settings of modules of the app's name would be in this variable of PM2's; scripts count names.
    let settings = if spec.source_file.is_some() { json!("{}") } else { json!({}) };
    environment.entry(spec.name.as_str()).or_insert(settings);
    if let Some((name, number)) = spec.incremented(process.instance) {
        environment.insert(name.to_owned(), json!(number));
    }
    // PM2 copies every variable up into pm2_env; its own keys, put afterwards, win.
    for (key, value) in environment.iter().filter(|(_, value)| !value.is_object()) {
        put(key, value.clone());
    }
    put("name", json!(spec.name));
    put("namespace", json!(spec.namespace));
    if !spec.args.is_empty() {
        put("args", json!(spec.args));
    }
    put("node_args", json!(spec.node_args));
    put("pm_exec_path", json!(spec.script));
    put("pm_cwd", json!(spec.cwd));
    put("exec_interpreter", json!(spec.interpreter));
    put("exec_mode", json!(mode_name(spec.exec_mode)));
    put("instances", json!(extras.instances));
    put("instance_var", json!(spec.instance_var));
    put(&spec.instance_var, json!(process.instance));
    put("pm_out_log_path", path(&extras.paths.out));
    put("pm_err_log_path", path(&extras.paths.err));
    if extras.paths.both.is_some() {
        put("pm_log_path", path(&extras.paths.both));
    }
    if extras.paths.pid.is_some() {
        put("pm_pid_path", path(&extras.paths.pid));
    }
    put("autostart", json!(spec.autostart));
    put("autorestart", json!(spec.autorestart));
    put("treekill", json!(spec.treekill));
    put("kill_retry_time", json!(100));
    // PM2's defaults of keys that have no effect here; what was given comes at the end.
    for key in ["vizion", "pmx", "automation", "windowsHide"] {
        put(key, json!(true));
    }
    all.extend(spec.settings());
    if let Some((uid, gid)) = extras.account.filter(|_| spec.uid.is_some()) {
        all.insert("uid".to_owned(), json!(uid));
        all.insert("gid".to_owned(), json!(gid));
    }

    let mut put = |key: &str, value: Value| {
        all.insert(key.to_owned(), value);
    };
    put("username", json!(spec.username));
    put("version", json!(spec.version.as_deref().unwrap_or("N/A")));
    put("status", json!(process.pm2_status()));
    // Scripts take it from the present; nothing that never ran has been up since 1970.
    put("pm_uptime", json!(process.started_at.unwrap_or(process.created_at)));
    put("created_at", json!(process.created_at));
    put("restart_time", json!(process.restarts));
    put("unstable_restarts", json!(process.unstable_restarts()));
    if process.restarts > 0 || process.record.last_delay() > 0 {
        put("prev_restart_delay", json!(process.record.last_delay()));
    }
    match process.last_exit {
        Some(Exit::Code(code)) => put("exit_code", json!(code)),
        Some(exit @ Exit::Signal(_)) => {
            put("exit_code", json!(0));
            put("exit_signal", json!(exit.signal_name()));
        }
        Some(Exit::Unknown) | None => {}
    }
    if is_hung(extras.reported) {
        put("hung", json!(true));
        put("reason", json!("does not answer: its event loop does not turn, new connections go to the others"));
    } else if extras.regained {
        put(
            "reason",
            json!("runs on without its channel, since the daemon died together with its keeper; a reload gives it one"),
        );
    } else if !process.reason.is_empty() {
        put("reason", json!(process.reason));
    }
    put("pm_id", json!(process.id.0));
    put("owner", json!(app.owner.0));
    if let Some(loss) = extras.loss {
        put("log_lines_dropped", json!(loss.lines));
        if let Some(reason) = &loss.reason {
            put("log_error", json!(reason));
        }
    }
    let node = Path::new(&spec.interpreter).file_name().is_some_and(|name| name == "node" || name == "bun");
    for key in ["axm_actions", "axm_monitor", "axm_options", "axm_dynamic"] {
        let empty = match key {
            "axm_actions" => json!([]),
            // The one option that has to do with no client of PM2's: scripts count how often an app is named.
            "axm_options" if node && spec.extra.get("pmx") != Some(&json!(false)) => {
                json!({ "module_name": spec.name })
            }
            _ => json!({}),
        };
        put(key, extras.reported.and_then(|map| map.get(key)).cloned().unwrap_or(empty));
    }
    if let Some(version) = extras.reported.and_then(|map| map.get("node_version")) {
        put("node_version", version.clone());
    }
    put("vizion_running", json!(false));
    put("km_link", json!(false));
    put("env", Value::Object(environment));
    all.extend(spec.given().map(|(key, value)| (key.to_owned(), value)));
    // Options that were not typed have their defaults.
    if spec.source_file.is_none() {
        all.entry("filter_env").or_insert_with(|| json!([]));
    }
    // A stopped process is not watched; PM2 says so, too.
    let stopped = spec.watched().is_some() && process.desired == Desired::Stopped;
    if let Some(watch) = if stopped { Some(json!(false)) } else { spec.watch_as_given() } {
        all.insert("watch".to_owned(), watch);
    }
    all
}

/// A number as JavaScript writes it: without a fraction where there is none.
fn number(n: f64) -> Value {
    #[allow(clippy::cast_possible_truncation)]
    let whole = n as i64;
    if n.fract() == 0.0 { json!(whole) } else { json!(n) }
}

/// A variable as PM2 shows it: a number stays one that the file gave as a number.
fn variable(spec: &AppSpec, name: &str, value: &str) -> Value {
    let literal = spec.unquoted_env.iter().any(|unquoted| unquoted == name).then(|| serde_json::from_str(value).ok());
    literal.flatten().unwrap_or_else(|| json!(value))
}

/// The environment that `env` shows.
#[must_use]
pub fn environment(spec: &AppSpec) -> BTreeMap<String, String> {
    spec.env.clone()
}
