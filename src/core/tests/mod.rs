//! Tests of the core: the tables, stories of single events, and random sequences of them. All in simulated time.

#![allow(clippy::unwrap_used)]

mod ending;
mod random;
mod reloading;
mod requests;
mod simulator;
mod starting;
mod tables;
