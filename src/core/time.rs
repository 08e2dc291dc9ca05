//! Time as the core sees it: handed in, never asked for.

use serde::{Deserialize, Serialize};

/// A point on the machine's monotonic clock (CLOCK_BOOTTIME), in milliseconds. It goes on over a restart of the
/// daemon and starts anew at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// This point moved `ms` milliseconds into the future, saturating.
    #[must_use]
    pub fn after(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this point; 0 when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The present, on both clocks: `mono` decides, `wall` is only shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    /// Monotonic time.
    pub mono: Time,
    /// Milliseconds since the epoch, for `created_at` and `pm_uptime`.
    pub wall: u64,
}
