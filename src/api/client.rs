//! A connection to a daemon, however it is reached.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use zbus::connection::Builder;
use zbus::fdo;
use zbus::proxy::CacheProperties;
use zbus::{Connection, ObjectPath};

use super::proxy::{AppProxy, JobProxy, ManagerProxy, ProcessProxy};
use super::{Error, JobState, names};

/// How long a daemon may take to accept a connection and greet; one that lives does it in well under a millisecond, but on
/// a machine that has no time for it.
const GREETING: Duration = Duration::from_secs(30);

/// How often a greeting that broke off is begun again, and after what pause. A daemon may end, or execute its successor,
/// before it has greeted: it was asked nothing yet, and the next one listens on the same socket.
const GREETINGS: usize = 5;
const BETWEEN_GREETINGS: Duration = Duration::from_millis(50);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens: there is no daemon here.
    #[error("no daemon listens on `{0}`")]
    Absent(String),
    /// The caller may not connect.
    #[error("cannot connect to `{0}`: permission denied")]
    Denied(String),
    /// There is something, but it does not answer as it should.
    #[error("cannot connect to `{place}`: {cause}")]
    Failed {
        /// Where.
        place: String,
        /// Why.
        cause: String,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `Done`, `Failed` or `Cancelled`.
    pub state: JobState,
    /// Why it failed; empty otherwise.
    pub message: String,
    /// What the caller should know though it succeeded.
    pub warnings: Vec<String>,
}

/// A connection to a daemon. Cheap to clone; closed with its last clone.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
    manager: ManagerProxy<'static>,
}

impl Client {
    /// Connects to a daemon's private socket.
    ///
    /// # Errors
    /// [`ConnectError::Absent`] when there is no socket or nobody listens on it.
    pub async fn private(socket: &Path) -> Result<Client, ConnectError> {
        let place = socket.display().to_string();
        let connect = async || {
            // Not the standard library's: that would wait without end for a daemon that does not accept.
            let stream = tokio::net::UnixStream::connect(socket).await.and_then(tokio::net::UnixStream::into_std);
            let stream = stream.map_err(|error| refused(place.clone(), &error))?;
            Client::build(&place, Builder::unix_stream(stream).p2p()).await
        };
        let connected = async {
            for _ in 1..GREETINGS {
                match connect().await {
                    Err(ConnectError::Failed { .. }) => tokio::time::sleep(BETWEEN_GREETINGS).await,
                    connected => return connected,
                }
            }
            connect().await
        };
        within_greeting(&place, connected).await
    }

    /// Takes over a stream whose other end is a daemon's private socket.
    ///
    /// # Errors
    /// [`ConnectError::Failed`] when the other end does not greet as D-Bus has it.
    pub async fn over(stream: UnixStream) -> Result<Client, ConnectError> {
        Client::build("the connected socket", Builder::unix_stream(stream).p2p()).await
    }

    /// Connects to the system bus. Whether a daemon is there shows with the first call, or by [`Client::is_served`].
    ///
    /// # Errors
    /// [`ConnectError::Absent`] when there is no bus.
    pub async fn system() -> Result<Client, ConnectError> {
        within_greeting("the system bus", Client::build("the system bus", Builder::system())).await
    }

    /// Connects to the session bus.
    ///
    /// # Errors
    /// [`ConnectError::Absent`] when there is no bus.
    pub async fn session() -> Result<Client, ConnectError> {
        within_greeting("the session bus", Client::build("the session bus", Builder::session())).await
    }

    async fn build(place: &str, builder: Builder<'_>) -> Result<Client, ConnectError> {
        let failed = |cause: String| ConnectError::Failed { place: place.to_owned(), cause };
        let connection = builder.build().await.map_err(|error| match error {
            zbus::Error::InputOutput(cause) | zbus::Error::Connection(cause, _) => refused(place.to_owned(), &cause),
            other => failed(other.to_string()),
        })?;
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Client { connection, manager })
    }

    /// Whether a daemon has its name on this bus or would be started by a call. Always true on a private socket.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the bus has gone.
    pub async fn is_served(&self) -> Result<bool, Error> {
        if !self.connection.is_bus() {
            return Ok(true);
        }
        let bus = fdo::DBusProxy::new(&self.connection).await?;
        let owned = bus.name_has_owner(names::BUS_NAME.try_into()?).await;
        if owned.map_err(zbus::Error::from)? {
            return Ok(true);
        }
        let activatable = bus.list_activatable_names().await.map_err(zbus::Error::from)?;
        Ok(activatable.iter().any(|name| name.as_str() == names::BUS_NAME))
    }

    /// Whether a daemon has its name on this bus. Always true on a private socket.
    pub async fn is_running(&self) -> bool {
        if !self.connection.is_bus() {
            return true;
        }
        let Ok(bus) = fdo::DBusProxy::new(&self.connection).await else { return false };
        let Ok(name) = names::BUS_NAME.try_into() else { return false };
        bus.name_has_owner(name).await.unwrap_or(false)
    }

    /// The manager.
    #[must_use]
    pub fn manager(&self) -> &ManagerProxy<'static> {
        &self.manager
    }

    /// The connection, for streams of signals.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Asks to be sent signals. On a bus that is what a subscription does by itself; on a private socket, which has no
    /// subscriptions, they come from the time on that the client has looked at an object: this looks at the manager.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the daemon has gone.
    pub async fn hear_signals(&self) -> Result<(), Error> {
        if !self.connection.is_bus() {
            self.manager.version().await?;
        }
        Ok(())
    }

    /// Waits for a job's end.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the daemon goes away meanwhile: what became of the job is not known then.
    pub async fn wait(&self, job: &ObjectPath<'_>) -> Result<Outcome, Error> {
        let (state, message, warnings) = self.job(job).await?.wait().await?;
        let state = JobState::from_word(&state)
            .ok_or_else(|| Error::Failed(format!("the daemon reports an unknown job state `{state}`")))?;
        Ok(Outcome { state, message, warnings })
    }

    /// A job's proxy.
    ///
    /// # Errors
    /// None that a path from the daemon could cause.
    pub async fn job(&self, path: &ObjectPath<'_>) -> Result<JobProxy<'static>, Error> {
        let builder = JobProxy::builder(&self.connection).path(path.to_owned());
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }

    /// A process row's proxy. Nothing is asked of the daemon: whether the row exists shows with the first call.
    ///
    /// # Errors
    /// None that an id could cause.
    pub async fn process(&self, id: u32) -> Result<ProcessProxy<'static>, Error> {
        let builder = ProcessProxy::builder(&self.connection).path(names::process_path(id));
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }

    /// An app's proxy, by its path.
    ///
    /// # Errors
    /// None that a path from the daemon could cause.
    pub async fn app(&self, path: &ObjectPath<'_>) -> Result<AppProxy<'static>, Error> {
        let builder = AppProxy::builder(&self.connection).path(path.to_owned());
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }
}

async fn within_greeting<F>(place: &str, connect: F) -> Result<Client, ConnectError>
where
    F: Future<Output = Result<Client, ConnectError>>,
{
    tokio::time::timeout(GREETING, connect).await.unwrap_or_else(|_| {
        let cause = format!("no answer within {} s", GREETING.as_secs());
        Err(ConnectError::Failed { place: place.to_owned(), cause })
    })
}

fn refused(place: String, error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ConnectError::Absent(place),
        io::ErrorKind::PermissionDenied => ConnectError::Denied(place),
        _ => ConnectError::Failed { place, cause: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn no_socket_and_a_dead_socket_mean_no_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("bus.sock");
        assert!(matches!(Client::private(&socket).await, Err(ConnectError::Absent(_))));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        while !matches!(Client::private(&socket).await, Err(ConnectError::Absent(_))) {
            // A child that another test starts has it open, too, from fork(2) to execve(2).
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_daemon_that_goes_before_it_greets_makes_way_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("bus.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let daemons = tokio::spawn(async move {
            for _ in 1..GREETINGS {
                drop(listener.accept().await.unwrap());
            }
            let (stream, _) = listener.accept().await.unwrap();
            let guid = zbus::Guid::generate();
            Builder::unix_stream(stream.into_std().unwrap()).server(guid).p2p().build().await.unwrap()
        });
        Client::private(&socket).await.unwrap();
        drop(daemons.await.unwrap());
    }

    #[tokio::test]
    async fn something_else_on_the_socket_is_not_taken_for_a_daemon() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &theirs, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        assert!(matches!(Client::over(ours).await, Err(ConnectError::Failed { .. })));
    }
}
