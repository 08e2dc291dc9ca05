//! What callers ask, checked and turned into events: who may, about which processes, with what.
//!
//! The one place where ownership is decided. A request that is refused has changed nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::accounts::Accounts;
use super::handle::{Caller, Reply, Request, StartOptions, UpdateOptions, What};
use super::reports::is_hung;
use super::targets::{self, Row};
use super::{Daemon, Mode, panics};
use crate::api::Error;
use crate::config;
use crate::core::{AppId, AppSpec, Desired, Event, Instances, JobId, ProcessId, ReloadOptions, Uid, WorkerId};
use crate::node;

/// Processes of one owner; a bound against mistakes such as `-i 10000` and against hostile users.
const MAX_PROCESSES: usize = 2048;

impl Daemon {
    /// Does what is asked; the reply is sent here or by the task that does the work.
    /// `accounts` come with what is to run a spec.
    pub(super) fn take(&mut self, request: Request, accounts: Option<&Accounts>) {
        let Request { caller, what } = request;
        let caller = &caller;
        match what {
            What::Start(spec, options, reply) => answer(reply, self.start(caller, *spec, options, accounts)),
            What::Restart(targets, options, reply) => answer(reply, self.restart(caller, &targets, options, accounts)),
            What::Reload(targets, options, reply) => answer(reply, self.reload(caller, &targets, options, accounts)),
            What::Stop(targets, reply) => {
                let result =
                    self.on_targets(caller, "stop", &targets, |job, processes| Event::StopRequested { job, processes });
                answer(reply, result);
            }
            What::Delete(targets, reply) => {
                let result = self
                    .on_targets(caller, "delete", &targets, |job, processes| Event::DeleteRequested { job, processes });
                answer(reply, result);
            }
            What::Scale(app, count, reply) => answer(reply, self.scale(caller, &app, &count)),
            What::Reset(targets, reply) => {
                panics::at("reset");
                let result =
                    self.resolve(caller, &targets).map(|processes| self.feed(Event::ResetRequested { processes }));
                answer(reply, result);
            }
            What::SendSignal(targets, signal, reply) => answer(reply, self.send_signal(caller, &targets, &signal)),
            What::SendLine(process, line, reply) => self.send_line(caller, process, line, reply),
            What::SendMessage(process, text, reply) => answer(reply, self.send_message(caller, process, &text)),
            What::Trigger(targets, action, params, reply) => self.trigger(caller, &targets, &action, &params, reply),
            What::Resolve(targets, reply) => {
                answer(reply, self.resolve(caller, &targets).map(|ids| ids.into_iter().map(|id| id.0).collect()));
            }
            What::List(reply) => self.list(caller, reply),
            What::Environment(process, reply) => answer(reply, self.environment(caller, process)),
            What::Spec(process, reply) => answer(reply, self.spec_text(caller, process)),
            What::OpenLogs(request, reply) => self.open_logs(caller, request, reply),
            What::FlushLogs(targets, reply) => self.flush_logs(caller, &targets, reply),
            What::ReopenLogs(reply) => self.reopen_logs(caller, reply),
            What::Save(force, reply) => answer(reply, self.save(caller, force)),
            What::ClearSaved(reply) => answer(reply, self.clear_saved(caller)),
            What::Resurrect(reply) => self.read_saved_list(caller.clone(), reply),
            What::Kill(reply) => answer(reply, self.kill(caller)),
            What::Reexecute(reply) => self.reexecute(caller, reply),
            What::Report(reply) => answer(reply, self.report(caller)),
            What::HostMetrics(reply) => answer(reply, Ok(self.sampler.host().to_string())),
            What::CancelJob(job, reply) => answer(reply, self.cancel_job(caller, job)),
            What::Snapshot(reply) => answer(reply, Ok(self.snapshot())),
        }
    }

    /// The processes that `targets` name among those the caller controls.
    pub(super) fn resolve(&self, caller: &Caller, targets: &[String]) -> Result<Vec<ProcessId>, Error> {
        let found = targets::resolve(&self.rows(caller, |owner| caller.controls(owner)), targets);
        if let Err(Error::NoSuchTarget(target)) = &found
            && targets::resolve(&self.rows(caller, |_| true), targets).is_ok()
        {
            // It exists (the object tree shows as much to everybody): a policy may be asked.
            return Err(Error::AccessDenied(format!("`{target}` belongs to another user")));
        }
        found
    }

    fn rows(&self, caller: &Caller, wanted: impl Fn(Uid) -> bool) -> Vec<Row<'_>> {
        let rows = self.fleet.processes().filter_map(|process| {
            let app = self.fleet.app(process.app)?;
            wanted(app.owner).then(|| Row {
                id: process.id,
                name: app.name(),
                namespace: &app.spec().namespace,
                script: &app.spec().script,
                own: app.owner == caller.uid,
            })
        });
        rows.collect()
    }

    fn one_process(&self, caller: &Caller, process: u32) -> Result<ProcessId, Error> {
        let id = ProcessId(process);
        let app = self.fleet.process(id).and_then(|process| self.fleet.app(process.app));
        match app {
            Some(app) if caller.controls(app.owner) => Ok(id),
            Some(_) => Err(Error::AccessDenied(format!("process {process} belongs to another user"))),
            None => Err(Error::NoSuchTarget(process.to_string())),
        }
    }

    fn on_targets(
        &mut self,
        caller: &Caller,
        kind: &str,
        targets: &[String],
        event: impl FnOnce(JobId, Vec<ProcessId>) -> Event,
    ) -> Result<u32, Error> {
        self.refuse_when_ending()?;
        let processes = self.resolve(caller, targets)?;
        let job = self.open_job(kind, targets.join(" "), caller.uid);
        let hung = self.hung_workers_of(&processes);
        self.feed(event(job, processes));
        // Those finish nothing, and who ends one wants to be rid of it.
        for worker in hung {
            self.feed(Event::WorkerDrained { worker });
        }
        Ok(job.0)
    }

    fn hung_workers_of(&self, processes: &[ProcessId]) -> Vec<WorkerId> {
        let hung = processes.iter().filter(|process| is_hung(self.reported.get(process)));
        let rows = hung.filter_map(|process| self.fleet.process(*process));
        rows.filter_map(|row| row.current).collect()
    }

    fn refuse_when_ending(&self) -> Result<(), Error> {
        if self.ending { Err(Error::ShuttingDown) } else { Ok(()) }
    }

    fn start(
        &mut self,
        caller: &Caller,
        mut spec: AppSpec,
        options: StartOptions,
        accounts: Option<&Accounts>,
    ) -> Result<u32, Error> {
        self.refuse_when_ending()?;
        if !options.force {
            let launched = self.fleet.processes().any(|process| {
                self.fleet.app(process.app).is_some_and(|app| {
                    app.owner == caller.uid
                        && app.name() == spec.name
                        && app.spec().script == spec.script
                        && process.desired == Desired::Running
                })
            });
            if launched {
                return Err(Error::AlreadyLaunched(spec.script.display().to_string()));
            }
        }
        self.check_new(caller, &spec, looked_up(accounts)?)?;
        // What `max` means is the machine's to say, not the core's.
        spec.instances = Instances(i32::try_from(spec.instances.on(self.cpus)).unwrap_or(i32::MAX));
        let job = self.open_job("start", spec.name.clone(), caller.uid);
        self.feed(Event::AppStartRequested { job, spec: Arc::new(spec), owner: caller.uid });
        Ok(job.0)
    }

    /// Whether `caller` may add an app of this spec.
    pub(super) fn check_new(&self, caller: &Caller, spec: &AppSpec, accounts: &Accounts) -> Result<(), Error> {
        check_spec(spec)?;
        accounts.check(caller, spec)?;
        self.check_count(caller.uid, spec.instances.on(self.cpus) as usize)
    }

    fn check_count(&self, owner: Uid, more: usize) -> Result<(), Error> {
        let have = self
            .fleet
            .processes()
            .filter(|process| self.fleet.app(process.app).is_some_and(|app| app.owner == owner))
            .count();
        if have.saturating_add(more) > MAX_PROCESSES {
            return Err(Error::InvalidArgument(format!(
                "{more} more processes would be over the bound of {MAX_PROCESSES} per user"
            )));
        }
        Ok(())
    }

    /// The new specs of the apps that `processes` belong to; empty when nothing is to change.
    fn updates(
        &self,
        caller: &Caller,
        processes: &[ProcessId],
        options: UpdateOptions,
        accounts: Option<&Accounts>,
    ) -> Result<BTreeMap<AppId, Arc<AppSpec>>, Error> {
        let UpdateOptions { env, spec, batch: _ } = options;
        let mut updates = BTreeMap::new();
        if env.is_none() && spec.is_none() {
            return Ok(updates);
        }
        let apps: std::collections::BTreeSet<AppId> =
            processes.iter().filter_map(|id| self.fleet.process(*id)).map(|process| process.app).collect();
        let own = |id: &AppId| self.fleet.app(*id).is_some_and(|app| app.owner == caller.uid);
        let has_own = apps.iter().any(own);
        for id in apps {
            let Some(app) = self.fleet.app(id) else { continue };
            // `all` may mean others' apps, too; what is in root's environment is root's.
            if has_own && caller.uid == Uid(0) && app.owner != caller.uid {
                continue;
            }
            let mut new = spec.as_deref().cloned().unwrap_or_else(|| (**app.spec()).clone());
            if let Some(env) = &env {
                // Root may renew somebody's app, which stays at home where its owner is.
                let (owner, filter) = (app.owner, &new.filter_env);
                let passing = env.iter().filter(|(name, _)| {
                    filter.passes(name) && (caller.uid == owner || !node::OF_ACCOUNT.contains(&name.as_str()))
                });
                let passing: Vec<_> = passing.map(|(name, value)| (name.clone(), value.clone())).collect();
                new.env.extend(passing);
            }
            // A policy may let somebody restart what is another's; what runs in their name stays the owner's word.
            if caller.uid != app.owner && caller.uid != Uid(0) {
                return Err(Error::AccessDenied(format!("only its owner may change what `{}` runs", app.name())));
            }
            check_spec(&new)?;
            if spec.is_some() {
                looked_up(accounts)?.check(caller, &new)?;
            }
            updates.insert(id, Arc::new(new));
        }
        Ok(updates)
    }

    fn restart(
        &mut self,
        caller: &Caller,
        targets: &[String],
        options: UpdateOptions,
        accounts: Option<&Accounts>,
    ) -> Result<u32, Error> {
        self.refuse_when_ending()?;
        let processes = self.resolve(caller, targets)?;
        let update = self.updates(caller, &processes, options, accounts)?;
        let job = self.open_job("restart", targets.join(" "), caller.uid);
        self.feed(Event::RestartRequested { job, processes, update });
        Ok(job.0)
    }

    fn reload(
        &mut self,
        caller: &Caller,
        targets: &[String],
        options: UpdateOptions,
        accounts: Option<&Accounts>,
    ) -> Result<u32, Error> {
        self.refuse_when_ending()?;
        let processes = self.resolve(caller, targets)?;
        let how = ReloadOptions { batch: options.batch };
        let update = self.updates(caller, &processes, options, accounts)?;
        let job = self.open_job("reload", targets.join(" "), caller.uid);
        self.feed(Event::ReloadRequested { job, processes, update, options: how });
        Ok(job.0)
    }

    fn scale(&mut self, caller: &Caller, target: &str, count: &str) -> Result<u32, Error> {
        self.refuse_when_ending()?;
        let processes = self.resolve(caller, &[target.to_owned()])?;
        let app = processes
            .first()
            .and_then(|id| self.fleet.process(*id))
            .and_then(|process| self.fleet.app(process.app))
            .ok_or_else(|| Error::NoSuchTarget(target.to_owned()))?;
        // Starts with `force` make several apps of one name, which count together, as in PM2.
        let (id, name, owner) = (app.id, app.name().to_owned(), app.owner);
        let alike = |app: AppId| self.fleet.app(app).is_some_and(|app| app.name() == name && app.owner == owner);
        let all: Vec<ProcessId> =
            self.fleet.processes().filter(|process| alike(process.app)).map(|process| process.id).collect();
        if processes.iter().any(|process| !all.contains(process)) {
            // A namespace, or `all`: no one app.
            return Err(Error::NoSuchTarget(target.to_owned()));
        }
        let of_first = self.fleet.processes_of(id).count();
        let have = all.len();
        let wanted = wanted_count(have, count)?;
        if wanted == have {
            return Err(Error::NothingToDo);
        }
        self.check_count(caller.uid, wanted.saturating_sub(have))?;
        let job = self.open_job("scale", format!("{target} {count}"), caller.uid);
        let others = have - of_first;
        self.feed(if wanted > others {
            let instances = u32::try_from(wanted - others).unwrap_or(u32::MAX);
            Event::ScaleRequested { job, app: id, instances }
        } else {
            Event::DeleteRequested { job, processes: all.into_iter().take(have - wanted).collect() }
        });
        Ok(job.0)
    }

    fn environment(&self, caller: &Caller, process: u32) -> Result<BTreeMap<String, String>, Error> {
        let id = self.one_process(caller, process)?;
        let spec = self.fleet.process(id).and_then(|process| self.fleet.spec_of_process(process.id));
        Ok(spec.map(|spec| super::views::environment(spec)).unwrap_or_default())
    }

    /// What a process runs, as JSON: with its environment, so for those who control it only.
    fn spec_text(&self, caller: &Caller, process: u32) -> Result<String, Error> {
        let id = self.one_process(caller, process)?;
        let spec = self.fleet.spec_of_process(id).ok_or_else(|| Error::NoSuchTarget(process.to_string()))?;
        serde_json::to_string(&**spec).map_err(|error| Error::Failed(error.to_string()))
    }

    fn send_signal(&mut self, caller: &Caller, targets: &[String], signal: &str) -> Result<(), Error> {
        let number = parse_signal(signal)?;
        for process in self.resolve(caller, targets)? {
            if let Some(worker) = self.fleet.process(process).and_then(|process| process.current) {
                self.workers.signal_main(worker, number);
            }
        }
        Ok(())
    }

    fn send_line(&mut self, caller: &Caller, process: u32, line: String, reply: Reply<()>) {
        let worker = self.one_process(caller, process).and_then(|id| self.running_worker(id));
        match worker {
            Ok(worker) => self.workers.write_line(worker, line, reply),
            Err(error) => answer(reply, Err(error)),
        }
    }

    pub(super) fn running_worker(&self, process: ProcessId) -> Result<crate::core::WorkerId, Error> {
        self.fleet
            .process(process)
            .and_then(|process| process.current)
            .ok_or_else(|| Error::NotPossible(format!("process {process} is not running")))
    }

    fn send_message(&mut self, caller: &Caller, process: u32, text: &str) -> Result<(), Error> {
        let message: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| Error::InvalidArgument(format!("the message is not JSON: {error}")))?;
        let id = self.one_process(caller, process)?;
        let worker = self.running_worker(id)?;
        self.primary.send(worker, message);
        Ok(())
    }

    fn cancel_job(&mut self, caller: &Caller, job: u32) -> Result<(), Error> {
        let view = self.jobs.get(JobId(job)).ok_or(Error::NoSuchJob(job))?;
        if !caller.controls(Uid(view.owner)) {
            return Err(Error::NoSuchJob(job));
        }
        self.feed(Event::JobCancelRequested { job: JobId(job) });
        Ok(())
    }

    /// Root, or whose daemon it is: in user and private mode the one user there is.
    pub(super) fn only_daemons_owner(&self, caller: &Caller, what: &str) -> Result<(), Error> {
        if caller.controls(self.owner) {
            return Ok(());
        }
        Err(Error::AccessDenied(format!("only root may {what}")))
    }

    fn kill(&mut self, caller: &Caller) -> Result<u32, Error> {
        self.refuse_when_ending()?;
        if self.mode == Mode::System {
            self.only_daemons_owner(caller, "end the system's daemon; `delete all` ends what is yours")?;
        }
        let job = self.open_job("kill", "all".to_owned(), caller.uid);
        self.begin_kill(job);
        Ok(job.0)
    }
}

/// Sends an answer; whoever asked may have gone.
pub(super) fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    drop(reply.send(result));
}

fn check_spec(spec: &AppSpec) -> Result<(), Error> {
    config::validate_spec(spec).map_err(|error| Error::InvalidArgument(error.to_string()))
}

/// Nothing runs as somebody who was not looked up.
fn looked_up(accounts: Option<&Accounts>) -> Result<&Accounts, Error> {
    accounts.ok_or_else(|| Error::Failed("cannot tell who would run it".to_owned()))
}

fn wanted_count(have: usize, count: &str) -> Result<usize, Error> {
    let invalid = || Error::InvalidArgument(format!("`{count}` is not a count; give N, +N or -N"));
    let digits = count.trim_start_matches(['+', '-']);
    let number: usize = digits.parse().map_err(|_| invalid())?;
    let wanted = match count.as_bytes().first() {
        Some(b'+') => have.saturating_add(number),
        Some(b'-') => have.saturating_sub(number),
        _ => number,
    };
    if wanted == 0 {
        return Err(Error::InvalidArgument("an app keeps at least one process; use `delete` to remove it".to_owned()));
    }
    Ok(wanted)
}

fn parse_signal(text: &str) -> Result<i32, Error> {
    use std::str::FromStr;
    let invalid = || Error::InvalidArgument(format!("`{text}` is not a signal"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    nix::sys::signal::Signal::from_str(&name).map(|signal| signal as i32).map_err(|_| invalid())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_as_typed() {
        assert_eq!(wanted_count(2, "4"), Ok(4));
        assert_eq!(wanted_count(2, "+3"), Ok(5));
        assert_eq!(wanted_count(4, "-1"), Ok(3));
        assert!(wanted_count(2, "-2").is_err());
        assert!(wanted_count(2, "0").is_err());
        assert!(wanted_count(2, "many").is_err());
    }

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(parse_signal("SIGUSR2"), Ok(12));
        assert_eq!(parse_signal("hup"), Ok(1));
        assert_eq!(parse_signal("9"), Ok(9));
        assert!(parse_signal("SIGNOPE").is_err());
        assert!(parse_signal("0").is_err());
    }
}
