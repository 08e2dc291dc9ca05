//! What follows a worker's end: its descendants, its place in the row, and whether another one is started.

use std::sync::Arc;

use super::process::{Desired, State};
use super::restart::{End, Verdict};
use super::worker::{Worker, WorkerState};
use super::{Action, AppSpec, Exit, Fleet, LogLevel, LogTopic, ProcessId, SpawnFailure, Timer, WorkerId};

/// The worker that served a row, now that nothing of it is left.
struct Over {
    worker: Worker,
    spec: Arc<AppSpec>,
    /// Its start failed.
    failure: Option<SpawnFailure>,
    /// How it ended, for people.
    why: String,
    /// A reload brought it in and decides how the row goes on.
    watched: bool,
}

impl Fleet {
    pub(super) fn worker_exited(&mut self, id: WorkerId, exit: Exit, leftovers: bool) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.state != WorkerState::Exited) else {
            return;
        };
        let (process, before) = (worker.process, worker.state);
        worker.exit = Some(exit);
        worker.own_end = matches!(before, WorkerState::Starting | WorkerState::Ready);
        let by_itself = worker.own_end;
        let level = if by_itself && exit != Exit::Code(0) { LogLevel::Warning } else { LogLevel::Info };
        self.disarm(Timer::Listen(id));
        self.disarm(Timer::MinUptime(id));
        self.disarm(Timer::Drain(id));
        self.set_worker_state(id, WorkerState::Exited);
        let topic = if by_itself { LogTopic::Exited } else { LogTopic::Ended };
        self.log(topic, level, process, &format!("exited with {}", exit.in_pm2_words()));
        let is_current = self.processes.get(&process).is_some_and(|row| row.current == Some(id));
        if is_current {
            let manually = self.processes.get(&process).is_some_and(|row| row.manually);
            if let Some(row) = self.processes.get_mut(&process) {
                row.last_exit = Some(exit);
            }
            self.announce(process, "exit", manually);
        }
        if !leftovers {
            return self.worker_over(id, None);
        }
        // Descendants of one that was asked to end were asked as well and have the same time.
        if before != WorkerState::Stopping {
            self.kill(id);
        }
        if is_current {
            self.set_state(process, State::Stopping);
        }
        self.touch(process);
    }

    pub(super) fn leftovers_gone(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(|worker| worker.state == WorkerState::Exited) {
            self.worker_over(id, None);
        }
    }

    /// Nothing is left of a worker, or nothing ever was.
    pub(super) fn worker_over(&mut self, id: WorkerId, failure: Option<SpawnFailure>) {
        self.disarm_all(id);
        let spec = self.spec_of_worker(id).cloned();
        let (Some(worker), Some(spec)) = (self.workers.remove(&id), spec) else { return };
        self.push(Action::ReleaseWorker { worker: id });
        self.save();
        let process = worker.process;
        self.touch(process);
        let why = match (&failure, worker.exit) {
            (Some(failure), _) => failure.message.clone(),
            (None, Some(exit)) if worker.was_ready => format!("exited with {exit}"),
            (None, exit) => format!("exited with {} before it was ready", exit.unwrap_or(Exit::Unknown)),
        };
        let watched = (worker.own_end || failure.is_some()) && self.trial_ended(id, &why);
        let Some(row) = self.processes.get_mut(&process) else { return };
        row.outgoing.retain(|outgoing| *outgoing != id);
        if row.incoming == Some(id) {
            row.incoming = None;
        }
        if row.current == Some(id) {
            row.current = None;
            self.go_on_without(Over { worker, spec, failure, why, watched });
        }
        self.remove_if_over(process);
    }

    /// A row has lost the worker that served it.
    fn go_on_without(&mut self, over: Over) {
        let Over { worker, spec, failure, why, watched } = over;
        let now = self.now().mono;
        let process = worker.process;
        let Some(row) = self.processes.get_mut(&process) else { return };
        if self.shutting_down || row.desired != Desired::Running {
            row.reason.clear();
            let manually = row.manually;
            self.set_state(process, State::Stopped);
            self.log(LogTopic::Stopped, LogLevel::Info, process, "stopped");
            if !self.shutting_down {
                self.announce(process, "stop", manually);
            }
            return;
        }
        if row.restarting && failure.as_ref().is_none_or(|failure| failure.transient) {
            return self.start_process(process);
        }
        row.reason = why;
        row.restarting = false;
        if self.promote_incoming(process) {
            return;
        }
        if let Some(failure) = failure.as_ref().filter(|failure| !failure.transient) {
            self.log(LogTopic::StartFailed, LogLevel::Error, process, &failure.message);
            return self.set_state(process, State::Errored);
        }
        let uptime = worker.spawned_at.map_or(0, |at| now.since(at));
        let end = End { exit: worker.exit, uptime, was_ready: worker.was_ready };
        let Some(row) = self.processes.get_mut(&process) else { return };
        match row.record.judge(&spec, end, now) {
            Verdict::Done => self.set_state(process, State::Stopped),
            Verdict::GiveUp => {
                row.reason = format!("{}, {} times in too short a time", row.reason, spec.max_restarts);
                self.set_state(process, State::Errored);
                self.log(
                    LogTopic::CrashLoop,
                    LogLevel::Error,
                    process,
                    &format!("had too many unstable restarts ({}). Stopped. \"errored\"", spec.max_restarts),
                );
                self.announce(process, "restart overlimit", false);
            }
            // A reload that watches the row decides itself how it goes on.
            Verdict::Restart(0) if !watched => {
                row.restarts = row.restarts.saturating_add(1);
                self.start_process(process);
            }
            Verdict::Restart(delay) => {
                row.restart_at = Some(now.after(delay));
                row.backoff_since = Some(now);
                self.set_state(process, State::Backoff);
                self.log(LogTopic::Backoff, LogLevel::Info, process, &format!("will restart in {delay}ms"));
                self.arm(Timer::Restart(process), delay);
            }
        }
    }

    pub(super) fn backoff_over(&mut self, process: ProcessId) {
        let Some(row) = self.processes.get_mut(&process).filter(|row| row.state == State::Backoff) else { return };
        row.restarts = row.restarts.saturating_add(1);
        self.start_process(process);
    }
}
