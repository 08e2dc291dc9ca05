//! JSON values as Node's `util.inspect` prints them with `depth: null`: scripts grep that form.
//!
//! The rules are those of Node's lib/internal/util/inspect.js with its default options (`compact: 3`,
//! `maxArrayLength: 100`, `maxStringLength: 10000`); a test compares with a real Node.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Columns that a line broken by choice stays below.
const BREAK_LENGTH: usize = 80;
/// So many innermost levels may share a line.
const COMPACT: usize = 3;
/// Elements of an array that are shown.
const MAX_ELEMENTS: usize = 100;
/// UTF-16 units of a string that are shown.
const MAX_STRING: usize = 10_000;
/// A string no longer than this is never split at its line breaks.
const SHORT_STRING: usize = 16;
/// Arrays with more entries are set in columns.
const UNGROUPED: usize = 6;

/// The value as `util.inspect(value, { depth: null })` has it.
pub fn inspect(value: &Value) -> String {
    Inspector { indentation: 0, last_depth: 0 }.value(value, 0)
}

/// A JavaScript string literal, quoted as Node chooses to.
pub fn quoted(text: &str) -> String {
    let quote = match (text.contains('\''), text.contains('"'), text.contains('`') || text.contains("${")) {
        (false, ..) => '\'',
        (true, false, _) => '"',
        (true, true, false) => '`',
        (true, true, true) => '\'',
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            '\'' if quote == '\'' => out.push_str("\\'"),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {
                let _ = write!(out, "\\x{:02X}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push(quote);
    out
}

struct Inspector {
    indentation: usize,
    /// Depth of the object or array formatted last: what Node decides by whether a parent may go on one line.
    last_depth: usize,
}

impl Inspector {
    fn value(&mut self, value: &Value, depth: usize) -> String {
        match value {
            Value::Null => "null".to_owned(),
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => number_text(number),
            Value::String(text) => self.string(text),
            Value::Array(items) if items.is_empty() => "[]".to_owned(),
            Value::Array(items) => self.array(items, depth),
            Value::Object(map) if map.is_empty() => "{}".to_owned(),
            Value::Object(map) => self.object(map, depth),
        }
    }

    fn string(&self, text: &str) -> String {
        let length = width(text);
        let (shown, trailer) = if length > MAX_STRING {
            let rest = length - MAX_STRING;
            let units: Vec<u16> = text.encode_utf16().take(MAX_STRING).collect();
            (String::from_utf16_lossy(&units), format!("... {rest} more character{}", plural(rest)))
        } else {
            (text.to_owned(), String::new())
        };
        let room = BREAK_LENGTH.saturating_sub(self.indentation + 4);
        let length = width(&shown);
        if length > SHORT_STRING && length > room {
            let lines: Vec<String> = shown.split_inclusive('\n').map(quoted).collect();
            return lines.join(&format!(" +\n{}", " ".repeat(self.indentation + 2))) + &trailer;
        }
        quoted(&shown) + &trailer
    }

    fn array(&mut self, items: &[Value], depth: usize) -> String {
        self.last_depth = depth;
        let mut entries: Vec<String> = items.iter().take(MAX_ELEMENTS).map(|item| self.nested(item, depth)).collect();
        let hidden = items.len() - entries.len();
        if hidden > 0 {
            entries.push(format!("... {hidden} more item{}", plural(hidden)));
        }
        let count = entries.len();
        if count > UNGROUPED {
            entries = self.in_columns(entries, hidden > 0, items.iter().take(count).all(Value::is_number));
        }
        let grouped = entries.len() != count;
        self.joined(&entries, ['[', ']'], depth, grouped)
    }

    fn object(&mut self, map: &Map<String, Value>, depth: usize) -> String {
        self.last_depth = depth;
        let entries: Vec<String> = map
            .iter()
            .map(|(key, value)| {
                let value = self.nested(value, depth);
                if key == "__proto__" {
                    format!("['__proto__']: {value}")
                } else if is_identifier(key) {
                    format!("{key}: {value}")
                } else {
                    format!("{}: {value}", quoted(key))
                }
            })
            .collect();
        self.joined(&entries, ['{', '}'], depth, false)
    }

    fn nested(&mut self, value: &Value, depth: usize) -> String {
        self.indentation += 2;
        let text = self.value(value, depth + 1);
        self.indentation -= 2;
        text
    }

    /// On one line where that is short and not too deep, else one entry per line.
    fn joined(&self, entries: &[String], [open, close]: [char; 2], depth: usize, grouped: bool) -> String {
        if !grouped && self.last_depth - depth < COMPACT {
            let start = entries.len() + self.indentation + 1 + 10;
            let total: usize = entries.iter().map(|entry| width(entry)).sum::<usize>() + entries.len() + start;
            if total <= BREAK_LENGTH && !entries.iter().any(|entry| entry.contains('\n')) {
                return format!("{open} {} {close}", entries.join(", "));
            }
        }
        let line = format!("\n{}", " ".repeat(self.indentation));
        format!("{open}{line}  {}{line}{close}", entries.join(&format!(",{line}  ")))
    }

    /// Sets short entries in columns, so that the whole is about square. `cut` says that the last entry only tells how
    /// many are not shown.
    fn in_columns(&self, entries: Vec<String>, cut: bool, numbers: bool) -> Vec<String> {
        const SEPARATOR: usize = 2;
        const CHARACTER_HEIGHT: f64 = 2.5;
        const MAX_COLUMNS: usize = 15;
        let shown = entries.len() - usize::from(cut);
        let widths: Vec<usize> = entries[..shown].iter().map(|entry| width(entry)).collect();
        let total: usize = widths.iter().map(|width| width + SEPARATOR).sum();
        let longest = widths.iter().copied().max().unwrap_or_default();
        let column = longest + SEPARATOR;
        let alike = float(total) / float(column) > 5.0 || longest <= 6;
        if column * 3 + self.indentation >= BREAK_LENGTH || !alike {
            return entries;
        }
        let bias = (float(column) - float(total) / float(entries.len())).sqrt();
        let biased = (float(column) - 3.0 - bias).max(1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let square = ((CHARACTER_HEIGHT * biased * float(shown)).sqrt() / biased).round() as usize;
        let columns = square.min((BREAK_LENGTH - self.indentation) / column).min(COMPACT * 4).min(MAX_COLUMNS);
        if columns <= 1 {
            return entries;
        }
        let of_column: Vec<usize> = (0..columns)
            .map(|i| widths.iter().skip(i).step_by(columns).copied().max().unwrap_or_default() + SEPARATOR)
            .collect();
        let mut lines = Vec::with_capacity(shown / columns + 2);
        for first in (0..shown).step_by(columns) {
            let last = (first + columns).min(shown) - 1;
            let mut line = String::new();
            for at in first..=last {
                let text = &entries[at];
                let room = of_column[at - first];
                match (numbers, at == last) {
                    (true, true) => pad_start(&mut line, text, room - SEPARATOR),
                    (true, false) => pad_start(&mut line, &format!("{text}, "), room),
                    (false, true) => line.push_str(text),
                    (false, false) => {
                        line.push_str(text);
                        line.push_str(", ");
                        line.push_str(&" ".repeat(room.saturating_sub(widths[at] + SEPARATOR)));
                    }
                }
            }
            lines.push(line);
        }
        if cut {
            lines.extend(entries.into_iter().next_back());
        }
        lines
    }
}

fn pad_start(line: &mut String, text: &str, room: usize) {
    line.push_str(&" ".repeat(room.saturating_sub(width(text))));
    line.push_str(text);
}

#[allow(clippy::cast_precision_loss)]
fn float(n: usize) -> f64 {
    n as f64
}

/// JavaScript's `length`.
fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

fn is_identifier(key: &str) -> bool {
    let mut bytes = key.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A number as JavaScript prints it.
fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => {
            let size = float.abs();
            if size != 0.0 && !(1e-6..1e21).contains(&size) {
                let text = format!("{float:e}");
                if size >= 1.0 { text.replace('e', "e+") } else { text }
            } else if float == 0.0 && float.is_sign_negative() {
                "-0".to_owned()
            } else {
                float.to_string()
            }
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn short_things_stay_on_one_line() {
        assert_eq!(inspect(&json!({"msg": "pong"})), "{ msg: 'pong' }");
        assert_eq!(inspect(&json!([0, 2])), "[ 0, 2 ]");
        assert_eq!(inspect(&json!([])), "[]");
        assert_eq!(inspect(&json!({"a-b": {}, "c": [null, true]})), "{ 'a-b': {}, c: [ null, true ] }");
    }

    #[test]
    fn strings_are_quoted_as_node_chooses() {
        assert_eq!(quoted("plain"), "'plain'");
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("it's \"so\""), "`it's \"so\"`");
        assert_eq!(quoted("'\"`\\\n\u{1b}"), "'\\'\"`\\\\\\n\\x1B'");
    }

    #[test]
    fn equal_to_a_real_node() {
        let cases = [
            json!([{"pid": 1, "name": "x", "monit": {"memory": 1.5, "cpu": 0.3}, "pm2_env": {"node_args": ["--harmony"],
                "env": {"PORT": 3000, "A_LONG_NAME_OF_A_VARIABLE": "a value that is long enough to break the line here"},
                "axm_monitor": {"Heap Size": {"value": "10.5", "type": "internal/v8/heap/total", "unit": "MiB", "historic": true}},
                "deep": {"a": {"b": {"c": {"d": 1}}}}, "filter_env": [], "watch": ["server", "client"]}}]),
            json!((0..40).collect::<Vec<_>>()),
            json!((0..130).map(|n| n * 1000).collect::<Vec<_>>()),
            json!((0..9).map(|n| "x".repeat(n)).collect::<Vec<_>>()),
            json!((0..30).map(|n| "w".repeat(n % 7)).collect::<Vec<_>>()),
            json!([
                "short",
                "a rather long string among the others, which prevents columns",
                "c",
                "d",
                "e",
                "f",
                "g",
                "h"
            ]),
            json!({"lines": format!("{}\n{}\n", "first ".repeat(12), "second ".repeat(12)), "tab": "a\tb", "n": [1e21, 1e-7, 0.1, -5, 1e20]}),
            json!({"a": {"b": {"c": {}}}}),
            json!({"a": {"b": {"c": {"d": {}}}}}),
            json!([[1, [2, [3, [4, [5]]]]]]),
            json!([[[[1]]], {"x": [[[2]]], "y": 3}]),
            json!({"__proto__x": 1, "1a": 2, "ü": "ö€😀", "": 0}),
            json!({"xxxxxxxxxxxxxxxxxxxxxxxxxxxxx": "yyyyyyyyyyyyyyyyyyyyyyyyyyyy", "z": "aaaaaaa"}),
            json!({"xxxxxxxxxxxxxxxxxxxxxxxxxxxxx": "yyyyyyyyyyyyyyyyyyyyyyyyyyyy", "z": "aaaaaaaa"}),
            json!({"xxxxxxxxxxxxxxxxxxxxxxxxxxxxx": "yyyyyyyyyyyyyyyyyyyyyyyyyyyy", "z": "aaaaaaaaa"}),
            json!((0..7).map(|n| json!({"name": format!("app{n}")})).collect::<Vec<_>>()),
        ];
        let script = "const v = JSON.parse(require('fs').readFileSync(0, 'utf8'));\
            process.stdout.write(JSON.stringify(v.map(x => require('util').inspect(x, { depth: null }))))";
        let mut node = match std::process::Command::new("node")
            .args(["-e", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
        {
            Ok(node) => node,
            Err(error) => panic!("this test needs `node`: {error}"),
        };
        serde_json::to_writer(node.stdin.take().unwrap(), &cases).unwrap();
        let expected: Vec<String> = serde_json::from_slice(&node.wait_with_output().unwrap().stdout).unwrap();
        for (case, expected) in cases.iter().zip(expected) {
            assert_eq!(inspect(case), expected, "for {case}");
        }
    }
}
