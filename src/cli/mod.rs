//! The command line: what people type, what they see.

mod args;
mod console;
mod exit;
mod line;
mod options;
mod render;
mod suggest;
mod unsupported;

use std::process::ExitCode;

/// Entry point of the binary.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
