//! The log path is killed again and again while workers write at full speed: each line arrives once and in order.
//!
//! The log path runs in a process of its own (this test binary again), which gets the workers' pipes as a restarted daemon
//! gets them back.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{PipeReader, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pm2rs::core::{AppId, AppSpec, ProcessId, Uid, WorkerId};
use pm2rs::logs::{Logs, LogsConfig, Source, Whose};
use pm2rs::sys::identity::Identity;

const DEADLINE: Duration = Duration::from_secs(120);
const WRITERS: u32 = 8;
/// Which descriptors the process that reads them has, and where it writes to.
const PIPES: &str = "PM2RS_TEST_PIPES";
const FOLDER: &str = "PM2RS_TEST_FOLDER";

/// Lines of each writer; `PM2RS_TEST_LINES` asks for more.
fn lines() -> u32 {
    std::env::var("PM2RS_TEST_LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(30_000)
}

/// Not a test: the process that is killed.
#[tokio::test]
#[ignore = "started by the tests of this file"]
async fn log_path() {
    let Ok(pipes) = std::env::var(PIPES) else { return };
    let folder = std::env::var(FOLDER).unwrap();
    let (logs, _events) = Logs::start(LogsConfig::new(false, "/nonexistent".into()));
    let mut spec = AppSpec { name: "api".to_owned(), ..AppSpec::default() };
    spec.log.out_file = Some(Path::new(&folder).join("api.log"));
    spec.log.rotate.max_size = 1 << 20;
    spec.log.rotate.retain = u32::MAX;
    spec.log.rotate.total_size = u64::MAX;
    spec.log.rotate.compress = false;
    let spec = Arc::new(spec);
    // Somebody looks on and does not read.
    let _slow = logs.follow(Uid(0), Whose::All(None), 0, true, true).await.unwrap();
    for (pipe, n) in pipes.split(',').zip(0..) {
        let stdout = fs::File::open(format!("/proc/self/fd/{pipe}")).unwrap();
        let (stderr, _) = std::io::pipe().unwrap();
        logs.attach(Source {
            worker: WorkerId(n + 1),
            process: ProcessId(n),
            app: AppId(1),
            app_name: "api".to_owned(),
            app_owner: Uid(0),
            namespace: "default".to_owned(),
            instance: n,
            pid: 0,
            unit: None,
            identity: Identity::own().unwrap(),
            spec: spec.clone(),
            stdout: stdout.into(),
            stderr: stderr.into(),
        });
    }
    std::future::pending::<()>().await;
}

fn start(pipes: &[PipeReader], folder: &Path) -> Child {
    let numbers: Vec<String> = pipes.iter().map(|pipe| pipe.as_raw_fd().to_string()).collect();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "log_path", "--ignored", "--nocapture"])
        .env(PIPES, numbers.join(","))
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn written(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

/// Order of a writer's files: the rotated ones by time and number, the one in use last.
fn order(name: &str) -> (bool, String, u32) {
    let stem = name.strip_suffix(".log").unwrap();
    let Some((_, rotated)) = stem.split_once("__") else { return (true, String::new(), 0) };
    let (time, sequence) = rotated.split_at("2026-11-21_00-00-00".len());
    (false, time.to_owned(), sequence.strip_prefix('-').map_or(0, |number| number.parse().unwrap()))
}

#[test]
fn every_line_once_and_in_order_whatever_happens_to_the_log_path() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("logs");
    fs::create_dir(&folder).unwrap();
    let (readers, writers): (Vec<_>, Vec<_>) = (0..WRITERS).map(|_| std::io::pipe().unwrap()).unzip();
    for reader in &readers {
        rustix::io::fcntl_setfd(reader, rustix::io::FdFlags::empty()).unwrap();
    }
    let lines = lines();
    let expected: u64 = (0..lines).map(|n| format!("line {n} ").len() as u64 + u64::from(n % 150) + 1).sum();
    let threads: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            std::thread::spawn(move || {
                for n in 0..lines {
                    let text = format!("line {n} {}\n", "x".repeat((n % 150) as usize));
                    writer.write_all(text.as_bytes()).unwrap();
                }
            })
        })
        .collect();

    let begun = Instant::now();
    let mut kills = 0;
    let mut process = start(&readers, &folder);
    let mut before = 0;
    let all = expected * u64::from(WRITERS);
    // Killed each time another tenth has arrived: always in the middle of its work.
    while written(&folder) < all {
        assert!(begun.elapsed() < DEADLINE, "{} of {all} bytes after {kills} kills", written(&folder));
        if written(&folder) > before + all / 10 {
            process.kill().unwrap();
            process.wait().unwrap();
            before = written(&folder);
            kills += 1;
            process = start(&readers, &folder);
        }
        std::thread::yield_now();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(written(&folder), all);
    assert!(kills >= 5, "{kills}");

    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let writer = name.split(['_', '.']).next().unwrap().to_owned();
        files.entry(writer).or_default().push(name);
    }
    assert_eq!(files.len(), WRITERS as usize);
    for (writer, mut names) in files {
        names.sort_by_key(|name| order(name));
        let mut next = 0;
        for name in &names {
            for line in fs::read_to_string(folder.join(name)).unwrap().lines() {
                let mut words = line.split(' ');
                assert_eq!(words.next(), Some("line"), "{writer}, {name}");
                assert_eq!(words.next(), Some(next.to_string().as_str()), "{writer}, {name}");
                assert_eq!(words.next().map(str::len), Some((next % 150) as usize), "{writer}, {name}");
                next += 1;
            }
        }
        assert_eq!(next, lines, "{writer}");
        assert!(names.len() > 2, "{names:?}");
    }
}
