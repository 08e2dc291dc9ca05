//! What a `script` is: a file, a program in PATH, or a line for a shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::interpreter::{find_in_path, is_node};
use super::{interpreter, paths};

/// A script, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// What is executed or handed to the interpreter; absolute.
    pub path: PathBuf,
    /// Arguments that the script's own text gave it, before the user's.
    pub args: Vec<String>,
    /// Whether it is a shell that runs a line: then nothing interprets it, and its mode is fork.
    pub shell: bool,
}

/// Where scripts are looked for.
pub(super) struct Search<'a> {
    /// The app's working folder.
    pub cwd: &'a Path,
    /// The app's environment.
    pub env: &'a BTreeMap<String, String>,
    /// Whether the app is to run in cluster mode, where a shell cannot stand between.
    pub cluster: bool,
}

/// Finds a script. On failure, the path that was tried.
pub(super) fn find(script: &str, args: &[String], search: &Search<'_>) -> Result<Found, PathBuf> {
    let script = script.trim();
    match find_file(script, search) {
        Some(path) if search.cluster && path.to_str().is_some_and(is_node) => Ok(of_node(path, args, search)),
        Some(path) => Ok(Found { path, args: args.to_vec(), shell: false }),
        None if script.contains(' ') => shell_line(script, args, search),
        None => Err(paths::resolve(search.cwd, script, search.env)),
    }
}

/// `script: "node", args: "app.js"` in cluster mode: the script is what counts.
fn of_node(node: PathBuf, args: &[String], search: &Search<'_>) -> Found {
    let script = args.split_first().and_then(|(first, rest)| Some((find_file(first, search)?, rest)));
    match script {
        Some((path, rest)) => Found { path, args: rest.to_vec(), shell: false },
        None => Found { path: node, args: args.to_vec(), shell: false },
    }
}

/// A file below the working folder, a program in PATH, or one that the app's own packages brought.
fn find_file(script: &str, search: &Search<'_>) -> Option<PathBuf> {
    let path = paths::resolve(search.cwd, script, search.env);
    if path.is_file() || is_package(&path) {
        return Some(path);
    }
    if script.contains('/') {
        return None;
    }
    find_in_path(script, search.env, search.cwd).or_else(|| {
        let local = search.cwd.join("node_modules/.bin").join(script);
        interpreter::is_executable(&local).then_some(local)
    })
}

/// Whether Node can run this folder.
fn is_package(path: &Path) -> bool {
    path.join("package.json").is_file() || path.join("index.js").is_file()
}

/// A line of several words: a shell's business, but for a Node program that is to run in cluster mode.
fn shell_line(line: &str, args: &[String], search: &Search<'_>) -> Result<Found, PathBuf> {
    if search.cluster
        && let Some(found) = node_program(line, args, search)
    {
        return Ok(found);
    }
    let shell = ["bash", "sh"].iter().find_map(|shell| find_in_path(shell, search.env, search.cwd));
    let shell = shell.ok_or_else(|| PathBuf::from("/bin/sh"))?;
    // Arguments belong to the line's last command, as they would at a prompt.
    let line = std::iter::once(line.to_owned()).chain(args.iter().map(|arg| shell_words::quote(arg).into_owned()));
    let line = line.collect::<Vec<_>>().join(" ");
    Ok(Found { path: shell, args: vec!["-c".to_owned(), line], shell: true })
}

/// `serve -s build -l 5000`: the program's file and the words after it, if it is a script for Node and the line asks
/// nothing of a shell.
fn node_program(line: &str, args: &[String], search: &Search<'_>) -> Option<Found> {
    if line.contains(['|', '&', ';', '<', '>', '(', ')', '$', '`', '*', '?', '[', '#', '~', '{', '\n']) {
        return None;
    }
    let mut words = shell_words::split(line).ok()?;
    if words.is_empty() {
        return None;
    }
    let mut path = find_file(&words.remove(0), search)?;
    if is_node(path.to_str()?) && !words.is_empty() {
        // `node app.js`: the script is what counts.
        path = find_file(&words.remove(0), search)?;
    }
    let choice = interpreter::choose(None, &path, search.env, search.cwd).ok()?;
    is_node(&choice.program).then(|| {
        words.extend_from_slice(args);
        Found { path, args: words, shell: false }
    })
}
