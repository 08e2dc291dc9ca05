//! A scope of systemd's for each worker: the connection to its manager, and what our scopes have in common.

use std::time::Duration;

use tokio::sync::Mutex;
use zbus::Connection;

use super::Mode;
use crate::core::SpawnOrder;
use crate::sys::cgroup::ResourceLimits;
use crate::sys::manager::ServiceManager;
use crate::sys::scope::{self, Scope, ScopeOrder};

/// systemd makes a scope within milliseconds; a manager that takes this long is stuck.
const DEADLINE: Duration = Duration::from_secs(10);
/// The slice of all workers.
const SLICE: &str = "pm2rs.slice";
/// The unit that ends its workers itself when the machine goes down.
const SERVICE: &str = "pm2rs.service";

/// How long systemd may take to say what it does with our service; it may be busy ending everything.
const ANSWER: Duration = Duration::from_secs(3);

/// Whether there will be a next daemon when this one ends: its service is restarted, not stopped. Not when systemd cannot be
/// asked: then it is as well the machine's end.
pub(super) async fn is_to_come_back(mode: &Mode) -> bool {
    let asked = async |connection| scope::is_to_come_back(&connection).await;
    manager_of(mode).ask(ANSWER, asked).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot ask systemd whether it restarts the service or stops it");
        false
    })
}

/// Whose service the daemon is, and who makes its scopes.
pub(super) fn manager_of(mode: &Mode) -> ServiceManager {
    match mode {
        Mode::System => ServiceManager::System,
        Mode::User | Mode::Private { .. } => ServiceManager::User,
    }
}

/// The way to systemd's manager.
#[derive(Debug)]
pub(super) struct Scopes {
    manager: ServiceManager,
    /// Over the bus. Made when it is first needed, and anew after it broke (a bus that was restarted).
    connection: Mutex<Option<Connection>>,
}

impl Scopes {
    /// `None` in private mode, which does without systemd.
    pub(super) fn of(mode: &Mode) -> Option<Scopes> {
        let private = matches!(mode, Mode::Private { .. });
        (!private).then(|| Scopes { manager: manager_of(mode), connection: Mutex::new(None) })
    }

    /// Moves a process that waits to be let go into a scope of its own.
    ///
    /// # Errors
    /// In words for the log: systemd cannot be reached or refuses.
    pub(super) async fn start(&self, order: &SpawnOrder, pid: u32) -> Result<Scope, String> {
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
        let failed = match self.start_over_bus(&order).await {
            Ok(scope) => return Ok(scope),
            Err(error) => error,
        };
        // What broke while it was answering may have been done.
        if let Some(scope) = scope::found(&unit, pid) {
            return Ok(scope);
        }
        tracing::debug!(error = failed, unit, "making a scope without the bus");
        match tokio::time::timeout(ANSWER, self.manager.direct()).await {
            Ok(Ok(connection)) => scope::start(&connection, &order, DEADLINE).await.map_err(|error| error.to_string()),
            _ => Err(failed),
        }
    }

    async fn start_over_bus(&self, order: &ScopeOrder<'_>) -> Result<Scope, String> {
        let connection = self.connection().await?;
        let result = scope::start(&connection, order, DEADLINE).await;
        if result.is_err() {
            *self.connection.lock().await = None;
        }
        result.map_err(|error| error.to_string())
    }

    async fn connection(&self) -> Result<Connection, String> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let made = tokio::time::timeout(ANSWER, self.manager.over_bus()).await;
        let connection = made.map_err(|_| "the bus does not answer".to_owned())?.map_err(|error| error.to_string())?;
        *kept = Some(connection.clone());
        Ok(connection)
    }
}
