//! From a file or standard input to a value: which language it is in, and that language's parser.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::ecosystem::Ecosystem;
use super::error::ConfigError;
use super::js;
use super::options::LoadContext;

/// A configuration of eight megabytes is a mistake.
pub(super) const MAX_SIZE: usize = 8 << 20;

/// Deeper nesting than this is an attack on the stack of a recursive parser.
const MAX_DEPTH: usize = 64;

/// What a configuration is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// JSON, with all that JSON5 allows, or a JavaScript expression as PM2 takes it.
    Json,
    /// YAML 1.2.
    Yaml,
    /// TOML.
    Toml,
    /// JavaScript or TypeScript, evaluated by Node.
    Js,
}

/// Whether an argument names a configuration file, and of which kind. PM2 looks for these anywhere in the argument, so
/// that `x.json.bak` is one; the folders before the name are not looked at here.
#[must_use]
pub fn file_kind(argument: &str) -> Option<FileKind> {
    let name = argument.rsplit('/').next().unwrap_or(argument);
    let has = |part: &str| name.contains(part);
    if has(".json") {
        Some(FileKind::Json)
    } else if has(".yml") || has(".yaml") {
        Some(FileKind::Yaml)
    } else if [".config.js", ".config.cjs", ".config.mjs", ".config.ts", ".config.cts", ".config.mts"]
        .iter()
        .any(|part| has(part))
    {
        Some(FileKind::Js)
    } else if name.ends_with(".toml") {
        Some(FileKind::Toml)
    } else {
        None
    }
}

/// Reads a configuration file. Code in it runs as the caller, in the caller's folder, for a bounded time.
///
/// # Errors
/// When it is not there, cannot be read, is malformed, has no app or a wrong key in one.
pub fn load_file(path: &Path, context: &LoadContext) -> Result<Ecosystem, ConfigError> {
    let shown = path.display().to_string();
    let absolute = super::paths::resolve(&context.cwd, &shown, &context.env);
    let kind = file_kind(&shown).unwrap_or(FileKind::Js);
    let text = read(&absolute, path)?;
    let value = match kind {
        FileKind::Js => js::evaluate_file(&absolute, &shown, context)?,
        FileKind::Json => json(&text, &shown, context)?,
        FileKind::Yaml => yaml(&text, &shown)?,
        FileKind::Toml => toml(&text, &shown)?,
    };
    Ecosystem::from_value(value, Some(&absolute), &shown)
}

/// Reads a configuration from the text of standard input, which is JSON as in a file.
///
/// # Errors
/// As [`load_file`].
pub fn parse_stdin(text: &str, context: &LoadContext) -> Result<Ecosystem, ConfigError> {
    if text.len() > MAX_SIZE {
        return Err(ConfigError::TooLarge { file: "stdin".to_owned(), limit: MAX_SIZE });
    }
    Ecosystem::from_value(json(text, "stdin", context)?, None, "stdin")
}

/// The text of a file, bounded. JavaScript is read as well, so that a file that is missing is told from one that fails.
fn read(absolute: &Path, path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let file = match File::open(absolute) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ConfigError::NoSuchFile(path.to_owned()));
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > MAX_SIZE {
        return Err(ConfigError::TooLarge { file: path.display().to_string(), limit: MAX_SIZE });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        malformed(&path.display().to_string(), Some((line, 1)), "not UTF-8 text")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// JSON5; where that fails, PM2's reading of it as a JavaScript expression, which needs Node.
fn json(text: &str, shown: &str, context: &LoadContext) -> Result<Value, ConfigError> {
    let error = match json5(text, shown) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // Text that no brace opens is no object in any reading: no need to start Node for it.
    if !text.contains(['{', '[']) {
        return Err(error);
    }
    // Node's message of an expression names no better place than JSON5's.
    js::evaluate_expression(text, shown, context).map_err(|_| error)
}

fn json5(text: &str, shown: &str) -> Result<Value, ConfigError> {
    if let Some(place) = too_deep(text) {
        return Err(malformed(shown, Some(place), "nested too deeply"));
    }
    json5::from_str(text).map_err(|error| {
        let place = error.position().map(|at| (at.line + 1, at.column + 1));
        let message = error.code().map_or_else(|| error.to_string(), |code| code.to_string());
        malformed(shown, place, &message)
    })
}

/// Where brackets are nested beyond [`MAX_DEPTH`], outside strings and comments.
fn too_deep(text: &str) -> Option<(usize, usize)> {
    let mut depth = 0_usize;
    let (mut line, mut column) = (1, 0);
    let mut quote = None;
    let mut comment = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        column += 1;
        if c == '\n' {
            (line, column) = (line + 1, 0);
        }
        match (quote, comment, c) {
            (Some(_), _, '\\') => drop(chars.next()),
            (Some(open), _, c) if open == c => quote = None,
            (_, Some('/'), '\n') => comment = None,
            (_, Some('*'), '*') if chars.peek() == Some(&'/') => comment = None,
            (Some(_), ..) | (_, Some(_), _) => {}
            (None, None, '"' | '\'') => quote = Some(c),
            (None, None, '/') => comment = chars.peek().copied().filter(|next| matches!(next, '/' | '*')),
            (None, None, '[' | '{') => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Some((line, column));
                }
            }
            (None, None, ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn yaml(text: &str, shown: &str) -> Result<Value, ConfigError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: 1, max_depth: MAX_DEPTH },
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|at| {
            (usize::try_from(at.line()).unwrap_or(usize::MAX), usize::try_from(at.column()).unwrap_or(usize::MAX))
        });
        malformed(shown, place, &error.without_snippet().to_string())
    })
}

fn toml(text: &str, shown: &str) -> Result<Value, ConfigError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let place = error.span().map(|span| line_and_column(text, span.start));
        malformed(shown, place, error.message())
    })?;
    Ok(Value::Object(table.into_iter().map(|(key, value)| (key, from_toml(value))).collect()))
}

/// TOML as JSON; times become text, numbers that JSON does not have too.
fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => {
            serde_json::Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
        }
        toml::Value::Boolean(boolean) => boolean.into(),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(items) => items.into_iter().map(from_toml).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, from_toml(value))).collect::<Map<_, _>>())
        }
    }
}

/// Counted from 1, columns in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn malformed(shown: &str, place: Option<(usize, usize)>, message: &str) -> ConfigError {
    let first = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("cannot be read");
    match place {
        Some((line, column)) => {
            ConfigError::Malformed { file: shown.to_owned(), message: format!("line {line}, column {column}: {first}") }
        }
        None => ConfigError::Malformed { file: shown.to_owned(), message: first.to_owned() },
    }
}
