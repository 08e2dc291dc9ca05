//! The daemon's own log: to the journal with fields, else to standard error as PM2 writes its `pm2.log`.
//!
//! `PM2RS_LOG` filters it (`debug`, `pm2rs::logs=trace`). Fields in capitals (`PM2RS_APP`, `MESSAGE_ID`) are for the
//! journal alone; people read the others behind the message, in either place.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, stderr};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Zoned;
use tracing::dispatcher::Dispatch;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::dayjs;
use super::own_lines::OwnLines;

/// What PM2 puts before lines of its log.
const PM2_FORMAT: &str = "YYYY-MM-DDTHH:mm:ss";

/// How long the end waits for a journal that takes nothing.
const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// The way to the journal, where that is gone.
static OWN_LINES: OnceLock<OwnLines> = OnceLock::new();

/// Sets the daemon's log up; the first call counts. `private` says that nobody but standard error is to get it even
/// where there is a journal.
pub fn init(private: bool) {
    let journal = if private || !stderr_is_the_journal() { None } else { OwnLines::to(journal).ok() };
    if let Some(lines) = &journal {
        let _ = OWN_LINES.set(lines.clone());
    }
    let text = journal.is_none().then(text);
    // A second daemon in the same process, as in tests, keeps the first one's.
    drop(tracing_subscriber::registry().with(filter()).with(journal).with(text).try_init());
}

fn filter() -> EnvFilter {
    EnvFilter::try_from_env("PM2RS_LOG").unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Standard error as PM2 writes it.
fn text<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let format = std::env::var("PM2_LOG_DATE_FORMAT").unwrap_or_else(|_| PM2_FORMAT.to_owned());
    tracing_subscriber::fmt::layer().event_format(Pm2Lines { format }).with_writer(stderr)
}

/// The journal by its own socket, or where that is missing by standard error. Waits for a journal that does not answer.
fn journal() -> Dispatch {
    let layer = tracing_journald::layer().ok();
    let text = layer.is_none().then(text);
    let layer = layer.map(|layer| layer.with_field_prefix(None).with_syslog_identifier("pm2rs".to_owned()));
    // Filtered once more, as every subscriber has a say in what is even looked at.
    tracing_subscriber::registry().with(filter()).with(layer).with(text).into()
}

/// Has what the journal has not taken yet sent, before the process ends or executes another program.
pub fn flush() {
    if let Some(lines) = OWN_LINES.get() {
        lines.flush(LAST_PATIENCE);
    }
}

/// Whether standard error goes to the journal, as systemd tells services: `$JOURNAL_STREAM` is its device and inode
/// (systemd.exec(5)). Inherited by a shell and redirected since, it would be a lie, so it is compared. A terminal is
/// read by somebody.
fn stderr_is_the_journal() -> bool {
    let error = stderr();
    if error.is_terminal() {
        return false;
    }
    let Some((device, inode)) = std::env::var("JOURNAL_STREAM").ok().and_then(|stream| parse_stream(&stream)) else {
        return false;
    };
    let meta = error.as_fd().try_clone_to_owned().and_then(|fd| std::fs::File::from(fd).metadata());
    meta.is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        (meta.dev(), meta.ino()) == (device, inode)
    })
}

fn parse_stream(stream: &str) -> Option<(u64, u64)> {
    let (device, inode) = stream.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

/// Lines as PM2's daemon log has them: `2026-11-21T01:57:36: PM2 log: text`.
#[derive(Debug, Clone)]
struct Pm2Lines {
    /// dayjs format of the time; empty for no time at all.
    format: String,
}

impl<S, N> FormatEvent<S, N> for Pm2Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        writeln!(writer, "{}", line(&self.format, &Zoned::now(), *event.metadata().level(), &text))
    }
}

fn line(format: &str, now: &Zoned, level: Level, text: &Text) -> String {
    let kind = match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        _ => "log",
    };
    // PM2 without a time has no prefix at all.
    let prefix =
        if format.is_empty() { String::new() } else { format!("{}: PM2 {kind}: ", dayjs::format(format, now)) };
    format!("{prefix}{}{}", text.message, text.fields)
}

/// An event's message and what people want of its fields.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) message: String,
    pub(super) fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        // Writing to a string cannot fail.
        if name == "message" {
            let _ = write!(self.message, "{value:?}");
        } else if name.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let _ = write!(self.fields, " {name}={value:?}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[test]
    fn journal_streams_are_parsed() {
        assert_eq!(parse_stream("9:12345"), Some((9, 12345)));
        assert_eq!(parse_stream("9"), None);
        assert_eq!(parse_stream("a:b"), None);
    }

    #[test]
    fn lines_are_pm2s() {
        let now: Zoned = "2026-11-21T01:57:36+00:00[UTC]".parse().unwrap();
        let text = Text { message: "App [x:0] online".to_owned(), fields: String::new() };
        assert_eq!(line(PM2_FORMAT, &now, Level::INFO, &text), "2026-11-21T01:57:36: PM2 log: App [x:0] online");
        assert_eq!(line(PM2_FORMAT, &now, Level::ERROR, &text), "2026-11-21T01:57:36: PM2 error: App [x:0] online");
        assert_eq!(line("", &now, Level::INFO, &text), "App [x:0] online");
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Sink;
        fn make_writer(&'a self) -> Sink {
            self.clone()
        }
    }

    #[test]
    fn fields_for_the_journal_are_not_shown() {
        let sink = Sink::default();
        let lines = Pm2Lines { format: String::new() };
        let layer = tracing_subscriber::fmt::layer().event_format(lines).with_writer(sink.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(PM2RS_PROCESS = 3, MESSAGE_ID = "x", lines = 7, "lost");
        });
        assert_eq!(String::from_utf8(sink.0.lock().unwrap().clone()).unwrap(), "lost lines=7\n");
    }
}
