//! Workers that die, hang or break the rules, and everybody else.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pm2rs::core::{AppId, Balance, ProcessId, WorkerId};
use pm2rs::node::{Attachment, NodeEvent, PrimaryConfig};
use pm2rs::sys::identity::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Connection, Load, THINK, get, pids};
use crate::rig::{DEADLINE, Plan, Rig, free_port, node, nodes};

#[tokio::test]
async fn who_connects_while_a_worker_dies_is_served_by_the_others() {
    for (major, node) in nodes() {
        for (balance, ebpf) in [(Balance::Auto, true), (Balance::Auto, false), (Balance::RoundRobin, true)] {
            let what = format!("Node {major}, {balance:?}, ebpf {ebpf}");
            let mut rig = Rig::with(PrimaryConfig { ebpf, ..PrimaryConfig::default() });
            let port = free_port();
            let plan = Plan::new(&node, "http.js").env("PORT", port).balance(balance);
            let (first, _) = rig.serve(&plan.row(0)).await;
            let (second, _) = rig.serve(&plan.row(1)).await;
            // Stopped, it can accept nothing; what the kernel queues for it must be rescued when it is dead.
            rig.signal(first, libc::SIGSTOP);
            let mut waiting = Vec::new();
            for _ in 0..20 {
                waiting.push(Connection::tcp(port).await.unwrap());
            }
            rig.signal(first, libc::SIGKILL);
            rig.ended(first).await;
            for mut connection in waiting {
                connection.get("/", false).await.unwrap();
            }
            assert_eq!(pids(port, 10).await, [rig.pid(second); 10], "{what}");
            let (third, _) = rig.serve(&plan.row(0)).await;
            let answered = pids(port, 20).await;
            assert!(answered.contains(&rig.pid(third)), "{what}");
        }
    }
}

/// A worker of hang.js in a loop that lasts until this ends it.
struct Hang {
    folder: tempfile::TempDir,
    stream: TcpStream,
}

impl Hang {
    /// Returns once it is in the loop: what connects from now on, it cannot accept.
    async fn begin(port: u16) -> Hang {
        let folder = tempfile::tempdir().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let path = folder.path().join("enough");
        let request = format!("GET /hang={} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path.display());
        stream.write_all(request.as_bytes()).await.unwrap();
        timeout(DEADLINE, stream.read_exact(&mut [0; 16])).await.expect("no head in time").unwrap();
        Hang { folder, stream }
    }

    /// What hung answers.
    async fn end(mut self) {
        std::fs::write(self.folder.path().join("enough"), "").unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, self.stream.read_to_string(&mut answer)).await.expect("no answer in time").unwrap();
        assert!(answer.contains("pid"), "{answer}");
    }
}

#[tokio::test]
async fn an_endless_loop_costs_only_what_it_had_accepted() {
    for (major, node) in nodes() {
        for (balance, agent) in [(Balance::Auto, true), (Balance::Auto, false), (Balance::RoundRobin, true)] {
            let what = format!("Node {major}, {balance:?}, agent {agent}");
            let mut rig = Rig::with(PrimaryConfig { hang_ms: 300, ..PrimaryConfig::default() });
            let port = free_port();
            let plan = Plan::new(&node, "hang.js").env("PORT", port).balance(balance).agent(agent);
            let (first, _) = rig.serve(&plan.row(0)).await;
            let (second, _) = rig.serve(&plan.row(1)).await;
            let hang = Hang::begin(port).await;
            let mut waiting = tokio::task::JoinSet::new();
            for _ in 0..60 {
                waiting.spawn(async move { get(port, "/").await.unwrap() });
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // What round robin had sent to it, unanswered, cannot be taken back.
            let lost = usize::from(balance == Balance::RoundRobin);
            while waiting.len() > lost {
                waiting.join_next().await.unwrap().unwrap();
            }
            let hung = rig
                .wait("a hung worker", |event| match event {
                    NodeEvent::Hung { worker, since_ms } => Some((*worker, *since_ms)),
                    _ => None,
                })
                .await;
            assert!(hung.0 == first || hung.0 == second, "{what}");
            assert!(hung.1 >= 300, "{what}: {hung:?}");
            hang.end().await;
            waiting.join_all().await;
            rig.event(NodeEvent::Responsive { worker: hung.0 }).await;
            let answered = pids(port, 20).await;
            assert!(answered.contains(&rig.pid(hung.0)), "{what}");
        }
    }
}

#[tokio::test]
async fn a_lone_worker_that_hangs_is_seen_and_its_queue_waits_for_it() {
    let Some(node) = node(24) else { return };
    for agent in [true, false] {
        let mut rig = Rig::with(PrimaryConfig { hang_ms: 300, ..PrimaryConfig::default() });
        let port = free_port();
        let (worker, _) = rig.serve(&Plan::new(&node, "hang.js").env("PORT", port).agent(agent)).await;
        let hang = Hang::begin(port).await;
        let waiting = tokio::spawn(get(port, "/"));
        rig.wait("the worker to be seen hanging", |event| match event {
            NodeEvent::Hung { worker: w, .. } if *w == worker => Some(()),
            _ => None,
        })
        .await;
        hang.end().await;
        rig.event(NodeEvent::Responsive { worker }).await;
        waiting.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn connections_are_dealt_evenly() {
    let Some(node) = node(24) else { return };
    for balance in [Balance::Auto, Balance::RoundRobin] {
        let mut rig = Rig::new();
        let port = free_port();
        let plan = Plan::new(&node, "http.js").env("PORT", port).balance(balance);
        for row in 0..4 {
            rig.serve(&plan.row(row)).await;
        }
        let spread = rig.primary.listeners(AppId(0)).await[0].balance;
        if spread == "reuseport+cbpf" {
            eprintln!("SKIPPED: no eBPF here, and chance is not even");
            continue;
        }
        // A worker that a busy machine keeps from running for too long loses what waits for it to the others, rightly;
        // undisturbed, the kernel deals exactly, and the supervisor to those that are free.
        let mut counts = Vec::new();
        for _ in 0..10 {
            let count = deal(port).await;
            if balance == Balance::Auto && count == [16; 4] || balance != Balance::Auto && count.len() == 4 {
                counts.clear();
                break;
            }
            counts.push(count);
        }
        assert!(counts.is_empty(), "{spread}: {counts:?}");
    }
}

/// How many of 64 kept-alive connections each worker gets.
async fn deal(port: u16) -> Vec<usize> {
    let mut connections = Vec::new();
    for _ in 0..64 {
        connections.push(Connection::tcp(port).await.unwrap());
    }
    let mut count = BTreeMap::new();
    for connection in &mut connections {
        let answer: serde_json::Value = serde_json::from_str(&connection.get("/", true).await.unwrap()).unwrap();
        *count.entry(answer["pid"].as_u64()).or_insert(0) += 1;
    }
    count.into_values().collect()
}

#[tokio::test]
async fn a_client_always_meets_the_same_worker_when_that_is_wanted() {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::new();
    let port = free_port();
    let plan = Plan::new(&node, "http.js").env("PORT", port).balance(Balance::Sticky);
    let mut workers = BTreeMap::new();
    for row in 0..3 {
        let worker = rig.serve(&plan.row(row)).await.0;
        workers.insert(rig.pid(worker), (row, worker));
    }
    let met = pids(port, 20).await;
    assert_eq!(met, vec![met[0]; 20]);
    // Its row's next worker is as good; when the row is gone, somebody else is, again always the same.
    let (row, worker) = workers[&met[0]];
    let (next, _) = rig.serve(&plan.row(row)).await;
    rig.stop(worker).await;
    assert_eq!(pids(port, 5).await, [rig.pid(next); 5]);
    rig.stop(next).await;
    rig.primary.remove_process(ProcessId(row));
    let met = pids(port, 20).await;
    assert_eq!(met, vec![met[0]; 20]);
}

#[tokio::test]
async fn a_crash_under_load_fails_only_what_was_in_the_workers_hands() {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::new();
    let port = free_port();
    let plan = Plan::new(&node, "http.js").env("PORT", port);
    let (mut first, _) = rig.serve(&plan.row(0)).await;
    rig.serve(&plan.row(1)).await;
    let clients = 8;
    let load = Load::start(port, clients, false, "/?ms=2", THINK);
    let crashes = 3;
    for _ in 0..crashes {
        tokio::time::sleep(Duration::from_millis(200)).await;
        rig.signal(first, libc::SIGKILL);
        rig.ended(first).await;
        first = rig.serve(&plan.row(0)).await.0;
    }
    let (answers, failures) = load.end().await;
    assert!(failures.len() <= clients * crashes, "{} of {answers} failed: {failures:?}", failures.len());
    let in_hand = |text: &str| text.starts_with("connection closed") || text.starts_with("read");
    assert!(failures.iter().all(|failed| in_hand(&failed.0)), "{failures:?}");
}

/// A worker that is this test.
fn pretend(rig: &Rig, worker: u32) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    rig.primary.attach(Attachment {
        worker: WorkerId(worker),
        process: ProcessId(0),
        app: AppId(0),
        instance: 0,
        identity: Identity::own().unwrap(),
        cluster: true,
        balance: Balance::Auto,
        admitted: true,
        agent: false,
        channel: ours.into(),
    });
    theirs
}

#[tokio::test]
async fn who_breaks_the_rules_is_cut_off() {
    let long = format!(r#"{{"cmd":"NODE_CLUSTER","act":"online","x":"{}"}}"#, "x".repeat(70_000));
    for (lines, reason) in [
        (long + "\n", "sent an internal message of more than 64 KiB"),
        ("nonsense\n".repeat(100), "sent 100 lines that are no messages"),
    ] {
        let mut rig = Rig::new();
        let mut channel = pretend(&rig, 1);
        let writer = std::thread::spawn(move || channel.write_all(lines.as_bytes()).map(|()| channel));
        let misbehaved = NodeEvent::Misbehaved { worker: WorkerId(1), reason: reason.into() };
        rig.event(misbehaved).await;
        let _ = writer.join().unwrap();
    }
}

#[tokio::test]
async fn made_up_keys_and_numbers_do_no_harm() {
    let mut rig = Rig::new();
    let mut channel = pretend(&rig, 1);
    for line in [
        r#"{"cmd":"NODE_CLUSTER","act":"close","key":"99","seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"close","key":"-1","seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":12345,"accepted":false,"seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"listening","port":1,"seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"queryServer","port":70000,"seq":1}"#,
        r#"{"cmd":"NODE_HANDLE_NACK"}"#,
        r#"{"cmd":"NODE_HANDLE_ACK"}"#,
        r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"without a handle"}"#,
        r#"{"cmd":"NODE_PM2RS","act":"drained","left":7}"#,
        r#"{"cmd":"NODE_PM2RS","act":"pong"}"#,
        r#""still here""#,
    ] {
        writeln!(channel, "{line}").unwrap();
    }
    assert_eq!(rig.message(WorkerId(1)).await, "still here");
    assert!(rig.passed.is_empty(), "{:?}", rig.passed);
}

#[tokio::test]
async fn a_flood_of_messages_is_taken_at_the_daemons_pace() {
    let mut rig = Rig::new();
    let mut flooding = pretend(&rig, 1);
    let mut quiet = pretend(&rig, 2);
    let writer = std::thread::spawn(move || (0..50_000).try_for_each(|i| writeln!(flooding, "{i}")));
    writeln!(quiet, "\"me too\"").unwrap();
    // The quiet one is heard long before the other has finished.
    let mut heard = 0;
    let before = rig
        .wait("both", |event| match event {
            NodeEvent::Message { worker: WorkerId(2), .. } => Some(heard),
            _ => {
                heard += 1;
                None
            }
        })
        .await;
    assert!(before < 40_000, "{before}");
    for i in 0..50_000 {
        assert_eq!(rig.message(WorkerId(1)).await, i);
    }
    writer.join().unwrap().unwrap();
}
