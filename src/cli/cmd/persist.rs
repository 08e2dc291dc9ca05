//! Commands about the saved list: save, cleardump, resurrect.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::api::Client;
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::config::HomeFile;

/// `save`: an empty list is not saved unless forced, and that is no error.
///
/// # Errors
/// When the daemon cannot write.
pub async fn save(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let console = &session.console;
    let force = session.options.force || std::env::var_os("FORCE").is_some();
    console.info("Saving current process list...");
    if !force && session.rows(&client).await?.is_empty() {
        console.warn("PM2 is not managing any process, skipping save...");
        console.warn("To force saving use: pm2 save --force");
        return Ok(());
    }
    let path = client.manager().save(force).await?;
    console.info(format!("Successfully saved in {path}"));
    Ok(())
}

/// `cleardump`.
///
/// # Errors
/// When the daemon cannot write.
pub async fn clear(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    client.manager().clear_saved().await?;
    session.console.info(format!("Successfully created {}", dump_file(&client).await?.display()));
    Ok(())
}

/// `resurrect`: without a saved list there is a message, the list, and no error.
///
/// # Errors
/// When what was saved does not start.
pub async fn resurrect(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    session.console.info("Resurrecting");
    if !restore(session, &client).await? {
        session.console.error("No processes saved; DUMP file doesn't exist");
    }
    session.show_list(&client).await
}

/// Starts what was saved and is not in the list. False when nothing was saved.
///
/// # Errors
/// When what was saved does not start.
pub(super) async fn restore(session: &Session, client: &Client) -> Result<bool, Failure> {
    let console = &session.console;
    let dump = dump_file(client).await?;
    console.info(format!("Restoring processes located in {}", dump.display()));
    let before: BTreeSet<u64> = session.rows(client).await?.iter().map(|row| row.id).collect();
    let job = match client.manager().resurrect().await {
        Ok(job) => job,
        Err(crate::api::Error::NotPossible(_)) => {
            let copy = format!("{}.bak", dump.display());
            console.error(format!("Failed to read dump file in {}", dump.display()));
            console.info(format!("Restoring processes located in {copy}"));
            console.error(format!("Failed to read dump file in {copy}"));
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let finished = session.finish(client, "resurrect", &job).await;
    for row in session.rows(client).await?.iter().filter(|row| !before.contains(&row.id)) {
        console.info(format!("Process {} restored", row.script));
    }
    finished.map(|()| true)
}

/// Where the daemon keeps the saved list; the system's daemon has one for each user in that folder.
async fn dump_file(client: &Client) -> Result<PathBuf, Failure> {
    let system = client.manager().mode().await? == "system";
    let home = client.manager().home().await?;
    let home = Path::new(&home);
    Ok(if system { home.join("saved") } else { HomeFile::Dump.here(home) })
}
