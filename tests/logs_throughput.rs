//! How fast lines go from a pipe into a file, and what that costs. Run by hand, best in release:
//! `cargo test --release --test logs_throughput -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pm2rs::core::{AppId, AppSpec, ProcessId, Uid, WorkerId};
use pm2rs::logs::{Logs, LogsConfig, Source};
use pm2rs::sys::identity::Identity;

const LINES: u64 = 5_000_000;

/// User and system time of this process, to the tick (10 ms).
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn measure(what: &str, change: impl FnOnce(&mut AppSpec)) {
    let dir = tempfile::tempdir().unwrap();
    let (logs, _events) = Logs::start(LogsConfig::new(false, "/nonexistent".into()));
    let mut spec = AppSpec { name: "api".to_owned(), ..AppSpec::default() };
    spec.log.out_file = Some(dir.path().join("api.log"));
    spec.log.rotate.enabled = false;
    change(&mut spec);
    let line = "x".repeat(99);
    let mut writer = Command::new("sh")
        .args(["-c", &format!("yes {line} | head -n {LINES}")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (begun, cpu) = (Instant::now(), cpu_time());
    logs.attach(Source {
        worker: WorkerId(1),
        process: ProcessId(0),
        app: AppId(1),
        app_name: "api".to_owned(),
        app_owner: Uid(0),
        namespace: "default".to_owned(),
        instance: 0,
        pid: writer.id(),
        unit: None,
        identity: Identity::own().unwrap(),
        spec: Arc::new(spec),
        stdout: writer.stdout.take().unwrap().into(),
        stderr: writer.stderr.take().unwrap().into(),
    });
    assert!(tokio::task::spawn_blocking(move || writer.wait().unwrap()).await.unwrap().success());
    logs.detach(WorkerId(1)).await;
    let (took, cpu) = (begun.elapsed(), cpu_time().saturating_sub(cpu));
    assert_eq!(logs.counters(ProcessId(0)).await.bytes, LINES * 100);
    let megabytes = (LINES / 10_000) as f64;
    println!(
        "{what:>10}: {:>6.0} MB/s, {:>5.2} ms of CPU per MB",
        megabytes / took.as_secs_f64(),
        cpu.as_secs_f64() * 1000.0 / megabytes
    );
}

#[tokio::test]
#[ignore = "a measurement"]
async fn throughput() {
    measure("raw", |_| ()).await;
    measure("rotated", |spec| {
        spec.log.rotate.enabled = true;
        spec.log.rotate.compress = false;
        spec.log.rotate.max_size = 10 << 20;
    })
    .await;
    measure("timed", |spec| spec.log.log_date_format = Some("YYYY-MM-DDTHH:mm:ss".to_owned())).await;
    measure("json", |spec| spec.log.log_type = pm2rs::core::LogType::Json).await;
}
