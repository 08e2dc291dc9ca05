//! Files that are whole at every moment, whatever crashes: written beside, made durable, put in place.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces a file's content and mode. Whoever reads it, also after a loss of power at any point, finds the old
/// content whole or the new; once this has returned, the new. The folder must exist; a symbolic link in the file's
/// place is replaced, not followed. Blocks for as long as the disk takes.
///
/// # Errors
/// As open(2), write(2), fsync(2) and rename(2): a full disk above all. The old content is still there then.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace(path, content, mode, None)
}

/// As [`write()`], and the file that was there is renamed to `before`, in the same folder, instead of being lost. After a
/// loss of power between the two renames there is no file in its place, and the old content at `before`.
///
/// # Errors
/// As [`write()`].
pub(super) fn replace(path: &Path, content: &[u8], mode: u32, before: Option<&Path>) -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` names no file", path.display()));
    let name = path.file_name().ok_or_else(missing)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // In the same folder, because rename(2) works only within a file system. With the pid, because the command line
    // may write the same file as the daemon.
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = folder.join(beside);
    let written = write_new(&beside, content, mode).and_then(|()| keep(path, before));
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        // It may not have come into being; and there is nothing better to do about it.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    // A rename is durable once its folder is (fsync(2)).
    File::open(folder)?.sync_all()
}

fn keep(path: &Path, before: Option<&Path>) -> io::Result<()> {
    let Some(before) = before else { return Ok(()) };
    match fs::rename(path, before) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = match options.open(path) {
        // Left over from a crash of a process that had our pid.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)?
        }
        other => other?,
    };
    file.write_all(content)?;
    // Not by open's mode, which the umask would clip.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn content_and_mode_are_replaced_and_nothing_is_left_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for (content, mode) in [("one, long", 0o600), ("two", 0o666)] {
            write(&path, content.as_bytes(), mode).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
        }
        assert_eq!(names(dir.path()), ["state.json"]);
    }

    #[test]
    fn leftovers_and_links_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("f"), dir.path().join("elsewhere"));
        fs::write(&elsewhere, "kept").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(format!(".f.{}.tmp", std::process::id()))).unwrap();
        write(&path, b"new", 0o600).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&elsewhere).unwrap()), (b"new".to_vec(), b"kept".to_vec()));
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn what_fails_leaves_the_old_content_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "").unwrap();
        write(&path, b"new", 0o600).unwrap_err();
        assert_eq!(names(dir.path()), ["state"]);
        assert_eq!(names(&path), ["inside"]);
        assert!(write(&dir.path().join("no/such"), b"", 0o600).is_err());
        assert!(write(Path::new("/"), b"", 0o600).is_err());
    }
}
