//! A scope of systemd's for each worker: the connection to its manager, and what our scopes have in common.

use std::time::Duration;

use tokio::sync::Mutex;
use zbus::Connection;

use super::Mode;
use crate::core::SpawnOrder;
use crate::sys::cgroup::ResourceLimits;
use crate::sys::scope::{self, Scope, ScopeOrder};

/// systemd makes a scope within milliseconds; a manager that takes this long is stuck.
const DEADLINE: Duration = Duration::from_secs(10);
/// The slice of all workers.
const SLICE: &str = "pm2rs.slice";
/// The unit that ends its workers itself when the machine goes down.
const SERVICE: &str = "pm2rs.service";

/// How long systemd may take to say what it does with our service; it may be busy ending everything.
const ANSWER: Duration = Duration::from_secs(3);

/// Whether the daemon's service is being restarted. Not when systemd cannot be asked: then it is as well the machine's end.
pub(super) async fn is_being_restarted(mode: &Mode) -> bool {
    let job = tokio::time::timeout(ANSWER, own_job(mode)).await;
    match job {
        Ok(Ok(job)) => matches!(job.as_deref(), Some("restart" | "try-restart")),
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot ask systemd whether it restarts the service or stops it");
            false
        }
        Err(_) => {
            tracing::warn!("systemd does not say whether it restarts the service or stops it");
            false
        }
    }
}

/// What systemd is about to do with the service of this process, see [`scope::own_job`].
///
/// # Errors
/// When its bus does not work.
pub(super) async fn own_job(mode: &Mode) -> zbus::Result<Option<String>> {
    let connection = match mode {
        Mode::System => Connection::system().await?,
        Mode::User | Mode::Private { .. } => Connection::session().await?,
    };
    scope::own_job(&connection).await
}

/// The way to systemd's manager: the system's, or the user's.
#[derive(Debug)]
pub(super) struct Scopes {
    system: bool,
    /// Made when it is first needed, and anew after it broke (a bus that was restarted).
    connection: Mutex<Option<Connection>>,
}

impl Scopes {
    /// `None` in private mode, which does without systemd.
    pub(super) fn of(mode: &Mode) -> Option<Scopes> {
        let system = match mode {
            Mode::System => true,
            Mode::User => false,
            Mode::Private { .. } => return None,
        };
        Some(Scopes { system, connection: Mutex::new(None) })
    }

    /// Moves a process that waits to be let go into a scope of its own.
    ///
    /// # Errors
    /// In words for the log: systemd cannot be reached or refuses.
    pub(super) async fn start(&self, order: &SpawnOrder, pid: u32) -> Result<Scope, String> {
        let connection = self.connection().await.map_err(|error| error.to_string())?;
        // The pid, not our own number: that begins anew with each daemon, while systemd may still be closing the old scope.
        let id = format!("{}-{pid}", order.process);
        let unit = scope::unit_name("pm2rs", &[&order.spec.name, &id]);
        let description = format!("pm2rs app {} (process {})", order.spec.name, order.process);
        let order = ScopeOrder {
            unit: &unit,
            description: &description,
            slice: SLICE,
            pid,
            limits: ResourceLimits::default(),
            stopped_after: Some(SERVICE),
        };
        let result = scope::start(&connection, &order, DEADLINE).await;
        if result.is_err() {
            *self.connection.lock().await = None;
        }
        result.map_err(|error| error.to_string())
    }

    async fn connection(&self) -> zbus::Result<Connection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let connection = if self.system { Connection::system().await? } else { Connection::session().await? };
        *kept = Some(connection.clone());
        Ok(connection)
    }
}
