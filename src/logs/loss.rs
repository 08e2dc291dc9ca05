//! What was lost, and saying so: never a line without a count, never a message for each line.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::LogEvent;
use crate::core::ProcessId;

/// Between two reports about the same process.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How much of something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Lines, the parts of lines included.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Lost {
    /// These bytes, whole.
    #[must_use]
    pub fn all_of(bytes: &[u8]) -> Lost {
        if bytes.is_empty() {
            return Lost::default();
        }
        let newlines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let lines = newlines + usize::from(!bytes.ends_with(b"\n"));
        Lost { lines: lines as u64, bytes: bytes.len() as u64 }
    }

    /// Adds another loss to this one.
    pub fn add(&mut self, other: Lost) {
        self.lines = self.lines.saturating_add(other.lines);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

#[derive(Debug, Default)]
struct Account {
    ever: Lost,
    unreported: u64,
    /// Lines lost since it was last well.
    episode: u64,
    /// It was told that lines wait.
    waits: bool,
    reason: String,
    reported: Option<Instant>,
}

/// The accounts of all processes.
#[derive(Debug)]
pub struct Losses {
    accounts: HashMap<ProcessId, Account>,
    events: mpsc::Sender<LogEvent>,
}

impl Losses {
    /// None so far; tells of those to come in `events`.
    #[must_use]
    pub fn new(events: mpsc::Sender<LogEvent>) -> Losses {
        Losses { accounts: HashMap::new(), events }
    }

    /// Something of this process was lost.
    pub fn add(&mut self, process: ProcessId, lost: Lost, reason: &str, now: Instant) {
        if lost == Lost::default() {
            return;
        }
        let account = self.accounts.entry(process).or_default();
        account.ever.add(lost);
        account.unreported = account.unreported.saturating_add(lost.lines);
        account.episode = account.episode.saturating_add(lost.lines);
        if account.reason != reason {
            reason.clone_into(&mut account.reason);
        }
        if account.reported.is_none_or(|at| now.duration_since(at) >= REPORT_EVERY) {
            report(&self.events, process, account, now);
        }
    }

    /// What this process writes cannot be kept just now, but waits: told once, for it may take long until so much waits that
    /// something is lost.
    pub fn waits(&mut self, process: ProcessId, reason: &str) {
        let account = self.accounts.entry(process).or_default();
        if account.episode == 0 && !account.waits {
            let reason = reason.to_owned();
            account.waits = self.events.try_send(LogEvent::Waiting { process, reason }).is_ok();
        }
    }

    /// What this process writes is kept again.
    pub fn recovered(&mut self, process: ProcessId, now: Instant) {
        let Some(account) = self.accounts.get_mut(&process).filter(|account| account.episode > 0 || account.waits)
        else {
            return;
        };
        report(&self.events, process, account, now);
        let lines = std::mem::take(&mut account.episode);
        account.reported = None;
        account.waits = false;
        account.reason.clear();
        // Full means that nobody reads; the counters tell all the same.
        drop(self.events.try_send(LogEvent::Recovered { process, lines }));
    }

    /// When [`Losses::tell`] is wanted.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        let untold = self.accounts.values().filter(|account| account.unreported > 0);
        untold.filter_map(|account| Some(account.reported? + REPORT_EVERY)).min()
    }

    /// Tells what was lost since the last report.
    pub fn tell(&mut self, now: Instant) {
        for (process, account) in &mut self.accounts {
            if account.reported.is_some_and(|at| at + REPORT_EVERY <= now) {
                report(&self.events, *process, account, now);
            }
        }
    }

    /// Tells what nobody was told yet: there will be no other time.
    pub fn tell_rest(&mut self, now: Instant) {
        for (process, account) in &mut self.accounts {
            report(&self.events, *process, account, now);
        }
    }

    /// All that this process ever lost.
    #[must_use]
    pub fn of(&self, process: ProcessId) -> Lost {
        self.accounts.get(&process).map(|account| account.ever).unwrap_or_default()
    }

    /// The process is gone for good.
    pub fn forget(&mut self, process: ProcessId) {
        self.accounts.remove(&process);
    }
}

fn report(events: &mpsc::Sender<LogEvent>, process: ProcessId, account: &mut Account, now: Instant) {
    if account.unreported == 0 {
        return;
    }
    let event = LogEvent::Dropped { process, lines: account.unreported, reason: account.reason.clone() };
    // What cannot be told now is told with the next report.
    account.reported = Some(now);
    if events.try_send(event).is_ok() {
        account.unreported = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_with_their_parts() {
        for (bytes, lines) in [(&b""[..], 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)] {
            assert_eq!(Lost::all_of(bytes), Lost { lines, bytes: bytes.len() as u64 });
        }
    }

    #[test]
    fn reports_are_few_and_add_up() {
        let (sender, mut events) = mpsc::channel(8);
        let mut losses = Losses::new(sender);
        let (process, start) = (ProcessId(3), Instant::now());
        let one = Lost { lines: 1, bytes: 10 };
        for _ in 0..1000 {
            losses.add(process, one, "disk full", start);
        }
        losses.add(process, one, "disk full", start + REPORT_EVERY);
        losses.add(process, one, "disk full", start + REPORT_EVERY);
        losses.recovered(process, start + REPORT_EVERY);
        losses.recovered(process, start + REPORT_EVERY);
        let dropped = |lines| LogEvent::Dropped { process, lines, reason: "disk full".to_owned() };
        assert_eq!(events.try_recv().unwrap(), dropped(1));
        assert_eq!(events.try_recv().unwrap(), dropped(1000));
        assert_eq!(events.try_recv().unwrap(), dropped(1));
        assert_eq!(events.try_recv().unwrap(), LogEvent::Recovered { process, lines: 1002 });
        assert!(events.try_recv().is_err());
        assert_eq!(losses.of(process), Lost { lines: 1002, bytes: 10020 });
    }

    #[test]
    fn the_last_ones_are_told_though_no_more_follow() {
        let (sender, mut events) = mpsc::channel(8);
        let mut losses = Losses::new(sender);
        let (process, start) = (ProcessId(3), Instant::now());
        losses.add(process, Lost { lines: 1, bytes: 1 }, "", start);
        assert_eq!(losses.wakes_at(), None);
        losses.add(process, Lost { lines: 7, bytes: 7 }, "", start);
        assert_eq!(losses.wakes_at(), Some(start + REPORT_EVERY));
        losses.tell(start);
        losses.tell(start + REPORT_EVERY);
        let told = |lines| Ok(LogEvent::Dropped { process, lines, reason: String::new() });
        assert_eq!((events.try_recv(), events.try_recv(), losses.wakes_at()), (told(1), told(7), None));
        losses.add(process, Lost { lines: 9, bytes: 9 }, "", start + REPORT_EVERY);
        losses.tell_rest(start + REPORT_EVERY);
        losses.tell_rest(start + REPORT_EVERY);
        assert_eq!((events.try_recv(), events.try_recv().ok()), (told(9), None));
    }
}
