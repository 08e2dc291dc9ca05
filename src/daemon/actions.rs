//! Performs what the core decided. Each action is one arm here; what takes time runs in a task of its own and comes
//! back as a fact.

use std::collections::VecDeque;

use tracing::warn;

use super::handle::Change;
use super::keeping;
use super::saying::about;
use super::{Daemon, now, present};
use crate::core::{Action, Event, Exit, JobId, JobOutcome, LogLevel, LogTopic, ProcessId, State};
use crate::logs::message_ids;

impl Daemon {
    /// Takes an event into the core and does what it says, and what follows from that.
    pub(super) fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.fleet.step(event, present()) {
                self.perform(action, &mut events);
            }
        }
    }

    pub(super) fn perform(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::SpawnWorker(order) => self.spawn_worker(*order),
            Action::TerminateWorker { worker } => self.terminate_worker(worker),
            Action::KillWorker { worker } => self.workers.kill(worker),
            Action::DrainWorker { worker, timeout } => {
                if self.workers.has_channel(worker) {
                    self.primary.drain(worker, timeout);
                } else {
                    events.push_back(Event::WorkerDrained { worker });
                }
            }
            Action::AdmitWorker { worker } => self.primary.admit(worker),
            Action::StartProbe { worker } => self.start_probe(worker),
            Action::ArmTimer { timer, at } => self.timers.arm(timer, at),
            Action::DisarmTimer { timer } => self.timers.disarm(timer),
            Action::ReleaseWorker { worker } => {
                self.sampler.forget(worker);
                self.primary.detach(worker);
                self.workers.release(worker);
                keeping::release(&self.store, worker);
            }
            Action::AppAdded { app } | Action::AppChanged { app } => self.publish_app(app),
            Action::AppRemoved { app, name: _ } => {
                self.primary.remove_app(app);
                self.restart_triggers.forget_app(app);
                self.publish(Change::AppRemoved(app.0));
            }
            Action::ProcessAdded { process } => {
                self.make_logs_known(process);
                self.publish_process(process);
            }
            Action::ProcessChanged { process } => {
                self.follow(process);
                self.free_addresses(process);
                self.publish_process(process);
            }
            Action::ProcessRemoved { process } => {
                self.logs.forget(process);
                self.primary.remove_process(process);
                self.restart_triggers.forget_process(process);
                self.reported.remove(&process);
                self.losses.remove(&process);
                self.publish(Change::ProcessRemoved(process.0));
            }
            Action::Announce { process, event, manually } => self.announce(process, event, manually),
            Action::JobProgressed { job, done, total } => {
                if let Some(view) = self.jobs.progress(job, done, total).cloned() {
                    self.publish(Change::Job(view));
                }
            }
            Action::JobFinished { job, outcome } => match outcome {
                JobOutcome::Failed { process: Some(process), message } => self.with_last_words(job, process, message),
                outcome => self.finish_job(job, outcome),
            },
            Action::Log { topic, level, process, app, message } => self.log(topic, level, process, &app, &message),
            Action::SaveState => self.persist.touch(now()),
            Action::Exit => self.exit = true,
        }
    }

    /// A job is over: whoever waits is told, and the jobs that waited for it.
    pub(super) fn finish_job(&mut self, job: JobId, outcome: JobOutcome) {
        if let JobOutcome::Failed { message, .. } = &outcome {
            warn!(job = job.0, "{message}");
        }
        self.persist.note_change();
        if let Some(view) = self.jobs.finish(job, outcome, present()).cloned() {
            self.publish(Change::Job(view));
        }
    }

    pub(super) fn publish(&self, change: Change) {
        // Nobody listening is no error: a daemon without peers has no receiver.
        drop(self.changes.send(change));
    }

    /// What does not run keeps no address from others; between two workers it is kept.
    fn free_addresses(&self, process: ProcessId) {
        if self.fleet.process(process).is_some_and(|row| matches!(row.state, State::Stopped | State::Errored)) {
            self.primary.remove_process(process);
        }
    }

    fn publish_app(&self, app: crate::core::AppId) {
        if let Some(view) = self.app_view(app) {
            self.publish(Change::App(view));
        }
    }

    pub(super) fn publish_process(&self, process: ProcessId) {
        if let Some(view) = self.process_view(process) {
            let app = self.fleet.process(process).map(|process| process.app);
            self.publish(Change::Process(view));
            if let Some(app) = app {
                self.publish_app(app);
            }
        }
    }

    fn announce(&self, process: ProcessId, event: &str, manually: bool) {
        let name = self
            .fleet
            .process(process)
            .and_then(|process| self.fleet.app(process.app))
            .map(|app| app.name().to_owned())
            .unwrap_or_default();
        let at = present().wall;
        self.publish(Change::Event { process: process.0, name, event: event.to_owned(), manually, at });
    }

    /// A line about a process in the daemon's own log, with the fields that journalctl(1) can select by.
    fn log(&self, topic: LogTopic, level: LogLevel, process: ProcessId, app: &str, message: &str) {
        // A field without a value is left out.
        let row = self.fleet.process(process).filter(|_| matches!(topic, LogTopic::Exited | LogTopic::Ended));
        let exit = row.and_then(|row| row.last_exit).map(Exit::in_pm2_words);
        let (topic, process) = (message_ids::of(topic), process.0);
        match level {
            LogLevel::Info => about!(info, topic, app, process, PM2RS_EXIT = exit, "{message}"),
            LogLevel::Warning => about!(warn, topic, app, process, PM2RS_EXIT = exit, "{message}"),
            LogLevel::Error => about!(error, topic, app, process, PM2RS_EXIT = exit, "{message}"),
        }
    }
}
