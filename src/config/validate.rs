//! What the daemon checks of a spec before it believes it: whoever may call the bus may send anything.

use crate::core::AppSpec;

use super::error::ConfigError;

/// Checks a spec that came from elsewhere.
///
/// # Errors
/// The first rule that it breaks, naming the key.
pub fn validate_spec(spec: &AppSpec) -> Result<(), ConfigError> {
    if spec.name.is_empty() {
        return Err(ConfigError::Spec { key: "name", problem: "it is empty".to_owned() });
    }
    Ok(())
}
