//! Takes up what the daemon before this one left: apps, counters, and workers that may still live.

use std::collections::{BTreeSet, VecDeque};

use tracing::{info, warn};

use super::output::Loss;
use super::persist::{Saved, SavedWorker};
use super::saved_list::restores_at_boot;
use super::saying::{Row, about};
use super::spawner::marks;
use super::{Daemon, keeping, present};
use crate::core::{Event, Exit, JobId, SpawnFailure, WorkerId, WorkerState};
use crate::logs::message_ids;
use crate::sys::tree::{self, Tree};

impl Daemon {
    /// Goes on exactly where the daemon before was when it died: rows, counters, timers, and the workers themselves.
    pub(super) fn take_over(&mut self, saved: Saved) {
        self.jobs.continue_after(saved.last_job);
        self.fleet = saved.fleet;
        self.reported = saved.reported.into_iter().collect();
        self.losses = saved.lost_lines.into_iter().map(|(id, lines)| (id, Loss::of_before(lines))).collect();
        let known: BTreeSet<JobId> = self.fleet.jobs().map(|job| job.id).collect();
        self.jobs.take_over(saved.jobs, |job| known.contains(&job), present());
        let processes: Vec<_> = self.fleet.processes().map(|process| process.id).collect();
        for process in processes {
            self.make_logs_known(process);
            self.follow(process);
        }
        self.restart_triggers.go_on_with(&saved.scheduled);
        let workers: Vec<WorkerId> = self.fleet.workers().map(|worker| worker.id).collect();
        let mut events: VecDeque<Event> = workers.iter().filter_map(|worker| self.adopt(*worker)).collect();
        info!(
            MESSAGE_ID = message_ids::DAEMON_ADOPTED,
            workers = workers.len(),
            gone = events.len(),
            "took over from the daemon before"
        );
        for unknown in keeping::kept(&self.store).into_iter().filter(|worker| !workers.contains(worker)) {
            self.primary.detach(unknown);
            keeping::end(&self.store, unknown);
        }
        for action in self.fleet.rearm(present()) {
            self.perform(action, &mut events);
        }
        while let Some(event) = events.pop_front() {
            self.feed(event);
        }
        self.persist.touch(super::now());
    }

    /// The same for a daemon of which there is nothing but its state file, and these workers.
    pub(super) fn take_over_regained(&mut self, saved: Saved, regained: &BTreeSet<WorkerId>) {
        let others: Vec<_> = saved.workers.iter().filter(|saved| !regained.contains(&saved.worker)).cloned().collect();
        end_survivors(&others);
        end_unknown(&marks(&self.boot_id, &self.paths.home), regained);
        self.take_over(saved);
        for worker in regained {
            let row = self.fleet.worker(*worker).and_then(|worker| self.fleet.process(worker.process));
            let Some(row) = row.filter(|_| self.workers.get(*worker).is_some()) else { continue };
            let row = Row::of(&self.fleet, row.id);
            about!(
                info,
                message_ids::REGAINED,
                row.app,
                row.process,
                "{row} runs on without its channel; it gets one when it is reloaded"
            );
        }
    }

    /// Takes a worker over; where that cannot be, what became of it.
    fn adopt(&mut self, worker: WorkerId) -> Option<Event> {
        let (pid, exited) = self.fleet.worker(worker).map(|w| (w.pid, w.state == WorkerState::Exited))?;
        let spec = self.fleet.spec_of_worker(worker)?.clone();
        let record = keeping::record(&self.store, worker);
        let Some(pid) = pid else {
            // It never got to serve; the row starts another one.
            self.primary.detach(worker);
            keeping::end(&self.store, worker);
            let message = "the daemon ended while it was being started".to_owned();
            return Some(Event::SpawnFailed { worker, failure: SpawnFailure { message, transient: true } });
        };
        let started = record
            .filter(|record| record.is(Some(pid)))
            .and_then(|record| keeping::take_over(&self.store, worker, record, spec));
        let Some(started) = started else {
            self.primary.detach(worker);
            keeping::end(&self.store, worker);
            return Some(match exited {
                true => Event::LeftoversGone { worker },
                false => Event::WorkerExited { worker, exit: Exit::Unknown, leftovers: false },
            });
        };
        self.workers.ordered(worker);
        self.serve_worker(worker, started);
        if exited {
            self.watch_leftovers(worker);
        } else {
            self.watch_exit(worker);
        }
        None
    }

    /// Starts anew what is in the state file.
    pub(super) fn restore(&mut self, saved: Option<Saved>) {
        let same_boot = saved.as_ref().is_some_and(|saved| saved.boot_id == self.boot_id);
        if let Some(saved) = saved.as_ref().filter(|_| same_boot) {
            end_survivors(&saved.workers);
        }
        // The state may be older than the last worker, or lost.
        end_unknown(&marks(&self.boot_id, &self.paths.home), &BTreeSet::new());
        let Some(saved) = saved else { return };
        self.jobs.continue_after(saved.last_job);
        if !same_boot && !restores_at_boot(&self.mode) {
            return;
        }
        let apps = saved.fleet.saved();
        if apps.is_empty() {
            return;
        }
        info!(apps = apps.len(), same_boot, "taking up what ran before");
        let job = self.open_job("restore", "all".to_owned(), self.owner);
        self.feed(Event::RestoreRequested { job, apps });
    }
}

/// A worker that cannot be gone on with is ended, so that nothing runs twice.
fn end_survivors(workers: &[SavedWorker]) {
    for saved in workers {
        let tree = saved.tree();
        // A group that is gone cannot be read, and has nobody in it.
        if tree.is_empty().unwrap_or(true) {
            continue;
        }
        warn!(pid = saved.pid, worker = saved.worker.0, "ending a worker of the daemon before");
        if let Err(error) = tree.kill_all() {
            warn!(pid = saved.pid, %error, "cannot end it");
        }
    }
}

/// The same for workers of this home that nothing was written about.
fn end_unknown(marks: &str, known: &BTreeSet<WorkerId>) {
    let is_ours = |variable: &[u8]| {
        let worker = variable.strip_prefix(marks.as_bytes()).and_then(|worker| std::str::from_utf8(worker).ok());
        worker.and_then(|worker| worker.parse().ok()).is_some_and(|worker| !known.contains(&WorkerId(worker)))
    };
    let found =
        tree::marked(is_ours).inspect_err(|error| warn!(%error, "cannot look for workers of the daemon before"));
    for member in found.unwrap_or_default() {
        let tree = Tree::session(member.pid, member.start_time, None);
        // Those before it may have taken it with them.
        if tree.is_empty().unwrap_or(true) {
            continue;
        }
        warn!(pid = member.pid, "ending a worker of the daemon before");
        if let Err(error) = tree.kill_all() {
            warn!(pid = member.pid, %error, "cannot end it");
        }
    }
}
