//! What is left to do when the service was stopped while its daemon was dead: ends the workers that it left running.
//!
//! Runs as the unit's ExecStopPost=, in a process of its own, after every end of a daemon. Only a stop is its business:
//! after a crash and before a restart the next daemon decides about the workers. Must never start anything or
//! write the state file, in which those apps stay wanted.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::persist;
use super::{Mode, Paths};
use crate::sys::scope;
use crate::sys::tree::Tree;

/// No worker gets longer than this from its signal to SIGKILL. systemd's TimeoutStopSec= bounds all of it anyway.
const GRACE_MAX: Duration = Duration::from_secs(30);

/// Ends what a dead daemon left behind, if its service is being stopped.
///
/// # Errors
/// When systemd cannot be asked whether it is.
pub fn end_leftovers(mode: &Mode) -> anyhow::Result<()> {
    let paths = Paths::of(mode, |name| std::env::var(name).ok());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot wait")?;
    runtime.block_on(async {
        if !is_being_stopped(mode).await.context("cannot ask systemd why the daemon ended")? {
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

async fn is_being_stopped(mode: &Mode) -> zbus::Result<bool> {
    let connection = match mode {
        Mode::System => zbus::Connection::system().await?,
        Mode::User | Mode::Private { .. } => zbus::Connection::session().await?,
    };
    Ok(scope::own_job(&connection).await?.as_deref() == Some("stop"))
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
