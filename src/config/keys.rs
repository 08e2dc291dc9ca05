//! Every key of an app entry: how it may be written, what its value may be, whether it has an effect.
//!
//! One table ([`KEYS`]) decides for files and options alike. What a key means is [`crate::core::AppSpec`]'s business.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::kind::Kind;
use super::nearest::nearest;

/// A key of an app entry.
#[derive(Debug)]
pub struct Key {
    /// PM2's name of it, or ours.
    pub name: &'static str,
    /// Other names. The camelCase form of each name is known as well.
    pub aliases: &'static [&'static str],
    /// What its value may be.
    pub kind: Kind,
    /// Whether anything comes of it.
    pub effect: Effect,
    /// One line for people.
    pub about: &'static str,
}

/// Whether anything comes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does what it says.
    Applied,
    /// PM2 knows it, nothing here needs it; `jlist` shows it as it was given.
    Kept,
    /// PM2 does something for it that pm2rs does not; with what to do instead.
    Unsupported(&'static str),
}

use Effect::{Applied, Kept, Unsupported};

const fn key(name: &'static str, aliases: &'static [&'static str], kind: Kind, about: &'static str) -> Key {
    Key { name, aliases, kind, effect: Applied, about }
}

const fn kept(name: &'static str, aliases: &'static [&'static str]) -> Key {
    Key { name, aliases, kind: Kind::Any, effect: Kept, about: "known, without effect" }
}

const fn unsupported(name: &'static str, instead: &'static str) -> Key {
    Key { name, aliases: &[], kind: Kind::Any, effect: Unsupported(instead), about: "known, not supported" }
}

/// A day in milliseconds: no wait in a configuration is longer.
const DAY: u64 = 86_400_000;

/// All of them: PM2's in the order people read them, then those that only pm2rs has, then those without effect.
pub static KEYS: &[Key] = &[
    key("script", &["exec", "cmd", "command"], Kind::Text, "file, program in PATH or shell line to run"),
    key("name", &[], Kind::Text, "name of the app; the script's without its extension if not given"),
    key("namespace", &[], Kind::Text, "group of apps"),
    key("cwd", &[], Kind::Text, "folder to run in; relative paths resolve against it"),
    key("args", &[], Kind::Words, "arguments of the script"),
    key("exec_interpreter", &["interpreter"], Kind::Text, "program that runs the script; `none` executes the script"),
    key("node_args", &["interpreter_args"], Kind::Words, "arguments of the interpreter"),
    key("exec_mode", &[], Kind::OneOf(&["fork", "cluster", "fork_mode", "cluster_mode"]), "fork or cluster"),
    key("execute_command", &[], Kind::Bool, "fork mode"),
    key("instances", &[], Kind::Instances, "processes: a number, 0 or `max` for one per CPU, -N for CPUs minus N"),
    key("out_file", &["out", "output", "out_log"], Kind::Text, "file for standard output; `NULL` for none"),
    key("error_file", &["error", "err", "err_file", "err_log"], Kind::Text, "file for standard error; `NULL` for none"),
    key("log_file", &["log"], Kind::BoolOrText, "file for both"),
    key("disable_logs", &[], Kind::Bool, "keep no logs"),
    key("log_type", &[], Kind::Text, "`json`: write lines as JSON into files"),
    key("log_date_format", &[], Kind::Text, "time before each line, in dayjs's format"),
    key("time", &[], Kind::Bool, "time before each line, as YYYY-MM-DDTHH:mm:ss"),
    key("merge_logs", &["combine_logs"], Kind::Bool, "one file for all processes of the app"),
    key("env", &[], Kind::Env, "environment variables; null removes one"),
    key("filter_env", &[], Kind::FilterEnv, "variables that the app does not get from its caller"),
    key("port", &[], Kind::Integer { min: 0, max: 65535 }, "sets the variable PORT"),
    key("instance_var", &[], Kind::Variable, "variable that carries the instance number"),
    key("increment_var", &[], Kind::Variable, "variable that is counted up from instance to instance"),
    key("append_env_to_name", &[], Kind::Bool, "append the name given with --env to the app's"),
    key("max_memory_restart", &[], Kind::Memory, "restart above this much memory"),
    key("pid_file", &["pid"], Kind::Text, "file for the process id; `-ID` is added"),
    key("restart_delay", &[], Kind::Millis { min: 0, max: DAY }, "delay before each restart"),
    key("exp_backoff_restart_delay", &[], Kind::Millis { min: 0, max: DAY }, "first delay, growing by half"),
    key("autorestart", &[], Kind::Bool, "start it again when it ended"),
    key("autostart", &[], Kind::Bool, "start it when it is added"),
    key("stop_exit_codes", &[], Kind::Codes, "exit codes after which it is not started again"),
    key("min_uptime", &[], Kind::Millis { min: 100, max: DAY }, "uptime from which a start counts as successful"),
    key("max_restarts", &[], Kind::Integer { min: 0, max: u32::MAX as u64 }, "unstable restarts until it is errored"),
    key("cron_restart", &["cron"], Kind::Cron, "planned restarts; 0 for none"),
    key("kill_timeout", &[], Kind::Millis { min: 0, max: DAY }, "from the stop signal to SIGKILL"),
    key("listen_timeout", &[], Kind::Millis { min: 0, max: DAY }, "how long it may take to get ready"),
    key("wait_ready", &[], Kind::Bool, "ready only when it says so"),
    key("shutdown_with_message", &[], Kind::Bool, "stop it by a message rather than a signal"),
    key("treekill", &[], Kind::Bool, "signal all its descendants"),
    key("watch", &[], Kind::Watch, "restart when files change"),
    key("ignore_watch", &[], Kind::Words, "globs of what not to watch"),
    key("watch_delay", &[], Kind::Millis { min: 0, max: DAY }, "from the last change to the restart"),
    key("watch_options", &[], Kind::Object, "PM2's options of its watcher; of these `ignored` has an effect"),
    key("source_map_support", &[], Kind::Bool, "use source maps in stack traces"),
    key("disable_source_map_support", &[], Kind::Bool, "do not use source maps in stack traces"),
    key("uid", &["user"], Kind::User, "user to run as"),
    key("gid", &[], Kind::User, "group to run as"),
    key("version", &[], Kind::Text, "shown in lists in place of package.json's"),
    key("username", &[], Kind::Text, "shown in lists as the user"),
    // What only pm2rs has.
    key("drain_timeout", &[], Kind::Millis { min: 0, max: DAY }, "how long requests in flight may take at the end"),
    key("kill_signal", &[], Kind::Signal, "the stop signal"),
    key("probe", &[], Kind::Probe, "ask the app from outside whether it is ready"),
    key("reload_batch", &[], Kind::Integer { min: 1, max: 1024 }, "workers replaced at a time by a reload"),
    key("on_reload_failure", &[], Kind::OneOf(&["rollback", "keep"]), "what becomes of workers already replaced"),
    key("balance", &[], Kind::OneOf(&["auto", "shared", "rr", "sticky"]), "how connections are dealt out"),
    key("agent", &[], Kind::Bool, "load pm2rs's small script into Node workers"),
    key("listen", &[], Kind::List, "sockets to open for the app, or names of systemd's, handed over by LISTEN_FDS"),
    key("log_rotate", &[], Kind::Rotate, "rotation of the log files; false leaves them to grow"),
    key("journal", &[], Kind::Bool, "write its output to the journal"),
    key("log_files", &[], Kind::Bool, "write its output to files"),
    key("log_syslog", &[], Kind::Syslog, "send its output to syslog: `unix:/dev/log`, `udp:127.0.0.1:514`"),
    key("watch_reload", &[], Kind::Bool, "on a change reload rather than restart"),
    key("watch_ext", &[], Kind::Words, "watch only files with these extensions"),
    // What PM2 knows and nothing here needs.
    kept("name_prefix", &[]),
    kept("kill_retry_time", &[]),
    kept("vizion", &[]),
    kept("pmx", &[]),
    kept("automation", &[]),
    kept("trace", &[]),
    kept("disable_trace", &[]),
    kept("v8", &[]),
    kept("event_loop_inspector", &[]),
    kept("io", &[]),
    kept("install_url", &[]),
    kept("write", &[]),
    kept("force", &[]),
    kept("windows_hide", &[]),
    kept("exec_timeout", &[]),
    unsupported("deep_monitoring", "load the tracing library of your choice with node_args: \"--import NAME\""),
    unsupported("env_file", "have Node read it with node_args: \"--env-file=FILE\""),
    unsupported("post_update", "run these commands before `pm2rs reload`"),
];

/// The key of this name, alias, or camelCase form of either.
#[must_use]
pub fn find(written: &str) -> Option<&'static Key> {
    let snake = snake_case(written);
    KEYS.iter().find(|key| key.name == snake || key.aliases.contains(&snake.as_str()))
}

/// Whether this names an environment for `--env`: PM2's `^env_\S*$`.
#[must_use]
pub fn is_named_env(written: &str) -> bool {
    written.strip_prefix("env_").is_some_and(|name| !name.contains(char::is_whitespace))
}

/// `maxMemoryRestart` as `max_memory_restart`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// An entry in canonical form, and what is to be said about it.
#[derive(Debug, Default)]
pub(super) struct Canonical {
    /// Canonical names, checked values in their normal form, without nulls.
    pub keys: Map<String, Value>,
    /// A sentence for each key that comes to nothing.
    pub warnings: Vec<String>,
}

/// Brings an entry as written into canonical form.
///
/// # Errors
/// A whole sentence about the first key whose value is wrong.
pub(super) fn canonicalise(written: &Map<String, Value>) -> Result<Canonical, String> {
    let mut canonical = Canonical::default();
    for (name, value) in written {
        // null is how a file says that it says nothing; `_comment` and `//` are how JSON is commented.
        if value.is_null() || name.starts_with('_') || name.starts_with("//") || name.starts_with('#') {
            continue;
        }
        let Some(key) = find(name) else {
            if is_named_env(name) {
                canonical.keys.insert(name.clone(), named_env(name, value)?);
                continue;
            }
            canonical.warnings.push(unknown(name));
            continue;
        };
        if canonical.keys.contains_key(key.name) {
            canonical.warnings.push(format!("key \"{}\" is given twice, \"{name}\" is ignored", key.name));
            continue;
        }
        if says_nothing(key.kind, value) {
            continue;
        }
        let value = key.kind.check(value).map_err(|expected| refusal(key.kind, name, &expected, value))?;
        if let Unsupported(instead) = key.effect {
            canonical.warnings.push(format!("key \"{name}\" is not supported: {instead}"));
        }
        canonical.keys.insert(key.name.to_owned(), value);
    }
    Ok(canonical)
}

/// Whether a value that the key cannot have is how a file leaves it out: `process.env.LIMIT || ''`, `flag && value`.
/// PM2 passes over what JavaScript takes for false.
fn says_nothing(kind: Kind, value: &Value) -> bool {
    let nothing = match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(given) => !given && kind != Kind::Cron,
        Value::Number(number) => kind == Kind::Memory && number.as_f64() == Some(0.0),
        _ => false,
    };
    nothing && (kind == Kind::Memory || kind.check(value).is_err())
}

/// The variables of `env_NAME`. A string that is no list of variables stays what it is: PM2 lets it pass, and it does
/// nothing unless `--env` asks for it.
fn named_env(name: &str, value: &Value) -> Result<Value, String> {
    match Kind::Env.check(value) {
        Ok(variables) => Ok(variables),
        Err(_) if value.is_string() => Ok(value.clone()),
        Err(expected) => Err(complaint(name, &expected, value)),
    }
}

/// The sentence about a key that nobody knows.
fn unknown(name: &str) -> String {
    let known = KEYS.iter().flat_map(|key| std::iter::once(&key.name).chain(key.aliases)).copied();
    let snake = snake_case(name);
    // `watch_ignore` for `ignore_watch`: the same words in another order are nearer than any letter.
    let words = |name: &str| name.split('_').map(str::to_owned).collect::<BTreeSet<_>>();
    let reordered = known.clone().find(|known| words(known) == words(&snake));
    match reordered.or_else(|| nearest(&snake, known)) {
        Some(near) => format!("unknown key \"{name}\", did you mean \"{near}\"?"),
        None => format!("unknown key \"{name}\""),
    }
}

/// The sentence about a wrong value, begun as PM2's: it tells apart what is of a wrong type, what is not written as it
/// must be, and plans.
fn refusal(kind: Kind, name: &str, expected: &str, value: &Value) -> String {
    let sentence = complaint(name, expected, value);
    let Some(what) = sentence.strip_prefix(&format!("Expect \"{name}\" to be a typeof ")) else { return sentence };
    match kind {
        Kind::Cron if value.is_string() => format!("Cron pattern error: expect \"{name}\" to be a {what}"),
        Kind::Memory | Kind::Millis { .. } | Kind::OneOf(_) if value.is_string() => {
            format!("Verify \"{name}\" with regex failed, it should be a {what}")
        }
        _ => sentence,
    }
}

/// The sentence about a wrong value. The value itself is shown only where it is short, and never of variables.
fn complaint(name: &str, expected: &str, value: &Value) -> String {
    let is = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) if s.len() <= 60 && !name.starts_with("env") => format!("\"{}\"", s.escape_debug()),
        Value::String(_) => "another string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    format!("Expect \"{name}\" to be a typeof {expected}, but it is {is}")
}
