//! The `a{sv}` dictionaries of options, typed. A key that is not known is refused, not ignored: an option that silently
//! does nothing misleads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zbus::Type;
use zbus::as_variant::{self, optional};

/// Options of `StartApp`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Type)]
#[zbus(signature = "dict")]
#[serde(default, deny_unknown_fields)]
pub struct StartDict {
    /// Start though the same script runs under the same name.
    #[serde(with = "as_variant")]
    pub force: bool,
}

/// Options of `Restart` and `Reload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Type)]
#[zbus(signature = "dict")]
#[serde(default, deny_unknown_fields)]
pub struct UpdateDict {
    /// Variables merged over the environment.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// A new spec, as JSON.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub spec: Option<String>,
    /// Workers replaced at a time.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
}

/// Options of `OpenLogs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Type)]
#[zbus(signature = "dict")]
#[serde(default, deny_unknown_fields)]
pub struct LogsDict {
    /// So many last lines of each file.
    #[serde(with = "as_variant")]
    pub lines: u32,
    /// Go on with what comes.
    #[serde(with = "as_variant")]
    pub follow: bool,
    /// `out`, `err` or `all`.
    #[serde(with = "as_variant")]
    pub streams: String,
    /// Only what was written since then, milliseconds since the epoch. Not with `follow`.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// Only what was written until then. Not with `follow`.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Only lines in which this regular expression is found. Not with `follow`.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
}

impl Default for LogsDict {
    fn default() -> Self {
        LogsDict { lines: 15, follow: false, streams: "all".to_owned(), since: None, until: None, grep: None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;
    use zbus::Variant;
    use zbus::wire::serialized::Context;
    use zbus::wire::{LE, to_bytes};

    fn decode<T: for<'d> Deserialize<'d> + Type>(entries: &[(&str, Variant<'_>)]) -> Result<T, zbus::Error> {
        let dict: HashMap<&str, &Variant<'_>> = entries.iter().map(|(key, value)| (*key, value)).collect();
        to_bytes(Context::new(LE, 0), &dict).unwrap().deserialize().map(|(value, _)| value)
    }

    #[test]
    fn what_is_missing_has_its_default() {
        assert_eq!(decode::<StartDict>(&[]).unwrap(), StartDict { force: false });
        assert_eq!(decode::<UpdateDict>(&[]).unwrap(), UpdateDict::default());
        assert_eq!(decode::<LogsDict>(&[]).unwrap(), LogsDict::default());
    }

    #[test]
    fn what_is_given_arrives() {
        let given = UpdateDict {
            env: Some(BTreeMap::from([("A".to_owned(), "1".to_owned())])),
            spec: Some("{}".to_owned()),
            batch: Some(2),
        };
        let bytes = to_bytes(Context::new(LE, 0), &given).unwrap();
        assert_eq!(bytes.deserialize::<UpdateDict>().unwrap().0, given);
        assert_eq!(
            decode::<LogsDict>(&[("follow", true.into())]).unwrap(),
            LogsDict { follow: true, ..LogsDict::default() }
        );
    }

    #[test]
    fn what_is_unknown_or_of_another_type_is_refused() {
        assert!(decode::<StartDict>(&[("forse", true.into())]).is_err());
        assert!(decode::<StartDict>(&[("force", "yes".into())]).is_err());
    }
}
