//! What has to be known of a spec before the loop takes the request that comes with it: who would run it, and whether
//! its script is there for them.
//!
//! Must never hold up the loop: accounts may be on a server and the file on a share, and neither may answer. So the look
//! is a task, and the request comes back to the loop as a fact.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::Daemon;
use super::accounts::Accounts;
use super::facts::Fact;
use super::handle::{Caller, Reply, Request, What};
use super::requests::answer;
use crate::api::Error;
use crate::config::dump;
use crate::core::{AppSpec, STATIC_SERVER};
use crate::sys::identity::run_as_async;

/// What takes longer to look for is left to the start itself, whose own deadline names what it waits for.
const DEADLINE: Duration = Duration::from_secs(5);

impl What {
    /// The spec that this would have run.
    fn spec(&self) -> Option<&AppSpec> {
        match self {
            What::Start(spec, ..) => Some(&**spec),
            What::Restart(_, options, _) | What::Reload(_, options, _) => options.spec.as_deref(),
            _ => None,
        }
    }

    /// Says no to whoever asked for a job.
    fn refuse(self, error: Error) {
        if let What::Start(_, _, reply) | What::Restart(_, _, reply) | What::Reload(_, _, reply) = self {
            answer(reply, Err(error));
        }
    }
}

impl Daemon {
    /// Performs the request, at once or after what it would run was looked at.
    pub(super) fn on_request(&mut self, request: Request) {
        let Some(spec) = request.what.spec().cloned() else {
            return self.take(request, None);
        };
        let facts = self.facts.clone();
        tokio::spawn(async move {
            match look(&request.caller, &spec).await {
                Ok(accounts) => drop(facts.send(Fact::Looked(Box::new(request), accounts))),
                Err(error) => request.what.refuse(error),
            }
        });
    }

    /// Reads what the caller has saved, and looks up who would run it.
    pub(super) fn read_saved_list(&self, caller: Caller, reply: Reply<u32>) {
        let (path, facts) = (self.dump_file(caller.uid), self.facts.clone());
        tokio::spawn(async move {
            let read = async {
                let list = tokio::task::spawn_blocking(move || dump::recover(&path)).await;
                let list = list.map_err(|error| Error::Failed(error.to_string()))?;
                let list = list.map_err(|error| Error::Failed(error.to_string()))?;
                let none = || Error::NotPossible("no processes saved; there is no dump file".to_owned());
                let mut apps = Vec::new();
                for app in dump::by_app(list.ok_or_else(none)?) {
                    let accounts = Accounts::of_request(&caller, &app.spec).await?;
                    apps.push((app, accounts));
                }
                Ok(apps)
            };
            match read.await {
                Ok(apps) => drop(facts.send(Fact::SavedListRead(caller, apps, reply))),
                Err(error) => answer(reply, Err(error)),
            }
        });
    }
}

/// Who would run the spec, once its script was seen as them; only root learns something about what others can see.
async fn look(caller: &Caller, spec: &AppSpec) -> Result<Accounts, Error> {
    let accounts = Accounts::of_request(caller, spec).await?;
    accounts.check(caller, spec)?;
    // Our own server is always there.
    if spec.script == Path::new(STATIC_SERVER) {
        return Ok(accounts);
    }
    let script = spec.script.clone();
    let see = move || script.metadata().map(drop).map_err(|error| error.kind());
    let seen = tokio::time::timeout(DEADLINE, run_as_async(accounts.worker.clone(), see)).await;
    // Whatever else is amiss (no permission) is told by those who know more about it.
    if let Ok(Ok(Err(ErrorKind::NotFound | ErrorKind::NotADirectory))) = seen {
        return Err(Error::ScriptNotFound(spec.script.display().to_string()));
    }
    Ok(accounts)
}
