//! Clients that never retry, and what they are asked to watch: used by the tests in which daemons come and go.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a client pauses between two requests.
const THINK: Duration = Duration::from_millis(5);

#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(format!("answered: {answer:?}"))),
    }
}

/// Those clients, until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<std::thread::JoinHandle<(u32, Vec<String>)>>,
}

impl Load {
    pub fn start(port: u16) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |stop: Arc<AtomicBool>| {
            move || {
                let (mut answers, mut failures) = (0, Vec::new());
                while !stop.load(Ordering::SeqCst) {
                    match ask(port) {
                        Ok(_) => answers += 1,
                        Err(error) => failures.push(error.to_string()),
                    }
                    // The machine has time for what is tested with them.
                    std::thread::sleep(THINK);
                }
                (answers, failures)
            }
        };
        let clients = (0..4).map(|_| std::thread::spawn(client(Arc::clone(&stop)))).collect();
        Load { stop, clients }
    }

    pub fn end(self) -> (u32, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.clients.into_iter().map(|client| client.join().unwrap());
        ended.fold((0, Vec::new()), |(all, mut failed), (answers, failures)| {
            failed.extend(failures);
            (all + answers, failed)
        })
    }
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What must not change: row, process and counters of each.
pub fn identities(list: &[Value]) -> Vec<(u64, u64, u64, u64)> {
    let number = |value: &Value| value.as_u64().unwrap();
    let of = |row: &Value| {
        let env = &row["pm2_env"];
        (number(&row["pm_id"]), number(&row["pid"]), number(&env["restart_time"]), number(&env["pm_uptime"]))
    };
    list.iter().map(of).collect()
}

pub fn online(list: &[Value]) -> usize {
    list.iter().filter(|row| row["pm2_env"]["status"] == "online").count()
}

pub const SERVER: &str =
    "require('node:http').createServer((q, s) => s.end(String(process.pid))).listen(process.env.PORT);\n";
pub const COUNTER: &str = "let n = 0; setInterval(() => console.log('line', ++n), 5);\n";

/// A counter's log, in which no line may be lost, torn or doubled.
#[track_caller]
pub fn assert_complete(text: &str) {
    let lines: Vec<_> = text.lines().collect();
    let expected: Vec<_> = (1..=lines.len()).map(|n| format!("line {n}")).collect();
    assert!(lines.len() > 20 && lines == expected, "output was lost, torn or doubled: {text}");
}
