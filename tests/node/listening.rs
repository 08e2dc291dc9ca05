//! Who gets which address, and what the others are told.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use pm2rs::core::{AppId, Balance, ProcessId};
use pm2rs::node::{NodeEvent, PrimaryConfig};
use pm2rs::sys::identity::Identity;
use pm2rs::sys::socket::{self, BindOptions, Kind};
use pm2rs::sys::store::Store;
use serde_json::{Value, json};

use crate::client::{Connection, Load, THINK, get, pids};
use crate::rig::{DEADLINE, Plan, Rig, free_port, node, nodes};

/// What comes of listening with these options, one after the other in one worker.
async fn outcomes(rig: &mut Rig, plan: &Plan, listen: Value) -> Vec<Value> {
    let count = listen.as_array().unwrap().len();
    let worker = rig.spawn(&plan.clone().env("LISTEN", listen)).await;
    let mut outcomes = Vec::new();
    for _ in 0..count {
        outcomes.push(rig.message(worker).await["outcome"].clone());
    }
    outcomes
}

/// Waits until anybody can have this address. A child that another test starts has our sockets, too, until it executes its
/// program (fork(2), execve(2)).
async fn until_free(host: &str, port: u16) {
    let deadline = std::time::Instant::now() + DEADLINE;
    while let Err(error) = std::net::TcpListener::bind((host, port)) {
        assert!(std::time::Instant::now() < deadline, "port {port} is kept: {error}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn errors_reach_the_app_as_node_reports_them() {
    for (major, node) in nodes() {
        for balance in [Balance::Auto, Balance::Shared, Balance::RoundRobin] {
            let mut rig = Rig::new();
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let theirs = taken.local_addr().unwrap().port();
            let ours = free_port();
            let plan = Plan::new(&node, "errors.js").balance(balance);
            let listen = json!([
                { "port": theirs, "host": "127.0.0.1" },
                { "port": 0, "host": "192.0.2.1" },
                { "path": "/nonexistent/socket" },
                { "fd": 77 },
                { "port": ours, "host": "127.0.0.1" },
                { "port": ours, "host": "127.0.0.1" },
            ]);
            let got = outcomes(&mut rig, &plan, listen).await;
            let bound = json!({ "address": "127.0.0.1", "family": "IPv4", "port": ours });
            let expected = [
                json!("bind EADDRINUSE"),
                json!("bind EADDRNOTAVAIL"),
                json!("bind ENOENT"),
                json!("bind EBADF"),
                bound,
                json!("bind EADDRINUSE"),
            ];
            // An error for listen({ fd }) has no address to name, and Node 18 and 20 call it by another name.
            assert_eq!(got[..3], expected[..3], "Node {major}, {balance:?}");
            assert!(got[3].as_str().unwrap().ends_with("EBADF"), "Node {major}, {balance:?}: {}", got[3]);
            assert_eq!(got[4..], expected[4..], "Node {major}, {balance:?}");
        }
    }
}

/// `green` beside `blue` on one port, as PM2's users change from one to the other.
#[tokio::test]
async fn apps_of_one_user_share_an_address() {
    let Some(node) = node(24) else { return };
    for (first, second) in
        [(Balance::Auto, Balance::Auto), (Balance::Shared, Balance::Auto), (Balance::RoundRobin, Balance::Auto)]
    {
        let what = format!("{first:?}, {second:?}");
        let mut rig = Rig::with(PrimaryConfig { store: Store::new(None, Vec::new()).0, ..PrimaryConfig::default() });
        let port = free_port();
        let plan = Plan::new(&node, "http.js").env("PORT", port);
        let (blue, address) = rig.serve(&plan.clone().balance(first).row(0)).await;
        let (green, _) = rig.serve(&plan.clone().balance(second).app(1).row(1)).await;
        let both = BTreeSet::from([rig.pid(blue), rig.pid(green)]);
        assert_eq!(BTreeSet::from_iter(pids(port, 40).await), both, "{what}");
        // The same port of another address is another matter.
        let other = Plan::new(&node, "errors.js").app(2);
        let got = outcomes(&mut rig, &other, json!([{ "port": port, "host": "127.0.0.1" }])).await;
        assert_eq!(got, ["bind EADDRINUSE"], "{what}");

        let load = Load::start(port, 4, true, "/?ms=2", THINK);
        rig.succeed().await;
        rig.stop(blue).await;
        rig.primary.remove_process(ProcessId(0));
        rig.primary.remove_app(AppId(0));
        assert_eq!(pids(port, 10).await, [rig.pid(green); 10], "{what}");
        let (answers, failures) = load.end().await;
        assert!(answers > 0 && failures.is_empty(), "{what}: {failures:?}");
        let listeners = rig.primary.listeners(AppId(1)).await;
        assert_eq!((&listeners[0].address, &listeners[0].workers), (&address, &vec![green]), "{what}");
        rig.stop(green).await;
        rig.primary.remove_app(AppId(1));
        assert_eq!(rig.primary.listeners(AppId(1)).await, [], "{what}");
        until_free("::", port).await;
    }
}

#[tokio::test]
async fn a_server_can_be_closed_and_opened_again() {
    for (major, node) in nodes() {
        for balance in [Balance::Auto, Balance::RoundRobin] {
            let mut rig = Rig::new();
            let port = free_port();
            let options = json!({ "port": port, "host": "127.0.0.1", "close": true });
            let plan = Plan::new(&node, "errors.js").balance(balance);
            let got = outcomes(&mut rig, &plan, json!([options, options, options])).await;
            assert!(got.iter().all(|outcome| outcome["port"] == port), "Node {major}: {got:?}");
            // Closed for good while the worker lives on: the address becomes free for anybody.
            until_free("127.0.0.1", port).await;
        }
    }
}

/// As programs do that look for a free port, and as a release does that listens on other addresses than the one before.
#[tokio::test]
async fn a_port_that_was_closed_is_free_for_its_other_addresses() {
    for (major, node) in nodes() {
        for balance in [Balance::Auto, Balance::RoundRobin] {
            // What is kept there has duplicates of the sockets.
            let store = Store::new(None, Vec::new()).0;
            let mut rig = Rig::with(PrimaryConfig { max_listeners: 3, store, ..PrimaryConfig::default() });
            let what = format!("Node {major}, {balance:?}");
            let port = free_port();
            let plan = Plan::new(&node, "errors.js").balance(balance);
            let hosts = [json!(null), json!("0.0.0.0"), json!("127.0.0.1"), json!("::1"), json!("127.0.0.2")];
            let mut listen: Vec<_> =
                hosts.iter().map(|host| json!({ "port": port, "host": host, "close": true })).collect();
            listen.push(json!({ "port": port }));
            let got = outcomes(&mut rig, &plan, json!(listen)).await;
            assert!(got.iter().all(|outcome| outcome["port"] == port), "{what}: {got:?}");

            let port = free_port();
            let (first, _) = rig.serve(&plan.row(1).env("LISTEN", json!([{ "port": port }]))).await;
            // Not as long as it is in use.
            let other = json!([{ "port": port, "host": "127.0.0.1" }]);
            assert_eq!(outcomes(&mut rig, &plan.row(2), other.clone()).await, ["bind EADDRINUSE"], "{what}");
            rig.stop(first).await;
            assert_eq!(outcomes(&mut rig, &plan.row(1), other).await[0]["port"], port, "{what}");
        }
    }
}

#[tokio::test]
async fn udp_sockets_that_let_others_have_their_address_have_it_together() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let socket = |reuse: bool, port: u16| json!({ "udp": { "type": "udp4", "reuseAddr": reuse }, "port": port });
        let (ours, alone) = (free_port(), free_port());
        let plan = Plan::new(&node, "errors.js");
        let listen = json!([socket(true, ours), socket(true, ours), socket(false, alone), socket(false, alone)]);
        for row in 0..2 {
            let got = outcomes(&mut rig, &plan.row(row), listen.clone()).await;
            let ports: Vec<_> = got[..3].iter().map(|outcome| outcome["port"].clone()).collect();
            assert_eq!(ports, [ours, ours, alone], "Node {major}: {got:?}");
            assert_eq!(got[3], "bind EADDRINUSE", "Node {major}");
        }
        // The first is both workers' first, the second both's second.
        let listeners = rig.primary.listeners(AppId(0)).await;
        assert_eq!(listeners.len(), 3, "Node {major}: {listeners:?}");
        assert!(listeners.iter().all(|listener| listener.workers.len() == 2), "Node {major}: {listeners:?}");
    }
}

#[tokio::test]
async fn a_closed_port_is_kept_for_a_worker_that_has_only_just_begun() {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::new();
    let (port, other) = (free_port(), free_port());
    let slow = rig.spawn(&Plan::new(&node, "http.js").env("PORT", port).env("HELD", 1).row(1)).await;
    rig.event(NodeEvent::Online { worker: slow }).await;
    let any = json!({ "port": 0 });
    let plan = Plan::new(&node, "errors.js");
    outcomes(&mut rig, &plan, json!([{ "port": port, "close": true }, any])).await;
    let mut waiting = Connection::tcp(port).await.unwrap();
    // What another app closes later is given up when its time is over.
    outcomes(&mut rig, &plan.app(1).row(2), json!([{ "port": other, "close": true }, any])).await;
    until_free("::", other).await;
    rig.primary.send(slow, json!("listen"));
    waiting.get("/", false).await.unwrap();
}

#[tokio::test]
async fn a_closed_port_is_not_kept_for_ever_for_a_worker_that_never_listens() {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::new();
    let port = free_port();
    let idle = rig.spawn(&Plan::new(&node, "http.js").env("PORT", port).env("HELD", 1).row(1)).await;
    rig.event(NodeEvent::Online { worker: idle }).await;
    outcomes(&mut rig, &Plan::new(&node, "errors.js"), json!([{ "port": port, "close": true }])).await;
    until_free("::", port).await;
}

#[tokio::test]
async fn ports_of_a_row_that_is_removed_are_freed() {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::new();
    let port = free_port();
    let plan = Plan::new(&node, "http.js").env("PORT", port);
    let (first, _) = rig.serve(&plan.row(0)).await;
    let (second, _) = rig.serve(&plan.row(1)).await;
    let listeners = rig.primary.listeners(AppId(0)).await;
    assert_eq!(listeners.len(), 1);
    assert_eq!(
        (listeners[0].address.as_str(), &listeners[0].workers),
        (&*format!("[::]:{port}"), &vec![first, second])
    );
    rig.stop(first).await;
    rig.primary.remove_process(ProcessId(0));
    assert_eq!(pids(port, 4).await, [rig.pid(second); 4]);
    // Between workers the port is kept: who connects waits for the next.
    rig.stop(second).await;
    let mut waiting = Connection::tcp(port).await.unwrap();
    rig.serve(&plan.row(1)).await;
    waiting.get("/", false).await.unwrap();
    rig.primary.remove_process(ProcessId(1));
    assert_eq!(rig.primary.listeners(AppId(0)).await, []);
}

#[tokio::test]
async fn an_ordinary_users_worker_binds_what_that_user_may() {
    let Some(node) = node(24) else { return };
    let own = Identity::own().unwrap();
    if own.uid != 0 {
        eprintln!("SKIPPED: only root can start workers of others");
        return;
    }
    let nobody = Identity::by_name("nobody").unwrap();
    let mut rig = Rig::new();
    let mut plan = Plan::new(&node, "errors.js");
    plan.identity = Some(nobody.clone());
    plan.spec.cwd = "/".into();
    // What it executes and reads must be reachable for it.
    let readable = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(readable.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    plan.spec.script = readable.path().join("errors.js");
    std::fs::copy(crate::rig::tests().join("apps/errors.js"), &plan.spec.script).unwrap();
    plan.spec.interpreter = readable.path().join("node").to_string_lossy().into_owned();
    std::fs::copy(&node, &plan.spec.interpreter).unwrap();

    let locked = readable.path().join("s");
    let open = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(open.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mine = open.path().join("s");
    let port = free_port();
    let roots = free_port();
    rig.serve(&Plan::new(&node, "http.js").env("PORT", roots).app(1)).await;
    let listen = json!([
        { "port": 443, "host": "127.0.0.1" },
        { "path": locked },
        // As an app of root's has it, which shares it with apps that run as root only.
        { "port": roots },
        { "path": mine },
        { "port": port, "host": "127.0.0.1" },
    ]);
    let got = outcomes(&mut rig, &plan, listen).await;
    assert_eq!(got[..3], ["bind EACCES", "bind EACCES", "bind EADDRINUSE"]);
    assert_eq!(got[3], mine.to_str().unwrap());
    assert_eq!(got[4]["port"], port);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&mine).unwrap()), nobody.uid);

    // From systemd it may have any port, where the name allows it.
    let low = socket::bind_inet(Kind::Stream, "127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    socket::listen(&low, 8).unwrap();
    let socket::Address::Inet(address) = socket::local_address(&low).unwrap() else { panic!() };
    let ask = json!([{ "port": address.port(), "host": "127.0.0.1" }]);
    rig.primary.add_inherited("root@web".into(), low.try_clone().unwrap());
    assert_eq!(outcomes(&mut rig, &plan, ask.clone()).await, ["bind EADDRINUSE"]);
    rig.primary.add_inherited("nobody@web".into(), low);
    assert_eq!(outcomes(&mut rig, &plan, ask).await[0]["port"], address.port());
}

#[tokio::test]
async fn sockets_from_systemd_serve_whoever_asks_for_their_address() {
    for (major, node) in nodes() {
        for balance in [Balance::Auto, Balance::RoundRobin] {
            let mut rig = Rig::new();
            let inherited = std::net::TcpListener::bind("[::]:0").unwrap();
            let port = inherited.local_addr().unwrap().port();
            assert!(inherited.as_raw_fd() > 2);
            rig.primary.add_inherited("web".into(), inherited.into());
            // A connection from before there was any worker.
            let mut early = Connection::tcp(port).await.unwrap();
            let plan = Plan::new(&node, "http.js").env("PORT", port).balance(balance);
            rig.serve(&plan.row(0)).await;
            early.get("/", true).await.unwrap();
            rig.serve(&plan.row(1)).await;
            let listeners = rig.primary.listeners(AppId(0)).await;
            assert!(listeners.len() == 1 && listeners[0].inherited, "Node {major}: {listeners:?}");
            // By number, as LISTEN_FDS counts; it is taken for the app that has it.
            let got = outcomes(&mut rig, &Plan::new(&node, "errors.js").app(1), json!([{ "fd": 3 }])).await;
            assert!(got[0].as_str().unwrap().ends_with("EBADF"), "Node {major}: {got:?}");
            rig.primary.remove_app(AppId(0));
            let got = outcomes(&mut rig, &Plan::new(&node, "errors.js").app(1), json!([{ "fd": 3 }])).await;
            assert_eq!(got[0]["port"], port, "Node {major}");
        }
    }
}

#[tokio::test]
async fn an_apps_sockets_are_bounded() {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::with(PrimaryConfig { max_listeners: 3, ..PrimaryConfig::default() });
    let any = json!({ "port": 0, "host": "127.0.0.1" });
    let got = outcomes(&mut rig, &Plan::new(&node, "errors.js"), json!([any, any, any, any])).await;
    assert!(got[..3].iter().all(|outcome| outcome["port"].as_u64() > Some(0)), "{got:?}");
    assert_eq!(got[3], "bind EMFILE");
}

#[tokio::test]
async fn an_app_may_have_a_socket_for_each_peer() {
    let Some(node) = node(24) else { return };
    let mut rig = Rig::new();
    let listen: Vec<_> = (0..200).map(|_| json!({ "udp": { "type": "udp4" }, "port": 0 })).collect();
    for row in 0..2 {
        let got = outcomes(&mut rig, &Plan::new(&node, "errors.js").row(row), json!(listen)).await;
        assert!(got.iter().all(|outcome| outcome["port"].as_u64() > Some(0)), "{got:?}");
    }
}

#[tokio::test]
async fn sockets_are_opened_for_programs_that_are_not_node() {
    let rig = Rig::new();
    let who = Identity::own().unwrap();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let first = rig.primary.open(AppId(0), ProcessId(0), &who, &address).await.unwrap();
    let again = rig.primary.open(AppId(0), ProcessId(0), &who, &address).await.unwrap();
    assert_eq!(socket::local_address(&first).unwrap(), socket::local_address(&again).unwrap());
    let error = rig.primary.open(AppId(1), ProcessId(1), &who, &address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on `{address}`: address already in use"));
    let error = rig.primary.open(AppId(1), ProcessId(1), &who, "nonsense").await.unwrap_err();
    assert_eq!(error.to_string(), "cannot listen on `nonsense`: it is no port, `ADDRESS:PORT` or absolute path");
    drop((first, again));
    drop(Connection::tcp(port).await.unwrap());
    rig.primary.remove_app(AppId(0));
    rig.primary.open(AppId(1), ProcessId(1), &who, &address).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s").to_string_lossy().into_owned();
    rig.primary.open(AppId(0), ProcessId(0), &who, &path).await.unwrap();
    Connection::unix(std::path::Path::new(&path)).await.unwrap();
}

#[tokio::test]
async fn fork_workers_listen_by_themselves_and_say_so() {
    for (major, node) in nodes() {
        let mut rig = Rig::new();
        let port = free_port();
        let plan = Plan::new(&node, "http.js").env("PORT", port).fork();
        let (worker, address) = rig.serve(&plan).await;
        assert_eq!(address, format!("[::]:{port}"), "Node {major}");
        rig.event(NodeEvent::Online { worker }).await;
        assert_eq!(get(port, "/").await.unwrap()["worker"], 0);
        assert_eq!(rig.primary.listeners(AppId(0)).await, []);
        assert_eq!(rig.stop(worker).await, 0, "Node {major}");
    }
}
