//! Ecosystem files in the manner of those that projects have, read and resolved: each folder of `ecosystem/projects`
//! has a file and beside it, in `expected.snap`, what comes of it. Fields that have their default are left out.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pm2rs::config::{
    CallerContext, CliOverrides, Ecosystem, LoadContext, diff, file_kind, load_file, resolve_entry, to_entry,
};
use pm2rs::core::AppSpec;
use serde_json::{Value, to_value};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ecosystem")
}

/// A caller in the project's folder, whose PATH has nothing in it but the corpus's stand-ins.
fn caller(project: &Path) -> CallerContext {
    let variables =
        [("PATH", corpus().join("bin").display().to_string()), ("HOME", "/home/ann".into()), ("AWS_KEY", "k".into())];
    CallerContext {
        cwd: project.to_owned(),
        env: variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        home: "/home/ann/.pm2rs".into(),
        username: "ann".into(),
        cpus: 4,
        log_dir: "/home/ann/.pm2rs/logs".into(),
        pid_dir: "/home/ann/.pm2rs/pids".into(),
    }
}

/// For reading, the machine's own Node is needed.
fn load_context(caller: &CallerContext) -> LoadContext {
    let mut env: BTreeMap<String, String> = caller.env.clone();
    env.insert("PATH".into(), std::env::var("PATH").unwrap());
    LoadContext { env, ..LoadContext::new(caller, Vec::new()) }
}

fn file_of(project: &Path) -> String {
    let mut names = fs::read_dir(project).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_config =
        |name: &String| file_kind(name).is_some() && (name != "package.json" || project.ends_with("package-json"));
    names.find(is_config).unwrap_or_else(|| panic!("no configuration in {}", project.display()))
}

fn report(project: &Path) -> String {
    let caller = caller(project);
    let mut text = String::new();
    let ecosystem = match load_file(Path::new(&file_of(project)), &load_context(&caller)) {
        Ok(ecosystem) => ecosystem,
        Err(error) => return format!("error: {error}\n"),
    };
    for warning in &ecosystem.warnings {
        writeln!(text, "warning: {warning}").unwrap();
    }
    let env_name = fs::read_to_string(project.join("ENV")).ok().map(|name| name.trim().to_owned());
    let options = CliOverrides { env_name, ..CliOverrides::default() };
    for entry in &ecosystem.apps {
        match resolve_entry(entry, &options, &caller) {
            Ok(resolved) => {
                for warning in &resolved.warnings {
                    writeln!(text, "warning: {warning}").unwrap();
                }
                writeln!(text, "{}", serde_json::to_string_pretty(&told(&resolved.spec)).unwrap()).unwrap();
            }
            Err(error) => writeln!(text, "error: {error}").unwrap(),
        }
    }
    text.replace(&corpus().display().to_string(), "[CORPUS]")
}

/// The spec without what is at its default.
fn told(spec: &AppSpec) -> Value {
    let mut spec = to_value(spec).unwrap();
    without_defaults(&mut spec, &to_value(AppSpec::default()).unwrap());
    spec
}

fn without_defaults(value: &mut Value, default: &Value) {
    if let (Value::Object(value), Value::Object(default)) = (value, default) {
        for (key, default) in default {
            if let Some(value) = value.get_mut(key) {
                without_defaults(value, default);
            }
        }
        value.retain(|key, value| default.get(key) != Some(value) && value != &Value::Object(serde_json::Map::new()));
    }
}

fn projects() -> Vec<PathBuf> {
    let mut projects: Vec<PathBuf> =
        fs::read_dir(corpus().join("projects")).unwrap().map(|entry| entry.unwrap().path()).collect();
    projects.sort();
    projects
}

/// What an app of the corpus resolves to, and what the entry written of that resolves to.
#[test]
fn what_is_written_of_an_app_resolves_to_the_same() {
    for project in projects() {
        let caller = caller(&project);
        let Ok(ecosystem) = load_file(Path::new(&file_of(&project)), &load_context(&caller)) else { continue };
        for app in &ecosystem.apps {
            let spec = resolve_entry(app, &CliOverrides::default(), &caller).unwrap().spec;
            let written = Ecosystem::from_value(Value::Array(vec![to_entry(&spec).into()]), None, "written").unwrap();
            assert_eq!(written.warnings, []);
            let mut again = resolve_entry(&written.apps[0], &CliOverrides::default(), &caller).unwrap().spec;
            assert_eq!(diff(&spec, &again).iter().filter(|change| !change.key.starts_with("extra")).count(), 0);
            again.extra = spec.extra.clone();
            again.source_file = spec.source_file.clone();
            assert_eq!(again, spec);
        }
    }
}

#[test]
fn every_project_resolves_to_what_is_expected() {
    let version = Command::new("node").arg("--version").output().unwrap().stdout;
    let old = [b"v18.", b"v20."].iter().any(|old| version.starts_with(*old));
    for project in projects() {
        let name = project.file_name().unwrap().to_str().unwrap();
        if name == "typescript" && old {
            let error = report(&project);
            assert!(error.contains("22.6 and newer can"), "an old Node is told of in so many words: {error}");
            continue;
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(&project);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!("expected", report(&project)));
    }
}
