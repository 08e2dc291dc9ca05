//! Commands about logs: logs, flush, reloadLogs.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::lifetime;
use super::targets::not_found;
use crate::api::{self, Client, LogsDict};
use crate::cli::args::LogsArgs;
use crate::cli::console::Paint;
use crate::cli::exit::Failure;
use crate::cli::render::log_line::{Form, Look, Record, who};
use crate::cli::render::row::Row;
use crate::cli::session::Session;

/// Longest record that is taken from the daemon; it cuts lines far below that.
const RECORD_BOUND: u64 = 4 << 20;
/// Bytes at the end of the daemon's log in which its last lines are looked for.
const DAEMON_TAIL_BOUND: u64 = 256 << 10;
/// Width before the bar where it is not fitted to the names.
const TAIL_WIDTH: usize = 10;

/// `logs`: the last lines of each file, then what comes.
///
/// # Errors
/// For a target that stands for nothing, a wrong number of lines.
pub async fn logs(session: &Session, args: &LogsArgs) -> Result<(), Failure> {
    let lines: u32 =
        args.lines.parse().map_err(|_| Failure::error(format!("--lines takes a number, not `{}`", args.lines)))?;
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
    let mut view = View { session, rows: &rows, targets: targets(&args.targets), look, streams: streams(args) };
    if lines > 0 && matches!(view.look.form, Form::Prefixed | Form::Raw) {
        view.tail(&client, lines).await?;
    }
    if args.nostream {
        return Ok(());
    }
    view.stream(&client).await
}

/// Shows what the targets print from now on, as `--attach` does.
///
/// # Errors
/// When the daemon goes away.
pub async fn follow(session: &Session, client: &Client, followed: &[String]) -> Result<(), Failure> {
    let rows = session.rows(client).await?;
    let mut view = View { session, rows: &rows, targets: followed.to_vec(), look: plain(session), streams: "all" };
    view.stream(client).await
}

/// Shows what everything prints until this command is told to end, then ends everything: `--no-daemon`.
///
/// # Errors
/// When the daemon goes away.
pub async fn until_interrupted(session: &Session, client: &Client) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::error(format!("cannot wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    tokio::select! {
        ended = follow(session, client, &[]) => return ended,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    lifetime::kill(session).await
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

/// What is shown of whom, and how.
struct View<'a> {
    session: &'a Session,
    rows: &'a [Row],
    targets: Vec<String>,
    look: Look,
    streams: &'static str,
}

impl View<'_> {
    async fn open(&self, client: &Client, lines: u32, follow: bool) -> Result<Records, Failure> {
        let targets: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        let options = LogsDict { lines, follow, streams: self.streams.to_owned() };
        let pipe = client.manager().open_logs(&targets, &options).await.map_err(|error| match error {
            api::Error::NoSuchTarget(target) => Failure::Error(not_found(self.rows, &target)),
            other => other.into(),
        })?;
        Records::of(pipe.into())
    }

    /// The last lines, file by file.
    async fn tail(&mut self, client: &Client, lines: u32) -> Result<(), Failure> {
        let mut records = self.open(client, lines, false).await?;
        let console = &self.session.console;
        if self.look.form == Form::Prefixed {
            let whom = if self.targets.is_empty() { "all".to_owned() } else { self.targets.join(" ") };
            let text = format!(
                "[TAILING] Tailing last {lines} lines for [{whom}] processes (change the value with --lines option)"
            );
            console.say(Paint::Grey.on(console.colours, &text));
        }
        if self.targets.is_empty() && self.streams == "all" && self.look.form == Form::Prefixed {
            self.tail_of_daemon(client, lines).await;
        }
        let mut files: Vec<((u32, String), Vec<Record>)> = Vec::new();
        while let Some(record) = records.next().await? {
            let file = (record.process_id, record.stream.clone());
            match files.iter_mut().find(|(known, _)| *known == file) {
                Some((_, of_file)) => of_file.push(record),
                None => files.push((file, vec![record])),
            }
        }
        for ((id, stream), of_file) in files {
            let row = self.rows.iter().find(|row| row.id == u64::from(id));
            let path = row.map(|row| if stream == "err" { &row.error_path } else { &row.out_path });
            if let (Form::Prefixed, Some(path)) = (&self.look.form, path) {
                console.say(Paint::Grey.on(console.colours, &format!("{path} last {lines} lines:")));
            }
            for record in &of_file {
                self.print(record, TAIL_WIDTH);
            }
            if self.look.form == Form::Prefixed {
                console.say("");
            }
        }
        Ok(())
    }

    /// The last lines that a private daemon itself wrote; the services' are in the journal.
    async fn tail_of_daemon(&self, client: &Client, lines: u32) {
        let Some(path) = daemon_log(client).await else { return };
        let Ok(mut file) = std::fs::File::open(&path) else { return };
        let length = file.metadata().map_or(0, |meta| meta.len());
        let mut text = Vec::new();
        let from = SeekFrom::Start(length.saturating_sub(DAEMON_TAIL_BOUND));
        if file.seek(from).and_then(|_| file.take(DAEMON_TAIL_BOUND).read_to_end(&mut text)).is_err() {
            return;
        }
        let console = &self.session.console;
        console.say(Paint::Grey.on(console.colours, &format!("{} last {lines} lines:", path.display())));
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
        for line in &all[all.len().saturating_sub(wanted)..] {
            let who = Paint::Blue.on(console.colours, &format!("{:<TAIL_WIDTH$} |", "PM2"));
            console.say(format!("{who} {line}"));
        }
        console.say("");
    }

    /// What comes, until the daemon ends.
    async fn stream(&mut self, client: &Client) -> Result<(), Failure> {
        let mut records = self.open(client, 0, true).await?;
        let mut widths: BTreeMap<(u32, String), usize> = BTreeMap::new();
        while let Some(record) = records.next().await? {
            let width = who(&record).chars().count() + 1;
            widths.insert((record.process_id, record.app_name.clone()), width);
            let width = widths.values().copied().max().unwrap_or(width);
            self.print(&record, width);
        }
        Ok(())
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
            self.session.console.print(&line);
        }
    }
}

/// The records in a pipe from the daemon.
pub struct Records {
    pipe: BufReader<pipe::Receiver>,
}

impl Records {
    /// Of the pipe's read end.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(pipe: std::os::fd::OwnedFd) -> Result<Records, Failure> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)
            .map_err(|error| Failure::error(format!("cannot read the logs from the daemon: {error}")))?;
        Ok(Records { pipe: BufReader::new(pipe) })
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// When the pipe breaks or what is in it is no record.
    pub async fn next(&mut self) -> Result<Option<Record>, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.pipe).take(RECORD_BOUND).read_until(b'\n', &mut line).await;
        let cannot = |error: &dyn std::fmt::Display| Failure::error(format!("cannot read the logs: {error}"));
        if read.map_err(|error| cannot(&error))? == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&line).map(Some).map_err(|error| cannot(&error))
    }
}

/// A private daemon's own log.
async fn daemon_log(client: &Client) -> Option<PathBuf> {
    let private = client.manager().mode().await.is_ok_and(|mode| mode == "private");
    let home = client.manager().home().await.ok()?;
    Some(Path::new(&home).join("pm2.log")).filter(|path| private && path.exists())
}

/// `flush`: empties log files; without a target those of everything, the private daemon's own included.
///
/// # Errors
/// For a target that stands for nothing.
pub async fn flush(session: &Session, target: Option<&str>) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let target = target.filter(|target| *target != "all");
    let targets: Vec<&str> = target.into_iter().collect();
    let ids = match target {
        Some(target) => client.manager().resolve(&[target]).await.map_err(|error| match error {
            api::Error::NoSuchTarget(target) => Failure::Error(not_found(&rows, &target)),
            other => other.into(),
        })?,
        None => Vec::new(),
    };
    client.manager().flush_logs(&targets).await?;
    if let (None, Some(path)) = (target, daemon_log(&client).await) {
        session.console.info(format!("Flushing {}", path.display()));
        let emptied = std::fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
        emptied.map_err(|error| Failure::error(format!("cannot empty `{}`: {error}", path.display())))?;
    }
    for row in rows.iter().filter(|row| target.is_none() || ids.iter().any(|id| u64::from(*id) == row.id)) {
        session.console.info("Flushing:");
        for path in [&row.out_path, &row.error_path].into_iter().filter(|path| !path.is_empty()) {
            session.console.info(path);
        }
    }
    session.console.info("Logs flushed");
    Ok(())
}

/// `reloadLogs`.
///
/// # Errors
/// When the daemon cannot open them.
pub async fn reopen(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    session.console.info("Reloading all logs...");
    client.manager().reopen_logs().await?;
    session.console.info("All logs reloaded");
    Ok(())
}
