//! The two keys of pm2rs that are objects with keys of their own: `probe` and `log_rotate`.

use serde_json::{Map, Value, json};

use super::kind::{self, Kind};
use super::nearest::nearest;

/// `probe` in the form of [`crate::core::Probe`].
pub(super) fn check_probe(value: &Value) -> Result<Value, String> {
    const WAYS: &str = "URL, or object with one of \"http\", \"tcp\" and \"exec\"";
    let written = match value {
        Value::String(url) if url.starts_with("http://") => return Ok(json!({ "http": url })),
        Value::String(address) => match address.strip_prefix("tcp://") {
            Some(address) => return Ok(json!({ "tcp": address })),
            None => return Err(format!("{WAYS} (http:// or tcp://)")),
        },
        Value::Object(written) => written,
        _ => return Err(WAYS.to_owned()),
    };
    let mut probe = Map::new();
    let mut ways = 0;
    for (name, value) in written.iter().filter(|(_, value)| !value.is_null()) {
        let checked = match name.as_str() {
            "http" => kind::text(value).filter(|url| url.starts_with("http://")).map(|url| json!(url)),
            "tcp" => kind::text(value).filter(|address| !address.is_empty()).map(|address| json!(address)),
            "exec" => Kind::Words.check(value).ok().filter(|words| words.as_array().is_some_and(|w| !w.is_empty())),
            "interval" | "timeout" => kind::millis(value).filter(|ms| (1..=600_000).contains(ms)).map(|ms| json!(ms)),
            "count" => kind::integer(value, 1000).filter(|n| (1..=1000).contains(n)).map(|n| json!(n)),
            other => return Err(unknown(other, &["http", "tcp", "exec", "interval", "timeout", "count"])),
        };
        ways += u32::from(matches!(name.as_str(), "http" | "tcp" | "exec"));
        probe.insert(name.clone(), checked.ok_or_else(|| format!("probe with a proper \"{name}\""))?);
    }
    if ways == 1 { Ok(Value::Object(probe)) } else { Err(WAYS.to_owned()) }
}

/// `log_rotate` in the form of [`crate::core::RotateSpec`], with only what was given.
pub(super) fn check_rotate(value: &Value) -> Result<Value, String> {
    let written = match value {
        Value::Bool(enabled) => return Ok(json!({ "enabled": enabled })),
        Value::Object(written) => written,
        _ => return Err("boolean or object".to_owned()),
    };
    let mut rotate = Map::new();
    for (name, value) in written.iter().filter(|(_, value)| !value.is_null()) {
        let checked = match name.as_str() {
            "enabled" | "compress" => value.as_bool().map(Value::Bool),
            // Below a page of text a log would be all rotation.
            "max_size" | "total_size" => kind::memory(value).filter(|n| *n >= 4096).map(|n| json!(n)),
            "retain" => kind::integer(value, 10_000).filter(|n| *n <= 10_000).map(|n| json!(n)),
            "interval" => match Kind::Cron.check(value)? {
                Value::Bool(_) => Some(Value::Null),
                pattern => Some(pattern),
            },
            "date_format" => {
                kind::text(value).filter(|s| !s.is_empty() && s.len() <= 64 && !s.contains('/')).map(|s| json!(s))
            }
            other => {
                let known = ["enabled", "max_size", "retain", "total_size", "compress", "interval", "date_format"];
                return Err(unknown(other, &known));
            }
        };
        rotate.insert(name.clone(), checked.ok_or_else(|| format!("object with a proper \"{name}\""))?);
    }
    Ok(Value::Object(rotate))
}

fn unknown(name: &str, known: &[&'static str]) -> String {
    let hint = nearest(name, known.iter().copied()).map(|near| format!(", did you mean \"{near}\"?"));
    format!("object of {} (unknown \"{name}\"{})", known.join(", "), hint.unwrap_or_default())
}
