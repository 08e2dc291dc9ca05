//! A primary that dies, and the next one that goes on with its workers.

use std::collections::BTreeSet;

use pm2rs::core::Balance;
use pm2rs::node::{NodeEvent, PrimaryConfig, kept, lost_without_channel};
use pm2rs::sys::store::Store;
use serde_json::json;

use crate::client::{Load, THINK, pids};
use crate::rig::{Plan, Rig, free_port, node, nodes};

fn surviving(ebpf: bool) -> Rig {
    Rig::with(PrimaryConfig { ebpf, store: Store::new(None, Vec::new()).0, ..PrimaryConfig::default() })
}

#[tokio::test]
async fn nobody_who_asks_notices() {
    for (major, node) in nodes().into_iter().filter(|(major, _)| [18, 24].contains(major)) {
        for (balance, ebpf, agent) in [
            (Balance::Auto, true, true),
            (Balance::Auto, false, true),
            (Balance::Shared, true, true),
            (Balance::RoundRobin, true, true),
            (Balance::Auto, true, false),
            (Balance::RoundRobin, true, false),
        ] {
            let what = format!("Node {major}, {balance:?}, ebpf {ebpf}, agent {agent}");
            let mut rig = surviving(ebpf);
            let port = free_port();
            let plan = Plan::new(&node, "http.js").env("PORT", port).balance(balance).agent(agent);
            let (first, address) = rig.serve(&plan.row(0)).await;
            let (second, _) = rig.serve(&plan.row(1)).await;
            let mut loads = vec![Load::start(port, 4, false, "/", THINK)];
            if agent {
                // Without it a connection that is kept busy keeps its worker from ending.
                loads.push(Load::start(port, 4, true, "/?ms=2", THINK));
            }
            for _ in 0..5 {
                rig.succeed().await;
                // Said again, in case that nobody heard it.
                assert_eq!(rig.listening(first).await, address, "{what}");
                assert_eq!(rig.listening(second).await, address, "{what}");
                pids(port, 10).await;
            }
            // The successor can do with it all that the one before could: replace a worker, drain the other.
            let (third, _) = rig.serve(&plan.row(0)).await;
            assert_eq!(rig.stop(first).await, 0, "{what}");
            rig.succeed().await;
            assert_eq!(rig.stop(second).await, 0, "{what}");
            assert_eq!(pids(port, 5).await, [rig.pid(third); 5], "{what}");
            for load in loads {
                let (answers, failures) = load.end().await;
                // Without the agent, draining is not loss-free.
                assert!(answers > 20 && (failures.is_empty() || !agent), "{what}: {answers}, {failures:?}");
            }
        }
    }
}

#[tokio::test]
async fn without_their_channels_workers_serve_on_until_they_are_replaced() {
    for (major, node) in nodes().into_iter().filter(|(major, _)| [18, 26].contains(major)) {
        let cases = [
            (Balance::Auto, true, true),
            (Balance::Auto, false, true),
            (Balance::Shared, true, true),
            // Nobody may take them back who may not trace.
            (Balance::Auto, true, false),
        ];
        // The oldest shows that its channel ends as the newest one's.
        for (balance, ebpf, sockets) in cases.into_iter().take(if major == 18 { 1 } else { cases.len() }) {
            let what = format!("Node {major}, {balance:?}, ebpf {ebpf}, sockets {sockets}");
            let mut rig = surviving(ebpf);
            let port = free_port();
            let plan = Plan::new(&node, "http.js").env("PORT", port).balance(balance);
            let (first, address) = rig.serve(&plan.row(0)).await;
            let (second, _) = rig.serve(&plan.row(1)).await;
            let loads = [Load::start(port, 4, true, "/?ms=2", THINK), Load::start(port, 4, false, "/", THINK)];
            rig.lose_all(sockets).await;
            assert_eq!(rig.listening(first).await, address, "{what}");
            let both = BTreeSet::from([rig.pid(first), rig.pid(second)]);
            assert_eq!(BTreeSet::from_iter(pids(port, 40).await), both, "{what}");
            // They get the address, and the requests in hand are finished though nobody can ask for that.
            let (third, _) = rig.serve(&plan.row(0)).await;
            assert_eq!(rig.stop(first).await, 0, "{what}");
            let (fourth, _) = rig.serve(&plan.row(1)).await;
            assert_eq!(rig.stop(second).await, 0, "{what}");
            let both = BTreeSet::from([rig.pid(third), rig.pid(fourth)]);
            assert_eq!(BTreeSet::from_iter(pids(port, 40).await), both, "{what}");
            rig.succeed().await;
            for load in loads {
                let (answers, failures) = load.end().await;
                // What waited in a socket that is lost is lost.
                assert!(answers > 20 && (failures.is_empty() || !sockets), "{what}: {answers}, {failures:?}");
            }
        }
    }
}

#[tokio::test]
async fn for_whom_the_supervisor_accepts_is_lost_without_a_channel() {
    let Some(node) = node(24) else { return };
    let store = Store::new(None, Vec::new()).0;
    let mut rig = Rig::with(PrimaryConfig { store: store.clone(), ..PrimaryConfig::default() });
    let plan = |balance| Plan::new(&node, "http.js").env("PORT", free_port()).balance(balance);
    rig.serve(&plan(Balance::Auto)).await;
    let (lost, _) = rig.serve(&plan(Balance::Sticky).app(1)).await;
    let state = serde_json::from_slice(&kept(&store).unwrap()).unwrap();
    assert_eq!(lost_without_channel(&state).unwrap(), BTreeSet::from([lost]));
}

#[tokio::test]
async fn what_workers_say_meanwhile_is_heard() {
    let Some(node) = node(24) else { return };
    let mut rig = surviving(true);
    let worker = rig.spawn(&Plan::new(&node, "messages.js")).await;
    assert_eq!(rig.message(worker).await, "ready");
    // Longer than what the socket holds, so that the first one takes the beginning of it off.
    let long = "\u{e4}".repeat(300_000);
    rig.primary.send(worker, json!(long));
    for _ in 0..20 {
        rig.succeed().await;
    }
    assert_eq!(rig.message(worker).await["echo"], json!(long));
    rig.primary.send(worker, json!("short"));
    assert_eq!(rig.message(worker).await, json!({ "echo": "short" }));
    assert!(!rig.passed.iter().any(|event| matches!(event, NodeEvent::Misbehaved { .. })), "{:?}", rig.passed);
}
