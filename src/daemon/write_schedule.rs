//! When the state file is written: soon after a change, seldom when changes do not end, later and later while it fails.

use crate::core::Time;

/// From a change to its write: what a burst changes is written once.
const SETTLE_MS: u64 = 20;
/// Writes that may come that quickly; each second gives one back. A person's commands are on disk at once, apps in a
/// crash loop cost a write a second.
const CREDIT: u32 = 20;
const CREDIT_MS: u64 = 1_000;
/// From a failed write to the next try: doubled each time.
const RETRY_MS: std::ops::RangeInclusive<u64> = 1_000..=30_000;

/// The times of writes. Knows no clock: it is told.
#[derive(Debug)]
pub(super) struct Schedule {
    due: Option<Time>,
    credit: u32,
    /// Up to when credit has been given.
    credited: Time,
    failures: u32,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { due: None, credit: CREDIT, credited: Time(0), failures: 0 }
    }
}

impl Schedule {
    /// Something is to be written.
    pub(super) fn touch(&mut self, now: Time) {
        if self.due.is_some() {
            return;
        }
        let earned = now.since(self.credited) / CREDIT_MS;
        let missing = u64::from(CREDIT - self.credit);
        if earned >= missing {
            (self.credit, self.credited) = (CREDIT, now);
        } else {
            // Less than what is missing, so it fits.
            self.credit += u32::try_from(earned).unwrap_or(0);
            self.credited = self.credited.after(earned * CREDIT_MS);
        }
        let soonest = now.after(SETTLE_MS);
        self.due = Some(if self.credit > 0 { soonest } else { soonest.max(self.credited.after(CREDIT_MS)) });
    }

    /// When the next write is due, if any.
    pub(super) fn due(&self) -> Option<Time> {
        self.due
    }

    /// A write begins; what changes from now on needs another.
    pub(super) fn begun(&mut self) {
        self.due = None;
        match self.credit.checked_sub(1) {
            Some(left) => self.credit = left,
            // It was waited for, and is spent before it is given.
            None => self.credited = self.credited.after(CREDIT_MS),
        }
    }

    /// A write succeeded. Whether those before it did not.
    pub(super) fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// A write failed and is tried again. Whether it is the first one that did.
    pub(super) fn failed(&mut self, now: Time) -> bool {
        let wait = RETRY_MS.start() << self.failures.min(16);
        self.due = Some(now.after(wait.min(*RETRY_MS.end())));
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }

    /// Whether the last write failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it is written when something changes every `step` ms for so long.
    fn writes(schedule: &mut Schedule, from: u64, ms: u64, step: usize) -> usize {
        let mut count = 0;
        for now in (from..from + ms).step_by(step) {
            schedule.touch(Time(now));
            if schedule.due().is_some_and(|due| due <= Time(now)) {
                schedule.begun();
                schedule.succeeded();
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_change_is_written_at_once_and_a_burst_once() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(), None);
        schedule.touch(Time(5_000));
        schedule.touch(Time(5_015));
        assert_eq!(schedule.due(), Some(Time(5_000 + SETTLE_MS)));
        assert_eq!(writes(&mut Schedule::default(), 100_000, 30, 1), 1);
    }

    #[test]
    fn a_crash_loop_costs_a_write_a_second() {
        let mut schedule = Schedule::default();
        let hour = 3_600_000;
        let count = writes(&mut schedule, 100_000, hour, 10);
        assert!((3_590..=3_600 + 30).contains(&count), "{count} writes");
        // Once it is over, a person's changes are on disk at once again.
        schedule.touch(Time(2 * hour));
        schedule.begun();
        schedule.touch(Time(3 * hour));
        assert_eq!(schedule.due(), Some(Time(3 * hour + SETTLE_MS)));
    }

    #[test]
    fn what_fails_is_tried_again_less_and_less_often_and_told_once() {
        let mut schedule = Schedule::default();
        schedule.touch(Time(0));
        let (mut now, mut waits, mut told) = (0, Vec::new(), 0);
        for _ in 0..8 {
            schedule.begun();
            told += usize::from(schedule.failed(Time(now)));
            // Changes meanwhile bring it no nearer.
            schedule.touch(Time(now));
            let due = schedule.due().map_or(0, |due| due.0);
            waits.push(due - now);
            now = due;
        }
        assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert!(told == 1 && schedule.is_failing());
        assert!(schedule.succeeded() && !schedule.succeeded() && !schedule.is_failing());
    }
}
