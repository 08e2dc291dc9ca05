//! From ordered to ready: what is heard of a starting worker, and when that suffices.

use std::sync::Arc;

use super::process::State;
use super::worker::WorkerState;
use super::{Action, AppSpec, Fleet, LogLevel, LogTopic, SpawnFailure, Timer, WorkerId};

/// How many times as long as its predecessor a newcomer may take: a machine under load is slower than it was.
const PATIENCE: u64 = 3;
/// And no longer than this (ms), however late its predecessor began to listen.
const LONGEST_PATIENCE: u64 = 60_000;

impl Fleet {
    pub(super) fn worker_spawned(&mut self, id: WorkerId, pid: u32) {
        let now = self.now();
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.pid.is_none()) else { return };
        worker.pid = Some(pid);
        worker.spawned_at = Some(now.mono);
        worker.started_at = Some(now.wall);
        let (app, process, state) = (worker.app, worker.process, worker.state);
        if let Some(app) = self.apps.get_mut(&app) {
            app.executed = true;
        }
        if let Some(row) = self.processes.get_mut(&process).filter(|row| row.current == Some(id)) {
            row.started_at = Some(now.wall);
        }
        self.touch(process);
        self.save();
        match state {
            WorkerState::Stopping => self.signal_end(id),
            WorkerState::Starting => {
                self.see_whether_ready(id);
                if self.starting_spec(id).is_some() {
                    let patience = self.patience_with(id);
                    if let Some(worker) = self.workers.get_mut(&id) {
                        worker.patience = Some(patience);
                    }
                    self.arm(Timer::Listen(id), patience);
                }
            }
            WorkerState::Ready | WorkerState::Draining | WorkerState::Exited => {}
        }
    }

    pub(super) fn cpu_awaited(&mut self, id: WorkerId, ms: u64) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.awaited_cpu = ms;
            self.save();
        }
    }

    /// How long a worker that was spawned may take to get ready (ms).
    pub(super) fn time_to_get_ready(&self, id: WorkerId) -> u64 {
        let set = self.listen_timeout_of(id);
        let patience = self.workers.get(&id).and_then(|worker| worker.patience).unwrap_or(set);
        patience.saturating_add(self.time_without_cpu(id)).min(LONGEST_PATIENCE.max(patience))
    }

    /// How much of its time (ms, whole seconds) is not held against a newcomer, as it was ready to run and the machine had no
    /// CPU for it. Who sets a time gets that time.
    fn time_without_cpu(&self, id: WorkerId) -> u64 {
        let newcomer = self.workers.get(&id).filter(|worker| worker.on_trial);
        let unset = self.listen_timeout_of(id) == AppSpec::USUAL_LISTEN_TIMEOUT;
        newcomer.filter(|_| unset).map_or(0, |worker| worker.awaited_cpu / 1000 * 1000)
    }

    /// What is to be said of that behind its time.
    pub(super) fn but_without_cpu(&self, id: WorkerId) -> String {
        match self.time_without_cpu(id) {
            0 => String::new(),
            ms => format!(", in {ms} ms of which there was no CPU for it"),
        }
    }

    fn listen_timeout_of(&self, id: WorkerId) -> u64 {
        self.spec_of_worker(id).map_or(0, |spec| spec.listen_timeout)
    }

    /// `listen_timeout` (ms). Frameworks that build their app at its start take more than PM2's 3 s, which PM2's users
    /// never met, as there silence counts as ready. While a newcomer is on trial nobody waits for it but the reload, so
    /// where nobody set a time, what its predecessor took tells what it needs.
    fn patience_with(&self, id: WorkerId) -> u64 {
        let set = self.listen_timeout_of(id);
        let on_trial = self.workers.get(&id).filter(|worker| worker.on_trial);
        let Some(worker) = on_trial.filter(|_| set == AppSpec::USUAL_LISTEN_TIMEOUT) else { return set };
        let predecessor = self.processes.get(&worker.process).and_then(|row| row.current).filter(|other| *other != id);
        let took = predecessor.and_then(|other| self.workers.get(&other)).and_then(|other| other.proven_after);
        took.map_or(set, |took| took.saturating_mul(PATIENCE).clamp(set, LONGEST_PATIENCE))
    }

    fn starting_spec(&self, id: WorkerId) -> Option<&AppSpec> {
        self.workers.get(&id).filter(|worker| worker.state == WorkerState::Starting)?;
        self.spec_of_worker(id).map(Arc::as_ref)
    }

    pub(super) fn spawn_failed(&mut self, id: WorkerId, failure: SpawnFailure) {
        if self.workers.get(&id).is_some_and(|worker| worker.pid.is_none()) {
            self.worker_over(id, Some(failure));
        }
    }

    pub(super) fn worker_online(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.online) {
            worker.online = true;
            self.has_shown_more(id);
        }
    }

    pub(super) fn worker_listening(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.listened) {
            worker.online = true;
            worker.listened = true;
            self.has_shown_more(id);
        }
    }

    pub(super) fn ready_received(&mut self, id: WorkerId) {
        let Some(spec) = self.spec_of_worker(id).filter(|spec| spec.wait_ready) else { return };
        let probed = spec.probe.is_some();
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.told) else { return };
        if !probed {
            // Even if it counts as ready by now: its successor is given the time that this one took.
            worker.told = true;
            self.has_shown_more(id);
        } else if !worker.probing && worker.state == WorkerState::Starting {
            // With both, the app's word comes first and the probe confirms it.
            worker.probing = true;
            self.save();
            self.push(Action::StartProbe { worker: id });
        }
    }

    pub(super) fn probe_succeeded(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.probing) {
            worker.told = true;
            self.has_shown_more(id);
        }
    }

    fn has_shown_more(&mut self, id: WorkerId) {
        let now = self.now().mono;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.proven_after = worker.spawned_at.map(|at| now.since(at));
        }
        self.save();
        self.see_whether_ready(id);
    }

    fn see_whether_ready(&mut self, id: WorkerId) {
        let Some(spec) = self.starting_spec(id) else { return };
        let Some(worker) = self.workers.get(&id) else { return };
        let (probe, proven) = (worker.wants_probe(spec), worker.is_proven());
        if probe {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.probing = true;
            }
            self.save();
            self.push(Action::StartProbe { worker: id });
        }
        if proven {
            self.become_ready(id);
        }
    }

    fn become_ready(&mut self, id: WorkerId) {
        self.disarm(Timer::Listen(id));
        self.set_worker_state(id, WorkerState::Ready);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.was_ready = true;
        let (process, first) = (worker.process, worker.first);
        let Some(row) = self.processes.get(&process).filter(|row| row.current == Some(id)) else { return };
        let manually = row.manually;
        self.set_state(process, State::Ready);
        self.log(LogTopic::Online, LogLevel::Info, process, "online");
        self.announce(process, "online", manually);
        self.announce(process, if first { "start" } else { "restart" }, manually);
        if let Some(row) = self.processes.get_mut(&process) {
            row.manually = false;
        }
    }

    /// At a start, PM2 takes a worker for ready that did not say so in time; who asked is told. One that is to replace
    /// another has failed.
    pub(super) fn listen_timed_out(&mut self, id: WorkerId) {
        if self.starting_spec(id).is_none() {
            return;
        }
        let timeout = self.time_to_get_ready(id);
        let now = self.now().mono;
        let Some(worker) = self.workers.get(&id) else { return };
        let process = worker.process;
        let left = worker.spawned_at.map_or(0, |at| timeout.saturating_sub(now.since(at)));
        if left > 0 {
            return self.arm(Timer::Listen(id), left);
        }
        if worker.on_trial {
            let reason = format!("was not ready within {timeout} ms (listen_timeout){}", self.but_without_cpu(id));
            if self.trial_failed(id, &reason) {
                return;
            }
        }
        let name = self.name_of(process);
        self.warn_starters(
            process,
            &format!("`{name}` (process {process}) was not ready within {timeout} ms; it counts as ready from now on"),
        );
        let text = format!("was not ready within {timeout} ms, counts as ready");
        self.log(LogTopic::LateReady, LogLevel::Warning, process, &text);
        self.become_ready(id);
    }

    /// A worker whose time ran out while it was on trial, and that stays after all, counts as any other.
    pub(super) fn see_whether_overdue(&mut self, id: WorkerId) {
        let spawned = self.workers.get(&id).is_some_and(|worker| worker.pid.is_some());
        if spawned && self.timers.at(Timer::Listen(id)).is_none() {
            self.listen_timed_out(id);
        }
    }
}
