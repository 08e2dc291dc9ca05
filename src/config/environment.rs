//! What an app's environment is: a function of the caller's, the file's and `--env`, computed anew each time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::core::FilterEnv;

use super::error::Warning;
use super::options::CallerContext;

/// Variables that PM2 sets for an app besides those the app asked for. A program that itself runs under pm2rs or PM2
/// must not hand them on to the apps it starts.
const OF_AN_APP: &[&str] = &[
    "name",
    "namespace",
    "exec_mode",
    "instances",
    "pm_exec_path",
    "pm_cwd",
    "pm_out_log_path",
    "pm_err_log_path",
    "pm_log_path",
    "pm_pid_path",
    "pm_id",
    "pm_uptime",
    "exec_interpreter",
    "instance_var",
    "increment_var",
    "NODE_APP_INSTANCE",
    "status",
    "created_at",
    "restart_time",
    "unstable_restarts",
    "prev_restart_delay",
    "exit_code",
    "unique_id",
    "username",
    "uid",
    "gid",
    "version",
    "node_version",
    "windowsHide",
    "kill_retry_time",
    "kill_timeout",
    "listen_timeout",
    "restart_delay",
    "exp_backoff_restart_delay",
    "min_uptime",
    "max_restarts",
    "max_memory_restart",
    "cron_restart",
    "wait_ready",
    "shutdown_with_message",
    "stop_exit_codes",
    "treekill",
    "pmx",
    "automation",
    "autostart",
    "autorestart",
    "vizion",
    "vizion_running",
    "merge_logs",
    "log_type",
    "log_date_format",
    "time",
    "watch",
    "ignore_watch",
    "watch_delay",
    "filter_env",
    "source_map_support",
    "disable_source_map_support",
    "disable_logs",
    "drain_timeout",
    "kill_signal",
    "balance",
    "agent",
    "append_env_to_name",
    "name_prefix",
    "exec_timeout",
    "io",
    "trace",
    "disable_trace",
    "v8",
    "event_loop_inspector",
    "install_url",
    "force",
    "write",
    "km_link",
    "pmx_module",
    "args",
    "node_args",
    "env",
    "axm_actions",
    "axm_monitor",
    "axm_options",
    "axm_dynamic",
    "_pm2_version",
    "SILENT",
    "PM2_USAGE",
    "PM2_JSON_PROCESSING",
];

/// Variables that hold for one process only: Node's channel, systemd's sockets and watchdog, and what the caller's own
/// unit was told. In another process they are wrong, and some of them harmful.
const OF_ONE_PROCESS: &[&str] = &[
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MAINPID",
    "MANAGERPID",
    "SYSTEMD_EXEC_PID",
];

/// What of its environment a caller hands on to the apps it starts.
#[must_use]
pub fn caller_environment(caller: &CallerContext) -> BTreeMap<String, String> {
    let is_app = caller.env.contains_key("pm_id");
    let handed_on = |name: &str| !(OF_ONE_PROCESS.contains(&name) || is_app && OF_AN_APP.contains(&name));
    caller.env.iter().filter(|(name, _)| handed_on(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// An environment that an app was given, without what the supervisor had added to it.
pub(super) fn without_an_apps_own(mut env: BTreeMap<String, String>) -> BTreeMap<String, String> {
    env.retain(|name, _| !OF_AN_APP.contains(&name.as_str()) && !OF_ONE_PROCESS.contains(&name.as_str()));
    env
}

/// An app's environment and how its file wrote it.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// All of it.
    pub all: BTreeMap<String, String>,
    /// Names that are not only inherited, those that were removed included.
    pub own: BTreeSet<String>,
    /// Names whose values the file gave as numbers or booleans.
    pub unquoted: BTreeSet<String>,
}

impl Environment {
    /// The caller's, as far as the filter lets it pass.
    pub(super) fn inherited(caller: &CallerContext, filter: &FilterEnv) -> Environment {
        let mut all = caller_environment(caller);
        all.retain(|name, _| filter.passes(name));
        Environment { all, ..Environment::default() }
    }

    /// Lays the variables of a file's object over; null removes one.
    pub(super) fn overlay(&mut self, variables: &Map<String, Value>) {
        for (name, value) in variables {
            self.own.insert(name.clone());
            self.unquoted.remove(name);
            let text = match value {
                Value::Null => {
                    self.all.remove(name);
                    continue;
                }
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => {
                    self.unquoted.insert(name.clone());
                    value.to_string()
                }
                Value::Array(_) | Value::Object(_) => value.to_string(),
            };
            self.all.insert(name.clone(), text);
        }
    }

    /// Sets a variable that follows from the configuration.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.own.insert(name.to_owned());
        self.all.insert(name.to_owned(), value.to_owned());
    }
}

/// Lays an app's variables over its caller's: the `env` of the file's `deploy` target named by `--env`, the app's
/// `env`, its `env_NAME`.
pub(super) fn of_app(
    mut environment: Environment,
    keys: &Map<String, Value>,
    deploy: Option<&Value>,
    name: Option<&str>,
    warnings: &mut Vec<Warning>,
) -> Environment {
    let of_target = name.and_then(|name| deploy?.get(name)?.get("env")?.as_object());
    if let Some(variables) = of_target {
        environment.overlay(variables);
    }
    if let Some(Value::Object(variables)) = keys.get("env") {
        environment.overlay(variables);
    }
    if let Some(name) = name {
        match keys.get(&format!("env_{name}")) {
            Some(Value::Object(variables)) => environment.overlay(variables),
            _ => warnings.push(Warning(format!("Environment [{name}] is not defined in process file"))),
        }
    }
    environment
}
