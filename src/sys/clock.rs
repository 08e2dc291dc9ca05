//! The two clocks: one that decides, one that is shown.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since boot, suspended time included (CLOCK_BOOTTIME). Never goes back, and means the same to every
/// process of this boot, so that it may be handed from one daemon to the next.
#[must_use]
pub fn boot_ms() -> u64 {
    // Every kernel that pm2rs runs on has this clock (2.6.39); clock_gettime(2) has no other way to fail.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(std::time::Duration::ZERO, Into::into);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the epoch, as the machine's clock is set now; 0 before 1970. Only to be shown: it may jump.
#[must_use]
pub fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Microseconds of CLOCK_MONOTONIC, the clock of systemd's protocols; it stands still in suspend.
#[must_use]
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(std::time::Duration::ZERO, Into::into);
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_clock_is_the_kernels_uptime_and_does_not_go_back() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or_default();
        let now = boot_ms();
        assert!(now as f64 >= uptime * 1000.0 - 10.0 && (now as f64) < uptime * 1000.0 + 60_000.0, "{now} {uptime}");
        assert!(boot_ms() >= now);
    }

    #[test]
    fn wall_clock_is_past_the_day_this_was_written() {
        assert!(wall_ms() > 1_763_000_000_000);
    }
}
