//! What users asked for and were told had been taken, kept beside the daemon; and whether the daemon does it.

use std::collections::BTreeMap;

use pm2rs::core::{Desired, Fleet, JobId, State};

use crate::kernel::{Kernel, Nature};

#[derive(Debug, Clone)]
pub struct Wish {
    pub rows: usize,
    pub running: bool,
    /// The last request about it, while it is under way.
    pub job: Option<JobId>,
    /// A request did not succeed, which may have left any number of rows.
    pub loose: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Asked(pub BTreeMap<String, Wish>);

/// The first of these that is false.
macro_rules! rule {
    ($holds:expr, $($text:tt)*) => { if !$holds { return Err(format!($($text)*)); } };
}
pub(crate) use rule;

impl Asked {
    /// A request under way when this was written down is not known of by whoever reads it.
    pub fn forget_jobs(&mut self) {
        for wish in self.0.values_mut().filter(|wish| wish.job.is_some()) {
            wish.job = None;
            wish.loose = true;
        }
    }

    /// What holds whenever the daemon waits.
    pub fn check(&self, fleet: &Fleet) -> Result<(), String> {
        for name in self.0.keys() {
            let count = fleet.apps().filter(|app| app.name() == name && is_wanted(fleet, app.id)).count();
            rule!(count == 1, "there are {count} apps named `{name}`");
        }
        for app in fleet.apps().filter(|app| !self.0.contains_key(app.name())) {
            rule!(!is_wanted(fleet, app.id), "`{}` was never asked for, or deleted", app.name());
        }
        Ok(())
    }

    /// What holds once nothing is left to happen.
    pub fn check_rest(&self, fleet: &Fleet, kernel: &Kernel) -> Result<(), String> {
        self.check(fleet)?;
        rule!(fleet.jobs().next().is_none(), "a job never ends");
        rule!(fleet.timers().next().is_none(), "a timer never elapses");
        let mut wanted = BTreeMap::new();
        for (name, wish) in &self.0 {
            let rows: Vec<_> = fleet.processes().filter(|row| app_of(fleet, row.app) == name).collect();
            rule!(wish.loose || rows.len() == wish.rows, "`{name}` has {} rows, not {}", rows.len(), wish.rows);
            for row in rows {
                let desired = if wish.running { Desired::Running } else { Desired::Stopped };
                rule!(wish.loose || row.desired == desired, "`{name}` is to be {:?}", row.desired);
                let nature = fleet.spec_of_process(row.id).map(|spec| Nature::of(spec));
                let may_fail = nature != Some(Nature::Good) || wish.loose;
                match (row.desired, row.state) {
                    (Desired::Running, State::Ready) => drop(wanted.insert((name.clone(), row.instance), row.id)),
                    (Desired::Running, State::Stopped | State::Errored) if may_fail => {}
                    (Desired::Stopped, State::Stopped) => {}
                    (desired, state) => {
                        return Err(format!("row {} of `{name}` is {state:?}, to be {desired:?}", row.id));
                    }
                }
            }
        }
        let mut alive: Vec<_> = kernel.processes.values().filter(|process| process.is_alive()).collect();
        alive.sort_by_key(|process| (process.app.clone(), process.instance));
        let running: Vec<_> = alive.iter().map(|process| (process.app.clone(), process.instance)).collect();
        let wanted: Vec<_> = wanted.into_keys().collect();
        rule!(running == wanted, "{running:?} run, wanted are {wanted:?}");
        Ok(())
    }
}

fn app_of(fleet: &Fleet, app: pm2rs::core::AppId) -> &str {
    fleet.app(app).map_or("", |app| app.name())
}

fn is_wanted(fleet: &Fleet, app: pm2rs::core::AppId) -> bool {
    fleet.processes_of(app).any(|row| row.desired != Desired::Removed)
}
