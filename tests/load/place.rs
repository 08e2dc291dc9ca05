//! A home folder with its private daemon and a folder for apps, as a test sees them: by commands and by what serves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::{Call, pm2rs};

/// Long enough for a machine that builds at the same time.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// How many reloads a test makes: `PM2RS_RELOADS`, or 3.
pub fn reloads() -> usize {
    std::env::var("PM2RS_RELOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// The program of this major version, `None` (and a word about it) when it is not installed.
pub fn node(major: u32) -> Option<PathBuf> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    installed(&format!("node-{major}-{arch}/bin/node"), &format!("Node {major}"))
}

/// Whether this package is installed; says so if not.
pub fn has_package(name: &str) -> bool {
    installed(name, name).is_some()
}

fn installed(path: &str, what: &str) -> Option<PathBuf> {
    let path = tests().join("npm/node_modules").join(path);
    if !path.exists() {
        eprintln!("SKIPPED: {what} is not installed; run `tests/setup npm`");
        return None;
    }
    Some(path)
}

pub struct Place {
    home: tempfile::TempDir,
    apps: tempfile::TempDir,
    pub port: u16,
}

impl Place {
    pub fn new() -> Place {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Place { home: tempfile::tempdir().unwrap(), apps: tempfile::tempdir().unwrap(), port }
    }

    pub fn call(&self, line: &str) -> Call {
        let patient = format!("--require=\"{}\"", tests().join("load/patient.cjs").display());
        let call = pm2rs(line).home(self.home.path()).cwd(self.apps.path());
        call.env("PORT", &self.port.to_string()).env("NODE_OPTIONS", &patient)
    }

    /// Writes an app, or its next release.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.apps.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn http(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn list(&self) -> Vec<Value> {
        let ended = self.call("jlist").ok();
        serde_json::from_str(&ended.stdout()).unwrap_or_else(|error| panic!("jlist is no JSON: {error}: {ended}"))
    }

    /// The pids in the order of the rows.
    pub fn pids(&self) -> Vec<u32> {
        self.list().iter().map(|row| u32::try_from(row["pid"].as_u64().unwrap()).unwrap()).collect()
    }

    /// Waits until the list is as wanted.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let end = Instant::now() + DEADLINE;
        loop {
            let list = self.list();
            if wanted(&list) {
                return list;
            }
            assert!(Instant::now() < end, "not {what}: {list:#?}");
        }
    }

    /// Waits until so many rows are online.
    #[track_caller]
    pub fn until_online(&self, count: usize) {
        self.until("online", |list| list.len() == count && list.iter().all(|row| row["pm2_env"]["status"] == "online"));
    }

    /// Starts an app, a cluster of two of `app.js` but for what these keys of a configuration file say, and waits until all
    /// are online and the port takes connections.
    ///
    /// PM2's `online` says that Node runs; an app that loads for a while listens only later.
    #[track_caller]
    pub fn start(&self, keys: &Value) {
        // Clients that a slow machine holds up have a minute to hear that their connections end.
        let mut app = json!({
            "name": "app", "script": "app.js", "instances": 2, "exec_mode": "cluster", "drain_timeout": 60_000,
        });
        app.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        self.write("ecosystem.json", &json!({ "apps": [app] }).to_string());
        self.call("start ecosystem.json").ok();
        self.until_online(usize::try_from(app["instances"].as_u64().unwrap()).unwrap());
        let end = Instant::now() + DEADLINE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < end, "nobody listens on {}: {:#?}", self.port, self.list());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reloads, however slow the machine; everything must be new afterwards.
    #[track_caller]
    pub fn reload(&self) {
        let before: BTreeSet<u32> = self.pids().into_iter().collect();
        self.call("reload app --listen-timeout 60000").ok();
        let after: BTreeSet<u32> = self.pids().into_iter().collect();
        assert!(before.is_disjoint(&after), "a reload left workers: {before:?} {after:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.call("kill").run();
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.home.path().join("pm2.log"))
        {
            eprintln!("-- the daemon's log\n{log}");
        }
    }
}
