//! What a panic means: the end of the daemon, at once.
//!
//! One that had lost a task or a thread would go on in silence; the next one, which the service manager or the keeper
//! starts, has lost nothing. Must never unwind: what that cleans up is what the next one needs.

use crate::logs::daemon_log;

/// Has a panic anywhere end the daemon, after it has been told on standard error.
pub(super) fn die() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        // What led to it.
        daemon_log::flush();
        std::process::abort();
    }));
}

/// In debug builds: panics if the variable `PM2RS_PANIC_AT` names this moment, so that a test can see what becomes of it.
#[track_caller]
pub(super) fn at(moment: &str) {
    if cfg!(debug_assertions) && std::env::var("PM2RS_PANIC_AT").is_ok_and(|wanted| wanted == moment) {
        panic!("as PM2RS_PANIC_AT={moment} wants it");
    }
}
