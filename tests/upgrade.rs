//! The daemon executes another program in place of itself and its workers do not notice: the real binary, real Node.
#![allow(clippy::unwrap_used)]

mod cli;
mod clients;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cli::{Call, call, pm2rs};
use clients::{COUNTER, Load, SERVER, ask, assert_complete, free_port, identities, online, until};
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

    /// As packages do it: the new file takes the old one's place, which goes on to exist for those who run it.
    fn replace(&self, put: impl FnOnce(&Path)) {
        let new = self.folder.path().join("pm2rs.new");
        put(&new);
        fs::rename(new, self.program()).unwrap();
    }

    fn install_binary(&self) {
        // A link of its own would be renamed onto itself, which does nothing (rename(2)).
        self.replace(|path| assert!(fs::copy(BINARY, path).unwrap() > 0));
    }

    fn install_script(&self, text: &str) {
        self.replace(|path| {
            fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        });
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
        self.call("start server.js -i 2 --name web").env("PORT", &port.to_string()).ok();
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
            reload.join().unwrap();
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
