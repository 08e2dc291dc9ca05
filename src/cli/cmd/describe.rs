//! Commands that tell all about one process: describe, env.

use serde_json::Value;

use super::targets;
use crate::cli::console::Paint;
use crate::cli::exit::Failure;
use crate::cli::render::describe::describe as page;
use crate::cli::render::row::{Row, scalar};
use crate::cli::session::{Session, now};

/// What of jlist's `pm2_env`, where PM2 keeps variables and settings side by side, its `env` leaves out, and what only
/// pm2rs has there.
const NO_VARIABLES: &[&str] = &[
    "args",
    "automation",
    "autorestart",
    "autostart",
    "axm_actions",
    "axm_dynamic",
    "axm_monitor",
    "axm_options",
    "command",
    "created_at",
    "env",
    "exec_interpreter",
    "exec_mode",
    "exit_code",
    "exit_signal",
    "filter_env",
    "hung",
    "instance_var",
    "instances",
    "kill_retry_time",
    "log_error",
    "log_lines_dropped",
    "merge_logs",
    "name",
    "node_args",
    "owner",
    "pm_cwd",
    "pm_err_log_path",
    "pm_exec_path",
    "pm_id",
    "pm_out_log_path",
    "pm_pid_path",
    "pm_uptime",
    "pmx",
    "prev_restart_delay",
    "reason",
    "restart_time",
    "status",
    "stop_exit_codes",
    "treekill",
    "unstable_restarts",
    "username",
    "vizion",
    "watch",
    "windowsHide",
];

/// `describe NAME|ID`: a page for each process.
///
/// # Errors
/// When there is no such process.
pub async fn describe(session: &Session, target: &str) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let list = session.processes(&client).await?;
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let named = |process: &&Value| process["name"] == target;
    let numbered = |process: &&Value| target.parse::<u64>().is_ok_and(|id| process["pm_id"] == id);
    let mut found: Vec<&Value> = all.iter().filter(named).collect();
    if found.is_empty() {
        found = all.iter().filter(numbered).collect();
    }
    if found.is_empty() {
        let rows = Row::read_all(&list);
        return Err(Failure::Warning(format!("{target} doesn't exist{}", targets::hint(&rows, target))));
    }
    if session.options.json {
        session.console.answer(&format!("{}\n", serde_json::json!(found)));
        return Ok(());
    }
    let environment = |name: &str| std::env::var(name).ok();
    for process in found {
        session.console.answer(&page(process, now(), &environment, session.console.colours));
    }
    Ok(())
}

/// `env ID`: `KEY: value` lines.
///
/// # Errors
/// When there is no such process or its environment is not the caller's to see.
pub async fn environment(session: &Session, typed: &str) -> Result<(), Failure> {
    let unknown = || Failure::error(format!("Modules with id {typed} not found"));
    let id: u32 = typed.parse().map_err(|_| unknown())?;
    let client = session.daemon().await?;
    let list = session.processes(&client).await?;
    let of_id = |process: &&Value| process["pm_id"] == id;
    let process = list.as_array().into_iter().flatten().find(of_id).ok_or_else(unknown)?;
    if session.options.json {
        let environment = session.look(&client, async |daemon| daemon.manager().get_environment(id).await).await?;
        session.console.answer(&format!("{}\n", serde_json::json!(environment)));
        return Ok(());
    }
    let shown = |(name, value): &(&String, &Value)| !value.is_object() && !NO_VARIABLES.contains(&name.as_str());
    for (name, value) in process["pm2_env"].as_object().into_iter().flatten().filter(shown) {
        let value = match value {
            Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(","),
            other => scalar(other),
        };
        let value = Paint::Green.on(session.console.colours, &value);
        session.console.answer(&format!("{name}: {value}\n"));
    }
    Ok(())
}
