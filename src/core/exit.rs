//! How a worker ended.

use std::fmt;

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

/// signal(7), the numbers of x86-64 and arm64; index is the number less one.
const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// A signal's name, `SIG40` for those that have none.
fn signal_name(number: i32) -> String {
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    match index.and_then(|index| SIGNALS.get(index)) {
        Some(name) => (*name).to_owned(),
        None => format!("SIG{number}"),
    }
}

impl Exit {
    /// The name of the signal that ended it.
    #[must_use]
    pub fn signal_name(self) -> Option<String> {
        match self {
            Exit::Signal(number) => Some(signal_name(number)),
            Exit::Code(_) | Exit::Unknown => None,
        }
    }

    /// What PM2 writes after `exited with`. Its scripts' readers expect both brackets, whichever of the two applies.
    #[must_use]
    pub fn in_pm2_words(self) -> String {
        match self {
            Exit::Code(code) => format!("code [{code}] via signal [none]"),
            Exit::Signal(number) => format!("code [0] via signal [{}]", signal_name(number)),
            Exit::Unknown => "code [unknown] via signal [unknown]".to_owned(),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "code {code}"),
            Exit::Signal(number) => f.write_str(&signal_name(*number)),
            Exit::Unknown => f.write_str("an unknown status"),
        }
    }
}
