//! The one binary: parses nothing itself, hands over to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    pm2rs::cli::main()
}
