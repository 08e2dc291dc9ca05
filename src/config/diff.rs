//! What is different between what runs and what a file wants, and what it takes to make it so.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::core::AppSpec;

/// What a change takes to be in effect. Ordered: what needs more comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// The running workers need not know.
    Nothing,
    /// Another number of workers.
    Scale,
    /// New workers, one after another.
    Reload,
    /// The end of the old workers before the first new one.
    Restart,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, with a dot before a part of it: `log.out_file`, `env.PORT`.
    pub key: String,
    /// As it was, as JSON; nothing for a key that had no value.
    pub old: Option<String>,
    /// As it will be.
    pub new: Option<String>,
    /// What it takes.
    pub needs: Needs,
}

/// What stands for the value of an environment variable.
const HIDDEN: &str = "***";

/// What running workers do not have to be told: the supervisor alone acts on it.
const NOTHING: &[&str] = &[
    "own_env",
    "unquoted_env",
    "filter_env",
    "autorestart",
    "autostart",
    "min_uptime",
    "max_restarts",
    "restart_delay",
    "exp_backoff_restart_delay",
    "stop_exit_codes",
    "cron_restart",
    "max_memory_restart",
    "kill_timeout",
    "kill_signal",
    "treekill",
    "shutdown_with_message",
    "drain_timeout",
    "wait_ready",
    "listen_timeout",
    "probe",
    "reload_batch",
    "on_reload_failure",
    "watch",
    "version",
    "username",
    "source_file",
    "extra",
];

/// What no two workers of an app may have differently: their mode, and the sockets they share.
const RESTART: &[&str] = &["exec_mode", "balance", "listen"];

/// What is no difference to people: bookkeeping that follows from other keys or from the call.
const UNSHOWN: &[&str] = &["own_env", "unquoted_env", "source_file", "username"];

/// The differences from one spec of an app to another, in the order of the spec. Variables that neither configuration
/// sets are their callers' and no difference; the values of variables are never shown.
#[must_use]
pub fn diff(old: &AppSpec, new: &AppSpec) -> Vec<Change> {
    let (old_keys, new_keys) = (object(old), object(new));
    let mut changes = Vec::new();
    for key in old_keys.keys().filter(|key| !UNSHOWN.contains(&key.as_str())) {
        let needs = needs_of(key);
        match key.as_str() {
            "env" => changes.extend(variables(old, new)),
            "log" | "extra" | "watch" if old_keys[key].is_object() && new_keys[key].is_object() => {
                parts(key, &old_keys[key], &new_keys[key], needs, &mut changes);
            }
            _ => add(key.clone(), &old_keys[key], &new_keys[key], needs, &mut changes),
        }
    }
    changes
}

/// What all of them together take.
#[must_use]
pub fn needs(changes: &[Change]) -> Needs {
    changes.iter().map(|change| change.needs).max().unwrap_or(Needs::Nothing)
}

fn needs_of(key: &str) -> Needs {
    match key {
        "instances" => Needs::Scale,
        _ if NOTHING.contains(&key) => Needs::Nothing,
        _ if RESTART.contains(&key) => Needs::Restart,
        _ => Needs::Reload,
    }
}

fn object(spec: &AppSpec) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(keys)) => keys,
        _ => Map::new(),
    }
}

fn parts(key: &str, old: &Value, new: &Value, needs: Needs, changes: &mut Vec<Change>) {
    let names: BTreeSet<&String> = [old, new].into_iter().filter_map(Value::as_object).flat_map(Map::keys).collect();
    for name in names {
        // `env_production` holds variables, and its values are as secret as theirs.
        if key == "extra" && name.starts_with("env_") {
            if old[name] != new[name] {
                let shown = |value: &Value| (!value.is_null()).then(|| HIDDEN.to_owned());
                let key = name.clone();
                changes.push(Change { key, old: shown(&old[name]), new: shown(&new[name]), needs });
            }
            continue;
        }
        add(format!("{key}.{name}"), &old[name], &new[name], needs, changes);
    }
}

fn add(key: String, old: &Value, new: &Value, needs: Needs, changes: &mut Vec<Change>) {
    let shown = |value: &Value| (!value.is_null()).then(|| value.to_string());
    if old != new {
        changes.push(Change { key, old: shown(old), new: shown(new), needs });
    }
}

/// Variables that either configuration sets.
fn variables(old: &AppSpec, new: &AppSpec) -> Vec<Change> {
    let own: BTreeSet<&String> = old.own_env.iter().chain(&new.own_env).collect();
    let differs = own.into_iter().filter(|name| old.env.get(*name) != new.env.get(*name));
    let hidden = |spec: &AppSpec, name: &String| spec.env.contains_key(name).then(|| HIDDEN.to_owned());
    differs
        .map(|name| Change {
            key: format!("env.{name}"),
            old: hidden(old, name),
            new: hidden(new, name),
            needs: Needs::Reload,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::core::{ExecMode, Instances, WatchSpec};

    fn changed(change: impl FnOnce(&mut AppSpec)) -> Vec<Change> {
        let mut old = AppSpec { name: "api".into(), own_env: vec!["SECRET".into()], ..AppSpec::default() };
        old.env.insert("SECRET".into(), "hunter2".into());
        old.env.insert("SHLVL".into(), "1".into());
        let mut new = old.clone();
        change(&mut new);
        diff(&old, &new)
    }

    #[test]
    fn equal_specs_do_not_differ() {
        assert_eq!(changed(|_| ()), []);
        assert_eq!(needs(&[]), Needs::Nothing);
    }

    #[test]
    fn each_key_needs_what_it_needs() {
        type Edit = fn(&mut AppSpec);
        let table: [(&str, Needs, Edit); 8] = [
            ("script", Needs::Reload, |spec| spec.script = PathBuf::from("/b.js")),
            ("args", Needs::Reload, |spec| spec.args = vec!["-v".into()]),
            ("instances", Needs::Scale, |spec| spec.instances = Instances(4)),
            ("exec_mode", Needs::Restart, |spec| spec.exec_mode = ExecMode::Cluster),
            ("kill_timeout", Needs::Nothing, |spec| spec.kill_timeout = 5000),
            ("watch", Needs::Nothing, |spec| spec.watch = Some(WatchSpec::default())),
            ("log.merge_logs", Needs::Reload, |spec| spec.log.merge_logs = true),
            ("env.PORT", Needs::Reload, |spec| {
                spec.env.insert("PORT".into(), "3000".into());
                spec.own_env.push("PORT".into());
            }),
        ];
        for (key, expected, edit) in table {
            let changes = changed(edit);
            assert_eq!(changes.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), [key]);
            assert_eq!(needs(&changes), expected, "{key}");
        }
    }

    #[test]
    fn a_variable_that_the_file_dropped_is_a_change_and_its_value_stays_hidden() {
        let changes = changed(|spec| {
            spec.env.remove("SECRET");
            spec.own_env.clear();
        });
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].old.as_deref(), changes[0].new.as_deref()), (Some("***"), None));
        assert!(!format!("{changes:?}").contains("hunter2"));
    }

    #[test]
    fn the_callers_own_variables_are_no_change() {
        assert_eq!(changed(|spec| drop(spec.env.insert("SHLVL".into(), "2".into()))), []);
    }
}
