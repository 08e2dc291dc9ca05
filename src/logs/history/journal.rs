//! What the journal has of a process: asks journalctl(1), never opens the journal's files.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use super::{Archive, LOOK_EVERY, MAX_BYTES, MAX_LINE, Out, Search};
use crate::logs::tail::Remembered;
use crate::sys::identity::Identity;

/// What journalctl(1) tells of an entry. Text that is no UTF-8 comes as an array of bytes.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__REALTIME_TIMESTAMP", default)]
    realtime: String,
    #[serde(rename = "MESSAGE", default)]
    message: Text,
    #[serde(rename = "PM2RS_STREAM", default)]
    stream: Text,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
    #[default]
    None,
}

impl Text {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Text::Utf8(text) => text.into_bytes(),
            Text::Bytes(bytes) => bytes,
            Text::None => Vec::new(),
        }
    }
}

/// Ends journalctl when it has told enough.
struct Journalctl(Child);

impl Drop for Journalctl {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The last lines in the journal that are wanted, the oldest first. None where there is no journalctl(1), or it may not
/// read the journal.
pub(super) fn search(archive: &Archive, search: &Search, out: &Out) -> Vec<Remembered> {
    let Ok(mut journalctl) = journalctl(archive, search) else { return Vec::new() };
    let Some(output) = journalctl.0.stdout.take() else { return Vec::new() };
    let mut reader = BufReader::with_capacity(64 << 10, output);
    let (mut lines, mut bytes, mut line) = (Vec::new(), 0, Vec::new());
    for n in 1usize.. {
        line.clear();
        let read = (&mut reader).take(MAX_LINE * 8).read_until(b'\n', &mut line);
        if lines.len() >= search.count() || bytes > MAX_BYTES || read.is_ok_and(|read| read == 0) {
            break;
        }
        if n.is_multiple_of(LOOK_EVERY) && !out.is_read() {
            break;
        }
        let Ok(entry) = serde_json::from_slice::<Entry>(&line) else { continue };
        let timestamp = entry.realtime.parse::<i64>().unwrap_or(0) / 1000;
        let text = entry.message.into_bytes();
        if search.wants(timestamp, &text) {
            bytes += text.len();
            let err = entry.stream.into_bytes() == b"err";
            lines.push(Remembered { err, timestamp, text: text.into() });
        }
    }
    lines.reverse();
    lines
}

/// journalctl(1), the newest entry first. Only entries that we sent count: anybody may write to the journal that a line
/// is an app's, but not that it comes from our user.
fn journalctl(archive: &Archive, search: &Search) -> io::Result<Journalctl> {
    let own = Identity::own().map_err(io::Error::other)?;
    let mut command = Command::new("journalctl");
    command.args(["--output=json", "--all", "--quiet", "--no-pager", "--reverse"]);
    command.arg("--output-fields=MESSAGE,PM2RS_STREAM");
    // systemd.exec(5) on LogNamespace=.
    if let Ok(namespace) = std::env::var("LOG_NAMESPACE") {
        command.arg(format!("--namespace={namespace}"));
    }
    let seconds = |ms: i64| format!("@{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000));
    command.args(search.since.map(|since| format!("--since={}", seconds(since))));
    // The time of an entry is in microseconds; what came within the millisecond counts.
    command.args(search.until.map(|until| format!("--until={}", seconds(until.saturating_add(1)))));
    match (search.out, search.err) {
        (true, false) => command.arg("PM2RS_STREAM=out"),
        (false, true) => command.arg("PM2RS_STREAM=err"),
        _ => command.args(["PM2RS_STREAM=out", "PM2RS_STREAM=err"]),
    };
    command.arg(format!("_UID={}", own.uid)).arg(format!("PM2RS_UID={}", archive.uid));
    command.arg(format!("PM2RS_PROCESS={}", archive.process)).arg(format!("PM2RS_APP={}", archive.app_name));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    Ok(Journalctl(child))
}
