//! What is wrong with a log file, in words for people.

use std::io;
use std::path::PathBuf;

/// Why a file is not written to.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or created.
    #[error("cannot open `{path}`: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It takes no more.
    #[error("cannot write to `{path}`: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be renamed, or no new one opened in its place.
    #[error("cannot rotate `{path}`: {source}")]
    Rotate {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be emptied.
    #[error("cannot empty `{path}`: {source}")]
    Empty {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
