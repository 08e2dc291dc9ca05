//! The timers that are armed, so that they can be armed again by a daemon that takes over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Time, Timer, WorkerId};

/// Which timers are armed, and for when. Serialised as a list of pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(Timer, Time)>", into = "Vec<(Timer, Time)>")]
pub(super) struct Timers(BTreeMap<Timer, Time>);

impl From<Vec<(Timer, Time)>> for Timers {
    fn from(pairs: Vec<(Timer, Time)>) -> Timers {
        Timers(pairs.into_iter().collect())
    }
}

impl From<Timers> for Vec<(Timer, Time)> {
    fn from(timers: Timers) -> Vec<(Timer, Time)> {
        timers.0.into_iter().collect()
    }
}

impl Timers {
    pub(super) fn arm(&mut self, timer: Timer, at: Time) {
        self.0.insert(timer, at);
    }

    /// Whether it was armed.
    pub(super) fn disarm(&mut self, timer: Timer) -> bool {
        self.0.remove(&timer).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Timer, Time)> + '_ {
        self.0.iter().map(|(timer, at)| (*timer, *at))
    }

    pub(super) fn at(&self, timer: Timer) -> Option<Time> {
        self.0.get(&timer).copied()
    }
}

/// Every timer that can be armed for a worker.
pub(super) fn of_worker(worker: WorkerId) -> [Timer; 5] {
    [
        Timer::Listen(worker),
        Timer::MinUptime(worker),
        Timer::Drain(worker),
        Timer::Kill(worker),
        Timer::Unkillable(worker),
    ]
}
