//! Commands about log files: flush, reloadLogs.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::targets::not_found;
use crate::api::{self, Client};
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::config::HomeFile;

/// Bytes at the end of the daemon's log in which its last lines are looked for.
const DAEMON_TAIL_BOUND: u64 = 256 << 10;

/// A private daemon's own log.
async fn daemon_log(client: &Client) -> Option<PathBuf> {
    let private = client.manager().mode().await.is_ok_and(|mode| mode == "private");
    let home = client.manager().home().await.ok()?;
    Some(HomeFile::DaemonLog.here(Path::new(&home))).filter(|path| private && path.exists())
}

/// Its last lines, and where they are.
pub async fn daemon_tail(client: &Client, lines: usize) -> Option<(PathBuf, Vec<String>)> {
    let path = daemon_log(client).await?;
    let mut file = std::fs::File::open(&path).ok()?;
    let length = file.metadata().map_or(0, |meta| meta.len());
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(DAEMON_TAIL_BOUND))).ok()?;
    file.take(DAEMON_TAIL_BOUND).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let last = &all[all.len().saturating_sub(lines)..];
    Some((path, last.iter().map(|&line| line.to_owned()).collect()))
}

/// `flush`: empties log files; without a target those of everything, the private daemon's own included.
///
/// # Errors
/// When the daemon cannot empty them.
pub async fn flush(session: &Session, target: Option<&str>) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let target = target.filter(|target| *target != "all");
    let targets: Vec<&str> = target.into_iter().collect();
    let ids = match target {
        Some(target) => match session.resolve(&client, &[target]).await {
            Ok(ids) => ids,
            // No error in PM2: what has no logs needs no flushing.
            Err(api::Error::NoSuchTarget(target)) => {
                session.console.warn_aside(not_found(&rows, &target));
                session.console.info("Logs flushed");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        },
        None => Vec::new(),
    };
    client.manager().flush_logs(&targets).await?;
    if let (None, Some(path)) = (target, daemon_log(&client).await) {
        session.console.info(format!("Flushing {}", path.display()));
        let emptied = std::fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
        emptied.map_err(|error| Failure::error(format!("cannot empty `{}`: {error}", path.display())))?;
    }
    for row in rows.iter().filter(|row| target.is_none() || ids.iter().any(|id| u64::from(*id) == row.id)) {
        session.console.info("Flushing:");
        for path in [&row.out_path, &row.error_path].into_iter().filter(|path| !path.is_empty()) {
            session.console.info(path);
        }
    }
    session.console.info("Logs flushed");
    Ok(())
}

/// `reloadLogs`.
///
/// # Errors
/// When the daemon cannot open them.
pub async fn reopen(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    session.console.say("Reloading all logs...");
    client.manager().reopen_logs().await?;
    session.console.say("All logs reloaded");
    Ok(())
}
