//! How a command ends: PM2's exit codes, and failures with what is said about them.

use std::process::ExitCode;

use super::console::Console;
use crate::api;
use crate::config::ConfigError;

/// PM2's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done, or there was nothing to do.
    Success = 0,
    /// Anything that went wrong, wrong input included.
    Failure = 1,
    /// Nothing that `pm2-runtime` started runs any more.
    NothingRuns = 2,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed. All but one exit with [`Exit::Failure`]; they differ in how they are said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The command line makes no sense; said as PM2's parser says it.
    #[error("{0}")]
    Usage(String),
    /// It could not be done: `[PM2][ERROR] …` on standard error.
    #[error("{0}")]
    Error(String),
    /// A key of the configuration is wrong: an error, and for scripts the warning that PM2 has on standard output.
    #[error("{0}")]
    Configuration(String),
    /// There was nothing to do it to: `[PM2][WARN] …` on standard error.
    #[error("{0}")]
    Warning(String),
    /// Everything has been said already.
    #[error("failed")]
    Said,
    /// `pm2-runtime` has nothing left to wait for; exits with [`Exit::NothingRuns`].
    #[error("no app runs any more")]
    NothingRuns,
}

impl Failure {
    /// A failure with this message.
    pub fn error(message: impl Into<String>) -> Failure {
        Failure::Error(message.into())
    }

    /// Says it, and with what code to exit.
    pub fn tell(&self, console: &Console) -> Exit {
        match self {
            Failure::Usage(message) => console.notice(format!("\n  error: {message}\n")),
            Failure::Error(message) => console.error(message),
            Failure::Configuration(message) => {
                if console.width.is_none() {
                    console.warn(message);
                }
                console.error(message);
            }
            Failure::Warning(message) => console.warn_aside(message),
            Failure::Said => {}
            Failure::NothingRuns => {
                console.error(self.to_string());
                return Exit::NothingRuns;
            }
        }
        Exit::Failure
    }
}

/// The daemon's refusals in PM2's words.
impl From<api::Error> for Failure {
    fn from(error: api::Error) -> Failure {
        match error {
            api::Error::NoSuchTarget(target) => Failure::Error(no_such_target(&target)),
            api::Error::NoProcess => Failure::Warning("No process found".to_owned()),
            api::Error::ScriptNotFound(script) => Failure::Error(format!("Script not found: {script}")),
            api::Error::AlreadyLaunched(_) => {
                Failure::error("Script already launched, add -f option to force re-execution")
            }
            api::Error::NothingToDo => Failure::error("Nothing to do"),
            // It may have died of it, before or after.
            gone @ api::Error::Unreachable(_) => {
                Failure::Error(format!("{gone}; whether it has done what it was asked for shows in `pm2rs list`"))
            }
            idle @ api::Error::NotStarted(_) => {
                let idle = idle.to_string();
                let idle = idle.trim_end_matches('.');
                Failure::Error(format!(
                    "{idle}; see `systemctl status pm2rs` (`systemctl --user` for your own service)"
                ))
            }
            other => Failure::Error(other.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        match error {
            ConfigError::Key { .. } => Failure::Configuration(error.to_string()),
            _ => Failure::Error(error.to_string()),
        }
    }
}

/// PM2 has one sentence for ids and one for names.
pub fn no_such_target(target: &str) -> String {
    if target.parse::<u32>().is_ok() {
        format!("{target} : id unknown")
    } else {
        format!("Process or Namespace {target} not found")
    }
}
