//! From fork to exec.
//!
//! Between the two the child is a copy of one thread of a program that may have others, so it may do only what
//! signal-safety(7) allows: system calls on memory that was prepared before. It must never allocate, lock, panic or
//! call what the C library keeps state for. Credentials are set by raw system calls: the library's wrappers would
//! try to tell threads that do not exist here (nptl(7)).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, c_int, c_uint};

use super::Stage;
use crate::sys::identity::{Identity, drop_capabilities};
use crate::sys::pidfd;
use crate::sys::ulimits::Limit;

/// What a plan is made of.
pub(super) struct Parts {
    pub program: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    /// Variables `NAME=` that get the process's id as value.
    pub pid_vars: Vec<CString>,
    pub cwd: CString,
    pub credentials: Option<Credentials>,
    pub umask: u32,
    pub limits: Vec<Limit>,
    pub nice: Option<i32>,
    /// Descriptors, all numbered above every target, and their targets.
    pub sources: Vec<(OwnedFd, RawFd)>,
    pub cgroup: Option<OwnedFd>,
    /// Where failures are told; numbered above every target.
    pub report: OwnedFd,
    /// What is waited for; numbered above every target.
    pub hold: Option<OwnedFd>,
}

/// A user and groups to take on.
pub(super) struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Credentials {
    /// What must be taken on to be this user; `None` when the process is that already. Only root may change groups,
    /// so to an ordinary user its own groups are as good as those of the account database.
    pub(super) fn needed(identity: &Identity) -> Option<Credentials> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut wanted = identity.groups.clone();
        wanted.sort_unstable();
        let mut current: Vec<u32> =
            nix::unistd::getgroups().unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw).collect();
        current.sort_unstable();
        let same = uid == identity.uid && gid == identity.gid && (uid != 0 || wanted == current);
        (!same).then(|| Credentials { uid: identity.uid, gid: identity.gid, groups: identity.groups.clone() })
    }
}

/// Everything a child needs. The pointers lead into what the plan owns, and neither is changed before it is dropped.
pub(super) struct Plan {
    parts: Parts,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// Owners of the variables that hold the process's id, with room for it.
    _pid_buffers: Vec<Vec<u8>>,
    /// Where in them the digits go.
    pid_slots: Vec<*mut u8>,
    /// Descriptors that the child keeps until exec, ascending.
    keep: Vec<c_uint>,
    /// Below this number lie all descriptors; for kernels without close_range(2).
    descriptor_limit: c_uint,
}

/// clone(2). libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Room for a process id in decimal and a NUL.
const PID_ROOM: usize = 11;

impl Plan {
    pub(super) fn new(parts: Parts) -> Plan {
        let mut argv: Vec<_> = parts.args.iter().map(|arg| arg.as_ptr()).collect();
        argv.push(ptr::null());
        let mut envp: Vec<_> = parts.env.iter().map(|variable| variable.as_ptr()).collect();
        let mut pid_buffers = Vec::new();
        let mut pid_slots = Vec::new();
        for name in &parts.pid_vars {
            let mut buffer = name.as_bytes().to_vec();
            let digits = buffer.len();
            buffer.resize(digits + PID_ROOM, 0);
            let start = buffer.as_mut_ptr();
            envp.push(start.cast_const().cast());
            pid_slots.push(start.wrapping_add(digits));
            pid_buffers.push(buffer);
        }
        envp.push(ptr::null());
        let mut keep: Vec<RawFd> = parts.sources.iter().map(|(_, target)| *target).collect();
        keep.push(parts.report.as_raw_fd());
        keep.extend(parts.hold.as_ref().map(AsRawFd::as_raw_fd));
        let mut keep: Vec<c_uint> = keep.into_iter().filter_map(|fd| c_uint::try_from(fd).ok()).collect();
        keep.sort_unstable();
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let descriptor_limit = limit.ok().and_then(|(_, hard)| c_uint::try_from(hard).ok()).unwrap_or(1 << 20);
        Plan { parts, argv, envp, _pid_buffers: pid_buffers, pid_slots, keep, descriptor_limit }
    }
}

/// How a child failed: it writes these bytes into the pipe and ends.
#[repr(C)]
pub(super) struct Report {
    errno: i32,
    stage: u8,
    /// For [`Stage::Exec`]: see the constants below.
    about_program: u8,
    head_len: u16,
    /// The program file's first bytes: its `#!` line, if it has one.
    head: [u8; Report::HEAD],
}

impl Report {
    pub(super) const SIZE: usize = size_of::<Report>();
    const HEAD: usize = 256;
    const EXISTS: u8 = 1;
    const EXECUTABLE: u8 = 2;
    const FOLDER: u8 = 4;

    /// The buffer to read one into.
    pub(super) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the structure is made of integers without padding (8 bytes and an array of bytes), so that all its
        // bytes are initialised and any bytes are a value of it.
        unsafe { std::slice::from_raw_parts_mut(ptr::from_mut(self).cast(), Report::SIZE) }
    }

    pub(super) fn errno(&self) -> i32 {
        self.errno
    }

    pub(super) fn stage(&self) -> Stage {
        Stage::ALL.into_iter().find(|stage| *stage as u8 == self.stage).unwrap_or(Stage::Prepare)
    }

    pub(super) fn program_exists(&self) -> bool {
        self.about_program & Report::EXISTS != 0
    }

    pub(super) fn program_is_executable(&self) -> bool {
        self.about_program & Report::EXECUTABLE != 0
    }

    pub(super) fn program_is_folder(&self) -> bool {
        self.about_program & Report::FOLDER != 0
    }

    /// The program file's first bytes, as far as the user may read them.
    pub(super) fn head(&self) -> &[u8] {
        self.head.get(..usize::from(self.head_len)).unwrap_or_default()
    }
}

impl Default for Report {
    fn default() -> Report {
        Report { errno: 0, stage: 0, about_program: 0, head_len: 0, head: [0; Report::HEAD] }
    }
}

/// Makes the child. Returns in the parent only, with the child's id and its descriptor.
pub(super) fn fork(plan: &Plan) -> io::Result<(u32, OwnedFd)> {
    // No handler of this program may run in the child: tokio's writes into a pipe that both share. The mask is
    // inherited, and the child resets handlers before it empties it.
    let before = block_signals()?;
    let result = match clone3(plan) {
        // Before 5.3; before 5.7 with a cgroup; and where a sandbox forbids what it does not know.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => {
            plain_fork(plan)
        }
        other => other,
    };
    restore_signals(&before);
    result
}

fn block_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: sigset_t is plain memory, for which zero is a value; both functions only write to what they are given.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) {
            0 => Ok(before),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: the set was filled in by pthread_sigmask; the call only reads it.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut());
    }
}

fn clone3(plan: &Plan) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: c_int = -1;
    // SAFETY: the structure is integers only, for which zero is a value and means "not wanted".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = &plan.parts.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: the arguments are valid for the size given. Without CLONE_VM this is fork(2): the child has a copy of
    // this thread and its stack, and does only what is allowed then.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        0 => run(plan, false),
        1.. => {
            // SAFETY: the kernel has put a new descriptor there that nobody else has.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((u32::try_from(pid).unwrap_or_default(), pidfd))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The way of kernels that have no clone3(2), or do not let it be used.
pub(super) fn plain_fork(plan: &Plan) -> io::Result<(u32, OwnedFd)> {
    // SAFETY: the child does only what signal-safety(7) allows.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => run(plan, plan.parts.cgroup.is_some()),
        1.. => {
            let pid = u32::try_from(pid).unwrap_or_default();
            // It is our child and nobody else collects it, so the id is still its own.
            pidfd::open(pid).map(|pidfd| (pid, pidfd)).inspect_err(|_| abandon(pid))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends and collects a child of which no descriptor could be had.
fn abandon(pid: u32) {
    let pid = libc::pid_t::try_from(pid).unwrap_or_default();
    // SAFETY: plain system calls; the id is that of a child that was not collected yet.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, ptr::null_mut(), 0);
    }
}

/// The child's whole life in this program.
fn run(plan: &Plan, join_cgroup: bool) -> ! {
    let mut report = Report::default();
    if let Err(Failure(stage)) = prepare(plan, join_cgroup) {
        report.stage = stage as u8;
        report.errno = errno();
    } else {
        // SAFETY: program and both lists are NUL-terminated and owned by the plan, as execve(2) wants them.
        unsafe { libc::execve(plan.parts.program.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
        report.stage = Stage::Exec as u8;
        report.errno = errno();
        inspect(&plan.parts.program, &mut report);
    }
    // SAFETY: writes out of a live structure; _exit(2) runs no handlers of this program and does not return.
    unsafe {
        libc::write(plan.parts.report.as_raw_fd(), ptr::from_ref(&report).cast(), Report::SIZE);
        libc::_exit(127);
    }
}

/// The step that failed; errno says why.
struct Failure(Stage);

/// Fails with `stage` when a system call returned something negative.
fn step(result: impl Into<i64>, stage: Stage) -> Result<(), Failure> {
    if result.into() < 0 { Err(Failure(stage)) } else { Ok(()) }
}

fn prepare(plan: &Plan, join_cgroup: bool) -> Result<(), Failure> {
    let parts = &plan.parts;
    reset_signals();
    if let (true, Some(cgroup)) = (join_cgroup, &parts.cgroup) {
        enter_cgroup(cgroup.as_raw_fd())?;
    }
    // SAFETY: takes nothing and touches no memory.
    step(unsafe { libc::setsid() }, Stage::Session)?;
    for (source, target) in &parts.sources {
        // SAFETY: the target may be any descriptor of this process, which has no owners left but the plan's, and
        // those are numbered above all targets. dup2(2) clears CLOEXEC.
        step(unsafe { libc::dup2(source.as_raw_fd(), *target) }, Stage::Descriptors)?;
    }
    close_others(plan);
    if let Some(hold) = &parts.hold {
        wait_for_release(hold.as_raw_fd());
    }
    for limit in &parts.limits {
        let wanted = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
        // SAFETY: reads one structure, which is live.
        step(unsafe { libc::setrlimit(limit.resource as _, &raw const wanted) }, Stage::Limits)?;
    }
    if let Some(nice) = parts.nice {
        // SAFETY: takes integers only.
        step(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }, Stage::Priority)?;
    }
    // SAFETY: takes an integer and cannot fail.
    unsafe { libc::umask(parts.umask) };
    if let Some(credentials) = &parts.credentials {
        become_user(credentials)?;
    }
    // SAFETY: reads a NUL-terminated string.
    step(unsafe { libc::chdir(parts.cwd.as_ptr()) }, Stage::Folder)?;
    for &slot in &plan.pid_slots {
        // SAFETY: takes nothing.
        let pid = unsafe { libc::getpid() };
        // SAFETY: the slot has PID_ROOM bytes, and nobody else looks at them: the child is alone in its memory.
        write_decimal(pid.unsigned_abs(), unsafe { &mut *slot.cast::<[u8; PID_ROOM]>() });
    }
    unblock_signals();
    Ok(())
}

/// Gives every signal its default meaning. exec(3) does so for those that are caught, not for those that are
/// ignored, and the Rust runtime ignores SIGPIPE. By the raw system call: the C library keeps two signals to itself,
/// which may have been inherited ignored all the same.
fn reset_signals() {
    /// The kernel's `struct sigaction` (four words on 64-bit Linux), all zero: SIG_DFL, no flags, an empty mask.
    const DEFAULT: [u64; 4] = [0; 4];
    const SIGNALS: c_int = 64;
    let nowhere: *mut u64 = ptr::null_mut();
    for signal in 1..=SIGNALS {
        // SAFETY: reads DEFAULT and writes nothing; the last argument is the size of the mask in it. It fails for
        // SIGKILL and SIGSTOP only, which nobody can change.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), nowhere, size_of::<u64>()) };
    }
}

fn unblock_signals() {
    // SAFETY: fills in a local set, then only reads it.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// For kernels that cannot start a process in a cgroup: "0" means the writer itself (cgroups(7)).
fn enter_cgroup(folder: RawFd) -> Result<(), Failure> {
    // SAFETY: the name is NUL-terminated, the bytes written are static.
    unsafe {
        let file = libc::openat(folder, c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        step(file, Stage::Cgroup)?;
        step(libc::write(file, c"0".as_ptr().cast(), 1) as i64, Stage::Cgroup)
    }
}

/// Closes all descriptors but those to keep. Really, not at exec: a held child lives on for a while, and an end of
/// somebody else's pipe in its hands would keep that pipe from ending.
fn close_others(plan: &Plan) {
    let mut low: c_uint = 0;
    for &fd in &plan.keep {
        if let Some(last) = fd.checked_sub(1).filter(|last| *last >= low) {
            close_range(low, last, plan.descriptor_limit);
        }
        low = fd.saturating_add(1);
    }
    close_range(low, c_uint::MAX, plan.descriptor_limit);
}

fn close_range(first: c_uint, last: c_uint, descriptor_limit: c_uint) {
    // SAFETY: these descriptors have owners only in memory that the child does not use any more.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, 0) < 0 {
            // Before 5.9.
            for fd in first..=last.min(descriptor_limit) {
                libc::close(fd.cast_signed());
            }
        }
    }
}

/// Sleeps until the parent says go. If it dies instead there is nobody to run for.
fn wait_for_release(hold: RawFd) {
    let mut byte = 0u8;
    loop {
        // SAFETY: reads one byte into a live one.
        match unsafe { libc::read(hold, (&raw mut byte).cast(), 1) } {
            1 => return,
            -1 if errno() == libc::EINTR => (),
            // SAFETY: does not return and runs no handlers.
            _ => unsafe { libc::_exit(127) },
        }
    }
}

/// Becomes the user for good. Groups first: each step needs the right that the last one gives up.
fn become_user(credentials: &Credentials) -> Result<(), Failure> {
    let Credentials { uid, gid, groups } = credentials;
    leave_keyring()?;
    // SAFETY: the pointer and length are those of a live slice; the other two take integers only.
    unsafe {
        step(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), Stage::Groups)?;
        step(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid), Stage::Groups)?;
        step(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid), Stage::User)?;
    }
    if *uid != 0 && drop_capabilities().is_err() {
        return Err(Failure(Stage::User));
    }
    Ok(())
}

/// Takes a session keyring of its own (session-keyring(7)): that of this program is inherited, and whoever has the same one
/// reads the others' keys, whatever user they are. Still as the user of before, against whose quota of keyrings it counts.
fn leave_keyring() -> Result<(), Failure> {
    // SAFETY: without a name no memory is read.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<c_char>()) };
    match errno() {
        // A kernel without keys, or a sandbox that forbids them, to what it starts as well.
        libc::ENOSYS | libc::EPERM => Ok(()),
        _ => step(joined, Stage::User),
    }
}

/// Writes a number and a NUL.
fn write_decimal(number: u32, into: &mut [u8; PID_ROOM]) {
    let mut reversed = [0u8; PID_ROOM];
    let mut rest = number;
    let mut len = 0;
    for digit in &mut reversed {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        len += 1;
        if rest == 0 {
            break;
        }
    }
    into.fill(0);
    for (to, from) in into.iter_mut().zip(reversed.iter().take(len).rev()) {
        *to = *from;
    }
}

/// Why a program could not be executed, as far as its user may know: execve(2) says ENOENT for a missing program and
/// for a missing interpreter alike, and EACCES for a folder, a file without the x bit and a closed folder above.
fn inspect(program: &CStr, report: &mut Report) {
    // SAFETY: the path is NUL-terminated; read(2) is given the size of the live array it writes into.
    unsafe {
        if libc::access(program.as_ptr(), libc::F_OK) == 0 {
            report.about_program |= Report::EXISTS;
        }
        if libc::access(program.as_ptr(), libc::X_OK) == 0 {
            report.about_program |= Report::EXECUTABLE;
        }
        if libc::open(program.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) >= 0 {
            report.about_program |= Report::FOLDER;
        }
        let file = libc::open(program.as_ptr(), libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC);
        if file >= 0 {
            let read = libc::read(file, report.head.as_mut_ptr().cast(), Report::HEAD);
            report.head_len = u16::try_from(read).unwrap_or(0);
        }
    }
}

fn errno() -> i32 {
    // SAFETY: errno of this thread always exists.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 1, 9, 10, 4711, 4_194_304, u32::MAX] {
            let mut into = [b'x'; PID_ROOM];
            write_decimal(number, &mut into);
            let text = CStr::from_bytes_until_nul(&into).map(CStr::to_str);
            assert_eq!(text.ok().and_then(Result::ok), Some(number.to_string().as_str()));
        }
    }
}
