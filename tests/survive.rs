//! The daemon dies and its workers do not notice: the real binary, real Node, and a stand-in for systemd's fd store.
#![allow(clippy::unwrap_used)]

mod cli;
mod clients;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cli::{Call, pm2rs};
use clients::{COUNTER, DEADLINE, Load, SERVER, ask, assert_complete, free_port, identities, online, until};
use pm2rs::sys::spawn::{Child, Spawn};
use pm2rs::sys::{pidfd, socket};
use serde_json::Value;

/// What systemd does for its service: keeps descriptors, and gives them to the next start.
struct Manager {
    home: tempfile::TempDir,
    store: Arc<Mutex<Vec<(String, OwnedFd)>>>,
    ready: Arc<AtomicBool>,
    daemon: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

impl Manager {
    fn new() -> Manager {
        let home = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(home.path().join("notify-socket")).unwrap();
        let (store, ready) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (held, told) = (Arc::clone(&store), Arc::clone(&ready));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // Waits for the next one without taking it.
                rustix::net::recv(&notify, &mut [0_u8][..], rustix::net::RecvFlags::PEEK).unwrap();
                let mut got = socket::receive(&notify, &mut buffer, false).unwrap();
                let text = String::from_utf8(buffer[..got.bytes].to_vec()).unwrap();
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
                let mut store: std::sync::MutexGuard<'_, Vec<(String, OwnedFd)>> = held.lock().unwrap();
                if text.contains("FDSTORE=1") {
                    store.push((name.to_owned(), got.fds.pop().unwrap()));
                } else if text.contains("FDSTOREREMOVE=1") {
                    store.retain(|(other, _)| other != name);
                } else if text.contains("READY=1") {
                    told.store(true, Ordering::SeqCst);
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut manager = Manager { home, store, ready, daemon: None, runtime };
        manager.start();
        manager
    }

    fn start(&mut self) {
        let home = self.home.path().to_str().unwrap();
        let mut spawn = Spawn::new(env!("CARGO_BIN_EXE_pm2rs"), ["--home", home, "daemon"]);
        let variable = |name: &str, value: String| (name.into(), value.into());
        spawn.env = vec![
            variable("PATH", std::env::var("PATH").unwrap()),
            variable("HOME", home.to_owned()),
            variable("NOTIFY_SOCKET", format!("{home}/notify-socket")),
        ];
        let log = std::fs::File::options().create(true).append(true).open(self.home.path().join("stderr")).unwrap();
        spawn.fds = vec![(log.into(), 2)];
        let store = self.store.lock().unwrap();
        let names: Vec<_> = store.iter().map(|(name, _)| name.clone()).collect();
        if !names.is_empty() {
            spawn.env.push(variable("LISTEN_FDS", names.len().to_string()));
            spawn.env.push(variable("LISTEN_FDNAMES", names.join(":")));
            spawn.pid_vars = vec!["LISTEN_PID".into()];
        }
        for ((_, fd), number) in store.iter().zip(3..) {
            spawn.fds.push((fd.try_clone().unwrap(), number));
        }
        drop(store);
        self.ready.store(false, Ordering::SeqCst);
        self.daemon = Some(self.runtime.block_on(async { spawn.start().unwrap().release(DEADLINE).await.unwrap() }));
        until("the daemon to be ready", || self.ready.load(Ordering::SeqCst));
    }

    /// SIGKILL, and a new one.
    fn kill_and_restart(&mut self) {
        let daemon = self.daemon.take().unwrap();
        pidfd::send_signal(daemon.pidfd.as_fd(), libc::SIGKILL).unwrap();
        self.runtime
            .block_on(async { tokio::time::timeout(DEADLINE, pidfd::wait(daemon.pidfd.as_fd())).await })
            .unwrap()
            .unwrap();
        self.start();
    }

    fn call(&self, line: &str) -> Call {
        pm2rs(line).home(self.home.path()).cwd(self.home.path())
    }

    fn jlist(&self) -> Vec<Value> {
        serde_json::from_str(&self.call("jlist").ok().stdout()).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.home.path().join(name), text).unwrap();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.call("kill").run();
        if std::thread::panicking() {
            for log in ["stderr", "pm2.log"] {
                eprintln!("-- {log}\n{}", std::fs::read_to_string(self.home.path().join(log)).unwrap_or_default());
            }
        }
    }
}

#[test]
fn a_killed_daemon_is_not_missed() {
    let mut manager = Manager::new();
    manager.write("server.js", SERVER);
    manager.write("counter.js", COUNTER);
    let port = free_port();
    manager.call("start server.js -i 2 --name web --listen-timeout 60000").env("PORT", &port.to_string()).ok();
    manager.call("start counter.js").ok();
    until("all to be online", || online(&manager.jlist()) == 3 && ask(port).is_ok());
    let before = identities(&manager.jlist());
    let load = Load::start(port);
    for _ in 0..10 {
        manager.kill_and_restart();
        assert_eq!(identities(&manager.jlist()), before);
        ask(port).unwrap();
    }
    let (answers, failures) = load.end();
    println!("{answers} answers, {} failures", failures.len());
    assert!(answers > 50 && failures.is_empty(), "{answers} answers, {failures:?}");

    // The new daemon is in charge: it sees a worker die and replaces it, reloads, and stops.
    let victim = before[0].1;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(victim).unwrap()), nix::sys::signal::SIGKILL)
        .unwrap();
    until("the worker to be replaced", || {
        let list = manager.jlist();
        online(&list) == 3 && list[0]["pid"] != victim && list[0]["pm2_env"]["restart_time"] == 1
    });
    let load = Load::start(port);
    manager.call("reload web").ok();
    manager.kill_and_restart();
    let (_, failures) = load.end();
    assert!(failures.is_empty(), "{failures:?}");
    let pids: BTreeSet<String> = (0..40).map(|_| ask(port).unwrap()).collect();
    assert_eq!(pids.len(), 2);

    manager.call("stop counter").ok();
    let log = manager.home.path().join("logs/counter-out.log");
    assert_complete(&std::fs::read_to_string(&log).unwrap());
}

#[test]
fn a_worker_that_dies_without_a_daemon_is_replaced_with_its_status_known() {
    let mut manager = Manager::new();
    manager.write("idle.js", "setInterval(() => {}, 1 << 30);\n");
    manager.call("start idle.js").ok();
    let pid = manager.jlist()[0]["pid"].as_u64().unwrap();
    let daemon = manager.daemon.take().unwrap();
    pidfd::send_signal(daemon.pidfd.as_fd(), libc::SIGKILL).unwrap();
    manager.runtime.block_on(async { pidfd::wait(daemon.pidfd.as_fd()).await }).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), nix::sys::signal::SIGTERM).unwrap();
    until("it to be gone", || !Path::new(&format!("/proc/{pid}/cwd")).join("idle.js").exists());
    manager.start();
    until("another one", || {
        let list = manager.jlist();
        list.len() == 1 && online(&list) == 1 && list[0]["pid"] != pid && list[0]["pm2_env"]["restart_time"] == 1
    });
}

#[test]
fn nothing_is_kept_of_what_has_ended() {
    let manager = Manager::new();
    manager.write("server.js", SERVER);
    manager.call("start server.js -i 2").env("PORT", &free_port().to_string()).ok();
    until("both to be online", || online(&manager.jlist()) == 2);
    assert!(manager.store.lock().unwrap().len() > 10);
    manager.call("delete all").ok();
    let left = || manager.store.lock().unwrap().iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
    let own = ["node-a", "node-b", "socket", "state-a", "state-b"].map(|name| format!("pm2rs.{name}"));
    until("the store to hold nothing of workers", || left() == BTreeSet::from(own.clone()));
}

/// Ready at once the first time, later when told to.
const RELUCTANT: &str = "
const fs = require('node:fs');
fs.appendFileSync('started', 'x');
const first = fs.readFileSync('started').length === 1;
require('node:http').createServer((q, s) => s.end(String(process.pid))).listen(process.env.PORT, () => {
  const wait = setInterval(() => {
    if (!first && !fs.existsSync('go')) return;
    clearInterval(wait);
    process.send('ready');
  }, 10);
});
";

#[test]
fn a_command_that_waits_is_answered_by_the_next_daemon() {
    let mut manager = Manager::new();
    manager.write("reluctant.js", RELUCTANT);
    let port = free_port();
    let line = "start reluctant.js -i 1 --wait-ready --listen-timeout 60000";
    manager.call(line).env("PORT", &port.to_string()).ok();
    let before = ask(port).unwrap();
    let load = Load::start(port);
    let reload = manager.call("reload reluctant");
    let reload = std::thread::spawn(move || reload.run());
    let started = manager.home.path().join("started");
    until("the new worker to be on trial", || std::fs::read(&started).unwrap().len() == 2);
    manager.kill_and_restart();
    assert_eq!(ask(port).unwrap(), before);
    manager.write("go", "");
    let ended = reload.join().unwrap();
    assert!(ended.succeeded(), "{ended}");
    let (_, failures) = load.end();
    assert!(failures.is_empty(), "{failures:?}");
    assert_ne!(ask(port).unwrap(), before);
    assert_eq!(online(&manager.jlist()), 1);
}
