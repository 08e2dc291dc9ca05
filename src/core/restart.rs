//! Whether an ended worker is started again, and when. A pure calculation on a row's memory of its past ends.
//!
//! PM2 counts unstable ends only within `min_uptime * max_restarts` of the row's creation, so an app older than 16 s
//! that crashes at once is restarted for ever without a pause. Here the window slides, the pauses between restarts
//! are not counted as time in it, and there is a back-off even where none was configured.

use serde::{Deserialize, Serialize};

use super::{AppSpec, Exit, Time};

/// Longest back-off (ms), as in PM2.
pub const MAX_BACKOFF: u64 = 15_000;
/// Second delay of the default back-off (ms); the first restart is immediate. PM2 has no such delays, and scripts wait as
/// long as it takes there: sixteen quick ends, the default `max_restarts`, take little more than a second longer.
pub const DEFAULT_BACKOFF: u64 = 20;
/// A default delay that is at most this part of how long the worker lived is left out: it would spare the machine nothing, and
/// clients wait for it. The next one grows all the same, so what ends again and again comes to be paused.
const NEGLIGIBLE: u64 = 10;
/// A worker that lived this long (ms) makes the back-off begin anew (PM2's `EXP_BACKOFF_RESET_TIMER`).
pub const BACKOFF_RESET: u64 = 30_000;

/// What a row remembers of its ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When unstable ends happened, on a clock that stands still while the row waits in back-off. At most
    /// `max_restarts` of them.
    unstable: Vec<Time>,
    /// The delays so far since the back-off began; the length decides the next one.
    backoffs: u32,
    /// The last delay (ms).
    last_delay: u64,
    /// Milliseconds spent in back-off altogether.
    waited: u64,
}

/// How a worker ended, as far as the policy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Exit of its main process; `None` when it could not be executed for want of resources.
    pub exit: Option<Exit>,
    /// How long it lived (ms).
    pub uptime: u64,
    /// Whether it had been ready.
    pub was_ready: bool,
}

/// What is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: its work is done (`autorestart: false`, `stop_exit_codes`).
    Done,
    /// Nothing: it ended too often in too short a time.
    GiveUp,
    /// Another start, after so many milliseconds; 0 is at once.
    Restart(u64),
}

impl Record {
    /// The last delay before a restart (ms), also one that was left out as negligible; 0 for none.
    #[must_use]
    pub fn last_delay(&self) -> u64 {
        self.last_delay
    }

    /// Unstable ends within the window, as of the last end.
    #[must_use]
    pub fn unstable(&self) -> u32 {
        u32::try_from(self.unstable.len()).unwrap_or(u32::MAX)
    }

    /// Notes an end and says what is to follow.
    pub(super) fn judge(&mut self, spec: &AppSpec, end: End, now: Time) -> Verdict {
        let code = match end.exit {
            Some(Exit::Code(code)) => Some(code),
            _ => None,
        };
        if end.exit.is_some() && (!spec.autorestart || code.is_some_and(|code| spec.stop_exit_codes.contains(&code))) {
            return Verdict::Done;
        }
        if end.uptime >= BACKOFF_RESET.max(spec.min_uptime) {
            self.backoffs = 0;
        }
        let clock = Time(now.0.saturating_sub(self.waited));
        let window = spec.min_uptime.saturating_mul(u64::from(spec.max_restarts));
        self.unstable.retain(|at| clock.since(*at) <= window);
        let stable = end.uptime >= spec.min_uptime && end.exit.is_some();
        if !stable {
            self.unstable.push(clock);
            if self.unstable.len() >= usize::try_from(spec.max_restarts).unwrap_or(usize::MAX) {
                *self = Record::default();
                return Verdict::GiveUp;
            }
        }
        let finished = stable && end.was_ready && code == Some(0);
        let delay = self.delay(spec, finished);
        let chosen = spec.restart_delay > 0 || spec.exp_backoff_restart_delay > 0;
        let negligible = stable && !chosen && delay <= end.uptime / NEGLIGIBLE;
        Verdict::Restart(if negligible { 0 } else { delay })
    }

    fn delay(&mut self, spec: &AppSpec, finished: bool) -> u64 {
        if spec.exp_backoff_restart_delay == 0 {
            if spec.restart_delay > 0 {
                return spec.restart_delay;
            }
            // A script that ran to its end is repeated; that is no failure to back off from.
            if finished {
                self.backoffs = 0;
                return 0;
            }
        }
        let last = self.last_delay;
        let delay = match (self.backoffs, spec.exp_backoff_restart_delay) {
            (0, 0) => 0,
            (1, 0) => DEFAULT_BACKOFF,
            (_, 0) => (last.saturating_mul(6) / 5).max(last + 1),
            (0, configured) => configured,
            _ => (last.saturating_mul(3) / 2).max(last + 1),
        };
        let delay = delay.min(MAX_BACKOFF);
        self.backoffs = self.backoffs.saturating_add(1);
        self.last_delay = delay;
        delay
    }

    /// Notes that the row was in back-off for so many milliseconds.
    pub(super) fn waited(&mut self, ms: u64) {
        self.waited = self.waited.saturating_add(ms);
    }
}

#[cfg(test)]
#[path = "tests/restart.rs"]
mod tests;
