//! Memory and CPU of workers, read when somebody asks; nothing runs in between.

use std::collections::HashMap;

use crate::core::WorkerId;
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
#[derive(Debug, Default)]
pub struct Sampler {
    seen: HashMap<WorkerId, (Sample, f64)>,
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

    /// The worker is over.
    pub fn forget(&mut self, worker: WorkerId) {
        self.seen.remove(&worker);
    }
}

/// A process as it was when it started (clock ticks since boot).
fn at_birth(start_time: u64) -> Sample {
    Sample { at: start_time.saturating_mul(1000) / ticks_per_second().max(1), cpu: 0, rss: 0 }
}
