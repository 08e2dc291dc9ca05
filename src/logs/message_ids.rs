//! Stable ids of what the daemon says in the journal, explained in `packaging/journal/pm2rs.catalog`.
//!
//! Given to tracing as the field `MESSAGE_ID`. An id never changes its meaning; what is said no more loses it.

/// A process is not restarted any more: it ended too often. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const CRASH_LOOP: &str = "c9970a62a1754f37b8958921544a39d6";
/// A process could not be started at all. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const START_FAILED: &str = "2114788f728d411ba72c1c0c860d7f03";
/// A worker ended by itself and is started again. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const WORKER_EXITED: &str = "a00d0f3054d8488889e9684070df55b4";
/// A reload failed; the workers of before serve on. With `PM2RS_APP`.
pub const RELOAD_FAILED: &str = "ab85e04e2e7d4456835437a2542c6f94";
/// A reload failed half-way and was taken back. With `PM2RS_APP`.
pub const RELOAD_ROLLED_BACK: &str = "37d27acc384c4f4eb1c9b7957e052c4e";
/// A worker survived SIGKILL. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const UNKILLABLE: &str = "6de8ba5af92b4833977beccc8fde2c47";
/// Lines of a process were lost. With `PM2RS_PROCESS`.
pub const LINES_DROPPED: &str = "33311881714b49848fbeae0913ee4d7f";
/// What a process writes is kept again. With `PM2RS_PROCESS`.
pub const LINES_KEPT_AGAIN: &str = "be2b4190b3ec48989b7815b59048a8e6";
/// A new daemon took over running workers.
pub const DAEMON_ADOPTED: &str = "2713eae375b9490d9db78da617603b33";
/// A process uses more memory than it may and is replaced. With `PM2RS_APP`, `PM2RS_PROCESS`.
pub const MEMORY_LIMIT: &str = "6aa3956def364ead8c3b52b6ab505ca9";

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
    (MEMORY_LIMIT, "memory limit"),
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
        }
    }
}
