//! How a line looks in a file. Pure.

use jiff::Zoned;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::dayjs;
use super::split::{Line, LineEnd};
use crate::core::{AppSpec, LogType, ProcessId};

/// How the lines of one process are written into its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Bytes as they came.
    Raw,
    /// Each line after the time in this dayjs format and `: `.
    Timed(String),
    /// A JSON object per line with PM2's keys, the time in this dayjs format or ISO 8601.
    Json(Option<String>),
}

/// Whose line it is, as PM2's keys have it.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// `process_id`.
    pub process: ProcessId,
    /// `app_name`.
    pub app_name: &'a str,
    /// `type`: `err` rather than `out`.
    pub err: bool,
}

impl Origin<'_> {
    /// PM2's word for the stream.
    #[must_use]
    pub fn stream(&self) -> &'static str {
        if self.err { "err" } else { "out" }
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    message: &'a str,
    timestamp: &'a str,
    #[serde(rename = "type")]
    stream: &'a str,
    process_id: u32,
    app_name: &'a str,
}

impl Form {
    /// What the app asks for.
    #[must_use]
    pub fn of(spec: &AppSpec) -> Form {
        let format = spec.log.log_date_format.clone().filter(|format| !format.is_empty());
        match (spec.log.log_type, format) {
            (LogType::Json, format) => Form::Json(format),
            (LogType::Raw, Some(format)) => Form::Timed(format),
            (LogType::Raw, None) => Form::Raw,
        }
    }

    /// The time as lines of this form bear it; the same for all lines that arrive together.
    #[must_use]
    pub fn stamp(&self, now: &Zoned) -> String {
        match self {
            Form::Raw => String::new(),
            Form::Timed(format) | Form::Json(Some(format)) => dayjs::format(format, now),
            Form::Json(None) => dayjs::format("YYYY-MM-DDTHH:mm:ss.SSS[Z]", &now.with_time_zone(TimeZone::UTC)),
        }
    }

    /// The line as those who look on get it: as it is in the file, but for its end. `scratch` is where it is put together.
    pub fn shown<'a>(&self, scratch: &'a mut Vec<u8>, line: &Line<'a>, stamp: &str, origin: Origin<'_>) -> &'a [u8] {
        if *self == Form::Raw {
            return line.text();
        }
        scratch.clear();
        self.append(scratch, &Line { raw: line.text(), ..*line }, stamp, origin);
        scratch.strip_suffix(b"\n").unwrap_or(scratch)
    }

    /// Appends the line in this form. Whatever is appended ends in a line feed unless the form is raw or timed and the
    /// line itself does not.
    pub fn append(&self, to: &mut Vec<u8>, line: &Line<'_>, stamp: &str, origin: Origin<'_>) {
        match self {
            Form::Raw => to.extend_from_slice(line.raw),
            Form::Timed(_) => {
                // What goes on with a line that was too long belongs behind its first piece, not below it.
                if !line.continues {
                    to.extend_from_slice(stamp.as_bytes());
                    to.extend_from_slice(b": ");
                }
                to.extend_from_slice(line.raw);
            }
            Form::Json(_) => {
                // A message that is only a piece bears no line feed, as in PM2.
                let mut message = String::from_utf8_lossy(line.text());
                if line.end == LineEnd::Newline {
                    message.to_mut().push('\n');
                }
                let line = JsonLine {
                    message: &message,
                    timestamp: stamp,
                    stream: origin.stream(),
                    process_id: origin.process.0,
                    app_name: origin.app_name,
                };
                // Writing strings and numbers into memory cannot fail.
                drop(serde_json::to_writer(&mut *to, &line));
                to.push(b'\n');
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'_> = Origin { process: ProcessId(7), app_name: "j", err: false };

    fn written(form: &Form, raw: &[u8], end: LineEnd, continues: bool) -> String {
        let now: Zoned = "2026-11-21T01:57:36.123+01:00[Europe/Berlin]".parse().unwrap();
        let mut to = Vec::new();
        form.append(&mut to, &Line { raw, end, continues }, &form.stamp(&now), ORIGIN);
        String::from_utf8_lossy(&to).into_owned()
    }

    #[test]
    fn lines_as_pm2_writes_them() {
        let timed = Form::Timed("YYYY-MM-DDTHH:mm:ss".to_owned());
        assert_eq!(written(&Form::Raw, b"x\r\n", LineEnd::Newline, false), "x\r\n");
        assert_eq!(written(&timed, b"x\n", LineEnd::Newline, false), "2026-11-21T01:57:36: x\n");
        assert_eq!(
            written(&Form::Json(None), b"out \"0\"\n", LineEnd::Newline, false),
            "{\"message\":\"out \\\"0\\\"\\n\",\"timestamp\":\"2026-11-21T00:57:36.123Z\",\"type\":\"out\",\
             \"process_id\":7,\"app_name\":\"j\"}\n"
        );
        let json = Form::Json(Some("HH:mm".to_owned()));
        assert!(written(&json, b"x\n", LineEnd::Newline, false).contains("\"timestamp\":\"01:57\""));
    }

    #[test]
    fn who_looks_on_sees_lines_as_the_file_has_them() {
        let now: Zoned = "2026-11-21T01:57:36.123+01:00[Europe/Berlin]".parse().unwrap();
        let seen = |form: Form, raw: &[u8]| {
            let mut scratch = b"of another line".to_vec();
            let line = Line { raw, end: LineEnd::Newline, continues: false };
            String::from_utf8_lossy(form.shown(&mut scratch, &line, &form.stamp(&now), ORIGIN)).into_owned()
        };
        assert_eq!(seen(Form::Raw, b"x \r\n"), "x ");
        assert_eq!(seen(Form::Timed("HH:mm".to_owned()), b"x \r\n"), "01:57: x ");
        let json = seen(Form::Json(None), b"x\n");
        assert!(json.starts_with("{\"message\":\"x\\n\",") && json.ends_with('}'), "{json}");
    }

    #[test]
    fn pieces_of_a_long_line_have_one_time() {
        let timed = Form::Timed("HH".to_owned());
        assert_eq!(written(&timed, b"head", LineEnd::Split, false), "01: head");
        assert_eq!(written(&timed, b"tail\n", LineEnd::Newline, true), "tail\n");
        assert!(written(&Form::Json(None), b"head", LineEnd::Split, false).starts_with("{\"message\":\"head\","));
    }

    #[test]
    fn hostile_bytes_stay_one_object_a_line() {
        let line = written(&Form::Json(None), b"a\"},\xff\x00\x1b{\n", LineEnd::Newline, false);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a\"},\u{fffd}\0\u{1b}{\n");
    }
}
