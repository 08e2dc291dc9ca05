//! The promise that no request is lost, tried with the real program, real Node and clients that never retry.
//!
//! `PM2RS_RELOADS` sets how many rounds each test makes (3), `PM2RS_THINK` how long a client pauses (30 ms; 0 loads as hard as
//! it can). Servers from npm and other majors of Node come from tests/npm (`tests/setup npm`); without them the tests that
//! need them say that they are skipped.
#![allow(clippy::unwrap_used)]

mod cli;
#[path = "load/failing.rs"]
mod failing;
#[path = "load/load.rs"]
mod load;
#[path = "load/losses.rs"]
mod losses;
#[path = "load/place.rs"]
mod place;
#[path = "load/rolling.rs"]
mod rolling;
