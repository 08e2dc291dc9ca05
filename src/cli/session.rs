//! What a command has at hand while it runs: the console, the options, the way to the daemon.

use std::cell::{Cell, RefCell};
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

/// How many daemons may go away from one question before it counts as their end. An upgrade that does not come up and
/// the way back from it are two.
const SUCCESSORS: usize = 3;

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
    /// Whether this command has started the daemon.
    pub started_daemon: Cell<bool>,
}

impl Session {
    /// A connection to the daemon, started where need be.
    ///
    /// # Errors
    /// When there is no way to it.
    pub async fn daemon(&self) -> Result<Client, Failure> {
        let (client, started) = self.choice.connect(&self.console).await?;
        self.started_daemon.set(started || self.started_daemon.get());
        Ok(client)
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
        let text = self.list_text(client).await?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::error(format!("cannot read the list of processes: {error}")))
    }

    /// The same as the daemon sends it.
    ///
    /// # Errors
    /// When the daemon goes away.
    pub async fn list_text(&self, client: &Client) -> Result<String, api::Error> {
        self.look(client, async |daemon| daemon.manager().list_processes().await).await
    }

    /// Their rows, by id.
    ///
    /// # Errors
    /// When the daemon goes away.
    pub async fn rows(&self, client: &Client) -> Result<Vec<Row>, Failure> {
        Ok(Row::read_all(&self.processes(client).await?))
    }

    /// Of those, what a configuration file of this command's user is about: in the system's daemon root sees others' apps,
    /// which may have the same names.
    ///
    /// # Errors
    /// When the daemon goes away.
    pub async fn own_rows(&self, client: &Client) -> Result<Vec<Row>, Failure> {
        let mut rows = self.rows(client).await?;
        let own = u64::from(nix::unistd::geteuid().as_raw());
        if rows.iter().any(|row| row.owner != own)
            && self.look(client, async |daemon| daemon.manager().mode().await).await? == "system"
        {
            rows.retain(|row| row.owner == own);
        }
        Ok(rows)
    }

    /// The ids of the processes that `targets` mean: names, ids, namespaces, patterns.
    ///
    /// # Errors
    /// When one means none, or the daemon goes away.
    pub async fn resolve(&self, client: &Client, targets: &[&str]) -> Result<Vec<u32>, api::Error> {
        self.look(client, async |daemon| daemon.manager().resolve(targets).await).await
    }

    /// Asks what changes nothing, and so may be asked again: of the next daemon where this one dies or is replaced.
    ///
    /// # Errors
    /// The answer's, and [`api::Error::Unreachable`] when no daemon comes or none lives until it has answered.
    pub async fn look<T>(
        &self,
        client: &Client,
        ask: impl AsyncFn(Client) -> Result<T, api::Error>,
    ) -> Result<T, api::Error> {
        let mut answer = ask(self.present(client)).await;
        for _ in 0..SUCCESSORS {
            let Err(api::Error::Unreachable(_)) = answer else { break };
            let Some(next) = self.next_daemon().await else { break };
            answer = ask(next).await;
        }
        answer
    }

    /// The daemon that serves now, for a request that must not be made twice: one that follows others may find that the
    /// daemon which they were made to has been replaced since.
    ///
    /// # Errors
    /// When there is none any more.
    pub async fn serving(&self, client: &Client) -> Result<Client, api::Error> {
        self.look(client, async |daemon| daemon.manager().ping().await.map(|_| daemon)).await
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
            let Some(next) = self.next_daemon().await else { return Err(gone.into()) };
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

    /// Waits for the one that takes the place of a daemon that is gone; from then on this command talks to it.
    async fn next_daemon(&self) -> Option<Client> {
        let next = self.choice.again(SUCCESSION).await?;
        self.successor.replace(Some(next.clone()));
        Some(next)
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
        if self.options.json {
            self.console.print(&format!("{}\n", self.list_text(client).await?));
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
                let metrics = self.look(client, async |daemon| daemon.manager().get_host_metrics().await).await;
                if let Ok(metrics) = metrics {
                    console.say(list::host_line(&serde_json::from_str(&metrics).unwrap_or_default()));
                }
            }
        }
        // For people only: scripts count words in what PM2 prints.
        if console.width.is_some() {
            list::reasons(&rows).iter().for_each(|reason| console.notice(reason));
        }
        let running = self.look(client, async |daemon| daemon.manager().version().await).await?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use tokio::net::UnixListener;
    use zbus::connection::Builder;
    use zbus::export::ordered_stream::OrderedStreamExt;
    use zbus::{Connection, Guid, MessageStream, interface};

    use super::*;
    use crate::api::names;
    use crate::cli::connect::Place;

    /// As much of a daemon as the commands here ask; a real one cannot be made to die between a question and its answer.
    struct Daemon;

    #[interface(name = "org.pm2rs1.Manager")]
    impl Daemon {
        fn ping(&self) -> &str {
            "pong"
        }

        fn list_processes(&self) -> &str {
            "[]"
        }
    }

    async fn greet(listener: &UnixListener) -> Builder<'static> {
        let (stream, _) = listener.accept().await.unwrap();
        Builder::unix_stream(stream.into_std().unwrap()).server(Guid::generate()).p2p()
    }

    /// Lives until it is asked for more than a sign of life.
    async fn die_of_a_question(listener: &UnixListener) {
        let connection = greet(listener).await.build().await.unwrap();
        let mut calls = MessageStream::from(&connection);
        while let Some(Ok(call)) = calls.next().await
            && call.header().member().is_some_and(|member| member == "Ping")
        {
            connection.reply(&call.header(), &"pong").await.unwrap();
        }
    }

    async fn serve(listener: &UnixListener) -> Connection {
        greet(listener).await.serve_at("/org/pm2rs1", Daemon).build().await.unwrap()
    }

    fn session(home: &Path) -> Session {
        let choice = Choice { place: Place::Private, home: home.to_owned(), folder: ".pm2rs" };
        let options = Options::default();
        Session {
            console: Console::of_this_process(&options),
            options,
            choice,
            words: Vec::new(),
            successor: RefCell::default(),
            started_daemon: Cell::default(),
        }
    }

    #[tokio::test]
    async fn what_only_looks_is_asked_again_of_the_next_daemon() {
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join(names::PRIVATE_SOCKET)).unwrap();
        let daemons = tokio::spawn(async move {
            die_of_a_question(&listener).await;
            serve(&listener).await
        });
        let session = session(home.path());
        let client = session.daemon().await.unwrap();
        assert!(session.rows(&client).await.unwrap().is_empty());
        // And from then on whatever else this command asks.
        session.serving(&client).await.unwrap();
        drop(daemons.await.unwrap());
    }

    #[tokio::test]
    async fn daemons_that_all_die_of_a_question_are_given_up() {
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join(names::PRIVATE_SOCKET)).unwrap();
        let daemons = tokio::spawn(async move {
            loop {
                die_of_a_question(&listener).await;
            }
        });
        let session = session(home.path());
        let client = session.daemon().await.unwrap();
        let Err(Failure::Error(said)) = session.rows(&client).await else { panic!("answered") };
        assert!(said.contains("the connection ended before the answer came"), "{said}");
        daemons.abort();
    }
}
