//! Paths as PM2 resolves them: lexically, so that symbolic links stay what they are.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// `path` made absolute against `base`, `~` expanded, `.` and `..` removed without looking at the disk: a release
/// folder that is a link is looked up anew at each start.
pub fn resolve(base: &Path, path: &str, env: &BTreeMap<String, String>) -> PathBuf {
    let expanded = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => env.get("HOME").map(|home| format!("{home}{rest}")),
        _ => None,
    };
    normalise(&base.join(expanded.as_deref().unwrap_or(path)))
}

fn normalise(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

/// An app's name as part of a file name: what is not a letter, digit, dot or dash becomes a dash. Cut so that
/// `-error-ID.log`, a rotation's date and `.gz` still fit into the 255 bytes of a name.
pub(super) fn file_name(app: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' };
    app.chars().map(safe).take(180).collect()
}

/// A log path as given; none for the ways of saying none.
pub(super) fn log_path(base: &Path, given: &str, env: &BTreeMap<String, String>) -> Option<PathBuf> {
    (given != "NULL" && given != "/dev/null" && !given.is_empty()).then(|| resolve(base, given, env))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_without_looking_at_the_disk() {
        let env = BTreeMap::from([("HOME".to_owned(), "/home/ann".to_owned())]);
        let table = [
            ("app.js", "/srv/current/app.js"),
            ("./a/../b.js", "/srv/current/b.js"),
            ("../../../x", "/x"),
            ("/abs//p", "/abs/p"),
            ("~/x", "/home/ann/x"),
            ("~", "/home/ann"),
            ("~bob/x", "/srv/current/~bob/x"),
        ];
        for (path, resolved) in table {
            assert_eq!(resolve(Path::new("/srv/current"), path, &env), Path::new(resolved), "{path}");
        }
    }

    #[test]
    fn names_become_file_names() {
        assert_eq!(file_name("my app/x_1.2-b"), "my-app-x-1.2-b");
        assert_eq!(file_name("../../etc"), "..-..-etc");
    }
}
