//! Watches an app's files: tells when one changes whose change is to be answered, never what is done then.
//!
//! What is watched are the folders that matter, those above included that lead to a path which is to be watched: so it
//! may be missing, and be removed and made anew, as builds and editors do. Folders that are ignored are not even looked
//! into: `node_modules` alone may have more of them than the kernel lets a user watch.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tracing::warn;

use super::accounts;
use super::facts::Fact;
use crate::core::{AppId, AppSpec, LogSpec, Uid};
use crate::sys::identity::run_as_async;

/// PM2's default of what is not watched: dot files and installed packages.
const IGNORED: [&str; 2] = ["**/.*", "**/node_modules"];

/// Events that are looked at together.
const AT_ONCE: usize = 1024;

/// The watching of one app; dropping it ends it.
#[derive(Debug)]
pub(super) struct Watching(JoinHandle<()>);

impl Watching {
    /// Watches what the spec says, with the rights of who its workers run as.
    pub(super) fn begin(app: AppId, owner: Uid, spec: Arc<AppSpec>, facts: UnboundedSender<Fact>) -> Watching {
        Watching(tokio::spawn(async move {
            if let Err(error) = watch(app, owner, spec, &facts).await {
                warn!(app = app.0, error, "cannot watch the app's files");
            }
        }))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends when nobody listens any more.
async fn watch(app: AppId, owner: Uid, spec: Arc<AppSpec>, facts: &UnboundedSender<Fact>) -> Result<(), String> {
    let who = accounts::of_worker(owner, &spec).await?;
    let mut again = false;
    loop {
        let (sender, mut told) = unbounded_channel();
        let spec = Arc::clone(&spec);
        // The walk over the folders takes its time. The watcher's own thread inherits the rights that it has.
        let begun = run_as_async(who.clone(), move || Tree::begin(app, &spec, sender)).await;
        let mut tree = begun.map_err(|error| error.to_string())??;
        // What was missed may be anything.
        let mut changed = std::mem::replace(&mut again, true).then(|| tree.filter.cwd.clone());
        loop {
            if let Some(path) = changed.take()
                && facts.send(Fact::FileChanged(app, path)).is_err()
            {
                return Ok(());
            }
            let mut events = Vec::new();
            if told.recv_many(&mut events, AT_ONCE).await == 0 {
                return Err("the watcher has ended".to_owned());
            }
            if events.iter().any(notify::Event::need_rescan) {
                break;
            }
            let heard = tree.hear(events);
            changed = heard.changed;
            if !heard.appeared.is_empty() {
                let walk = move || {
                    let found = tree.take_in(heard.appeared);
                    (tree, found)
                };
                let found;
                (tree, found) = run_as_async(who.clone(), walk).await.map_err(|error| error.to_string())?;
                changed = changed.or(found);
            }
        }
    }
}

/// What is watched at present.
#[derive(Debug)]
struct Tree {
    app: AppId,
    watcher: RecommendedWatcher,
    filter: Filter,
    /// Watched folders, by device and number: a link may lead back to where it lies.
    folders: BTreeMap<(u64, u64), PathBuf>,
    /// Somebody was told that there is too much.
    full: bool,
}

/// What came of a few events.
#[derive(Debug, Default)]
struct Heard {
    /// The first path whose change is to be answered.
    changed: Option<PathBuf>,
    /// What may have to be watched.
    appeared: Vec<PathBuf>,
}

impl Tree {
    fn begin(app: AppId, spec: &AppSpec, sender: UnboundedSender<notify::Event>) -> Result<Tree, String> {
        let filter = Filter::new(spec).map_err(|error| error.to_string())?;
        let starts = filter.starts();
        let tell = move |event: notify::Result<notify::Event>| {
            if let Some(event) = event.ok().filter(|event| !event.kind.is_access()) {
                // Nobody listens any more: nothing to do.
                drop(sender.send(event));
            }
        };
        let watcher = notify::recommended_watcher(tell).map_err(|error| error.to_string())?;
        let mut tree = Tree { app, watcher, filter, folders: BTreeMap::new(), full: false };
        tree.take_in(starts);
        Ok(tree)
    }

    fn hear(&mut self, events: Vec<notify::Event>) -> Heard {
        let mut heard = Heard::default();
        for event in events {
            let appeared =
                matches!(event.kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)));
            let Some(path) = event.paths.into_iter().next() else { continue };
            if appeared && self.filter.concerns(&path) {
                heard.appeared.push(path.clone());
            }
            if heard.changed.is_none() && self.filter.wants(&path) {
                heard.changed = Some(path);
            }
        }
        heard
    }

    /// Watches these paths, which are new, and what they hold, as far as it matters. Returns the first file among it that
    /// is wanted: of what came before its folder was watched nobody has told.
    fn take_in(&mut self, mut rest: Vec<PathBuf>) -> Option<PathBuf> {
        // The watcher has forgotten what was there before.
        self.folders.retain(|_, folder| !rest.iter().any(|path| folder.starts_with(path)));
        let mut found = None;
        while let Some(path) = rest.pop().filter(|_| !self.full) {
            if !self.filter.concerns(&path) {
                continue;
            }
            // Links are followed, as PM2 follows them.
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_dir() {
                if !self.is_watched_elsewhere(&path, &meta) && self.watch(&path) {
                    self.folders.insert((meta.dev(), meta.ino()), path.clone());
                    rest.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
                }
                continue;
            }
            // Of a link its folder tells nothing when what it leads to is written.
            if self.filter.is_named(&path) && path.is_symlink() {
                self.watch(&path);
            }
            if found.is_none() && self.filter.wants(&path) {
                found = Some(path);
            }
        }
        found
    }

    fn is_watched_elsewhere(&self, path: &Path, meta: &Metadata) -> bool {
        let same =
            |other: &PathBuf| fs::metadata(other).is_ok_and(|its| (its.dev(), its.ino()) == (meta.dev(), meta.ino()));
        self.folders.get(&(meta.dev(), meta.ino())).is_some_and(|other| other != path && same(other))
    }

    fn watch(&mut self, path: &Path) -> bool {
        match self.watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => true,
            Err(notify::Error { kind: notify::ErrorKind::MaxFilesWatch, .. }) => {
                let (app, path) = (self.app.0, path.display().to_string());
                warn!(app, path, "cannot watch more of the app's files: see fs.inotify.max_user_watches");
                self.full = true;
                false
            }
            // Gone again, or nothing of the app's: databases keep folders to themselves.
            Err(_) => false,
        }
    }
}

/// Which paths matter.
#[derive(Debug)]
struct Filter {
    cwd: PathBuf,
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
    fn new(spec: &AppSpec) -> Result<Filter, Box<dyn std::error::Error>> {
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
    fn starts(&self) -> Vec<PathBuf> {
        let start = |root: &Root| {
            let above =
                if root.path.starts_with(&self.cwd) { &self.cwd } else { root.path.parent().unwrap_or(&root.path) };
            above.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned)
        };
        self.roots.iter().filter_map(start).collect()
    }

    fn is_named(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| root.path == path)
    }

    /// Whether it may hold, or lead to, what is to be watched.
    fn concerns(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(&root.path) || root.path.starts_with(path)) && !self.ignores(path)
    }

    /// Whether a change of `path` is to be answered.
    fn wants(&self, path: &Path) -> bool {
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
    use tokio::sync::mpsc::UnboundedReceiver;

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

    /// An app in a folder of its own that watches these paths.
    fn app(paths: &[&str]) -> (tempfile::TempDir, AppSpec) {
        let folder = tempfile::tempdir().unwrap();
        let cwd = folder.path().canonicalize().unwrap();
        let paths = paths.iter().map(|path| cwd.join(path)).collect();
        let watch = WatchSpec { paths, ..WatchSpec::default() };
        (folder, AppSpec { cwd, watch: Some(watch), ..AppSpec::default() })
    }

    fn write(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    /// What is watched, and what is told of it.
    struct Watched(Tree, UnboundedReceiver<notify::Event>);

    impl Watched {
        fn begin(spec: &AppSpec) -> Watched {
            let (sender, told) = unbounded_channel();
            Watched(Tree::begin(AppId(1), spec, sender).unwrap(), told)
        }

        /// Hears what is told until this path has changed.
        async fn until(&mut self, path: &Path) {
            let mut changed = false;
            while !changed {
                let event = tokio::time::timeout(std::time::Duration::from_secs(60), self.1.recv()).await;
                let heard =
                    self.0.hear(vec![event.unwrap_or_else(|_| panic!("nothing of {}", path.display())).unwrap()]);
                let found = self.0.take_in(heard.appeared);
                changed = [heard.changed, found].iter().flatten().any(|found| found == path);
            }
        }

        fn folders(&self) -> std::collections::BTreeSet<PathBuf> {
            self.0.folders.values().cloned().collect()
        }
    }

    #[tokio::test]
    async fn what_is_watched_may_be_missing_and_come_anew() {
        let (_folder, spec) = app(&["dist", "later/lib"]);
        let (dist, later) = (spec.cwd.join("dist/a.js"), spec.cwd.join("later/lib/b.js"));
        write(&dist);
        let mut watched = Watched::begin(&spec);
        for _ in 0..2 {
            for folder in ["dist", "later"] {
                drop(fs::remove_dir_all(spec.cwd.join(folder)));
            }
            for path in [&dist, &later] {
                write(path);
                watched.until(path).await;
                fs::write(path, "y").unwrap();
                watched.until(path).await;
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_editors_replace_is_watched_on() {
        let (_folder, spec) = app(&["app.js"]);
        let (path, fresh) = (spec.cwd.join("app.js"), spec.cwd.join("app.js~"));
        write(&path);
        let mut watched = Watched::begin(&spec);
        for _ in 0..2 {
            write(&fresh);
            fs::rename(&fresh, &path).unwrap();
            watched.until(&path).await;
            fs::write(&path, "y").unwrap();
            watched.until(&path).await;
        }
    }

    #[tokio::test]
    async fn folders_that_do_not_matter_cost_nothing() {
        let (_folder, spec) = app(&[]);
        for path in ["src/a.js", "node_modules/x/lib/i.js", "packages/p/node_modules/y/i.js", ".git/HEAD"] {
            write(&spec.cwd.join(path));
        }
        std::os::unix::fs::symlink("..", spec.cwd.join("src/up")).unwrap();
        let mut watched = Watched::begin(&spec);
        let wanted = ["", "src", "packages", "packages/p"].map(|path| spec.cwd.join(path).components().collect());
        assert_eq!(watched.folders(), wanted.into());
        fs::rename(spec.cwd.join("packages"), spec.cwd.join("libs")).unwrap();
        write(&spec.cwd.join("libs/p/b.js"));
        watched.until(&spec.cwd.join("libs/p/b.js")).await;
        let wanted = ["", "src", "libs", "libs/p"].map(|path| spec.cwd.join(path).components().collect());
        assert_eq!(watched.folders(), wanted.into());
    }

    #[test]
    fn watched_paths_may_be_patterns() {
        let (_folder, spec) = app(&["src/**/*.js", "*.json"]);
        write(&spec.cwd.join("src/[id]/a.js"));
        let filter = Filter::new(&spec).unwrap();
        let wants = |path: &str| filter.wants(&spec.cwd.join(path));
        assert!(wants("src/a.js") && wants("src/deep/[id]/a.js") && wants("package.json"));
        assert!(!wants("src/a.txt") && !wants("lib/a.js") && !wants("deep/package.json"));
        let (cwd, watch) =
            (spec.cwd.clone(), Some(WatchSpec { paths: vec![spec.cwd.join("src/[id]")], ..WatchSpec::default() }));
        let filter = Filter::new(&AppSpec { cwd, watch, ..AppSpec::default() }).unwrap();
        assert!(filter.wants(&spec.cwd.join("src/[id]/a.js")), "a name that exists is no pattern");
    }
}
