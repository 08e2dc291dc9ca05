//! Evaluates configurations written in JavaScript or TypeScript by running `node` as the caller.
//!
//! The time, the output and the messages of the code are bounded: it is the caller's code, but it may be wrong.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::error::ConfigError;
use super::interpreter::{self, NodeVersion};
use super::options::LoadContext;
use super::source::MAX_SIZE;

/// Loads the file and writes what it exports.
const LOADER: &str = include_str!("loader.cjs");

/// Stands before and after the result, so that what the code's children print is told from it.
const MARK: &str = "\u{1e}pm2rs-configuration\u{1e}";

/// What the loader writes.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Value(Value),
    Error(Failure),
}

#[derive(Deserialize)]
struct Failure {
    message: String,
    code: Option<String>,
    file: Option<String>,
    line: Option<u64>,
}

/// What a file exports: its default export or `module.exports`, else its named exports; of a function, what it returns
/// or promises.
pub(super) fn evaluate_file(path: &Path, shown: &str, context: &LoadContext) -> Result<Value, ConfigError> {
    let node = find_node(shown, context)?;
    let mut command = Command::new(&node);
    if is_typescript(path) {
        command.args(typescript_flags(&node, shown, context)?);
    }
    let mode = [std::ffi::OsStr::new("file"), path.as_os_str()];
    command.args(["--no-warnings", "-e", LOADER, "--"]).args(mode).arg(MARK).args(&context.argv);
    run(command, None, shown, context)
}

/// What a JavaScript expression comes to: PM2 reads `.json` files so.
pub(super) fn evaluate_expression(text: &str, shown: &str, context: &LoadContext) -> Result<Value, ConfigError> {
    let mut command = Command::new(find_node(shown, context)?);
    command.args(["--no-warnings", "-e", LOADER, "--", "expression", shown, MARK]);
    run(command, Some(text.to_owned()), shown, context)
}

fn find_node(shown: &str, context: &LoadContext) -> Result<PathBuf, ConfigError> {
    interpreter::find_in_path("node", &context.env, &context.cwd)
        .ok_or_else(|| ConfigError::NoNode { file: shown.to_owned(), message: "is not in PATH".to_owned() })
}

fn is_typescript(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "ts" || ext == "mts" || ext == "cts")
}

/// What makes this Node read TypeScript.
fn typescript_flags(node: &Path, shown: &str, context: &LoadContext) -> Result<&'static [&'static str], ConfigError> {
    let no_node = |message: String| ConfigError::NoNode { file: shown.to_owned(), message };
    let version = NodeVersion::of(node, &context.env).ok_or_else(|| no_node("does not tell its version".to_owned()))?;
    version.typescript_flags().ok_or_else(|| no_node(format!("{version} cannot read TypeScript, 22.6 and newer can")))
}

/// Runs the loader and reads its answer.
fn run(mut command: Command, input: Option<String>, shown: &str, context: &LoadContext) -> Result<Value, ConfigError> {
    command
        .env_clear()
        .envs(&context.env)
        // They would make Node take a descriptor of ours for the channel to its parent.
        .env_remove("NODE_CHANNEL_FD")
        .env_remove("NODE_UNIQUE_ID")
        .current_dir(&context.cwd)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| ConfigError::NoNode {
        file: shown.to_owned(),
        message: format!("cannot be started: {error}"),
    })?;
    let output = answer_of(&mut child, input, context.timeout);
    // Over or not, it has nothing left to say; its exit status tells less than its answer.
    let _ = child.kill();
    let _ = child.wait();
    let failed = |message: String| ConfigError::Evaluation { file: shown.to_owned(), message };
    match output {
        Output::Answer(text) => match serde_json::from_str(&text) {
            Ok(Answer::Value(value)) => Ok(value),
            Ok(Answer::Error(failure)) => Err(failed(failure.told(shown))),
            // What is no object and no array becomes no JSON at all: `undefined`.
            Err(_) => Err(ConfigError::NoApps { file: shown.to_owned() }),
        },
        Output::Nothing => Err(failed("its code ended the process before it exported anything".to_owned())),
        Output::TooLarge => Err(ConfigError::TooLarge { file: shown.to_owned(), limit: MAX_SIZE }),
        Output::TimedOut => Err(ConfigError::Timeout { file: shown.to_owned(), seconds: context.timeout.as_secs() }),
    }
}

enum Output {
    Answer(String),
    Nothing,
    TooLarge,
    TimedOut,
}

/// Waits for the text between the marks. The threads end when the child does, or when they had enough.
fn answer_of(child: &mut Child, input: Option<String>, timeout: Duration) -> Output {
    if let (Some(mut stdin), Some(text)) = (child.stdin.take(), input) {
        // A child that does not read its input says why in its answer.
        thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
    }
    let Some(stdout) = child.stdout.take() else { return Output::Nothing };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(read_answer(stdout))));
    receiver.recv_timeout(timeout).unwrap_or(Output::TimedOut)
}

fn read_answer(mut stdout: impl Read) -> Output {
    let mut seen: Vec<u8> = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let end = match stdout.read(&mut chunk) {
            Ok(0) | Err(_) => true,
            Ok(n) => {
                seen.extend_from_slice(&chunk[..n]);
                false
            }
        };
        if end || seen.ends_with(MARK.as_bytes()) {
            let mut marks = find_all(&seen, MARK.as_bytes());
            if let (Some(first), Some(second)) = (marks.next(), marks.next()) {
                return Output::Answer(String::from_utf8_lossy(&seen[first + MARK.len()..second]).into_owned());
            }
        }
        if end {
            return Output::Nothing;
        }
        if seen.len() > MAX_SIZE {
            return Output::TooLarge;
        }
    }
}

/// Offsets at which `needle` stands in `bytes`.
fn find_all<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    bytes.windows(needle.len()).enumerate().filter(move |(_, window)| *window == needle).map(|(at, _)| at)
}

impl Failure {
    /// Node's message with its place, and what to do where that is known.
    fn told(&self, shown: &str) -> String {
        let message: String = self.message.lines().next().unwrap_or_default().chars().take(500).collect();
        let place = match (&self.file, self.line) {
            (Some(file), Some(line)) if file.ends_with(shown.trim_start_matches("./")) => format!("line {line}: "),
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            _ => String::new(),
        };
        let hint = match self.code.as_deref() {
            Some("ERR_REQUIRE_ESM") => " (name the file .mjs)",
            _ if message.contains("module is not defined in ES module scope") => " (name the file .cjs)",
            _ if message.contains("Unexpected token 'export'") || message.contains("import statement outside") => {
                " (name the file .mjs)"
            }
            _ => "",
        };
        format!("{place}{message}{hint}")
    }
}
