//! What a command has at hand while it runs: the console, the options, the way to the daemon.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use zbus::OwnedObjectPath;

use super::cmd::settings;
use super::connect::Choice;
use super::console::Console;
use super::exit::Failure;
use super::options::Options;
use super::progress::Progress;
use super::render::list::{self, Sort};
use super::render::row::Row;
use crate::api::{self, Client, JobState, Outcome};
use crate::config::{CallerContext, LoadContext};

/// Our version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the next daemon may take to serve after the one before has died.
const SUCCESSION: Duration = Duration::from_secs(5);

/// One call of the program.
#[derive(Debug)]
pub struct Session {
    /// Where its words go.
    pub console: Console,
    /// What was typed with the command.
    pub options: Options,
    /// Which daemon it is about.
    pub choice: Choice,
    /// All words after the program's name.
    pub words: Vec<String>,
    /// The daemon that has taken the place of the one the command began with.
    pub successor: RefCell<Option<Client>>,
}

impl Session {
    /// A connection to the daemon, started where need be.
    ///
    /// # Errors
    /// When there is no way to it.
    pub async fn daemon(&self) -> Result<Client, Failure> {
        self.choice.connect(&self.console).await
    }

    /// The circumstances of the call, for `config`.
    pub fn caller(&self) -> CallerContext {
        CallerContext::of_this_process(self.choice.home.clone())
    }

    /// What evaluating a file needs to know.
    pub fn load_context(&self, caller: &CallerContext) -> LoadContext {
        LoadContext::new(caller, self.words.clone())
    }

    /// The processes as the daemon tells of them.
    ///
    /// # Errors
    /// When the daemon goes away.
    pub async fn processes(&self, client: &Client) -> Result<Value, Failure> {
        let text = client.manager().list_processes().await?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::error(format!("cannot read the list of processes: {error}")))
    }

    /// Their rows, by id.
    ///
    /// # Errors
    /// When the daemon goes away.
    pub async fn rows(&self, client: &Client) -> Result<Vec<Row>, Failure> {
        Ok(Row::read_all(&self.processes(client).await?))
    }

    /// Waits for a job, with progress on a terminal, and tells its warnings. A daemon that dies or is replaced meanwhile
    /// makes no difference: the next one goes on with the job.
    ///
    /// # Errors
    /// The job's own message when it failed.
    pub async fn finish(&self, client: &Client, what: &str, job: &OwnedObjectPath) -> Result<(), Failure> {
        let progress = Progress::new(self.console, what);
        let mut outcome = progress.during(&self.present(client), job).await;
        while let Err(gone @ api::Error::Unreachable(_)) = outcome {
            let Some(next) = self.choice.again(SUCCESSION).await else { return Err(gone.into()) };
            self.successor.replace(Some(next.clone()));
            outcome = match progress.during(&next, job).await {
                // One that was started anew knows nothing of it.
                Err(api::Error::NoSuchJob(_)) => return Err(gone.into()),
                outcome => outcome,
            };
        }
        self.conclude(what, outcome?)
    }

    /// The connection to the daemon that serves now, as far as this command has noticed.
    fn present(&self, client: &Client) -> Client {
        self.successor.borrow().as_ref().unwrap_or(client).clone()
    }

    /// As [`Session::finish`], for a job after which the daemon ends: its end may overtake its answer.
    ///
    /// # Errors
    /// The job's own message when it failed.
    pub async fn finish_last(&self, client: &Client, what: &str, job: &OwnedObjectPath) -> Result<(), Failure> {
        match Progress::new(self.console, what).during(client, job).await {
            Err(api::Error::Unreachable(_)) => Ok(()),
            outcome => self.conclude(what, outcome?),
        }
    }

    fn conclude(&self, what: &str, outcome: Outcome) -> Result<(), Failure> {
        for warning in &outcome.warnings {
            self.console.warn(warning);
        }
        match outcome.state {
            JobState::Done | JobState::Running => Ok(()),
            JobState::Cancelled => Err(Failure::error(format!("{what} was cancelled"))),
            JobState::Failed => Err(Failure::Error(outcome.message)),
        }
    }

    /// Prints the list as the options want it.
    ///
    /// # Errors
    /// When the daemon goes away.
    pub async fn show_list(&self, client: &Client) -> Result<(), Failure> {
        let client = &self.present(client);
        if self.options.json {
            self.console.print(&format!("{}\n", client.manager().list_processes().await?));
            return Ok(());
        }
        let mut rows = self.rows(client).await?;
        let console = &self.console;
        // PM2's blocks come by id, its table by name.
        if !self.options.mini_list || self.options.sort.is_some() {
            self.options.sort.as_deref().map(Sort::read).unwrap_or_default().apply(&mut rows);
        }
        if self.options.mini_list {
            console.say(list::blocks(&rows, now()).trim_end_matches('\n'));
            console.say("");
        } else {
            console.say(list::table(&rows, now(), console.width, console.colours).trim_end());
            if settings::shows_host_metrics(self) {
                // A daemon of an older release does not know them; the list is no worse without.
                if let Ok(metrics) = client.manager().get_host_metrics().await {
                    console.say(list::host_line(&serde_json::from_str(&metrics).unwrap_or_default()));
                }
            }
        }
        // For people only: scripts count words in what PM2 prints.
        if console.width.is_some() {
            list::reasons(&rows).iter().for_each(|reason| console.notice(reason));
        }
        let running = client.manager().version().await?;
        if running != VERSION {
            console.notice(format!(
                ">>>> In-memory PM2 is out-of-date, do:\n>>>> $ pm2 update\n\
                 In memory PM2 version: {running}\nLocal PM2 version: {VERSION}"
            ));
        }
        Ok(())
    }
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
