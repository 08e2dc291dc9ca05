//! How the daemon says something about a process in its own log, so that the journal can select by it and explain it.

/// Logs at a level with what every line about a process bears: `about!(warn, MESSAGE_ID, app, process, "text")`, with
/// further fields before the text. A field that is `None` is left out.
///
/// `APP_NAME` and `APP_PROCESS` are there for the message catalog alone: journalctl(1) puts a field in for `@FIELD@`
/// only if its name has nothing but capitals and underscores, so not `PM2RS_APP`.
macro_rules! about {
    ($level:ident, $message_id:expr, $app:expr, $process:expr, $($rest:tt)+) => {{
        let (app, process) = ($app, $process);
        tracing::$level!(
            MESSAGE_ID = $message_id,
            PM2RS_APP = app,
            APP_NAME = app,
            PM2RS_PROCESS = process,
            APP_PROCESS = process,
            $($rest)+
        )
    }};
}

pub(super) use about;
