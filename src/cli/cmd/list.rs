//! Commands that show processes: list, jlist, prettylist, id, pid.

use std::time::Duration;

use serde_json::json;

use crate::cli::exit::Failure;
use crate::cli::render::inspect::inspect;
use crate::cli::render::row::Row;
use crate::cli::session::Session;

/// Between two lists of `list --watch`.
const REFRESH: Duration = Duration::from_millis(900);
/// To the upper left corner, and erase to the end of the screen (ECMA-48 CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// `list`; with `--watch` over and over until it is interrupted.
///
/// # Errors
/// When there is no way to the daemon.
pub async fn list(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    if session.options.watch.is_empty() {
        return session.show_list(&client).await;
    }
    loop {
        if session.console.width.is_some() {
            session.console.answer(CLEAR);
        }
        session.show_list(&client).await?;
        tokio::time::sleep(REFRESH).await;
    }
}

/// `jlist`: what the daemon says, as it says it.
///
/// # Errors
/// When there is no way to the daemon.
pub async fn jlist(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let text = session.list_text(&client).await?;
    session.console.print(&text);
    Ok(())
}

/// `prettylist`.
///
/// # Errors
/// When there is no way to the daemon.
pub async fn prettylist(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    session.console.print(&inspect(&session.processes(&client).await?));
    Ok(())
}

/// `id NAME`.
///
/// # Errors
/// When there is no way to the daemon.
pub async fn ids(session: &Session, app: &str) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let ids: Vec<u64> = session.rows(&client).await?.iter().filter(|row| row.name == app).map(|row| row.id).collect();
    let ids = json!(ids);
    session.console.answer(&format!("{}\n", if session.options.json { ids.to_string() } else { inspect(&ids) }));
    Ok(())
}

/// `pid [NAME]`: one a line, an empty line for none.
///
/// # Errors
/// When there is no way to the daemon.
pub async fn pids(session: &Session, app: Option<&str>) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let of_app = |row: &&Row| app.is_none_or(|app| row.name == app);
    let pids = rows.iter().filter(of_app).map(|row| row.pid);
    if session.options.json {
        session.console.answer(&format!("{}\n", json!(pids.collect::<Vec<_>>())));
        return Ok(());
    }
    let pids: Vec<String> = pids.map(|pid| pid.to_string()).collect();
    session.console.answer(&format!("{}\n", pids.join("\n")));
    Ok(())
}
