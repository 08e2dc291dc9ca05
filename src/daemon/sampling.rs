//! Memory and CPU of workers, read when somebody asks; nothing runs in between.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::core::WorkerId;
use crate::sys::clock;
use crate::sys::host::Host;
use crate::sys::proc::{Sample, ticks_per_second};

/// Memory and CPU of one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Resident memory in bytes.
    pub memory: u64,
    /// CPU time in percent of one CPU since the last look, or since the worker's start at the first.
    pub cpu: f64,
}

/// Two looks closer together (ms) than this give the older figure: ticks of 10 ms say nothing about less.
const MIN_INTERVAL: u64 = 200;

/// Remembers the last look at each worker.
#[derive(Debug)]
pub struct Sampler {
    seen: HashMap<WorkerId, (Sample, f64)>,
    host: (u64, Host),
    host_metrics: Value,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler { seen: HashMap::new(), host: (clock::boot_ms(), Host::look()), host_metrics: Value::Null }
    }
}

impl Sampler {
    /// Looks at a worker; zeros when it is gone.
    pub fn look(&mut self, worker: WorkerId, pid: u32, start_time: u64) -> Usage {
        let Some(sample) = Sample::take(pid, start_time) else { return Usage::default() };
        let memory = sample.rss;
        let cpu = match self.seen.get(&worker) {
            Some((last, percent)) if sample.at.saturating_sub(last.at) < MIN_INTERVAL => {
                return Usage { memory, cpu: *percent };
            }
            Some((last, _)) => sample.cpu_percent_since(last),
            None => sample.cpu_percent_since(&at_birth(start_time)),
        };
        let cpu = (cpu * 10.0).round() / 10.0;
        self.seen.insert(worker, (sample, cpu));
        Usage { memory, cpu }
    }

    /// What the machine has been doing since the last look, as the bus has it.
    pub fn host(&mut self) -> &Value {
        let now = clock::boot_ms();
        let (then, last) = &self.host;
        let elapsed = now.saturating_sub(*then);
        if elapsed >= MIN_INTERVAL || self.host_metrics.is_null() {
            let host = Host::look();
            self.host_metrics = rates(last, &host, elapsed.max(1));
            self.host = (now, host);
        }
        &self.host_metrics
    }

    /// The worker is over.
    pub fn forget(&mut self, worker: WorkerId) {
        self.seen.remove(&worker);
    }
}

/// What happened to the machine between two looks, `elapsed` milliseconds apart.
fn rates(last: &Host, host: &Host, elapsed: u64) -> Value {
    let percent = |part: u64, whole: u64| part.saturating_mul(1000).checked_div(whole).unwrap_or(0) as f64 / 10.0;
    // Another interface has other counters, and a counter may begin anew.
    let same = last.interface == host.interface;
    let per_second = |last: u64, now: u64| now.saturating_sub(last).saturating_mul(1000) / elapsed;
    let net = |last: u64, now: u64| if same { per_second(last, now) } else { 0 };
    json!({
        "cpu": percent(host.busy.saturating_sub(last.busy), host.total.saturating_sub(last.total)),
        "ram": percent(host.memory.saturating_sub(host.available), host.memory),
        "interface": host.interface,
        "received": net(last.received, host.received),
        "sent": net(last.sent, host.sent),
        "read": per_second(last.read, host.read),
        "written": per_second(last.written, host.written),
    })
}

/// A process as it was when it started (clock ticks since boot).
fn at_birth(start_time: u64) -> Sample {
    Sample { at: start_time.saturating_mul(1000) / ticks_per_second().max(1), cpu: 0, rss: 0 }
}
