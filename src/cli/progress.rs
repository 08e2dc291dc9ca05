//! The progress of a job, drawn on a terminal once it takes noticeably long. Scripts see nothing of it.

use std::time::Duration;

use tokio::time::{Instant, interval_at};
use zbus::OwnedObjectPath;

use super::console::Console;
use crate::api::{self, Client, Outcome};

/// What takes less is not worth a word.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two drawings.
const FRAME: Duration = Duration::from_millis(120);
/// Columns of the bar.
const BAR: usize = 24;

/// A line on standard error that is drawn over and over.
#[derive(Debug)]
pub struct Progress {
    console: Console,
    what: String,
}

impl Progress {
    /// The progress of what is named so: `restart api`.
    pub fn new(console: Console, what: &str) -> Progress {
        Progress { console, what: what.to_owned() }
    }

    /// Waits for the job, drawing meanwhile.
    pub async fn during(&self, client: &Client, job: &OwnedObjectPath) -> Result<Outcome, api::Error> {
        if !self.console.interactive {
            return client.wait(job).await;
        }
        let proxy = client.job(job).await?;
        let mut frames = interval_at(Instant::now() + PATIENCE, FRAME);
        let wait = client.wait(job);
        tokio::pin!(wait);
        let mut drawn = false;
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut wait => break outcome,
                _ = frames.tick() => {
                    if let (Ok(done), Ok(total)) = (proxy.done().await, proxy.total().await) {
                        self.console.aside(&frame(&self.what, done, total));
                        drawn = true;
                    }
                }
            }
        };
        if drawn {
            self.console.aside(ERASE);
        }
        outcome
    }
}

/// Back to the line's start and erase it (ECMA-48 EL).
const ERASE: &str = "\r\x1b[K";

fn frame(what: &str, done: u32, total: u32) -> String {
    let (part, whole) = (u64::from(done.min(total)), u64::from(total.max(1)));
    let filled = usize::try_from(part * BAR as u64 / whole).unwrap_or_default();
    format!("{ERASE}{what} [{}{}] {done}/{total}", "#".repeat(filled), "-".repeat(BAR - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_fills_with_the_steps() {
        assert_eq!(frame("reload api", 0, 4), format!("{ERASE}reload api [{}] 0/4", "-".repeat(24)));
        assert_eq!(frame("reload api", 2, 4), format!("{ERASE}reload api [{}{}] 2/4", "#".repeat(12), "-".repeat(12)));
        assert_eq!(frame("reload api", 0, 0), format!("{ERASE}reload api [{}] 0/0", "-".repeat(24)));
    }
}
