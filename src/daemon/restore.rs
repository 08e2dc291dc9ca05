//! Takes up what the daemon before this one left: apps, counters, and workers that may still live.

use tracing::{info, warn};

use super::Daemon;
use super::persist::{self, SavedWorker};
use super::saved_list::restores_at_boot;
use crate::core::Event;

impl Daemon {
    /// Reads the state file and goes on from there.
    pub(super) fn restore(&mut self) {
        let Some(saved) = persist::load(&self.paths.state_file()) else { return };
        self.jobs.continue_after(saved.last_job);
        let same_boot = saved.boot_id == self.boot_id;
        if !same_boot && !restores_at_boot(&self.mode) {
            return;
        }
        if same_boot {
            end_survivors(&saved.workers);
        }
        let apps = saved.fleet.saved();
        if apps.is_empty() {
            return;
        }
        info!(apps = apps.len(), same_boot, "taking up what ran before");
        let job = self.open_job("restore", "all".to_owned(), self.owner);
        self.feed(Event::RestoreRequested { job, apps });
    }
}

/// A worker whose channel and pipes went with the daemon cannot be taken back: it is ended, so that nothing runs twice.
fn end_survivors(workers: &[SavedWorker]) {
    for saved in workers {
        let tree = saved.tree();
        // A group that is gone cannot be read, and has nobody in it.
        if tree.is_empty().unwrap_or(true) {
            continue;
        }
        warn!(pid = saved.pid, worker = saved.worker.0, "ending a worker of the daemon before");
        if let Err(error) = tree.kill_all() {
            warn!(pid = saved.pid, %error, "cannot end it");
        }
    }
}
