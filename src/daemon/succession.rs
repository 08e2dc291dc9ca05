//! Making way for the next daemon while workers run on: the program that is installed now, executed under our process
//! id, or the one that systemd starts when it restarts the service.
//!
//! Owns the order in which things come to a standstill: callers, workers that are being started, the primary, the log
//! path, the state. Up to its last step everything can go on as before. Must never let go of anything that the next
//! daemon needs, nor execute a program that has not said that it can take over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use tokio::sync::watch;
use tracing::{info, warn};

use super::facts::Fact;
use super::handle::{Caller, Reply};
use super::requests::answer;
use super::run::Inputs;
use super::{Daemon, Mode, check, now, previous};
use crate::api::Error;
use crate::core::Time;
use crate::logs::daemon_log;
use crate::node::Pause;
use crate::sys::handover;
use crate::sys::notify::Notice;

/// So long (ms) calls in hand are waited for, which may be waiting for jobs: their callers ask the next daemon.
const COURTESY_MS: u64 = 5_000;
/// And so long (ms) after their last word those who are connected: a command may be between two calls, where a busy machine
/// lets it wait, and the next one would fail. Who is connected only to follow something delays us by as much.
const BETWEEN_CALLS_MS: u64 = 3_000;
/// After so long (ms) nobody is waited for, and workers that are still being started keep us from making way.
const PATIENCE_MS: u64 = 20_000;
/// How long a caller may take to read our answer.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long the log path may take to come to a standstill.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the service manager may take to note what it was given last.
const BARRIER: Duration = Duration::from_secs(2);
/// What is still told while everything comes to a standstill is taken so many times before it is left to the next daemon.
const ROUNDS: usize = 100;
/// This very program, whatever has become of its file (proc_pid_exe(5)).
const OURSELVES: &str = "/proc/self/exe";

/// How far we are.
#[derive(Debug, Default)]
pub(super) enum Succession {
    /// Nobody is to follow.
    #[default]
    None,
    /// The next program is being asked.
    Asking,
    /// It is to happen as soon as nobody is kept waiting by it.
    Due(Due),
}

#[derive(Debug)]
pub(super) struct Due {
    how: How,
    /// `None` where nobody can come in yet.
    callers: Option<Callers>,
    since: Time,
    /// Since when nobody has called, been answered, come or gone.
    quiet_since: Option<Time>,
}

/// Whom we keep waiting, or would.
#[derive(Debug)]
struct Callers {
    /// Calls that are being answered.
    in_hand: watch::Receiver<usize>,
    connected: watch::Receiver<usize>,
}

#[derive(Debug)]
enum How {
    /// We execute the program that is installed now. Who asked for it waits for an answer, until it is given.
    Execute(Option<Reply<()>>),
    /// We end; the service manager starts the next one.
    Leave,
}

impl Succession {
    /// When to look again though nothing has happened.
    pub(super) fn wake(&self) -> Option<Time> {
        let Succession::Due(due) = self else { return None };
        let quiet = due.quiet_since.map(|since| since.after(BETWEEN_CALLS_MS));
        let all = [Some(due.since.after(COURTESY_MS)), Some(due.since.after(PATIENCE_MS)), quiet];
        all.into_iter().flatten().filter(|at| *at > now()).min()
    }

    /// Resolves when others are kept waiting than before; never where that does not matter.
    pub(super) async fn callers_changed(&mut self) {
        if let Succession::Due(Due { callers: Some(callers), quiet_since, .. }) = self {
            let changed = tokio::select! {
                changed = callers.in_hand.changed() => changed,
                changed = callers.connected.changed() => changed,
            };
            if changed.is_ok() {
                *quiet_since = None;
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

impl Due {
    /// Whether nobody is kept waiting who has not been given time.
    fn is_polite(&mut self, calls: usize, waited: u64) -> bool {
        // Who asked for this waits until it happens.
        let own = usize::from(matches!(self.how, How::Execute(Some(_))));
        let connected = self.callers.as_ref().map_or(0, |callers| *callers.connected.borrow());
        let quiet = now().since(*self.quiet_since.get_or_insert_with(now));
        let answered = calls <= own || waited >= COURTESY_MS;
        answered && (connected <= own || quiet >= BETWEEN_CALLS_MS) || waited >= PATIENCE_MS
    }
}

/// The installed program's path: that by which this process was started, even if another file has taken its place.
pub(super) fn own_program() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_else(|_| OURSELVES.into());
    // A mark of the kernel's (proc_pid_exe(5)).
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(installed) => installed.into(),
        None => path,
    }
}

impl Daemon {
    /// Manager.Reexecute: has the installed program asked whether it can take over.
    pub(super) fn reexecute(&mut self, caller: &Caller, reply: Reply<()>) {
        let question = self.only_daemons_owner(caller, "re-execute the daemon").and_then(|()| {
            if self.ending {
                return Err(Error::ShuttingDown);
            }
            if !matches!(self.succession, Succession::None) {
                return Err(Error::NotPossible("the daemon is making way for the next one already".to_owned()));
            }
            if !self.persist.remembers() {
                return Err(Error::NotPossible("the state cannot be kept in memory for another program".to_owned()));
            }
            self.question().map_err(|error| Error::Failed(format!("cannot describe the state: {error:#}")))
        });
        let question = match question {
            Ok(question) => question,
            Err(error) => return answer(reply, Err(error)),
        };
        self.succession = Succession::Asking;
        let (program, facts) = (self.program.clone(), self.facts.clone());
        let way_back = self.can_go_back().then(|| self.paths.clone());
        tokio::spawn(async move {
            let result = check::ask(&program, question).await;
            if result.is_ok()
                && !previous::is_own(&program)
                && let Some(paths) = way_back
                && let Ok(Err(error)) = tokio::task::spawn_blocking(move || previous::keep(&paths)).await
            {
                warn!(%error, "cannot keep a copy of this program; there is no way back if the next one fails");
            }
            drop(facts.send(Fact::Asked(reply, result)));
        });
    }

    /// The next program has answered.
    pub(super) fn on_asked(&mut self, reply: Reply<()>, result: Result<(), String>) {
        if self.ending || !matches!(self.succession, Succession::Asking) {
            return answer(reply, Err(Error::ShuttingDown));
        }
        self.succession = Succession::None;
        let program = self.program.display();
        match result {
            Ok(()) => self.make_way(How::Execute(Some(reply))),
            Err(why) => {
                warn!(program = %program, why, "the installed program cannot take over; this one goes on");
                let message = format!("cannot re-execute `{program}`, this daemon goes on: {why}");
                answer(reply, Err(Error::Failed(message)));
            }
        }
    }

    /// The service is being restarted: we end as soon as we can, and our workers do not notice.
    pub(super) fn leave_workers(&mut self) {
        match &self.succession {
            Succession::Due(Due { how: How::Leave, .. }) => {}
            _ => self.make_way(How::Leave),
        }
    }

    /// Whether workers would be found by a daemon that systemd starts after us.
    pub(super) fn can_leave_workers(&self) -> bool {
        !matches!(self.mode, Mode::Private { .. }) && self.notifier.is_some() && self.persist.remembers()
    }

    fn make_way(&mut self, how: How) {
        self.call_off(&Error::ShuttingDown);
        if let Some(server) = &self.server {
            // From here on callers wait for the next daemon.
            server.let_in(false);
        }
        let callers =
            self.server.as_ref().map(|server| Callers { in_hand: server.in_hand(), connected: server.connected() });
        self.succession = Succession::Due(Due { how, callers, since: now(), quiet_since: None });
    }

    /// It is not to happen after all.
    pub(super) fn call_off(&mut self, why: &Error) {
        if let Succession::Due(Due { how, .. }) = std::mem::take(&mut self.succession) {
            if let Some(server) = &self.server {
                server.let_in(true);
            }
            if let How::Execute(Some(reply)) = how {
                answer(reply, Err(why.clone()));
            }
        }
    }

    /// Makes way if that is due and nobody is kept waiting by it. Executing, this returns only when it is not to happen
    /// now; leaving, it has the loop end.
    ///
    /// # Errors
    /// When no program could be executed, neither another nor this one again: nothing stands any more.
    pub(super) async fn succeed(&mut self, inputs: &mut Inputs) -> anyhow::Result<()> {
        let Succession::Due(due) = &mut self.succession else { return Ok(()) };
        let waited = now().since(due.since);
        let leaving = matches!(due.how, How::Leave);
        if !self.workers.all_started() {
            if waited < PATIENCE_MS {
                return Ok(());
            }
            if !leaving {
                self.call_off(&Error::NotPossible("workers are still being started".to_owned()));
                return Ok(());
            }
        }
        let calls = due.callers.as_ref().map_or(0, |callers| *callers.in_hand.borrow());
        if !due.is_polite(calls, waited) {
            return Ok(());
        }
        if let How::Execute(reply) = &mut due.how
            && let Some(reply) = reply.take()
        {
            answer(reply, Ok(()));
            if let Some(callers) = &mut due.callers {
                drop(tokio::time::timeout(FAREWELL, callers.in_hand.wait_for(|count| *count < calls)).await);
            }
        }
        let Some(_still) = self.stand_still(inputs, leaving).await else { return Ok(()) };
        if leaving {
            self.leave().await;
            return Ok(());
        }
        self.execute()
    }

    /// Has everything stop at a point from which another daemon can go on, and writes that point down. `None` when workers
    /// are being started again.
    async fn stand_still(&mut self, inputs: &mut Inputs, at_any_rate: bool) -> Option<Pause> {
        let mut round = 0;
        let pause = loop {
            let pause = self.primary.pause().await;
            let quiet = !self.take_what_is_told(inputs);
            round += 1;
            if quiet || round == ROUNDS {
                break pause;
            }
            // What followed from it may be the primary's to do.
            pause.resume();
            if !self.workers.all_started() && !at_any_rate {
                return None;
            }
        };
        if tokio::time::timeout(LAST_LINES, self.logs.stand_still()).await.is_err() {
            warn!("the log path does not come to a standstill; lines may be seen twice");
        }
        while let Ok(event) = inputs.logs.try_recv() {
            self.on_log_event(event);
        }
        let saved = self.saved();
        self.persist.remember(&saved);
        Some(pause)
    }

    /// Takes what has been told and not yet heard. False when there was nothing.
    fn take_what_is_told(&mut self, inputs: &mut Inputs) -> bool {
        let mut any = false;
        while let Ok(fact) = inputs.facts.try_recv() {
            self.on_fact(fact);
            any = true;
        }
        while let Ok(event) = inputs.node.try_recv() {
            self.on_node_event(event);
            any = true;
        }
        any
    }

    fn execute(&self) -> anyhow::Result<()> {
        info!(program = %self.program.display(), "executing the installed program; workers run on");
        if matches!(self.mode, Mode::Private { .. }) {
            // For a keeper. systemd would wait for the end of a reload of its own though the daemon has died in it, until the
            // watchdog's time is over; it waits for `update` anyway, which knows when it is over.
            self.notify(Notice::Reloading);
        }
        self.prefer_this_program();
        daemon_log::flush();
        let args: Vec<_> = std::env::args_os().collect();
        let execute = |program: &Path| {
            self.store.with_all(|fds| handover::execute(program, &args, fds, self.spawner.own_open_files()))
        };
        let error = execute(&self.program);
        self.trust_the_installed_program();
        warn!(program = %self.program.display(), %error, "cannot execute it; going on with the program of before");
        let again = execute(Path::new(OURSELVES));
        bail!("cannot execute `{}`: {error}; nor `{OURSELVES}`: {again}", self.program.display())
    }

    /// Whether systemd can be had to start this program again in place of the installed one.
    pub(super) fn can_go_back(&self) -> bool {
        !matches!(self.mode, Mode::Private { .. }) && self.notifier.is_some()
    }

    fn prefer_this_program(&self) {
        if self.can_go_back()
            && !previous::is_own(&self.program)
            && let Err(error) = previous::prefer(&self.paths, &self.program)
        {
            warn!(%error, "there is no way back to this program if the next one fails");
        }
    }

    /// What runs here is the installed program, and works.
    pub(super) fn trust_the_installed_program(&self) {
        if self.can_go_back()
            && let Err(error) = previous::let_go(&self.paths)
        {
            warn!(%error, "cannot remove the copy of the program of before");
        }
    }

    async fn leave(&mut self) {
        info!("the service is being restarted; workers run on");
        if let Some(notifier) = &self.notifier
            && let Err(error) = notifier.barrier(BARRIER).await
        {
            warn!(%error, "the service manager may not have noted everything yet");
        }
        self.left = true;
        self.exit = true;
    }
}
