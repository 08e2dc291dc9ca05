//! Which paths matter to an app's watching: decides by names, never watches.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::core::{AppSpec, LogSpec};

/// PM2's default of what is not watched: dot files and installed packages.
const IGNORED: [&str; 2] = ["**/.*", "**/node_modules"];

/// Which paths matter.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) cwd: PathBuf,
    roots: Vec<Root>,
    ignored: GlobSet,
    patterns: Vec<regex::Regex>,
    ext: Vec<String>,
    logs: LogSpec,
}

/// Something to be watched, with all that it holds.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Which of it.
    glob: Option<GlobMatcher>,
}

impl Root {
    /// A path that does not exist and has wildcards in it, is a pattern.
    fn new(path: &Path, cwd: &Path) -> Result<Root, globset::Error> {
        let own = path.strip_prefix(cwd).unwrap_or(path);
        let plain = |part: &OsStr| !part.to_string_lossy().contains(['*', '?', '[', '{']);
        let literal: PathBuf = own.components().map(|part| part.as_os_str()).take_while(|part| plain(part)).collect();
        if literal == own || path.exists() {
            return Ok(Root { path: path.to_owned(), glob: None });
        }
        let folder = if path.starts_with(cwd) { globset::escape(&cwd.to_string_lossy()) + "/" } else { String::new() };
        let glob = glob(&(folder + &own.to_string_lossy()))?;
        Ok(Root { path: cwd.join(literal), glob: Some(glob.compile_matcher()) })
    }
}

/// A pattern whose `*` stays within one name, as PM2's.
fn glob(text: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(true).build()
}

impl Filter {
    pub(super) fn new(spec: &AppSpec) -> Result<Filter, Box<dyn std::error::Error>> {
        let watch = spec.watch.clone().unwrap_or_default();
        let cwd = spec.cwd.clone();
        let mut ignored = GlobSetBuilder::new();
        let mut patterns = Vec::new();
        let defaults: Vec<String> = IGNORED.iter().map(|glob| (*glob).to_owned()).collect();
        for entry in if watch.ignore.is_empty() { &defaults } else { &watch.ignore } {
            match entry.strip_prefix("regex:") {
                Some(pattern) => patterns.push(regex::Regex::new(pattern)?),
                None => {
                    ignored.add(glob(entry.strip_prefix("./").unwrap_or(entry))?);
                }
            }
        }
        let paths = if watch.paths.is_empty() { vec![cwd.clone()] } else { watch.paths };
        let roots = paths.iter().map(|path| Root::new(&cwd.join(path), &cwd)).collect::<Result<_, _>>()?;
        Ok(Filter { cwd, roots, ignored: ignored.build()?, patterns, ext: watch.ext, logs: spec.log.clone() })
    }

    /// The folders from which everything that is to be watched can be reached, now or once it is there.
    pub(super) fn starts(&self) -> Vec<PathBuf> {
        let start = |root: &Root| {
            let above =
                if root.path.starts_with(&self.cwd) { &self.cwd } else { root.path.parent().unwrap_or(&root.path) };
            above.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned)
        };
        self.roots.iter().filter_map(start).collect()
    }

    pub(super) fn is_named(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| root.path == path)
    }

    /// Whether it may hold, or lead to, what is to be watched.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(&root.path) || root.path.starts_with(path)) && !self.ignores(path)
    }

    /// Whether a change of `path` is to be answered.
    pub(super) fn wants(&self, path: &Path) -> bool {
        let fits =
            |root: &Root| path.starts_with(&root.path) && root.glob.as_ref().is_none_or(|glob| glob.is_match(path));
        let wanted = self.ext.is_empty()
            || path.extension().is_some_and(|ext| self.ext.iter().any(|wanted| ext.to_string_lossy() == **wanted));
        wanted && self.roots.iter().any(fits) && !self.ignores(path) && !is_log(&self.logs, path)
    }

    /// A folder that is ignored is so with all that it holds.
    fn ignores(&self, path: &Path) -> bool {
        let relative = path.strip_prefix(&self.cwd).unwrap_or(path);
        let ignored = relative
            .ancestors()
            .filter(|part| !part.as_os_str().is_empty())
            .any(|part| self.ignored.is_match(part) || self.ignored.is_match(self.cwd.join(part)));
        let text = path.to_string_lossy();
        ignored || self.patterns.iter().any(|pattern| pattern.is_match(&text))
    }
}

/// Whether this is one of the app's own log files, with its number or rotated: to write them is no change of the app.
fn is_log(logs: &LogSpec, path: &Path) -> bool {
    let text = |part: Option<&OsStr>| part.and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let files = [&logs.out_file, &logs.error_file, &logs.log_file];
    files.into_iter().flatten().filter(|file| file.parent() == path.parent()).any(|file| {
        let name = text(path.file_name());
        let Some(rest) = name.strip_prefix(&text(file.file_stem())) else { return false };
        let rest = rest.strip_prefix('-').map_or(rest, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        let extension = file.extension().map_or_else(String::new, |extension| format!(".{}", text(Some(extension))));
        rest.starts_with("__") || (rest.starts_with(&extension) && (!extension.is_empty() || rest.is_empty()))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::core::WatchSpec;

    fn filter(ignore: &[&str]) -> Filter {
        let watch = WatchSpec { ignore: ignore.iter().map(|s| (*s).to_owned()).collect(), ..WatchSpec::default() };
        Filter::new(&AppSpec { cwd: "/srv/app".into(), watch: Some(watch), ..AppSpec::default() }).unwrap()
    }

    #[test]
    fn dot_files_and_packages_are_not_watched_by_default() {
        let filter = filter(&[]);
        assert!(filter.wants(Path::new("/srv/app/src/a.js")));
        assert!(!filter.wants(Path::new("/srv/app/.git/index")));
        assert!(!filter.wants(Path::new("/srv/app/node_modules/x/index.js")));
        assert!(!filter.wants(Path::new("/srv/app/lib/.a.js.swp")));
        let hidden = AppSpec { cwd: "/home/ann/.apps/shop".into(), ..AppSpec::default() };
        assert!(Filter::new(&hidden).unwrap().wants(Path::new("/home/ann/.apps/shop/a.js")));
    }

    #[test]
    fn ignored_folders_are_ignored_with_all_they_hold() {
        let filter = filter(&["logs", "./tmp", "**/*.log", "*.txt", "regex:\\.bak$"]);
        assert!(!filter.wants(Path::new("/srv/app/a.txt")) && filter.wants(Path::new("/srv/app/a/b.txt")));
        assert!(!filter.wants(Path::new("/srv/app/logs/deep/x.js")));
        assert!(!filter.wants(Path::new("/srv/app/tmp/x.js")));
        assert!(!filter.wants(Path::new("/srv/app/a/b.log")));
        assert!(!filter.wants(Path::new("/srv/app/a.js.bak")));
        assert!(filter.wants(Path::new("/srv/app/a.js")));
    }

    #[test]
    fn an_app_s_own_logs_are_no_change_of_it() {
        let logs = LogSpec { out_file: Some("/srv/app/app.log".into()), ..LogSpec::default() };
        let is_log = |path: &str| is_log(&logs, Path::new(path));
        assert!(is_log("/srv/app/app.log") && is_log("/srv/app/app-3.log") && is_log("/srv/app/app-3__2026.log.gz"));
        assert!(!is_log("/srv/app/app.js") && !is_log("/srv/app/application.log") && !is_log("/srv/app/a/app.log"));
    }

    #[test]
    fn watched_paths_may_be_patterns() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("src/[id]")).unwrap();
        let cwd = folder.path().to_owned();
        let watching = |paths: &[&str]| WatchSpec {
            paths: paths.iter().map(|path| cwd.join(path)).collect(),
            ..WatchSpec::default()
        };
        let spec = |paths| AppSpec { cwd: cwd.clone(), watch: Some(watching(paths)), ..AppSpec::default() };
        let filter = Filter::new(&spec(&["src/**/*.js", "*.json"])).unwrap();
        let wants = |path: &str| filter.wants(&cwd.join(path));
        assert!(wants("src/a.js") && wants("src/deep/[id]/a.js") && wants("package.json"));
        assert!(!wants("src/a.txt") && !wants("lib/a.js") && !wants("deep/package.json"));
        let filter = Filter::new(&spec(&["src/[id]"])).unwrap();
        assert!(filter.wants(&cwd.join("src/[id]/a.js")), "a name that exists is no pattern");
    }
}
