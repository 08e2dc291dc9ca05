//! Each line once and in order, whatever happens: workers that write at full speed are reloaded, the daemon is killed, files
//! are rotated every MiB and somebody looks on without reading. The real binary and real Node.
//!
//! Small unless told otherwise: `PM2RS_TEST_WRITERS=8 PM2RS_TEST_LINES=1250000 PM2RS_TEST_PAUSE=0` writes ten million
//! lines and more, as fast as they are taken.
#![allow(clippy::unwrap_used)]

mod cli;
mod clients;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cli::{Call, pm2rs};
use clients::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Writes numbered lines from the moment that `go` exists, and says at its end how many they were.
const WRITER: &str = "
const fs = require('fs');
const { LINES, PAUSE } = process.env;
const filler = 'x'.repeat(150);
let n = 0, told = false, ending = false;
// Node keeps what a full pipe does not take, and forgets it when it exits.
const end = () => process.stdout.write('', () => process.exit(0));
const tell = () => { if (!told) fs.writeFileSync(`counts/${process.pid}`, `${n}`); told = true; };
process.on('SIGINT', () => { ending = true; tell(); end(); });
function write() {
  if (ending) return;
  if (n >= LINES) return tell();
  let text = '';
  for (const end = Math.min(LINES, n + 100); n < end; n++) text += `${process.pid} ${n} ${filler.slice(n % 150)}\\n`;
  const more = () => (PAUSE > 0 ? setTimeout(write, PAUSE) : setImmediate(write));
  process.stdout.write(text) ? more() : process.stdout.once('drain', more);
}

const wait = setInterval(() => { if (fs.existsSync('go')) { clearInterval(wait); write(); } }, 5);
setInterval(() => {}, 1 << 30);
process.send('ready');
";

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

struct Place(tempfile::TempDir);

impl Place {
    fn call(&self, line: &str) -> Call {
        pm2rs(line).home(&self.0.path().join("home")).cwd(self.0.path())
    }

    fn daemon(&self) -> Pid {
        Pid::from_raw(fs::read_to_string(self.0.path().join("home/pm2.pid")).unwrap().parse().unwrap())
    }

    /// How many lines each writer says it wrote, by process id.
    fn counts(&self) -> BTreeMap<u32, u64> {
        let files = fs::read_dir(self.0.path().join("counts")).unwrap().map(|entry| entry.unwrap().path());
        let count = |path: PathBuf| {
            let pid = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            Some((pid, fs::read_to_string(path).unwrap().parse().ok()?))
        };
        files.filter_map(count).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.call("kill").run();
        if std::thread::panicking() {
            eprintln!("-- pm2.log\n{}", fs::read_to_string(self.0.path().join("home/pm2.log")).unwrap_or_default());
        }
    }
}

/// Log files by the row whose they are, the oldest first.
fn by_row(logs: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut rows: BTreeMap<String, Vec<(bool, String, u32, PathBuf)>> = BTreeMap::new();
    for path in fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path()) {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (row, time, sequence) = match stem.split_once("__") {
            None => (stem, None, 0),
            Some((row, rotated)) => {
                let (time, sequence) = rotated.split_at("2026-11-21_00-00-00".len());
                let sequence = sequence.strip_prefix('-').map_or(0, |number| number.parse().unwrap());
                (row.to_owned(), Some(time.to_owned()), sequence)
            }
        };
        rows.entry(row).or_default().push((time.is_none(), time.unwrap_or_default(), sequence, path));
    }
    let ordered = |mut files: Vec<(bool, String, u32, PathBuf)>| -> Vec<PathBuf> {
        files.sort();
        files.into_iter().map(|(.., path)| path).collect()
    };
    rows.into_iter().map(|(row, files)| (row, ordered(files))).collect()
}

#[test]
fn every_line_of_every_writer_once_and_in_order() {
    let (writers, lines) = (number("PM2RS_TEST_WRITERS", 3), number("PM2RS_TEST_LINES", 40_000));
    let place = Place(tempfile::tempdir().unwrap());
    let folder = place.0.path();
    fs::create_dir(folder.join("counts")).unwrap();
    fs::write(folder.join("writer.js"), WRITER).unwrap();
    let app = serde_json::json!({ "apps": [{
        "name": "writer", "script": "writer.js", "instances": writers, "exec_mode": "cluster", "wait_ready": true,
        "listen_timeout": 60_000, "min_uptime": 100, "out_file": "logs/out.log", "error_file": "NULL",
        "log_rotate": { "max_size": "1M", "retain": 10_000, "total_size": "1000G", "compress": false },
        "env": { "LINES": lines, "PAUSE": number("PM2RS_TEST_PAUSE", 3) },
    }]});
    fs::write(folder.join("app.config.json"), app.to_string()).unwrap();
    place.call("start app.config.json").ok();
    let mut slow = Command::new(env!("CARGO_BIN_EXE_pm2rs"))
        .args(["logs", "--raw", "--lines", "0"])
        .env("PM2RS_HOME", folder.join("home"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let begun = Instant::now();
    fs::write(folder.join("go"), "").unwrap();
    until("the first lines", || fs::read_dir(folder.join("logs")).is_ok_and(|mut logs| logs.next().is_some()));
    place.call("reload writer").ok();
    let killed = place.daemon();
    kill(killed, Signal::SIGKILL).unwrap();
    until("the next daemon", || place.daemon() != killed && place.call("ping").run().succeeded());
    // Those of before the reload, and those of after it.
    let patience = clients::DEADLINE + Duration::from_micros(writers * lines * 60);
    while (place.counts().len() as u64) < 2 * writers {
        assert!(begun.elapsed() < patience, "these have finished: {:?}", place.counts());
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = begun.elapsed();
    place.call("stop writer").ok();
    slow.kill().unwrap();
    slow.wait().unwrap();

    let (mut next, mut bytes, mut files) = (BTreeMap::<u32, u64>::new(), 0, 0);
    for (row, paths) in by_row(&folder.join("logs")) {
        for path in paths {
            let size = fs::metadata(&path).unwrap().len();
            assert!(size <= 1 << 20, "{}: {size}", path.display());
            (bytes, files) = (bytes + size, files + 1);
            for line in BufReader::new(fs::File::open(&path).unwrap()).lines() {
                let line = line.unwrap();
                let mut words = line.split(' ');
                let mut number = || words.next()?.parse::<u64>().ok();
                let (Some(pid), Some(n)) = (number(), number()) else { panic!("in {}: {line}", path.display()) };
                let expected = next.entry(u32::try_from(pid).unwrap()).or_default();
                assert_eq!(n, *expected, "of {pid} in {row}, {}", path.display());
                assert_eq!(words.next().map(str::len), Some(150 - usize::try_from(n % 150).unwrap()), "{line}");
                *expected += 1;
            }
        }
    }
    assert_eq!(next, place.counts());
    assert!(next.values().filter(|count| **count == lines).count() >= usize::try_from(writers).unwrap(), "{next:?}");
    println!("{} lines, {bytes} bytes in {files} files, {} ms", next.values().sum::<u64>(), took.as_millis());
}
