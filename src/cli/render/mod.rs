//! What people see, from what the daemon says. Pure: data in, text out; no clock, no terminal, no daemon.

pub mod describe;
pub mod inspect;
pub mod list;
pub mod log_line;
pub mod row;
pub mod table;

#[cfg(test)]
mod golden_tests;
