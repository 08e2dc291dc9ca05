//! Reads the imports of every source file and fails on an arrow that the crate's design does not draw.
//!
//! The layers are folders of one crate, so the compiler does not keep them apart; this test does. It reads tokens, not
//! text: comments and strings are no imports, nested braces, inline paths, `super::` and inline modules are followed.

#![allow(clippy::unwrap_used)]

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may name what. `daemon::run` allows that one item, `core` allows the whole folder. A layer may always name
/// itself. The command line may start a daemon, for which it must say which; it sees nothing else of it.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "api",
            "config",
            "core",
            "daemon::run",
            "daemon::check_state",
            "daemon::check_keeper",
            "daemon::end_leftovers",
            "daemon::DaemonOptions",
            "daemon::Mode",
        ],
    ),
    ("daemon", &["core", "dbus", "config", "node", "logs", "sys", "api"]),
    (
        "dbus",
        &[
            "api",
            "core",
            "daemon::Caller",
            "daemon::Change",
            "daemon::Handle",
            "daemon::LogRequest",
            "daemon::Reply",
            "daemon::Request",
            "daemon::StartOptions",
            "daemon::UpdateOptions",
            "daemon::What",
            "sys::socket",
        ],
    ),
    ("config", &["core"]),
    ("node", &["sys", "core"]),
    ("logs", &["sys", "core"]),
    ("api", &[]),
    ("core", &[]),
    ("sys", &[]),
];

/// What the pure core must not touch: everything by which the world comes in.
const IMPURE: &[&str] = &[
    "tokio",
    "zbus",
    "nix",
    "rustix",
    "libc",
    "std::fs",
    "std::io",
    "std::env",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Other(char),
}

/// A path as the source names it, resolved to the crate's root where it is one of ours (`crate::a::b` is `[crate, a, b]`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    line: usize,
    path: Vec<String>,
    /// By which name an import is known from there on.
    name: String,
}

/// Something that a rule forbids.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: PathBuf,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.rule)
    }
}

/// The tokens of a source text with their lines; comments, strings, characters and lifetimes are left out.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let text: Vec<char> = source.chars().collect();
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let (mut found, mut i, mut line) = (Vec::new(), 0, 1);
    while i < text.len() {
        let start = i;
        match text[i] {
            '/' if at(i + 1) == '/' => i += text[i..].iter().take_while(|c| **c != '\n').count(),
            '/' if at(i + 1) == '*' => i = end_of_block_comment(&text, i),
            '"' => i = end_of_string(&text, i),
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                i += text[i..].iter().take_while(|c| **c != '\'').count() + 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => i += 1,
            c if c.is_alphanumeric() || c == '_' => {
                let word: String = text[i..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
                i += word.chars().count();
                match raw_string_hashes(&text, i).filter(|_| matches!(word.as_str(), "r" | "br" | "cr")) {
                    Some(hashes) => i = end_of_raw_string(&text, i, hashes),
                    None => found.push((line, Token::Word(word))),
                }
            }
            ':' if at(i + 1) == ':' => {
                found.push((line, Token::PathSeparator));
                i += 2;
            }
            c if c.is_whitespace() => i += 1,
            c => {
                found.push((line, Token::Other(c)));
                i += 1;
            }
        }
        line += text[start..i.min(text.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn end_of_block_comment(text: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < text.len() {
        match (text[i], text.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) if depth == 1 => return i + 2,
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    i
}

fn end_of_string(text: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < text.len() && text[i] != '"' {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The number of `#` if a raw string begins here.
fn raw_string_hashes(text: &[char], i: usize) -> Option<usize> {
    let hashes = text[i..].iter().take_while(|c| **c == '#').count();
    (text.get(i + hashes) == Some(&'"')).then_some(hashes)
}

fn end_of_raw_string(text: &[char], start: usize, hashes: usize) -> usize {
    let mut i = start + hashes + 1;
    while i < text.len() {
        if text[i] == '"' && text[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

/// Every path that a file in module `module` (`["core", "fleet"]`) names, resolved.
fn paths(source: &str, module: &[String]) -> Vec<Named> {
    let tokens = tokens(source);
    let word = |i: usize| match tokens.get(i) {
        Some((_, Token::Word(w))) => Some(w.as_str()),
        _ => None,
    };
    let is = |i: usize, token: &Token| tokens.get(i).is_some_and(|(_, t)| t == token);
    let mut named = Vec::new();
    // Inline modules that are open: name and the depth of braces outside of them.
    let (mut inline, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i].1 {
            Token::Other('{') => depth += 1,
            Token::Other('}') => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|(_, outside)| *outside == depth);
            }
            Token::Word(w) if w == "mod" && is(i + 2, &Token::Other('{')) => {
                inline.push((word(i + 1).unwrap_or_default().to_owned(), depth));
            }
            Token::Word(w) if w == "use" => {
                i += 1;
                if is(i, &Token::PathSeparator) {
                    i += 1;
                }
                i = tree(&tokens, i, &[], &mut named, module, &inline);
                continue;
            }
            Token::Word(_) if is(i + 1, &Token::PathSeparator) => {
                i = tree(&tokens, i, &[], &mut named, module, &inline);
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    named
}

/// Reads one path or use tree at `i`, adds its leaves to `named`, returns where it ends.
fn tree(
    tokens: &[(usize, Token)],
    mut i: usize,
    before: &[String],
    named: &mut Vec<Named>,
    module: &[String],
    inline: &[(String, usize)],
) -> usize {
    let mut path = before.to_vec();
    let mut line = tokens.get(i).map_or(0, |t| t.0);
    loop {
        match tokens.get(i).map(|t| &t.1) {
            Some(Token::Word(w)) => {
                line = tokens[i].0;
                path.push(w.clone());
                i += 1;
            }
            Some(Token::Other('*')) => {
                path.push("*".to_owned());
                i += 1;
                break;
            }
            Some(Token::Other('{')) => {
                i += 1;
                while i < tokens.len() && tokens[i].1 != Token::Other('}') {
                    let began = i;
                    i = tree(tokens, i, &path, named, module, inline);
                    if tokens.get(i).is_some_and(|t| t.1 == Token::Word("as".to_owned())) {
                        i += 2;
                    }
                    if tokens.get(i).is_some_and(|t| t.1 == Token::Other(',')) || i == began {
                        i += 1;
                    }
                }
                return i + 1;
            }
            _ => break,
        }
        if !tokens.get(i).is_some_and(|t| t.1 == Token::PathSeparator) {
            break;
        }
        i += 1;
    }
    let renamed = match tokens.get(i..i + 2) {
        Some([(_, Token::Word(r#as)), (_, Token::Word(name))]) if r#as == "as" => Some(name.clone()),
        _ => None,
    };
    let mut path = resolve(path, module, inline);
    path.pop_if(|last| last == "self");
    let name = renamed.or_else(|| path.last().cloned()).unwrap_or_default();
    named.push(Named { line, path, name });
    i
}

/// `self::` and `super::` relative to where they stand; our own crate's name, as the binary uses it, is `crate`.
fn resolve(path: Vec<String>, module: &[String], inline: &[(String, usize)]) -> Vec<String> {
    let mut here: Vec<String> = module.iter().cloned().chain(inline.iter().map(|(name, _)| name.clone())).collect();
    let ours = |rest: Vec<String>| std::iter::once("crate".to_owned()).chain(rest).collect();
    match path.first().map(String::as_str) {
        Some("pm2rs") => ours(path[1..].to_vec()),
        Some("self" | "super") if path.len() > 1 => {
            let mut rest = path.as_slice();
            while let Some((first, tail)) = rest.split_first() {
                match first.as_str() {
                    "super" => drop(here.pop()),
                    "self" => {}
                    _ => break,
                }
                rest = tail;
            }
            ours(here.into_iter().chain(rest.iter().cloned()).collect())
        }
        _ => path,
    }
}

/// The module that a file under src/ is: `core/mod.rs` is `[core]`, `core/fleet.rs` is `[core, fleet]`.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    module.pop_if(|last| last == "mod" || last == "lib");
    module
}

/// Whether `path` is a layer of which the rule allows something.
fn leads_to(path: &[String], rule: &str) -> bool {
    path.len() == 1 && rule.split("::").next() == Some(&path[0])
}

fn starts_with(path: &[String], rule: &str) -> bool {
    let rule: Vec<&str> = rule.split("::").collect();
    path.len() >= rule.len() && path.iter().zip(&rule).all(|(a, b)| a == b)
}

/// What is wrong with one file; `file` is relative to src/.
fn check(file: &Path, source: &str) -> Vec<Violation> {
    let module = module_of(file);
    let layer = module.first().map_or("lib", String::as_str);
    let allowed = LAYERS.iter().find(|(name, _)| *name == layer).map(|(_, allowed)| *allowed);
    let violation = |line, rule| Violation { file: Path::new("src").join(file), line, rule };
    let mut found = Vec::new();
    if allowed.is_none() && layer != "lib" {
        found.push(violation(1, format!("`{layer}` is not in the list of layers")));
    }
    let mut named = paths(source, &module);
    // `use crate::daemon;` alone says little: what counts is what is named through it.
    let layers: Vec<Named> = named.iter().filter(|n| n.path.len() == 2 && n.path[0] == "crate").cloned().collect();
    for through in &mut named {
        if let Some(layer) = layers.iter().find(|layer| through.path.len() > 1 && layer.name == through.path[0]) {
            through.path.splice(0..1, layer.path.clone());
        }
    }
    for Named { line, path, .. } in named {
        let shown = path.join("::");
        if path.first().is_some_and(|first| first == "crate") {
            let target = &path[1..];
            if target.is_empty() || target[0] == "*" {
                found.push(violation(line, "the crate is imported as a whole; name the layer".to_owned()));
            } else if LAYERS.iter().any(|(name, _)| *name == target[0])
                && target[0] != layer
                && !allowed.unwrap_or_default().iter().any(|rule| starts_with(target, rule) || leads_to(target, rule))
            {
                let may = allowed.unwrap_or_default().join(", ");
                let may = if may.is_empty() { "no other layer".to_owned() } else { format!("only {may}") };
                found.push(violation(line, format!("`{layer}` must not use `{shown}`; it may use {may}")));
            }
        }
        if let Some(rule) = IMPURE.iter().find(|rule| layer == "core" && starts_with(&path, rule)) {
            found.push(violation(line, format!("`core` is pure and must not use `{rule}` (`{shown}`)")));
        }
    }
    if layer != "sys" {
        for (line, token) in tokens(source) {
            if token == Token::Word("unsafe".to_owned()) {
                found.push(violation(line, "`unsafe` belongs in src/sys only".to_owned()));
            }
        }
    }
    found
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_import_follows_an_arrow_of_the_design() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    files.sort();
    assert!(files.len() > LAYERS.len(), "found only {} source files", files.len());
    let violations: Vec<String> = files
        .iter()
        .flat_map(|file| check(file.strip_prefix(&root).unwrap(), &fs::read_to_string(file).unwrap()))
        .map(|violation| violation.to_string())
        .collect();
    assert!(violations.is_empty(), "forbidden:\n  {}", violations.join("\n  "));
}

/// The rules broken by a text, as `line: rule`.
fn broken(file: &str, source: &str) -> Vec<String> {
    check(Path::new(file), source).into_iter().map(|v| format!("{}: {}", v.line, v.rule)).collect()
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    for source in [
        "use crate::node::spawn;",
        "use crate::{api::Error, node::{spawn, pidfd as p}};",
        "use crate::\n  {api, node};",
        "fn f() { crate::node::spawn() }",
        "use super::super::node::spawn;",
        "mod inner { use super::super::super::node; }",
        "mod inner { mod deeper {} } use super::super::node;",
        "type T = Vec<crate::node::Pid>;",
        "use pm2rs::node::spawn;",
        "pub(crate) use crate::node::*;",
        "use crate::node;",
    ] {
        let found = broken("dbus/manager.rs", source);
        assert!(!found.is_empty(), "{source}");
        assert!(found.iter().all(|v| v.contains("`dbus` must not use `crate::node")), "{source}: {found:?}");
    }
}

#[test]
fn the_line_and_the_rule_are_named() {
    let found = check(Path::new("api/mod.rs"), "//! Contract.\n\nuse std::fmt;\nuse crate::core::Uid;\n");
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["src/api/mod.rs:4: `api` must not use `crate::core::Uid`; it may use no other layer"]);
}

#[test]
fn only_the_named_items_of_the_daemon_are_open() {
    assert_eq!(broken("cli/cmd/daemon.rs", "crate::daemon::run(options)"), Vec::<String>::new());
    assert_eq!(broken("cli/cmd/start.rs", "use crate::daemon::Handle;").len(), 1);
    for source in [
        "use crate::daemon; fn f() { daemon::Handle::new() }",
        "use crate::daemon::{self, run}; fn f() { daemon::Handle::new() }",
        "use crate::{daemon as d}; fn f() { d::Handle::new() }",
        "use crate::daemon as d; type T = d::Handle;",
    ] {
        assert_eq!(broken("cli/cmd/daemon.rs", source).len(), 1, "{source}");
        let allowed = source.replace("Handle::new", "run").replace("Handle", "Mode");
        assert_eq!(broken("cli/cmd/daemon.rs", &allowed), Vec::<String>::new(), "{allowed}");
    }
    assert_eq!(broken("dbus/manager.rs", "use crate::daemon::{Caller, Handle};"), Vec::<String>::new());
    assert_eq!(broken("dbus/manager.rs", "use crate::daemon::{Caller, state};").len(), 1);
    assert_eq!(broken("main.rs", "fn main() { pm2rs::cli::main() }"), Vec::<String>::new());
    assert_eq!(broken("main.rs", "fn main() { pm2rs::daemon::run() }").len(), 1);
}

#[test]
fn a_whole_crate_import_or_an_unknown_layer_is_refused() {
    assert_eq!(broken("daemon/run.rs", "use crate::*;").len(), 1);
    assert_eq!(broken("daemon/run.rs", "use crate::{self as all};").len(), 1);
    assert_eq!(broken("daemon/run.rs", "use crate as all;").len(), 1);
    assert_eq!(broken("utils/mod.rs", "fn f() {}").len(), 1);
}

#[test]
fn what_only_looks_like_an_import_is_none() {
    let source = r##"
        //! See [`crate::sys`].
        /* use crate::sys; /* nested */ use crate::daemon; */
        const A: &str = "use crate::sys;";
        const B: &str = r#"use crate::sys; " crate::daemon"#;
        const C: char = '"';
        const D: char = '\'';
        pub(in crate::core) fn longest<'a>(a: &'a str) -> &'a str { a }
        mod tests { use super::*; use super::super::Fleet; }
        // unsafe
    "##;
    assert_eq!(broken("core/fleet.rs", source), Vec::<String>::new());
}

#[test]
fn the_core_stays_pure() {
    for source in [
        "use tokio::sync::mpsc;",
        "use std::{collections::BTreeMap, fs};",
        "use std::time::{Duration, Instant};",
        "fn f() { std::time::SystemTime::now(); }",
        "fn f() { ::std::env::var(\"HOME\"); }",
    ] {
        assert_eq!(broken("core/fleet.rs", source).len(), 1, "{source}");
        assert_eq!(broken("daemon/run.rs", source), Vec::<String>::new(), "{source}");
    }
    assert_eq!(broken("core/fleet.rs", "use std::time::Duration;"), Vec::<String>::new());
}

#[test]
fn unsafe_lives_in_sys_only() {
    let source = "fn f() {\n    unsafe { g() }\n}";
    assert_eq!(broken("logs/file.rs", source), ["2: `unsafe` belongs in src/sys only"]);
    assert_eq!(broken("sys/spawn.rs", source), Vec::<String>::new());
}
