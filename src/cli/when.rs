//! Points in time as people type them, after `--since` and `--until`.

use jiff::civil::{DateTime, Time};
use jiff::{Span, Timestamp, Zoned};

use super::exit::Failure;

/// In milliseconds since the epoch: `now`, `today`, `yesterday`, `10:30`, `2026-11-21`, `2026-11-21 10:30`, a time as ISO
/// 8601 has it, `@SECONDS`, or so long ago: `2h`, `-2h`, `2 hours ago`.
///
/// # Errors
/// For anything else.
pub fn read(typed: &str, now: &Zoned) -> Result<i64, Failure> {
    let time = point(typed.trim(), now);
    time.map(Timestamp::as_millisecond).ok_or_else(|| {
        Failure::error(format!("`{typed}` is no time: say `10:30`, `yesterday`, `2026-11-21 10:30` or `2h ago`"))
    })
}

fn point(typed: &str, now: &Zoned) -> Option<Timestamp> {
    match typed {
        "now" => return Some(now.timestamp()),
        "today" => return now.start_of_day().ok().map(|day| day.timestamp()),
        "yesterday" => return now.yesterday().ok()?.start_of_day().ok().map(|day| day.timestamp()),
        _ => {}
    }
    if let Some(seconds) = typed.strip_prefix('@') {
        return Timestamp::from_second(seconds.parse().ok()?).ok();
    }
    if let Ok(timestamp) = typed.parse::<Timestamp>() {
        return Some(timestamp);
    }
    let local = |time: DateTime| time.to_zoned(now.time_zone().clone()).ok().map(|time| time.timestamp());
    // A date alone is its midnight.
    if let Ok(time) = typed.parse::<DateTime>() {
        return local(time);
    }
    // After dates, whose time it would read.
    if let Ok(time) = typed.parse::<Time>() {
        return local(now.date().to_datetime(time));
    }
    let ago = typed.parse::<Span>().ok()?.abs();
    now.checked_sub(ago).ok().map(|time| time.timestamp())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_type_them() {
        let now: Zoned = "2026-11-21T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        for (typed, meant) in [
            ("now", "2026-11-21T11:00:00Z"),
            ("today", "2026-11-20T23:00:00Z"),
            ("yesterday", "2026-11-19T23:00:00Z"),
            ("10:30", "2026-11-21T09:30:00Z"),
            ("10:30:05", "2026-11-21T09:30:05Z"),
            ("2026-11-20", "2026-11-19T23:00:00Z"),
            ("2026-11-20 08:00", "2026-11-20T07:00:00Z"),
            ("2026-11-20T08:00:00", "2026-11-20T07:00:00Z"),
            ("2026-11-20T08:00:00Z", "2026-11-20T08:00:00Z"),
            ("@1795259000", "2026-11-21T11:03:20Z"),
            ("2h", "2026-11-21T09:00:00Z"),
            ("-2h", "2026-11-21T09:00:00Z"),
            ("2 hours ago", "2026-11-21T09:00:00Z"),
            ("1h 30m ago", "2026-11-21T09:30:00Z"),
            ("1d", "2026-11-20T11:00:00Z"),
        ] {
            let meant: Timestamp = meant.parse().unwrap();
            assert_eq!(read(typed, &now).unwrap(), meant.as_millisecond(), "{typed}");
        }
        for wrong in ["", "soon", "25:00", "2026-13-01", "@x"] {
            assert!(read(wrong, &now).is_err(), "{wrong}");
        }
    }
}
