//! `logs`: what was written and what is being written.

use std::cell::Cell;
use std::time::Duration;

use jiff::Zoned;
use jiff::tz::TimeZone;
use regex::Regex;
use tokio::signal::unix::{SignalKind, signal};
use zbus::export::ordered_stream::OrderedStreamExt;

use super::lifetime;
use super::log_files::daemon_tail;
use super::targets::not_found;
use crate::api::{self, Client, LogsDict};
use crate::cli::args::{LogsArgs, StartArgs};
use crate::cli::console::Paint;
use crate::cli::exit::Failure;
use crate::cli::records::{Record, Records, Shown};
use crate::cli::render::log_line::{self, Form, Look, who};
use crate::cli::render::row::Row;
use crate::cli::session::Session;
use crate::cli::when;

/// Last lines of each file, unless something else is asked for.
const LINES: u32 = 15;
/// How long a daemon that went away may take to come back.
const COMEBACK: Duration = Duration::from_secs(5);
/// How long nothing may run before `pm2-runtime` ends: as long as PM2's, within which a restart by hand is safe.
const GRACE: Duration = Duration::from_secs(8);
/// Last lines of each file in which those are looked for that came while there was no daemon.
const CATCH_UP: u32 = 10_000;
/// Width before the bar where it is not fitted to the names.
const TAIL_WIDTH: usize = 10;
/// Least width before the bar where it is.
const LEAST_WIDTH: usize = 3;

/// `logs`: the last lines of each file, then what comes.
///
/// # Errors
/// For a target that stands for nothing, a wrong number of lines, time or regular expression.
pub async fn logs(session: &Session, args: &LogsArgs) -> Result<(), Failure> {
    let filter = Filter::of(args)?;
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let form = match (session.options.json, args.format, args.raw) {
        (true, ..) => Form::Json,
        (_, true, _) => Form::Pairs,
        (.., true) => Form::Raw,
        _ => Form::Prefixed,
    };
    let look = Look {
        form,
        time_format: args.timestamp.clone(),
        highlight: args.highlight.clone(),
        colours: session.console.colours,
        zone: TimeZone::system(),
    };
    let ends = args.nostream || filter.until.is_some();
    // As in PM2, programs get what comes only, unless they ask for what was.
    let looks_back = ends || filter.is_set() || matches!(look.form, Form::Prefixed | Form::Raw);
    let mut view =
        View { targets: targets(&args.targets), look, streams: streams(args), filter, ..View::new(session, rows) };
    if args.nostream && !view.targets.is_empty() {
        let targets: Vec<&str> = view.targets.iter().map(String::as_str).collect();
        // No error in PM2: of what is not there nothing was written.
        if let Err(unknown @ (api::Error::NoSuchTarget(_) | api::Error::NoProcess)) =
            session.resolve(&client, &targets).await
        {
            view.title(&last_lines(view.filter.lines));
            Failure::from(unknown).tell(&session.console);
            return Ok(());
        }
    }
    if view.filter.lines > 0 && looks_back {
        view.tail(&client).await?;
    }
    if ends {
        return Ok(());
    }
    let records = view.follow(&client).await?;
    view.stream(client, records).await
}

/// Shows what the targets print from now on, as `--attach` does.
///
/// # Errors
/// When the daemon goes away.
pub async fn follow(session: &Session, client: &Client, followed: &[String]) -> Result<(), Failure> {
    let rows = session.rows(client).await?;
    let mut view = View { targets: followed.to_vec(), ..View::new(session, rows) };
    let records = view.follow(client).await?;
    view.stream(client.clone(), records).await
}

/// `--no-daemon`: brings apps up, and shows what everything prints from the first line on until this command is told to
/// end. It ends what it has started: a daemon that was there before goes on, and with it everybody's apps.
///
/// # Errors
/// When the daemon goes away, and when `up` fails and nothing runs.
pub async fn foreground(
    session: &Session,
    args: Option<&StartArgs>,
    up: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::error(format!("cannot wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let (ending, gone) = (Cell::new(false), Cell::new(false));
    let mut view = View { ending: Some(&ending), ..View::new(session, rows) };
    view.look.form = match args {
        _ if session.options.json => Form::Json,
        Some(args) if args.format => Form::Pairs,
        Some(args) if args.raw || args.runtime && !args.formatted => Form::Raw,
        _ => Form::Prefixed,
    };
    let records = view.follow(&client).await?;
    let work = async {
        let brought = async {
            if let Err(failure) = up.await {
                // As with PM2, a container serves with what of its apps there is.
                if !session.started_daemon.get() || session.rows(&client).await?.is_empty() {
                    return Err(failure);
                }
                failure.tell(&session.console);
            }
            if args.is_some_and(|args| args.runtime && !args.no_auto_exit) {
                nothing_runs(session, &client).await?;
                return Err(Failure::NothingRuns);
            }
            std::future::pending().await
        };
        let outcome = tokio::select! {
            failed = brought => failed,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        ending.set(true);
        if session.started_daemon.get() {
            lifetime::kill(session).await?;
            gone.set(true);
        }
        outcome
    };
    let shown = view.stream(client.clone(), records);
    tokio::pin!(work, shown);
    tokio::select! {
        ended = &mut shown => if ending.get() { work.await } else { ended },
        done = &mut work => {
            // With the daemon the last lines end; one that goes on has more for as long as apps have.
            if gone.get() {
                shown.await?;
            }
            done
        }
    }
}

/// Waits until no process runs nor will by itself, and stays so for a while: PM2's `pm2-runtime` gives up then.
async fn nothing_runs(session: &Session, client: &Client) -> Result<(), Failure> {
    let mut client = client.clone();
    loop {
        let mut events = client.manager().receive_process_event().await.map_err(api::Error::from)?;
        client.hear_signals().await?;
        loop {
            let halted = |row: &Row| matches!(row.status.as_str(), "stopped" | "errored");
            let nothing = session.rows(&client).await?.iter().all(halted);
            tokio::select! {
                event = events.next() => if event.is_none() { break },
                () = tokio::time::sleep(GRACE), if nothing => return Ok(()),
            }
        }
        // That it does not come back is for whoever shows its lines to find out.
        let Some(next) = session.choice.again(COMEBACK).await else { std::future::pending().await };
        client = next;
    }
}

/// PM2's look without options.
pub fn plain(session: &Session) -> Look {
    Look {
        form: Form::Prefixed,
        time_format: None,
        highlight: None,
        colours: session.console.colours,
        zone: TimeZone::system(),
    }
}

fn targets(typed: &[String]) -> Vec<String> {
    if typed.iter().any(|target| target == "all") { Vec::new() } else { typed.to_vec() }
}

fn streams(args: &LogsArgs) -> &'static str {
    match (args.out, args.err) {
        (true, false) => "out",
        (false, true) => "err",
        _ => "all",
    }
}

fn last_lines(lines: u32) -> String {
    if lines == u32::MAX { "all lines".to_owned() } else { format!("last {lines} lines") }
}

/// Which lines are shown.
#[derive(Debug, Default)]
struct Filter {
    /// Of what is there, so many last lines of each file.
    lines: u32,
    since: Option<i64>,
    until: Option<i64>,
    pattern: Option<Regex>,
}

impl Filter {
    fn of(args: &LogsArgs) -> Result<Filter, Failure> {
        let now = Zoned::now();
        let time = |typed: &Option<String>| typed.as_deref().map(|typed| when::read(typed, &now)).transpose();
        let (since, until) = (time(&args.since)?, time(&args.until)?);
        let lines = match &args.lines {
            Some(lines) => {
                lines.parse().map_err(|_| Failure::error(format!("--lines takes a number, not `{lines}`")))?
            }
            None if since.is_some() => u32::MAX,
            None => LINES,
        };
        let pattern = args.grep.as_deref().map(|typed| {
            Regex::new(typed).map_err(|_| Failure::error(format!("`{typed}` is not a valid regular expression")))
        });
        Ok(Filter { lines, since, until, pattern: pattern.transpose()? })
    }

    fn is_set(&self) -> bool {
        self.since.is_some() || self.until.is_some() || self.pattern.is_some()
    }

    fn lets_through(&self, record: &Record) -> bool {
        record.missed > 0 || self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(&record.message))
    }
}

/// What is shown of whom, and how.
struct View<'a> {
    session: &'a Session,
    rows: Vec<Row>,
    targets: Vec<String>,
    look: Look,
    streams: &'static str,
    filter: Filter,
    /// Of the column of names before the bar, in characters: grows as PM2's does.
    width: usize,
    shown: Shown,
    /// Set when the daemon's end is the end.
    ending: Option<&'a Cell<bool>>,
}

impl<'a> View<'a> {
    /// Of everything, without options.
    fn new(session: &'a Session, rows: Vec<Row>) -> View<'a> {
        let (look, filter, targets) = (plain(session), Filter::default(), Vec::new());
        View {
            session,
            rows,
            targets,
            look,
            streams: "all",
            filter,
            width: LEAST_WIDTH,
            shown: Shown::default(),
            ending: None,
        }
    }

    async fn open(&self, client: &Client, options: LogsDict) -> Result<Records, Failure> {
        let targets: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        let options = LogsDict { streams: self.streams.to_owned(), ..options };
        let pipe = client.manager().open_logs(&targets, &options).await.map_err(|error| match error {
            api::Error::NoSuchTarget(target) => Failure::Error(not_found(&self.rows, &target)),
            other => other.into(),
        })?;
        Records::of(pipe.into())
    }

    /// Whether it is said whose lines they are before they come, as PM2 does, be they raw. What was searched for is
    /// printed alone.
    fn has_titles(&self) -> bool {
        match self.look.form {
            Form::Prefixed => true,
            Form::Raw => !self.filter.is_set(),
            Form::Json | Form::Pairs => false,
        }
    }

    fn title(&self, what: &str) {
        let (whom, noun) = match self.targets.as_slice() {
            [] => ("all".to_owned(), "processes"),
            [one] => (one.clone(), "process"),
            several => (several.join(" "), "processes"),
        };
        let text = format!("[TAILING] Tailing {what} for [{whom}] {noun} (change the value with --lines option)");
        self.session.console.say(Paint::Grey.on(self.session.console.colours, &text));
    }

    /// The last lines, file by file.
    async fn tail(&mut self, client: &Client) -> Result<(), Failure> {
        let Filter { lines, since, until, ref pattern } = self.filter;
        let grep = pattern.as_ref().map(ToString::to_string);
        let options = LogsDict { lines, since, until, grep, ..LogsDict::default() };
        let console = &self.session.console;
        let titled = self.has_titles();
        let what = last_lines(lines);
        let mut records = self.open(client, options).await?;
        if titled {
            self.title(&what);
        }
        if self.look.form == Form::Prefixed && self.targets.is_empty() && self.streams == "all" && !self.filter.is_set()
        {
            self.tail_of_daemon(client, lines).await;
        }
        let mut file = None;
        while let Some(record) = records.next().await? {
            let place = self.place(&record);
            if titled && file.as_ref() != Some(&place) {
                if file.is_some() {
                    console.say("");
                }
                console.say(Paint::Grey.on(console.colours, &format!("{place} {what}:")));
                file = Some(place);
            }
            self.print(&record, TAIL_WIDTH);
        }
        if file.is_some() {
            console.say("");
        }
        Ok(())
    }

    /// What a line that was written before was read from.
    fn place(&self, record: &Record) -> String {
        let row = self.rows.iter().find(|row| row.id == u64::from(record.process_id));
        let path = row.map(|row| if record.stream == "err" { &row.error_path } else { &row.out_path });
        match path.filter(|path| !path.is_empty() && path.as_str() != "/dev/null") {
            Some(path) => path.clone(),
            None => format!("journal of {}", who(record)),
        }
    }

    /// The last lines that a private daemon itself wrote; the services' are in the journal.
    async fn tail_of_daemon(&self, client: &Client, lines: u32) {
        let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
        let Some((path, last)) = daemon_tail(client, wanted).await else { return };
        let console = &self.session.console;
        console.say(Paint::Grey.on(console.colours, &format!("{} last {lines} lines:", path.display())));
        for line in last {
            let who = Paint::Blue.on(console.colours, &format!("{:<TAIL_WIDTH$} |", "PM2"));
            console.say(format!("{who} {line}"));
        }
        console.say("");
    }

    /// What comes from now on.
    async fn follow(&self, client: &Client) -> Result<Records, Failure> {
        self.open(client, LogsDict { lines: 0, follow: true, ..LogsDict::default() }).await
    }

    /// Shows what comes, until the daemon ends for good.
    async fn stream(&mut self, mut client: Client, mut records: Records) -> Result<(), Failure> {
        loop {
            self.show(&client, &mut records).await?;
            if self.ending.is_some_and(Cell::get) {
                return Ok(());
            }
            // Apps outlive their daemon, and so does who follows them.
            let Some(next) = self.session.choice.again(COMEBACK).await else { return Ok(()) };
            client = next;
            self.rows = self.session.rows(&client).await?;
            let options = LogsDict { lines: CATCH_UP, follow: true, ..LogsDict::default() };
            records = self.open(&client, options).await?;
            let mut written = Vec::new();
            while let Some(record) = records.next().await?.filter(|record| !record.live) {
                written.push(record);
            }
            for record in self.shown.missing_of(written) {
                self.show_one(&record);
            }
        }
    }

    /// Lines, and for programs what happens to processes, until the daemon goes away.
    async fn show(&mut self, client: &Client, records: &mut Records) -> Result<(), Failure> {
        if self.look.form != Form::Json {
            while let Some(record) = records.next().await? {
                self.show_one(&record);
            }
            return Ok(());
        }
        let mut events = client.manager().receive_process_event().await.map_err(api::Error::from)?;
        client.hear_signals().await?;
        loop {
            tokio::select! {
                record = records.next() => match record? {
                    Some(record) => self.show_one(&record),
                    None => return Ok(()),
                },
                Some(event) = events.next() => {
                    let Ok(event) = event.args() else { continue };
                    if self.concerns(client, event.process).await {
                        self.session.console.answer(&log_line::event(event.at, event.event, event.name));
                    }
                }
            }
        }
    }

    /// Whether a process is one of those that are followed.
    async fn concerns(&self, client: &Client, process: u32) -> bool {
        if self.targets.is_empty() {
            return true;
        }
        let targets: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        // A target that stands for nothing any more, as the last of it was deleted, stood for what it was at first.
        match client.manager().resolve(&targets).await {
            Ok(ids) => ids.contains(&process),
            Err(_) => self.rows.iter().any(|row| row.id == u64::from(process)),
        }
    }

    fn show_one(&mut self, record: &Record) {
        self.shown.add(record);
        if !self.filter.lets_through(record) {
            return;
        }
        let length = who(record).chars().count();
        if length > self.width {
            self.width = length + 1;
        }
        self.print(record, self.width);
    }

    fn print(&self, record: &Record, width: usize) {
        if record.missed > 0 {
            let who = who(record);
            self.session.console.warn_aside(format!("{} lines were not shown here ({who})", record.missed));
        }
        let line = self.look.line(record, width);
        // Without prefix nothing but the descriptor tells an error from output.
        if self.look.form == Form::Raw && record.stream == "err" {
            self.session.console.aside(&line);
        } else {
            self.session.console.answer(&line);
        }
    }
}
