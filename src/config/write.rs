//! From a spec back to an entry of a file: for `--write`, and for those who take over what was typed long ago.

use serde_json::{Map, Value, json};

use crate::core::{AppSpec, ExecMode, LogType, STATIC_SERVER};

use super::keys::{self, Effect};

/// The entry that resolves to this spec, with PM2's keys and without what is at its default. Of the environment it has
/// what the app's own configuration set, not what came with its caller.
#[must_use]
pub fn to_entry(spec: &AppSpec) -> Map<String, Value> {
    let defaults = AppSpec::default();
    let mut entry = Map::from_iter([
        ("name".to_owned(), json!(spec.name)),
        ("script".to_owned(), if serves_files(spec) { json!("serve") } else { json!(spec.script) }),
        ("cwd".to_owned(), json!(spec.cwd)),
        ("interpreter".to_owned(), json!(spec.interpreter)),
        ("exec_mode".to_owned(), json!(if spec.exec_mode == ExecMode::Cluster { "cluster" } else { "fork" })),
    ]);
    let mut put = |key: &str, differs: bool, value: Value| {
        if differs {
            entry.insert(key.to_owned(), value);
        }
    };
    put("namespace", spec.namespace != defaults.namespace, json!(spec.namespace));
    put("args", !spec.args.is_empty(), json!(spec.args));
    put("node_args", !spec.node_args.is_empty(), json!(spec.node_args));
    put("instances", spec.instances != defaults.instances, json!(spec.instances));
    put("env", !spec.own_env.is_empty(), own_env(spec));
    put("filter_env", spec.filter_env != defaults.filter_env, json!(spec.filter_env));
    put("instance_var", spec.instance_var != defaults.instance_var, json!(spec.instance_var));
    put("increment_var", spec.increment_var.is_some(), json!(spec.increment_var));
    put("autorestart", spec.autorestart != defaults.autorestart, json!(spec.autorestart));
    put("autostart", spec.autostart != defaults.autostart, json!(spec.autostart));
    put("min_uptime", spec.min_uptime != defaults.min_uptime, json!(spec.min_uptime));
    put("max_restarts", spec.max_restarts != defaults.max_restarts, json!(spec.max_restarts));
    put("restart_delay", spec.restart_delay != 0, json!(spec.restart_delay));
    put("exp_backoff_restart_delay", spec.exp_backoff_restart_delay != 0, json!(spec.exp_backoff_restart_delay));
    put("stop_exit_codes", !spec.stop_exit_codes.is_empty(), json!(spec.stop_exit_codes));
    put("cron_restart", spec.cron_restart.is_some(), json!(spec.cron_restart));
    put("max_memory_restart", spec.max_memory_restart.is_some(), json!(spec.max_memory_restart));
    put("kill_timeout", spec.kill_timeout != defaults.kill_timeout, json!(spec.kill_timeout));
    put("kill_signal", spec.kill_signal != defaults.kill_signal, json!(spec.kill_signal));
    put("treekill", spec.treekill != defaults.treekill, json!(spec.treekill));
    put("shutdown_with_message", spec.shutdown_with_message, json!(true));
    put("drain_timeout", spec.drain_timeout != defaults.drain_timeout, json!(spec.drain_timeout));
    put("wait_ready", spec.wait_ready, json!(true));
    put("listen_timeout", spec.listen_timeout != defaults.listen_timeout, json!(spec.listen_timeout));
    put("probe", spec.probe.is_some(), json!(spec.probe));
    put("reload_batch", spec.reload_batch != defaults.reload_batch, json!(spec.reload_batch));
    put("on_reload_failure", spec.on_reload_failure != defaults.on_reload_failure, json!(spec.on_reload_failure));
    put("balance", spec.balance != defaults.balance, json!(spec.balance));
    put("agent", spec.agent != defaults.agent, json!(spec.agent));
    put("listen", !spec.listen.is_empty(), json!(spec.listen));
    put("uid", spec.uid.is_some(), json!(spec.uid));
    put("gid", spec.gid.is_some(), json!(spec.gid));
    put("pid_file", spec.pid_file.is_some(), json!(spec.pid_file));
    put("source_map_support", !spec.source_map_support, json!(false));
    put("version", spec.version.is_some(), json!(spec.version));
    put("username", !spec.username.is_empty(), json!(spec.username));
    log(spec, &mut entry);
    watch(spec, &mut entry);
    // What is only shown comes back as it was given; what the spec itself holds has been written above.
    let shown_only = |key: &str| match keys::find(key) {
        Some(key) => key.effect == Effect::Kept,
        None => keys::is_named_env(key),
    };
    entry.extend(spec.extra.iter().filter(|(key, _)| shown_only(key)).map(|(key, value)| (key.clone(), value.clone())));
    entry
}

/// Whether it is our server of static files, which has another name in a file.
fn serves_files(spec: &AppSpec) -> bool {
    spec.script.as_os_str() == STATIC_SERVER
}

/// The variables that the app's configuration set: as numbers what it gave as numbers, as null what it removed.
fn own_env(spec: &AppSpec) -> Value {
    let value = |name: &String| match spec.env.get(name) {
        None => Value::Null,
        Some(text) if spec.unquoted_env.contains(name) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        Some(text) => json!(text),
    };
    Value::Object(spec.own_env.iter().map(|name| (name.clone(), value(name))).collect())
}

fn log(spec: &AppSpec, entry: &mut Map<String, Value>) {
    let log = &spec.log;
    entry.insert("merge_logs".to_owned(), json!(log.merge_logs));
    for (key, path) in [("out_file", &log.out_file), ("error_file", &log.error_file)] {
        match path {
            None => drop(entry.insert(key.to_owned(), json!("NULL"))),
            // To name a file means to want files; a default path stays unsaid.
            Some(path) if log.files == Some(true) => drop(entry.insert(key.to_owned(), json!(path))),
            Some(_) => {}
        }
    }
    let rotate = json!(log.rotate);
    let optional = [
        ("log_file", log.log_file.as_ref().map(|path| json!(path))),
        ("disable_logs", log.disable_logs.then(|| json!(true))),
        ("log_type", (log.log_type == LogType::Json).then(|| json!("json"))),
        ("log_date_format", log.log_date_format.as_ref().map(|format| json!(format))),
        ("log_rotate", (log.rotate != AppSpec::default().log.rotate).then_some(rotate)),
        ("journal", log.journal.map(|on| json!(on))),
        ("log_files", log.files.map(|on| json!(on))),
        ("log_syslog", log.syslog.as_ref().map(|address| json!(address))),
    ];
    entry.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
}

fn watch(spec: &AppSpec, entry: &mut Map<String, Value>) {
    let Some(watch) = &spec.watch else { return };
    let watched = if watch.paths.is_empty() { json!(true) } else { json!(watch.paths) };
    let optional = [
        ("watch", (!watch.off).then_some(watched)),
        ("ignore_watch", (!watch.ignore.is_empty()).then(|| json!(watch.ignore))),
        ("watch_ext", (!watch.ext.is_empty()).then(|| json!(watch.ext))),
        ("watch_delay", (watch.delay != 0).then(|| json!(watch.delay))),
        ("watch_reload", watch.reload.then(|| json!(true))),
    ];
    entry.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
}
