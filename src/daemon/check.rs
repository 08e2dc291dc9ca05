//! Whether a program can take over from this one: asked before anything is given up.
//!
//! Owns the question, which is all that the next program would find, in one document, and how it is put: the program
//! is run as `daemon --check-state` with the document on its standard input, and answers by its exit status. Must never
//! change anything, neither here nor there.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Daemon;
use super::keeping::{self, Record};
use super::persist::{FORMAT, Saved};
use super::spawner::Running;
use crate::node;
use crate::sys::memfd;
use crate::sys::pidfd::{self, ExitStatus};
use crate::sys::spawn::Spawn;

/// A program that has not answered within this time is none that one would want to become.
const DEADLINE: Duration = Duration::from_secs(10);
/// What it may say about its reasons.
const MAX_REASON: usize = 4096;

/// Why a state cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is no document of a daemon's state.
    #[error("cannot understand the state: {0}")]
    Foreign(serde_json::Error),
    /// A later release wrote it in a way that this one does not know.
    #[error(
        "cannot read the state of pm2rs {version}: its format {format} is newer than {}, the last one known here",
        FORMAT
    )]
    Newer {
        /// The release that wrote it.
        version: String,
        /// Its format.
        format: u32,
    },
    /// A part of it is not as it should be.
    #[error("cannot read the state of pm2rs {version}: {part}: {cause}")]
    Part {
        /// The release that wrote it.
        version: String,
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        cause: String,
    },
}

/// The document. Its parts are as they lie in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    format: u32,
    version: String,
    state: Value,
    /// Sockets and channels; `null` where nothing has been written down of them.
    node: Value,
    workers: Vec<Value>,
}

/// What is looked at before the rest, which may have another form in another release.
#[derive(Debug, Deserialize)]
struct Head {
    format: u32,
    #[serde(default)]
    version: String,
}

/// Whether this program can take over from a daemon that describes its state by `text`.
///
/// # Errors
/// See [`CheckError`].
pub fn check_state(text: &[u8]) -> Result<(), CheckError> {
    let Head { format, version } = serde_json::from_slice(text).map_err(CheckError::Foreign)?;
    if format > FORMAT {
        return Err(CheckError::Newer { version, format });
    }
    let question: Question = serde_json::from_slice(text).map_err(CheckError::Foreign)?;
    let wrong = |part, cause: String| CheckError::Part { version: version.clone(), part, cause };
    let saved: Saved =
        serde_json::from_value(question.state).map_err(|error| wrong("apps and processes", error.to_string()))?;
    if saved.format > FORMAT {
        return Err(CheckError::Newer { version, format: saved.format });
    }
    if !question.node.is_null() {
        node::check_kept(question.node).map_err(|error| wrong("sockets and channels", error.to_string()))?;
    }
    for record in question.workers {
        let _: Record = serde_json::from_value(record).map_err(|error| wrong("a worker", error.to_string()))?;
    }
    Ok(())
}

impl Daemon {
    /// What the next program is asked, sealed.
    pub(super) fn question(&self) -> anyhow::Result<OwnedFd> {
        let node = node::kept(&self.store).map(|text| serde_json::from_slice(&text)).transpose()?;
        let records = keeping::kept(&self.store).into_iter().filter_map(|worker| keeping::record(&self.store, worker));
        let question = Question {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: serde_json::to_value(self.saved())?,
            node: node.unwrap_or_default(),
            workers: records.map(serde_json::to_value).collect::<Result<_, _>>()?,
        };
        Ok(memfd::sealed("pm2rs-state", &serde_json::to_vec(&question)?)?)
    }
}

/// Asks `program` whether it can take over.
///
/// # Errors
/// Why it cannot, in its words or ours.
pub(super) async fn ask(program: &Path, question: OwnedFd) -> Result<(), String> {
    let cannot = |verb: &str, error: &dyn std::fmt::Display| format!("cannot {verb} it: {error}");
    let (reason, said) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
        .map_err(|error| cannot("hear from", &error))?;
    let mut spawn = Spawn::new(program, ["daemon", "--check-state"]);
    spawn.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    spawn.fds = vec![(question, 0), (said, 2)];
    let started = spawn.start().map_err(|error| cannot("start", &error))?;
    let child = started.release(DEADLINE).await.map_err(|error| cannot("start", &error))?;
    let running = Running(child);
    let status = match tokio::time::timeout(DEADLINE, pidfd::wait(running.pidfd())).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(cannot("wait for", &error)),
        Err(_) => return Err(format!("it did not say within {} s whether it can take over", DEADLINE.as_secs())),
    };
    if status == ExitStatus::Code(0) {
        return Ok(());
    }
    let mut text = vec![0; MAX_REASON];
    // Not waited for: what it had to say has been said, and somebody else may hold the pipe.
    let length = File::from(reason).read(&mut text).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]);
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        // As the command line begins its complaints.
        Some(line) => Err(line.trim().trim_start_matches("[PM2][ERROR] ").to_owned()),
        None => Err(format!("it cannot take over ({status})")),
    }
}
