//! Watches an app's files: tells when one changes whose change is to be answered, never what is done then.
//!
//! What is watched are the folders that matter, those above included that lead to a path which is to be watched: so it
//! may be missing, and be removed and made anew, as builds and editors do. Folders that are ignored are not even looked
//! into: `node_modules` alone may have more of them than the kernel lets a user watch.

mod filter;

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinHandle;
use tracing::warn;

use self::filter::Filter;
use super::accounts;
use super::facts::Fact;
use crate::core::{AppId, AppSpec, Uid};
use crate::sys::identity::{run_as_async, run_charged_to};

/// Events that are looked at together.
const AT_ONCE: usize = 1024;
/// Events that may wait; with more, everything is looked at anew.
const WAITING: usize = 16 * AT_ONCE;

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
        let (teller, mut told) = Teller::new(WAITING);
        let missed = Arc::clone(&teller.missed);
        let spec = Arc::clone(&spec);
        // The walk over the folders takes its time. The watcher's own thread inherits the rights that it has, and counts
        // against the user's limits: there are 128 instances for a user by default, and root needs its own.
        let begun = run_charged_to(who.clone(), move || Tree::begin(app, &spec, teller)).await;
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
            if missed.load(Ordering::Relaxed) || events.iter().any(notify::Event::need_rescan) {
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

/// The end of the watcher's own thread. It never waits: whoever changes what is watched waits for that thread.
#[derive(Debug)]
struct Teller {
    events: mpsc::Sender<notify::Event>,
    /// There was no room for an event.
    missed: Arc<AtomicBool>,
}

impl Teller {
    fn new(room: usize) -> (Teller, mpsc::Receiver<notify::Event>) {
        let (events, told) = mpsc::channel(room);
        (Teller { events, missed: Arc::default() }, told)
    }

    fn tell(&self, event: notify::Result<notify::Event>) {
        if let Some(event) = event.ok().filter(|event| !event.kind.is_access())
            && let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event)
        {
            self.missed.store(true, Ordering::Relaxed);
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

/// The kernel's word for too many instances is that for too many open files (inotify_init(2)).
fn cannot_begin(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::Io(source) if source.raw_os_error() == Some(libc::EMFILE) => {
            "its user watches in too many places already: see fs.inotify.max_user_instances".to_owned()
        }
        _ => error.to_string(),
    }
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
    fn begin(app: AppId, spec: &AppSpec, teller: Teller) -> Result<Tree, String> {
        let filter = Filter::new(spec).map_err(|error| error.to_string())?;
        let starts = filter.starts();
        let watcher =
            notify::recommended_watcher(move |event| teller.tell(event)).map_err(|error| cannot_begin(&error))?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::inotify::CreateFlags;

    use super::*;
    use crate::core::WatchSpec;
    use crate::sys::identity::Identity;

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
    struct Watched(Tree, mpsc::Receiver<notify::Event>);

    impl Watched {
        fn begin(spec: &AppSpec) -> Watched {
            let (teller, told) = Teller::new(WAITING);
            Watched(Tree::begin(AppId(1), spec, teller).unwrap(), told)
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

    #[test]
    fn the_watcher_never_waits_and_tells_that_it_missed_something() {
        let (teller, mut told) = Teller::new(1);
        let event = || Ok(notify::Event::new(EventKind::Create(notify::event::CreateKind::File)));
        teller.tell(event());
        assert!(!teller.missed.load(Ordering::Relaxed));
        teller.tell(event());
        assert!(teller.missed.load(Ordering::Relaxed) && told.try_recv().is_ok() && told.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_a_user_watches_counts_against_its_own_limits() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let nobody = Identity::by_name("nobody").unwrap();
        let fill = || std::iter::from_fn(|| rustix::fs::inotify::init(CreateFlags::CLOEXEC).ok()).take(4096).collect();
        let instances: Vec<OwnedFd> = run_charged_to(nobody.clone(), fill).await.unwrap();
        let (_folder, spec) = app(&[]);
        fs::set_permissions(&spec.cwd, fs::Permissions::from_mode(0o755)).unwrap();
        let (facts, _heard) = mpsc::unbounded_channel();
        let watched = watch(AppId(1), Uid(nobody.uid), Arc::new(spec), &facts);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), watched).await;
        assert!(ended.unwrap().unwrap_err().contains("fs.inotify.max_user_instances"));
        assert!(rustix::fs::inotify::init(CreateFlags::CLOEXEC).is_ok(), "root has its own");
        drop(instances);
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
}
