//! What is on disk: damaged, in the way of a full disk, and written once there is room. The real binary and real Node.
#![allow(clippy::unwrap_used)]

mod cli;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cli::{Call, pm2rs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// A daemon in the foreground, and what it says.
struct Daemon {
    home: PathBuf,
    outside: tempfile::TempDir,
    child: Option<Child>,
}

impl Daemon {
    fn new(home: &Path) -> Daemon {
        let mut daemon = Daemon { home: home.to_owned(), outside: tempfile::tempdir().unwrap(), child: None };
        daemon.start();
        daemon
    }

    /// Starts it and waits until it takes commands.
    fn start(&mut self) {
        let said = self.log().matches("pm2rs is ready").count();
        let log = File::options().create(true).append(true).open(self.outside.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pm2rs"));
        command.arg("--home").arg(&self.home).arg("daemon");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.until("it to be ready", |daemon| daemon.log().matches("pm2rs is ready").count() > said);
    }

    /// Ends it as an init system does: what runs is to run again.
    fn end(&mut self) {
        let mut child = self.child.take().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.outside.path().join("log")).unwrap_or_default()
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl Fn(&Daemon) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < end, "waited for {what} in vain");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn call(&self, line: &str) -> Call {
        pm2rs(line).home(&self.home).cwd(self.outside.path())
    }

    fn state(&self) -> PathBuf {
        self.home.join("state.json")
    }

    /// Name and status of each row.
    fn rows(&self) -> Vec<(String, String)> {
        let list: Vec<Value> = serde_json::from_str(&self.call("jlist").ok().stdout()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        list.iter().map(|row| (text(&row["name"]), text(&row["pm2_env"]["status"]))).collect()
    }

    fn pid(&self, name: &str) -> i32 {
        self.call(&format!("pid {name}")).ok().stdout().trim().parse().unwrap()
    }

    fn app(&self, name: &str) {
        fs::write(self.outside.path().join(format!("{name}.js")), "setInterval(() => {}, 1 << 30);\n").unwrap();
        self.call(&format!("start {name}.js")).ok();
    }

    fn warnings(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains("PM2 warn:") && line.contains(text)).count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.call("kill").run();
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("-- the daemon's log\n{}", self.log());
        }
    }
}

#[test]
fn a_damaged_state_file_costs_the_last_change_at_most() {
    let home = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::new(home.path());
    daemon.app("one");
    daemon.app("two");
    daemon.call("stop all").ok();
    let rows = daemon.rows();
    assert_eq!(rows.len(), 2);
    daemon.end();
    let whole = fs::read(daemon.state()).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let damaged =
        [Vec::new(), whole[..whole.len() / 2].to_vec(), whole[..whole.len() - 1].to_vec(), flipped, vec![0; 4096]];
    for (round, content) in damaged.into_iter().enumerate() {
        fs::write(daemon.state(), &content).unwrap();
        daemon.start();
        assert_eq!(daemon.rows(), rows, "round {round}");
        assert_eq!(daemon.warnings("cannot use the state file; set aside"), round + 1);
        assert_eq!(daemon.warnings("taking the last good copy"), round + 1);
        assert_eq!(fs::read(home.path().join("state.json.broken")).unwrap(), content);
        daemon.end();
    }
    // Without any copy there is nothing to take up, which is no reason not to serve.
    fs::write(daemon.state(), "garbage").unwrap();
    fs::write(home.path().join("state.json.last"), "garbage").unwrap();
    daemon.start();
    assert_eq!(daemon.rows(), Vec::new());
    daemon.app("three");
}

/// A file system that is small, until the end of the test.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` for those who may not mount.
    fn new() -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        mounted.then_some(Small(dir))
    }

    fn fill(&self) {
        let mut file = File::create(self.0.path().join("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_stops_nothing_and_is_caught_up_with() {
    let Some(disk) = Small::new() else {
        println!("skipped: no file system may be mounted here");
        return;
    };
    let mut daemon = Daemon::new(disk.0.path());
    let on_disk = |daemon: &Daemon, text: &str| fs::read_to_string(daemon.state()).unwrap_or_default().contains(text);
    daemon.app("first");
    daemon.until("it to be on disk", |daemon| on_disk(daemon, "\"first\""));
    disk.fill();

    let old = daemon.pid("first");
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    daemon.until("it to be replaced", |daemon| ![0, old].contains(&daemon.pid("first")));
    daemon.until("the warning", |daemon| daemon.warnings("cannot write the state file") == 1);
    daemon.app("second");
    daemon.call("restart second").ok();
    daemon.call("stop first").ok();
    let rows = daemon.rows();
    let row = |name: &str, status: &str| (name.to_owned(), status.to_owned());
    assert_eq!(rows, [row("first", "stopped"), row("second", "online")]);
    assert!(on_disk(&daemon, "\"first\"") && !on_disk(&daemon, "\"second\""), "the disk is not full");

    disk.free();
    daemon.until("it to be written", |daemon| on_disk(daemon, "\"second\""));
    daemon.until("the end of it to be said", |daemon| daemon.log().contains("the state file can be written again"));
    assert_eq!(daemon.warnings("cannot write the state file"), 1, "it is said again and again");

    // A daemon that starts on a full disk goes on from what is there, and what is deleted does not come back.
    disk.fill();
    daemon.end();
    daemon.start();
    daemon.until("the second app", |daemon| daemon.rows() == [row("first", "stopped"), row("second", "online")]);
    daemon.call("kill").ok();
    daemon.child.take().unwrap().wait().unwrap();
    disk.free();
    daemon.start();
    assert_eq!(daemon.rows(), Vec::new());
}

#[test]
fn a_shutdown_under_way_changes_no_saved_list() {
    let home = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::new(home.path());
    daemon.app("quick");
    let stubborn = "if (!require('fs').existsSync('calm')) process.on('SIGINT', () => {});\n\
                    console.log('deaf'); setInterval(() => {}, 1 << 30);\n";
    fs::write(daemon.outside.path().join("stubborn.js"), stubborn).unwrap();
    daemon.call("start stubborn.js --kill-timeout 60000").ok();
    let out = home.path().join("logs/stubborn-out.log");
    daemon.until("it to be deaf", |_| fs::read_to_string(&out).unwrap_or_default().contains("deaf"));
    daemon.call("save").ok();
    let list = home.path().join("dump.pm2");
    let saved = fs::read_to_string(&list).unwrap();
    let (quick, deaf) = (daemon.pid("quick"), daemon.pid("stubborn"));
    let child = daemon.child.as_ref().unwrap().id();
    kill(Pid::from_raw(child.cast_signed()), Signal::SIGTERM).unwrap();
    daemon.until("the first to be gone", |_| kill(Pid::from_raw(quick), None).is_err());
    daemon.call("save --force").fails();
    daemon.call("cleardump").fails();
    kill(Pid::from_raw(deaf), Signal::SIGKILL).unwrap();
    assert!(daemon.child.take().unwrap().wait().unwrap().success());
    assert_eq!(fs::read_to_string(&list).unwrap(), saved);
    // What ran runs again.
    fs::write(daemon.outside.path().join("calm"), "").unwrap();
    daemon.start();
    daemon.until("both", |daemon| daemon.rows().iter().filter(|(_, status)| status == "online").count() == 2);
}
