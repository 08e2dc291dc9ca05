//! The restart policy: delays, the sliding window, and what ends it.

use super::*;

fn crash(uptime: u64) -> End {
    End { exit: Some(Exit::Code(1)), uptime, was_ready: true }
}

/// Lets the record judge ends of this uptime until something else than a restart comes; returns the delays.
fn delays(spec: &AppSpec, uptime: u64, most: usize) -> (Vec<u64>, Option<Verdict>) {
    let (mut record, mut now, mut delays) = (Record::default(), Time(1_000_000), Vec::new());
    for _ in 0..most {
        now = now.after(uptime);
        match record.judge(spec, crash(uptime), now) {
            Verdict::Restart(delay) => {
                delays.push(delay);
                now = now.after(delay);
                record.waited(delay);
            }
            other => return (delays, Some(other)),
        }
    }
    (delays, None)
}

#[test]
fn sixteen_quick_ends_give_up_as_soon_as_in_pm2() {
    let (delays, end) = delays(&AppSpec::default(), 10, 100);
    assert_eq!(end, Some(Verdict::GiveUp));
    assert_eq!(delays.len(), 15, "fifteen restarts make sixteen runs, as with PM2");
    assert_eq!(delays[..6], [0, 20, 24, 28, 33, 39]);
    assert!(delays.iter().sum::<u64>() < 1_500);
}

#[test]
fn an_app_that_ran_for_a_day_and_then_crashes_at_once_gives_up_as_well() {
    let spec = AppSpec::default();
    let mut record = Record::default();
    let mut now = Time(86_400_000);
    assert_eq!(record.judge(&spec, crash(86_400_000), now), Verdict::Restart(0));
    for _ in 0..15 {
        now = now.after(5);
        assert!(matches!(record.judge(&spec, crash(5), now), Verdict::Restart(_)));
    }
    assert_eq!(record.judge(&spec, crash(5), now), Verdict::GiveUp);
}

#[test]
fn ends_that_are_far_apart_leave_the_window() {
    let spec = AppSpec { max_restarts: 2, ..AppSpec::default() };
    let mut record = Record::default();
    assert!(matches!(record.judge(&spec, crash(5), Time(10)), Verdict::Restart(_)));
    assert!(matches!(record.judge(&spec, crash(5), Time(10 + 2001)), Verdict::Restart(_)));
    assert_eq!(record.unstable(), 1);
    assert_eq!(record.judge(&spec, crash(5), Time(10 + 4001)), Verdict::GiveUp);
}

#[test]
fn a_configured_back_off_grows_by_half_up_to_fifteen_seconds() {
    let spec = AppSpec { exp_backoff_restart_delay: 100, restart_delay: 7, ..AppSpec::default() };
    let (delays, end) = delays(&spec, 2_000, 20);
    assert_eq!(end, None, "no unstable end among them");
    assert_eq!(delays[..8], [100, 150, 225, 337, 505, 757, 1135, 1702]);
    assert_eq!(delays[19], MAX_BACKOFF);
}

#[test]
fn a_crash_every_two_seconds_backs_off_without_any_configuration() {
    let (delays, end) = delays(&AppSpec::default(), 2_000, 50);
    assert_eq!((delays[0], delays[49], end), (0, MAX_BACKOFF, None));
}

#[test]
fn a_pause_that_is_nothing_against_the_uptime_is_left_out_until_it_has_grown() {
    let (delays, _) = delays(&AppSpec::default(), 2_000, 20);
    let at_once = delays.iter().take_while(|delay| **delay == 0).count();
    assert!((10..20).contains(&at_once), "{delays:?}");
    assert!(delays[at_once..].iter().all(|delay| *delay > 200), "{delays:?}");
    // Who asks for a delay gets it.
    let spec = AppSpec { exp_backoff_restart_delay: 1, ..AppSpec::default() };
    assert_eq!(Record::default().judge(&spec, crash(20_000), Time(20_000)), Verdict::Restart(1));
}

#[test]
fn half_a_minute_of_uptime_begins_the_back_off_anew() {
    let spec = AppSpec { exp_backoff_restart_delay: 100, ..AppSpec::default() };
    let mut record = Record::default();
    for expected in [100, 150, 225] {
        assert_eq!(record.judge(&spec, crash(2_000), Time(99_000)), Verdict::Restart(expected));
    }
    assert_eq!(record.judge(&spec, crash(BACKOFF_RESET), Time(200_000)), Verdict::Restart(100));
}

#[test]
fn restart_delay_is_fixed() {
    let spec = AppSpec { restart_delay: 300, ..AppSpec::default() };
    assert_eq!(delays(&spec, 5_000, 4).0, [300; 4]);
}

#[test]
fn a_script_that_ran_to_its_end_is_repeated_at_once() {
    let mut record = Record::default();
    let end = End { exit: Some(Exit::Code(0)), uptime: 5_000, was_ready: true };
    for _ in 0..10 {
        assert_eq!(record.judge(&AppSpec::default(), end, Time(50_000)), Verdict::Restart(0));
    }
}

#[test]
fn some_ends_are_final() {
    let stop = AppSpec { stop_exit_codes: vec![0, 3], ..AppSpec::default() };
    let once = AppSpec { autorestart: false, ..AppSpec::default() };
    let end = |exit| End { exit: Some(exit), uptime: 10, was_ready: true };
    for (spec, exit, done) in [
        (&stop, Exit::Code(3), true),
        (&stop, Exit::Code(0), true),
        (&stop, Exit::Code(1), false),
        (&stop, Exit::Signal(3), false),
        (&once, Exit::Code(1), true),
        (&once, Exit::Signal(9), true),
        (&once, Exit::Unknown, true),
    ] {
        let verdict = Record::default().judge(spec, end(exit), Time(10));
        assert_eq!(verdict == Verdict::Done, done, "{exit:?}");
    }
}

#[test]
fn a_lack_of_resources_at_the_start_is_tried_again_even_without_autorestart() {
    let once = AppSpec { autorestart: false, ..AppSpec::default() };
    let end = End { exit: None, uptime: 0, was_ready: false };
    assert_eq!(Record::default().judge(&once, end, Time(10)), Verdict::Restart(0));
}
