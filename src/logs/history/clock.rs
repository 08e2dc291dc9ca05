//! Time and text of the lines in a log file, as its form shows them.

use jiff::Timestamp;
use serde::Deserialize;

use crate::logs::dayjs;
use crate::logs::format::Form;

/// Reads time and text of a file's lines, one after the other.
#[derive(Debug)]
pub struct Clock<'a> {
    form: &'a Form,
    reader: Option<dayjs::Reader>,
    /// Of the line before: one that tells no time has come at the same time.
    last: i64,
}

#[derive(Deserialize)]
struct JsonLine {
    message: String,
    #[serde(default)]
    timestamp: String,
}

impl Clock<'_> {
    /// At the first line of a file.
    #[must_use]
    pub fn of(form: &Form) -> Clock<'_> {
        let reader = match form {
            Form::Timed(format) | Form::Json(Some(format)) => dayjs::Reader::of(format),
            Form::Raw | Form::Json(None) => None,
        };
        Clock { form, reader, last: 0 }
    }

    /// When the line came, milliseconds since the epoch or 0, and what the process wrote. The time that the file shows
    /// before it stays, as in PM2.
    pub fn read(&mut self, line: &[u8]) -> (i64, Vec<u8>) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Form::Json(_) = self.form
            && let Ok(json) = serde_json::from_slice::<JsonLine>(line)
        {
            let timestamp = match &self.reader {
                Some(reader) => reader.read(json.timestamp.as_bytes()),
                None => json.timestamp.parse::<Timestamp>().ok().map(Timestamp::as_millisecond),
            };
            self.last = timestamp.unwrap_or(self.last);
            return (self.last, json.message.trim_end_matches(['\r', '\n']).as_bytes().to_vec());
        }
        if let Some(timestamp) = self.reader.as_ref().and_then(|reader| reader.read(line)) {
            self.last = timestamp;
        }
        (self.last, line.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_read_back() {
        let line = br#"{"message":"x\n","timestamp":"2026-11-21T00:00:00.123Z","type":"out"}"#;
        let json = Form::Json(None);
        let mut clock = Clock::of(&json);
        assert_eq!(clock.read(line), (1_795_219_200_123, b"x".to_vec()));
        assert_eq!(clock.read(b"no json"), (1_795_219_200_123, b"no json".to_vec()));
        assert_eq!(Clock::of(&Form::Raw).read(b"text\r"), (0, b"text".to_vec()));
    }
}
