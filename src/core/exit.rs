//! How a worker ended.

use serde::{Deserialize, Serialize};

/// The way a process ended, as waitid(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It called exit(3) with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It is gone and the kernel does not tell how (an adopted worker before Linux 6.15).
    Unknown,
}
