//! What can be wrong with a configuration, in words for the person who wrote it.

use std::fmt;
use std::path::PathBuf;

/// Why a configuration cannot be used. The text is whole: where, what, and what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("File {} not found", .0.display())]
    NoSuchFile(PathBuf),
    /// The file is there and cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file, or what its code returned, is larger than any configuration is.
    #[error("cannot read `{file}`: it is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        file: String,
        /// The bound.
        limit: usize,
    },
    /// The file is not what its name says. The message carries line and column where the parser knows them.
    #[error("File {file} malformated: {message}")]
    Malformed {
        /// Which, with `:LINE:COLUMN` where known.
        file: String,
        /// What the parser says.
        message: String,
    },
    /// The file is JavaScript and its code failed; the message is Node's own.
    #[error("File {file} malformated: {message}")]
    Evaluation {
        /// Which.
        file: String,
        /// What Node says, with file and line.
        message: String,
    },
    /// Node is needed to read this file and cannot be started.
    #[error("cannot read `{file}`: Node.js is needed for it, and `node` {message}")]
    NoNode {
        /// Which.
        file: String,
        /// Why.
        message: String,
    },
    /// The file's code does not come to an end.
    #[error("cannot read `{file}`: its code did not finish within {seconds} s")]
    Timeout {
        /// Which.
        file: String,
        /// How long it had.
        seconds: u64,
    },
    /// The file has no app in it.
    #[error("No app in `{file}`: expected a list named \"apps\", a list, or an object with a \"script\"")]
    NoApps {
        /// Which.
        file: String,
    },
    /// A key's value is not what it must be.
    #[error("{problem}{place}")]
    Key {
        /// Which app of which file, or nothing for an option.
        place: Place,
        /// The whole sentence, naming the key.
        problem: String,
    },
    /// An app says nothing about what to run.
    #[error("No script path: key \"script\" is missing{place}")]
    NoScript {
        /// Which app of which file.
        place: Place,
    },
    /// What is to be run is neither a file nor a program in PATH.
    #[error("Script not found: {}", .0.display())]
    ScriptNotFound(PathBuf),
    /// What is to run the script is not there.
    #[error("Interpreter {interpreter} is NOT AVAILABLE in PATH. (type 'which {interpreter}' to double check.){place}")]
    NoInterpreter {
        /// Which.
        interpreter: String,
        /// Which app of which file.
        place: Place,
    },
    /// The interpreter is there and cannot run this script.
    #[error("{problem}{place}")]
    Interpreter {
        /// The whole sentence.
        problem: String,
        /// Which app of which file.
        place: Place,
    },
    /// `--env` without a file.
    #[error("Using --env [env] without passing the ecosystem.config.js does not work")]
    EnvWithoutFile,
    /// A saved process list cannot be read.
    #[error("cannot read the saved process list `{file}`: {message}")]
    Dump {
        /// Which file.
        file: String,
        /// Why.
        message: String,
    },
    /// A saved process list cannot be written.
    #[error("cannot write the saved process list `{file}`: {cause}")]
    DumpWrite {
        /// Which file.
        file: String,
        /// Why.
        cause: std::io::Error,
    },
    /// A spec that came from elsewhere breaks a rule.
    #[error("invalid {key}: {problem}")]
    Spec {
        /// Which key.
        key: &'static str,
        /// Why; never with the value of an environment variable.
        problem: String,
    },
}

impl ConfigError {
    /// Whether the app is described well, and what it needs is not on this machine.
    #[must_use]
    pub fn is_about_what_is_absent(&self) -> bool {
        matches!(
            self,
            ConfigError::ScriptNotFound(_) | ConfigError::NoInterpreter { .. } | ConfigError::Interpreter { .. }
        )
    }
}

/// Where in the configuration something was found; empty for options of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The file as the user named it.
    pub file: Option<String>,
    /// The app's name, or its number in the file.
    pub app: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.app, &self.file) {
            (Some(app), Some(file)) => write!(f, " (app `{app}` of `{file}`)"),
            (Some(app), None) => write!(f, " (app `{app}`)"),
            (None, Some(file)) => write!(f, " (`{file}`)"),
            (None, None) => Ok(()),
        }
    }
}

/// Something the person should know although it does not stop anything. Never holds a variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
