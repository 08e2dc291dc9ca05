//! An app's settings by PM2's names, as its users meet them: in `jlist`, and in the app's environment.

use serde_json::{Map, Value, json};

use super::spec::{AppSpec, FilterEnv};

impl AppSpec {
    /// The settings that were made: those that are as they are without any are not among them.
    #[must_use]
    pub fn settings(&self) -> Map<String, Value> {
        let usual = AppSpec::default();
        let mut all = Map::new();
        let mut put_if = |differs: bool, key: &str, value: Value| {
            if differs {
                all.insert(key.to_owned(), value);
            }
        };
        put_if(self.max_memory_restart.is_some(), "max_memory_restart", json!(self.max_memory_restart));
        put_if(self.cron_restart.is_some(), "cron_restart", json!(self.cron_restart));
        put_if(self.kill_timeout != usual.kill_timeout, "kill_timeout", json!(self.kill_timeout));
        put_if(self.listen_timeout != usual.listen_timeout, "listen_timeout", json!(self.listen_timeout));
        put_if(self.wait_ready, "wait_ready", json!(true));
        put_if(self.restart_delay != 0, "restart_delay", json!(self.restart_delay));
        let backoff = self.exp_backoff_restart_delay;
        put_if(backoff != 0, "exp_backoff_restart_delay", json!(backoff));
        put_if(self.min_uptime != usual.min_uptime, "min_uptime", json!(self.min_uptime));
        put_if(self.max_restarts != usual.max_restarts, "max_restarts", json!(self.max_restarts));
        put_if(!self.stop_exit_codes.is_empty(), "stop_exit_codes", json!(self.stop_exit_codes));
        put_if(self.shutdown_with_message, "shutdown_with_message", json!(true));
        put_if(self.filter_env != FilterEnv::default(), "filter_env", json!(self.filter_env));
        put_if(self.log.merge_logs, "merge_logs", json!(true));
        put_if(self.log.log_date_format.is_some(), "log_date_format", json!(self.log.log_date_format));
        put_if(self.log.log_type != usual.log.log_type, "log_type", json!(self.log.log_type));
        put_if(self.log.disable_logs, "disable_logs", json!(true));
        put_if(self.increment_var.is_some(), "increment_var", json!(self.increment_var));
        // PM2 has numbers here; the number of a name is known where the account is looked up.
        let number = |name: &Option<String>| match name.as_deref().map(str::parse::<u32>) {
            Some(Ok(number)) => json!(number),
            _ => json!(name),
        };
        put_if(self.uid.is_some(), "uid", number(&self.uid));
        put_if(self.gid.is_some(), "gid", number(&self.gid));
        put_if(self.balance != usual.balance, "balance", json!(self.balance));
        put_if(!self.agent, "agent", json!(false));
        put_if(self.drain_timeout != usual.drain_timeout, "drain_timeout", json!(self.drain_timeout));
        put_if(self.kill_signal != usual.kill_signal, "kill_signal", json!(self.kill_signal));
        if let Some(watch) = &self.watch {
            put_if(!watch.ignore.is_empty(), "ignore_watch", json!(watch.ignore));
            put_if(watch.delay != 0, "watch_delay", json!(watch.delay));
        }
        all
    }

    /// The keys without effect here that were given, and those whose value here is another one than the given.
    pub fn given(&self) -> impl Iterator<Item = (&str, Value)> {
        self.extra.iter().map(|(name, value)| match (name.as_str(), value) {
            // This one name PM2 has in camelCase only, and the settings of its metrics client as text.
            ("windows_hide", _) => ("windowsHide", value.clone()),
            ("io", Value::Object(_)) => ("io", json!(value.to_string())),
            (name, _) => (name, value.clone()),
        })
    }

    /// What is watched, as it was given: whether, or a list of paths. `None` where PM2 shows nothing: what a file does
    /// not say, while options that were not typed have their defaults.
    #[must_use]
    pub fn watch_as_given(&self) -> Option<Value> {
        match self.watched() {
            Some(watch) => Some(match self.extra.get("watch") {
                Some(given) => given.clone(),
                None if watch.paths.is_empty() => json!(true),
                None => json!(watch.paths),
            }),
            None => self.source_file.is_none().then(|| json!(false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_set_is_shown_and_ids_as_numbers() {
        assert_eq!(AppSpec::default().settings(), Map::new());
        let spec = AppSpec { uid: Some("1000".to_owned()), gid: Some("www-data".to_owned()), ..AppSpec::default() };
        assert_eq!(Value::Object(spec.settings()), json!({ "uid": 1000, "gid": "www-data" }));
    }
}
