//! Being on a message bus: connected, serving, then named, and again after the bus was restarted.

use std::sync::Arc;
use std::time::Duration;

use zbus::connection::Builder;
use zbus::fdo::{RequestNameFlags, RequestNameReply};

use super::peer::Peer;
use super::serve::{calls, serve};
use super::{ServeError, Shared};
use crate::api::names::BUS_NAME;

/// Between two tries to get back on a bus; doubled each time up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// A message bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bus {
    /// The system bus. polkit is reached over it.
    System,
    /// The user's session bus.
    Session,
    /// The bus of this D-Bus address.
    Address(String),
}

impl Bus {
    fn builder(&self) -> Builder<'static> {
        match self {
            Bus::System => Builder::system(),
            Bus::Session => Builder::session(),
            Bus::Address(address) => Builder::address(address.as_str()),
        }
    }

    fn failed(&self, cause: &zbus::Error) -> ServeError {
        match cause {
            zbus::Error::NameTaken => ServeError::NameTaken { name: BUS_NAME, bus: self.to_string() },
            other => ServeError::Bus { bus: self.to_string(), cause: other.to_string() },
        }
    }
}

impl std::fmt::Display for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bus::System => f.write_str("the system bus"),
            Bus::Session => f.write_str("the session bus"),
            Bus::Address(address) => write!(f, "the bus at `{address}`"),
        }
    }
}

/// A connection with its calls arriving and its name not yet taken, so that who is activated by the name is answered.
pub(super) struct Served {
    peer: Arc<Peer>,
    calls: zbus::MessageStream,
}

/// Connects, lets calls arrive, takes the name.
pub(super) async fn connect(shared: &Shared, bus: &Bus) -> Result<Served, ServeError> {
    let served = async {
        let connection = bus.builder().build().await?;
        let peer = Arc::new(Peer::bus(connection, *bus == Bus::System));
        let calls = calls(&peer).await?;
        peer.subscribe(&shared.signals);
        let name = RequestNameFlags::DO_NOT_QUEUE;
        match peer.connection().request_name_with_flags(BUS_NAME, name).await? {
            RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => Ok(Served { peer, calls }),
            RequestNameReply::InQueue | RequestNameReply::Exists => Err(zbus::Error::NameTaken),
        }
    };
    let served = served.await.map_err(|cause| bus.failed(&cause))?;
    if *bus == Bus::System {
        shared.polkit.reach_over(Some(served.peer.connection().clone()));
    }
    Ok(served)
}

/// Serves, and comes back when the bus has gone. Ends with the task. `None` where it was not there to begin with.
pub(super) async fn keep(shared: Arc<Shared>, bus: Bus, mut served: Option<Served>) {
    loop {
        if let Some(served) = served {
            serve(&shared, &served.peer, served.calls).await;
            if bus == Bus::System {
                shared.polkit.reach_over(None);
            }
            drop(served.peer);
            tracing::warn!("{bus} has closed the connection");
        }
        let mut pause = RETRY;
        let back = loop {
            tokio::time::sleep(pause).await;
            match connect(&shared, &bus).await {
                Ok(served) => break served,
                Err(error) => tracing::debug!("{error}"),
            }
            pause = (pause * 2).min(RETRY_LONGEST);
        };
        tracing::info!("now on {bus}");
        served = Some(back);
    }
}
