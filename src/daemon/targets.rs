//! What PM2's users call a process: id, name, script path, namespace, `all`, `/regex/`. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use crate::api::Error;
use crate::core::ProcessId;

/// What of a process row a target can match.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Its number.
    pub id: ProcessId,
    /// Its app's name.
    pub name: &'a str,
    /// Its app's namespace.
    pub namespace: &'a str,
    /// Its script, absolute.
    pub script: &'a Path,
}

/// A regular expression from a caller compiles to at most so many bytes.
const REGEX_SIZE: usize = 1 << 20;
/// Targets taken in one request.
const MAX_TARGETS: usize = 1024;

/// The processes that `targets` name among `rows` (those that the caller may control), in order of their ids.
///
/// # Errors
/// A target that matches nothing, `all` or a pattern where there is nothing, or a malformed regular expression; nothing is acted on
/// then.
pub fn resolve(rows: &[Row<'_>], targets: &[String]) -> Result<Vec<ProcessId>, Error> {
    if targets.is_empty() {
        return Err(Error::InvalidArgument("no target given: name an app, an id, a namespace or `all`".to_owned()));
    }
    if targets.len() > MAX_TARGETS {
        return Err(Error::InvalidArgument(format!("more than {MAX_TARGETS} targets in one request")));
    }
    let mut found = BTreeSet::new();
    for target in targets {
        found.extend(resolve_one(rows, target)?);
    }
    Ok(found.into_iter().collect())
}

fn resolve_one(rows: &[Row<'_>], target: &str) -> Result<Vec<ProcessId>, Error> {
    let matching = |test: &dyn Fn(&Row<'_>) -> bool| -> Vec<ProcessId> {
        rows.iter().filter(|row| test(row)).map(|row| row.id).collect()
    };
    let no_such = || Error::NoSuchTarget(target.to_owned());
    if target == "all" {
        return if rows.is_empty() { Err(Error::NoProcess) } else { Ok(matching(&|_| true)) };
    }
    let by_name = matching(&|row| row.name == target);
    if !by_name.is_empty() {
        return Ok(by_name);
    }
    if let Some(pattern) = target.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).filter(|p| !p.is_empty()) {
        let regex = regex::RegexBuilder::new(pattern)
            .size_limit(REGEX_SIZE)
            .build()
            .map_err(|_| Error::InvalidArgument(format!("`{target}` is not a valid regular expression")))?;
        let ids = matching(&|row| regex.is_match(row.name));
        return if ids.is_empty() { Err(Error::NoProcess) } else { Ok(ids) };
    }
    // A path matches the script; the command line has made it absolute against the caller's folder.
    let by_script = matching(&|row| row.script == Path::new(target));
    if !by_script.is_empty() {
        return Ok(by_script);
    }
    let by_namespace = matching(&|row| row.namespace == target);
    if !by_namespace.is_empty() {
        return Ok(by_namespace);
    }
    match target.parse::<u32>() {
        Ok(id) if rows.iter().any(|row| row.id == ProcessId(id)) => Ok(vec![ProcessId(id)]),
        _ => Err(no_such()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ids(target: &str) -> Result<Vec<u32>, Error> {
        let row = |id, name, namespace, script| Row { id: ProcessId(id), name, namespace, script: Path::new(script) };
        let rows = [
            row(0, "api", "default", "/srv/api.js"),
            row(1, "api", "default", "/srv/api.js"),
            row(2, "worker", "jobs", "/srv/w.js"),
            row(3, "0", "7", "/srv/zero.js"),
        ];
        resolve(&rows, &[target.to_owned()]).map(|ids| ids.into_iter().map(|id| id.0).collect())
    }

    #[test]
    fn the_ways_to_name_a_process() {
        assert_eq!(ids("api").unwrap(), [0, 1]);
        assert_eq!(ids("all").unwrap(), [0, 1, 2, 3]);
        assert_eq!(ids("jobs").unwrap(), [2]);
        assert_eq!(ids("/srv/w.js").unwrap(), [2]);
        assert_eq!(ids("/^(api|worker)$/").unwrap(), [0, 1, 2]);
        assert_eq!(ids("1").unwrap(), [1]);
    }

    #[test]
    fn a_number_is_a_name_first_then_a_namespace_then_an_id() {
        assert_eq!(ids("0").unwrap(), [3]);
        assert_eq!(ids("7").unwrap(), [3]);
    }

    #[test]
    fn what_matches_nothing_is_named_in_the_error() {
        assert_eq!(ids("99"), Err(Error::NoSuchTarget("99".into())));
        assert_eq!(ids("/nope/"), Err(Error::NoProcess));
        assert!(matches!(ids("/(/"), Err(Error::InvalidArgument(_))));
        assert_eq!(resolve(&[], &["all".into()]), Err(Error::NoProcess));
    }
}
