//! What PM2's users call a process: id, name, script path, namespace, `all`, `/regex/`. Pure.
//!
//! Who controls other users' apps, too, means the own one where both have a name: else whoever takes the name of root's app
//! would share what root does to it.

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
    /// Whether it is the caller's own.
    pub own: bool,
}

/// A regular expression from a caller compiles to at most so many bytes, which takes a few milliseconds of the loop.
const REGEX_SIZE: usize = 1 << 18;
/// So many of them are taken in one request.
const MAX_PATTERNS: usize = 16;
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
    if targets.iter().filter(|target| pattern(target).is_some()).count() > MAX_PATTERNS {
        return Err(Error::InvalidArgument(format!("more than {MAX_PATTERNS} regular expressions in one request")));
    }
    let mut found = BTreeSet::new();
    for target in targets {
        found.extend(resolve_one(rows, target)?);
    }
    Ok(found.into_iter().collect())
}

/// What is between the slashes of `/regex/`.
fn pattern(target: &str) -> Option<&str> {
    target.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).filter(|pattern| !pattern.is_empty())
}

fn resolve_one(rows: &[Row<'_>], target: &str) -> Result<Vec<ProcessId>, Error> {
    if target == "all" {
        return if rows.is_empty() { Err(Error::NoProcess) } else { Ok(rows.iter().map(|row| row.id).collect()) };
    }
    if let Some(pattern) = pattern(target).filter(|_| rows.iter().all(|row| row.name != target)) {
        let regex = regex::RegexBuilder::new(pattern)
            .size_limit(REGEX_SIZE)
            .build()
            .map_err(|_| Error::InvalidArgument(format!("`{target}` is not a valid regular expression")))?;
        let ids: Vec<_> = rows.iter().filter(|row| regex.is_match(row.name)).map(|row| row.id).collect();
        return if ids.is_empty() { Err(Error::NoProcess) } else { Ok(ids) };
    }
    let (own, others): (Vec<&Row<'_>>, Vec<_>) = rows.iter().partition(|row| row.own);
    let found = [own, others].iter().map(|rows| called(rows, target)).find(|ids| !ids.is_empty());
    found.ok_or_else(|| Error::NoSuchTarget(target.to_owned()))
}

/// Those whose name it is, else whose script, namespace or id.
fn called(rows: &[&Row<'_>], target: &str) -> Vec<ProcessId> {
    let id = target.parse().ok().map(ProcessId);
    // A path matches the script; the command line has made it absolute against the caller's folder.
    let ways: [&dyn Fn(&Row<'_>) -> bool; 4] =
        [&|row| row.name == target, &|row| row.script == Path::new(target), &|row| row.namespace == target, &|row| {
            Some(row.id) == id
        }];
    let matching = |way: &dyn Fn(&Row<'_>) -> bool| rows.iter().filter(|row| way(row)).map(|row| row.id).collect();
    let found = ways.into_iter().map(matching).find(|ids: &Vec<_>| !ids.is_empty());
    found.unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ids(target: &str) -> Result<Vec<u32>, Error> {
        let rows = [
            row(0, "api", "default", "/srv/api.js"),
            row(1, "api", "default", "/srv/api.js"),
            row(2, "worker", "jobs", "/srv/w.js"),
            row(3, "0", "7", "/srv/zero.js"),
        ];
        ids_among(&rows, target)
    }

    fn row<'a>(id: u32, name: &'a str, namespace: &'a str, script: &'a str) -> Row<'a> {
        Row { id: ProcessId(id), name, namespace, script: Path::new(script), own: true }
    }

    fn ids_among(rows: &[Row<'_>], target: &str) -> Result<Vec<u32>, Error> {
        resolve(rows, &[target.to_owned()]).map(|ids| ids.into_iter().map(|id| id.0).collect())
    }

    #[test]
    fn who_controls_others_too_means_the_own_ones() {
        let others = |row| Row { own: false, ..row };
        let rows = [
            others(row(0, "api", "web", "/srv/api.js")),
            row(1, "api", "web", "/srv/api.js"),
            others(row(2, "1", "1", "/srv/squatter.js")),
            others(row(3, "worker", "jobs", "/srv/w.js")),
        ];
        for own in ["api", "web", "/srv/api.js", "1"] {
            assert_eq!(ids_among(&rows, own).unwrap(), [1], "{own}");
        }
        assert_eq!(ids_among(&rows, "worker").unwrap(), [3]);
        assert_eq!(ids_among(&rows, "0").unwrap(), [0]);
        assert_eq!(ids_among(&rows, "all").unwrap(), [0, 1, 2, 3]);
        assert_eq!(ids_among(&rows, "/^(api|worker)$/").unwrap(), [0, 1, 3]);
    }

    #[test]
    fn regular_expressions_take_little_of_the_loop() {
        let targets = |count: usize| vec!["/^api|w/".to_owned(); count];
        let rows = [row(0, "api", "default", "/srv/api.js")];
        assert_eq!(resolve(&rows, &targets(MAX_PATTERNS)), Ok(vec![ProcessId(0)]));
        assert!(matches!(resolve(&rows, &targets(MAX_PATTERNS + 1)), Err(Error::InvalidArgument(_))));
        // What people write is far below the bound of one.
        assert_eq!(ids_among(&rows, r"/^(api|web-\w+-\d+)$/"), Ok(vec![0]));
        assert!(matches!(ids_among(&rows, r"/^api|\w{20}/"), Err(Error::InvalidArgument(_))));
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
