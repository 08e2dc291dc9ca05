//! What the value of a key may be, and its normal form.
//!
//! Checking never looks at the machine: whether a file or a user exists is not its business.

use croner::parser::{CronParser, Seconds, Year};
use serde_json::{Map, Number, Value, json};

use super::units;
use crate::core::SyslogAddress;

/// Longest text a key takes: Linux's own bound of one argument is 128 KiB (execve(2), MAX_ARG_STRLEN).
const MAX_TEXT: usize = 128 * 1024;

/// The signals an app may be asked to stop with; what ends a process without asking it is no question.
pub(super) const STOP_SIGNALS: &[&str] =
    &["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGABRT", "SIGKILL"];

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// true or false.
    Bool,
    /// true, false or a string.
    BoolOrText,
    /// An array of words, or one string of them.
    Words,
    /// An array of strings or numbers, or one of them.
    List,
    /// A whole number in these bounds, or a string of it.
    Integer {
        /// At least.
        min: u64,
        /// At most.
        max: u64,
    },
    /// A time: a number of milliseconds in these bounds, or a string with `ms`, `s`, `m` or `h`.
    Millis {
        /// At least.
        min: u64,
        /// At most.
        max: u64,
    },
    /// A number of bytes, or a string with `K`, `M` or `G`.
    Memory,
    /// A number of processes.
    Instances,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// An object of variables, or a string of `NAME=value` words.
    Env,
    /// The name of a variable.
    Variable,
    /// true or false, a name, or a list of parts of names.
    FilterEnv,
    /// true or false, a path, or a list of paths.
    Watch,
    /// Exit codes.
    Codes,
    /// A croner pattern; 0 for none.
    Cron,
    /// A user's or group's name or number.
    User,
    /// The name of a signal.
    Signal,
    /// A URL, or an object with `http`, `tcp` or `exec`.
    Probe,
    /// true, false, or an object of settings of log rotation.
    Rotate,
    /// Where a syslog daemon listens.
    Syslog,
    /// An object.
    Object,
    /// Anything.
    Any,
}

impl Kind {
    /// The value in its normal form: numbers as numbers, lists as lists, times in milliseconds.
    ///
    /// # Errors
    /// What was expected, to be put into a sentence.
    pub fn check(self, value: &Value) -> Result<Value, String> {
        let checked = match self {
            Kind::Text => text(value).map(|s| json!(s)),
            Kind::Bool => value.as_bool().map(Value::Bool),
            Kind::BoolOrText => value.as_bool().map(Value::Bool).or_else(|| text(value).map(|s| json!(s))),
            Kind::Words => match value {
                Value::String(line) => text(value).map(|_| json!(units::words(line))),
                _ => strings(value),
            },
            Kind::List | Kind::Watch if value.is_array() => strings(value),
            Kind::List => scalar(value).map(|one| json!([one])),
            Kind::Watch => match value.as_str() {
                Some("true") => Some(json!(true)),
                Some("false") => Some(json!(false)),
                Some(_) => text(value).map(|s| json!([s])),
                None => value.as_bool().map(Value::Bool),
            },
            Kind::Integer { min, max } => integer(value, max).filter(|n| (min..=max).contains(n)).map(|n| json!(n)),
            Kind::Millis { min, max } => millis(value).filter(|n| (min..=max).contains(n)).map(|n| json!(n)),
            Kind::Memory => memory(value).filter(|n| *n > 0).map(|n| json!(n)),
            Kind::Instances => instances(value).map(|n| json!(n)),
            Kind::OneOf(words) => text(value).filter(|s| words.contains(s)).map(|s| json!(s)),
            Kind::Env => environment(value),
            Kind::Variable => text(value).filter(|s| is_variable(s)).map(|s| json!(s)),
            Kind::FilterEnv => match value {
                Value::Bool(_) => Some(value.clone()),
                Value::Array(_) => strings(value),
                _ => text(value).map(|s| json!(s)),
            },
            Kind::Codes => codes(value),
            Kind::Cron => return cron(value),
            Kind::User => scalar(value).filter(|s| is_user(s)).map(|s| json!(s)),
            Kind::Signal => text(value).and_then(signal).map(|s| json!(s)),
            Kind::Probe => return super::compound::check_probe(value),
            Kind::Rotate => return super::compound::check_rotate(value),
            Kind::Syslog => text(value).filter(|s| s.parse::<SyslogAddress>().is_ok()).map(|s| json!(s)),
            Kind::Object => value.is_object().then(|| value.clone()),
            Kind::Any => Some(value.clone()),
        };
        checked.ok_or_else(|| self.expected())
    }

    /// What is expected, for people.
    fn expected(self) -> String {
        match self {
            Kind::Text => "string".into(),
            Kind::Bool => "boolean".into(),
            Kind::BoolOrText => "boolean or string".into(),
            Kind::Words | Kind::List => "array of strings, or string".into(),
            Kind::Integer { min, max } => format!("number from {min} to {max}"),
            Kind::Millis { min, max } => format!("time from {min} to {max} ms (a number, or as 500ms, 10s, 5m, 1h)"),
            Kind::Memory => "number of bytes or string as 100K, 100M, 1G".into(),
            Kind::Instances => "number, or \"max\"".into(),
            Kind::OneOf(words) => format!("string, one of {}", words.join(", ")),
            Kind::Env => "object of strings, or string of NAME=value words".into(),
            Kind::Variable => "string that can name an environment variable".into(),
            Kind::FilterEnv | Kind::Watch => "boolean, array of strings or string".into(),
            Kind::Codes => "number from 0 to 255, or array of them".into(),
            Kind::Cron => "cron pattern".into(),
            Kind::User => "user's or group's name or number".into(),
            Kind::Signal => format!("signal, one of {}", STOP_SIGNALS.join(", ")),
            Kind::Probe => "URL, or object with \"http\", \"tcp\" or \"exec\"".into(),
            Kind::Rotate => "boolean or object".into(),
            Kind::Syslog => "`unix:/PATH` or `udp:ADDRESS:PORT`".into(),
            Kind::Object => "object".into(),
            Kind::Any => "value".into(),
        }
    }
}

/// A string that can be given to the kernel: bounded, no NUL.
pub(super) fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|s| s.len() <= MAX_TEXT && !s.contains('\0'))
}

/// A string, or a number or boolean as the string it reads as.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(_) => text(value).map(str::to_owned),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

/// An array of scalars as an array of strings.
pub(super) fn strings(value: &Value) -> Option<Value> {
    let items = value.as_array()?;
    // `args: [flag && '--flag']` leaves null or false behind, which PM2 passes over as well.
    let items: Option<Vec<String>> =
        items.iter().filter(|item| !item.is_null() && *item != &json!(false)).map(scalar).collect();
    items.map(|items| json!(items))
}

/// A whole number, also written as a string or as 3.0.
pub(super) fn integer(value: &Value, max: u64) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64().or_else(|| whole(n.as_f64()?)),
        // JSON has no infinity; the loader of JavaScript sends it as this word.
        Value::String(s) if s == "Infinity" => Some(max),
        Value::String(s) => s.trim().parse().ok().or_else(|| whole(s.trim().parse().ok()?)),
        _ => None,
    }
}

/// A float without a fraction, within what JSON carries exactly.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(n: f64) -> Option<u64> {
    (n.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&n)).then_some(n as u64)
}

/// A time in milliseconds. Fractions of a millisecond are rounded.
pub(super) fn millis(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => units::millis(&n.to_string()),
        Value::String(s) => units::millis(s),
        _ => None,
    }
}

/// A size in bytes.
pub(super) fn memory(value: &Value) -> Option<u64> {
    match value {
        Value::Number(_) => integer(value, u64::MAX),
        Value::String(s) => units::memory(s.trim()),
        _ => None,
    }
}

/// PM2's numbers of instances; `max` is 0, and so is `auto`, which people write. PM2 takes any other word for 0 as
/// well, which starts a process per CPU because of a typing error.
fn instances(value: &Value) -> Option<i32> {
    let number = match value {
        Value::Number(n) => n.as_i64(),
        Value::String(s) if matches!(s.trim(), "max" | "auto") => Some(0),
        Value::String(s) => s.trim().parse::<i64>().ok(),
        _ => None,
    };
    number.filter(|n| (-1024..=1024).contains(n)).and_then(|n| i32::try_from(n).ok())
}

/// Variables as an object whose values are strings, numbers and booleans, or null for those to be removed.
fn environment(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let mut checked = Map::new();
            for (name, value) in map {
                if !is_variable(name) {
                    return None;
                }
                let value = match value {
                    Value::String(_) => json!(text(value)?),
                    Value::Array(_) | Value::Object(_) => json!(value.to_string()),
                    plain => plain.clone(),
                };
                checked.insert(name.clone(), value);
            }
            Some(Value::Object(checked))
        }
        Value::String(line) => {
            let mut checked = Map::new();
            for word in units::words(line) {
                let (name, value) = word.split_once('=').filter(|(name, _)| is_variable(name))?;
                checked.insert(name.to_owned(), json!(value));
            }
            Some(Value::Object(checked))
        }
        _ => None,
    }
}

/// Whether the kernel and libc take this as a variable's name (environ(7)).
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.len() <= 4096 && !name.contains(['=', '\0'])
}

/// Whether this can be a user's name or number; useradd(8) has stricter ideas, directories of users laxer ones.
pub(super) fn is_user(name: &str) -> bool {
    !name.is_empty() && name.len() <= 256 && !name.contains(|c: char| c.is_control() || c == ':' || c == '/')
}

/// A signal by name, with or without `SIG`, in any case.
pub(super) fn signal(name: &str) -> Option<&'static str> {
    let upper = name.trim().to_ascii_uppercase();
    STOP_SIGNALS.iter().copied().find(|known| *known == upper || known.strip_prefix("SIG") == Some(&upper))
}

fn codes(value: &Value) -> Option<Value> {
    let one =
        |value: &Value| integer(value, 255).filter(|code| *code <= 255).map(|code| Value::Number(Number::from(code)));
    match value {
        Value::Array(items) => items.iter().map(one).collect::<Option<Vec<_>>>().map(Value::Array),
        // Some write the array itself as a string; PM2 takes that, too.
        Value::String(s) if s.contains([',', ' ', '[']) => {
            units::list(s.trim().trim_start_matches('[').trim_end_matches(']'))
                .iter()
                .map(|s| one(&json!(s)))
                .collect::<Option<Vec<_>>>()
                .map(Value::Array)
        }
        _ => one(value).map(|code| Value::Array(vec![code])),
    }
}

/// A pattern that croner understands; false for none.
fn cron(value: &Value) -> Result<Value, String> {
    match value {
        Value::Bool(false) => Ok(json!(false)),
        Value::Number(n) if n.as_f64() == Some(0.0) => Ok(json!(false)),
        Value::String(s) if s.trim() == "0" => Ok(json!(false)),
        Value::String(s) if s.len() <= 256 => match cron_problem(s) {
            None => Ok(json!(s.trim())),
            Some(problem) => Err(format!("cron pattern ({problem})")),
        },
        _ => Err(Kind::Cron.expected()),
    }
}

/// What is wrong with a cron pattern, if anything is. The dialect is croner's with 5 or 6 fields (seconds first), as
/// PM2's; steps without a range (`5/10`) are let pass, as older releases of it did.
#[must_use]
pub fn cron_problem(pattern: &str) -> Option<String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).sloppy_ranges(true).build();
    parser.parse(pattern.trim()).err().map(|error| error.to_string())
}
