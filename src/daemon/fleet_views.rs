//! Answers made from the fleet: lists, views, snapshots, reports.

use nix::unistd::{getegid, geteuid};
use serde_json::Value;

use super::Daemon;
use super::handle::{Caller, Reply};
use super::requests::answer;
use super::views::{self, Extras, LogPaths};
use crate::api::{AppView, Error, JobView, ProcessView};
use crate::core::{AppId, Process, ProcessId};
use crate::logs;
use crate::sys::{clock, proc};

impl Daemon {
    /// Process id of the worker that serves a row, 0 for none.
    fn pid_of(&self, process: &Process) -> u32 {
        process.current.and_then(|worker| self.fleet.worker(worker)).and_then(|worker| worker.pid).unwrap_or(0)
    }

    pub(super) fn app_view(&self, app: AppId) -> Option<AppView> {
        let app = self.fleet.app(app)?;
        let processes: Vec<&Process> = self.fleet.processes_of(app.id).collect();
        Some(views::app_view(app, &processes))
    }

    pub(super) fn process_view(&self, process: ProcessId) -> Option<ProcessView> {
        let process = self.fleet.process(process)?;
        let app = self.fleet.app(process.app)?;
        Some(views::process_view(app, process, self.pid_of(process)))
    }

    pub(super) fn snapshot(&self) -> (Vec<AppView>, Vec<ProcessView>, Vec<JobView>) {
        let apps = self.fleet.apps().filter_map(|app| self.app_view(app.id)).collect();
        let processes = self.fleet.processes().filter_map(|process| self.process_view(process.id)).collect();
        (apps, processes, self.jobs.all().cloned().collect())
    }

    /// PM2's jlist of what the caller controls.
    pub(super) fn list(&mut self, caller: &Caller, reply: Reply<String>) {
        let mut entries = Vec::new();
        for process in self.fleet.processes() {
            let Some(app) = self.fleet.app(process.app) else { continue };
            if !caller.controls(app.owner) {
                continue;
            }
            let spec = self.fleet.spec_of_process(process.id).unwrap_or_else(|| app.spec());
            let pid = self.pid_of(process);
            let live = process.current.and_then(|worker| Some((worker, self.workers.get(worker)?)));
            let usage =
                live.map(|(worker, live)| self.sampler.look(worker, live.pid, live.start_time)).unwrap_or_default();
            let identity = live.map(|(_, live)| &live.identity);
            let extras = Extras {
                pid,
                usage,
                reported: self.reported.get(&process.id),
                regained: live.is_some_and(|(_, live)| live.regained),
                loss: self.losses.get(&process.id),
                instances: self.fleet.processes_of(app.id).count(),
                unique_id: self.spawner.unique_id(app.id),
                paths: log_paths(spec, process.id),
                account: identity.map(|identity| (identity.uid, identity.gid)),
                home: identity.filter(|_| spec.uid.is_some()).map(|identity| identity.home.as_path()),
            };
            entries.push(views::jlist_entry(app, process, spec, &extras));
        }
        answer(reply, serde_json::to_string(&Value::Array(entries)).map_err(|error| Error::Failed(error.to_string())));
    }

    /// What a person who reports a problem should send along.
    pub(super) fn report(&self, caller: &Caller) -> Result<String, Error> {
        let view = |process: &Process| self.process_view(process.id);
        let pid = std::process::id();
        let lived = proc::start_time(pid).map(|ticks| {
            let born = ticks.saturating_mul(1000) / proc::ticks_per_second().max(1);
            clock::boot_ms().saturating_sub(born) / 60_000
        });
        let facts = [
            ("pm2d version", env!("CARGO_PKG_VERSION").to_owned()),
            ("mode", self.mode.name().to_owned()),
            ("home", self.paths.home.display().to_string()),
            ("argv", std::env::args().collect::<Vec<_>>().join(",")),
            ("pid", pid.to_string()),
            ("uid", geteuid().to_string()),
            ("gid", getegid().to_string()),
            ("uptime", lived.map_or_else(|| "unknown".to_owned(), |minutes| format!("{minutes}min"))),
            ("status", self.status.clone()),
        ];
        let mut text: String = facts.iter().map(|(fact, value)| format!("{fact:<21}: {value}\n")).collect();
        for process in
            self.fleet.processes().filter_map(view).filter(|view| caller.controls(crate::core::Uid(view.owner)))
        {
            text.push_str(&format!(
                "{}|{} {} pid {} restarts {} {}\n",
                process.id, process.name, process.status, process.pid, process.restarts, process.reason
            ));
        }
        Ok(text)
    }
}

/// Where a process's output and pid file are.
pub(super) fn log_paths(spec: &crate::core::AppSpec, process: ProcessId) -> LogPaths {
    let text = |path: std::path::PathBuf| path.display().to_string();
    LogPaths {
        out: logs::out_path(spec, process, false).map(text),
        err: logs::out_path(spec, process, true).map(text),
        both: logs::combined_path(spec, process).map(text),
        pid: pid_path(spec, process).map(text),
    }
}

/// The pid file of a process: the configured path with the id before its extension, as PM2 names it.
pub(super) fn pid_path(spec: &crate::core::AppSpec, process: ProcessId) -> Option<std::path::PathBuf> {
    let path = spec.pid_file.as_ref()?;
    let stem = path.file_stem()?.to_string_lossy();
    let extension = path.extension().map_or_else(String::new, |e| format!(".{}", e.to_string_lossy()));
    Some(path.with_file_name(format!("{stem}-{process}{extension}")))
}
