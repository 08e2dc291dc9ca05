//! What is left to do when the service was stopped while its daemon was dead: ends the workers that it left running.
//!
//! Runs as ExecStop= of pm2rs-leftovers.service, in a process of its own, after the daemon's service has ended. Only a
//! stop is its business: after a crash and before a restart the next daemon decides about the workers. Must never start
//! anything or write the state file, in which those apps stay wanted.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::scopes::manager_of;
use super::{Mode, Paths, persist};
use crate::sys::manager::ManagerError;
use crate::sys::scope;
use crate::sys::tree::Tree;

/// No worker gets longer than this from its signal to SIGKILL. systemd's TimeoutStopSec= bounds all of it anyway.
const GRACE_MAX: Duration = Duration::from_secs(30);
/// How long systemd may take to answer, which may be busy ending everything.
const ANSWER: Duration = Duration::from_secs(10);
/// The daemon's own unit.
const SERVICE: &str = "pm2rs.service";

/// Ends what a dead daemon left behind, if its service is stopped and stays so.
///
/// # Errors
/// When systemd cannot be asked whether it is.
pub fn end_leftovers(mode: &Mode) -> anyhow::Result<()> {
    let paths = Paths::of(mode, |name| std::env::var(name).ok());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot wait")?;
    runtime.block_on(async {
        if !is_stopped_for_good(mode).await.context("cannot ask systemd whether the daemon is to run")? {
            return Ok(());
        }
        let Some(saved) = persist::load(&paths.state_file()) else { return Ok(()) };
        let mut ending = JoinSet::new();
        for worker in &saved.workers {
            let spec = saved.fleet.spec_of_worker(worker.worker);
            let grace = spec.map_or(Duration::ZERO, |spec| Duration::from_millis(spec.kill_timeout));
            ending.spawn(end(worker.tree(), grace.min(GRACE_MAX)));
        }
        while ending.join_next().await.is_some() {}
        Ok(())
    })
}

async fn is_stopped_for_good(mode: &Mode) -> Result<bool, ManagerError> {
    let asked = async |connection| scope::is_at_rest(&connection, SERVICE).await;
    manager_of(mode).ask(ANSWER, asked).await
}

/// PM2's way to end a process tree. Whatever fails here has failed for want of a process to end.
async fn end(tree: Tree, grace: Duration) {
    // A group that is gone cannot be read, and has nobody in it.
    if tree.is_empty().unwrap_or(true) {
        return;
    }
    drop(tree.signal_all(nix::libc::SIGINT));
    if timeout(grace, tree.wait_empty()).await.is_err() {
        drop(tree.kill_all());
        drop(timeout(Duration::from_secs(5), tree.wait_empty()).await);
    }
}
