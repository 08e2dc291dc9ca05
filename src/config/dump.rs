//! The saved process list, `dump.pm2`: PM2's format, read and written.
//!
//! An entry is what PM2 writes for a process, so that its users' scripts find what they look for and PM2 itself can
//! resurrect it. Besides, an entry of ours has the whole spec under `pm2rs`, which is what is read back; an entry of
//! PM2's is translated from its own keys. The environment, secrets included, stands in it in clear, as in PM2's: the
//! file is for its owner's eyes only.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::core::{AppSpec, ExecMode, Instances, STATIC_SERVER};

use super::environment::{self, Environment};
use super::error::{ConfigError, Place};
use super::interpreter::Choice;
use super::keys;
use super::options::CallerContext;
use super::resolve::{Program, Resolver};
use super::script::Found;

/// Larger than any list of processes with their environments.
const MAX_SIZE: u64 = 256 << 20;

/// The key of the whole spec in an entry of ours.
const OURS: &str = "pm2rs";

/// A process as it was saved.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedProcess {
    /// Its app's spec.
    pub spec: AppSpec,
    /// Its instance number.
    pub instance: u32,
    /// PM2's word for its state.
    pub status: String,
    /// Restarts until it was saved.
    pub restarts: u32,
    /// When it was created, in milliseconds since the epoch.
    pub created_at: u64,
}

/// The processes of one app that were saved.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedApp {
    /// Its spec; `instances` counts the processes.
    pub spec: AppSpec,
    /// Instance number of each process and whether it was stopped, in order.
    pub processes: Vec<(u32, bool)>,
}

impl SavedProcess {
    /// Whether it is to stay stopped when the list comes back.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.status == "stopped"
    }
}

/// The text of a saved list.
#[must_use]
pub fn to_text(processes: &[SavedProcess]) -> String {
    let entries: Vec<Value> = processes.iter().map(entry).collect();
    // What was a spec is JSON without fail: every map has strings for keys.
    serde_json::to_string_pretty(&entries).unwrap_or_default()
}

/// Reads a saved list, ours or PM2's.
///
/// # Errors
/// When it is not JSON, not a list, or an entry has no name or program.
pub fn from_text(text: &str, file: &str) -> Result<Vec<SavedProcess>, ConfigError> {
    let wrong = |message: String| ConfigError::Dump { file: file.to_owned(), message };
    let entries: Vec<Map<String, Value>> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    entries
        .iter()
        .enumerate()
        .map(|(number, entry)| saved(entry).map_err(|problem| wrong(format!("entry {}: {problem}", number + 1))))
        .collect()
}

/// Writes a saved list where nobody but its owner can read it, and keeps the one before as `.bak`. Either the old or
/// the new list is there at any moment.
///
/// # Errors
/// When the folder cannot be written to.
pub fn save(path: &Path, processes: &[SavedProcess]) -> Result<(), ConfigError> {
    let fresh = with_suffix(path, ".new");
    // A link or file that somebody else left there is not written through.
    let _ = fs::remove_file(&fresh);
    let put = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(to_text(processes).as_bytes())?;
        file.sync_all()?;
        if path.exists() {
            fs::rename(path, with_suffix(path, ".bak"))?;
        }
        fs::rename(&fresh, path)?;
        // A rename is durable once its folder is (fsync(2)).
        File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
    };
    put().map_err(|cause: std::io::Error| {
        // Of no use, and where the disk is full it is in the way.
        let _ = fs::remove_file(&fresh);
        ConfigError::DumpWrite { file: path.display().to_string(), cause }
    })
}

/// Reads a saved list, or its predecessor when it is damaged or gone; none when there is neither.
///
/// # Errors
/// When what is there cannot be read.
pub fn load(path: &Path) -> Result<Option<Vec<SavedProcess>>, ConfigError> {
    let backup = with_suffix(path, ".bak");
    match (read(path), read(&backup)) {
        (Some(Ok(list)), _) => Ok(Some(list)),
        (_, Some(Ok(list))) => Ok(Some(list)),
        (Some(Err(error)), _) | (None, Some(Err(error))) => Err(error),
        (None, None) => Ok(None),
    }
}

/// As [`load`], for the list's own owner: a damaged list that its predecessor stands in for is put aside as `.broken`,
/// so that the next save does not take it for a predecessor.
///
/// # Errors
/// As [`load`].
pub fn recover(path: &Path) -> Result<Option<Vec<SavedProcess>>, ConfigError> {
    let sound = |path: &Path| read(path).map(|read| read.is_ok());
    if sound(path) == Some(false) && sound(&with_suffix(path, ".bak")) == Some(true) {
        // Where that cannot be done the list is read all the same.
        drop(fs::rename(path, with_suffix(path, ".broken")));
    }
    load(path)
}

/// Processes of the same app together, in the order of their first.
#[must_use]
pub fn by_app(processes: Vec<SavedProcess>) -> Vec<SavedApp> {
    let mut apps: Vec<SavedApp> = Vec::new();
    for process in processes {
        let stopped = process.is_stopped();
        let same = |app: &&mut SavedApp| {
            let (a, b) = (&app.spec, &process.spec);
            (&a.name, &a.namespace, &a.script, &a.cwd, a.exec_mode, &a.args)
                == (&b.name, &b.namespace, &b.script, &b.cwd, b.exec_mode, &b.args)
                && app.processes.iter().all(|(instance, _)| *instance != process.instance)
        };
        match apps.iter_mut().find(same) {
            Some(app) => app.processes.push((process.instance, stopped)),
            None => apps.push(SavedApp { spec: process.spec, processes: vec![(process.instance, stopped)] }),
        }
    }
    for app in &mut apps {
        app.processes.sort_unstable();
        app.spec.instances = Instances(i32::try_from(app.processes.len()).unwrap_or(i32::MAX));
    }
    apps
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn read(path: &Path) -> Option<Result<Vec<SavedProcess>, ConfigError>> {
    let shown = path.display().to_string();
    let wrong = |message: String| ConfigError::Dump { file: shown.clone(), message };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(wrong(error.to_string()))),
    };
    let mut text = String::new();
    Some(match file.take(MAX_SIZE).read_to_string(&mut text) {
        Ok(_) => from_text(&text, &shown),
        Err(error) => Err(wrong(error.to_string())),
    })
}

/// An entry in PM2's words.
fn entry(process: &SavedProcess) -> Value {
    let spec = &process.spec;
    let mut entry = spec.extra.clone();
    let own = json!({
        "name": spec.name,
        "namespace": spec.namespace,
        "exec_mode": spec.exec_mode,
        "pm_exec_path": spec.script,
        "pm_cwd": spec.cwd,
        "args": spec.args,
        "node_args": spec.node_args,
        "exec_interpreter": spec.interpreter,
        "instance_var": spec.instance_var,
        "autorestart": spec.autorestart,
        "autostart": spec.autostart,
        "min_uptime": spec.min_uptime,
        "max_restarts": spec.max_restarts,
        "kill_timeout": spec.kill_timeout,
        "listen_timeout": spec.listen_timeout,
        "treekill": spec.treekill,
        "wait_ready": spec.wait_ready,
        "shutdown_with_message": spec.shutdown_with_message,
        "merge_logs": spec.log.merge_logs,
        "pm_out_log_path": spec.log.out_file.as_deref().unwrap_or(Path::new("/dev/null")),
        "pm_err_log_path": spec.log.error_file.as_deref().unwrap_or(Path::new("/dev/null")),
        "pm_pid_path": spec.pid_file,
        "username": spec.username,
        "status": process.status,
        "restart_time": process.restarts,
        "created_at": process.created_at,
        "env": spec.env,
    });
    entry.extend(own.as_object().cloned().unwrap_or_default());
    entry.insert(spec.instance_var.clone(), json!(process.instance));
    let optional = [
        ("restart_delay", (spec.restart_delay > 0).then(|| json!(spec.restart_delay))),
        (
            "exp_backoff_restart_delay",
            (spec.exp_backoff_restart_delay > 0).then(|| json!(spec.exp_backoff_restart_delay)),
        ),
        ("stop_exit_codes", (!spec.stop_exit_codes.is_empty()).then(|| json!(spec.stop_exit_codes))),
        ("increment_var", spec.increment_var.as_ref().map(|name| json!(name))),
        ("cron_restart", spec.cron_restart.as_ref().map(|pattern| json!(pattern))),
        ("max_memory_restart", spec.max_memory_restart.map(|bytes| json!(bytes))),
        ("uid", spec.uid.as_ref().map(|uid| json!(uid))),
        ("gid", spec.gid.as_ref().map(|gid| json!(gid))),
        ("version", spec.version.as_ref().map(|version| json!(version))),
        ("pm_log_path", spec.log.log_file.as_ref().map(|path| json!(path))),
        ("log_date_format", spec.log.log_date_format.as_ref().map(|format| json!(format))),
        ("watch", spec.watched().filter(|_| !entry.contains_key("watch")).map(|_| json!(true))),
    ];
    entry.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    // The environment stands in the entry already.
    let whole = AppSpec { env: BTreeMap::new(), ..spec.clone() };
    entry.insert(OURS.to_owned(), json!(whole));
    json!(entry)
}

fn saved(entry: &Map<String, Value>) -> Result<SavedProcess, String> {
    let env: BTreeMap<String, String> = entry.get("env").and_then(Value::as_object).map(variables).unwrap_or_default();
    let spec = match entry.get(OURS) {
        Some(ours) => {
            let spec: AppSpec = serde_json::from_value(ours.clone()).map_err(|error| error.to_string())?;
            AppSpec { env, ..spec }
        }
        None => import(entry, env)?,
    };
    super::validate_spec(&spec).map_err(|error| error.to_string())?;
    let number = |key: &str| entry.get(key).and_then(|value| super::kind::integer(value, u64::MAX)).unwrap_or(0);
    Ok(SavedProcess {
        instance: u32::try_from(number(&spec.instance_var)).unwrap_or(0),
        status: entry.get("status").and_then(Value::as_str).unwrap_or("online").to_owned(),
        restarts: u32::try_from(number("restart_time")).unwrap_or(u32::MAX),
        created_at: number("created_at"),
        spec,
    })
}

fn variables(env: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    env.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// A spec from an entry that PM2 wrote. Nothing is looked up: a program that has gone since then is told of when it is
/// to be started.
fn import(entry: &Map<String, Value>, env: BTreeMap<String, String>) -> Result<AppSpec, String> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let path = |key: &str| text(key).map(PathBuf::from);
    let name = text("name").ok_or("it has no \"name\"")?.to_owned();
    let program = path("pm_exec_path").ok_or("it has no \"pm_exec_path\"")?;
    // What PM2's `serve` runs goes when PM2 is removed; ours is told by the same variables.
    let serves_files =
        program.ends_with("pm2/lib/API/Serve.js") && env.keys().any(|name| name.starts_with("PM2_SERVE_"));
    let program = if serves_files { PathBuf::from(STATIC_SERVER) } else { program };
    let cwd = path("pm_cwd").or_else(|| program.parent().map(Path::to_owned)).unwrap_or_else(|| PathBuf::from("/"));
    // Paths and program come from keys of PM2's own; what it does not check when it reads, is left out when wrong.
    const ELSEWHERE: &[&str] =
        &["script", "name", "cwd", "env", "args", "exec_interpreter", "out_file", "error_file", "log_file", "pid_file"];
    let known = |key: &str| keys::is_named_env(key) || keys::KEYS.iter().any(|known| known.name == key);
    let mut checked = Map::new();
    for (key, value) in entry.iter().filter(|(key, _)| known(key) && !ELSEWHERE.contains(&key.as_str())) {
        let one = Map::from_iter([(key.clone(), value.clone())]);
        checked.extend(keys::canonicalise(&one).map(|canonical| canonical.keys).unwrap_or_default());
    }
    // Without a word about it PM2 has numbered them.
    checked.entry("merge_logs").or_insert(Value::Bool(false));
    let caller =
        CallerContext { username: text("username").unwrap_or_default().to_owned(), ..CallerContext::default() };
    let resolver = Resolver { keys: &checked, place: &Place::default(), caller: &caller, warnings: Vec::new() };
    let args = entry.get("args").and_then(super::kind::strings);
    let args = args.and_then(|args| serde_json::from_value(args).ok()).unwrap_or_default();
    let exec_mode = match text("exec_mode") {
        Some(mode) if mode.starts_with("cluster") => ExecMode::Cluster,
        _ => ExecMode::Fork,
    };
    let mut spec = resolver.spec(Program {
        name,
        cwd,
        found: Found { path: program, args, shell: false },
        choice: Choice::of(text("exec_interpreter").unwrap_or("node")),
        exec_mode,
        environment: Environment { all: environment::without_an_apps_own(env), ..Environment::default() },
        filter_env: resolver.filter_env(),
    });
    // PM2 writes the number of the process into the paths of what it does not merge.
    let log = |key: &str| path(key).filter(|path| path != Path::new("/dev/null"));
    let merged = spec.log.merge_logs;
    let unnumbered = |path: PathBuf| if merged { path } else { without_number(&path, ".log") };
    spec.log.out_file = log("pm_out_log_path").map(unnumbered);
    spec.log.error_file = log("pm_err_log_path").map(unnumbered);
    spec.log.log_file = log("pm_log_path").map(unnumbered);
    spec.pid_file = path("pm_pid_path").map(|path| without_number(&path, ".pid"));
    Ok(spec)
}

/// `/x/api-out-3.log` as `/x/api-out.log`.
fn without_number(path: &Path, extension: &str) -> PathBuf {
    let unnumbered = path.to_str().and_then(|text| {
        let (stem, number) = text.strip_suffix(extension)?.rsplit_once('-')?;
        (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| format!("{stem}{extension}"))
    });
    unnumbered.map_or_else(|| path.to_owned(), PathBuf::from)
}
