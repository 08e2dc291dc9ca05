//! The daemon's own lines on their way to the journal: with fields for programs, and saying why for people.
//!
//! tracing-journald waits for a journal that does not answer, so it has a thread of its own. Must never let the daemon
//! wait: what that thread does not take in time is dropped, and counted.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tracing::dispatcher::{Dispatch, with_default};
use tracing::field::{Field, Value, Visit};
use tracing::{Event, Metadata, Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::daemon_log::Text;

/// Lines that wait for a journal which takes nothing.
const MAX_WAITING: usize = 1024;
/// Fields of an event (tracing's own bound).
const MAX_FIELDS: usize = 32;
/// The thread only writes lines.
const STACK: usize = 128 << 10;

/// The way to the journal, to be put into the daemon's log.
#[derive(Debug, Clone)]
pub(super) struct OwnLines {
    thread: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Item {
    Line(Line),
    /// All before it has arrived.
    Flush(SyncSender<()>),
}

/// An event that has happened on another thread.
#[derive(Debug)]
struct Line {
    metadata: &'static Metadata<'static>,
    values: Vec<(Field, String)>,
}

impl OwnLines {
    /// To the journal that `open` gives. Either may take its time.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub(super) fn to(open: impl FnOnce() -> Dispatch + Send + 'static) -> io::Result<OwnLines> {
        let (thread, lines) = sync_channel(MAX_WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let missing = Arc::clone(&dropped);
        let builder = std::thread::Builder::new().name("journal".to_owned()).stack_size(STACK);
        builder.spawn(move || with_default(&open(), || bring(&lines, &missing)))?;
        Ok(OwnLines { thread, dropped })
    }

    /// Waits until the journal has what was written so far, or for so long.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, arrived) = sync_channel(1);
        if self.thread.try_send(Item::Flush(done)).is_ok() {
            let _: Result<(), RecvTimeoutError> = arrived.recv_timeout(limit);
        }
    }
}

fn bring(lines: &Receiver<Item>, missing: &AtomicU64) {
    for item in lines {
        match item {
            Item::Line(line) => line.write(),
            Item::Flush(done) => drop(done.try_send(())),
        }
        let lines = missing.swap(0, Ordering::Relaxed);
        if lines > 0 {
            warn!(lines, "{lines} lines of the daemon's own log are missing here: the journal did not take them");
        }
    }
}

impl Line {
    fn write(&self) {
        let Some((first, _)) = self.values.first() else { return };
        let mut values: [(&Field, Option<&dyn Value>); MAX_FIELDS] = [(first, None); MAX_FIELDS];
        for (slot, (field, text)) in values.iter_mut().zip(&self.values) {
            *slot = (field, Some(text));
        }
        Event::dispatch(self.metadata, &self.metadata.fields().value_set(&values));
    }
}

impl<S: Subscriber> Layer<S> for OwnLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (mut values, mut text) = (Values::default(), Text::default());
        event.record(&mut values);
        event.record(&mut text);
        // journalctl shows the message alone: without the fields nobody would see why.
        for (_, value) in values.0.iter_mut().filter(|(field, _)| field.name() == "message") {
            *value = format!("{}{}", text.message, text.fields);
        }
        let line = Line { metadata: event.metadata(), values: values.0 };
        if self.thread.try_send(Item::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Default)]
struct Values(Vec<(Field, String)>);

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.clone(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.clone(), format!("{value:?}")));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};
    use tracing_subscriber::layer::SubscriberExt;

    /// A journal that tells of each line and is done with it when it is let.
    struct Journal {
        took: Sender<String>,
        let_on: Mutex<Receiver<()>>,
    }

    impl<S: Subscriber> Layer<S> for Journal {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut values = Values::default();
            event.record(&mut values);
            let fields = values.0.iter().map(|(field, value)| format!("{field}={value}\n"));
            let line = fields.collect::<String>();
            let line = format!("{} {}\n{line}", event.metadata().level(), event.metadata().line().is_some());
            self.took.send(line).unwrap();
            let _ = self.let_on.lock().unwrap().recv();
        }
    }

    fn journal() -> (OwnLines, Sender<()>, Receiver<String>) {
        let ((took, taken), (lets, let_on)) = (channel(), channel());
        let journal = Journal { took, let_on: Mutex::new(let_on) };
        (OwnLines::to(|| tracing_subscriber::registry().with(journal).into()).unwrap(), lets, taken)
    }

    fn next(taken: &Receiver<String>) -> String {
        taken.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn a_message_says_what_its_fields_say() {
        let (lines, lets, taken) = journal();
        lets.send(()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let (error, app) = (io::Error::from_raw_os_error(libc::ENOSPC), "two\nlines");
            warn!(PM2RS_APP = app, path = "/var/lib/x", %error, none = None::<u32>, "cannot write the state file");
        });
        let reason = "No space left on device (os error 28)";
        assert_eq!(
            next(&taken),
            format!(
                "WARN true\nmessage=cannot write the state file path=\"/var/lib/x\" error={reason}\n\
                 PM2RS_APP=two\nlines\npath=/var/lib/x\nerror={reason}\n"
            )
        );
    }

    #[test]
    fn nobody_waits_for_a_journal_that_takes_nothing_and_what_it_missed_is_counted() {
        let (lines, lets, taken) = journal();
        let write = |numbers: std::ops::Range<usize>| {
            let ((done, told), lines) = (channel(), lines.clone());
            std::thread::spawn(move || {
                tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.clone()), || {
                    numbers.for_each(|number| warn!("{number}"));
                });
                done.send(lines).unwrap();
            });
            told.recv_timeout(Duration::from_secs(60)).expect("who writes waits for the journal")
        };
        write(0..1);
        assert_eq!(next(&taken), "WARN true\nmessage=0\n");
        // That one it has in hand now.
        write(1..MAX_WAITING + 4).flush(Duration::from_millis(10));

        (0..MAX_WAITING + 2).for_each(|_| lets.send(()).unwrap());
        let missing = next(&taken);
        assert!(missing.starts_with("WARN true\nmessage=3 lines of the daemon's own log are missing"), "{missing}");
        (1..=MAX_WAITING).for_each(|number| assert_eq!(next(&taken), format!("WARN true\nmessage={number}\n")));
    }

    #[test]
    fn what_was_written_has_arrived_after_a_flush() {
        let (lines, lets, taken) = journal();
        (0..2).for_each(|_| lets.send(()).unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.clone()), || {
            warn!("one");
            warn!("two");
        });
        lines.flush(Duration::from_secs(60));
        assert_eq!(taken.try_iter().count(), 2);
    }
}
