//! Resource limits: what the daemon raises for itself and what its workers get back.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Says which soft limit of open files is for what the daemon starts, where its own must be higher: a few hundred workers
/// have thousands of descriptors, and neither does systemd pass more than the limit, nor can a program that was passed as
/// many open its libraries.
pub const VARIABLE: &str = "PM2RS_OPEN_FILES";

/// A limit of setrlimit(2). [`u64::MAX`] is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Of what.
    pub resource: Resource,
    /// What counts.
    pub soft: u64,
    /// Up to where the process may raise it itself.
    pub hard: u64,
}

impl Limit {
    /// The same with another soft limit, as far as it goes: one above the hard limit would be refused (setrlimit(2)), and
    /// with it every start.
    #[must_use]
    pub fn with_soft(self, soft: u64) -> Limit {
        Limit { soft: soft.min(self.hard), ..self }
    }
}

/// Raises this process's own limit of open descriptors as far as it may: the daemon holds pipes, channels and sockets
/// of all workers. Returns the limit as it was, which is the one that workers should have: software that uses
/// select(2) breaks above 1024, so systemd and distributions keep the soft limit low on purpose.
///
/// # Errors
/// When the limit cannot be read or changed; it is then as it was.
pub fn raise_open_files() -> io::Result<Limit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(Limit { resource: Resource::RLIMIT_NOFILE, soft, hard })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_rises_to_the_hard_one() {
        let before = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let original = raise_open_files().unwrap();
        assert_eq!((original.soft, original.hard), before);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (before.1, before.1));
        assert_eq!(raise_open_files().unwrap().soft, before.1, "raising twice changes nothing more");
    }
}
