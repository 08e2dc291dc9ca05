//! All about a process, as `describe` shows it.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::row::{Row, scalar};
use super::table::{Cell, Table};
use crate::cli::console::Paint;

/// What stands where nothing is known.
const NONE: &str = "N/A";

/// The text of `describe` for an element of jlist. `environment` is the environment of who looks, to tell what differs.
pub fn describe(process: &Value, now: u64, environment: &dyn Fn(&str) -> Option<String>, colours: bool) -> String {
    let row = Row::read(process);
    let env = &process["pm2_env"];
    let title = |text: &str| format!("{}\n", Paint::Inverse.on(colours, &format!(" {text} ")));
    let mut out = title(&format!("Describing process with id {} - name {}", row.id, row.name));
    out.push_str(&two_columns(facts(process, &row, now), colours));

    let actions: Vec<Vec<Cell>> = items(&env["axm_actions"])
        .filter_map(|action| action["action_name"].as_str())
        .map(|name| vec![Cell::painted(name, Paint::Bold)])
        .collect();
    if !actions.is_empty() {
        out.push_str(&title("Actions available"));
        out.push_str(&Table::fitting(actions).render(colours));
        out.push_str(&format!(" Trigger via: pm2 trigger {} <action_name>\n\n", row.name));
    }
    let metrics: Vec<(String, String)> = fields(&env["axm_monitor"])
        .map(|(name, metric)| {
            let unit = metric["unit"].as_str().filter(|unit| !unit.is_empty());
            let value = scalar(metric.get("value").unwrap_or(&Value::Null));
            (name.clone(), unit.map_or_else(|| value.clone(), |unit| format!("{value} {unit}")))
        })
        .collect();
    if !metrics.is_empty() {
        out.push_str(&title("Code metrics value"));
        out.push_str(&two_columns(metrics, colours));
    }
    let differing: Vec<(String, String)> = fields(&env["env"])
        .map(|(name, value)| (name, scalar(value)))
        .filter(|(name, value)| *name != "PM2_HOME" && environment(name).is_some_and(|ours| ours != *value))
        .map(|(name, value)| (name.clone(), value))
        .collect();
    // PM2 has this title also where nothing stands below it.
    out.push_str(&title("Divergent env variables from local env"));
    if differing.is_empty() {
        out.push('\n');
    } else {
        out.push_str(&two_columns(differing, colours));
    }
    out.push('\n');
    out.push_str(&format!(" Use `pm2 logs {} [--lines 1000]` to display logs\n", row.name));
    out.push_str(&format!(" Use `pm2 env {}` to display environment variables\n", row.id));
    out.push_str(&format!(" Use `pm2 reload {}` to replace it without losing a request\n", row.name));
    out.push_str(" Use `pm2 list` to see all processes\n");
    out
}

/// The main rows, in PM2's order; what PM2 has not comes last.
fn facts(process: &Value, row: &Row, now: u64) -> Vec<(String, String)> {
    let env = &process["pm2_env"];
    let known = |text: String| if text.is_empty() { NONE.to_owned() } else { text };
    let of = |key: &str| known(joined(&env[key]));
    let mut facts: Vec<(&str, String)> = vec![
        ("status", known(row.status.clone())),
        ("name", known(row.name.clone())),
        ("namespace", row.namespace.clone()),
        ("version", row.version.clone()),
        ("restarts", row.restarts.to_string()),
    ];
    if let Some(limit) = env["max_memory_restart"].as_u64() {
        facts.push(("max memory restart", limit.to_string()));
    }
    if !joined(&env["cron_restart"]).is_empty() {
        facts.push(("cron restart", of("cron_restart")));
    }
    facts.push(("uptime", row.uptime(now)));
    if !joined(&env["pm_log_path"]).is_empty() {
        facts.push(("entire log path", of("pm_log_path")));
    }
    facts.extend([("script path", of("pm_exec_path")), ("script args", of("args"))]);
    let watching = if row.watching { "✔" } else { "✘" };
    let created = env["created_at"].as_i64().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    facts.extend([
        ("error log path", of("pm_err_log_path")),
        ("out log path", of("pm_out_log_path")),
        ("pid path", of("pm_pid_path")),
        ("interpreter", of("exec_interpreter")),
        ("interpreter args", of("node_args")),
        ("script id", row.id.to_string()),
        ("exec cwd", of("pm_cwd")),
        ("exec mode", of("exec_mode")),
        ("node.js version", of("node_version")),
        ("node env", known(scalar(&env["env"]["NODE_ENV"]))),
        ("watch & reload", watching.to_owned()),
        ("unstable restarts", env["unstable_restarts"].as_u64().unwrap_or_default().to_string()),
        ("created at", created.map_or_else(|| NONE.to_owned(), |at| format!("{at:.3}"))),
    ]);
    let exit = match (env["exit_signal"].as_str().filter(|s| !s.is_empty()), env["exit_code"].as_i64()) {
        (Some(signal), _) => Some(format!("signal {signal}")),
        (None, Some(code)) => Some(format!("code {code}")),
        (None, None) => None,
    };
    facts.extend(exit.map(|exit| ("last exit", exit)));
    if let Some(reason) = env["reason"].as_str().filter(|reason| !reason.is_empty()) {
        facts.push(("reason", reason.to_owned()));
    }
    if let Some(lines) = env["log_lines_dropped"].as_u64() {
        let why = env["log_error"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        facts.push(("log lines lost", format!("{lines}{why}")));
    }
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn two_columns(rows: Vec<(String, String)>, colours: bool) -> String {
    let row = |(name, value): (String, String)| vec![Cell::painted(name, Paint::BoldCyan), value.into()];
    Table::fitting(rows.into_iter().map(row).collect()).render(colours)
}

/// A scalar, or the scalars of a list joined with blanks.
fn joined(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(" "),
        other => scalar(other),
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}
