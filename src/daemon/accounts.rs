//! Who an app's workers run as, and whether somebody may have them run as that.
//!
//! Every look-up in the account database that the daemon makes is here, and on a thread of its own: where
//! nsswitch.conf(5) names a directory service, one that is away can hold it up for minutes. The loop gets answers only.

use std::time::Duration;

use super::handle::Caller;
use crate::api::Error;
use crate::core::{AppSpec, Uid};
use crate::sys::identity::Identity;

/// How long somebody's request waits for the account database.
const DEADLINE: Duration = Duration::from_secs(20);

/// What the account database says of a request to run a spec.
#[derive(Debug)]
pub(super) struct Accounts {
    /// Who asks.
    own: Identity,
    /// Whom a worker of it would run as.
    pub(super) worker: Identity,
}

impl Accounts {
    /// Looks both up.
    ///
    /// # Errors
    /// `InvalidArgument` naming the user or group that does not exist; `Failed` when the database does not answer.
    pub(super) async fn of_request(caller: &Caller, spec: &AppSpec) -> Result<Accounts, Error> {
        let (uid, named) = (caller.uid, Named::of(spec));
        let look = move || {
            let own = by_uid(uid)?;
            let worker = named.look_up(|| Ok(own.clone()))?;
            Ok(Accounts { own, worker })
        };
        match tokio::time::timeout(DEADLINE, tokio::task::spawn_blocking(look)).await {
            Ok(Ok(found)) => found.map_err(Error::InvalidArgument),
            Ok(Err(error)) => Err(Error::Failed(error.to_string())),
            Err(_) => Err(Error::Failed(format!(
                "cannot look up who `{}` runs as: the account database has not answered for {} s",
                spec.name,
                DEADLINE.as_secs()
            ))),
        }
    }

    /// Whether the caller may run the spec: as nobody but themselves, unless they are root.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub(super) fn check(&self, caller: &Caller, spec: &AppSpec) -> Result<(), Error> {
        if caller.uid == Uid(0) {
            return Ok(());
        }
        let Accounts { own, worker } = self;
        if worker.uid != caller.uid.0 {
            let (app, user) = (&spec.name, &worker.name);
            return Err(Error::AccessDenied(format!("only root may start `{app}` as user `{user}`")));
        }
        if worker.gid != own.gid && !own.groups.contains(&worker.gid) {
            let (app, group) = (&spec.name, worker.gid);
            return Err(Error::AccessDenied(format!("you are not in the group that `{app}` is to run as ({group})")));
        }
        Ok(())
    }
}

/// Who a worker of `owner` with this spec runs as.
///
/// # Errors
/// One line naming the user or group that does not exist.
pub(super) async fn of_worker(owner: Uid, spec: &AppSpec) -> Result<Identity, String> {
    let named = Named::of(spec);
    tokio::task::spawn_blocking(move || named.look_up(|| by_uid(owner))).await.map_err(|error| error.to_string())?
}

fn by_uid(uid: Uid) -> Result<Identity, String> {
    Identity::of_uid(uid.0).map_err(|error| error.to_string())
}

/// Whom a spec names.
struct Named {
    user: Option<String>,
    group: Option<String>,
}

impl Named {
    fn of(spec: &AppSpec) -> Named {
        Named { user: spec.uid.clone(), group: spec.gid.clone() }
    }

    /// Whoever names nobody means the owner.
    fn look_up(self, owner: impl FnOnce() -> Result<Identity, String>) -> Result<Identity, String> {
        let identity = match &self.user {
            Some(user) => Identity::by_name(user).map_err(|error| error.to_string())?,
            None => owner()?,
        };
        match &self.group {
            Some(group) => identity.with_group(group).map_err(|error| error.to_string()),
            None => Ok(identity),
        }
    }
}
