//! Which program runs a script.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::paths;

/// PM2's table of extensions. TypeScript is a case of its own.
const BY_EXTENSION: &[(&str, &str)] = &[
    ("js", "node"),
    ("mjs", "node"),
    ("cjs", "node"),
    ("jsx", "node"),
    ("sh", "bash"),
    ("py", "python"),
    ("rb", "ruby"),
    ("php", "php"),
    ("pl", "perl"),
    ("coffee", "coffee"),
    ("ls", "lsc"),
];

/// What runs a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// A name to look up in PATH, a path, or `none`.
    pub program: String,
    /// Arguments it needs for this script, before the user's.
    pub flags: Vec<String>,
}

impl Choice {
    pub(super) fn of(program: impl Into<String>) -> Choice {
        Choice { program: program.into(), flags: Vec::new() }
    }
}

/// Why no interpreter serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not there.
    Missing(String),
    /// It is there and will not do; a whole sentence.
    Unfit(String),
}

/// Chooses by what was given, else by extension, else by content.
pub(super) fn choose(
    given: Option<&str>,
    script: &Path,
    env: &BTreeMap<String, String>,
    cwd: &Path,
) -> Result<Choice, Refusal> {
    let choice = match given {
        Some("none") => return Ok(Choice::of("none")),
        Some(given) => match given.strip_prefix("node@") {
            Some(version) => return nvm(version, env).map(Choice::of),
            None => Choice::of(given),
        },
        None => by_script(script, env, cwd)?,
    };
    if choice.program == "none" {
        return Ok(choice);
    }
    // A name stays a name, to be looked up anew at each start; a path of the user's becomes absolute, and a program
    // that the app's own packages brought can be given by path alone.
    let found = if choice.program.contains('/') {
        Some(paths::resolve(cwd, &choice.program, env)).filter(|path| is_executable(path))
    } else if find_in_path(&choice.program, env, cwd).is_some() {
        return Ok(choice);
    } else {
        Some(cwd.join("node_modules/.bin").join(&choice.program)).filter(|path| is_executable(path))
    };
    match found.as_deref().and_then(Path::to_str) {
        Some(path) => Ok(Choice { program: path.to_owned(), ..choice }),
        None => Err(Refusal::Missing(choice.program)),
    }
}

fn by_script(script: &Path, env: &BTreeMap<String, String>, cwd: &Path) -> Result<Choice, Refusal> {
    let extension = script.extension().and_then(|ext| ext.to_str()).unwrap_or_default();
    if matches!(extension, "ts" | "tsx" | "mts" | "cts") {
        return typescript(extension, script, env, cwd);
    }
    let listed = BY_EXTENSION.iter().find(|(known, _)| *known == extension).map(|(_, program)| *program);
    Ok(match listed {
        Some("python") if find_in_path("python", env, cwd).is_none() => Choice::of("python3"),
        Some(program) => Choice::of(program),
        // A folder is for Node to resolve: package.json's `main`, else index.js.
        None if script.is_dir() => Choice::of("node"),
        None => Choice::of(by_content(script)),
    })
}

/// Text is for Node, as PM2 has it, unless its first line names another program; what is not text is a program.
fn by_content(script: &Path) -> &'static str {
    let mut head = Vec::new();
    let read = File::open(script).and_then(|file| file.take(512).read_to_end(&mut head));
    if read.is_err() || head.contains(&0) {
        return "none";
    }
    match head.strip_prefix(b"#!") {
        Some(line) => {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let names_node =
                |word: &[u8]| matches!(word.rsplit(|byte| *byte == b'/').next(), Some(b"node" | b"nodejs"));
            if line.split(u8::is_ascii_whitespace).any(names_node) { "node" } else { "none" }
        }
        None => "node",
    }
}

/// bun where it is installed, else Node if it is new enough; `.tsx` is for bun alone, as Node reads no JSX.
fn typescript(extension: &str, script: &Path, env: &BTreeMap<String, String>, cwd: &Path) -> Result<Choice, Refusal> {
    if find_in_path("bun", env, cwd).is_some() {
        return Ok(Choice::of("bun"));
    }
    let script = script.display();
    if extension == "tsx" {
        return Err(Refusal::Unfit(format!("`{script}` needs bun, which is not in PATH, or another interpreter")));
    }
    let node = find_in_path("node", env, cwd).ok_or_else(|| Refusal::Missing("bun".to_owned()))?;
    match NodeVersion::of(&node, env).map(|version| (version, version.typescript_flags())) {
        Some((_, Some(flags))) => {
            Ok(Choice { program: "node".to_owned(), flags: flags.iter().map(|flag| (*flag).to_owned()).collect() })
        }
        Some((version, None)) => Err(Refusal::Unfit(format!(
            "`{script}` needs bun or Node 22.6 or newer, and `node` is {version}; or name another interpreter"
        ))),
        None => Err(Refusal::Unfit(format!("cannot run `{script}`: `node --version` says nothing"))),
    }
}

/// A Node that nvm installed: `20`, `20.11`, `v20.11.1`; the newest that fits.
fn nvm(wanted: &str, env: &BTreeMap<String, String>) -> Result<String, Refusal> {
    let unfit = |why: &str| Refusal::Unfit(format!("Interpreter node@{wanted} is not available: {why}"));
    let wanted_parts: Option<Vec<u32>> =
        wanted.trim_start_matches('v').split('.').map(|part| part.parse().ok()).collect();
    let Some(wanted_parts) = wanted_parts.filter(|parts| parts.len() <= 3) else {
        return Err(unfit("expected a version as node@20 or node@20.11.1"));
    };
    let home = env.get("NVM_DIR").cloned().or_else(|| Some(format!("{}/.nvm", env.get("HOME")?)));
    let folder = home.map(|home| Path::new(&home).join("versions/node")).unwrap_or_default();
    let installed = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let fitting = installed.filter_map(|entry| {
        let version = NodeVersion::parse(entry.file_name().to_str()?)?;
        let parts = [version.major, version.minor, version.patch];
        let node = entry.path().join("bin/node");
        (parts.starts_with(&wanted_parts) && is_executable(&node)).then_some((version, node))
    });
    match fitting.max_by_key(|(version, _)| *version).and_then(|(_, node)| node.to_str().map(str::to_owned)) {
        Some(node) => Ok(node),
        None => Err(unfit(&format!("nvm has none, type `nvm install {wanted}`"))),
    }
}

/// The program of this name in the PATH of `env`, or the path itself when it is one.
pub(super) fn find_in_path(program: &str, env: &BTreeMap<String, String>, cwd: &Path) -> Option<PathBuf> {
    if program.is_empty() {
        return None;
    }
    if program.contains('/') {
        let path = cwd.join(program);
        return is_executable(&path).then_some(path);
    }
    // Without PATH, execvp(3) searches these.
    let path = env.get("PATH").map_or("/bin:/usr/bin", String::as_str);
    path.split(':').map(|folder| cwd.join(folder).join(program)).find(|path| is_executable(path))
}

/// Whether this is a file that somebody may execute.
pub(super) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this program is Node, or speaks like it in cluster mode.
pub(super) fn is_node(program: &str) -> bool {
    matches!(Path::new(program).file_name().and_then(|name| name.to_str()), Some("node" | "nodejs" | "bun"))
}

/// A version of Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl NodeVersion {
    /// Asks `node --version`; none when it does not answer within some seconds.
    pub(super) fn of(node: &Path, env: &BTreeMap<String, String>) -> Option<NodeVersion> {
        let mut command = Command::new(node);
        command.arg("--version").env_clear().envs(env).env_remove("NODE_CHANNEL_FD").env_remove("NODE_OPTIONS");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let stdout = child.stdout.take()?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.take(64).read_to_string(&mut text);
            drop(sender.send(read.map(|_| text)));
        });
        let answer = receiver.recv_timeout(Duration::from_secs(10));
        let _ = child.kill();
        let _ = child.wait();
        NodeVersion::parse(answer.ok()?.ok()?.trim())
    }

    /// `v20.11.1`.
    fn parse(text: &str) -> Option<NodeVersion> {
        let mut parts = text.strip_prefix('v')?.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
            digits.parse().ok()
        });
        Some(NodeVersion { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? })
    }

    /// What makes this version read TypeScript; none when nothing does. By itself from 22.18 and 23.6 on.
    pub(super) fn typescript_flags(self) -> Option<&'static [&'static str]> {
        match (self.major, self.minor) {
            (22, 18..) | (23, 6..) | (24.., _) => Some(&[]),
            (22, 6..) | (23, _) => Some(&["--experimental-strip-types"]),
            _ => None,
        }
    }
}

impl fmt::Display for NodeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typescript_needs_a_node_that_reads_it() {
        let strip: &[&str] = &["--experimental-strip-types"];
        let table = [
            ("v18.20.4", None),
            ("v20.20.2", None),
            ("v22.5.1", None),
            ("v22.6.0", Some(strip)),
            ("v22.18.0", Some(&[][..])),
            ("v23.0.0", Some(strip)),
            ("v23.6.0", Some(&[][..])),
            ("v25.1.0-nightly2025", Some(&[][..])),
        ];
        for (text, flags) in table {
            assert_eq!(NodeVersion::parse(text).and_then(NodeVersion::typescript_flags), flags, "{text}");
        }
        assert_eq!(NodeVersion::parse("20.1"), None);
    }
}
