//! What becomes of apps whose log files take nothing: the real binary, real Node and a disk that is full.
#![allow(clippy::unwrap_used)]

mod cli;
mod clients;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cli::{Call, pm2rs};
use clients::{ask, free_port, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Writes numbered lines without end, until there is a file `hush`: one at a time from then on. Answers each request.
const TALKER: &str = "
const { existsSync } = require('fs');
const http = require('http');
let n = 0;
const line = () => String(++n).padStart(99, 'x') + '\\n';
const loud = setInterval(() => {
  if (!existsSync('hush')) return process.stdout.write(Array.from({ length: 100 }, line).join(''));
  clearInterval(loud);
  setInterval(() => process.stdout.write(line()), 20);
}, 2);
http.createServer((_, answer) => answer.end(JSON.stringify({ pid: process.pid, count: 0 }))).listen(process.env.PORT);
";

/// A home with its daemon, and a disk of 1 MiB until the end of the test.
struct Place {
    home: tempfile::TempDir,
    disk: tempfile::TempDir,
}

impl Place {
    /// `None` for those who may not mount.
    fn new() -> Option<Place> {
        let place = Place { home: tempfile::tempdir().unwrap(), disk: tempfile::tempdir().unwrap() };
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(place.disk.path()).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(place)
    }

    fn call(&self, line: &str) -> Call {
        pm2rs(line).home(self.home.path()).cwd(self.home.path())
    }

    fn row(&self, name: &str) -> Value {
        let list: Vec<Value> = serde_json::from_str(&self.call("jlist").ok().stdout()).unwrap();
        list.into_iter().find(|row| row["name"] == name).unwrap()
    }

    fn lost(&self, name: &str) -> u64 {
        self.row(name)["pm2_env"]["log_lines_dropped"].as_u64().unwrap_or_default()
    }

    fn restarts(&self, name: &str) -> u64 {
        self.row(name)["pm2_env"]["restart_time"].as_u64().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("pm2.log")).unwrap_or_default()
    }

    fn daemon(&self) -> Pid {
        Pid::from_raw(fs::read_to_string(self.home.path().join("pm2.pid")).unwrap().parse().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.call("kill").run();
        let _ = Command::new("umount").arg("-l").arg(self.disk.path()).stderr(Stdio::null()).status();
        if std::thread::panicking() {
            eprintln!("-- pm2.log\n{}", self.log());
        }
    }
}

fn fill(disk: &Path) {
    let mut filler = fs::File::options().create(true).append(true).open(disk.join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
}

#[test]
fn apps_on_a_full_disk_answer_and_what_is_lost_is_told_by_every_daemon() {
    let Some(place) = Place::new() else {
        println!("skipped: no file system may be mounted here");
        return;
    };
    let disk = place.disk.path();
    fill(disk);
    fs::write(place.home.path().join("talker.js"), TALKER).unwrap();
    let apps = [("one", free_port()), ("two", free_port())];
    for (name, port) in apps {
        let file = disk.join(format!("{name}.log"));
        let start = format!("start talker.js --name {name} -o {} -e NULL", file.display());
        place.call(&start).env("PORT", &port.to_string()).ok();
    }
    for (name, port) in apps {
        until("an answer", || ask(port).is_ok());
        until("a loss", || place.lost(name) > 1000);
        assert!((0..50).all(|_| ask(port).is_ok()), "{name} does not answer");
        assert_eq!(place.restarts(name), 0);
        place.call(&format!("describe {name}")).ok().says("log lines lost").says("No space left on device");
    }
    // Each daemon says it of each app: by then all that the daemon before had in hand is gone.
    let is_said_by = |daemons: usize| {
        until("it to be said", || place.log().matches("log lines are being dropped").count() == 2 * daemons);
    };
    is_said_by(1);

    // Another program goes on, and a daemon that is killed is followed by another: none begins to count anew.
    let before = apps.map(|(name, _)| place.lost(name));
    place.call("update").ok();
    let then = apps.map(|(name, _)| place.lost(name));
    assert!(then[0] >= before[0] && then[1] >= before[1], "{then:?} after {before:?}");
    is_said_by(2);
    let killed = place.daemon();
    kill(killed, Signal::SIGKILL).unwrap();
    until("the next daemon", || place.daemon() != killed && place.call("ping").run().succeeded());
    let after = apps.map(|(name, _)| place.lost(name));
    assert!(after[0] >= then[0] && after[1] >= then[1], "{after:?} after {then:?}");
    is_said_by(3);

    fs::write(place.home.path().join("hush"), "").unwrap();
    fs::remove_file(disk.join("filler")).unwrap();
    for (name, port) in apps {
        assert!(ask(port).is_ok());
        assert_eq!(place.restarts(name), 0);
    }
    until("the end of it to be said", || place.log().matches("log lines are kept again").count() == 2);
    for (name, _) in apps {
        let text = fs::read_to_string(disk.join(format!("{name}.log"))).unwrap();
        // The last one may be cut: what its app still had in hand can have filled the disk once more.
        let (whole, _) = text.rsplit_once('\n').unwrap();
        let torn: Vec<(usize, &str)> = whole.lines().enumerate().filter(|(_, line)| line.len() != 99).collect();
        assert_eq!(torn, []);
        let numbers: Vec<u64> = whole.lines().map(|line| line.trim_start_matches('x').parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "lines twice, or out of order");
    }
}
