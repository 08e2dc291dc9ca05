//! The cluster primary as the rest of the daemon sees it: a handle, what it is told and what it tells.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::bind::Errno;
use super::task::Task;
use crate::core::{AppId, Balance, ProcessId, WorkerId};
use crate::sys::identity::Identity;
use crate::sys::store::Store;

/// Events that wait for the daemon. When they are not fetched the primary stops reading channels: workers then queue
/// what they say in their own memory.
const EVENTS: usize = 256;

/// A cheap handle to the one task that owns all worker channels and listening sockets.
///
/// Commands are queued without bound, since none of them can be refused or wait; the task never blocks between two of
/// them, and what they enqueue for a worker is bounded there.
#[derive(Debug, Clone)]
pub struct Primary {
    commands: mpsc::UnboundedSender<Command>,
}

/// What the primary may use of the machine.
#[derive(Debug, Clone)]
pub struct PrimaryConfig {
    /// Steer connections with an eBPF program where the kernel lets us (CAP_BPF and CAP_NET_ADMIN); else, or where it
    /// does not, by classic BPF.
    pub ebpf: bool,
    /// A worker that does not answer for so long (ms) while connections wait for it gets no more of them and is
    /// reported as [`NodeEvent::Hung`].
    pub hang_ms: u64,
    /// Listening sockets that one app may hold. Some have one for each peer: UDP sockets that are bound come from here, too.
    pub max_listeners: usize,
    /// What outlives the daemon: sockets and the state of channels are kept there, and taken over from there.
    pub store: Store,
}

impl Default for PrimaryConfig {
    fn default() -> Self {
        PrimaryConfig { ebpf: true, hang_ms: 1000, max_listeners: 256, store: Store::default() }
    }
}

/// A worker and the supervisor's end of its channel.
#[derive(Debug)]
pub struct Attachment {
    /// Which; also Node's `cluster.worker.id`.
    pub worker: WorkerId,
    /// The row it serves. Workers of one row share the row's sockets, so that a reload hands them over.
    pub process: ProcessId,
    /// The app; sockets belong to it.
    pub app: AppId,
    /// Its instance number.
    pub instance: u32,
    /// Who the worker runs as: what it may bind is decided by that.
    pub identity: Identity,
    /// Whether it was started as a cluster worker (`NODE_UNIQUE_ID`) rather than with a channel only.
    pub cluster: bool,
    /// How connections are dealt out among the app's workers.
    pub balance: Balance,
    /// Whether the agent is loaded into it.
    pub agent: bool,
    /// Whether connections may come to it as soon as it listens. A newcomer on trial listens without accepting until
    /// [`Primary::admit`], so that a release that does not work answers nobody; that takes the agent.
    pub admitted: bool,
    /// The supervisor's end of an `AF_UNIX` stream socket pair.
    pub channel: OwnedFd,
}

/// What happens to workers.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeEvent {
    /// Node runs and knows its primary; the app's code follows.
    Online {
        /// Which.
        worker: WorkerId,
    },
    /// The agent runs in this version of Node, `20.20.2`; empty where an older agent does not say.
    Version {
        /// Which.
        worker: WorkerId,
        /// Node's version.
        node: String,
    },
    /// It accepts connections at this address: `0.0.0.0:80`, `[::]:80`, `udp 0.0.0.0:53` or a socket's path. Said once
    /// for each address; fork workers say it where the agent is loaded.
    Listening {
        /// Which.
        worker: WorkerId,
        /// Where.
        address: String,
    },
    /// `process.send(message)` of the app.
    Message {
        /// Which.
        worker: WorkerId,
        /// What; a handle that came with it has been closed.
        message: Value,
    },
    /// The answer to [`Primary::drain`], exactly one: nothing new reaches the worker any more.
    Drained {
        /// Which.
        worker: WorkerId,
        /// Connections that were still open when its time was up.
        left: u32,
    },
    /// The worker closed its end of the channel. It may live on.
    Disconnected {
        /// Which.
        worker: WorkerId,
    },
    /// The worker broke the rules of the channel, which has been closed.
    Misbehaved {
        /// Which.
        worker: WorkerId,
        /// What it did, for people.
        reason: String,
    },
    /// Connections wait for the worker, and its event loop has not turned for a while. Others serve them.
    Hung {
        /// Which.
        worker: WorkerId,
        /// For how long (ms).
        since_ms: u64,
    },
    /// A hung worker answers again and gets connections again.
    Responsive {
        /// Which.
        worker: WorkerId,
    },
}

/// A listening socket, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// As in [`NodeEvent::Listening`].
    pub address: String,
    /// How its connections are dealt out: `shared`, `round robin`, `sticky`, `reuseport`, `reuseport+cbpf`,
    /// `reuseport+ebpf`.
    pub balance: &'static str,
    /// Whether systemd opened it.
    pub inherited: bool,
    /// The workers that accept on it.
    pub workers: Vec<WorkerId>,
}

/// A primary that stands still. It ends when this is dropped.
#[derive(Debug)]
pub struct Pause(oneshot::Sender<()>);

impl Pause {
    /// There is no next daemon after all: it goes on.
    pub fn resume(self) {
        // If it has ended, nothing can be done about it here.
        let _ = self.0.send(());
    }
}

/// Why the supervisor could not open a socket for an app.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen on `{address}`: {reason}")]
pub struct OpenError {
    /// As configured.
    pub address: String,
    /// What is in the way.
    pub reason: String,
}

/// What became of a connection that was meant for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedOver {
    /// The worker has it.
    Given,
    /// The worker does not listen there, though its app does.
    NotListening,
    /// The app has no such address from us.
    Unknown,
}

/// What the task is told.
#[derive(Debug)]
pub(super) enum Command {
    AddInherited {
        name: String,
        fd: OwnedFd,
    },
    Attach(Box<Attachment>),
    Send {
        worker: WorkerId,
        message: Value,
    },
    Drain {
        worker: WorkerId,
        timeout_ms: u64,
    },
    Admit {
        worker: WorkerId,
    },
    HandOver {
        worker: WorkerId,
        port: u16,
        connection: OwnedFd,
        reply: oneshot::Sender<HandedOver>,
    },
    Terminating {
        worker: WorkerId,
    },
    Detach {
        worker: WorkerId,
    },
    RemoveProcess {
        process: ProcessId,
    },
    RemoveApp {
        app: AppId,
    },
    Listeners {
        app: AppId,
        reply: oneshot::Sender<Vec<ListenerInfo>>,
    },
    PathBound {
        app: AppId,
        path: PathBuf,
        result: Result<Option<OwnedFd>, Errno>,
    },
    Open {
        app: AppId,
        process: ProcessId,
        who: Box<Identity>,
        address: String,
        reply: oneshot::Sender<Result<OwnedFd, OpenError>>,
    },
    Named {
        app: AppId,
        process: ProcessId,
        who: Box<Identity>,
        name: String,
        reply: oneshot::Sender<Vec<(OwnedFd, String)>>,
    },
    Pause {
        reply: oneshot::Sender<()>,
        end: oneshot::Receiver<()>,
    },
}

impl Primary {
    /// Spawns the task on the current runtime. It ends when the last handle is gone, and closes everything it owns.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no epoll instance.
    pub fn start(config: PrimaryConfig) -> std::io::Result<(Primary, mpsc::Receiver<NodeEvent>)> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::channel(EVENTS);
        tokio::spawn(Task::new(config, commands.downgrade(), inbox, events)?.run());
        Ok((Primary { commands }, receiver))
    }

    /// Takes over a socket that systemd opened. The app that asks for its address, or for `listen({ fd })` with its
    /// number, gets it; a name `USER@NAME` reserves it for apps of that user.
    pub fn add_inherited(&self, name: String, fd: OwnedFd) {
        self.tell(Command::AddInherited { name, fd });
    }

    /// Begins to serve a worker. To be called before its program can have said anything, or at any time after. One that
    /// was taken over from the daemon before is served already.
    pub fn attach(&self, attachment: Attachment) {
        self.tell(Command::Attach(Box::new(attachment)));
    }

    /// Sends a message to the app (`process.on('message')`). A worker that does not read its channel loses it.
    pub fn send(&self, worker: WorkerId, message: Value) {
        self.tell(Command::Send { worker, message });
    }

    /// Has the worker stop accepting and end what it has in hand. [`NodeEvent::Drained`] follows in any case, at the
    /// latest after `timeout_ms`, at once when the worker cannot drain.
    pub fn drain(&self, worker: WorkerId, timeout_ms: u64) {
        self.tell(Command::Drain { worker, timeout_ms });
    }

    /// The worker has proved itself: it begins to accept connections.
    pub fn admit(&self, worker: WorkerId) {
        self.tell(Command::Admit { worker });
    }

    /// Gives an accepted TCP connection to this worker and no other, as if it had come to the app's `port`.
    pub async fn hand_over(&self, worker: WorkerId, port: u16, connection: OwnedFd) -> HandedOver {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::HandOver { worker, port, connection, reply });
        answer.await.unwrap_or(HandedOver::Unknown)
    }

    /// The worker is about to be told to end, so sockets that it closes from now on are kept for its successor.
    pub fn terminating(&self, worker: WorkerId) {
        self.tell(Command::Terminating { worker });
    }

    /// PM2's `shutdown` message, in place of a signal; implies [`Primary::terminating`].
    pub fn shutdown_message(&self, worker: WorkerId) {
        self.terminating(worker);
        self.send(worker, Value::from("shutdown"));
    }

    /// The worker has exited. What is queued on its row's sockets goes to other workers, or waits for the row's next.
    pub fn detach(&self, worker: WorkerId) {
        self.tell(Command::Detach { worker });
    }

    /// The row is deleted, stopped or errored: it needs no socket any more. Sockets that no row of the app needs are
    /// closed, so that their addresses are free. May be said again and of rows that have none.
    pub fn remove_process(&self, process: ProcessId) {
        self.tell(Command::RemoveProcess { process });
    }

    /// The app is gone: its sockets are closed.
    pub fn remove_app(&self, app: AppId) {
        self.tell(Command::RemoveApp { app });
    }

    /// Has it write down everything, to the last byte of a message that has come in half, and do nothing more: the next
    /// daemon is about to take over.
    pub async fn pause(&self) -> Pause {
        let ((reply, still), (end, ended)) = (oneshot::channel(), oneshot::channel());
        self.tell(Command::Pause { reply, end: ended });
        // If there is no task any more, it stands still.
        let _ = still.await;
        Pause(end)
    }

    /// The app's listening sockets.
    pub async fn listeners(&self, app: AppId) -> Vec<ListenerInfo> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Listeners { app, reply });
        answer.await.unwrap_or_default()
    }

    /// Opens a socket for a program that takes it by LISTEN_FDS: `8080`, `127.0.0.1:80`, `[::1]:80` or a path. It
    /// stays open until all rows that it was opened for are removed; the same address gives the same socket again.
    /// `who` must be allowed to bind it.
    ///
    /// # Errors
    /// When the address makes no sense, is in use or not permitted.
    pub async fn open(
        &self,
        app: AppId,
        process: ProcessId,
        who: &Identity,
        address: &str,
    ) -> Result<OwnedFd, OpenError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Open { app, process, who: Box::new(who.clone()), address: address.to_owned(), reply });
        let ended = || OpenError { address: address.to_owned(), reason: "the daemon is shutting down".to_owned() };
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// The sockets from .socket units with this FileDescriptorName=, or with `USER@` and it, that the app may have. Each
    /// comes with its whole name and is the app's until all rows that asked for it are removed.
    pub async fn named(&self, app: AppId, process: ProcessId, who: &Identity, name: &str) -> Vec<(OwnedFd, String)> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Named { app, process, who: Box::new(who.clone()), name: name.to_owned(), reply });
        answer.await.unwrap_or_default()
    }

    fn tell(&self, command: Command) {
        // The task ends before its handles only when the runtime shuts down; nobody is left to be told then.
        let _ = self.commands.send(command);
    }
}
