//! What is known of requests that take time, for as long as somebody may ask.

use std::collections::BTreeMap;

use crate::api::{JobState, JobView};
use crate::core::{JobId, JobOutcome, Now, Time, Uid};

/// An ended job can be asked about for this long.
const KEPT_MS: u64 = 60_000;
/// Ended jobs kept at most; the oldest go first.
const KEPT: usize = 256;

/// All jobs under way and the recently ended.
#[derive(Debug, Default)]
pub struct Jobs {
    next: u32,
    views: BTreeMap<JobId, JobView>,
    ended: Vec<(Time, JobId)>,
}

impl Jobs {
    /// Numbers go on after `last`, the last of the daemon before.
    pub fn continue_after(&mut self, last: u32) {
        self.next = self.next.max(last);
    }

    /// Goes on with the jobs of the daemon before, so that whoever waits for one finds it again. Of those that were under
    /// way the core must still know; the others have come to an end that nobody has heard of.
    pub fn take_over(&mut self, views: Vec<JobView>, is_known: impl Fn(JobId) -> bool, now: Now) {
        for mut view in views {
            let id = JobId(view.id);
            if view.state == JobState::Running && !is_known(id) {
                view.state = JobState::Failed;
                "the daemon ended just when this did; see the list for what has become of it"
                    .clone_into(&mut view.message);
            }
            if view.state != JobState::Running {
                self.ended.push((now.mono, id));
            }
            self.views.insert(id, view);
        }
    }

    /// The last number given out.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.next
    }

    /// Opens a job.
    pub fn open(&mut self, kind: &str, target: String, owner: Uid) -> JobId {
        self.next += 1;
        let id = JobId(self.next);
        let view = JobView {
            id: id.0,
            kind: kind.to_owned(),
            target,
            owner: owner.0,
            state: JobState::Running,
            done: 0,
            total: 0,
            message: String::new(),
            warnings: Vec::new(),
        };
        self.views.insert(id, view);
        id
    }

    /// Notes progress.
    pub fn progress(&mut self, job: JobId, done: u32, total: u32) -> Option<&JobView> {
        let view = self.views.get_mut(&job)?;
        view.done = done;
        view.total = total;
        Some(view)
    }

    /// Notes the end.
    pub fn finish(&mut self, job: JobId, outcome: JobOutcome, now: Now) -> Option<&JobView> {
        let view = self.views.get_mut(&job)?;
        match outcome {
            JobOutcome::Done { warnings } => {
                view.state = JobState::Done;
                view.warnings = warnings;
            }
            JobOutcome::Failed { message, .. } => {
                view.state = JobState::Failed;
                view.message = message;
            }
            JobOutcome::Cancelled => {
                view.state = JobState::Cancelled;
                "cancelled".clone_into(&mut view.message);
            }
        }
        self.ended.push((now.mono, job));
        self.views.get(&job)
    }

    /// One job.
    #[must_use]
    pub fn get(&self, job: JobId) -> Option<&JobView> {
        self.views.get(&job)
    }

    /// All that are known.
    pub fn all(&self) -> impl Iterator<Item = &JobView> {
        self.views.values()
    }

    /// When the next ended job is to be forgotten.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Time> {
        self.ended.first().map(|(at, _)| at.after(KEPT_MS))
    }

    /// Forgets ended jobs whose time is over, and the oldest beyond the bound.
    pub fn expire(&mut self, now: Now) -> Vec<JobId> {
        let surplus = self.ended.len().saturating_sub(KEPT);
        let old = self.ended.iter().take_while(|(at, _)| at.after(KEPT_MS) <= now.mono).count();
        let gone: Vec<JobId> = self.ended.drain(..surplus.max(old)).map(|(_, job)| job).collect();
        for job in &gone {
            self.views.remove(job);
        }
        gone
    }
}
