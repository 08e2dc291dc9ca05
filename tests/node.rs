//! Real Node, several majors, served by the primary in this process.
//!
//! What is needed comes from tests/npm (`tests/setup npm`); without it these tests say that they are skipped.
#![allow(clippy::unwrap_used)]

#[path = "node/apps.rs"]
mod apps;
#[path = "node/client.rs"]
mod client;
#[path = "node/drain.rs"]
mod drain;
#[path = "node/failures.rs"]
mod failures;
#[path = "node/listening.rs"]
mod listening;
#[path = "node/rig.rs"]
mod rig;
#[path = "node/successors.rs"]
mod successors;
