//! The kernel and systemd, one facility a file. The only folder with `unsafe`.
//!
//! Owns every system call that the standard library and tokio do not offer. Must never know of apps, workers or
//! Node, and never panic over what the kernel answers.

pub mod append;
pub mod cgroup;
pub mod clock;
pub mod durable;
pub mod epoll;
pub mod foreign;
pub mod handover;
pub mod host;
pub mod identity;
pub mod inbox;
pub mod journal;
pub mod manager;
pub mod memfd;
pub mod notify;
pub mod pidfd;
pub mod pipe;
pub mod plain;
pub mod poller;
pub mod proc;
pub mod reuseport;
pub mod scope;
pub mod sealed;
pub mod snapshot;
pub mod socket;
pub mod spawn;
pub mod store;
pub mod stray;
pub mod subreaper;
pub mod tree;
pub mod ulimits;
pub mod watched;

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("pm2rs is for 64-bit Linux: elsewhere several of these system calls have other numbers and layouts");

/// For tests: waits until what this process closed is closed for the kernel, too. A child that another test starts has it
/// open as well, from fork(2) to execve(2).
///
/// # Panics
/// When it is not within a minute.
#[cfg(test)]
pub(crate) fn settled(mut is_closed: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_closed() {
        assert!(std::time::Instant::now() < deadline, "it is still open");
        std::thread::yield_now();
    }
}
