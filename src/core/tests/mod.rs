//! Tests of the core: the tables, stories of single events, and random sequences of them. All in simulated time.

// Events and operations are made for the call.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

mod ending;
mod patience;
mod random;
mod reloading;
mod requests;
mod simulator;
mod starting;
mod tables;
