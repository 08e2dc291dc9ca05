//! Text in, [`crate::core::AppSpec`] out: ecosystem files, options, defaults, aliases, validation, dumps.
//!
//! ```text
//!   file ── source.rs (json5, YAML, TOML), js.rs (asks node) ──▶ Ecosystem of AppEntry   (keys.rs, kind.rs)
//!   options ── options.rs ──▶ the same keys                          │
//!                                                                    ▼
//!                          resolve.rs: script.rs, interpreter.rs, environment.rs, paths.rs ──▶ AppSpec
//! ```
//!
//! A key is known in one place, the table of `keys.rs`; what it may hold is one [`Kind`] of `kind.rs`.
//!
//! Must never start anything but `node` to evaluate a file or to say its version, must never run with other rights
//! than the caller's (the daemon only validates specs, compares them and reads dumps), and must never put the value of
//! an environment variable into a message.

mod amend;
mod compound;
mod diff;
pub mod dump;
mod ecosystem;
mod environment;
mod error;
mod home;
mod interpreter;
mod js;
mod keys;
mod kind;
mod nearest;
mod options;
mod paths;
mod resolve;
mod script;
mod source;
mod units;
mod validate;
mod write;

pub use amend::amend;
pub use diff::{Change, Needs, diff, needs};
pub use ecosystem::{AppEntry, Ecosystem};
pub use environment::caller_environment;
pub use error::{ConfigError, Place, Warning};
pub use home::HomeFile;
pub use keys::{Effect, KEYS, Key, find as find_key};
pub use kind::{Kind, cron_problem};
pub use nearest::nearest;
pub use options::{CallerContext, CliOverrides, LoadContext};
pub use paths::resolve as resolve_path;
pub use resolve::{Resolved, resolve_entry, resolve_script};
pub use source::{FileKind, file_kind, load_file, parse_stdin};
pub use validate::validate_spec;
pub use write::to_entry;
