//! Handing descriptors on over execve(2), to the program that takes the place of this one under the same process id.
//!
//! Owns the list of what is handed on: a sealed file in memory whose number the next program finds in its environment.
//! Descriptors keep their numbers, so nothing is moved while other threads still use them. Must never take what was
//! meant for another process.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::execve;
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::memfd;
use super::notify::Passed;

/// Says where the list is.
pub const VARIABLE: &str = "PM2RS_HANDOVER";
/// What was meant for the program at its start by the service manager, and lies at these numbers no more.
const OUTDATED: [&str; 4] = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"];
/// A list that is longer is none of ours.
const MAX_LIST: usize = 16 << 20;

/// What the program before this one handed on.
#[derive(Debug)]
pub struct Handover {
    /// Descriptors by name, closed on exec again.
    pub passed: Vec<Passed>,
    /// The soft limit of open files with which the first of these programs was started; what has been raised since is
    /// inherited.
    pub open_files: Option<u64>,
}

/// The list. Fields may be added with a default: releases read each other's.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    /// The process that this is meant for, which is the one that wrote it.
    pid: u32,
    fds: Vec<(String, RawFd)>,
    #[serde(default)]
    open_files: Option<u64>,
}

/// Executes `program` in place of this one, with the same environment, working folder and standard descriptors, and hands
/// on `fds`. `args` begin with the name it goes by. Blocked signals stay blocked, so that none is lost in between. Returns
/// only when that failed, with nothing changed.
pub fn execute(
    program: &Path,
    args: &[OsString],
    fds: &[(String, BorrowedFd<'_>)],
    open_files: Option<u64>,
) -> io::Error {
    match try_execute(program, args, fds, open_files) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_execute(
    program: &Path,
    args: &[OsString],
    fds: &[(String, BorrowedFd<'_>)],
    open_files: Option<u64>,
) -> io::Result<std::convert::Infallible> {
    let list = List {
        pid: std::process::id(),
        fds: fds.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
        open_files,
    };
    let list = memfd::sealed("pm2rs-handover", &serde_json::to_vec(&list)?)?;
    let text = |text: &OsStr| CString::new(text.as_bytes());
    let path = text(program.as_os_str())?;
    let args = args.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
    let is_outdated = |name: &OsString| OUTDATED.iter().chain([&VARIABLE]).any(|outdated| name == outdated);
    let mut env = vec![CString::new(format!("{VARIABLE}={}", list.as_raw_fd()))?];
    for (name, value) in std::env::vars_os().filter(|(name, _)| !is_outdated(name)) {
        env.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
    }
    let all = || fds.iter().map(|(_, fd)| *fd).chain([list.as_fd()]);
    let opened = all().try_for_each(|fd| Ok(fcntl_setfd(fd, FdFlags::empty())?));
    let error = opened.map_or_else(
        |error| error,
        |()| match execve(&path, &args, &env) {
            Ok(never) => match never {},
            Err(errno) => errno.into(),
        },
    );
    for fd in all() {
        // It is open, and this is a flag that it has.
        let _ = fcntl_setfd(fd, FdFlags::CLOEXEC);
    }
    Err(error)
}

/// Takes what the program before handed on to this process, if there was one; the second call gets nothing. To be called
/// early in `main`, before anything closes descriptors that it did not open. The environment is not changed, so that
/// threads do not matter; a list that names another process is left alone.
///
/// # Errors
/// `InvalidData` for a list that cannot be understood or names descriptors that are not open.
pub fn take() -> io::Result<Option<Handover>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let Ok(number) = std::env::var(VARIABLE) else { return Ok(None) };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    let number: RawFd = number.parse().map_err(|_| invalid(format!("{VARIABLE} is no number")))?;
    // Looked at before it is owned: the variable may have been meant for another process.
    if number <= STANDARD || !is_open(number) {
        return Err(invalid(format!("{VARIABLE} names descriptor {number}, which is not open")));
    }
    // SAFETY: open, as just seen, and nothing closes it within this function; it is only looked at.
    let list = unsafe { BorrowedFd::borrow_raw(number) };
    if !memfd::is_sealed(list) {
        return Err(invalid(format!("{VARIABLE} names descriptor {number}, which is no list of ours")));
    }
    let list: List = serde_json::from_slice(&memfd::read_all(list, MAX_LIST)?)?;
    if list.pid != std::process::id() {
        return Ok(None);
    }
    check(&list, number)?;
    // SAFETY: the list was written for this process by the program that it ran before, which handed on these open
    // descriptors, each named once, for this one to own; they are taken once.
    let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
    drop(own(number));
    let passed: Vec<Passed> = list.fds.into_iter().map(|(name, number)| Passed { fd: own(number), name }).collect();
    for Passed { fd, .. } in &passed {
        fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    Ok(Some(Handover { passed, open_files: list.open_files }))
}

/// The last of the standard descriptors, which are never handed on by number.
const STANDARD: RawFd = 2;

/// All or nothing: looked at before the first one is owned.
fn check(list: &List, own_number: RawFd) -> io::Result<()> {
    let mut seen = BTreeSet::from([own_number]);
    match list.fds.iter().find(|(_, number)| *number <= STANDARD || !is_open(*number) || !seen.insert(*number)) {
        Some((name, number)) => {
            Err(invalid(format!("`{name}` was handed on as descriptor {number}, which cannot be taken")))
        }
        None => Ok(()),
    }
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: takes integers only, and changes nothing.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Set in processes of our own, which execute themselves: what is tested here ends a program.
    const STEP: &str = "PM2RS_TEST_HANDOVER";

    #[test]
    fn descriptors_go_over_an_execution_by_name() {
        let name = "sys::handover::tests::descriptors_go_over_an_execution_by_name";
        let own = std::env::current_exe().unwrap();
        let args = ["test", "--exact", name, "--nocapture"].map(OsString::from);
        match std::env::var(STEP).as_deref() {
            Ok("first") => {
                let file = memfd::sealed("one", b"content").unwrap();
                let again = [OsString::from("test"), "--exact".into(), name.into(), "--nocapture".into()];
                // SAFETY: in a process of its own, whose other threads wait for this one.
                unsafe { std::env::set_var(STEP, "second") };
                let error = execute(Path::new("/nonexistent"), &args, &[("a".to_owned(), file.as_fd())], None);
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
                assert!(rustix::io::fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC));
                panic!("{}", execute(&own, &again, &[("one".to_owned(), file.as_fd())], Some(77)));
            }
            Ok(_) => {
                let handover = take().unwrap().unwrap();
                assert_eq!(handover.open_files, Some(77));
                let [Passed { fd, name }] = &handover.passed[..] else { panic!("{:?}", handover.passed) };
                assert_eq!((name.as_str(), memfd::read_all(fd, 10).unwrap().as_slice()), ("one", &b"content"[..]));
                assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
                assert!(take().unwrap().is_none());
                println!("taken by {}", std::process::id());
            }
            Err(_) => {
                assert!(take().unwrap().is_none());
                let mut command = Command::new(&own);
                command.args(&args[1..]).env(STEP, "first").stdout(std::process::Stdio::piped());
                let child = command.spawn().unwrap();
                let pid = child.id();
                let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
                assert!(said.contains(&format!("taken by {pid}")), "{said}");
            }
        }
    }

    #[test]
    fn a_list_that_makes_no_sense_is_refused_whole() {
        let list = |numbers: &[RawFd]| List {
            pid: 1,
            fds: numbers.iter().map(|number| ("x".to_owned(), *number)).collect(),
            open_files: None,
        };
        let file = memfd::sealed("one", b"").unwrap();
        let number = file.as_raw_fd();
        assert!(check(&list(&[number]), -1).is_ok());
        for numbers in [&[number, number][..], &[0], &[-1], &[1_000_000]] {
            assert_eq!(check(&list(numbers), -1).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert!(check(&list(&[number]), number).is_err());
    }
}
