//! The private socket: D-Bus from peer to peer, for the command line and for machines without a bus.
//!
//! Who connects is known from the kernel (SO_PEERCRED, unix(7)): the credentials are those of the process at the time
//! of its connect(2). In system mode everybody may connect, so everything a stranger can do without a greeting, or
//! with one, is bounded: how many connections, how long a greeting takes, how long a message is, how many calls.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use zbus::Guid;
use zbus::connection::Builder;

use super::peer::{Peer, locked};
use super::serve::{PATIENCE, calls, serve};
use super::wire::Guarded;
use super::{ServeError, Shared};
use crate::sys::socket;

/// Connections at a time; who comes on top waits in the socket's queue.
const CONNECTIONS: usize = 512;
/// Connections of one user at a time, other than root, where everybody may connect.
const CONNECTIONS_OF_A_USER: usize = 64;
/// Pause when the process has no descriptor left for another connection.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// Who may connect to a private socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The daemon's own user and root: mode 0600, in a folder of mode 0700, which is made where it is missing.
    Owner,
    /// Everybody: mode 0666. What they may do is decided by their uid.
    Everybody,
}

/// Makes a private socket, for [`Server::serve_listener`](super::Server::serve_listener). One that nobody listens on any
/// more is replaced. The descriptor may outlive this process, in systemd's keeping or over execve(2): who connects
/// meanwhile waits in the socket's queue.
///
/// # Errors
/// [`ServeError::SocketInUse`] when a live daemon listens there.
pub async fn bind_private(socket: &Path, access: Access) -> Result<StdUnixListener, ServeError> {
    let failed = |cause| ServeError::Socket { socket: socket.display().to_string(), cause };
    if let Some(folder) = socket.parent() {
        make_folder(folder, access).map_err(failed)?;
    }
    match fs::symlink_metadata(socket) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if UnixStream::connect(socket).await.is_ok() {
                return Err(ServeError::SocketInUse(socket.display().to_string()));
            }
            fs::remove_file(socket).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::Error::other("there is something else than a socket"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = StdUnixListener::bind(socket).map_err(failed)?;
    let mode = match access {
        Access::Owner => 0o600,
        Access::Everybody => 0o666,
    };
    fs::set_permissions(socket, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

fn make_folder(folder: &Path, access: Access) -> io::Result<()> {
    let mode = match access {
        Access::Owner => 0o700,
        Access::Everybody => 0o755,
    };
    fs::DirBuilder::new().recursive(true).mode(mode).create(folder)
}

/// Accepts and serves until the task is dropped.
pub(super) async fn accept(shared: Arc<Shared>, listener: UnixListener, access: Access) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let bound = match access {
        Access::Owner => CONNECTIONS,
        Access::Everybody => CONNECTIONS_OF_A_USER,
    };
    let users = Arc::new(Users { bound, connections: Mutex::default() });
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let mut open = shared.open.subscribe();
        let accepted = tokio::select! {
            biased;
            _ = open.wait_for(|open| !open) => None,
            accepted = listener.accept() => Some(accepted),
        };
        let Some(accepted) = accepted else {
            // An error means that nothing is served any more.
            drop(open.wait_for(|open| *open).await);
            continue;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // EMFILE, ENFILE, ENOBUFS, ENOMEM (accept(2)): they pass. ECONNABORTED is the peer's.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(NO_DESCRIPTOR).await;
                continue;
            }
        };
        let Some(user) = users.admit(&stream) else {
            socket::stop_receiving(&stream);
            continue;
        };
        let shared = Arc::clone(&shared);
        shared.connected.send_modify(|count| *count += 1);
        connections.spawn(async move {
            serve_stream(&shared, stream).await;
            shared.connected.send_modify(|count| *count -= 1);
            drop((user, permit));
        });
    }
}

/// Greets, then serves until the peer goes.
pub(super) async fn serve_stream(shared: &Arc<Shared>, stream: UnixStream) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    let (socket, gate) = Guarded::new(stream, credentials.uid(), pid);
    let greeting = Builder::socket(socket).server(Guid::generate()).p2p().build();
    let connection = match tokio::time::timeout(PATIENCE, greeting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, pid, "a private connection did not get past its greeting");
            return;
        }
        Err(_) => return,
    };
    let peer = Arc::new(Peer::private(connection, credentials.uid(), pid));
    let Ok(calls) = calls(&peer).await else { return };
    gate.open();
    tokio::select! {
        () = serve(shared, &peer, calls) => {}
        () = gate.broken() => {}
    }
}

/// Connections by user.
#[derive(Debug)]
struct Users {
    bound: usize,
    connections: Mutex<HashMap<u32, usize>>,
}

impl Users {
    fn admit(self: &Arc<Self>, stream: &UnixStream) -> Option<User> {
        let uid = stream.peer_cred().ok()?.uid();
        let mut connections = locked(&self.connections);
        let count = connections.entry(uid).or_default();
        if *count >= self.bound && uid != 0 {
            return None;
        }
        *count += 1;
        Some(User { users: Arc::clone(self), uid })
    }
}

/// One connection of a user; counts until it is dropped.
#[derive(Debug)]
struct User {
    users: Arc<Users>,
    uid: u32,
}

impl Drop for User {
    fn drop(&mut self) {
        let mut connections = locked(&self.users.connections);
        if let Some(count) = connections.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.uid);
            }
        }
    }
}
