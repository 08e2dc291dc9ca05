//! Why a process could not be started, in words for people.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::About;
use super::child::Report;

/// The step at which it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Getting ready, in the parent.
    Prepare,
    /// Making a process.
    Fork,
    /// Entering the cgroup.
    Cgroup,
    /// Becoming the leader of a session.
    Session,
    /// Giving descriptors their numbers.
    Descriptors,
    /// Setting resource limits.
    Limits,
    /// Setting the nice value.
    Priority,
    /// Taking on groups.
    Groups,
    /// Taking on the user.
    User,
    /// Entering the working folder.
    Folder,
    /// Executing the program.
    Exec,
}

impl Stage {
    pub(super) const ALL: [Stage; 11] = [
        Stage::Prepare,
        Stage::Fork,
        Stage::Cgroup,
        Stage::Session,
        Stage::Descriptors,
        Stage::Limits,
        Stage::Priority,
        Stage::Groups,
        Stage::User,
        Stage::Folder,
        Stage::Exec,
    ];
}

/// Why a process could not be started; there is none then. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpawnError {
    /// Where it failed.
    pub stage: Stage,
    /// What it was about: the program, or the working folder for [`Stage::Folder`].
    pub path: PathBuf,
    /// The kernel's word for it.
    pub errno: i32,
    message: String,
}

impl SpawnError {
    /// Whether trying again can help: something had run out, or took too long.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let passing = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::ETIMEDOUT, libc::ETXTBSY];
        passing.contains(&self.errno)
    }

    /// Of a step that the parent does.
    pub(super) fn of_parent(stage: Stage, about: &About, source: &io::Error) -> SpawnError {
        let Some(errno) = source.raw_os_error() else {
            return SpawnError::new(
                stage,
                &about.program,
                libc::EINVAL,
                format!("cannot start `{}`: {source}", about.program.display()),
            );
        };
        let cause = match (stage, Errno::from_raw(errno)) {
            (Stage::Fork, Errno::EAGAIN) => "the limit of processes or tasks is reached".to_owned(),
            (_, Errno::ENOMEM) => "there is not enough memory".to_owned(),
            (_, Errno::EMFILE | Errno::ENFILE) => "too many descriptors are open".to_owned(),
            (_, other) => other.desc().to_lowercase(),
        };
        SpawnError::new(stage, &about.program, errno, format!("cannot start `{}`: {cause}", about.program.display()))
    }

    /// Of what a child reported.
    pub(super) fn of_child(report: &Report, about: &About) -> SpawnError {
        let stage = report.stage();
        let errno = Errno::from_raw(report.errno());
        let program = about.program.display();
        let plain = errno.desc().to_lowercase();
        let user = about.user.as_deref().map_or_else(String::new, |user| format!("user `{user}`"));
        let (path, message) = match stage {
            Stage::Exec => (&about.program, format!("cannot start `{program}`: {}", exec_cause(report, errno, &user))),
            Stage::Folder => {
                let cause = match errno {
                    Errno::ENOENT => "no such folder".to_owned(),
                    Errno::ENOTDIR => "not a folder".to_owned(),
                    Errno::EACCES if !user.is_empty() => format!("{user} may not enter it"),
                    _ => plain,
                };
                (&about.cwd, format!("cannot enter working folder `{}`: {cause}", about.cwd.display()))
            }
            Stage::User | Stage::Groups => {
                let cause = if errno == Errno::EPERM { "only root may".to_owned() } else { plain };
                (&about.program, format!("cannot start `{program}` as {user}: {cause}"))
            }
            Stage::Limits => (&about.program, format!("cannot set resource limits of `{program}`: {plain}")),
            Stage::Priority => (&about.program, format!("cannot set the nice value of `{program}`: {plain}")),
            Stage::Cgroup => (&about.program, format!("cannot put `{program}` into its cgroup: {plain}")),
            Stage::Descriptors => (&about.program, format!("cannot give `{program}` its descriptors: {plain}")),
            Stage::Prepare | Stage::Fork | Stage::Session => {
                (&about.program, format!("cannot start `{program}`: {plain}"))
            }
        };
        SpawnError::new(stage, path, errno as i32, message)
    }

    /// Of a child that did not get there.
    pub(super) fn timed_out(about: &About, deadline: Duration) -> SpawnError {
        let message = format!(
            "cannot start `{}` in `{}`: nothing happened for {} ms; does a network share hang?",
            about.program.display(),
            about.cwd.display(),
            deadline.as_millis()
        );
        SpawnError::new(Stage::Exec, &about.program, libc::ETIMEDOUT, message)
    }

    fn new(stage: Stage, path: &Path, errno: i32, message: String) -> SpawnError {
        SpawnError { stage, path: path.to_owned(), errno, message }
    }
}

/// What kept a program from being executed.
fn exec_cause(report: &Report, errno: Errno, user: &str) -> String {
    let user = if user.is_empty() { "the user" } else { user };
    let interpreter = shebang(report.head());
    match errno {
        Errno::ENOENT if !report.program_exists() => "no such file".to_owned(),
        Errno::ENOENT => match interpreter {
            // A file edited on Windows: the kernel takes the carriage return as part of the name.
            Some(name) if name.ends_with('\r') => {
                format!(
                    "its first line names the interpreter `{}` and ends with CR LF, which must be LF",
                    name.trim_end()
                )
            }
            Some(name) => format!("its first line names the interpreter `{name}`, which does not exist"),
            None => "the loader it was linked for does not exist; is it for another system?".to_owned(),
        },
        Errno::EACCES if report.program_is_folder() => "it is a folder".to_owned(),
        Errno::EACCES if report.program_is_executable() => match interpreter {
            Some(name) => format!("its first line names the interpreter `{name}`, which {user} may not execute"),
            None => "it lies on a file system from which nothing may be executed".to_owned(),
        },
        Errno::EACCES if report.program_exists() => format!("{user} may not execute it (chmod +x)"),
        Errno::EACCES => format!("{user} may not enter a folder on the way to it"),
        Errno::ENOEXEC => "it is neither a program for this machine nor a script with a `#!` line".to_owned(),
        Errno::E2BIG => "its arguments and environment are too long".to_owned(),
        Errno::EAGAIN => format!("{user} has as many processes as allowed"),
        Errno::ENOMEM => "there is not enough memory".to_owned(),
        Errno::ETXTBSY => "it is being written to".to_owned(),
        Errno::ELOOP => "too many symbolic links, or interpreters that name each other".to_owned(),
        other => other.desc().to_lowercase(),
    }
}

/// The interpreter that a script's first line names.
fn shebang(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let line = line.trim_ascii_start();
    let end = line.iter().position(|&b| b == b' ' || b == b'\t').unwrap_or(line.len());
    Some(String::from_utf8_lossy(line.get(..end)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_the_first_word() {
        let of = |line: &[u8]| shebang(line);
        assert_eq!(of(b"#!/bin/sh\n").as_deref(), Some("/bin/sh"));
        assert_eq!(of(b"#! /usr/bin/env node\nx").as_deref(), Some("/usr/bin/env"));
        assert_eq!(of(b"#!/bin/x\r\n").as_deref(), Some("/bin/x\r"));
        assert_eq!(of(b"\x7fELF"), None);
        assert_eq!(of(b""), None);
    }

    #[test]
    fn every_stage_is_listed_under_its_number() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
        }
    }
}
