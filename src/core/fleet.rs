//! The fleet: all apps, processes, workers and jobs, and the one function that changes them.

use super::{Action, Event, Now};

/// The truth.
#[derive(Debug, Default)]
pub struct Fleet {}

impl Fleet {
    /// Takes an event in and says what is to be done about it.
    pub fn step(&mut self, _event: Event, _now: Now) -> Vec<Action> {
        Vec::new()
    }
}
