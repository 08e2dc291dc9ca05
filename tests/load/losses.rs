//! A worker that dies or hangs costs what it had in hands, and nobody else anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::{Load, Mode};
use crate::place::{Place, reloads, tests};

const CLIENTS: usize = 16;

#[test]
fn only_requests_in_the_hands_of_a_killed_worker_fail() {
    let place = Place::new();
    place.start(&json!({ "script": tests().join("apps/http.js") }));
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
        }
    }
}

#[test]
fn new_connections_do_not_wait_for_a_worker_in_an_endless_loop() {
    let place = Place::new();
    place.start(&json!({ "script": tests().join("apps/hang.js") }));
    let folder = tempfile::tempdir().unwrap();
    let enough = folder.path().join("enough");
    let mut hanging = TcpStream::connect(("127.0.0.1", place.port)).unwrap();
    let request = format!("GET /hang={} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", enough.display());
    hanging.write_all(request.as_bytes()).unwrap();
    hanging.read_exact(&mut [0; 16]).unwrap();
    // It begins when every client has been answered.
    let load = Load::start(&place.http("/"), Mode::Once, CLIENTS);
    let is_hung = |row: &serde_json::Value| row["pm2_env"]["hung"] == true;
    place.until("seen to hang", |list| list.iter().any(is_hung));
    let later = Load::start(&place.http("/"), Mode::Once, CLIENTS);
    later.stop().lost_nothing("begun while it hangs");
    std::fs::write(enough, "").unwrap();
    let mut rest = String::new();
    hanging.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("pid"), "{rest}");
    place.until("seen to answer again", |list| !list.iter().any(is_hung));
    load.stop().lost_nothing("hang");
}

#[test]
fn a_worker_in_an_endless_loop_is_stopped_at_once() {
    let place = Place::new();
    place.start(&json!({ "script": tests().join("apps/hang.js"), "drain_timeout": 20_000 }));
    let mut hanging = TcpStream::connect(("127.0.0.1", place.port)).unwrap();
    hanging.write_all(b"GET /hang=/nowhere HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    hanging.read_exact(&mut [0; 16]).unwrap();
    let load = Load::start(&place.http("/"), Mode::Once, CLIENTS);
    let is_hung = |row: &serde_json::Value| row["pm2_env"]["hung"] == true;
    let list = place.until("seen to hang", |list| list.iter().any(is_hung));
    let row = list.iter().find(|row| is_hung(row)).unwrap();
    let began = Instant::now();
    place.call(&format!("stop {}", row["pm_id"])).ok().says("stopped");
    assert!(began.elapsed() < Duration::from_secs(15), "it was waited for: {:?}", began.elapsed());
    load.stop().lost_nothing("while it is stopped");
}
