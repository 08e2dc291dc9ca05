//! The two clocks, one that decides and one that is shown, and how to learn that the second was set.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use tokio::io::Interest;

use super::watched::Watched;

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

/// Tells when the machine's clock was set, or went on after a suspend. Wakes nobody otherwise.
#[derive(Debug)]
pub struct ClockWatch(Watched);

impl ClockWatch {
    /// Watches from now on. Must be made inside a runtime.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<ClockWatch> {
        let timer = TimerFd::new(timerfd::ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        // Never due, and cancelled when the clock is set: timerfd_create(2).
        timer.set(
            Expiration::OneShot(TimeSpec::new(libc::time_t::MAX, 0)),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
        )?;
        Watched::with_interest(OwnedFd::from(timer), Interest::READABLE).map(ClockWatch)
    }

    /// Waits until it was set again.
    pub async fn was_set(&self) {
        let read = |timer: &OwnedFd| match nix::unistd::read(timer.as_fd(), &mut [0; 8]) {
            Err(nix::Error::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            // ECANCELED, which also begins the next wait; there is no other reason for it to become readable.
            _ => Ok(()),
        };
        if self.0.async_io(Interest::READABLE, read).await.is_err() {
            // The runtime is coming to its end.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_clock_that_is_set_is_noticed_each_time_and_not_without() -> io::Result<()> {
        let watch = ClockWatch::new()?;
        for _ in 0..2 {
            assert!(tokio::time::timeout(Duration::from_millis(50), watch.was_set()).await.is_err());
            // To what it says.
            let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
            if let Err(error) = nix::time::clock_settime(ClockId::CLOCK_REALTIME, now) {
                eprintln!("skipped: only root may set the clock, and not in every container: {error}");
                return Ok(());
            }
            tokio::time::timeout(Duration::from_secs(60), watch.was_set()).await?;
        }
        Ok(())
    }

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
