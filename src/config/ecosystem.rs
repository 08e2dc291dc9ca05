//! A configuration file's content: its apps with canonical keys, not yet resolved against the machine.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::error::{ConfigError, Place, Warning};
use super::keys;

/// More apps than this in one file are no configuration but an accident of the code that made it.
const MAX_APPS: usize = 4096;

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ecosystem {
    /// The file, absolute; none for standard input.
    pub file: Option<PathBuf>,
    /// Its apps, in its order.
    pub apps: Vec<AppEntry>,
    /// What comes to nothing in it.
    pub warnings: Vec<Warning>,
    /// Its part for `deploy`, as written.
    pub deploy: Option<Value>,
}

/// An app as a file has it: canonical keys and checked values.
#[derive(Clone, PartialEq)]
pub struct AppEntry {
    pub(super) keys: Map<String, Value>,
    pub(super) place: Place,
    pub(super) file: Option<PathBuf>,
    /// The file's `deploy`, whose environments lie below `env`.
    pub(super) deploy: Option<Arc<Value>>,
}

impl Ecosystem {
    /// Reads what a file's text or code came to. `shown` is the file as the user named it.
    ///
    /// # Errors
    /// When there is no app in it or a key of an app is wrong; the whole file is refused then.
    pub fn from_value(value: Value, file: Option<&Path>, shown: &str) -> Result<Ecosystem, ConfigError> {
        let no_apps = || ConfigError::NoApps { file: shown.to_owned() };
        let (mut entries, deploy, sites) = match value {
            Value::Array(entries) => (entries, None, Vec::new()),
            Value::Object(mut top) => {
                let sites = match top.remove("static") {
                    Some(Value::Array(sites)) => sites,
                    Some(site @ Value::Object(_)) => vec![site],
                    _ => Vec::new(),
                };
                let deploy = top.remove("deploy").filter(Value::is_object);
                let entries = match top.remove("apps").or_else(|| top.remove("pm2")) {
                    Some(Value::Array(entries)) => entries,
                    Some(Value::Object(mut inner)) => match inner.remove("apps") {
                        Some(Value::Array(entries)) => entries,
                        _ => vec![Value::Object(inner)],
                    },
                    Some(_) => return Err(no_apps()),
                    None if top.keys().any(|name| keys::find(name).is_some_and(|key| key.name == "script")) => {
                        vec![Value::Object(top)]
                    }
                    None if !sites.is_empty() || deploy.is_some() => Vec::new(),
                    None => return Err(no_apps()),
                };
                (entries, deploy, sites)
            }
            _ => return Err(no_apps()),
        };
        if entries.len() > MAX_APPS {
            return Err(ConfigError::Malformed {
                file: shown.to_owned(),
                message: format!("{} apps, more than {MAX_APPS}", entries.len()),
            });
        }
        entries.extend(sites.iter().map(static_site));
        let mut ecosystem =
            Ecosystem { file: file.map(Path::to_owned), deploy: deploy.clone(), ..Ecosystem::default() };
        let deploy = deploy.map(Arc::new);
        for (number, entry) in entries.into_iter().enumerate() {
            // `apps: [condition && {…}]` leaves these behind.
            if matches!(entry, Value::Null | Value::Bool(false)) {
                continue;
            }
            ecosystem.add(&entry, number, shown, deploy.as_ref())?;
        }
        ecosystem.warn_of_same_names();
        Ok(ecosystem)
    }

    fn add(
        &mut self,
        entry: &Value,
        number: usize,
        shown: &str,
        deploy: Option<&Arc<Value>>,
    ) -> Result<(), ConfigError> {
        let place = |app: String| Place { file: Some(shown.to_owned()), app: Some(app) };
        let Some(written) = entry.as_object() else {
            let problem = "Expect an app to be an object".to_owned();
            return Err(ConfigError::Key { place: place((number + 1).to_string()), problem });
        };
        let name = display_name(written).unwrap_or_else(|| (number + 1).to_string());
        let canonical =
            keys::canonicalise(written).map_err(|problem| ConfigError::Key { place: place(name.clone()), problem })?;
        let place = place(name);
        self.warnings.extend(canonical.warnings.into_iter().map(|said| Warning(format!("{said}{place}"))));
        if canonical.keys.get("script").and_then(Value::as_str).is_none_or(|script| script.trim().is_empty()) {
            return Err(ConfigError::NoScript { place });
        }
        self.apps.push(AppEntry { keys: canonical.keys, place, file: self.file.clone(), deploy: deploy.cloned() });
        Ok(())
    }

    fn warn_of_same_names(&mut self) {
        let mut seen = BTreeSet::new();
        let twice: BTreeSet<String> =
            self.apps.iter().map(AppEntry::name).filter(|name| !seen.insert(name.clone())).collect();
        self.warnings.extend(twice.iter().map(|name| Warning(format!("several apps are named `{name}`"))));
    }

    /// The apps that `--only` names, separated by commas or spaces; all without it.
    #[must_use]
    pub fn only(&self, names: Option<&str>) -> Vec<&AppEntry> {
        let names = names.map(super::units::list);
        self.apps.iter().filter(|app| names.as_ref().is_none_or(|names| names.contains(&app.name()))).collect()
    }
}

impl fmt::Debug for AppEntry {
    /// Without its values, among which secrets are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppEntry").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl AppEntry {
    /// Its name: the one given, else its script's without folder and extension.
    #[must_use]
    pub fn name(&self) -> String {
        display_name(&self.keys).unwrap_or_default()
    }

    /// A value in its normal form, by canonical key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }
}

/// The name that an entry will have, as far as its keys tell.
fn display_name(keys: &Map<String, Value>) -> Option<String> {
    if let Some(Value::String(name)) = keys.get("name") {
        return Some(name.clone());
    }
    let script = keys.iter().find(|(name, _)| keys::find(name).is_some_and(|key| key.name == "script"))?;
    script.1.as_str().map(default_name)
}

/// PM2's default name: the script without its folder and its last extension. Of a script of many lines, the first of
/// them and no more than fits on a line.
pub(super) fn default_name(script: &str) -> String {
    let line = script.trim().lines().next().unwrap_or_default();
    let base = line.trim_end_matches('/').rsplit('/').next().unwrap_or(line);
    let stem = base.rsplit_once('.').map(|(stem, _)| stem).filter(|stem| !stem.is_empty()).unwrap_or(base);
    stem.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// The app that serves an entry of `static`: PM2's names of what the server of static files is told.
fn static_site(site: &Value) -> Value {
    let Some(site) = site.as_object() else { return site.clone() };
    let port = site.get("port").cloned().unwrap_or_else(|| json!(8080));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut env = Map::from_iter([("PM2_SERVE_PORT".to_owned(), json!(text(&port)))]);
    let auth = site.get("basic_auth");
    let variables = [
        ("HOST", site.get("host")),
        ("PATH", Some(site.get("path").unwrap_or(&Value::Null))),
        ("SPA", site.get("spa")),
        ("FTP", site.get("ftp").or_else(|| site.get("directory"))),
        ("BASIC_AUTH_USERNAME", auth.and_then(|auth| auth.get("username"))),
        ("BASIC_AUTH_PASSWORD", auth.and_then(|auth| auth.get("password"))),
    ];
    for (name, value) in variables {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            env.insert(format!("PM2_SERVE_{name}"), json!(text(value)));
        }
    }
    if auth.is_some_and(Value::is_object) {
        env.insert("PM2_SERVE_BASIC_AUTH".to_owned(), json!("true"));
    }
    let name = site.get("name").cloned().unwrap_or_else(|| json!(format!("static-page-server-{}", text(&port))));
    json!({ "name": name, "script": "serve", "env": env })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_script() {
        let table = [
            ("app.js", "app"),
            ("./dist/src/main.js", "main"),
            ("/srv/api/server.min.js", "server.min"),
            ("npm", "npm"),
            ("echo hi; sleep 100", "echo hi; sleep 100"),
            ("/srv/site/", "site"),
            (".hidden", ".hidden"),
            ("set -e\nexec ./run", "set -e"),
        ];
        for (script, name) in table {
            assert_eq!(default_name(script), name, "{script}");
        }
    }
}
