//! What restarts a process besides its own end and people: `cron_restart`, `max_memory_restart`, changed files.
//!
//! Finds out when, never how: the core decides what a trigger means for a row that is stopped or being reloaded.
//! Costs nothing for apps that use none of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Zoned;
use tracing::info;

use super::watching::Watching;
use super::{Daemon, now};
use crate::core::{AppId, AppSpec, Event, ExecMode, ProcessId, RestartCause, State, Time, WatchSpec};

/// Memory of apps with a limit is looked at so often (ms).
const MEMORY_INTERVAL: u64 = 1000;
/// Changes that come closer together than this (ms) are one.
const SETTLE: u64 = 200;
/// And no longer than this after the first (ms): an app that writes into what is watched all the time is restarted all the
/// same, which tells its user what is wrong, as PM2 does.
const UNSETTLED: u64 = 5000;

/// Everything that may trigger a restart.
#[derive(Debug, Default)]
pub(super) struct Triggers {
    cron: BTreeMap<ProcessId, (Cron, String, Time)>,
    memory: Option<Time>,
    watches: BTreeMap<AppId, Watch>,
    changed: BTreeMap<AppId, Change>,
}

/// An app's files changed, and may go on to.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    /// When the restart is due.
    due: Time,
    since: Time,
    /// What changed first.
    path: PathBuf,
}

/// The watcher of one app; dropping it ends it.
#[derive(Debug)]
struct Watch {
    spec: WatchSpec,
    cwd: PathBuf,
    _watching: Watching,
}

impl Triggers {
    /// When something is due.
    pub(super) fn next(&self) -> Option<Time> {
        let cron = self.cron.values().map(|(_, _, at)| *at);
        let changed = self.changed.values().map(|change| change.due);
        cron.chain(changed).chain(self.memory).min()
    }

    /// Takes notice of a row as it is now.
    fn follow_cron(&mut self, process: ProcessId, pattern: Option<&str>) {
        let Some(pattern) = pattern else {
            self.cron.remove(&process);
            return;
        };
        if self.cron.get(&process).is_some_and(|(_, known, _)| known == pattern) {
            return;
        }
        let parser =
            CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).sloppy_ranges(true).build();
        // Patterns are checked when a spec comes in.
        if let Ok(cron) = parser.parse(pattern) {
            let at = next_time(&cron);
            self.cron.insert(process, (cron, pattern.to_owned(), at));
        }
    }

    /// When each process is restarted by its pattern next.
    pub(super) fn scheduled(&self) -> BTreeMap<ProcessId, Time> {
        self.cron.iter().map(|(process, (_, _, at))| (*process, *at)).collect()
    }

    /// What came due while no daemon was there is made up for, once.
    pub(super) fn go_on_with(&mut self, scheduled: &BTreeMap<ProcessId, Time>) {
        for (process, (_, _, at)) in &mut self.cron {
            *at = scheduled.get(process).map_or(*at, |before| *before.min(at));
        }
    }

    /// The clock that patterns are about was set: what was planned by it is planned by it as it is now.
    pub(super) fn plan_anew(&mut self) {
        for (cron, _, at) in self.cron.values_mut() {
            *at = next_time(cron);
        }
    }

    fn note_change(&mut self, app: AppId, path: PathBuf, now: Time) {
        let settle = self.watches.get(&app).map_or(0, |watch| watch.spec.delay).max(SETTLE);
        let change = self.changed.entry(app).or_insert(Change { due: now, since: now, path });
        change.due = now.after(settle).min(change.since.after(settle.saturating_add(UNSETTLED)));
    }

    pub(super) fn forget_process(&mut self, process: ProcessId) {
        self.cron.remove(&process);
    }

    pub(super) fn forget_app(&mut self, app: AppId) {
        self.watches.remove(&app);
        self.changed.remove(&app);
    }
}

impl Daemon {
    /// A row or its spec changed: what may trigger it follows.
    pub(super) fn follow(&mut self, process: ProcessId) {
        let Some(row) = self.fleet.process(process) else { return };
        let Some(spec) = self.fleet.spec_of_process(process).cloned() else { return };
        let (app, running) = (row.app, row.state == State::Ready);
        self.triggers_mut().follow_cron(process, spec.cron_restart.as_deref());
        if running && spec.max_memory_restart.is_some() && self.restart_triggers.memory.is_none() {
            self.restart_triggers.memory = Some(now().after(MEMORY_INTERVAL));
        }
        self.follow_files(app, &spec);
    }

    fn triggers_mut(&mut self) -> &mut Triggers {
        &mut self.restart_triggers
    }

    fn follow_files(&mut self, app: AppId, spec: &Arc<AppSpec>) {
        let wanted = spec
            .watched()
            .filter(|_| self.fleet.processes_of(app).any(|row| row.desired == crate::core::Desired::Running));
        let Some(wanted) = wanted else {
            self.restart_triggers.forget_app(app);
            return;
        };
        let known = self.restart_triggers.watches.get(&app);
        if known.is_some_and(|watch| watch.spec == *wanted && watch.cwd == spec.cwd) {
            return;
        }
        let owner = self.fleet.app(app).map_or(self.owner, |app| app.owner);
        let watching = Watching::begin(app, owner, Arc::clone(spec), self.facts.clone());
        let watch = Watch { spec: wanted.clone(), cwd: spec.cwd.clone(), _watching: watching };
        self.restart_triggers.watches.insert(app, watch);
    }

    /// A watched file of an app changed.
    pub(super) fn on_file_changed(&mut self, app: AppId, path: PathBuf) {
        self.restart_triggers.note_change(app, path, now());
    }

    /// Does what is due.
    pub(super) fn pull_triggers(&mut self) {
        let present = now();
        let due: Vec<ProcessId> =
            self.restart_triggers.cron.iter().filter(|(_, (_, _, at))| *at <= present).map(|(id, _)| *id).collect();
        for process in due {
            if let Some((cron, _, at)) = self.restart_triggers.cron.get_mut(&process) {
                *at = next_time(cron);
            }
            self.feed(Event::RestartTriggered {
                process,
                cause: RestartCause::Schedule,
                reason: "cron_restart".to_owned(),
                graceful: false,
            });
        }
        let changed: Vec<AppId> = self
            .restart_triggers
            .changed
            .iter()
            .filter(|(_, change)| change.due <= present)
            .map(|(id, _)| *id)
            .collect();
        for app in changed {
            let Some(Change { path, .. }) = self.restart_triggers.changed.remove(&app) else { continue };
            let graceful = self.restart_triggers.watches.get(&app).is_some_and(|watch| watch.spec.reload);
            let reason = format!("changed: {}", path.display());
            info!(reason, "restarting what is watched");
            let rows: Vec<ProcessId> = self.fleet.processes_of(app).map(|row| row.id).collect();
            for process in rows {
                self.feed(Event::RestartTriggered {
                    process,
                    cause: RestartCause::FileChange,
                    reason: reason.clone(),
                    graceful,
                });
            }
        }
        if self.restart_triggers.memory.is_some_and(|at| at <= present) {
            self.look_at_memory();
        }
    }

    fn look_at_memory(&mut self) {
        let mut over = Vec::new();
        let mut limited = false;
        for row in self.fleet.processes().filter(|row| row.state == State::Ready) {
            let Some(spec) = self.fleet.spec_of_process(row.id) else { continue };
            let (Some(limit), Some(worker)) = (spec.max_memory_restart, row.current) else { continue };
            limited = true;
            let Some(live) = self.workers.get(worker) else { continue };
            let memory = self.sampler.look(worker, live.pid, live.start_time).memory;
            if memory > limit {
                let reason = format!("it uses {memory} bytes of memory, over max_memory_restart {limit}");
                over.push((row.id, reason, spec.exec_mode == ExecMode::Cluster));
            }
        }
        // Nothing wakes an idle daemon whose apps have no limit.
        self.restart_triggers.memory = limited.then(|| now().after(MEMORY_INTERVAL));
        for (process, reason, graceful) in over {
            self.feed(Event::RestartTriggered { process, cause: RestartCause::Memory, reason, graceful });
        }
    }
}

/// The next time that a pattern means, on the monotonic clock; the end of time if it has none.
fn next_time(cron: &Cron) -> Time {
    let present = Zoned::now();
    let Ok(next) = cron.find_next_occurrence(&present, false) else { return Time(u64::MAX) };
    let wait = next.timestamp().as_millisecond().saturating_sub(present.timestamp().as_millisecond());
    now().after(u64::try_from(wait).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_that_came_due_meanwhile_is_made_up_for() {
        let mut before = Triggers::default();
        let (yearly, often, other) = (ProcessId(1), ProcessId(2), ProcessId(3));
        before.follow_cron(yearly, Some("0 3 1 1 *"));
        let mut after = Triggers::default();
        for (process, pattern) in [(yearly, "0 3 1 1 *"), (often, "* * * * * *"), (other, "0 3 * * *")] {
            after.follow_cron(process, Some(pattern));
        }
        let own = after.scheduled();
        after.go_on_with(&before.scheduled());
        assert_eq!(after.scheduled()[&yearly], own[&yearly].min(before.scheduled()[&yearly]));
        after.go_on_with(&BTreeMap::from([(yearly, Time(5)), (often, Time(u64::MAX)), (ProcessId(9), Time(1))]));
        assert_eq!(after.scheduled(), BTreeMap::from([(yearly, Time(5)), (often, own[&often]), (other, own[&other])]));
        assert_eq!(after.next(), Some(Time(5)));
    }

    #[test]
    fn changes_that_come_together_are_one_and_do_not_put_it_off_for_ever() {
        let mut triggers = Triggers::default();
        let path = |n: u64| PathBuf::from(format!("/srv/{n}.js"));
        for at in (1000..9000).step_by(100) {
            triggers.note_change(AppId(1), path(at), Time(at));
            let due = Time((at + SETTLE).min(1000 + SETTLE + UNSETTLED));
            assert_eq!(triggers.changed[&AppId(1)], Change { due, since: Time(1000), path: path(1000) });
        }
        assert_eq!(triggers.next(), Some(Time(6200)));
    }

    #[test]
    fn a_clock_that_was_set_moves_what_is_planned() {
        let process = ProcessId(1);
        let mut triggers = Triggers::default();
        triggers.follow_cron(process, Some("0 3 1 1 *"));
        let by_the_clock = triggers.scheduled()[&process];
        triggers.go_on_with(&BTreeMap::from([(process, Time(5))]));
        assert_eq!(triggers.next(), Some(Time(5)));
        triggers.plan_anew();
        let moved = triggers.scheduled()[&process];
        assert!(moved.since(by_the_clock) < 60_000 && by_the_clock.since(moved) < 60_000, "{moved:?} {by_the_clock:?}");
    }
}
