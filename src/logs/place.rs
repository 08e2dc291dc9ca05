//! Where a log file is and with whose rights it is opened and renamed, and whether it is still there.
//!
//! Must never do more there than the file's owner may.

use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use jiff::Zoned;

use super::rotation::Names;
use crate::sys::append;
use crate::sys::identity::{Identity, run_as};

/// Files rotated within the same unit of the date format.
const MAX_SEQUENCE: u32 = 10_000;

/// Where a log file is and with whose rights it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its path.
    pub path: PathBuf,
    /// Its owner.
    pub owner: Identity,
    /// It lies in the daemon's own log folder, where its owner may create nothing, and the daemon's own account wants it
    /// there: the daemon creates it and gives it to its owner. Nobody else can put a link there.
    pub ours: bool,
}

impl Place {
    /// Runs `f` with the rights that hold for this file.
    ///
    /// # Errors
    /// When the owner's rights cannot be taken on, or what `f` says.
    pub fn with_rights<T: Send>(&self, f: impl FnOnce(&Path) -> io::Result<T> + Send) -> io::Result<T> {
        if self.ours {
            return f(&self.path);
        }
        run_as(&self.owner, || f(&self.path)).map_err(io::Error::other)?
    }

    /// How long it is (bytes); 0 when it is not there or its owner may not know.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.with_rights(|path| Ok(std::fs::metadata(path)?.len())).unwrap_or(0)
    }

    /// When it was last written to; `None` when it is not there or its owner may not know.
    #[must_use]
    pub fn modified(&self) -> Option<SystemTime> {
        self.with_rights(|path| std::fs::metadata(path)?.modified()).ok()
    }

    /// Opens it for appending; creates it, and its folder, when it is not there.
    ///
    /// # Errors
    /// When its owner may not.
    pub fn open(&self, now: Instant) -> io::Result<Open> {
        let file = self.with_rights(|path| match append::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
                append::open(path)
            }
            other => other,
        })?;
        if self.ours {
            std::os::unix::fs::fchown(&file, Some(self.owner.uid), Some(self.owner.gid))?;
        }
        let meta = file.metadata()?;
        let regular = !append::is_special(&meta);
        let size = if regular { meta.size() } else { 0 };
        Ok(Open { file, regular, size, inode: inode(&meta), looked: now, movable: true })
    }

    /// Gives the file the first free name of a rotated one, unless what is there is not what is open.
    ///
    /// # Errors
    /// When its owner may not, or no name is free.
    pub fn rotate(&self, names: &Names, open: Option<&Open>) -> io::Result<()> {
        let inode_open = open.map(|open| open.inode);
        self.with_rights(|path| {
            // Somebody moved it already: what is there now is not ours to rename.
            if inode_open != std::fs::metadata(path).ok().as_ref().map(inode) {
                return Ok(());
            }
            let now = Zoned::now();
            for sequence in 0..MAX_SEQUENCE {
                let target = path.with_file_name(names.at(&now, sequence));
                let mut compressed = target.clone().into_os_string();
                compressed.push(".gz");
                if target.symlink_metadata().is_err() && Path::new(&compressed).symlink_metadata().is_err() {
                    return std::fs::rename(path, target);
                }
            }
            Err(io::ErrorKind::AlreadyExists.into())
        })
    }
}

/// A file that is open for appending.
#[derive(Debug)]
pub struct Open {
    /// The file.
    pub file: File,
    /// A regular file; else a device or a fifo, which has no size and cannot be rotated.
    pub regular: bool,
    /// Bytes in it, as far as is known.
    pub size: u64,
    inode: (u64, u64),
    /// When it was last asked whether it is still there.
    pub looked: Instant,
    /// Whether bytes may be moved into it: not once somebody else was seen to append to it, whose lines that could
    /// overwrite.
    pub movable: bool,
}

impl Open {
    /// Whether the path means another file by now, or none; takes note of the size, which others may have changed.
    pub fn has_moved(&mut self, path: &Path) -> bool {
        let Ok(meta) = self.file.metadata() else { return true };
        self.size = self.size.min(meta.size());
        // Whether it is there is all that is asked, so the daemon's own rights do.
        match std::fs::metadata(path) {
            Ok(there) => inode(&there) != self.inode,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

fn inode(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}
