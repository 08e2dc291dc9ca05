//! What happened to workers, as events for the core.

use tracing::{debug, info, warn};

use super::facts::Fact;
use super::keeping;
use super::saying::{Row, about};
use super::workers::{Started, Wish};
use super::{Daemon, now};
use crate::core::{AppSpec, Event, Exit, SpawnFailure, WorkerId};
use crate::logs::{Source, message_ids};
use crate::node::{Attachment, NodeEvent};
use crate::sys::pidfd::{self, ExitStatus};

/// After a worker's exit its output is read to the end, before its pipes are let go of: a daemon that is killed meanwhile
/// leaves the rest to the next one. A grandchild that goes on to write, or a journal that takes nothing, may delay what
/// follows by so much at most. Reading goes on in the background then.
const LAST_OUTPUT: std::time::Duration = std::time::Duration::from_secs(1);

impl Daemon {
    /// Takes what one of the loop's own tasks found out.
    pub(super) fn on_fact(&mut self, fact: Fact) {
        match fact {
            Fact::Spawned(worker, result) => match *result {
                Ok(started) => self.on_started(worker, started),
                Err(failure) => self.on_spawn_failure(worker, failure),
            },
            Fact::Looked(request, accounts) => self.take(*request, Some(&accounts)),
            Fact::SavedListRead(caller, apps, reply) => {
                let result = self.resurrect(&caller, apps);
                super::requests::answer(reply, result);
            }
            Fact::Exited(worker, exit) => {
                self.note_hung(worker, false);
                let leftovers = self.workers.get(worker).is_some_and(|live| !live.tree.is_empty().unwrap_or(true));
                if leftovers {
                    self.watch_leftovers(worker);
                }
                self.feed(Event::WorkerExited { worker, exit, leftovers });
            }
            Fact::TreeEmpty(worker) => self.feed(Event::LeftoversGone { worker }),
            Fact::Ready(worker) => self.feed(Event::ReadyReceived { worker }),
            Fact::Probed(worker) => self.feed(Event::ProbeSucceeded { worker }),
            Fact::FileChanged(app, path) => self.on_file_changed(app, path),
            Fact::Serving(result) => self.on_serving(*result),
            Fact::Asked(reply, result) => self.on_asked(reply, result),
            Fact::EndMeant(name, restart) => self.on_end_meant(name, restart),
            Fact::JobEnded(job, outcome) => self.finish_job(job, outcome),
        }
    }

    fn on_spawn_failure(&mut self, worker: WorkerId, failure: SpawnFailure) {
        self.workers.failed(worker);
        keeping::release(&self.store, worker);
        if let Some(of) = self.fleet.worker(worker) {
            self.logs.note_failed_start(of.process);
        }
        self.feed(Event::SpawnFailed { worker, failure });
    }

    fn on_started(&mut self, worker: WorkerId, started: Started) {
        let pid = started.pid;
        // The core orders no worker that it does not know.
        let Some(wish) = self.serve_worker(worker, started) else { return };
        self.watch_exit(worker);
        self.feed(Event::WorkerSpawned { worker, pid });
        match wish {
            Wish::Run => {}
            Wish::Terminate => self.terminate_worker(worker),
            Wish::Kill => self.workers.kill(worker),
        }
    }

    /// Everything that a running worker is given, but that its end is waited for. `None` for one that the core does not
    /// know.
    pub(super) fn serve_worker(&mut self, worker: WorkerId, mut started: Started) -> Option<Wish> {
        let (process, app) = self
            .fleet
            .worker(worker)
            .map(|w| w.process)
            .and_then(|process| self.fleet.process(process).map(|row| (row.id, row.app)))?;
        let owner = self.fleet.app(app).map(|app| app.owner)?;
        let instance = self.fleet.process(process).map_or(0, |row| row.instance);
        let wish = self.workers.started(worker, &mut started);
        let spec = started.spec.clone();
        if let (Some(stdout), Some(stderr)) = (started.stdout.take(), started.stderr.take()) {
            self.logs.attach(Source {
                worker,
                process,
                app,
                app_name: spec.name.clone(),
                app_owner: owner,
                namespace: spec.namespace.clone(),
                instance,
                pid: started.pid,
                unit: started.unit.clone(),
                identity: started.identity.clone(),
                spec: spec.clone(),
                stdout,
                stderr,
            });
        }
        if let Some(channel) = started.channel.take() {
            self.primary.attach(Attachment {
                worker,
                process,
                app,
                instance,
                identity: started.identity.clone(),
                cluster: spec.exec_mode == crate::core::ExecMode::Cluster,
                balance: spec.balance,
                agent: started.agent,
                admitted: self.fleet.process(process).is_some_and(|row| row.current == Some(worker)),
                channel,
            });
        }
        if let Some(notify) = started.notify.take() {
            let facts = self.facts.clone();
            let task = tokio::spawn(async move {
                if notify.ready().await.is_ok() {
                    drop(facts.send(Fact::Ready(worker)));
                }
                // The socket stays for what else the app may say (STATUS=, WATCHDOG=1): to nobody's error.
                std::future::pending::<()>().await;
            });
            self.workers.attach_task(worker, &task);
        }
        Some(wish)
    }

    pub(super) fn watch_exit(&mut self, worker: WorkerId) {
        let Some(live) = self.workers.get(worker) else { return };
        let (pidfd, facts, logs) = (live.pidfd.clone(), self.facts.clone(), self.logs.clone());
        let task = tokio::spawn(async move {
            use std::os::fd::AsFd;
            let exit = match pidfd::wait(pidfd.as_fd()).await {
                Ok(ExitStatus::Code(code)) => Exit::Code(code),
                Ok(ExitStatus::Signal(signal)) => Exit::Signal(signal),
                Ok(ExitStatus::Unknown) => Exit::Unknown,
                Err(error) => {
                    warn!(%worker, %error, "cannot learn how the worker ended");
                    Exit::Unknown
                }
            };
            // What a dying worker wrote last is what people look for: it comes before the news of its death.
            drop(tokio::time::timeout(LAST_OUTPUT, logs.detach(worker)).await);
            drop(facts.send(Fact::Exited(worker, exit)));
        });
        self.workers.attach_task(worker, &task);
    }

    pub(super) fn watch_leftovers(&mut self, worker: WorkerId) {
        let Some(live) = self.workers.get(worker) else { return };
        let (tree, facts) = (live.tree.clone(), self.facts.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = tree.wait_empty().await {
                warn!(%worker, %error, "cannot watch what the worker left behind");
            }
            drop(facts.send(Fact::TreeEmpty(worker)));
        });
        self.workers.attach_task(worker, &task);
    }

    /// Takes what a worker said on its channel.
    pub(super) fn on_node_event(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Online { worker } => self.feed(Event::WorkerOnline { worker }),
            NodeEvent::Version { worker, node } => self.on_version(worker, node),
            NodeEvent::Listening { worker, address } => {
                debug!(%worker, address, "listens");
                self.feed(Event::WorkerListening { worker });
                // Its sockets are in the state file as well.
                self.persist.touch(now());
            }
            NodeEvent::Message { worker, message } => self.on_message(worker, &message),
            NodeEvent::Drained { worker, left } => {
                if left > 0 {
                    let row = Row::of_worker(&self.fleet, worker);
                    info!(%worker, left, "{row} drained, with connections still open");
                }
                self.feed(Event::WorkerDrained { worker });
            }
            NodeEvent::Disconnected { worker } => debug!(%worker, "closed its channel"),
            NodeEvent::Misbehaved { worker, reason } => {
                let row = Row::of_worker(&self.fleet, worker);
                about!(warn, message_ids::MISBEHAVED, row.app, row.process, %worker, reason, "{row} broke the rules of its channel");
            }
            NodeEvent::Hung { worker, since_ms } => {
                self.note_hung(worker, true);
                let row = Row::of_worker(&self.fleet, worker);
                about!(warn, message_ids::HUNG, row.app, row.process, %worker, since_ms, "{row} does not answer; its connections go to others");
            }
            NodeEvent::Responsive { worker } => {
                self.note_hung(worker, false);
                let row = Row::of_worker(&self.fleet, worker);
                about!(info, message_ids::RESPONSIVE, row.app, row.process, %worker, "{row} answers again");
            }
        }
    }

    fn note_hung(&mut self, worker: WorkerId, hung: bool) {
        let Some(process) = self.fleet.worker(worker).map(|worker| worker.process) else { return };
        if !hung && self.reported.get(&process).is_none_or(|reported| !reported.contains_key("hung")) {
            return;
        }
        self.report_value(process, "hung", serde_json::Value::Bool(hung));
        self.publish_process(process);
    }

    /// Asks a worker to end, the way its app expects.
    pub(super) fn terminate_worker(&mut self, worker: WorkerId) {
        if self.workers.wish(worker, Wish::Terminate) {
            return;
        }
        let Some(live) = self.workers.get(worker) else { return };
        if live.spec.shutdown_with_message && live.channel {
            self.primary.shutdown_message(worker);
            return;
        }
        self.primary.terminating(worker);
        let signal = stop_signal(&live.spec);
        if live.spec.treekill {
            self.workers.signal_tree(worker, signal);
        } else {
            self.workers.signal_main(worker, signal);
        }
    }

    /// Begins to ask a worker from outside whether it is ready.
    pub(super) fn start_probe(&mut self, worker: WorkerId) {
        let Some(live) = self.workers.get(worker) else { return };
        let Some(probe) = live.spec.probe.clone() else { return };
        let (facts, spec, identity) = (self.facts.clone(), live.spec.clone(), live.identity.clone());
        let place = (live.tree.clone(), self.spawner.limits.clone());
        let primary = live.channel.then(|| self.primary.clone());
        let reach = super::probe::Reach { worker, primary, identity: identity.clone() };
        let meant = self.names_for_a_probe(worker, live.pid);
        let task = tokio::spawn(async move {
            let command = |argv: Vec<String>| {
                let (spec, identity, meant) = (spec.clone(), identity.clone(), meant.clone());
                let (tree, limits) = place.clone();
                async move { super::spawner::run_to_end(&argv, &spec, &meant, &identity, &tree, limits).await }
            };
            super::probe::succeed(&probe, &reach, command).await;
            drop(facts.send(Fact::Probed(worker)));
        });
        self.workers.attach_task(worker, &task);
    }

    /// The variables by which a probe's command knows which of the app's workers it is asked about.
    fn names_for_a_probe(&self, worker: WorkerId, pid: u32) -> Vec<(String, String)> {
        let mut names = vec![("PM2RS_PID".to_owned(), pid.to_string())];
        let row = self.fleet.worker(worker).and_then(|worker| self.fleet.process(worker.process));
        if let Some((row, spec)) = row.zip(self.fleet.spec_of_worker(worker)) {
            names.push(("pm_id".to_owned(), row.id.to_string()));
            names.push((spec.instance_var.clone(), row.instance.to_string()));
        }
        names
    }
}

/// The number of the app's stop signal; specs with another name are refused when they come in.
fn stop_signal(spec: &AppSpec) -> i32 {
    use std::str::FromStr;
    nix::sys::signal::Signal::from_str(&spec.kill_signal).map_or(libc::SIGINT, |signal| signal as i32)
}
