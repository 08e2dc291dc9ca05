//! The daemon executes another program in place of itself and its workers do not notice: the real binary, real Node.
#![allow(clippy::unwrap_used)]

mod cli;
mod clients;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cli::{Call, call, pm2rs};
use clients::{COUNTER, Load, SERVER, ask, assert_complete, free_port, identities, online, until};
use pm2rs::sys::proc::Stat;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_pm2rs");

/// A private daemon of a program that can be replaced.
struct Installation {
    folder: tempfile::TempDir,
}

impl Installation {
    fn new() -> Installation {
        let installation = Installation { folder: tempfile::tempdir().unwrap() };
        installation.install_binary();
        installation
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("pm2rs")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// As packages do it: the new file takes the old one's place, which goes on to exist for those who run it. Copied by
    /// another process, because what this one has open for writing is so for a moment in each child that another test
    /// starts meanwhile, and cannot be executed then (execve(2), ETXTBSY).
    fn replace(&self, by: &Path) {
        let new = self.folder.path().join("pm2rs.new");
        assert!(Command::new("cp").arg(by).arg(&new).status().unwrap().success());
        fs::rename(new, self.program()).unwrap();
    }

    fn install_binary(&self) {
        self.replace(Path::new(BINARY));
    }

    fn install_script(&self, text: &str) {
        let script = self.folder.path().join("script");
        fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        self.replace(&script);
    }

    /// A command of the program as it was built, whatever is installed.
    fn call(&self, line: &str) -> Call {
        pm2rs(line).home(&self.home()).cwd(self.folder.path())
    }

    fn start_daemon(&self) {
        call(&self.program(), "ping").home(&self.home()).ok();
    }

    fn daemon(&self) -> u32 {
        fs::read_to_string(self.home().join("pm2.pid")).unwrap().parse().unwrap()
    }

    fn jlist(&self) -> Vec<Value> {
        serde_json::from_str(&self.call("jlist").ok().stdout()).unwrap()
    }

    fn start_apps(&self) -> u16 {
        fs::write(self.folder.path().join("server.js"), SERVER).unwrap();
        fs::write(self.folder.path().join("counter.js"), COUNTER).unwrap();
        let port = free_port();
        self.call("start server.js -i 2 --name web --listen-timeout 60000").env("PORT", &port.to_string()).ok();
        self.call("start counter.js").ok();
        until("all to be online", || online(&self.jlist()) == 3 && ask(port).is_ok());
        port
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home().join("pm2.log")).unwrap_or_default()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _ = self.call("kill").run();
        if std::thread::panicking() {
            eprintln!("-- pm2.log\n{}", self.log());
        }
    }
}

#[test]
fn re_executions_are_not_noticed() {
    let times: usize = std::env::var("PM2RS_REEXECUTIONS").map_or(10, |text| text.parse().unwrap());
    let installation = Installation::new();
    installation.start_daemon();
    let port = installation.start_apps();
    let (before, daemon) = (identities(&installation.jlist()), installation.daemon());
    let load = Load::start(port);
    for _ in 0..times {
        installation.call("update").ok().says("PM2 updated");
        assert_eq!((identities(&installation.jlist()), installation.daemon()), (before.clone(), daemon));
    }
    assert_eq!(installation.log().matches("executing the installed program").count(), times);
    installation.install_binary();
    installation.call("update").ok();
    assert_eq!(fs::read_link(format!("/proc/{daemon}/exe")).unwrap(), installation.program());
    let (answers, failures) = load.end();
    println!("{times} re-executions, {answers} answers, {} failures", failures.len());
    assert!(answers > 50 && failures.is_empty(), "{answers} answers, {failures:?}");
    assert_eq!(identities(&installation.jlist()), before);

    // It is still the parent, so it sees how a worker ends, and is in charge.
    let victim = nix::unistd::Pid::from_raw(i32::try_from(before[0].1).unwrap());
    nix::sys::signal::kill(victim, nix::sys::signal::SIGKILL).unwrap();
    until("the worker to be replaced", || {
        let list = installation.jlist();
        online(&list) == 3 && list[0]["pid"] != before[0].1 && list[0]["pm2_env"]["restart_time"] == 1
    });
    assert!(installation.log().contains("via signal [SIGKILL]"));
    installation.call("reload web").ok();
    installation.call("stop counter").ok();
    assert_complete(&fs::read_to_string(installation.home().join("logs/counter-out.log")).unwrap());
    installation.call("delete all").ok();
    assert!(ask(port).is_err());
}

#[test]
fn the_keeper_is_upgraded_as_well() {
    let installation = Installation::new();
    installation.start_daemon();
    let port = installation.start_apps();
    let (before, daemon) = (identities(&installation.jlist()), installation.daemon());
    let keeper = Stat::read(daemon).unwrap().ppid;
    let program_of = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    let installed = || fs::metadata(installation.program()).unwrap().ino();
    let load = Load::start(port);
    for _ in 0..3 {
        installation.install_binary();
        installation.call("update").ok();
        until("the keeper to execute it", || program_of(keeper) == installed());
        assert_eq!((installation.daemon(), program_of(daemon)), (daemon, installed()));
    }
    // It still does what a keeper is for, and its daemon what it says.
    let kill = |pid: u32| {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    };
    kill(daemon);
    until("another daemon", || installation.daemon() != daemon);
    assert_eq!(identities(&installation.jlist()), before, "{}", installation.log());
    let second = installation.daemon();
    assert_eq!(Stat::read(second).unwrap().ppid, keeper);

    // One that can be a daemon and no keeper.
    let script = format!("case \"$*\" in *--check-keeper*) exit 1;; esac; exec {BINARY} \"$@\"");
    installation.install_script(&script);
    let own = program_of(keeper);
    installation.call("update").ok();
    until("the refusal", || installation.log().contains("the keeper goes on with the program of before"));
    assert_eq!(program_of(keeper), own);
    assert_eq!(installation.daemon(), second);
    kill(second);
    until("another daemon", || installation.daemon() != second);
    assert_eq!(identities(&installation.jlist()), before);
    let (answers, failures) = load.end();
    assert!(answers > 50 && failures.is_empty(), "{answers} answers, {failures:?}");
    installation.call("kill").ok();
    until("the keeper to be gone", || Stat::read(keeper).map_or(true, |stat| stat.is_dead()));
}

/// It passes its check, and dies as soon as it is executed.
#[test]
fn a_program_that_dies_at_once_is_followed_by_the_one_before() {
    let installation = Installation::new();
    installation.start_daemon();
    let port = installation.start_apps();
    let before = identities(&installation.jlist());
    let keeper = Stat::read(installation.daemon()).unwrap().ppid;
    let load = Load::start(port);
    for (times, end) in [(1, "kill -KILL $$"), (2, "exit 0")] {
        let daemon = installation.daemon();
        installation.install_script(&format!("case \"$*\" in *--check-*) exec {BINARY} \"$@\";; esac; {end}"));
        installation.call("update").fails().mentions("the installed program died before it was ready");
        until("another daemon", || installation.daemon() != daemon);
        assert_eq!(identities(&installation.jlist()), before, "{}", installation.log());
        assert_eq!(installation.log().matches("did not get ready; the one before goes on").count(), times);
        assert_eq!(Stat::read(installation.daemon()).unwrap().ppid, keeper);
    }
    // A better one is welcome.
    installation.install_binary();
    installation.call("update").ok();
    let program = || fs::metadata(format!("/proc/{keeper}/exe")).unwrap().ino();
    until("the keeper to execute it", || program() == fs::metadata(installation.program()).unwrap().ino());
    assert_eq!(identities(&installation.jlist()), before);
    let (answers, failures) = load.end();
    assert!(answers > 50 && failures.is_empty(), "{answers} answers, {failures:?}");
}

#[test]
fn during_a_reload_and_a_crash_loop_nothing_is_lost_either() {
    let installation = Installation::new();
    installation.start_daemon();
    let port = installation.start_apps();
    fs::write(installation.folder.path().join("broken.js"), "setTimeout(() => process.exit(3), 20);\n").unwrap();
    installation.call("start broken.js --max-restarts 100000").ok();
    let load = Load::start(port);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| installation.call("reload web").run());
            installation.call("update").ok();
            let reload = reload.join().unwrap();
            assert!(reload.succeeded(), "{reload}");
        });
    }
    until("the last reload to be over", || {
        let list = installation.jlist();
        let web = || list.iter().filter(|row| row["name"] == "web");
        web().count() == 2 && web().all(|row| row["pm2_env"]["status"] == "online") && ask(port).is_ok()
    });
    let (answers, failures) = load.end();
    assert!(answers > 50 && failures.is_empty(), "{answers} answers, {failures:?}");
    let servers = || {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if cwd == installation.folder.path() && command.contains("server.js") {
                found.push(entry.file_name());
            }
        }
        found
    };
    until("the old workers to be gone", || servers().len() == 2);
}

#[test]
fn a_program_that_cannot_take_over_does_not_get_to() {
    let installation = Installation::new();
    installation.start_daemon();
    let port = installation.start_apps();
    let before = identities(&installation.jlist());
    let newer = format!("sed 's/\"format\":1,/\"format\":999,/g' | {BINARY} \"$@\"");
    let programs = [
        ("echo 'no, thanks' >&2; exit 1", "no, thanks"),
        ("exit 1", "it cannot take over (code 1)"),
        ("kill -SEGV $$", "it cannot take over (signal 11)"),
        (newer.as_str(), "its format 999 is newer than 1"),
        (&format!("head -c 100 | {BINARY} \"$@\""), "cannot understand the state"),
    ];
    for (script, reason) in programs {
        installation.install_script(script);
        installation.call("update").fails().mentions("this daemon goes on").mentions(reason);
        assert_eq!(identities(&installation.jlist()), before);
        ask(port).unwrap();
    }
    fs::remove_file(installation.program()).unwrap();
    installation.call("update").fails().mentions("cannot start it");
    installation.install_binary();
    installation.call("update").ok();
    assert_eq!(identities(&installation.jlist()), before);
}

/// States as earlier releases wrote them, and this one: `format-1-0.1.0.json` is of format 1, by release 0.1.0. A release
/// that adds to the format adds a sample, see [`write_a_sample`]; none is ever changed or removed.
fn samples() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let samples: Vec<_> = files.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    assert!(!samples.is_empty());
    samples
}

#[test]
fn states_of_earlier_releases_are_understood() {
    for (path, text) in samples() {
        let name = path.display();
        let state: Value = serde_json::from_str(&text).unwrap();
        let (processes, workers) = (&state["state"]["fleet"]["processes"], &state["workers"]);
        assert!(processes.as_object().unwrap().len() > 5 && workers.as_array().unwrap().len() > 5, "{name}");
        pm2rs("daemon --check-state").input(&text).ok().prints_nothing();

        // Each part is looked at.
        let damage = |pointer: &str| {
            let mut damaged = state.clone();
            *damaged.pointer_mut(pointer).unwrap() = Value::from("damaged");
            pm2rs("daemon --check-state").input(&damaged.to_string()).fails().stderr()
        };
        for (pointer, part) in [
            ("/state/fleet/processes/0", "apps and processes"),
            ("/node/listeners/0", "sockets and channels"),
            ("/node/workers/0", "sockets and channels"),
            ("/workers/0", "a worker"),
        ] {
            let version = state["version"].as_str().unwrap();
            let expected = format!("cannot read the state of pm2rs {version}: {part}: ");
            assert!(damage(pointer).contains(&expected), "{name}: {pointer}");
        }
        for pointer in ["/format", "/state/format"] {
            let mut newer = state.clone();
            *newer.pointer_mut(pointer).unwrap() = Value::from(1_000_000);
            let call = pm2rs("daemon --check-state").input(&newer.to_string());
            call.fails().mentions("its format 1000000 is newer than");
        }
        for length in [0, 1, text.len() / 2, text.len() - 3] {
            pm2rs("daemon --check-state").input(&text[..length]).fails().mentions("cannot understand the state");
        }
    }
}

const FLEET: &str = "
const app = (name, script, more) => ({ name, script, env: { PORT: process.env.PORT }, ...more });
module.exports = { apps: [
  app('web', 'server.js', { instances: 2 }),
  app('dealt', 'dealt.js', { instances: 1, exec_mode: 'cluster', balance: 'sticky' }),
  app('path', 'path.js', { instances: 1, exec_mode: 'cluster' }),
  app('udp', 'udp.js', { instances: 1, exec_mode: 'cluster' }),
  app('given', 'idle.js', { listen: ['127.0.0.1:0'] }),
  app('waiting', 'idle.js', { wait_ready: true, listen_timeout: 3600000 }),
  app('reloading', 'once.js', { instances: 1, exec_mode: 'cluster', wait_ready: true, listen_timeout: 3600000 }),
  app('planned', 'idle.js', { cron_restart: '0 3 * * *', max_memory_restart: '1G', watch: true }),
  app('broken', 'broken.js', { max_restarts: 1, min_uptime: 5000 }),
  app('backoff', 'broken.js', { exp_backoff_restart_delay: 15000, max_restarts: 100 }),
  app('stopped', 'idle.js'),
] };
";

/// Writes what a daemon of this release says of itself to tests/state, for [`samples`].
#[test]
#[ignore = "writes a file into the source tree; for releases that add to the format"]
fn write_a_sample() {
    let installation = Installation::new();
    installation.start_daemon();
    let write = |name: &str, text: &str| fs::write(installation.folder.path().join(name), text).unwrap();
    write("fleet.config.js", FLEET);
    write("server.js", SERVER);
    write("dealt.js", "require('node:http').createServer((q, s) => s.end()).listen(0, '127.0.0.1');\n");
    write("path.js", "require('node:net').createServer().listen('path.sock');\n");
    write("udp.js", "require('node:dgram').createSocket('udp4').bind(0, '127.0.0.1');\n");
    write("idle.js", "setInterval(() => {}, 1 << 30);\n");
    write("broken.js", "process.exit(3);\n");
    let first = "const fs = require('node:fs'); setInterval(() => {}, 1 << 30);\n\
        if (!fs.existsSync('first')) { fs.writeFileSync('first', ''); process.send('ready'); }\n\
        process.send({ type: 'axm:monitor', data: { latency: { value: 3, unit: 'ms' } } });\n";
    write("once.js", first);
    let call = |line: &str| installation.call(line).env("PORT", &free_port().to_string());
    for name in ["web", "dealt", "path", "udp", "given", "reloading", "planned", "broken", "backoff", "stopped"] {
        let _ = call(&format!("start fleet.config.js --only {name}")).run();
    }
    call("stop stopped").ok();
    std::thread::scope(|scope| {
        for line in ["start fleet.config.js --only waiting", "reload reloading"] {
            scope.spawn(move || drop(call(line).run()));
        }
        let status = |name: &str, status: &str| {
            installation.jlist().iter().any(|row| row["name"] == name && row["pm2_env"]["status"] == status)
        };
        until("all to be as wanted", || {
            status("waiting", "launching") && status("broken", "errored") && status("backoff", "waiting restart")
        });
        let into = installation.folder.path().join("sample");
        installation.install_script(&format!("cat >'{}'; echo taken >&2; exit 1", into.display()));
        until("the reload to be under way", || {
            call("update").fails().mentions("taken");
            fs::read_to_string(&into).unwrap().contains("\"state\":\"trial\"")
        });
        let mut state: Value = serde_json::from_str(&fs::read_to_string(&into).unwrap()).unwrap();
        neutralise(&mut state, installation.folder.path().to_str().unwrap());
        let name = format!("format-{}-{}.json", state["format"], state["version"].as_str().unwrap());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state").join(name);
        fs::write(path, format!("{}\n", serde_json::to_string_pretty(&state).unwrap())).unwrap();
        installation.call("kill").ok();
    });
}

/// Takes out what is of this machine and this user.
fn neutralise(value: &mut Value, folder: &str) {
    match value {
        Value::Object(all) => {
            if let Some(Value::Object(env)) = all.get_mut("env") {
                env.retain(|name, _| name == "PORT");
            }
            all.values_mut().for_each(|value| neutralise(value, folder));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| neutralise(value, folder)),
        Value::String(text) => *text = text.replace(folder, "/srv").replace("/root", "/home/app"),
        _ => {}
    }
}
