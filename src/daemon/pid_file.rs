//! pm2.pid: who supervises in this home, for people, scripts and units with `PIDFile=`.
//!
//! We are not the only ones who write it. A program that uses PM2's npm library finds no daemon of PM2 here, starts one
//! in the same home, and that one puts its own pid into the file and takes the file away when it ends.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::sys::durable;

/// The file of one daemon. Must never take away what another one wrote.
#[derive(Debug)]
pub(super) struct PidFile {
    path: Option<PathBuf>,
}

impl PidFile {
    /// None is kept without a path: systemd knows the pid of a service.
    pub(super) fn new(path: Option<&Path>) -> PidFile {
        PidFile { path: path.map(Path::to_owned) }
    }

    /// Has the file name this process. Blocks for as long as the disk takes when it does not already.
    pub(super) fn claim(&self) {
        let Some(path) = self.path.as_deref().filter(|path| !names_us(path)) else { return };
        if let Err(error) = durable::write(path, own_pid().as_bytes(), 0o644) {
            // Only people read it; a full disk must not keep apps from being supervised.
            warn!(path = %path.display(), %error, "cannot write the pid file");
        }
    }

    /// The same while others may have written it since: says who did.
    pub(super) fn reclaim(&self) {
        let Some(path) = self.path.as_deref().filter(|path| !names_us(path)) else { return };
        let other = fs::read_to_string(path).unwrap_or_default();
        warn!(
            path = %path.display(),
            other = other.trim(),
            "the pid file named another process or was gone: a program that uses PM2's npm library may have started a \
             daemon of PM2 in this home, which knows nothing of the apps here"
        );
        self.claim();
    }

    /// Takes it away, if it is ours.
    pub(super) fn remove(&self) {
        if let Some(path) = self.path.as_deref().filter(|path| names_us(path)) {
            drop(fs::remove_file(path));
        }
    }
}

fn own_pid() -> String {
    std::process::id().to_string()
}

fn names_us(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == own_pid())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_another_daemon_wrote_is_set_right_and_not_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pm2.pid");
        let file = PidFile::new(Some(&path));
        file.claim();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_pid());
        fs::write(&path, "1").unwrap();
        file.remove();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1");
        file.reclaim();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_pid());
        file.remove();
        assert!(!path.exists());
        file.reclaim();
        assert!(path.exists());
    }
}
