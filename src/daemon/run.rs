//! The loop: waits for whatever happens next, hands it on, and sees to what is due.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::facts::Fact;
use super::handle::{Change, Request};
use super::startup::Waiter;
use super::{Daemon, Mode, now, present, previous, scopes};
use crate::core::{Event, Time, Timer};
use crate::dbus;
use crate::logs::{LogEvent, message_ids};
use crate::node::NodeEvent;
use crate::sys::clock::ClockWatch;
use crate::sys::notify::{self, Notice};

/// The ends of the channels that the loop waits on.
pub(super) struct Inputs {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) facts: mpsc::UnboundedReceiver<Fact>,
    pub(super) node: mpsc::Receiver<NodeEvent>,
    pub(super) logs: mpsc::Receiver<LogEvent>,
}

/// How long callers that wait for an answer may take to read it when the daemon ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// The signals that a daemon answers to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user2: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

impl Daemon {
    /// Runs until the core says that all has ended.
    pub(super) async fn run(&mut self, mut inputs: Inputs, waiter: &mut Waiter) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let clock = ClockWatch::new()?;
        // Half the watchdog's time, as sd_watchdog_enabled(3) advises.
        let beat = notify::watchdog_interval().map(|interval| interval / 2);
        // The first at once: systemd counts from the last one of the program that executed this one.
        let mut next_beat = beat.map(|_| Instant::now());
        while !self.exit {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                Some(fact) = inputs.facts.recv() => self.on_fact(fact),
                Some(event) = inputs.node.recv() => self.on_node_event(event),
                Some(event) = inputs.logs.recv() => self.on_log_event(event),
                () = self.persist.written() => {}
                () = self.succession.callers_changed() => {}
                () = sleep_or_never(wake) => self.on_time(),
                () = clock.was_set() => self.on_clock_set(),
                () = sleep_or_never(next_beat) => {
                    self.notify(Notice::Watchdog);
                    next_beat = beat.map(|beat| Instant::now() + beat);
                }
                Some(request) = inputs.requests.recv() => self.on_request(request),
                Some(()) = signals.terminate.recv() => self.on_end_signal("SIGTERM"),
                Some(()) = signals.interrupt.recv() => self.on_end_signal("SIGINT"),
                Some(()) = signals.quit.recv() => self.on_end_signal("SIGQUIT"),
                Some(()) = signals.hangup.recv() => self.on_hangup(),
                Some(()) = signals.user2.recv() => self.on_reopen_signal(),
            }
            self.succeed(&mut inputs).await?;
            self.after_turn();
            if let Some(problem) = self.serving_problem.take() {
                return Err(problem);
            }
            if self.server.is_some() {
                waiter.tell("");
            }
        }
        let saved = self.saved();
        self.persist.write_last(&saved).await;
        // Who waits for a job goes on to wait at the next daemon.
        if let Some(server) = self.server.take().filter(|_| !self.left) {
            // Nothing is asked of the loop any more; who waits for the end is told of it.
            drop(inputs);
            server.shutdown(FAREWELL).await;
        }
        Ok(())
    }

    fn next_wake(&self) -> Option<Instant> {
        let (jobs, persist, succession) = (self.jobs.next_expiry(), self.persist.due(), self.succession.wake());
        let due = [self.timers.next(), self.restart_triggers.next(), jobs, persist, succession];
        Some(instant_of(due.into_iter().flatten().min()?))
    }

    fn on_time(&mut self) {
        let now = present();
        while let Some(timer) = self.timers.take_due(now.mono) {
            if let Timer::Listen(worker) | Timer::MinUptime(worker) = timer
                && let Some(ms) = self.workers.awaited_cpu(worker)
            {
                self.feed(Event::CpuAwaited { worker, ms });
            }
            self.feed(Event::TimerElapsed { timer });
        }
        self.pull_triggers();
        for job in self.jobs.expire(now) {
            self.publish(Change::JobRemoved(job.0));
        }
    }

    /// Or has gone on after a suspend, over which tokio's timers sleep: what came due meanwhile is done first.
    fn on_clock_set(&mut self) {
        self.on_time();
        self.restart_triggers.plan_anew();
    }

    fn after_turn(&mut self) {
        if self.persist.forgets() {
            let saved = self.saved();
            self.persist.remember(&saved);
        }
        if self.persist.due().is_some_and(|due| due <= now()) {
            let saved = self.saved_with_remains();
            self.persist.write(&saved);
            self.pid_file.reclaim();
        }
        let status = self.status_line();
        if status != self.status {
            self.notify(Notice::Status(&status));
            self.status = status;
        }
    }

    /// What `systemctl status` shows: "3 apps, 12 processes online".
    fn status_line(&self) -> String {
        let (mut online, mut launching, mut errored) = (0_usize, 0_usize, 0_usize);
        for process in self.fleet.processes() {
            match process.pm2_status() {
                "online" => online += 1,
                "launching" | "waiting restart" => launching += 1,
                "errored" => errored += 1,
                _ => {}
            }
        }
        let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let apps = plural(self.fleet.apps().count(), "app", "apps");
        let mut line = format!("{apps}, {} online", plural(online, "process", "processes"));
        if launching > 0 {
            line.push_str(&format!(", {launching} starting"));
        }
        if errored > 0 {
            line.push_str(&format!(", {errored} errored"));
        }
        if self.persist.is_failing() {
            line.push_str(", state not on disk");
        }
        if self.suppressed > 0 {
            line.push_str(&format!(", {} log lines dropped by journald", self.suppressed));
        }
        if self.ending {
            line.push_str(", shutting down");
        }
        line
    }

    /// Callers can come, or never will.
    pub(super) fn on_serving(&mut self, result: Result<dbus::Server, dbus::ServeError>) {
        match result {
            Ok(server) => {
                self.server = Some(server);
                self.notify(Notice::Ready);
                match previous::instead_of(&self.paths) {
                    Some(installed) => {
                        let program = installed.display();
                        error!(%program, "the installed program did not get ready; the one before goes on");
                    }
                    None => self.trust_the_installed_program(),
                }
                info!(
                    MESSAGE_ID = message_ids::DAEMON_READY,
                    version = env!("CARGO_PKG_VERSION"),
                    mode = self.mode.name(),
                    "pm2rs is ready"
                );
            }
            Err(error) => self.serving_problem = Some(error.into()),
        }
    }

    /// Tells the service manager, where there is one. That it does not listen is no reason to stop.
    pub(super) fn notify(&self, notice: Notice<'_>) {
        let Some(notifier) = &self.notifier else { return };
        match notifier.send(&[notice]) {
            Ok(()) => self.unheard.set(false),
            Err(error) if !self.unheard.replace(true) => {
                warn!(%error, ?notice, "cannot tell the service manager");
            }
            // It will not be there for the next notice either, and people know.
            Err(_) => {}
        }
    }

    fn on_end_signal(&mut self, name: &'static str) {
        if self.ending {
            info!("{name} again; still ending");
            return;
        }
        if !self.can_leave_workers() {
            return self.on_end_meant(name, false);
        }
        let (mode, facts) = (self.mode.clone(), self.facts.clone());
        tokio::spawn(async move {
            let restart = scopes::is_to_come_back(&mode).await;
            drop(facts.send(Fact::EndMeant(name, restart)));
        });
    }

    /// What a signal to end means is known: a restart is the next daemon's beginning, a stop the apps' end.
    pub(super) fn on_end_meant(&mut self, name: &str, restart: bool) {
        if self.ending {
            return;
        }
        self.notify(Notice::Stopping);
        if restart {
            info!("{name}: making way for the next daemon");
            return self.leave_workers();
        }
        info!("{name}: ending all apps");
        let job = self.open_job("kill", "all".to_owned(), self.owner);
        self.begin_shutdown(job);
    }

    fn on_hangup(&mut self) {
        // PM2's daemon ignores SIGHUP, and a private one must outlive the terminal it was started from.
        if self.mode == Mode::System || self.mode == Mode::User {
            warn!("SIGHUP means nothing here; `systemctl reload` has the installed program executed");
        }
    }

    fn on_reopen_signal(&mut self) {
        let logs = self.logs.clone();
        tokio::spawn(async move { logs.reopen(None).await });
    }
}

async fn sleep_or_never(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn instant_of(time: Time) -> Instant {
    Instant::now() + Duration::from_millis(time.since(now()))
}
