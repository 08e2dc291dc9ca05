//! Commands about the daemon itself: kill, ping, update.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::persist::restore;
use crate::api;
use crate::cli::exit::Failure;
use crate::cli::render::inspect::inspect;
use crate::cli::session::Session;

/// Between two looks whether the daemon is still there.
const LOOK: Duration = Duration::from_millis(20);

/// `kill`: where no daemon runs there is nothing to do, and none is started for it.
///
/// # Errors
/// When something does not end.
pub async fn kill(session: &Session) -> Result<(), Failure> {
    let console = &session.console;
    let Some(client) = session.choice.find().await? else {
        console.warn_aside("No process found");
        console.info("[v] All Applications Stopped");
        console.info("[v] PM2 Daemon Stopped");
        return Ok(());
    };
    let rows = session.rows(&client).await?;
    let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
    if rows.is_empty() {
        console.warn_aside("No process found");
    } else {
        console.info(format!("Applying action deleteProcessId on app [all](ids: {})", inspect(&json!(ids))));
    }
    match client.manager().kill().await {
        Ok(job) => session.finish_last(&client, "kill", &job).await?,
        // With nothing to stop it may be gone before it has answered.
        Err(api::Error::Unreachable(_)) => {}
        Err(error) => return Err(error.into()),
    }
    for row in &rows {
        console.info(format!("[{}]({}) ✓", row.name, row.id));
    }
    console.info("[v] All Applications Stopped");
    session.choice.gone(&client).await?;
    console.info("[v] PM2 Daemon Stopped");
    Ok(())
}

/// `ping`.
///
/// # Errors
/// When the daemon does not answer.
pub async fn ping(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let answer = session.look(&client, async |daemon| daemon.manager().ping().await).await?;
    let answer = json!({ "msg": answer });
    session.console.answer(&format!("{}\n", if session.options.json { answer.to_string() } else { inspect(&answer) }));
    Ok(())
}

/// `update`: the daemon executes the program that is installed now; apps go on. Where there are none, those that were
/// saved are started, since PM2's update is a way to have them back.
///
/// # Errors
/// When the daemon cannot, or what was saved does not start.
pub async fn update(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let before = client.manager().pid().await?;
    let process = PathBuf::from(format!("/proc/{before}"));
    // Not from another pid namespace.
    let is_seen = process.exists();
    let ended = async {
        while process.exists() {
            tokio::time::sleep(LOOK).await;
        }
    };
    client.manager().reexecute().await?;
    session.console.info("Updating the daemon; apps go on meanwhile");
    let client = tokio::select! {
        client = session.choice.back() => Some(client?),
        // Not waited for longer: systemd, for which this may be an `ExecReload=`, starts no other before it has ended.
        () = ended, if is_seen => None,
    };
    // It is the same process that executes the installed program.
    let client = match client {
        Some(client) if client.manager().pid().await? == before => client,
        _ => return Err(Failure::error("the installed program died before it was ready; apps go on")),
    };
    if session.rows(&client).await?.is_empty() {
        restore(session, &client).await?;
    }
    session.console.info(format!(">>>>>>>>>> PM2 updated ({})", client.manager().version().await?));
    session.show_list(&client).await
}
