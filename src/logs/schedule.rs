//! When a log file is rotated: by its size, by the clock, and for a while not at all after that has failed.
//!
//! Must never touch a file: it only knows that of one.

use std::path::Path;
use std::time::{Duration, Instant};

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::{Timestamp, Zoned};

use super::rotation::Names;
use crate::core::RotateSpec;

/// Before a rotation that failed is tried again; the file just grows meanwhile.
const RETRY: Duration = Duration::from_secs(30);

/// The rotation of one log file.
#[derive(Debug)]
pub struct Schedule {
    spec: RotateSpec,
    names: Names,
    cron: Option<Cron>,
    due: Option<Timestamp>,
    not_before: Option<Instant>,
}

impl Schedule {
    /// Of the file with this path; `None` where it is not to be rotated.
    #[must_use]
    pub fn of(path: &Path, spec: &RotateSpec) -> Option<Schedule> {
        if !spec.enabled {
            return None;
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).sloppy_ranges(true).build();
        // A pattern that is wrong was refused when the app was started.
        let cron = spec.interval.as_deref().and_then(|pattern| parser.parse(pattern).ok());
        let due = cron.as_ref().and_then(next_due);
        Some(Schedule { spec: spec.clone(), names: Names::of(path, &spec.date_format), cron, due, not_before: None })
    }

    /// What was wanted.
    #[must_use]
    pub fn spec(&self) -> &RotateSpec {
        &self.spec
    }

    /// What its rotated files are called.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// How many bytes it may have; `None` while no rotation is to be tried.
    #[must_use]
    pub fn max_size(&self, now: Instant) -> Option<u64> {
        self.not_before.is_none_or(|at| at <= now).then_some(self.spec.max_size.max(1))
    }

    /// How long it is until the clock wants it rotated; zero when that is over.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        let wait = self.due?.duration_since(Timestamp::now());
        Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
    }

    /// Whether the clock wants it rotated now; asked again, it is the next time that counts.
    pub fn take_due(&mut self) -> bool {
        let due = self.due.is_some_and(|due| due <= Timestamp::now());
        if due {
            self.due = self.cron.as_ref().and_then(next_due);
        }
        due
    }

    /// It could not be rotated.
    pub fn failed(&mut self, now: Instant) {
        self.not_before = Some(now + RETRY);
    }
}

fn next_due(cron: &Cron) -> Option<Timestamp> {
    cron.find_next_occurrence(&Zoned::now(), false).ok().map(|due| due.timestamp())
}
