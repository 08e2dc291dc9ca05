//! How many lines of ours journald dropped because there were too many.
//!
//! It tells the sender nothing; it writes into its own journal how many they were, with the first line that it takes again
//! (SD_MESSAGE_JOURNAL_DROPPED in sd-messages.h). So that is looked at where a limit holds for us and many lines were sent,
//! a while later and in a thread of its own. Which process's lines they were nobody can tell.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use tokio::sync::mpsc;

use super::LogEvent;

/// What journald says of dropped lines.
const DROPPED: &str = "a596d6fe7bfa4994828e72309e95d61e";
/// Between lines that were sent and the look at what became of them.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// As many lines within that time can be too many: journald's default is 10,000 in 30 s, and people set less.
const MANY: u64 = 100;
/// journald tells only when its interval is over, 30 s by default: so many looks are taken after there were many lines.
const LOOKS: u32 = 6;

/// The watch over what was sent.
#[derive(Debug)]
pub struct Watch {
    unit: String,
    events: mpsc::Sender<LogEvent>,
    /// Lines sent until the last look.
    seen: u64,
    /// When the next look is due; `None` while nothing was sent.
    due: Option<Instant>,
    /// What was said before this was seen.
    since: SystemTime,
    /// Looks that are still to be taken.
    owed: u32,
    /// A look is being taken.
    looking: Arc<AtomicBool>,
}

impl Watch {
    /// Over lines that journald takes for this unit's.
    #[must_use]
    pub fn new(unit: String, events: mpsc::Sender<LogEvent>) -> Watch {
        let looking = Arc::new(AtomicBool::new(false));
        Watch { unit, events, seen: 0, due: None, since: SystemTime::now(), owed: 0, looking }
    }

    /// When [`Watch::look`] is wanted.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.due
    }

    /// So many lines have been sent in all. Takes a look if one is due.
    pub fn look(&mut self, sent: u64, now: Instant) {
        match self.due {
            None if sent > self.seen => self.due = Some(now + LOOK_AFTER),
            Some(due) if due <= now => {
                self.due = None;
                if self.is_worth_a_look(sent) && !self.looking.swap(true, Ordering::AcqRel) {
                    self.begin();
                }
            }
            _ => {}
        }
    }

    fn is_worth_a_look(&mut self, sent: u64) -> bool {
        let lines = sent - self.seen;
        self.seen = sent;
        self.owed = if lines >= MANY { LOOKS } else { self.owed.saturating_sub(1) };
        self.owed > 0
    }

    fn begin(&mut self) {
        let until = SystemTime::now();
        let since = std::mem::replace(&mut self.since, until);
        let (unit, events, looking) = (self.unit.clone(), self.events.clone(), self.looking.clone());
        let look = move || {
            let lines = dropped(&unit, since, until);
            if lines > 0 {
                // Full means that nobody reads.
                drop(events.try_send(LogEvent::Suppressed { unit, lines }));
            }
            looking.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name("logs-limit".to_owned()).spawn(look).is_err() {
            self.looking.store(false, Ordering::Release);
        }
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "N_DROPPED", default)]
    dropped: String,
}

/// What journalctl(1) finds; nothing where it is missing, or where we may not read what journald says.
fn dropped(unit: &str, since: SystemTime, until: SystemTime) -> u64 {
    let time = |time: SystemTime| {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("@{}.{:06}", since_epoch.as_secs(), since_epoch.subsec_micros())
    };
    let mut command = Command::new("journalctl");
    command.args(["--output=json", "--output-fields=N_DROPPED", "--quiet", "--no-pager"]);
    // systemd.exec(5) on LogNamespace=.
    command.args(std::env::var("LOG_NAMESPACE").map(|namespace| format!("--namespace={namespace}")));
    command.arg(format!("--since={}", time(since))).arg(format!("--until={}", time(until)));
    command.args([&format!("MESSAGE_ID={DROPPED}"), &format!("OBJECT_SYSTEMD_UNIT={unit}"), "_UID=0"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map_or(0, |output| sum(&output.stdout))
}

fn sum(entries: &[u8]) -> u64 {
    let entries = entries.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Entry>(line).ok());
    entries.filter_map(|entry| entry.dropped.parse::<u64>().ok()).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_follow_many_lines_and_nothing_else() {
        let (events, _receiver) = mpsc::channel(1);
        let mut watch = Watch::new("pm2rs.service".to_owned(), events);
        let start = Instant::now();
        watch.look(0, start);
        assert_eq!(watch.wakes_at(), None);
        watch.look(5, start);
        assert_eq!(watch.wakes_at(), Some(start + LOOK_AFTER));
        assert!(!watch.is_worth_a_look(MANY - 1));
        assert!(watch.is_worth_a_look(MANY * 2));
        assert!((1..LOOKS).all(|_| watch.is_worth_a_look(MANY * 2)));
        assert!(!watch.is_worth_a_look(MANY * 2));
    }

    #[test]
    fn what_journald_says_is_added_up() {
        assert_eq!(sum(b"{\"N_DROPPED\":\"41\"}\n{\"MESSAGE\":\"x\"}\n{\"N_DROPPED\":\"1\"}\n"), 42);
        assert_eq!(sum(b""), 0);
    }
}
