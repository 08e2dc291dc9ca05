//! Text in, [`crate::core::AppSpec`] out: ecosystem files, options, defaults, aliases, validation, dumps.
