//! A worker that dies or hangs costs what it had in hands, and nobody else anything.

use crate::load::{Load, Mode};
use crate::place::{Place, reloads, tests};

const CLIENTS: usize = 16;

#[test]
fn only_requests_in_the_hands_of_a_killed_worker_fail() {
    let place = Place::new();
    place.start(&tests().join("apps/http.js"), 2, "");
    for mode in [Mode::Keep, Mode::Once] {
        for _ in 0..reloads() {
            let load = Load::start(&place.http("/?ms=3"), mode, CLIENTS);
            let before = place.pids();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(before[0] as i32), nix::sys::signal::SIGKILL).unwrap();
            place.until("restarted", |list| {
                list.iter().all(|row| row["pm2_env"]["status"] == "online" && row["pid"] != before[0])
            });
            let report = load.stop();
            eprintln!("kill {mode:?}: {} requests, {} failed, {:?} ms", report.ok, report.failed(), report.latency);
            // Each client has one request under way, and on a kept connection it is known with whom.
            assert!(report.failed() <= CLIENTS as u64, "{report:#?}");
            for failure in &report.failures {
                assert!(matches!(failure.kind.as_str(), "reset" | "cut"), "{report:#?}");
                assert!(failure.pid == 0 || failure.pid == before[0], "{report:#?}");
            }
            assert!(report.latency.max < 2000, "{report:#?}");
        }
    }
}

#[test]
fn new_connections_do_not_wait_for_a_worker_in_an_endless_loop() {
    let place = Place::new();
    place.start(&tests().join("apps/hang.js"), 2, "");
    let load = Load::start(&place.http("/"), Mode::Once, CLIENTS);
    // Its only request is the one that hangs; it is answered after all.
    let hanging = Load::start(&place.http("/hang?ms=1"), Mode::Once, 1);
    hanging.stop().lost_nothing("a short loop");
    let long = std::thread::spawn({
        let url = place.http("/hang?ms=6000");
        move || Load::start(&url, Mode::Once, 1).stop()
    });
    place.until("seen to hang", |list| {
        list.iter().any(|row| row["pm2_env"]["axm_monitor"].to_string().contains("hung") || row.to_string().contains("hung"))
    });
    let report = load.stop();
    eprintln!("hang: {} requests, {} failed, {:?} ms", report.ok, report.failed(), report.latency);
    assert_eq!(report.failed(), 0, "{report:#?}");
    assert!(report.latency.max < 2000, "{report:#?}");
    long.join().unwrap().lost_nothing("the loop itself");
}
