//! Whether the script of a spec that comes with a request is there: asked before anything changes, as whoever would
//! run it.
//!
//! Must never hold up the loop: the file may be on a share that does not answer. So the look is a task, and the request
//! comes back to the loop as a fact once the script was seen.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::Daemon;
use super::facts::Fact;
use super::handle::{Caller, Request, What};
use super::requests::{answer, worker_identity};
use crate::api::Error;
use crate::core::{AppSpec, STATIC_SERVER, Uid};
use crate::sys::identity::{Identity, run_as_async};

/// What takes longer to look for is left to the start itself, whose own deadline names what it waits for.
const DEADLINE: Duration = Duration::from_secs(5);

impl What {
    /// The spec that this would have run, if its script has to be looked for.
    fn spec(&self) -> Option<&AppSpec> {
        match self {
            What::Start(spec, ..) => Some(&**spec),
            What::Restart(_, options, _) | What::Reload(_, options, _) => options.spec.as_deref(),
            _ => None,
        }
        // Our own server is always there.
        .filter(|spec| spec.script != Path::new(STATIC_SERVER))
    }

    /// Says no to whoever asked for a job.
    fn refuse(self, error: Error) {
        if let What::Start(_, _, reply) | What::Restart(_, _, reply) | What::Reload(_, _, reply) = self {
            answer(reply, Err(error));
        }
    }
}

impl Daemon {
    /// Performs the request, at once or after its script was seen.
    pub(super) fn on_request(&mut self, request: Request) {
        let Some(spec) = request.what.spec() else { return self.take(request) };
        let (looks_as, script, facts) = (looks_as(&request.caller, spec), spec.script.clone(), self.facts.clone());
        tokio::spawn(async move {
            let look = async move {
                // Users may come from a directory service: the look-up can block.
                let identity = tokio::task::spawn_blocking(looks_as).await.ok()??;
                run_as_async(identity, move || script.metadata().map(drop).map_err(|error| error.kind())).await.ok()
            };
            let seen = tokio::time::timeout(DEADLINE, look).await;
            // Whatever else is amiss (no such user, no permission) is told by those who know more about it.
            if let Ok(Some(Err(ErrorKind::NotFound | ErrorKind::NotADirectory))) = seen {
                let script = request.what.spec().map(|spec| spec.script.display().to_string());
                return request.what.refuse(Error::ScriptNotFound(script.unwrap_or_default()));
            }
            drop(facts.send(Fact::ScriptSeen(Box::new(request))));
        });
    }
}

/// As whom to look. Only root may name somebody else: what another user cannot see, they learn nothing about.
fn looks_as(caller: &Caller, spec: &AppSpec) -> impl FnOnce() -> Option<Identity> + Send + use<> {
    let (uid, spec) = (caller.uid, (caller.uid == Uid(0)).then(|| spec.clone()));
    move || match spec {
        Some(spec) => worker_identity(uid, &spec).ok(),
        None => Identity::of_uid(uid.0).ok(),
    }
}
