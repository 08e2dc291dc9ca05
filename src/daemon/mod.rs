//! The shell around the core: performs its actions, turns what happens into its events.
//!
//! One loop owns everything mutable; everybody else holds a [`Handle`] and sends requests.

mod handle;

pub use handle::{Caller, Change, Handle, LogRequest, Reply, Request, StartOptions, UpdateOptions, What};
