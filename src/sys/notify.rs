//! The service manager's side channel, sd_notify(3): what the daemon tells it, what it keeps for the daemon, and what it
//! has passed to it at its start, sd_listen_fds(3).
//!
//! Owns these protocols, whoever speaks them: systemd, or the keeper in its place. Must never block for long: a
//! manager that is stuck must not stop supervision. The words are the sd-notify crate's; the sending is ours, because
//! it must not block, knows addresses in the abstract namespace, and waits for a barrier.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sd_notify::NotifyState;

use super::clock;
use super::socket;
use super::watched::Watched;

/// Variables that were meant for this process alone; what it starts must not inherit them.
pub const VARIABLES: [&str; 7] =
    ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// How long a manager that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
    /// How long a manager that does not read is waited for.
    patience: Duration,
}

/// Something to tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice<'a> {
    /// Start or reload is complete.
    Ready,
    /// A reload begins; `Ready` ends it.
    Reloading,
    /// The end begins.
    Stopping,
    /// A line for `systemctl status`; line breaks become spaces.
    Status(&'a str),
    /// Still alive.
    Watchdog,
    /// Start or stop takes at least so much longer from now.
    ExtendTimeout(Duration),
    /// Why it failed, as an errno.
    Errno(i32),
}

impl Notifier {
    /// To whom `NOTIFY_SOCKET` names; `None` where there is nobody to tell.
    ///
    /// # Errors
    /// When there is, and it cannot be reached.
    pub fn from_environment() -> io::Result<Option<Notifier>> {
        std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()).map(|a| Notifier::to(&a)).transpose()
    }

    /// To this address: an absolute path, or `@` and a name in the abstract namespace.
    ///
    /// # Errors
    /// `Unsupported` for other kinds of address; as connect(2).
    pub fn to(address: &OsStr) -> io::Result<Notifier> {
        let peer = match address.as_bytes() {
            [b'/', ..] => SocketAddrUnix::new(address)?,
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            _ => {
                let problem = format!("NOTIFY_SOCKET `{}` is of an unknown kind", address.display());
                return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
            }
        };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &peer)?;
        Ok(Notifier { socket, patience: PATIENCE })
    }

    /// Tells it all of these, in one message.
    ///
    /// # Errors
    /// When it is gone, or does not read for two seconds.
    pub fn send(&self, notices: &[Notice<'_>]) -> io::Result<()> {
        let mut text = String::new();
        for notice in notices {
            notice.append_to(&mut text);
        }
        self.send_text(&text, None)
    }

    /// Has it keep a descriptor, to be passed back to the next daemon under this name; several may have the same. It
    /// keeps a duplicate, also beyond our own close. With `unless_hung_up` it drops it by itself once the other end is
    /// gone (systemd's default); else it keeps it whatever happens.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not [valid](is_valid_name); else as [`Notifier::send`]. That it has been kept
    /// is not told: a full store only logs.
    pub fn store(&self, name: &str, fd: BorrowedFd<'_>, unless_hung_up: bool) -> io::Result<()> {
        check_name(name)?;
        let mut text = String::new();
        append(&mut text, &[NotifyState::FdStore, NotifyState::FdName(name)]);
        if !unless_hung_up {
            append(&mut text, &[NotifyState::Custom("FDPOLL=0")]);
        }
        self.send_text(&text, Some(fd))
    }

    /// Has it drop all descriptors of this name.
    ///
    /// # Errors
    /// As [`Notifier::store`].
    pub fn unstore(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut text = String::new();
        append(&mut text, &[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        self.send_text(&text, None)
    }

    /// Waits until it has worked off all that was sent before.
    ///
    /// # Errors
    /// `TimedOut` after the deadline; as [`Notifier::send`].
    pub async fn barrier(&self, deadline: Duration) -> io::Result<()> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        self.send_text("BARRIER=1", Some(theirs.as_fd()))?;
        drop(theirs);
        // It closes its end when it comes to the message (sd_notify_barrier(3)).
        let closed = Watched::with_interest(ours, tokio::io::Interest::READABLE)?;
        let _ = tokio::time::timeout(deadline, closed.readable()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(())
    }

    /// Tells it what somebody else has said, word for word.
    ///
    /// # Errors
    /// As [`Notifier::send`].
    pub fn pass_on(&self, text: &str) -> io::Result<()> {
        self.send_text(text, None)
    }

    fn send_text(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        loop {
            match socket::send(&self.socket, text.as_bytes(), fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for_room()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                other => return other.map(drop),
            }
        }
    }

    fn wait_for_room(&self) -> io::Result<()> {
        let timeout = rustix::event::Timespec::try_from(self.patience).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Notice<'_> {
    fn append_to(self, text: &mut String) {
        let line;
        let states: &[NotifyState<'_>] = match self {
            Notice::Ready => &[NotifyState::Ready],
            // systemd 253 and later want to know the moment (Type=notify-reload).
            Notice::Reloading => {
                &[NotifyState::Reloading, NotifyState::MonotonicUsec(i128::from(clock::monotonic_us()))]
            }
            Notice::Stopping => &[NotifyState::Stopping],
            Notice::Status(status) => {
                line = status.replace(['\n', '\r'], " ");
                &[NotifyState::Status(&line)]
            }
            Notice::Watchdog => &[NotifyState::Watchdog],
            Notice::ExtendTimeout(time) => {
                &[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]
            }
            Notice::Errno(errno) => &[NotifyState::Errno(errno.unsigned_abs())],
        };
        append(text, states);
    }
}

fn append(text: &mut String, states: &[NotifyState<'_>]) {
    for state in states {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{state}");
    }
}

/// Whether a descriptor may be stored under this name: 1 to 255 printable ASCII characters without `:`.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| matches!(b, b' '..=b'~') && b != b':')
}

fn check_name(name: &str) -> io::Result<()> {
    let problem = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is no name for a descriptor"));
    if is_valid_name(name) { Ok(()) } else { Err(problem()) }
}

/// How often at the latest the manager wants to hear [`Notice::Watchdog`]; half of it is a good rhythm. `None` when
/// it does not care.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval_for(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref(), std::process::id())
}

fn interval_for(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let meant_for_us = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec: u64 = usec?.parse().ok()?;
    (meant_for_us && usec > 0).then(|| Duration::from_micros(usec))
}

/// A descriptor that the manager passed: a socket of a .socket unit, or something out of the store.
#[derive(Debug)]
pub struct Passed {
    /// The descriptor, closed on exec.
    pub fd: OwnedFd,
    /// Its name (FileDescriptorName=, FDNAME=); `unknown` without one. Several may have the same.
    pub name: String,
}

/// Takes what the manager passed to this process, in its order; the second call gets nothing. To be called early in
/// `main`, before anything closes descriptors that it did not open. The environment is not changed, so that threads
/// do not matter; [`VARIABLES`] are to be kept from what is started.
///
/// # Errors
/// `InvalidData` for variables that are not understood or descriptors that are not open.
pub fn take_passed() -> io::Result<Vec<Passed>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var(name).ok();
    let count = count_for(variable("LISTEN_FDS").as_deref(), variable("LISTEN_PID").as_deref(), std::process::id())?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let end = FIRST.checked_add(count).ok_or_else(|| invalid("LISTEN_FDS is too large"))?;
    // All or nothing: looked at before the first one is owned.
    for number in FIRST..end {
        // SAFETY: takes integers only, and changes one flag of what was passed to this process, if it was.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(invalid(&format!("LISTEN_FDS promises descriptor {number}, which is not open")));
        }
    }
    let names = names_for(variable("LISTEN_FDNAMES").as_deref(), count);
    // SAFETY: open, as just seen, and passed to this process to own; taken once, so that nobody else owns them.
    let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
    Ok((FIRST..end).map(own).zip(names).map(|(fd, name)| Passed { fd, name }).collect())
}

/// The first descriptor that is passed (SD_LISTEN_FDS_START).
pub(super) const FIRST: RawFd = 3;

fn count_for(fds: Option<&str>, pid: Option<&str>, own: u32) -> io::Result<RawFd> {
    let (Some(fds), Some(pid)) = (fds, pid) else { return Ok(0) };
    let pid: u32 = pid.parse().map_err(|_| invalid("LISTEN_PID is no number"))?;
    if pid != own {
        return Ok(0);
    }
    let count: RawFd = fds.parse().map_err(|_| invalid("LISTEN_FDS is no number"))?;
    if count < 0 { Err(invalid("LISTEN_FDS is negative")) } else { Ok(count) }
}

fn names_for(names: Option<&str>, count: RawFd) -> Vec<String> {
    let mut given = names.into_iter().flat_map(|names| names.split(':'));
    (0..count).map(|_| given.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned()).collect()
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn manager() -> (tempfile::TempDir, UnixDatagram, Notifier) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let notifier = Notifier::to(path.as_os_str()).unwrap();
        (dir, socket, notifier)
    }

    fn next(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
        let mut buffer = [0; 4096];
        let got = socket::receive(socket, &mut buffer, false).unwrap();
        (String::from_utf8(buffer[..got.bytes].to_vec()).unwrap(), got.fds)
    }

    #[test]
    fn notices_are_lines_of_one_message() {
        let (_dir, socket, notifier) = manager();
        notifier
            .send(&[
                Notice::Ready,
                Notice::Status("3 apps,\n12 processes"),
                Notice::Watchdog,
                Notice::ExtendTimeout(Duration::from_millis(1500)),
                Notice::Stopping,
                Notice::Errno(2),
            ])
            .unwrap();
        let wanted =
            "READY=1\nSTATUS=3 apps, 12 processes\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=1500000\nSTOPPING=1\nERRNO=2\n";
        assert_eq!(next(&socket).0, wanted);
        notifier.send(&[Notice::Reloading]).unwrap();
        assert!(next(&socket).0.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    }

    #[test]
    fn descriptors_are_stored_by_name() {
        let (_dir, socket, notifier) = manager();
        let zero = std::fs::File::open("/dev/zero").unwrap();
        notifier.store("listen-3", zero.as_fd(), false).unwrap();
        let (text, fds) = next(&socket);
        assert_eq!((text.as_str(), fds.len()), ("FDSTORE=1\nFDNAME=listen-3\nFDPOLL=0\n", 1));
        notifier.store("a", zero.as_fd(), true).unwrap();
        assert_eq!(next(&socket).0, "FDSTORE=1\nFDNAME=a\n");
        notifier.unstore("a").unwrap();
        assert_eq!(next(&socket).0, "FDSTOREREMOVE=1\nFDNAME=a\n");
        for name in ["", "a:b", "a\nb", "\u{e4}", &"x".repeat(256)] {
            assert_eq!(notifier.unstore(name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[tokio::test]
    async fn a_barrier_holds_until_the_manager_came_to_it() {
        let (_dir, socket, notifier) = manager();
        let early = notifier.barrier(Duration::from_millis(20)).await;
        assert_eq!(early.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(next(&socket).0, "BARRIER=1");
        let waiting = notifier.barrier(Duration::from_secs(20));
        let reading = async {
            tokio::task::yield_now().await;
            drop(next(&socket));
        };
        tokio::join!(waiting, reading).0.unwrap();
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for_long() {
        let (_dir, _socket, mut notifier) = manager();
        notifier.patience = Duration::from_millis(30);
        let begun = std::time::Instant::now();
        let error = loop {
            if let Err(error) = notifier.send(&[Notice::Watchdog]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= notifier.patience && begun.elapsed() < PATIENCE);
    }

    #[test]
    fn addresses_may_be_abstract_but_not_anything() {
        let name = format!("pm2rs-test-{}", std::process::id());
        let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        let socket = UnixDatagram::bind_addr(&address.unwrap()).unwrap();
        let notifier = Notifier::to(OsStr::new(&format!("@{name}"))).unwrap();
        notifier.send(&[Notice::Ready]).unwrap();
        assert_eq!(next(&socket).0, "READY=1\n");
        assert_eq!(Notifier::to(OsStr::new("vsock:2:1")).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn variables_are_obeyed_only_when_meant_for_us() {
        assert_eq!(count_for(Some("2"), Some("7"), 7).unwrap(), 2);
        assert_eq!(count_for(Some("2"), Some("8"), 7).unwrap(), 0);
        assert_eq!(count_for(Some("2"), None, 7).unwrap(), 0);
        assert!(count_for(Some("-1"), Some("7"), 7).is_err() && count_for(Some("x"), Some("7"), 7).is_err());
        assert_eq!(interval_for(Some("3000000"), Some("7"), 7), Some(Duration::from_secs(3)));
        assert_eq!(interval_for(Some("3000000"), None, 7), Some(Duration::from_secs(3)));
        assert_eq!(interval_for(Some("3000000"), Some("8"), 7), None);
        assert_eq!(interval_for(Some("0"), None, 7), None);
        assert_eq!(names_for(Some("a:a::b:c"), 4), ["a", "a", "unknown", "b"]);
        assert_eq!(names_for(None, 2), ["unknown", "unknown"]);
    }

    #[test]
    fn what_was_passed_is_taken_once_with_its_names() {
        const PASSED: &str = "PM2RS_TEST_PASSED";
        if std::env::var_os(PASSED).is_some() {
            let taken = take_passed().unwrap();
            let names: Vec<_> = taken.iter().map(|passed| passed.name.as_str()).collect();
            assert_eq!(names, ["web", "web", "state"]);
            for passed in &taken {
                assert!(rustix::io::fcntl_getfd(&passed.fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            }
            assert_eq!(std::fs::read_link("/proc/self/fd/5").unwrap(), std::path::Path::new("/dev/zero"));
            assert!(take_passed().unwrap().is_empty());
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let test = "sys::notify::tests::what_was_passed_is_taken_once_with_its_names";
            let mut spawn = super::super::spawn::Spawn::new(std::env::current_exe().unwrap(), ["--exact", test]);
            spawn.pid_vars = vec!["LISTEN_PID".into()];
            let env = [("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "web:web:state"), (PASSED, "1")];
            spawn.env = env.map(|(name, value)| (name.into(), value.into())).into();
            let open = |path| std::fs::File::open(path).unwrap().into();
            spawn.fds = vec![(open("/dev/zero"), 5), (open("/dev/null"), 3), (open("/dev/null"), 4)];
            let child = spawn.start().unwrap().release(Duration::from_secs(20)).await.unwrap();
            let waiting = super::super::pidfd::wait(child.pidfd.as_fd());
            let status = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
            assert_eq!(status, super::super::pidfd::ExitStatus::Code(0));
        });
    }
}
