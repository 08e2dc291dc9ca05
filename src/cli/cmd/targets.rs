//! From what people type to processes: names, ids, namespaces, `all`, /regex/, scripts.

use serde_json::json;

use crate::api::{self, Client};
use crate::cli::exit::{Failure, no_such_target};
use crate::cli::render::inspect::inspect;
use crate::cli::render::row::Row;
use crate::cli::session::Session;
use crate::config;

/// Processes, and the word that stands for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// As it was typed.
    pub typed: String,
    /// As the daemon knows it.
    pub target: String,
    /// The processes, by id.
    pub ids: Vec<u32>,
}

impl Selection {
    /// PM2's `[ 0, 1 ]`; of a process that was named by its id, `[ '0' ]`.
    pub fn ids_text(&self) -> String {
        match self.ids.as_slice() {
            [id] if id.to_string() == self.typed => inspect(&json!([self.typed])),
            ids => inspect(&json!(ids)),
        }
    }
}

/// What a word stands for. A word that is no name, id or namespace may be the script that processes run, as seen from
/// here.
///
/// # Errors
/// When it stands for nothing, with the nearest name there is.
pub async fn select(session: &Session, client: &Client, rows: &[Row], typed: &str) -> Result<Selection, Failure> {
    let selection = |target: &str, ids| Selection { typed: typed.to_owned(), target: target.to_owned(), ids };
    match session.resolve(client, &[typed]).await {
        Ok(ids) => return Ok(selection(typed, ids)),
        Err(api::Error::NoSuchTarget(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let caller = session.caller();
    let script = config::resolve_path(&caller.cwd, typed, &caller.env);
    if let Some(script) = script.to_str().filter(|script| rows.iter().any(|row| row.script == *script))
        && let Ok(ids) = session.resolve(client, &[script]).await
    {
        return Ok(selection(script, ids));
    }
    Err(Failure::Error(not_found(rows, typed)))
}

/// "Not found", with the name that may have been meant.
pub fn not_found(rows: &[Row], typed: &str) -> String {
    no_such_target(typed) + &hint(rows, typed)
}

/// The name that may have been meant, in parentheses; nothing where none is near.
pub fn hint(rows: &[Row], typed: &str) -> String {
    let near = config::nearest(typed, rows.iter().map(|row| row.name.as_str()));
    near.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}
