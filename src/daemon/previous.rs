//! The program of before, at hand until the installed one has shown that it gets ready.
//!
//! Under systemd nobody of ours is there when a program that was just executed dies: systemd would start the same one
//! again, for ever. So before it is executed, ours is copied into the state folder and a link to it is put into the
//! runtime folder; `ExecStart=` of the unit prefers what that link names, and whoever gets ready takes both away. Owns the
//! copy and the links, which a reboot removes. Must never keep a program from being executed: without a copy there is
//! only no way back. In private mode the keeper does all this by itself.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::Paths;
use crate::sys::durable;

/// This very program, whatever has become of its file (proc_pid_exe(5)).
const OURSELVES: &str = "/proc/self/exe";

/// Which file this is, by device and inode; `None` when there is none.
pub(super) fn file(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok()
}

/// Whether it is the program that runs here.
pub(super) fn is_own(program: &Path) -> bool {
    file(program) == file(Path::new(OURSELVES))
}

/// The copy. On a file system from which programs can be executed, which /run often is not.
fn copy(paths: &Paths) -> PathBuf {
    paths.state.join("previous")
}

/// Named in the units.
fn link(paths: &Paths) -> PathBuf {
    paths.runtime.join("previous")
}

/// Names the program whose place ours has taken.
fn installed_link(paths: &Paths) -> PathBuf {
    paths.runtime.join("installed")
}

/// The installed program's path, where this one runs because that one did not get ready.
pub(super) fn instead_of(paths: &Paths) -> Option<PathBuf> {
    fs::read_link(installed_link(paths)).ok().filter(|_| is_own(&copy(paths)))
}

/// Makes the copy. Blocks for as long as the disk takes.
///
/// # Errors
/// A full disk above all.
pub(super) fn keep(paths: &Paths) -> io::Result<()> {
    let copy = copy(paths);
    if is_own(&copy) {
        return Ok(());
    }
    durable::write(&copy, &fs::read(OURSELVES)?, 0o700)
}

/// From now on systemd starts the copy, if there is one, in place of `installed`.
///
/// # Errors
/// As symlink(2).
pub(super) fn prefer(paths: &Paths, installed: &Path) -> io::Result<()> {
    let copy = copy(paths);
    if !copy.exists() {
        return Ok(());
    }
    put_link(installed, &installed_link(paths))?;
    put_link(&copy, &link(paths))
}

fn put_link(to: &Path, at: &Path) -> io::Result<()> {
    remove(at)?;
    symlink(to, at)
}

/// Whoever is installed is good enough.
///
/// # Errors
/// As unlink(2).
pub(super) fn let_go(paths: &Paths) -> io::Result<()> {
    // The one that systemd looks at first.
    [link(paths), installed_link(paths), copy(paths)].iter().try_for_each(|path| remove(path))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::daemon::Mode;

    #[test]
    fn it_is_preferred_until_it_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let paths = Paths::of(&Mode::System, |name| match name {
            "STATE_DIRECTORY" => Some(folder("state")),
            "RUNTIME_DIRECTORY" => Some(folder("runtime")),
            _ => None,
        });
        let program = Path::new("/usr/bin/pm2rs");
        // Without a copy there is nothing to prefer.
        prefer(&paths, program).unwrap();
        assert!(!link(&paths).exists());
        keep(&paths).unwrap();
        assert!(!link(&paths).exists(), "preferred before anything else is executed");
        for _ in 0..2 {
            prefer(&paths, program).unwrap();
            assert_eq!(fs::read(link(&paths)).unwrap(), fs::read(OURSELVES).unwrap());
            assert_eq!(fs::metadata(link(&paths)).unwrap().mode() & 0o777, 0o700);
            assert_eq!(fs::read_link(installed_link(&paths)).unwrap(), program);
        }
        // This process is not the copy.
        assert_eq!(instead_of(&paths), None);
        let_go(&paths).unwrap();
        let_go(&paths).unwrap();
        assert!(!link(&paths).exists() && !copy(&paths).exists());
    }
}
