//! Rotated files: the old ones removed, the others compressed.
//!
//! Works in a thread of its own that exists only while there is something to do, with the rights of the files' owners.
//! What is there is looked up in the folder each time, so nothing is forgotten over a crash or a restart. Must never
//! touch a file that is not named like a rotated one of a log file it was told of.

use std::collections::BTreeMap;
use std::fs::{self, FileTimes, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::place::Place;
use super::rotation::{self, Kept, Names};
use crate::core::{AppId, RotateSpec, Uid};
use crate::sys::plain;

/// Ends the name of a compressed file that is not complete.
const PARTIAL: &str = ".tmp";

/// A log file that has rotated ones.
#[derive(Debug, Clone)]
pub struct Charge {
    /// Where it is.
    pub place: Place,
    /// What its rotated ones are called.
    pub names: Names,
    /// Whose it is.
    pub app: AppId,
    /// Who started that.
    pub owner: Uid,
    /// What is kept.
    pub spec: RotateSpec,
}

#[derive(Debug)]
struct Round {
    charges: Vec<Charge>,
    total: u64,
}

#[derive(Debug, Default)]
struct State {
    next: Option<Round>,
    running: bool,
}

/// A cheap way to the thread.
#[derive(Debug, Clone, Default)]
pub struct Housekeeper {
    state: Arc<Mutex<State>>,
}

impl Housekeeper {
    /// Has the rotated files of all these log files looked after, so that those of one user have `total` bytes at most: who
    /// writes much must not cost others theirs. What was asked before and has not begun is not done any more: this is
    /// newer.
    pub fn tidy(&self, charges: Vec<Charge>, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.next = Some(Round { charges, total });
        if state.running {
            return;
        }
        let shared = self.state.clone();
        let started = std::thread::Builder::new().name("logs-tidy".to_owned()).spawn(move || work(&shared));
        match started {
            Ok(_) => state.running = true,
            Err(error) => tracing::warn!(%error, "cannot start a thread to compress log files"),
        }
    }

    /// Whether nothing is left to do.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        !self.state.lock().unwrap_or_else(PoisonError::into_inner).running
    }
}

fn work(shared: &Mutex<State>) {
    loop {
        let round = {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(round) = state.next.take() else {
                state.running = false;
                return;
            };
            round
        };
        let kept = remove_surplus(&round);
        let interrupted = || shared.lock().unwrap_or_else(PoisonError::into_inner).next.is_some();
        for (charge, file) in to_compress(&round, &kept) {
            if let Err(error) = charge.place.with_rights(|_| compress(&file.path)) {
                tracing::warn!(%error, "cannot compress `{}`", file.path.display());
            }
            // Files are rotated faster than they are compressed: what is too much goes first.
            if interrupted() {
                break;
            }
        }
    }
}

/// Removes what is beyond the caps; tells what stays of each charge, by its place in the list.
fn remove_surplus(round: &Round) -> Vec<(usize, Kept)> {
    let mut by_app: BTreeMap<(Uid, AppId), Vec<(usize, Kept)>> = BTreeMap::new();
    for (at, charge) in round.charges.iter().enumerate() {
        let mut files = charge.place.with_rights(|path| scan(path, &charge.names)).unwrap_or_default();
        rotation::newest_first(&mut files);
        let surplus = rotation::beyond_count(&files, charge.spec.retain).len();
        for file in files.split_off(files.len() - surplus) {
            remove(charge, &file);
        }
        by_app.entry((charge.owner, charge.app)).or_default().extend(files.into_iter().map(|file| (at, file)));
    }
    let mut by_owner: BTreeMap<Uid, Vec<(usize, Kept)>> = BTreeMap::new();
    for ((owner, _), mut files) in by_app {
        let total = files.iter().map(|(at, _)| round.charges[*at].spec.total_size).min().unwrap_or(u64::MAX);
        cap(round, &mut files, total);
        by_owner.entry(owner).or_default().append(&mut files);
    }
    by_owner.values_mut().for_each(|files| cap(round, files, round.total));
    by_owner.into_values().flatten().collect()
}

fn cap(round: &Round, files: &mut Vec<(usize, Kept)>, total: u64) {
    files.sort_by_key(|(_, file)| std::cmp::Reverse((file.modified, file.rotated.sequence)));
    let in_order: Vec<Kept> = files.iter().map(|(_, file)| file.clone()).collect();
    let surplus = rotation::beyond_total(&in_order, total).len();
    for (at, file) in files.split_off(files.len() - surplus) {
        remove(&round.charges[at], &file);
    }
}

fn remove(charge: &Charge, file: &Kept) {
    let removed = charge.place.with_rights(|_| fs::remove_file(&file.path));
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "cannot remove `{}`", file.path.display());
    }
}

/// The oldest first: they are the ones that will not be read again.
fn to_compress<'a>(round: &'a Round, kept: &'a [(usize, Kept)]) -> impl Iterator<Item = (&'a Charge, &'a Kept)> {
    let files = kept.iter().rev().map(|(at, file)| (&round.charges[*at], file));
    files.filter(|(charge, file)| charge.spec.compress && !file.rotated.compressed)
}

/// The rotated files of the log file with this path. Finishes or removes what an interrupted compression left.
fn scan(path: &Path, names: &Names) -> io::Result<Vec<Kept>> {
    let (mut files, names) = (Vec::new(), names.recognizer());
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(partial) = name.to_str().and_then(|name| name.strip_suffix(PARTIAL)) {
            if names.parse(partial.as_ref()).is_some_and(|rotated| rotated.compressed) {
                fs::remove_file(entry.path())?;
            }
            continue;
        }
        let Some(rotated) = names.parse(&name) else { continue };
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_file() {
            continue;
        }
        // A compressed file gets its name when it is complete: what it was made of should have been removed next.
        if !rotated.compressed && compressed_path(&entry.path()).exists() {
            fs::remove_file(entry.path())?;
            continue;
        }
        files.push(Kept { path: entry.path(), size: meta.len(), modified: meta.modified()?, rotated });
    }
    Ok(files)
}

fn compressed_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Puts a compressed file in the place of this one. It keeps the time, by which files are told old from new.
fn compress(path: &Path) -> io::Result<()> {
    let target = compressed_path(path);
    let mut partial = target.clone().into_os_string();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let made = compress_into(path, &partial).and_then(|()| fs::rename(&partial, &target));
    if made.is_err() {
        drop(fs::remove_file(&partial));
        return made;
    }
    fs::remove_file(path)
}

fn compress_into(path: &Path, partial: &Path) -> io::Result<()> {
    let from = plain::open(path)?;
    let meta = from.metadata()?;
    let into = OpenOptions::new().write(true).create_new(true).mode(0o640).open(partial)?;
    // In the daemon's own folder it is the daemon who makes it; elsewhere it is theirs already.
    drop(fchown(&into, Some(meta.uid()), Some(meta.gid())));
    let mut encoder = GzEncoder::new(into, Compression::default());
    // As much as it had: somebody may write into it as fast as this reads.
    io::copy(&mut from.take(meta.len()), &mut encoder)?;
    let into = encoder.finish()?;
    into.set_times(FileTimes::new().set_modified(meta.modified()?))?;
    // The plain file is removed next; a crash of the machine must not leave neither.
    into.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, Instant, SystemTime};

    use crate::sys::identity::Identity;

    struct Folder {
        dir: tempfile::TempDir,
    }

    impl Folder {
        fn new() -> Folder {
            Folder { dir: tempfile::tempdir().unwrap() }
        }

        fn put(&self, name: &str, content: &[u8], age: u64) {
            let path = self.dir.path().join(name);
            fs::write(&path, content).unwrap();
            let at = SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
        }

        /// The tens of an app's number are its owner's.
        fn charge(&self, name: &str, app: u32, change: impl FnOnce(&mut RotateSpec)) -> Charge {
            let mut spec = RotateSpec { date_format: "YYYY".to_owned(), ..RotateSpec::default() };
            change(&mut spec);
            let path = self.dir.path().join(name);
            let names = Names::of(&path, &spec.date_format);
            let place = Place { path, owner: Identity::own().unwrap(), ours: false };
            Charge { place, names, app: AppId(app), owner: Uid(app / 10), spec }
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.dir.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    fn tidy(charges: Vec<Charge>, total: u64) {
        let housekeeper = Housekeeper::default();
        housekeeper.tidy(charges, total);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !housekeeper.is_idle() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn old_ones_go_and_the_others_are_compressed() {
        let folder = Folder::new();
        folder.put("a.log", b"live", 0);
        folder.put("a__2026.log", b"newest", 10);
        folder.put("a__2025.log", b"middle", 20);
        folder.put("a__2024.log.gz", b"oldest", 30);
        folder.put("a__err.log", b"somebody's", 40);
        folder.put("a__2023.log.gz.tmp", b"half", 50);
        let before = fs::metadata(folder.dir.path().join("a__2026.log")).unwrap().modified().unwrap();
        tidy(vec![folder.charge("a.log", 1, |spec| spec.retain = 2)], u64::MAX);
        assert_eq!(folder.names(), ["a.log", "a__2025.log.gz", "a__2026.log.gz", "a__err.log"]);
        let compressed = File::open(folder.dir.path().join("a__2026.log.gz")).unwrap();
        assert_eq!(compressed.metadata().unwrap().modified().unwrap(), before);
        let mut text = String::new();
        flate2::read::GzDecoder::new(compressed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "newest");
    }

    #[test]
    fn a_compressed_file_is_whose_the_plain_one_was() {
        if !nix::unistd::Uid::effective().is_root() {
            println!("skipped, needs root");
            return;
        }
        let folder = Folder::new();
        folder.put("a__2026.log", b"theirs", 10);
        let nobody = Identity::by_name("nobody").unwrap();
        std::os::unix::fs::chown(folder.dir.path().join("a__2026.log"), Some(nobody.uid), Some(nobody.gid)).unwrap();
        tidy(vec![folder.charge("a.log", 1, |_| ())], u64::MAX);
        let meta = fs::metadata(folder.dir.path().join("a__2026.log.gz")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (nobody.uid, nobody.gid));
    }

    #[test]
    fn an_interrupted_compression_is_finished() {
        let folder = Folder::new();
        folder.put("a__2026.log", b"plain", 10);
        folder.put("a__2026.log.gz", b"compressed", 10);
        tidy(vec![folder.charge("a.log", 1, |_| ())], u64::MAX);
        assert_eq!(folder.names(), ["a__2026.log.gz"]);
    }

    #[test]
    fn totals_hold_for_an_app_and_for_a_user() {
        let folder = Folder::new();
        for (name, age) in [
            ("a__2026.log", 1),
            ("b__2026.log", 2),
            ("a__2025.log", 3),
            ("c__2026.log", 4),
            ("b__2025.log", 5),
            ("others__2020.log", 9),
        ] {
            folder.put(name, &[b'x'; 100], age);
        }
        let charges = |total: u64| -> Vec<Charge> {
            let charge = |name, app| folder.charge(name, app, |spec| (spec.compress, spec.total_size) = (false, total));
            vec![charge("a.log", 1), charge("b.log", 1), charge("c.log", 2), charge("others.log", 11)]
        };
        tidy(charges(300), u64::MAX);
        assert_eq!(folder.names(), ["a__2025.log", "a__2026.log", "b__2026.log", "c__2026.log", "others__2020.log"]);
        tidy(charges(300), 250);
        assert_eq!(folder.names(), ["a__2026.log", "b__2026.log", "others__2020.log"]);
    }
}
