//! The log path with a folder of its own, and workers that are pipes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pm2rs::core::{AppId, AppSpec, ProcessId, Uid, WorkerId};
use pm2rs::logs::{LogEvent, Logs, LogsConfig, Source};
use pm2rs::sys::identity::Identity;
use tokio::sync::mpsc::Receiver;

pub const DEADLINE: Duration = Duration::from_secs(60);

/// Whose the apps are.
pub const OWNER: Uid = Uid(70_000);

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub logs: Logs,
    pub events: Receiver<LogEvent>,
    /// Who the apps run as.
    pub identity: Identity,
}

pub struct Pipes {
    pub worker: WorkerId,
    pub out: Option<PipeWriter>,
    pub err: Option<PipeWriter>,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut LogsConfig)) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let mut config = LogsConfig::new(false, dir.path().join("own"));
        config.journal_socket = dir.path().join("journal");
        change(&mut config);
        let (logs, events) = Logs::start(config);
        Rig { dir, logs, events, identity: Identity::own().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn spec(&self, change: impl FnOnce(&mut AppSpec)) -> Arc<AppSpec> {
        let mut spec = AppSpec { name: "api".to_owned(), ..AppSpec::default() };
        spec.log.out_file = Some(self.path("logs/api-out.log"));
        spec.log.error_file = Some(self.path("logs/api-error.log"));
        change(&mut spec);
        Arc::new(spec)
    }

    pub fn attach(&self, worker: u32, process: u32, spec: &Arc<AppSpec>) -> Pipes {
        let (out_read, out) = std::io::pipe().unwrap();
        let (err_read, err) = std::io::pipe().unwrap();
        self.read(worker, process, spec, out_read.into(), err_read.into());
        Pipes { worker: WorkerId(worker), out: Some(out), err: Some(err) }
    }

    pub fn read(&self, worker: u32, process: u32, spec: &Arc<AppSpec>, stdout: OwnedFd, stderr: OwnedFd) {
        self.logs.attach(Source {
            worker: WorkerId(worker),
            process: ProcessId(process),
            app: AppId(1),
            app_name: spec.name.clone(),
            app_owner: OWNER,
            namespace: "default".to_owned(),
            instance: 0,
            pid: 1000 + worker,
            unit: None,
            identity: self.identity.clone(),
            spec: spec.clone(),
            stdout,
            stderr,
        });
    }

    pub async fn end(&self, mut pipes: Pipes) {
        pipes.out.take();
        pipes.err.take();
        tokio::time::timeout(DEADLINE, self.logs.detach(pipes.worker)).await.unwrap();
    }

    pub async fn any_event(&mut self) -> LogEvent {
        tokio::time::timeout(DEADLINE, self.events.recv()).await.unwrap().unwrap()
    }

    /// Without those that come first on a slow machine only, where lines wait for long before some are lost.
    pub async fn event(&mut self) -> LogEvent {
        loop {
            match self.any_event().await {
                LogEvent::Waiting { .. } => {}
                event => return event,
            }
        }
    }
}

impl Pipes {
    pub fn out(&mut self, bytes: &[u8]) {
        self.out.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub fn err(&mut self, bytes: &[u8]) {
        self.err.as_mut().unwrap().write_all(bytes).unwrap();
    }
}

pub fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

/// Waits until the file is as wanted.
pub async fn until(path: &Path, wanted: impl Fn(&str) -> bool) -> String {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        if wanted(&text) {
            return text;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}: {text}", path.display());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn records(pipe: OwnedFd) -> impl Iterator<Item = serde_json::Value> {
    BufReader::new(File::from(pipe)).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

pub fn messages(pipe: OwnedFd, count: usize) -> Vec<String> {
    records(pipe).take(count).map(|record| record["message"].as_str().unwrap().to_owned()).collect()
}
