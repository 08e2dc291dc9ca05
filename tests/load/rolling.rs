//! Reload and scale lose nothing, whatever the app is and knows.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::load::{Load, Mode};
use crate::place::{Place, has_package, node, reloads, tests};

/// Reloads an app of two workers under both kinds of load, in `PM2RS_RELOADS` rounds.
#[track_caller]
fn rolls(script: &Path, scheme: &str, path: &str, mut keys: Value) {
    let place = Place::new();
    keys["script"] = json!(script);
    place.start(&keys);
    let url = format!("{scheme}://127.0.0.1:{}{path}", place.port);
    for mode in [Mode::Keep, Mode::Once] {
        let load = Load::start(&url, mode, 16);
        for _ in 0..reloads() {
            place.reload();
        }
        let report = load.stop();
        report.lost_nothing(&format!("{} {mode:?}", script.display()));
        assert!(report.answers.len() > reloads(), "the load did not see the releases: {report:#?}");
    }
}

fn app(name: &str) -> PathBuf {
    tests().join("apps").join(name)
}

#[test]
fn a_plain_app() {
    rolls(&app("http.js"), "http", "/?ms=3", json!({}));
}

#[test]
fn an_app_that_closes_its_server_on_sigint() {
    rolls(&app("sigint.js"), "http", "/", json!({}));
}

#[test]
fn slow_answers() {
    rolls(&app("http.js"), "http", "/?ms=500", json!({}));
}

#[test]
fn https() {
    rolls(&app("https.js"), "https", "/", json!({}));
}

#[test]
fn express() {
    if has_package("express") {
        rolls(&app("express.js"), "http", "/", json!({}));
    }
}

#[test]
fn fastify() {
    if has_package("fastify") {
        rolls(&app("fastify.js"), "http", "/", json!({}));
    }
}

#[test]
fn the_oldest_and_the_newest_node() {
    for node in [18, 26].into_iter().filter_map(node) {
        rolls(&app("sigint.js"), "http", "/", json!({ "interpreter": node }));
    }
}

#[test]
fn an_app_that_says_when_it_is_ready() {
    rolls(&app("ready.js"), "http", "/", json!({ "wait_ready": true }));
}

#[test]
fn a_single_worker() {
    let place = Place::new();
    place.start(&json!({ "script": app("http.js"), "instances": 1 }));
    let load = Load::start(&place.http("/?ms=3"), Mode::Keep, 16);
    for _ in 0..reloads() {
        place.reload();
    }
    load.stop().lost_nothing("a single worker");
}

#[test]
fn more_and_fewer_workers() {
    let place = Place::new();
    place.start(&json!({ "script": app("http.js") }));
    for mode in [Mode::Keep, Mode::Once] {
        let load = Load::start(&place.http("/?ms=3"), mode, 16);
        for _ in 0..reloads() {
            place.call("scale app 4").ok();
            place.until_online(4);
            place.call("scale app 1").ok();
            place.until_online(1);
            place.call("scale app +1").ok();
            place.until_online(2);
        }
        load.stop().lost_nothing(&format!("scale {mode:?}"));
    }
}

#[test]
fn workers_that_are_ended_by_their_ids() {
    let place = Place::new();
    place.start(&json!({ "script": app("http.js"), "instances": 3 }));
    for mode in [Mode::Keep, Mode::Once] {
        let load = Load::start(&place.http("/?ms=3"), mode, 16);
        for _ in 0..reloads() {
            place.call(&format!("delete {}", place.list()[0]["pm_id"])).ok();
            place.call("scale app 3").ok();
            place.until_online(3);
            let id = place.list()[0]["pm_id"].clone();
            place.call(&format!("stop {id}")).ok().says("stopped");
            place.call(&format!("restart {id}")).ok();
            place.until_online(3);
        }
        load.stop().lost_nothing(&format!("by id, {mode:?}"));
    }
}
