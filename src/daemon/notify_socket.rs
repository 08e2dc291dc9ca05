//! The NOTIFY_SOCKET of workers that tell their readiness the way services do (sd_notify(3)): one socket a worker, so
//! that the path says who is meant, and the kernel's credentials say who wrote.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::sys::identity::Identity;
use crate::sys::socket;

/// Longer messages than this are no sd_notify messages.
const MESSAGE: usize = 4096;

/// A worker's socket; the file goes with it.
#[derive(Debug)]
pub struct NotifySocket {
    pub(super) socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// Binds `path` for a worker that runs as `identity`.
    ///
    /// # Errors
    /// What bind(2), chmod(2) or chown(2) say.
    pub fn bind(path: &Path, identity: &Identity) -> io::Result<NotifySocket> {
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let socket = UnixDatagram::bind(path)?;
        let bound = NotifySocket { socket, path: path.to_owned() };
        // Connecting takes write permission on the socket file (unix(7)): the worker's user alone has it.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        std::os::unix::fs::chown(path, Some(identity.uid), Some(identity.gid))?;
        Ok(bound)
    }

    /// The socket at `path` that an earlier daemon had bound.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn again(path: &Path, fd: OwnedFd) -> io::Result<NotifySocket> {
        let socket = std::os::unix::net::UnixDatagram::from(fd);
        Ok(NotifySocket { socket: UnixDatagram::from_std(socket)?, path: path.to_owned() })
    }

    /// Returns once READY=1 has come.
    ///
    /// # Errors
    /// What recv(2) says.
    pub async fn ready(&self) -> io::Result<()> {
        let mut buffer = [0; MESSAGE];
        loop {
            let receive = || socket::receive_bytes(&self.socket, &mut buffer);
            let (length, _) = self.socket.async_io(Interest::READABLE, receive).await?;
            if buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok(());
            }
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
