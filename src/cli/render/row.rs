//! One process as the list shows it, read from an element of the daemon's jlist.

use serde_json::Value;

/// A process row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// PM2's `pm_id`.
    pub id: u64,
    /// Name of its app.
    pub name: String,
    /// Namespace of its app.
    pub namespace: String,
    /// Version of its app, `N/A` where none is known.
    pub version: String,
    /// Whether it is a cluster process.
    pub cluster: bool,
    /// Process id, 0 for none.
    pub pid: u64,
    /// When it was started, ms since the epoch, 0 for never.
    pub started_at: u64,
    /// Restarts.
    pub restarts: u64,
    /// PM2's status.
    pub status: String,
    /// CPU use in percent of one CPU.
    pub cpu: f64,
    /// Resident memory in bytes.
    pub memory: u64,
    /// Number of the user whose app it is.
    pub owner: u64,
    /// Whom it runs as.
    pub user: String,
    /// Whether its files are watched.
    pub watching: bool,
    /// Its standard output's file.
    pub out_path: String,
    /// Its standard error's file.
    pub error_path: String,
    /// Its pid file.
    pub pid_path: String,
    /// The script it runs.
    pub script: String,
    /// The pattern of its planned restarts.
    pub cron_restart: Option<String>,
    /// Why it does not run, or what is amiss; empty when all is well.
    pub reason: String,
}

impl Row {
    /// From an element of jlist; what is missing counts as nothing.
    pub fn read(process: &Value) -> Row {
        let env = &process["pm2_env"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let path = |key: &str| text(&env[key]);
        Row {
            id: number(&process["pm_id"]),
            name: text(&process["name"]),
            namespace: env["namespace"].as_str().unwrap_or("default").to_owned(),
            version: env["version"].as_str().unwrap_or("N/A").to_owned(),
            cluster: env["exec_mode"] == "cluster_mode",
            pid: number(&process["pid"]),
            started_at: number(&env["pm_uptime"]),
            restarts: number(&env["restart_time"]),
            status: text(&env["status"]),
            cpu: process["monit"]["cpu"].as_f64().unwrap_or_default(),
            memory: number(&process["monit"]["memory"]),
            owner: number(&env["owner"]),
            user: user_of(env),
            watching: !matches!(env["watch"], Value::Null | Value::Bool(false)),
            out_path: path("pm_out_log_path"),
            error_path: path("pm_err_log_path"),
            pid_path: path("pm_pid_path"),
            script: path("pm_exec_path"),
            cron_restart: env["cron_restart"].as_str().map(str::to_owned),
            reason: text(&env["reason"]),
        }
    }

    /// All rows of a jlist.
    pub fn read_all(list: &Value) -> Vec<Row> {
        list.as_array().map(|list| list.iter().map(Row::read).collect()).unwrap_or_default()
    }

    /// Whether it runs.
    pub fn online(&self) -> bool {
        self.status == "online"
    }

    /// For how long it has run, as the list shows it: `12s`, `3m`, `5h`, `2D`.
    pub fn uptime(&self, now: u64) -> String {
        if self.online() && self.started_at > 0 {
            duration(now.saturating_sub(self.started_at))
        } else {
            "0".to_owned()
        }
    }

    /// CPU use as the list shows it.
    pub fn cpu_text(&self) -> String {
        format!("{}%", self.cpu)
    }

    /// PM2's word for its mode: `fork` or `cluster`.
    pub fn mode(&self) -> &'static str {
        if self.cluster { "cluster" } else { "fork" }
    }
}

/// The user that `uid` names, else who started it.
fn user_of(env: &Value) -> String {
    let of_uid = env["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok()).map(|uid| {
        let account = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        account.map_or_else(|| uid.to_string(), |account| account.name)
    });
    let named = env["uid"].as_str().filter(|uid| uid.parse::<u32>().is_err());
    of_uid.or_else(|| named.or(env["username"].as_str()).map(str::to_owned)).unwrap_or_else(|| scalar(&env["uid"]))
}

/// Text, number or flag as text; empty for anything else.
pub fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => String::new(),
    }
}

/// Milliseconds in the largest unit of which there are more than one, as PM2 has it: 119 s are `119s`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let units = [(31_536_000, "Y"), (2_592_000, "M"), (86_400, "D"), (3600, "h"), (60, "m")];
    units
        .iter()
        .map(|(size, unit)| (seconds / size, unit))
        .find(|(count, _)| *count > 1)
        .map_or_else(|| format!("{seconds}s"), |(count, unit)| format!("{count}{unit}"))
}

/// Bytes as the list shows them: `0b`, `47.6mb`.
pub fn bytes(n: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "tb"), (1 << 30, "gb"), (1 << 20, "mb"), (1 << 10, "kb")];
    UNITS.iter().find(|(size, _)| n >= *size).map_or_else(
        || format!("{n}b"),
        |(size, unit)| {
            let tenths = (u128::from(n) * 10 + u128::from(*size) / 2) / u128::from(*size);
            format!("{}.{}{unit}", tenths / 10, tenths % 10)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_whom_it_runs_as() {
        let user = |env: Value| Row::read(&serde_json::json!({ "pm2_env": env })).user;
        assert_eq!(user(serde_json::json!({ "username": "ann" })), "ann");
        assert_eq!(user(serde_json::json!({ "username": "ann", "uid": 0 })), "root");
        assert_eq!(user(serde_json::json!({ "username": "ann", "uid": "bob" })), "bob");
        assert_eq!(user(serde_json::json!({ "username": "ann", "uid": 4_294_967_000_u32 })), "4294967000");
    }

    #[test]
    fn durations_take_the_largest_unit_above_one() {
        let of = |seconds: u64| duration(seconds * 1000);
        assert_eq!([of(0), of(59), of(119), of(120), of(7199), of(7200)], ["0s", "59s", "119s", "2m", "119m", "2h"]);
        assert_eq!([of(172_800), of(5_184_000), of(63_072_000)], ["2D", "2M", "2Y"]);
    }

    #[test]
    fn bytes_have_one_decimal() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024), bytes(49_912_218)], ["0b", "1023b", "1.0kb", "47.6mb"]);
        assert_eq!(bytes(3 << 30), "3.0gb");
    }
}
