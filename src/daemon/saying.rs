//! How the daemon says something about a process in its own log, so that the journal can select by it and explain it.

use std::fmt;

use crate::core::{App, Fleet, ProcessId, WorkerId};

/// A row as far as it is known: what lines about it begin with, and the fields `app` and `process` of [`about!`].
pub(super) struct Row<'a> {
    pub(super) app: Option<&'a str>,
    pub(super) process: Option<u32>,
}

impl<'a> Row<'a> {
    pub(super) fn of(fleet: &'a Fleet, process: ProcessId) -> Row<'a> {
        let app = fleet.process(process).and_then(|row| fleet.app(row.app)).map(App::name);
        Row { app, process: Some(process.0) }
    }

    /// The one that a worker serves.
    pub(super) fn of_worker(fleet: &'a Fleet, worker: WorkerId) -> Row<'a> {
        fleet.worker(worker).map_or(Row { app: None, process: None }, |worker| Row::of(fleet, worker.process))
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.app, self.process) {
            (Some(app), Some(process)) => write!(f, "App [{app}:{process}]"),
            (None, Some(process)) => write!(f, "Process {process}"),
            (_, None) => f.write_str("A worker"),
        }
    }
}

/// Logs at a level with what every line about a process bears: `about!(warn, MESSAGE_ID, app, process, "text")`, with
/// further fields before the text. A field that is `None` is left out.
///
/// `APP_NAME` and `APP_PROCESS` are there for the message catalog alone: journalctl(1) puts a field in for `@FIELD@`
/// only if its name has nothing but capitals and underscores, so not `PM2RS_APP`.
macro_rules! about {
    ($level:ident, $message_id:expr, $app:expr, $process:expr, $($rest:tt)+) => {{
        let (app, process) = ($app, $process);
        tracing::$level!(
            MESSAGE_ID = $message_id,
            PM2RS_APP = app,
            APP_NAME = app,
            PM2RS_PROCESS = process,
            APP_PROCESS = process,
            $($rest)+
        )
    }};
}

pub(super) use about;
