//! How a command ends: PM2's exit codes, and failures with what is said about them.

use std::process::ExitCode;

/// PM2's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done, or there was nothing to do.
    Success = 0,
    /// Anything that went wrong, wrong input included.
    Failure = 1,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed. All of them exit with [`Exit::Failure`]; they differ in how they are said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The command line makes no sense; said as PM2's parser says it.
    #[error("{0}")]
    Usage(String),
    /// It could not be done: `[PM2][ERROR] …` on standard error.
    #[error("{0}")]
    Error(String),
    /// There was nothing to do it to: `[PM2][WARN] …` on standard error.
    #[error("{0}")]
    Warning(String),
    /// Everything has been said already.
    #[error("failed")]
    Said,
}

impl Failure {
    /// A failure with this message.
    pub fn error(message: impl Into<String>) -> Failure {
        Failure::Error(message.into())
    }
}
