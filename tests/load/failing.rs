//! A release that does not work replaces nothing: the reload says why, and the old one serves on.

use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::Ended;
use crate::load::{Load, Mode};
use crate::place::{DEADLINE, Place};

const GOOD: &str =
    "require('http').createServer((q, r) => r.end(JSON.stringify({ pid: process.pid }))).listen(process.env.PORT);\n";

/// Reloads from a release that serves, with these keys, to this one; returns what was said.
#[track_caller]
fn fails(release: &str, keys: &Value) -> Ended {
    let place = Place::new();
    place.write("app.js", GOOD);
    place.start(keys);
    fails_at(&place, release)
}

#[track_caller]
fn fails_at(place: &Place, release: &str) -> Ended {
    let before = place.pids();
    let load = Load::start(&place.http("/"), Mode::Keep, 8);
    let others = Load::start(&place.http("/"), Mode::Once, 8);
    place.write("app.js", release);
    let from = Instant::now();
    let ended = place.call("reload app").fails();
    let took = from.elapsed();
    assert!(took < 2 * DEADLINE, "the reload took {took:?}: {ended}");
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
    fails("throw new Error('no such table: users');\n", &json!({}))
        .mentions("exited with code 1")
        .mentions("no such table: users");
}

#[test]
fn one_that_says_nothing_is_not_blamed_for_what_was_said_before() {
    let place = Place::new();
    place.write("app.js", &format!("console.error('the day before'); {GOOD}"));
    place.start(&json!({}));
    let ended = fails_at(&place, "process.exit(3);\n").mentions("exited with code 3");
    assert!(!ended.stderr().contains("the day before"), "{ended}");
}

#[test]
fn one_that_never_listens() {
    fails(
        "console.error('waiting for godot'); setInterval(() => {}, 1000);\n",
        // Long enough for a slow machine to run it so far.
        &json!({ "listen_timeout": 10_000 }),
    )
    .mentions("10000 ms")
    .mentions("waiting for godot");
}

#[test]
fn one_that_never_says_ready() {
    let place = Place::new();
    place.write("app.js", &format!("{GOOD}setTimeout(() => process.send('ready'), 50);\n"));
    place.start(&json!({ "wait_ready": true, "listen_timeout": 4000 }));
    let before = place.pids();
    let load = Load::start(&place.http("/"), Mode::Keep, 8);
    place.write("app.js", GOOD);
    place.call("reload app").fails().mentions("4000 ms");
    load.stop().lost_nothing("kept connections");
    assert_eq!(place.pids(), before);
}

#[test]
fn one_that_crashes_after_a_second() {
    let release = format!("{GOOD}setTimeout(() => {{ throw new Error('too late') }}, 1000);\n");
    // A slow machine may let it crash after some more.
    fails(&release, &json!({ "min_uptime": 10_000 })).mentions("too late");
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
    place.start(&json!({ "listen_timeout": 4000, "probe": { "http": probe, "interval": 100 } }));
    fails_at(&place, &app(500)).mentions("4000 ms");
}

#[test]
fn one_that_a_probe_command_does_not_like() {
    let place = Place::new();
    let seen = "require('fs').writeFileSync(`good-${process.pid}-${process.env.pm_id}`, '');\n";
    place.write("app.js", &format!("{seen}{GOOD}"));
    // About this worker and no other: the one before it has left its file, too.
    let command = "test -e good-$PM2RS_PID-$pm_id && test -n \"$NODE_APP_INSTANCE\"";
    place.start(&json!({ "probe": { "exec": ["sh", "-c", command], "interval": 100 } }));
    place.reload();
    let before = place.pids();
    place.write("app.js", GOOD);
    place.call("reload app --listen-timeout 5000").fails().mentions("5000 ms");
    assert_eq!(place.pids(), before);
}
