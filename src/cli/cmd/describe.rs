//! Commands that tell all about one process: describe, env.

use serde_json::Value;

use super::targets;
use crate::cli::console::Paint;
use crate::cli::exit::Failure;
use crate::cli::render::describe::describe as page;
use crate::cli::render::row::Row;
use crate::cli::session::{Session, now};

/// `describe NAME|ID`: a page for each process.
///
/// # Errors
/// When there is no such process.
pub async fn describe(session: &Session, target: &str) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let list = session.processes(&client).await?;
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let named = |process: &&Value| process["name"] == target;
    let numbered = |process: &&Value| target.parse::<u64>().is_ok_and(|id| process["pm_id"] == id);
    let mut found: Vec<&Value> = all.iter().filter(named).collect();
    if found.is_empty() {
        found = all.iter().filter(numbered).collect();
    }
    if found.is_empty() {
        let rows = Row::read_all(&list);
        return Err(Failure::Warning(format!("{target} doesn't exist{}", targets::hint(&rows, target))));
    }
    if session.options.json {
        session.console.print(&format!("{}\n", serde_json::json!(found)));
        return Ok(());
    }
    let environment = |name: &str| std::env::var(name).ok();
    for process in found {
        session.console.print(&page(process, now(), &environment, session.console.colours));
    }
    Ok(())
}

/// `env ID`: `KEY: value` lines.
///
/// # Errors
/// When there is no such process or its environment is not the caller's to see.
pub async fn environment(session: &Session, typed: &str) -> Result<(), Failure> {
    let unknown = || Failure::error(format!("Modules with id {typed} not found"));
    let id: u32 = typed.parse().map_err(|_| unknown())?;
    let client = session.daemon().await?;
    if !session.rows(&client).await?.iter().any(|row| row.id == u64::from(id)) {
        return Err(unknown());
    }
    let environment = client.manager().get_environment(id).await?;
    if session.options.json {
        session.console.print(&format!("{}\n", serde_json::json!(environment)));
        return Ok(());
    }
    for (name, value) in environment {
        let value = Paint::Green.on(session.console.colours, &value);
        session.console.print(&format!("{name}: {value}\n"));
    }
    Ok(())
}
