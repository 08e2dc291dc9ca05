//! PM2's `save` and `resurrect`: a list that a person keeps on purpose, one a user.

use std::path::PathBuf;
use std::sync::Arc;

use super::accounts::Accounts;
use super::handle::Caller;
use super::{Daemon, Mode};
use crate::api::Error;
use crate::config::dump;
use crate::core::{Desired, Event, Instances, SavedApp, SavedProcess, Uid};

impl Daemon {
    pub(super) fn dump_file(&self, owner: Uid) -> PathBuf {
        self.paths.dump_file(&self.mode, owner.0)
    }

    /// Writes the caller's list.
    pub(super) fn save(&mut self, caller: &Caller, force: bool) -> Result<String, Error> {
        if self.ending {
            // What a shutdown has stopped already must not be forgotten.
            return Err(Error::ShuttingDown);
        }
        let list: Vec<dump::SavedProcess> = self
            .fleet
            .processes()
            .filter_map(|process| {
                let app = self.fleet.app(process.app)?;
                (app.owner == caller.uid).then(|| dump::SavedProcess {
                    spec: (**app.spec()).clone(),
                    instance: process.instance,
                    status: if process.desired == Desired::Running { "online" } else { "stopped" }.to_owned(),
                    restarts: process.restarts,
                    created_at: process.created_at,
                })
            })
            .collect();
        if list.is_empty() && !force {
            return Err(Error::NoProcess);
        }
        self.write_list(caller.uid, &list)
    }

    fn write_list(&self, owner: Uid, list: &[dump::SavedProcess]) -> Result<String, Error> {
        let path = self.dump_file(owner);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| Error::Failed(format!("cannot create `{}`: {error}", folder.display())))?;
        }
        dump::save(&path, list).map_err(|error| Error::Failed(error.to_string()))?;
        Ok(path.display().to_string())
    }

    /// Empties the caller's saved list.
    pub(super) fn clear_saved(&mut self, caller: &Caller) -> Result<(), Error> {
        if self.ending {
            return Err(Error::ShuttingDown);
        }
        self.write_list(caller.uid, &[]).map(drop)
    }

    /// Starts what the caller saved and is not in the list.
    pub(super) fn resurrect(&mut self, caller: &Caller, list: Vec<(dump::SavedApp, Accounts)>) -> Result<u32, Error> {
        if self.ending {
            return Err(Error::ShuttingDown);
        }
        let mut apps = Vec::new();
        for (saved, accounts) in list {
            if self.fleet.apps().any(|app| app.owner == caller.uid && app.name() == saved.spec.name) {
                continue;
            }
            let mut spec = saved.spec;
            spec.instances = Instances(i32::try_from(saved.processes.len()).unwrap_or(i32::MAX));
            self.check_new(caller, &spec, &accounts)?;
            let processes = saved.processes.into_iter().map(|(instance, stopped)| SavedProcess {
                id: None,
                instance,
                desired: if stopped { Desired::Stopped } else { Desired::Running },
                restarts: 0,
                created_at: None,
            });
            apps.push(SavedApp { spec: Arc::new(spec), owner: caller.uid, processes: processes.collect() });
        }
        let job = self.open_job("resurrect", "saved list".to_owned(), caller.uid);
        self.feed(Event::RestoreRequested { job, apps });
        Ok(job.0)
    }
}

/// Whether a mode takes running apps up again after a reboot by itself; PM2's users of a private daemon `resurrect`.
pub(super) fn restores_at_boot(mode: &Mode) -> bool {
    !matches!(mode, Mode::Private { .. })
}
