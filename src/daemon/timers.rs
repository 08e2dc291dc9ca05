//! The timers that the core armed, and nothing else: at most one of each kind, in one queue.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::{Time, Timer};

/// Armed timers in the order in which they are due.
#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeSet<(Time, Timer)>,
    at: BTreeMap<Timer, Time>,
}

impl Timers {
    /// Has `timer` come at `at`, moving it when it is armed already.
    pub fn arm(&mut self, timer: Timer, at: Time) {
        self.disarm(timer);
        self.at.insert(timer, at);
        self.due.insert((at, timer));
    }

    /// Has it not come.
    pub fn disarm(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// When the next is due.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub fn take_due(&mut self, now: Time) -> Option<Timer> {
        let (at, timer) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.disarm(timer);
        Some(timer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::core::{ProcessId, WorkerId};

    #[test]
    fn come_in_order_once_and_not_when_disarmed_or_moved() {
        let mut timers = Timers::default();
        let (kill, listen, restart) =
            (Timer::Kill(WorkerId(1)), Timer::Listen(WorkerId(1)), Timer::Restart(ProcessId(0)));
        timers.arm(kill, Time(30));
        timers.arm(listen, Time(10));
        timers.arm(restart, Time(20));
        timers.arm(listen, Time(40));
        timers.disarm(restart);
        assert_eq!(timers.next(), Some(Time(30)));
        assert_eq!(timers.take_due(Time(29)), None);
        assert_eq!(timers.take_due(Time(50)), Some(kill));
        assert_eq!(timers.take_due(Time(50)), Some(listen));
        assert_eq!(timers.take_due(Time(50)), None);
        assert_eq!(timers.next(), None);
    }
}
