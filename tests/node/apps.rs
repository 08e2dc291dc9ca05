//! Unmodified apps on every major version.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use pm2rs::core::{Balance, WorkerId};
use pm2rs::node::PrimaryConfig;
use pm2rs::sys::store::Store;
use serde_json::Value;

use crate::client::{self, Connection, get};
use crate::rig::{DEADLINE, Plan, Rig, free_port, nodes, tests};

fn pids(answers: &[Value]) -> BTreeSet<u64> {
    answers.iter().map(|answer| answer["pid"].as_u64().unwrap()).collect()
}

/// Two workers of the app answer, in every way of spreading connections, and one goes on when the other ends.
async fn serves(script: &str, majors: impl Fn(u32) -> bool, node_args: &[&str], kind: &str) {
    for (major, node) in nodes().into_iter().filter(|(major, _)| majors(*major)) {
        for balance in [Balance::Auto, Balance::Shared, Balance::RoundRobin] {
            let mut rig = Rig::new();
            let port = free_port();
            let mut plan = Plan::new(&node, script).env("PORT", port).balance(balance);
            plan.spec.node_args = node_args.iter().map(|arg| (*arg).to_owned()).collect();
            let (first, _) = rig.serve(&plan.row(0)).await;
            let (second, _) = rig.serve(&plan.row(1)).await;
            let what = format!("{script} on Node {major}, {balance:?}");

            let answers = ask(&node, kind, port, 24).await;
            let expected = BTreeSet::from([u64::from(rig.pid(first)), u64::from(rig.pid(second))]);
            if balance == Balance::Shared || kind == "udp" {
                // Whoever is free takes it, and that may always be the same one.
                assert!(pids(&answers).is_subset(&expected), "{what}: {answers:?}");
            } else {
                assert_eq!(pids(&answers), expected, "{what}: {answers:?}");
            }
            for answer in &answers {
                let worker = if answer["pid"] == rig.pid(first) { first } else { second };
                assert_eq!(answer["worker"], worker.0, "{what}");
                assert_eq!(answer["execArgv"], serde_json::json!(node_args), "{what}");
            }
            let remaining = BTreeSet::from([u64::from(rig.pid(second))]);
            assert_eq!(rig.stop(first).await, 0, "{what}");
            assert_eq!(pids(&ask(&node, kind, port, 4).await), remaining, "{what}");
        }
    }
}

async fn ask(node: &Path, kind: &str, port: u16, count: usize) -> Vec<Value> {
    match kind {
        "http" => {
            let mut answers = Vec::new();
            for _ in 0..count {
                answers.push(get(port, "/").await.unwrap());
            }
            answers
        }
        kind => client::ask(node, kind, port, count).await,
    }
}

#[tokio::test]
async fn plain_http() {
    serves("http.js", |_| true, &[], "http").await;
}

#[tokio::test]
async fn express() {
    serves("express.js", |_| true, &[], "http").await;
}

#[tokio::test]
async fn fastify() {
    // Fastify 5 asks for Node 20.
    serves("fastify.js", |major| major >= 20, &[], "http").await;
}

#[tokio::test]
async fn koa() {
    serves("koa.js", |_| true, &[], "http").await;
}

#[tokio::test]
async fn es_modules() {
    serves("esm.mjs", |_| true, &[], "http").await;
}

#[tokio::test]
async fn typescript_where_node_runs_it() {
    serves("typed.ts", |major| major >= 22, &[], "http").await;
}

#[tokio::test]
async fn websockets() {
    serves("ws.js", |_| true, &[], "ws").await;
}

#[tokio::test]
async fn udp() {
    serves("udp.js", |_| true, &[], "udp").await;
}

#[tokio::test]
async fn http2_sessions() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let port = free_port();
        let plan = Plan::new(&node, "http2.js").env("PORT", port);
        let (first, _) = rig.serve(&plan.row(0)).await;
        let (second, _) = rig.serve(&plan.row(1)).await;
        // The session is open when its worker is told to drain: GOAWAY moves it without a failure.
        let client = tokio::spawn({
            let node = node.clone();
            async move { client::ask(&node, "http2", port, 40).await }
        });
        for (worker, row) in [(first, 0), (second, 1)] {
            let (_, _) = rig.serve(&plan.row(row)).await;
            assert_eq!(rig.stop(worker).await, 0, "Node {major}");
        }
        assert_eq!(client.await.unwrap().len(), 40, "Node {major}");
    }
}

#[tokio::test]
async fn tls_sessions_are_resumed_by_any_worker() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let port = free_port();
        let plan = Plan::new(&node, "https.js").env("PORT", port).balance(Balance::RoundRobin);
        rig.serve(&plan.row(0)).await;
        rig.serve(&plan.row(1)).await;
        let answers = client::ask(&node, "https", port, 6).await;
        let resumed: Vec<_> = answers.iter().map(|answer| answer["resumed"].as_bool().unwrap()).collect();
        assert_eq!(resumed, [false, true, true, true, true, true], "Node {major}");
        assert_eq!(pids(&answers).len(), 2, "Node {major}");
    }
}

#[tokio::test]
async fn unix_sockets() {
    for (major, node) in nodes() {
        for balance in [Balance::Auto, Balance::RoundRobin] {
            let mut rig = Rig::new();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("app.sock");
            let plan = Plan::new(&node, "http.js").env("PORT", path.display()).balance(balance);
            // Both ask while the path is being bound.
            let workers = [rig.spawn(&plan.row(0)).await, rig.spawn(&plan.row(1)).await];
            for worker in workers {
                assert_eq!(rig.listening(worker).await, path.display().to_string(), "Node {major}");
            }
            Connection::unix(&path).await.unwrap().get("/", false).await.unwrap();
            rig.stop(workers[0]).await;
            Connection::unix(&path).await.unwrap().get("/", false).await.unwrap();
            // The file stays for the successor, and goes with the app.
            rig.stop(workers[1]).await;
            assert!(path.exists(), "Node {major}");
            let waiting = Connection::unix(&path).await;
            rig.serve(&plan.row(0)).await;
            waiting.unwrap().get("/", false).await.unwrap();
            rig.primary.remove_app(plan.app);
            wait_until_gone(&path).await;
        }
    }
}

/// An app that removes its socket's file before it listens and when it ends, though the socket is not its own alone.
#[tokio::test]
async fn unix_sockets_whose_files_are_removed() {
    for (major, node) in nodes() {
        for balance in [Balance::Auto, Balance::RoundRobin] {
            let what = format!("Node {major}, {balance:?}");
            let store = Store::new(None, Vec::new()).0;
            let mut rig = Rig::with(PrimaryConfig { store, ..PrimaryConfig::default() });
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("app.sock");
            let plan = Plan::new(&node, "file.js").env("PORT", path.display()).balance(balance);
            let (first, _) = rig.serve(&plan.row(0)).await;
            let (second, _) = rig.serve(&plan.row(1)).await;
            let both = BTreeSet::from([rig.pid(first), rig.pid(second)]);
            assert_eq!(answer_at(&path, 4).await, both, "{what}");
            rig.succeed().await;
            assert_eq!(answer_at(&path, 4).await, both, "{what}");

            rig.stop(first).await;
            wait_until_there(&path).await;
            assert_eq!(answer_at(&path, 2).await, BTreeSet::from([rig.pid(second)]), "{what}");
            rig.stop(second).await;
            wait_until_there(&path).await;
            // It waits at the socket whose file the next worker removes.
            let mut waiting = Connection::unix(&path).await.unwrap();
            let (third, _) = rig.serve(&plan.row(0)).await;
            waiting.get("/", false).await.unwrap();
            assert_eq!(answer_at(&path, 2).await, BTreeSet::from([rig.pid(third)]), "{what}");
            rig.stop(third).await;
            rig.primary.remove_app(plan.app);
            assert_eq!(rig.primary.listeners(plan.app).await, [], "{what}");
            wait_until_gone(&path).await;
        }
    }
}

/// Who answers so many requests.
async fn answer_at(path: &Path, requests: usize) -> BTreeSet<u32> {
    let mut pids = BTreeSet::new();
    for _ in 0..requests {
        let body = Connection::unix(path).await.unwrap().get("/", false).await.unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap();
        pids.insert(u32::try_from(answer["pid"].as_u64().unwrap()).unwrap());
    }
    pids
}

async fn wait_until_there(path: &Path) {
    let deadline = Instant::now() + DEADLINE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} does not come back", path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_until_gone(path: &Path) {
    for _ in 0..1000 {
        if !path.exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{} is still there", path.display());
}

#[tokio::test]
async fn two_servers_and_any_port() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let port = free_port();
        let plan = Plan::new(&node, "two.js").env("PORT", port);
        let mut any = BTreeSet::new();
        for row in 0..2 {
            let worker = rig.spawn(&plan.row(row)).await;
            any.insert(rig.listening(worker).await);
            assert_eq!(rig.listening(worker).await, format!("[::]:{port}"), "Node {major}");
        }
        // listen(0) is the same port for all workers.
        assert_eq!(any.len(), 1, "Node {major}: {any:?}");
        let other = get(port, "/").await.unwrap()["other"].as_u64().unwrap();
        assert_eq!(any.first().unwrap(), &format!("127.0.0.1:{other}"));
        get(u16::try_from(other).unwrap(), "/").await.unwrap();
    }
}

#[tokio::test]
async fn serve_from_npm() {
    let main = tests().join("npm/node_modules/serve/build/main.js");
    for (major, node) in nodes().into_iter().filter(|_| main.exists()) {
        let mut rig = Rig::new();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.html"), "<p>built</p>").unwrap();
        let port = free_port();
        let mut plan = Plan::new(&node, &main);
        plan.spec.args = ["-s", folder.path().to_str().unwrap(), "-l", &port.to_string()].map(str::to_owned).to_vec();
        let (first, _) = rig.serve(&plan.row(0)).await;
        // It tries to connect to its port first, and takes another one if somebody listens there.
        assert_eq!(rig.serve(&plan.row(1)).await.1, format!("[::]:{port}"), "Node {major}");
        for _ in 0..2 {
            let page = Connection::tcp(port).await.unwrap().get("/any/path", false).await.unwrap();
            assert_eq!(page, "<p>built</p>", "Node {major}");
        }
        rig.stop(first).await;
        Connection::tcp(port).await.unwrap().get("/", false).await.unwrap();
    }
}

#[tokio::test]
async fn messages_go_both_ways() {
    for (major, node) in nodes() {
        for fork in [false, true] {
            let mut rig = Rig::new();
            let plan = Plan::new(&node, "messages.js");
            let worker = rig.spawn(&if fork { plan.fork() } else { plan }).await;
            assert_eq!(rig.message(worker).await, "ready", "Node {major}");
            let long = "ü".repeat(300_000);
            for message in [serde_json::json!({"a": [1, null]}), "shutdown".into(), long.into(), 7.into()] {
                rig.primary.send(worker, message.clone());
                assert_eq!(rig.message(worker).await["echo"], message, "Node {major}");
            }
            // A handle is refused nobody, and not kept.
            rig.primary.send(worker, "handle".into());
            assert_eq!(rig.message(worker).await, "with handle", "Node {major}");
            rig.primary.send(worker, 1.into());
            assert_eq!(rig.message(worker).await["echo"], 1, "Node {major}");
            rig.primary.send(worker, "leave".into());
            rig.event(pm2rs::node::NodeEvent::Disconnected { worker }).await;
        }
    }
}

#[tokio::test]
async fn what_the_app_starts_sees_nothing_of_us() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let worker: WorkerId = rig.spawn(&Plan::new(&node, "children.js")).await;
        for _ in 0..3 {
            let message = rig.message(worker).await;
            let (who, seen) = message.as_object().unwrap().iter().next().unwrap();
            assert_eq!(seen["execArgv"], serde_json::json!([]), "Node {major}, {who}");
            assert_eq!(seen["env"], serde_json::json!([]), "Node {major}, {who}");
            assert_eq!(seen["isWorker"], who == "self", "Node {major}, {who}");
        }
    }
}
