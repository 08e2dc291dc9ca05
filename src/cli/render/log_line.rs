//! Lines of `pm2rs logs`, in its formats.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::console::Paint;
use crate::cli::records::Record;

/// How lines are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// `0|name  | text`
    Prefixed,
    /// The text alone.
    Raw,
    /// A JSON object.
    Json,
    /// `key=value` pairs.
    Pairs,
}

/// All that decides how a line looks.
#[derive(Debug, Clone)]
pub struct Look {
    /// How lines are shown.
    pub form: Form,
    /// dayjs format of the time before each line.
    pub time_format: Option<String>,
    /// A word to stand out.
    pub highlight: Option<String>,
    /// Whether colours are shown.
    pub colours: bool,
    /// The time zone of shown times.
    pub zone: TimeZone,
}

impl Look {
    /// The line as it is printed, its line break included. `width` is that of the column before the bar.
    pub fn line(&self, record: &Record, width: usize) -> String {
        // A file that shows no times does not tell when its lines were written.
        let time = Some(record.timestamp).filter(|at| *at > 0).and_then(|at| Timestamp::from_millisecond(at).ok());
        match self.form {
            Form::Raw => format!("{}\n", record.message),
            Form::Json => {
                let object = json!({
                    "message": record.message,
                    "timestamp": time.map(|time| format!("{time:.3}")),
                    "type": record.stream,
                    "process_id": record.process_id,
                    "app_name": record.app_name,
                });
                format!("{object}\n")
            }
            Form::Pairs => {
                let time = time.map(|time| self.formatted(time, "YYYY-MM-DD-HH:mm:ssZZ")).unwrap_or_default();
                let stream = if record.stream == "err" { "error" } else { "out" };
                let (app, id, message) = (&record.app_name, record.process_id, &record.message);
                format!("timestamp={time} app={app} id={id} type={stream} message={message}\n")
            }
            Form::Prefixed => {
                let paint = if record.stream == "err" { Paint::Red } else { Paint::Green };
                let who = format!("{:<width$} | ", who(record));
                let format = self.time_format.as_deref();
                let time = format.zip(time).map(|(format, time)| self.formatted(time, format) + " ");
                let time = Paint::Grey.on(self.colours && time.is_some(), &time.unwrap_or_default());
                format!("{time}{}{}\n", paint.on(self.colours, &who), self.highlighted(&record.message))
            }
        }
    }

    fn highlighted(&self, text: &str) -> String {
        match self.highlight.as_deref().filter(|word| !word.is_empty()) {
            Some(word) => text.replace(word, &Paint::Inverse.on(self.colours, word)),
            None => text.to_owned(),
        }
    }

    fn formatted(&self, time: Timestamp, format: &str) -> String {
        let zoned = time.to_zoned(self.zone.clone());
        jiff::fmt::strtime::format(strftime(format), &zoned).unwrap_or_else(|_| time.to_string())
    }
}

/// What happened to a process, among lines as JSON.
pub fn event(at: u64, event: &str, app_name: &str) -> String {
    let time = Timestamp::from_millisecond(i64::try_from(at).unwrap_or(i64::MAX)).unwrap_or_default();
    let object = json!({
        "timestamp": format!("{time:.3}"),
        "type": "process_event",
        "status": event,
        "app_name": app_name,
    });
    format!("{object}\n")
}

/// `0|name`, what stands before the bar.
pub fn who(record: &Record) -> String {
    format!("{}|{}", record.process_id, record.app_name)
}

/// A dayjs format as strftime(3) has it: the tokens that dayjs knows without plugins; `[text]` and all else stand for
/// themselves.
fn strftime(dayjs: &str) -> String {
    const TOKENS: [(&str, &str); 24] = [
        ("YYYY", "%Y"),
        ("YY", "%y"),
        ("MMMM", "%B"),
        ("MMM", "%b"),
        ("MM", "%m"),
        ("M", "%-m"),
        ("DD", "%d"),
        ("D", "%-d"),
        ("dddd", "%A"),
        ("ddd", "%a"),
        ("d", "%w"),
        ("HH", "%H"),
        ("H", "%-H"),
        ("hh", "%I"),
        ("h", "%-I"),
        ("mm", "%M"),
        ("m", "%-M"),
        ("ss", "%S"),
        ("s", "%-S"),
        ("SSS", "%3f"),
        ("ZZ", "%z"),
        ("Z", "%:z"),
        ("A", "%p"),
        ("a", "%P"),
    ];
    let mut out = String::new();
    let mut rest = dayjs;
    while let Some(next) = rest.chars().next() {
        if let Some((literal, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            out.push_str(&literal.replace('%', "%%"));
            rest = after;
        } else if let Some((token, code)) = TOKENS.iter().find(|(token, _)| rest.starts_with(token)) {
            out.push_str(code);
            rest = &rest[token.len()..];
        } else {
            if next == '%' {
                out.push('%');
            }
            out.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stream: &str) -> Record {
        Record {
            process_id: 0,
            app_name: "api".to_owned(),
            stream: stream.to_owned(),
            timestamp: 1_795_225_850_123,
            message: "listening on 3000".to_owned(),
            ..Record::default()
        }
    }

    fn look(form: Form) -> Look {
        Look { form, time_format: None, highlight: None, colours: false, zone: TimeZone::UTC }
    }

    #[test]
    fn every_form() {
        let out = record("out");
        assert_eq!(look(Form::Prefixed).line(&out, 6), "0|api  | listening on 3000\n");
        assert_eq!(look(Form::Raw).line(&out, 6), "listening on 3000\n");
        assert_eq!(
            look(Form::Json).line(&out, 6),
            "{\"message\":\"listening on 3000\",\"timestamp\":\"2026-11-21T01:50:50.123Z\",\"type\":\"out\",\
             \"process_id\":0,\"app_name\":\"api\"}\n"
        );
        assert_eq!(
            look(Form::Pairs).line(&record("err"), 6),
            "timestamp=2026-11-21-01:50:50+0000 app=api id=0 type=error message=listening on 3000\n"
        );
    }

    #[test]
    fn a_time_that_is_not_known_is_not_made_up() {
        let line = Record { timestamp: 0, ..record("out") };
        let json = look(Form::Json).line(&line, 6);
        assert!(json.contains("\"timestamp\":null,"), "{json}");
        let pairs = look(Form::Pairs).line(&line, 6);
        assert!(pairs.starts_with("timestamp= app=api "), "{pairs}");
        let timed = Look { time_format: Some("YYYY".to_owned()), ..look(Form::Prefixed) };
        assert_eq!(timed.line(&line, 6), "0|api  | listening on 3000\n");
    }

    #[test]
    fn events_are_pm2s() {
        assert_eq!(
            event(1_795_225_850_123, "restart", "api"),
            "{\"timestamp\":\"2026-11-21T01:50:50.123Z\",\"type\":\"process_event\",\"status\":\"restart\",\
             \"app_name\":\"api\"}\n"
        );
    }

    #[test]
    fn time_and_highlight() {
        let mut look = look(Form::Prefixed);
        look.time_format = Some("YYYY-MM-DD [at] H:mm:ss.SSS".to_owned());
        assert_eq!(look.line(&record("out"), 6), "2026-11-21 at 1:50:50.123 0|api  | listening on 3000\n");
        look.time_format = None;
        look.highlight = Some("3000".to_owned());
        look.colours = true;
        assert!(look.line(&record("err"), 6).ends_with("listening on \x1b[7m3000\x1b[0m\n"));
    }
}
