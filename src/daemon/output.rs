//! Requests about apps' output, and what the log path tells of itself.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::accounts;
use super::handle::{Caller, LogRequest, Reply};
use super::requests::answer;
use super::saying::{Row, about};
use super::{Daemon, panics};
use crate::api::Error;
use crate::core::{JobOutcome, ProcessId};
use crate::logs::{Known, LogEvent, Search, Whose, message_ids};

/// Lines of each process that one request may ask for.
const MAX_LINES: u32 = 100_000;
/// A regular expression from a caller compiles to at most so many bytes.
const PATTERN_SIZE: usize = 1 << 20;
/// Between two lines in our own log about the same trouble.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Lines of a failed worker's standard error that its job's message carries.
const LAST_WORDS: u32 = 10;

impl Daemon {
    pub(super) fn open_logs(&self, caller: &Caller, request: LogRequest, reply: Reply<OwnedFd>) {
        let LogRequest { targets, lines, follow, out, err, since, until, grep } = request;
        let whose = match targets.iter().any(|target| target == "all") || targets.is_empty() {
            // What is started later is to be seen, too; so there need be nothing yet.
            true => Ok(Whose::All((!caller.controls_everything()).then_some(caller.uid))),
            false => self.resolve(caller, &targets).map(Whose::Processes),
        };
        let pattern = grep.map(|grep| {
            let built = regex::bytes::RegexBuilder::new(&grep).size_limit(PATTERN_SIZE).build();
            built.map_err(|_| Error::InvalidArgument(format!("`{grep}` is not a valid regular expression")))
        });
        let (whose, pattern) = match (whose, pattern.transpose()) {
            (Ok(whose), Ok(pattern)) => (whose, pattern),
            (Err(error), _) | (_, Err(error)) => return answer(reply, Err(error)),
        };
        if follow && (since.is_some() || until.is_some() || pattern.is_some()) {
            let text = "what is yet to come cannot be searched: `follow` goes without `since`, `until` and `grep`";
            return answer(reply, Err(Error::InvalidArgument(text.to_owned())));
        }
        let lines = lines.min(MAX_LINES);
        let (logs, reader) = (self.logs.clone(), caller.uid);
        tokio::spawn(async move {
            let opened = if follow {
                logs.follow(reader, whose, lines, out, err).await
            } else {
                logs.search(reader, whose, Search { lines, out, err, since, until, pattern }).await
            };
            answer(reply, opened.map_err(|error| Error::Failed(format!("cannot open the logs: {error}"))));
        });
    }

    pub(super) fn flush_logs(&self, caller: &Caller, targets: &[String], reply: Reply<()>) {
        let all = ["all".to_owned()];
        let targets = if targets.is_empty() { &all } else { targets };
        let processes = match self.resolve(caller, targets) {
            Ok(processes) => processes,
            Err(Error::NoProcess) => Vec::new(),
            Err(error) => return answer(reply, Err(error)),
        };
        let logs = self.logs.clone();
        tokio::spawn(async move {
            panics::at("flush");
            let problems = logs.flush(processes).await;
            answer(reply, if problems.is_empty() { Ok(()) } else { Err(Error::Failed(problems.join("; "))) });
        });
    }

    pub(super) fn reopen_logs(&self, caller: &Caller, reply: Reply<()>) {
        let logs = self.logs.clone();
        let owner = if caller.controls(self.owner) { None } else { Some(caller.uid) };
        tokio::spawn(async move {
            logs.reopen(owner).await;
            answer(reply, Ok(()));
        });
    }

    /// A row is new or has another spec: its files can be asked for though it never ran under this daemon.
    pub(super) fn make_logs_known(&self, process: ProcessId) {
        let Some(app) = self.fleet.process(process).and_then(|row| self.fleet.app(row.app)) else { return };
        let Some(spec) = self.fleet.spec_of_process(process).cloned() else { return };
        let (app, app_name, app_owner, logs) = (app.id, app.name().to_owned(), app.owner, self.logs.clone());
        tokio::spawn(async move {
            if let Ok(identity) = accounts::of_worker(app_owner, &spec).await {
                logs.know(Known { process, app, app_name, app_owner, identity, spec });
            }
        });
    }

    /// A job failed because of a process: what that process wrote last belongs into the answer.
    pub(super) fn with_last_words(&self, job: crate::core::JobId, process: ProcessId, message: String) {
        let (logs, facts) = (self.logs.clone(), self.facts.clone());
        tokio::spawn(async move {
            let lines = logs.tail(process, true, LAST_WORDS).await;
            let mut message = message;
            for line in lines {
                message.push_str("\n    ");
                message.push_str(&line);
            }
            let outcome = JobOutcome::Failed { process: Some(process), message };
            drop(facts.send(super::facts::Fact::JobEnded(job, outcome)));
        });
    }

    /// Takes what the log path has to say: counts what was lost, and says so.
    pub(super) fn on_log_event(&mut self, event: LogEvent) {
        match event {
            LogEvent::Dropped { process, lines, reason } => self.on_dropped(process, lines, reason),
            LogEvent::Waiting { process, reason } => self.on_waiting(process, reason),
            LogEvent::Recovered { process, lines } => self.on_recovered(process, lines),
            LogEvent::Suppressed { unit, lines } => self.on_suppressed(&unit, lines),
        }
    }

    fn on_dropped(&mut self, process: ProcessId, lines: u64, reason: String) {
        let loss = self.losses.entry(process).or_default();
        loss.lines = loss.lines.saturating_add(lines);
        loss.unsaid = loss.unsaid.saturating_add(lines);
        self.persist.note_change();
        if loss.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            let lines = std::mem::take(&mut loss.unsaid);
            let row = Row::of(&self.fleet, process);
            about!(
                warn,
                message_ids::LINES_DROPPED,
                row.app,
                row.process,
                lines,
                reason,
                "{row} log lines are being dropped"
            );
            loss.said = Some(Instant::now());
        }
        loss.reason = Some(reason);
    }

    fn on_waiting(&mut self, process: ProcessId, reason: String) {
        let row = Row::of(&self.fleet, process);
        about!(
            warn,
            message_ids::LINES_WAIT,
            row.app,
            row.process,
            reason,
            "{row} log lines cannot be written and wait"
        );
        self.losses.entry(process).or_default().reason = Some(reason);
    }

    fn on_recovered(&mut self, process: ProcessId, lines: u64) {
        let row = Row::of(&self.fleet, process);
        about!(info, message_ids::LINES_KEPT_AGAIN, row.app, row.process, lines, "{row} log lines are kept again");
        match self.losses.get_mut(&process) {
            Some(loss) if loss.lines > 0 => *loss = Loss { lines: loss.lines, ..Loss::default() },
            _ => drop(self.losses.remove(&process)),
        }
    }

    fn on_suppressed(&mut self, unit: &str, lines: u64) {
        self.suppressed = self.suppressed.saturating_add(lines);
        let all = self.suppressed;
        tracing::warn!(
            MESSAGE_ID = message_ids::SUPPRESSED,
            unit,
            lines,
            all,
            "journald dropped lines, for there were too many"
        );
    }
}

/// What of a process's output was lost.
#[derive(Debug, Default)]
pub(super) struct Loss {
    /// Lines in all.
    pub(super) lines: u64,
    /// Why they are being lost just now.
    pub(super) reason: Option<String>,
    unsaid: u64,
    said: Option<Instant>,
}

impl Loss {
    /// What a process had lost under the daemon before.
    pub(super) fn of_before(lines: u64) -> Loss {
        Loss { lines, ..Loss::default() }
    }
}
