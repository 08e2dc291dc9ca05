//! Nobody loses a request when workers are replaced, scaled and ended.

use std::time::{Duration, Instant};

use pm2rs::core::{Balance, ProcessId, WorkerId};
use pm2rs::node::{NodeEvent, PrimaryConfig};
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Connection, Load, THINK};
use crate::rig::{Plan, Rig, free_port, node, nodes, tests};

/// Replaces every worker, one at a time, under load of both kinds; what fails is returned.
async fn reload_under_load(plan: Plan, rows: u32, config: PrimaryConfig, path: &'static str, rounds: usize) {
    let what = format!("{}, {rows} rows, {:?}, {config:?}", plan.spec.interpreter, plan.spec.balance);
    let mut rig = Rig::with(config);
    let port = free_port();
    let plan = plan.env("PORT", port);
    let mut workers = Vec::new();
    for row in 0..rows {
        workers.push(rig.serve(&plan.row(row)).await.0);
    }
    let loads = [
        Load::start(port, 6, true, path, Duration::ZERO),
        Load::start(port, 3, true, path, Duration::from_millis(20)),
        Load::start(port, 6, false, path, Duration::ZERO),
    ];
    for _ in 0..rounds {
        for (row, worker) in (0..).zip(&mut workers) {
            let (new, _) = rig.serve(&plan.row(row)).await;
            let old = std::mem::replace(worker, new);
            assert_eq!(rig.stop(old).await, 0, "{what}: did not drain");
        }
    }
    for load in loads {
        let (answers, failures) = load.end().await;
        assert!(failures.is_empty(), "{what}: {} of {answers} failed: {failures:?}", failures.len());
        assert!(answers > 0, "{what}");
    }
}

#[tokio::test]
async fn a_reload_loses_nothing_on_any_node() {
    for (_, node) in nodes() {
        reload_under_load(Plan::new(&node, "http.js"), 2, PrimaryConfig::default(), "/?ms=2", 2).await;
    }
}

#[tokio::test]
async fn a_reload_loses_nothing_under_nodes_permission_model() {
    for (major, node) in nodes().into_iter().filter(|(major, _)| *major >= 20) {
        let model = if major == 20 { "--experimental-permission" } else { "--permission" };
        let read = format!("--allow-fs-read={}/*", tests().display());
        let net = (major >= 26).then(|| "--allow-net".to_owned());
        let mut by_arguments = Plan::new(&node, "http.js");
        by_arguments.spec.node_args = [model.to_owned(), read.clone()].into_iter().chain(net.clone()).collect();
        let mut by_environment = Plan::new(&node, "http.js").env("NODE_OPTIONS", format!("{model} {read}"));
        by_environment.spec.node_args = net.into_iter().collect();
        for plan in [by_arguments, by_environment] {
            reload_under_load(plan, 2, PrimaryConfig::default(), "/?ms=2", 1).await;
        }
    }
}

#[tokio::test]
async fn a_reload_loses_nothing_however_connections_are_spread() {
    let Some(node) = node(24) else { return };
    for balance in [Balance::Shared, Balance::RoundRobin, Balance::Sticky] {
        reload_under_load(Plan::new(&node, "http.js").balance(balance), 2, PrimaryConfig::default(), "/?ms=2", 2).await;
    }
    let classic = PrimaryConfig { ebpf: false, ..PrimaryConfig::default() };
    reload_under_load(Plan::new(&node, "http.js"), 3, classic, "/?ms=2", 2).await;
}

#[tokio::test]
async fn a_reload_loses_nothing_with_one_row_slow_answers_and_frameworks() {
    let Some(node) = node(22) else { return };
    reload_under_load(Plan::new(&node, "http.js"), 1, PrimaryConfig::default(), "/?ms=300", 2).await;
    for app in ["express.js", "fastify.js", "koa.js"] {
        reload_under_load(Plan::new(&node, app), 2, PrimaryConfig::default(), "/", 1).await;
    }
}

#[tokio::test]
async fn a_reload_loses_nothing_of_apps_that_reuse_their_port() {
    for (_, node) in nodes().into_iter().filter(|(major, _)| *major >= 22) {
        let plan = Plan::new(&node, "http.js").env("REUSE_PORT", 1);
        reload_under_load(plan, 2, PrimaryConfig::default(), "/?ms=2", 4).await;
    }
}

#[tokio::test]
async fn a_port_that_others_reuse_is_shared_with_them() {
    let Some(node) = node(24) else { return };
    let other = TcpSocket::new_v6().unwrap();
    other.set_reuseport(true).unwrap();
    other.bind("[::]:0".parse().unwrap()).unwrap();
    let port = other.local_addr().unwrap().port();
    let other = other.listen(1).unwrap();
    let mut rig = Rig::new();
    let plan = Plan::new(&node, "http.js").env("PORT", port).env("REUSE_PORT", 1);
    let (worker, address) = rig.serve(&plan).await;
    assert_eq!(address, format!("[::]:{port}"));
    drop(other);
    Connection::tcp(port).await.unwrap().get("/", true).await.unwrap();
    assert_eq!(rig.stop(worker).await, 0);
}

#[tokio::test]
async fn a_fork_worker_on_a_socket_of_the_supervisors_is_restarted_without_loss() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let port = free_port();
        let mut plan = Plan::new(&node, "http.js").env("PORT", port).fork();
        plan.spec.listen = vec![format!("*:{port}")];
        let (mut worker, address) = rig.serve(&plan).await;
        assert_eq!(address, format!("[::]:{port}"), "Node {major}");
        let loads = [true, false].map(|keep| Load::start(port, 4, keep, "/?ms=2", THINK));
        for round in 0..4 {
            // Replaced side by side, or one after the other: meanwhile connections wait.
            if round % 2 == 0 {
                let (new, _) = rig.serve(&plan).await;
                assert_eq!(rig.stop(std::mem::replace(&mut worker, new)).await, 0, "Node {major}");
            } else {
                assert_eq!(rig.stop(worker).await, 0, "Node {major}");
                worker = rig.serve(&plan).await.0;
            }
        }
        for load in loads {
            let (answers, failures) = load.end().await;
            assert!(failures.is_empty(), "Node {major}: {} of {answers} failed: {failures:?}", failures.len());
        }
    }
}

#[tokio::test]
async fn scaling_loses_nothing() {
    let Some(node) = node(24) else { return };
    for ebpf in [true, false] {
        let mut rig = Rig::with(PrimaryConfig { ebpf, ..PrimaryConfig::default() });
        let port = free_port();
        let plan = Plan::new(&node, "http.js").env("PORT", port);
        rig.serve(&plan.row(0)).await;
        let loads = [true, false].map(|keep| Load::start(port, 6, keep, "/?ms=2", THINK));
        for round in 0..3 {
            let rows = [1 + 2 * round, 2 + 2 * round];
            let mut more = Vec::new();
            for row in rows {
                more.push((row, rig.serve(&plan.row(row)).await.0));
            }
            for (row, worker) in more {
                assert_eq!(rig.stop(worker).await, 0);
                rig.primary.remove_process(ProcessId(row));
            }
        }
        for load in loads {
            let (answers, failures) = load.end().await;
            assert!(failures.is_empty(), "ebpf {ebpf}: {} of {answers} failed: {failures:?}", failures.len());
        }
    }
}

/// An only row goes for good while one that is to serve in its stead has not asked for the address yet.
async fn pass_on_the_address(ebpf: bool, balance: Balance) {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::with(PrimaryConfig { ebpf, ..PrimaryConfig::default() });
    let port = free_port();
    let plan = Plan::new(&node, "http.js").balance(balance).env("PORT", port);
    let (old, _) = rig.serve(&plan.row(0)).await;
    let loads = [true, false].map(|keep| Load::start(port, 6, keep, "/?ms=2", THINK));
    // It begins, and listens only when it is told to.
    let new = rig.spawn(&plan.row(1).env("HELD", 1)).await;
    rig.event(NodeEvent::Online { worker: new }).await;
    assert_eq!(rig.stop(old).await, 0);
    rig.primary.remove_process(ProcessId(0));
    // Longer than the socket of a row that is gone is kept for stragglers.
    tokio::time::sleep(Duration::from_millis(6500)).await;
    rig.primary.send(new, serde_json::json!("go"));
    rig.listening(new).await;
    for load in loads {
        let (answers, failures) = load.end().await;
        assert!(failures.is_empty(), "ebpf {ebpf}, {balance:?}: {} of {answers} failed: {failures:?}", failures.len());
    }
}

#[tokio::test]
async fn whoever_begins_inherits_the_address_of_the_last_row_that_goes() {
    tokio::join!(
        pass_on_the_address(true, Balance::Auto),
        pass_on_the_address(false, Balance::Auto),
        pass_on_the_address(true, Balance::RoundRobin),
    );
}

/// Begins to drain, and waits until a client would notice: answers end connections then.
async fn begin_to_drain(rig: &Rig, worker: WorkerId, mut client: Connection<TcpStream>) {
    rig.primary.drain(worker, 20_000);
    while !client.closing {
        client.get("/", true).await.unwrap();
    }
}

#[tokio::test]
async fn requests_that_were_sent_one_behind_the_other_are_all_answered_by_who_drains() {
    for (major, node) in nodes() {
        // Answers that are given at once, and later.
        for (app, path) in [("hello.js", "/"), ("http.js", "/?ms=20")] {
            let mut rig = Rig::new();
            let port = free_port();
            let (worker, _) = rig.serve(&Plan::new(&node, app).env("PORT", port)).await;
            let mut client = Connection::tcp(port).await.unwrap();
            client.get("/", true).await.unwrap();
            begin_to_drain(&rig, worker, Connection::tcp(port).await.unwrap()).await;
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            client.send(request.repeat(5).as_bytes()).await.unwrap();
            for number in 1..=5 {
                client.answer().await.unwrap_or_else(|failed| panic!("Node {major}, {app}, {number}: {failed:?}"));
                assert_eq!(client.closing, number == 5, "Node {major}, {app}, {number}");
            }
            rig.event(NodeEvent::Drained { worker, left: 0 }).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_always_has_another_request_under_way_is_ended_in_time() {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::new();
    let port = free_port();
    let (worker, _) = rig.serve(&Plan::new(&node, "http.js").env("PORT", port)).await;
    let mut client = Connection::tcp(port).await.unwrap();
    // Before it is accepted, nobody would ever: there is no other worker here.
    client.get("/", true).await.unwrap();
    let request = b"GET /?ms=2000 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(request).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.primary.drain(worker, 20_000);
    let began = Instant::now();
    // No answer is the last one: for a second already the next request has been under way.
    while !client.closing {
        client.send(request).await.unwrap();
        client.answer().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(15), "not ended");
    }
    assert!(began.elapsed() > Duration::from_secs(4), "ended by a pause");
    drop(client);
    rig.event(NodeEvent::Drained { worker, left: 0 }).await;
}

#[tokio::test]
async fn who_writes_into_the_end_of_a_connection_meets_no_reset() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let port = free_port();
        let (worker, _) = rig.serve(&Plan::new(&node, "http.js").env("PORT", port)).await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = Connection::tcp(port).await.unwrap();
            client.get("/", true).await.unwrap();
            clients.push(client);
        }
        begin_to_drain(&rig, worker, Connection::tcp(port).await.unwrap()).await;
        for client in &mut clients {
            client.get("/", true).await.unwrap();
            assert!(client.closing, "Node {major}");
            client.answer().await.expect_err("an answer to no request");
        }
        let mut client = clients.remove(0);
        for _ in 0..20 {
            let sent = client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            sent.unwrap_or_else(|failed| panic!("Node {major}: {failed:?}"));
            tokio::time::sleep(THINK).await;
        }
        // The other client never ends its connection.
        drop(client);
        rig.event(NodeEvent::Drained { worker, left: 0 }).await;
    }
}

#[tokio::test]
async fn an_upload_that_is_answered_early_is_taken_in_before_the_connection_ends() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let port = free_port();
        let (worker, _) = rig.serve(&Plan::new(&node, "http.js").env("PORT", port)).await;
        let mut client = Connection::tcp(port).await.unwrap();
        client.get("/", true).await.unwrap();
        begin_to_drain(&rig, worker, Connection::tcp(port).await.unwrap()).await;
        // More than the kernel keeps for who does not read.
        let body = vec![b'x'; 32 << 20];
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        client.send(head.as_bytes()).await.unwrap();
        client.send(&body).await.unwrap_or_else(|failed| panic!("Node {major}: {failed:?}"));
        client.answer().await.unwrap_or_else(|failed| panic!("Node {major}: {failed:?}"));
        assert!(client.closing, "Node {major}");
        rig.event(NodeEvent::Drained { worker, left: 0 }).await;
    }
}

#[tokio::test]
async fn a_drain_ends_in_any_case() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let port = free_port();
        // A connection that stays, and one that is never used.
        let plan = Plan::new(&node, "ws.js").env("PORT", port);
        let (worker, _) = rig.serve(&plan).await;
        let _idle = Connection::tcp(port).await.unwrap();
        let answers = crate::client::ask(&node, "ws", port, 1).await;
        assert_eq!(answers.len(), 1);
        rig.primary.drain(worker, 200);
        rig.event(NodeEvent::Drained { worker, left: 1 }).await;

        // Without the agent Node's own disconnect has to do.
        let port = free_port();
        let plan = Plan::new(&node, "http.js").env("PORT", port).agent(false).app(1);
        let (worker, _) = rig.serve(&plan).await;
        assert_eq!(rig.stop(worker).await, 0, "Node {major}");

        // One that was killed, and one that nobody knows.
        let (worker, _) = rig.serve(&plan).await;
        rig.signal(worker, libc::SIGKILL);
        rig.primary.drain(worker, 20_000);
        rig.event(NodeEvent::Drained { worker, left: 0 }).await;
        let nobody = pm2rs::core::WorkerId(4711);
        rig.primary.drain(nobody, 20_000);
        rig.event(NodeEvent::Drained { worker: nobody, left: 0 }).await;
    }
}
