//! A release that does not work replaces nothing: the reload says why, and the old one serves on.

use std::time::{Duration, Instant};

use crate::cli::Ended;
use crate::load::{Load, Mode};
use crate::place::Place;

const GOOD: &str =
    "require('http').createServer((q, r) => r.end(JSON.stringify({ pid: process.pid }))).listen(process.env.PORT);\n";

/// Reloads from a release that serves to this one; returns what was said.
#[track_caller]
fn fails(release: &str, extra: &str, within: Duration) -> Ended {
    let place = Place::new();
    let script = place.write("app.js", GOOD);
    place.start(&script, 2, extra);
    fails_at(&place, release, within)
}

#[track_caller]
fn fails_at(place: &Place, release: &str, within: Duration) -> Ended {
    let before = place.pids();
    let load = Load::start(&place.http("/"), Mode::Keep, 8);
    let others = Load::start(&place.http("/"), Mode::Once, 8);
    place.write("app.js", release);
    let from = Instant::now();
    let ended = place.call("reload app").fails();
    let took = from.elapsed();
    assert!(took < within, "the reload took {took:?}: {ended}");
    load.stop().lost_nothing("kept connections");
    others.stop().lost_nothing("fresh connections");
    place.until("as before", |list| {
        let pids: Vec<u64> = list.iter().map(|row| row["pid"].as_u64().unwrap()).collect();
        pids.iter().copied().eq(before.iter().map(|pid| u64::from(*pid)))
            && list.iter().all(|row| row["pm2_env"]["status"] == "online")
    });
    // And the next release that works comes in.
    place.write("app.js", GOOD);
    place.reload();
    ended
}

#[test]
fn one_that_throws_at_start() {
    fails("throw new Error('no such table: users');\n", "", Duration::from_secs(50))
        .mentions("exited with code 1")
        .mentions("no such table: users");
}

#[test]
fn one_that_never_listens() {
    fails(
        "console.error('waiting for godot'); setInterval(() => {}, 1000);\n",
        // Long enough for a slow machine to run it so far.
        "--listen-timeout 10000",
        Duration::from_secs(50),
    )
    .mentions("10000 ms")
    .mentions("waiting for godot");
}

#[test]
fn one_that_never_says_ready() {
    let place = Place::new();
    let script = place.write("app.js", &format!("{GOOD}setTimeout(() => process.send('ready'), 50);\n"));
    place.start(&script, 2, "--wait-ready --listen-timeout 3000");
    let before = place.pids();
    let load = Load::start(&place.http("/"), Mode::Keep, 8);
    place.write("app.js", GOOD);
    place.call("reload app").fails().mentions("3000 ms");
    load.stop().lost_nothing("kept connections");
    assert_eq!(place.pids(), before);
}

#[test]
fn one_that_crashes_after_a_second() {
    let place = Place::new();
    place.write("app.js", GOOD);
    // A slow machine may let it crash after some more.
    place.start_with(2, &serde_json::json!({ "min_uptime": 10_000 }));
    let release = format!("{GOOD}setTimeout(() => {{ throw new Error('too late') }}, 1000);\n");
    fails_at(&place, &release, Duration::from_secs(50)).mentions("too late");
}

#[test]
fn one_whose_probe_fails() {
    let place = Place::new();
    let app = |status: u32| {
        format!(
            "require('http').createServer((q, r) => {{ r.statusCode = q.url === '/health' ? {status} : 200; \
             r.end(JSON.stringify({{ pid: process.pid }})) }}).listen(process.env.PORT);\n"
        )
    };
    place.write("app.js", &app(200));
    let probe = format!("http://127.0.0.1:{}/health", place.port);
    place.start_with(2, &serde_json::json!({ "listen_timeout": 3000, "probe": { "http": probe, "interval": 100 } }));
    fails_at(&place, &app(500), Duration::from_secs(50)).mentions("3000 ms");
}

#[test]
fn one_that_a_probe_command_does_not_like() {
    let place = Place::new();
    let seen = "require('fs').writeFileSync(`good-${process.pid}-${process.env.pm_id}`, '');\n";
    place.write("app.js", &format!("{seen}{GOOD}"));
    // About this worker and no other: the one before it has left its file, too.
    let command = "test -e good-$PM2RS_PID-$pm_id && test -n \"$NODE_APP_INSTANCE\"";
    place.start_with(2, &serde_json::json!({ "probe": { "exec": ["sh", "-c", command], "interval": 100 } }));
    place.reload();
    let before = place.pids();
    place.write("app.js", GOOD);
    place.call("reload app --listen-timeout 5000").fails().mentions("5000 ms");
    assert_eq!(place.pids(), before);
}
