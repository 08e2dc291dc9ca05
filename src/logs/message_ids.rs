//! Stable ids of what the daemon says in the journal, explained in `packaging/journal/pm2rs.catalog`.
//!
//! Given to tracing as the field `MESSAGE_ID`. An id never changes its meaning; what is said no more loses it.

use crate::core::LogTopic;

/// A process is not restarted any more: it ended too often. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const CRASH_LOOP: &str = "c9970a62a1754f37b8958921544a39d6";
/// A process could not be started at all. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const START_FAILED: &str = "2114788f728d411ba72c1c0c860d7f03";
/// A worker ended by itself. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const WORKER_EXITED: &str = "a00d0f3054d8488889e9684070df55b4";
/// A reload failed; the workers of before serve on. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const RELOAD_FAILED: &str = "ab85e04e2e7d4456835437a2542c6f94";
/// A reload failed half-way and was taken back. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const RELOAD_ROLLED_BACK: &str = "37d27acc384c4f4eb1c9b7957e052c4e";
/// A worker survived SIGKILL. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const UNKILLABLE: &str = "6de8ba5af92b4833977beccc8fde2c47";
/// Lines of a process were lost. With `PM2RS_PROCESS`.
pub const LINES_DROPPED: &str = "33311881714b49848fbeae0913ee4d7f";
/// What a process writes is kept again. With `PM2RS_PROCESS`.
pub const LINES_KEPT_AGAIN: &str = "be2b4190b3ec48989b7815b59048a8e6";
/// A new daemon took over running workers.
pub const DAEMON_ADOPTED: &str = "2713eae375b9490d9db78da617603b33";
/// A worker runs on though everything that was kept of it is lost. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const REGAINED: &str = "5b8d2f7c9e6a4c13a0b49d1e7f3c6a28";
/// A process uses more memory than it may and is replaced. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const MEMORY_LIMIT: &str = "6aa3956def364ead8c3b52b6ab505ca9";
/// A worker is started. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const WORKER_STARTING: &str = "81398260671d4b2982fea06153ed2730";
/// A row is served: its worker has shown that it is ready. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const ONLINE: &str = "8a6a7fe0fb974083a70e7bf83f63390d";
/// A worker was not ready within listen_timeout and counts as ready. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const LATE_READY: &str = "6275079bc8314ddfae04be710cf5715a";
/// A worker ended because it was asked to. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const WORKER_ENDED: &str = "3b5944231e424d859d76fee96783b8b3";
/// A process waits before it is started again. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const BACKOFF: &str = "ba18e9345a2b44349a89a830c130e88c";
/// A process is restarted by its schedule or because a watched file changed. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const TRIGGERED: &str = "94c45865b53e47cebf3c9bf4a048c806";
/// A process is stopped. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const STOPPED: &str = "05768c13e5f24e07b56ac732386b693c";
/// A process is no longer in the list. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const DELETED: &str = "75038bcd48224816bd3dab8656de94a1";
/// Requests were in flight for longer than drain_timeout. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const DRAIN_TIMEOUT: &str = "d314a507e50b4af5b25a6d6e1e6f2a84";
/// A worker did not end within kill_timeout and gets SIGKILL. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const KILL_TIMEOUT: &str = "94a4c17db256491d948b629a76be0ee1";
/// The daemon takes commands.
pub const DAEMON_READY: &str = "7f7805cfddd8473b9b4cd0b7111ca14f";
/// journald limits how many lines it takes of this service.
pub const RATE_LIMITED: &str = "8f37f7077cb74b538822664a0b90b47d";
/// journald dropped lines of this service.
pub const SUPPRESSED: &str = "d730c04388d6424c9f73a78775b1984c";
/// A worker's event loop does not turn. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const HUNG: &str = "8fc20800443646fab416e8f09b6eb12c";
/// It turns again. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const RESPONSIVE: &str = "2f663b7b45174cc988a6315dd38f1d68";
/// Log lines of a process can be put nowhere yet and wait. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const LINES_WAIT: &str = "032712da1d47420581b7c0282e656e53";
/// A worker's channel was closed because of what came through it. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const MISBEHAVED: &str = "cbb37cfb89ca4e399a831745a48efe75";

/// The id of what a line about a process tells.
#[must_use]
pub fn of(topic: LogTopic) -> &'static str {
    match topic {
        LogTopic::Starting => WORKER_STARTING,
        LogTopic::Online => ONLINE,
        LogTopic::LateReady => LATE_READY,
        LogTopic::Ended => WORKER_ENDED,
        LogTopic::Backoff => BACKOFF,
        LogTopic::Triggered => TRIGGERED,
        LogTopic::Stopped => STOPPED,
        LogTopic::Deleted => DELETED,
        LogTopic::DrainTimeout => DRAIN_TIMEOUT,
        LogTopic::KillTimeout => KILL_TIMEOUT,
        LogTopic::Exited => WORKER_EXITED,
        LogTopic::CrashLoop => CRASH_LOOP,
        LogTopic::StartFailed => START_FAILED,
        LogTopic::MemoryLimit => MEMORY_LIMIT,
        LogTopic::Unkillable => UNKILLABLE,
        LogTopic::ReloadFailed => RELOAD_FAILED,
        LogTopic::ReloadRolledBack => RELOAD_ROLLED_BACK,
    }
}

/// All of them, with what the catalog calls them.
#[cfg(test)]
const ALL: &[(&str, &str)] = &[
    (CRASH_LOOP, "crash loop"),
    (START_FAILED, "start failed"),
    (WORKER_EXITED, "worker exited"),
    (RELOAD_FAILED, "reload failed"),
    (RELOAD_ROLLED_BACK, "reload rolled back"),
    (UNKILLABLE, "unkillable"),
    (LINES_DROPPED, "lines dropped"),
    (LINES_KEPT_AGAIN, "lines kept again"),
    (DAEMON_ADOPTED, "daemon adopted"),
    (REGAINED, "regained"),
    (MEMORY_LIMIT, "memory limit"),
    (RESPONSIVE, "responsive"),
    (HUNG, "hung"),
    (LINES_WAIT, "lines wait"),
    (MISBEHAVED, "misbehaved"),
    (WORKER_STARTING, "worker starting"),
    (ONLINE, "online"),
    (LATE_READY, "late ready"),
    (WORKER_ENDED, "worker ended"),
    (BACKOFF, "backoff"),
    (TRIGGERED, "triggered"),
    (STOPPED, "stopped"),
    (DELETED, "deleted"),
    (DRAIN_TIMEOUT, "drain timeout"),
    (KILL_TIMEOUT, "kill timeout"),
    (DAEMON_READY, "daemon ready"),
    (RATE_LIMITED, "rate limited"),
    (SUPPRESSED, "suppressed"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_explains_each_id_once() {
        let catalog = include_str!("../../packaging/journal/pm2rs.catalog");
        let ids: Vec<&str> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        for (id, what) in ALL {
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{what}");
            assert_eq!(ids.iter().filter(|listed| listed == &id).count(), 1, "{what}");
        }
        assert_eq!(ids.len(), ALL.len());
    }

    /// journalctl(1) shows nothing at all of an entry that lacks one of these.
    #[test]
    fn each_entry_has_a_subject_and_a_text() {
        let catalog = include_str!("../../packaging/journal/pm2rs.catalog");
        for entry in catalog.split("\n-- ").skip(1) {
            let subject = entry.lines().nth(1).unwrap_or_default();
            assert!(subject.starts_with("Subject: "), "{entry}");
            assert!(entry.contains("\n\n"), "{entry}");
            // Digits make it plain text to journalctl.
            for field in entry.split('@').skip(1).step_by(2) {
                assert!(["APP_NAME", "APP_PROCESS"].contains(&field), "`{field}`: {entry}");
            }
        }
    }
}
