//! Files in memory that are passed from one daemon to the next (memfd_create(2)).
//!
//! Must never be left with the mode that the kernel gives them, which lets everybody open them whom /proc/PID/fd does: also
//! a thread of the daemon that has taken on a user's rights to open what that user has named.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, fcntl_get_seals, memfd_create};

const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// A file with this content that nobody can change any more, to be read from its beginning. Closed on exec; `name` is for `/proc/PID/fd` only.
///
/// # Errors
/// When there are no descriptors or no memory left.
pub fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(create(name, MemfdFlags::ALLOW_SEALING)?);
    file.write_all_at(content, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// An empty file to be written again and again. Closed on exec.
///
/// # Errors
/// When there are no descriptors or no memory left.
pub fn rewritable(name: &str) -> io::Result<File> {
    create(name, MemfdFlags::empty()).map(File::from)
}

fn create(name: &str, flags: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = flags | MemfdFlags::CLOEXEC;
    let file = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3 nothing could say that a file is not to be executed.
        Err(rustix::io::Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    keep_private(&file)?;
    Ok(file)
}

/// Has nobody but its owner open a file in memory again.
///
/// # Errors
/// As fchmod(2).
pub fn keep_private(fd: impl AsFd) -> io::Result<()> {
    Ok(fchmod(fd, Mode::RUSR | Mode::WUSR)?)
}

/// Whether this is a file in memory that nobody can change any more.
#[must_use]
pub fn is_sealed(fd: impl AsFd) -> bool {
    fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SEALS))
}

/// All that is in a file, from its beginning, wherever its offset stands.
///
/// # Errors
/// `InvalidData` when it is larger than `max` bytes; as pread(2) else.
pub fn read_all(fd: impl AsFd, max: usize) -> io::Result<Vec<u8>> {
    let file = File::from(fd.as_fd().try_clone_to_owned()?);
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if size > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{size} bytes are more than {max}")));
    }
    let mut content = vec![0; size];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn nobody_else_opens_one_by_proc() {
        use crate::sys::identity::{Identity, run_as};
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::MetadataExt;
        for file in [File::from(sealed("state", b"secret").unwrap()), rewritable("state").unwrap()] {
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
            if nix::unistd::Uid::effective().is_root() {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let opened = run_as(&Identity::by_name("nobody").unwrap(), || File::open(path).map(drop));
                assert_eq!(opened.unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
        }
    }

    #[test]
    fn a_sealed_file_cannot_be_changed() {
        let fd = sealed("state", b"content").unwrap();
        assert!(is_sealed(&fd));
        let mut file = File::from(fd);
        assert!(file.write_all(b"x").is_err() && file.set_len(1).is_err() && file.set_len(100).is_err());
        assert_eq!(read_all(&file, 7).unwrap(), b"content");
        assert_eq!(read_all(&file, 6).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let flags = rustix::io::fcntl_getfd(&file).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_rewritable_one_can() {
        let file = rewritable("state").unwrap();
        assert!(!is_sealed(&file) && !is_sealed(io::stdin()));
        file.write_all_at(b"longer", 0).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        assert_eq!(read_all(&file, 10).unwrap(), b"new");
    }
}
