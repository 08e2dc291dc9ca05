//! Load from clients that never retry (client.js), and what became of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde::Deserialize;

use crate::place::tests;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Connections are kept.
    Keep,
    /// A connection for each request.
    Once,
}

/// Clients at work.
pub struct Load {
    child: Child,
    lines: BufReader<ChildStdout>,
}

/// What they counted.
#[derive(Debug, Deserialize)]
pub struct Report {
    pub ok: u64,
    pub failed: BTreeMap<String, u64>,
    pub failures: Vec<Failure>,
    pub latency: Latency,
    /// Answers by the pid that gave them.
    pub answers: BTreeMap<u32, u64>,
}

/// A failed request.
#[derive(Debug, Deserialize)]
#[allow(dead_code)] // Some is only shown.
pub struct Failure {
    pub kind: String,
    /// Milliseconds since the load began.
    pub at: u64,
    pub ms: u64,
    pub reused: bool,
    /// Who answered on its connection before, or 0.
    pub pid: u32,
    pub message: String,
}

/// Milliseconds.
#[derive(Debug, Deserialize)]
#[allow(dead_code)] // Some is only shown.
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Load {
    /// Begins; returns once every client has been answered.
    ///
    /// A client pauses between two requests for `PM2RS_THINK` milliseconds, or 30: most connections are idle then, which is
    /// when others lose requests, and the machine has time for what else is tested. 0 asks as fast as answers come.
    #[track_caller]
    pub fn start(url: &str, mode: Mode, clients: usize) -> Load {
        let mode = if mode == Mode::Keep { "keep" } else { "once" };
        let think = std::env::var("PM2RS_THINK").unwrap_or_else(|_| "30".into());
        let mut child = Command::new("node")
            .arg(tests().join("load/client.js"))
            .args([url, "--mode", mode, "--clients", &clients.to_string(), "--think", &think, "--timeout", "60000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut load = Load { child, lines };
        assert!(load.line().contains("running"), "the load did not begin");
        load
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    /// Ends it, after the requests under way.
    #[track_caller]
    pub fn stop(mut self) -> Report {
        drop(self.child.stdin.take());
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("no report: {error}: {line}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Report {
    pub fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Not one request may have failed.
    #[track_caller]
    pub fn lost_nothing(&self, what: &str) {
        eprintln!("{what}: {} requests, {} failed, {:?} ms", self.ok, self.failed(), self.latency);
        assert!(self.failed() == 0 && self.ok > 0, "{what}: {self:#?}");
    }
}
