//! Typed errors of the bus: `org.pm2rs1.Error.*`. The command line maps them to PM2's messages and exit codes without
//! reading their text; the text is a whole sentence for those who come by `busctl`.

/// Why a request was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No process, app or namespace matches this target.
    #[error("no process, app or namespace `{0}`")]
    NoSuchTarget(String),
    /// `all` was asked for and there is nothing.
    #[error("there is no process")]
    NoProcess,
    /// No job of that number (any more).
    #[error("no job {0}")]
    NoSuchJob(u32),
    /// The caller may not do this.
    #[error("{0}")]
    AccessDenied(String),
    /// The request itself makes no sense; nothing was changed.
    #[error("{0}")]
    InvalidArgument(String),
    /// The same script runs already under the same name; `force` starts another.
    #[error("script `{0}` is already launched")]
    AlreadyLaunched(String),
    /// The request needs a state that the process is not in (a line for a stopped process's standard input).
    #[error("{0}")]
    NotPossible(String),
    /// There is nothing to be done (scale to the present count).
    #[error("nothing to do")]
    NothingToDo,
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// It failed though it should not have.
    #[error("{0}")]
    Failed(String),
}
