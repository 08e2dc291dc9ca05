//! set, multiset, get, conf, unset: PM2's store of settings, `module_conf.json` in the home folder.
//!
//! A key is `app:key` (or `app.key`), or a single word. Values are text. An app of the name is restarted with its
//! settings in its environment, as PM2 does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::api::UpdateDict;
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::config::HomeFile;

/// Keys that would reach into an object's prototype where a Node program reads the file.
const REFUSED: [&str; 3] = ["__proto__", "constructor", "prototype"];

/// The file, read.
struct Store {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Store {
    fn open(session: &Session) -> Result<Store, Failure> {
        let path = HomeFile::Settings.here(&session.choice.home);
        let values = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| Failure::error(format!("cannot read `{}`: {error}", path.display())))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(Failure::error(format!("cannot read `{}`: {error}", path.display()))),
        };
        Ok(Store { path, values })
    }

    /// Written beside and renamed: a reader never sees half of it.
    fn write(&self) -> Result<(), Failure> {
        let cannot = |error: std::io::Error| Failure::error(format!("cannot write `{}`: {error}", self.path.display()));
        let folder = self.path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(cannot)?;
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        let text = serde_json::to_string_pretty(&self.values).map_err(|error| cannot(error.into()))?;
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(cannot)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)?;
        fs::rename(&new, &self.path).map_err(cannot)
    }

    fn set(&mut self, key: &Key<'_>, value: &str) {
        let value = Value::String(value.to_owned());
        match key {
            Key::Single(word) => {
                self.values.insert((*word).to_owned(), value);
            }
            Key::OfApp(app, word) => {
                let entry = self.values.entry((*app).to_owned()).or_insert_with(|| Value::Object(Map::new()));
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                if let Some(of_app) = entry.as_object_mut() {
                    of_app.insert((*word).to_owned(), value);
                }
            }
        }
    }
}

/// Whether the list is followed by what the machine does: PM2's `pm2:sysmonit`, on unless set to `false`.
pub fn shows_host_metrics(session: &Session) -> bool {
    Store::open(session).ok().and_then(|store| Some(store.values.get("pm2")?["sysmonit"] == "false")) != Some(true)
}

/// A key as typed, taken apart.
enum Key<'a> {
    Single(&'a str),
    OfApp(&'a str, &'a str),
}

impl Key<'_> {
    fn read(typed: &str) -> Result<Key<'_>, Failure> {
        let parts = typed.split_once(':').or_else(|| typed.split_once('.'));
        let key = parts.map_or(Key::Single(typed), |(app, word)| Key::OfApp(app, word));
        let words = match key {
            Key::Single(word) => [word, word],
            Key::OfApp(app, word) => [app, word],
        };
        if words.iter().any(|word| word.is_empty() || REFUSED.contains(word)) {
            return Err(Failure::error(format!("`{typed}` is no key")));
        }
        Ok(key)
    }
}

/// `set KEY VALUE` and `conf KEY VALUE`; without a value the settings of that app, or all.
///
/// # Errors
/// For a wrong key, or when the store cannot be written.
pub async fn set(session: &Session, key: Option<&str>, value: Option<&str>) -> Result<(), Failure> {
    let Some(typed) = key else { return get(session, None) };
    let Some(value) = value else {
        let store = Store::open(session)?;
        let app = typed.split([':', '.']).next().filter(|app| store.values.contains_key(*app));
        show(session, &store, app);
        return Ok(());
    };
    let key = Key::read(typed)?;
    let mut store = Store::open(session)?;
    store.set(&key, value);
    store.write()?;
    session.console.info("Setting changed");
    if let Key::OfApp(app, _) = key {
        hand_on(session, &store, app).await?;
    }
    show(session, &store, Some(typed.split([':', '.']).next().unwrap_or(typed)));
    Ok(())
}

/// Restarts the app of this name, if there is one, with its settings in its environment.
async fn hand_on(session: &Session, store: &Store, app: &str) -> Result<(), Failure> {
    let Some(client) = session.choice.find().await? else { return Ok(()) };
    if !session.rows(&client).await?.iter().any(|row| row.name == app) {
        return Ok(());
    }
    let Some(Value::Object(of_app)) = store.values.get(app) else { return Ok(()) };
    let mut env: BTreeMap<String, String> =
        of_app.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    env.insert(app.to_owned(), Value::Object(of_app.clone()).to_string());
    let update = UpdateDict { env: Some(env), ..UpdateDict::default() };
    let job = client.manager().restart(&[app], &update).await?;
    session.finish(&client, &format!("restart {app}"), &job).await?;
    session.console.info(format!("Module {app} restarted"));
    Ok(())
}

/// `multiset "KEY VALUE KEY VALUE"`.
///
/// # Errors
/// For a wrong key, a key without a value, or when the store cannot be written.
pub async fn multiset(session: &Session, pairs: &str) -> Result<(), Failure> {
    let words = shell_words::split(pairs).map_err(|error| Failure::error(format!("cannot read `{pairs}`: {error}")))?;
    if words.is_empty() || words.len() % 2 != 0 {
        return Err(Failure::error(format!("`{pairs}` is not a list of keys and values")));
    }
    for pair in words.chunks_exact(2) {
        Key::read(&pair[0])?;
    }
    for pair in words.chunks_exact(2) {
        set(session, Some(&pair[0]), Some(&pair[1])).await?;
    }
    Ok(())
}

/// `get [KEY]`: a value, those of an app, or all.
///
/// # Errors
/// For an unknown key.
pub fn get(session: &Session, key: Option<&str>) -> Result<(), Failure> {
    let store = Store::open(session)?;
    if session.options.json {
        let unknown = |typed: &str| Failure::error(format!("Unknown key {typed}"));
        let all = Value::Object(store.values.clone());
        let found = match key.filter(|key| *key != "all") {
            None => Some(&all),
            Some(typed) => match Key::read(typed)? {
                Key::Single(word) => all.get(word),
                Key::OfApp(app, word) => all.get(app).and_then(|of_app| of_app.get(word)),
            },
        };
        session.console.answer(&format!("{}\n", found.ok_or_else(|| unknown(key.unwrap_or_default()))?));
        return Ok(());
    }
    let Some(typed) = key.filter(|key| *key != "all") else {
        show(session, &store, None);
        return Ok(());
    };
    let unknown = || Failure::error(format!("Unknown key {typed}"));
    match Key::read(typed)? {
        Key::OfApp(app, word) => {
            let value = store.values.get(app).and_then(|of_app| of_app[word].as_str()).ok_or_else(unknown)?;
            session.console.answer(&format!("Value for module {app} key {word}: {value}\n"));
        }
        Key::Single(word) => match store.values.get(word).ok_or_else(unknown)? {
            Value::Object(_) => show(session, &store, Some(word)),
            value => {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                session.console.answer(&format!("Value for key {word}: {value}\n"));
            }
        },
    }
    Ok(())
}

/// `unset KEY|all`.
///
/// # Errors
/// For what is no key, or when the store cannot be written.
pub fn unset(session: &Session, typed: &str) -> Result<(), Failure> {
    let mut store = Store::open(session)?;
    let removed = if typed == "all" {
        store.values.clear();
        true
    } else {
        match Key::read(typed)? {
            Key::Single(word) => store.values.shift_remove(word).is_some(),
            Key::OfApp(app, word) => store
                .values
                .get_mut(app)
                .and_then(Value::as_object_mut)
                .is_some_and(|of_app| of_app.shift_remove(word).is_some()),
        }
    };
    if !removed {
        // What is to be gone is gone: no error, as in PM2.
        session.console.warn(format!("Unknown key {typed}"));
        show(session, &store, None);
        return Ok(());
    }
    store.write()?;
    session.console.info(format!("Setting {typed} removed"));
    show(session, &store, None);
    Ok(())
}

/// The settings as commands that would make them; of one app or key, or all.
fn show(session: &Session, store: &Store, only: Option<&str>) {
    for (name, value) in store.values.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        match value {
            Value::Object(of_app) => {
                session.console.answer(&format!("Module: {name}\n"));
                for (key, value) in of_app {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    session.console.answer(&format!("$ pm2 set {name}:{key} {value}\n"));
                }
            }
            value => {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                session.console.answer(&format!("$ pm2 set {name} {value}\n"));
            }
        }
    }
}
