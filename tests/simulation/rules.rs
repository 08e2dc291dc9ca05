//! What holds whenever the daemon waits for something to happen.

use std::collections::BTreeMap;

use pm2rs::core::Fleet;

use crate::asked::rule;
use crate::kernel::Kernel;
use crate::shell::{Shell, Stage};

impl Shell {
    /// Nothing runs that it does not know of or runs too often, what is over is let go of, what changed is kept.
    pub fn check(&self, kernel: &Kernel) -> Result<(), String> {
        let starting = |pid: u32| {
            let is_it = |at| matches!(at, Stage::Forked(p) | Stage::Kept(p) | Stage::Runs(p) if p == pid);
            self.spawning.values().any(|spawning| is_it(spawning.at))
        };
        let mut serving = BTreeMap::new();
        for (pid, process) in kernel.processes.iter().filter(|(_, process)| process.is_alive() && !process.held) {
            let watched = self.watched.get(&process.worker).is_some_and(|watched| watched.pid == *pid);
            rule!(watched || starting(*pid), "pid {pid} of `{}` runs and nobody knows", process.app);
            if process.exit.is_none() && !process.asked_to_end && !process.draining {
                *serving.entry((&process.app, process.instance)).or_insert(0) += 1;
            }
        }
        for ((app, instance), count) in serving {
            rule!(count <= 2, "instance {instance} of `{app}` runs {count} times");
        }
        for worker in kernel.store.workers.keys() {
            rule!(self.fleet.worker(*worker).is_some(), "worker {worker} is over and still kept");
        }
        if let Some(kept) = kernel.store.state.as_ref().filter(|_| self.checks.get().is_multiple_of(128)) {
            let json = |fleet: &Fleet| serde_json::to_value(fleet).unwrap();
            let (kept, now) = (json(&kept.fleet), json(&self.fleet));
            rule!(kept == now, "a change was not saved: {}", difference(&kept, &now));
        }
        self.checks.set(self.checks.get() + 1);
        rule!(self.timers == self.fleet.timers().collect(), "timers are armed that the core does not know, or not");
        Ok(())
    }
}

/// Where two values differ first.
fn difference(a: &serde_json::Value, b: &serde_json::Value) -> String {
    use serde_json::Value;
    let differ = |(name, (a, b)): (String, (&Value, &Value))| (a != b).then(|| format!("{name}.{}", difference(a, b)));
    let found = match (a, b) {
        (Value::Object(x), Value::Object(y)) if x.len() == y.len() => {
            x.keys().cloned().zip(x.values().zip(y.values())).find_map(differ)
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            (0..).map(|n: usize| n.to_string()).zip(x.iter().zip(y)).find_map(differ)
        }
        _ => None,
    };
    found.unwrap_or_else(|| format!(" {a} is {b} now"))
}
