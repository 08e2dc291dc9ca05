//! Serves `api` on message buses and on private sockets, and decides who may.
//!
//! ```text
//!  daemon ──Change──▶ follow ──▶ Tree ─signals▶ connection ──signals──▶ bus or private peer
//!                                  ▲                │
//!  daemon ◀──Request (with the caller's uid)── call ◀──method calls──────┘
//! ```
//!
//! One [`Tree`](tree::Tree) is what all connections show; one task feeds it with the daemon's changes and builds the
//! signals, once for all connections. A connection is one task that takes calls, answers each in a task of its own and
//! passes signals on. Nothing here waits for a slow reader: one on a private socket is cut off, and a bus has a
//! daemon of its own between us and its slow readers.
//!
//! Must never decide anything about apps, and never believe a message about who sent it.

mod authority;
mod bus;
mod call;
mod interfaces;
mod objects;
mod peer;
mod private;
mod serve;
mod tree;
mod wire;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use zbus::Message;

pub use bus::Bus;
pub use private::{Access, bind_private};
pub use tree::ManagerInfo;

use crate::api::Error;
use crate::core::Uid;
use crate::daemon::{Caller, Change, Handle, What};
use authority::Polkit;
use peer::locked;
use tree::Tree;

/// Signals kept for a connection that does not take them; then it has missed some.
const SIGNALS_KEPT: usize = 1024;
/// Changes taken in at a time, before they are announced.
const CHANGES_AT_ONCE: usize = 1024;

/// Why the daemon cannot be reached in some way.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon has the name.
    #[error("the name `{name}` is taken on {bus}: another pm2rs daemon serves it")]
    NameTaken {
        /// The name.
        name: &'static str,
        /// The bus.
        bus: String,
    },
    /// The bus is not there or refuses us.
    #[error("cannot serve on {bus}: {cause}")]
    Bus {
        /// The bus.
        bus: String,
        /// Why.
        cause: String,
    },
    /// Another daemon listens there.
    #[error("another pm2rs daemon listens on `{0}`")]
    SocketInUse(String),
    /// The socket cannot be made.
    #[error("cannot listen on `{socket}`: {cause}")]
    Socket {
        /// Its path.
        socket: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The daemon's loop did not answer.
    #[error("cannot learn what there is to serve: {0}")]
    Daemon(#[from] Error),
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    handle: Handle,
    tree: Mutex<Tree>,
    signals: broadcast::Sender<Message>,
    /// Counts announcements: whoever waits for something in the tree looks again.
    turns: watch::Sender<u64>,
    polkit: Polkit,
    /// Calls that are being answered, on all connections.
    in_hand: watch::Sender<usize>,
    /// Whether who connects to a private socket is let in.
    open: watch::Sender<bool>,
    /// How many who did are connected.
    connected: watch::Sender<usize>,
    closing: AtomicBool,
}

/// The serving side. Ends with its drop: connections are closed, names given back.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Takes in what exists and follows the daemon's changes from then on. Nobody can connect yet.
    ///
    /// # Errors
    /// [`ServeError::Daemon`] when the loop does not answer.
    pub async fn start(handle: Handle, info: ManagerInfo) -> Result<Server, ServeError> {
        let changes = handle.changes();
        let (signals, _) = broadcast::channel(SIGNALS_KEPT);
        let (turns, _) = watch::channel(0);
        let tree = Mutex::new(Tree::new(info));
        let (in_hand, _) = watch::channel(0);
        let ((open, _), (connected, _)) = (watch::channel(true), watch::channel(0));
        let closing = AtomicBool::new(false);
        let polkit = Polkit::new();
        let shared = Shared { handle, tree, signals, turns, polkit, in_hand, open, connected, closing };
        let shared = Arc::new(shared);
        shared.take_snapshot().await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Arc::clone(&shared), changes));
        Ok(Server { shared, tasks })
    }

    /// Serves on a bus under [`BUS_NAME`](crate::api::names::BUS_NAME), and goes on to do so when the bus is restarted.
    ///
    /// # Errors
    /// When the bus is not there now or refuses us, which is tried again from time to time, or another daemon has the
    /// name, which is not.
    pub async fn add_bus(&mut self, bus: Bus) -> Result<(), ServeError> {
        let (served, problem) = match bus::connect(&self.shared, &bus).await {
            Ok(served) => (Some(served), Ok(())),
            Err(taken @ ServeError::NameTaken { .. }) => return Err(taken),
            Err(error) => (None, Err(error)),
        };
        self.tasks.spawn(bus::keep(Arc::clone(&self.shared), bus, served));
        problem
    }

    /// Makes a private socket and listens on it: [`bind_private`] and [`Server::serve_listener`] in one.
    ///
    /// # Errors
    /// Those of [`bind_private`].
    pub async fn listen_private(&mut self, socket: &Path, access: Access) -> Result<(), ServeError> {
        let listener = bind_private(socket, access).await?;
        let failed = |cause| ServeError::Socket { socket: socket.display().to_string(), cause };
        self.serve_listener(listener, access).map_err(failed)
    }

    /// Serves who connects to a private socket.
    ///
    /// # Errors
    /// When the descriptor is no listening socket that can be waited for.
    pub fn serve_listener(&mut self, listener: UnixListener, access: Access) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        self.tasks.spawn(private::accept(Arc::clone(&self.shared), listener, access));
        Ok(())
    }

    /// Whether who connects to a private socket is let in. Else they wait in the socket's queue, for us or for whom the
    /// socket is handed on to.
    pub fn let_in(&self, open: bool) {
        self.shared.open.send_replace(open);
    }

    /// How many calls are being answered.
    #[must_use]
    pub fn in_hand(&self) -> watch::Receiver<usize> {
        self.shared.in_hand.subscribe()
    }

    /// How many are connected to a private socket. A command is, as long as it runs.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<usize> {
        self.shared.connected.subscribe()
    }

    /// Lets what is being answered be answered, for `patience` at most, then ends. Who waits for a job that has not
    /// ended learns that the daemon is shutting down.
    pub async fn shutdown(self, patience: Duration) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.turns.send_modify(|turns| *turns += 1);
        let mut in_hand = self.shared.in_hand.subscribe();
        let _ = tokio::time::timeout(patience, in_hand.wait_for(|count| *count == 0)).await;
    }

    /// Serves one connected private stream.
    pub fn serve_stream(&mut self, stream: tokio::net::UnixStream) {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move { private::serve_stream(&shared, stream).await });
    }
}

impl Shared {
    async fn take_snapshot(&self) -> Result<(), Error> {
        let root = Caller { uid: Uid(0), pid: std::process::id(), privileged: true };
        let (apps, processes, jobs) = self.handle.ask(&root, What::Snapshot).await?;
        locked(&self.tree).replace(apps, processes, jobs);
        self.announce();
        Ok(())
    }

    /// Sends out what has changed in the tree.
    fn announce(&self) {
        let signals = locked(&self.tree).announce();
        for signal in signals {
            // An error means that nobody is connected.
            let _ = self.signals.send(signal);
        }
        self.turns.send_modify(|turns| *turns += 1);
    }
}

/// Keeps the tree as the daemon says it is, until the daemon ends.
async fn follow(shared: Arc<Shared>, mut changes: broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(change) => {
                let mut tree = locked(&shared.tree);
                tree.apply(change);
                for _ in 1..CHANGES_AT_ONCE {
                    match changes.try_recv() {
                        Ok(change) => tree.apply(change),
                        Err(_) => break,
                    }
                }
                drop(tree);
                shared.announce();
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "changes were missed; looking at everything anew");
                changes = shared.handle.changes();
                if shared.take_snapshot().await.is_err() {
                    return;
                }
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
