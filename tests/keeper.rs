//! A private daemon dies and comes back by itself: its keeper has kept what it needs. The real binary, real Node.
#![allow(clippy::unwrap_used)]

mod cli;
mod clients;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cli::{Call, pm2rs};
use clients::{COUNTER, Load, SERVER, ask, assert_complete, free_port, identities, online, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pm2rs::sys::proc::Stat;
use pm2rs::sys::sealed;
use serde_json::Value;

const IDLE: &str = "setInterval(() => {}, 1 << 30);\n";

struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place::idle();
        place.call("ping").ok();
        place
    }

    /// Without a daemon yet.
    fn idle() -> Place {
        Place { home: tempfile::tempdir().unwrap() }
    }

    fn call(&self, line: &str) -> Call {
        pm2rs(line).home(self.home.path()).cwd(self.home.path())
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.home.path().join(name), text).unwrap();
    }

    fn jlist(&self) -> Vec<Value> {
        serde_json::from_str(&self.call("jlist").ok().stdout()).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("pm2.log")).unwrap_or_default()
    }

    fn daemon(&self) -> u32 {
        fs::read_to_string(self.home.path().join("pm2.pid")).unwrap().parse().unwrap()
    }

    /// What keeps it, which is its parent.
    fn keeper(&self) -> u32 {
        Stat::read(self.daemon()).unwrap().ppid
    }

    /// SIGKILL; returns after how long another one answers.
    fn kill_daemon(&self) -> Duration {
        let (old, begun) = (self.daemon(), Instant::now());
        signal(old, Signal::SIGKILL);
        until("another daemon", || is_gone(old) && self.daemon() != old);
        assert_eq!(self.call("ping").ok().stderr(), "", "the command had to start a daemon");
        begun.elapsed()
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("keeper.sock")
    }

    /// SIGKILL to both: nobody is left to start another one.
    fn kill_both(&self) {
        let (daemon, keeper) = (self.daemon(), self.keeper());
        signal(keeper, Signal::SIGKILL);
        signal(daemon, Signal::SIGKILL);
        until("both to be gone", || is_gone(daemon) && is_gone(keeper));
    }

    fn state(&self) -> Value {
        // Its last line is a seal.
        let text = fs::read_to_string(self.home.path().join("state.json")).unwrap_or_default();
        text.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
    }

    /// Waits until the state file tells that the worker with this pid serves.
    fn until_on_disk(&self, pid: u32) {
        until("it to be written", || {
            let workers = self.state()["fleet"]["workers"].clone();
            workers.as_object().is_some_and(|all| all.values().any(|w| w["pid"] == pid && w["state"] == "ready"))
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.call("kill").run();
        if std::thread::panicking() {
            eprintln!("-- pm2.log\n{}", self.log());
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// A process that ends with the test.
struct Guarded(std::process::Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A zombie is not.
fn is_gone(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), None).is_err()
}

/// Runs no more; whoever is to collect it may take their time.
fn is_over(pid: u32) -> bool {
    Stat::read(pid).map_or(true, |stat| stat.is_dead())
}

fn pid(row: &Value) -> u32 {
    u32::try_from(row["pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn a_killed_daemon_is_back_at_once_and_its_workers_do_not_notice() {
    let place = Place::new();
    place.write("server.js", SERVER);
    place.write("counter.js", COUNTER);
    let port = free_port();
    place.call("start server.js -i 2 --name web --listen-timeout 60000").env("PORT", &port.to_string()).ok();
    place.call("start counter.js").ok();
    until("all to be online", || online(&place.jlist()) == 3 && ask(port).is_ok());
    let (before, keeper) = (identities(&place.jlist()), place.keeper());
    let load = Load::start(port);
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(place.kill_daemon());
        assert_eq!(identities(&place.jlist()), before);
        ask(port).unwrap();
    }
    let (answers, failures) = load.end();
    let memory = fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
    let memory = memory.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().trim();
    println!("{answers} answers, {} failures; back after {times:?}; the keeper has {memory}", failures.len());
    assert!(answers > 50 && failures.is_empty(), "{answers} answers, {failures:?}");
    assert!(times.iter().all(|time| *time < clients::DEADLINE), "{times:?}");
    assert_eq!(place.keeper(), keeper);
    assert!(memory.strip_suffix(" kB").unwrap().parse::<u32>().unwrap() < 4096);

    // The last one is in charge.
    signal(pid(&place.jlist()[0]), Signal::SIGKILL);
    until("the worker to be replaced", || {
        let list = place.jlist();
        online(&list) == 3 && list[0]["pm2_env"]["restart_time"] == 1
    });
    place.call("reload web").ok();
    place.call("stop counter").ok();
    assert_complete(&fs::read_to_string(place.home.path().join("logs/counter-out.log")).unwrap());
}

/// In the middle of a request, and in a task beside the loop.
#[test]
fn a_panic_is_told_and_not_noticed() {
    if !cfg!(debug_assertions) {
        println!("skipped: only debug builds panic on demand");
        return;
    }
    for (moment, file) in [("reset", "src/daemon/requests.rs:"), ("flush", "src/daemon/output.rs:")] {
        let place = Place::idle();
        place.call("ping").env("PM2RS_PANIC_AT", moment).ok();
        place.write("server.js", SERVER);
        let port = free_port();
        place.call("start server.js -i 2 --name web --listen-timeout 60000").env("PORT", &port.to_string()).ok();
        until("both to serve", || online(&place.jlist()) == 2 && ask(port).is_ok());
        let (before, keeper) = (identities(&place.jlist()), place.keeper());
        let load = Load::start(port);
        for _ in 0..3 {
            let daemon = place.daemon();
            assert!(!place.call(&format!("{moment} web")).run().succeeded());
            until("another daemon", || is_gone(daemon) && place.daemon() != daemon);
            assert_eq!(identities(&place.jlist()), before);
        }
        let (answers, failures) = load.end();
        assert!(answers > 50 && failures.is_empty(), "{answers} answers, {failures:?}");
        assert_eq!(place.keeper(), keeper);
        let log = place.log();
        assert_eq!(log.matches(&format!("panicked at {file}")).count(), 3, "{log}");
        assert_eq!(log.matches("the daemon died").count(), 3, "{log}");
    }
}

#[test]
fn a_worker_that_dies_with_its_daemon_is_replaced_and_how_it_ended_is_known() {
    let place = Place::new();
    place.write("idle.js", IDLE);
    place.call("start idle.js").ok();
    for round in 1..=3 {
        let worker = pid(&place.jlist()[0]);
        let daemon = place.daemon();
        signal(daemon, Signal::SIGSTOP);
        signal(worker, Signal::SIGTERM);
        signal(daemon, Signal::SIGKILL);
        until("another worker", || {
            let list = place.jlist();
            online(&list) == 1 && pid(&list[0]) != worker && list[0]["pm2_env"]["restart_time"] == round
        });
        until("it to be collected", || is_gone(worker));
    }
    assert_eq!(place.log().matches("via signal [SIGTERM]").count(), 3, "{}", place.log());
}

#[test]
fn kill_ends_both() {
    let place = Place::new();
    place.write("idle.js", IDLE);
    place.call("start idle.js").ok();
    let (daemon, keeper, worker) = (place.daemon(), place.keeper(), pid(&place.jlist()[0]));
    assert!(place.socket().exists());
    place.call("kill").ok();
    until("both to be gone", || is_gone(daemon) && is_gone(keeper) && is_gone(worker));
    assert!(!place.socket().exists());
    // And the next one may come at once, with nothing to take up.
    for _ in 0..3 {
        place.call("ping").ok();
        place.call("kill").ok();
    }
    assert_eq!(place.jlist(), Vec::<Value>::new());
}

#[test]
fn a_signal_to_the_keeper_is_one_to_the_daemon() {
    let place = Place::new();
    place.write("idle.js", IDLE);
    place.call("start idle.js").ok();
    let (daemon, keeper, worker) = (place.daemon(), place.keeper(), pid(&place.jlist()[0]));
    signal(keeper, Signal::SIGHUP);
    signal(keeper, Signal::SIGTERM);
    until("all to be gone", || is_gone(keeper) && is_gone(daemon) && is_gone(worker));
    // It was an end, not a wish of a user's: what ran runs again.
    until("the app", || online(&place.jlist()) == 1);
    assert_ne!(place.keeper(), keeper);
}

#[test]
fn without_its_keeper_the_daemon_goes_on_and_the_next_command_starts_both() {
    let place = Place::new();
    place.write("idle.js", IDLE);
    place.call("start idle.js -i 2").ok();
    until("both", || online(&place.jlist()) == 2);
    let (daemon, keeper, before) = (place.daemon(), place.keeper(), place.jlist());
    signal(keeper, Signal::SIGKILL);
    until("the keeper to be gone", || is_gone(keeper));
    place.call("restart 0").ok();
    let list = place.jlist();
    assert_eq!((place.daemon(), pid(&list[1])), (daemon, pid(&before[1])), "the daemon does not go on");
    place.until_on_disk(pid(&list[0]));
    signal(daemon, Signal::SIGKILL);
    until("the daemon to be gone", || is_gone(daemon));
    assert_eq!(identities(&place.jlist()), identities(&list));
    assert_ne!(place.keeper(), keeper);
    let now = place.kill_daemon();
    println!("back after {now:?}");
}

#[test]
fn when_all_have_died_the_next_command_goes_on_with_the_workers() {
    let place = Place::new();
    place.write("server.js", SERVER);
    place.write("counter.js", COUNTER);
    let port = free_port();
    place.call("start server.js -i 2 --name web --listen-timeout 60000").env("PORT", &port.to_string()).ok();
    place.call("start counter.js").ok();
    until("all to be online", || online(&place.jlist()) == 3 && ask(port).is_ok());
    place.call("restart web").ok();
    until("both to serve", || (0..20).map(|_| ask(port).unwrap()).collect::<BTreeSet<_>>().len() == 2);
    let before = identities(&place.jlist());
    let servers: BTreeSet<String> = before[..2].iter().map(|row| row.1.to_string()).collect();
    before.iter().for_each(|row| place.until_on_disk(u32::try_from(row.1).unwrap()));

    let load = Load::start(port);
    place.kill_both();
    // They serve on with nobody above them.
    assert!((0..20).all(|_| servers.contains(&ask(port).unwrap())));
    assert_eq!(identities(&place.jlist()), before, "{}", place.log());
    assert!(place.call("describe web").ok().stdout().contains("without its channel"));
    let out = place.home.path().join("logs/counter-out.log");
    let lines = || fs::read_to_string(&out).unwrap_or_default().lines().count();
    let seen = lines();
    until("output to arrive again", || lines() > seen + 20);
    // The next one has what this one has, and it is in charge.
    place.kill_daemon();
    assert_eq!(identities(&place.jlist()), before);
    place.call("reload web").ok();
    let list = place.jlist();
    let (_, failures) = load.end();
    assert!(failures.is_empty(), "{failures:?}");
    assert!(list[..2].iter().all(|row| !servers.contains(&pid(row).to_string()) && online(&list) == 3));
    assert!(before[..2].iter().all(|row| is_over(u32::try_from(row.1).unwrap())));
    assert!(!place.call("describe web").ok().stdout().contains("without its channel"));
    let pids: BTreeSet<String> = (0..40).map(|_| ask(port).unwrap()).collect();
    assert_eq!(pids.len(), 2);
    place.call("stop counter").ok();
    until("it to be gone", || is_over(u32::try_from(before[2].1).unwrap()));
}

#[test]
fn when_all_have_died_what_is_no_worker_any_more_is_not_taken_for_one() {
    let place = Place::new();
    place.write("idle.js", IDLE);
    place.call("start idle.js -i 3").ok();
    until("all", || online(&place.jlist()) == 3);
    let before = place.jlist();
    before.iter().for_each(|row| place.until_on_disk(pid(row)));
    place.kill_both();
    // One has ended meanwhile, and the pid of another is somebody else's by now.
    signal(pid(&before[0]), Signal::SIGKILL);
    until("it to be gone", || is_over(pid(&before[0])));
    let stranger = Guarded(Command::new("sleep").arg("600").spawn().unwrap());
    let path = place.home.path().join("state.json");
    let state = fs::read_to_string(&path).unwrap();
    let content = state.lines().next().unwrap();
    let as_number = |pid: u32| format!("\"pid\":{pid},");
    let content = content.replace(&as_number(pid(&before[1])), &as_number(stranger.0.id()));
    fs::write(&path, sealed::seal(content.into())).unwrap();
    until("all again", || online(&place.jlist()) == 3);
    let after = place.jlist();
    assert_eq!(identities(&after)[2], identities(&before)[2], "{}", place.log());
    let restarts = |list: &[Value]| list.iter().map(|row| row["pm2_env"]["restart_time"].clone()).collect::<Vec<_>>();
    assert_eq!(restarts(&after), [1, 1, 0]);
    assert!(!is_gone(stranger.0.id()), "somebody else's process was ended");
    until("nothing to run twice", || is_over(pid(&before[1])));
}

#[test]
fn workers_that_nothing_is_known_of_are_ended() {
    let place = Place::new();
    place.write("idle.js", IDLE);
    place.call("start idle.js -i 2").ok();
    let (list, daemon, keeper) = (place.jlist(), place.daemon(), place.keeper());
    signal(keeper, Signal::SIGKILL);
    signal(daemon, Signal::SIGKILL);
    until("both to be gone", || is_gone(daemon) && is_gone(keeper));
    for name in ["state.json", "state.json.last"] {
        let _ = fs::remove_file(place.home.path().join(name));
    }
    assert_eq!(place.jlist(), Vec::<Value>::new());
    until("the workers to be gone", || list.iter().all(|row| is_gone(pid(row))));
}

#[test]
fn one_that_has_executed_itself_anew_is_kept_like_the_first() {
    let place = Place::new();
    place.write("idle.js", IDLE);
    place.call("start idle.js -i 2").ok();
    until("both", || online(&place.jlist()) == 2);
    let (before, keeper) = (identities(&place.jlist()), place.keeper());
    place.call("update").ok();
    place.kill_daemon();
    place.call("update").ok();
    assert_eq!((identities(&place.jlist()), place.keeper()), (before.clone(), keeper));
    // Also one that nobody keeps any more.
    signal(keeper, Signal::SIGKILL);
    until("the keeper to be gone", || is_gone(keeper));
    place.call("update").ok();
    assert_eq!(identities(&place.jlist()), before);
}

#[test]
fn a_daemon_that_is_killed_while_it_ends_leaves_nothing_behind() {
    let place = Place::new();
    place.write("deaf.js", "process.on('SIGINT', () => {}); console.log('deaf'); setInterval(() => {}, 1 << 30);\n");
    place.call("start deaf.js --kill-timeout 60000").ok();
    let out = place.home.path().join("logs/deaf-out.log");
    until("it to be deaf", || fs::read_to_string(&out).unwrap_or_default().contains("deaf"));
    let (daemon, keeper, worker) = (place.daemon(), place.keeper(), pid(&place.jlist()[0]));
    signal(keeper, Signal::SIGTERM);
    until("the end to begin", || place.log().contains("ending all apps"));
    signal(daemon, Signal::SIGKILL);
    until("all to be gone", || is_gone(keeper) && is_gone(daemon) && is_gone(worker));
    // A reboot in the middle of it would not have forgotten the app either.
    place.write("deaf.js", IDLE);
    until("the app", || online(&place.jlist()) == 1);
}

#[test]
fn a_container_s_first_process_is_one() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("idle.js"), IDLE).unwrap();
    let mut container = Command::new("unshare");
    container.args(["--pid", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_pm2rs"), "--home"]);
    container.arg(home.path()).arg("daemon").stderr(fs::File::create(home.path().join("pm2.log")).unwrap());
    let mut container = Guarded(container.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    let log = || fs::read_to_string(home.path().join("pm2.log")).unwrap_or_default();
    let mut refused = false;
    until("it to be ready", || {
        refused = container.0.try_wait().unwrap().is_some();
        refused || log().contains("pm2rs is ready")
    });
    if refused {
        println!("skipped: no namespaces here: {}", log());
        return;
    }
    let first = pm2rs::sys::proc::children(container.0.id()).unwrap()[0];
    let inside = |line: &str| {
        let mut call = Command::new("nsenter");
        call.args(["--target", &first.to_string(), "--pid", "--mount", env!("CARGO_BIN_EXE_pm2rs"), "--home"]);
        let output = call.arg(home.path()).args(line.split(' ')).current_dir(home.path()).output().unwrap();
        assert!(output.status.success(), "{output:?} {}", log());
        String::from_utf8(output.stdout).unwrap()
    };
    inside(&format!("start {}", home.path().join("idle.js").display()));
    let list = || -> Vec<Value> { serde_json::from_str(&inside("jlist")).unwrap() };
    until("the app", || online(&list()) == 1);
    let before = identities(&list());
    let daemon = pm2rs::sys::proc::children(first).unwrap()[0];
    signal(daemon, Signal::SIGKILL);
    until("another daemon", || is_gone(daemon) && log().matches("pm2rs is ready").count() == 2);
    assert_eq!(identities(&list()), before);
    signal(first, Signal::SIGTERM);
    assert!(container.0.wait().unwrap().success(), "{}", log());
}

#[test]
fn orphans_are_collected() {
    let place = Place::new();
    let script = "console.log(require('child_process').execSync('sleep 0.2 >/dev/null & echo $!').toString());\n";
    place.write("forks.js", &format!("{script}{IDLE}"));
    place.call("start forks.js").ok();
    let out = place.home.path().join("logs/forks-out.log");
    let read = || fs::read_to_string(&out).unwrap_or_default().trim().parse::<u32>().ok();
    until("the orphan", || read().is_some());
    let orphan = read().unwrap();
    until("it to be gone", || is_gone(orphan));
    assert_eq!(online(&place.jlist()), 1);
}
