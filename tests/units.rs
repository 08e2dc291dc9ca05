//! What systemd reads of ours is understood by systemd: units, sysusers.d and tmpfiles.d files.
//!
//! Whether it works is shown in a booted container (`tests/e2e`); this finds a misspelt setting in a second.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_pm2rs");

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(file)
}

/// Copies units into a folder, with the binary that was just built in place of the installed one.
fn staged(folder: &Path, units: &[&str]) -> Vec<PathBuf> {
    units
        .iter()
        .map(|unit| {
            let text = fs::read_to_string(source(unit)).unwrap().replace("/usr/bin/pm2rs", BINARY);
            let path = folder.join(Path::new(unit).file_name().unwrap());
            fs::write(&path, text).unwrap();
            path
        })
        .collect()
}

/// Runs a program of systemd's; `None`, said aloud, on a machine that does not have it.
fn systemd(program: &str, prepare: impl FnOnce(&mut Command)) -> Option<Output> {
    let mut command = Command::new(program);
    command.env("SYSTEMD_LOG_LEVEL", "warning");
    prepare(&mut command);
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            eprintln!("skipped: this machine has no `{program}`");
            None
        }
        Err(error) => panic!("cannot run `{program}`: {error}"),
    }
}

/// What `systemd-analyze verify` has to say about units; empty when it is content.
fn complaints(units: &[PathBuf], user: bool, runtime: &Path) -> Option<String> {
    let output = systemd("systemd-analyze", |command| {
        command.arg(if user { "--user" } else { "--system" }).args(["verify", "--man=no"]).args(units);
        command.env("XDG_RUNTIME_DIR", runtime);
    })?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn systemd_understands_the_units() {
    let folder = tempfile::tempdir().unwrap();
    for (units, user) in [
        (["pm2rs.service", "pm2rs-leftovers.service", "pm2rs.slice", "examples/pm2rs-http.socket"].as_slice(), false),
        (["user/pm2rs.service", "user/pm2rs-leftovers.service", "user/pm2rs.slice"].as_slice(), true),
    ] {
        let units = staged(folder.path(), units);
        if let Some(complaints) = complaints(&units, user, folder.path()) {
            let ours: Vec<&str> = complaints.lines().filter(|line| line.contains("pm2rs")).collect();
            assert!(ours.is_empty(), "{ours:#?}");
            assert!(!complaints.contains("Failed to initialize"), "{complaints}");
        }
    }
}

#[test]
fn a_misspelt_setting_would_be_found() {
    let folder = tempfile::tempdir().unwrap();
    let unit = staged(folder.path(), &["pm2rs.service"]).remove(0);
    let text = fs::read_to_string(&unit).unwrap().replace("NonBlocking=", "NonBlockin=");
    fs::write(&unit, text).unwrap();
    if let Some(complaints) = complaints(&[unit], false, folder.path()) {
        assert!(complaints.contains("NonBlockin"), "{complaints}");
    }
}

#[test]
fn both_services_keep_what_the_daemon_counts_on() {
    for unit in ["pm2rs.service", "user/pm2rs.service"] {
        let text = fs::read_to_string(source(unit)).unwrap();
        for setting in [
            "Type=notify",
            "Restart=always",
            "StartLimitIntervalSec=0",
            "NonBlocking=yes",
            "OOMPolicy=continue",
            "LogRateLimitIntervalSec=1us",
            "WatchdogSec=30s",
        ] {
            assert!(text.lines().any(|line| line == setting), "{unit} lost `{setting}`");
        }
        assert!(text.contains("\nFileDescriptorStoreMax="), "{unit} has no descriptor store");
    }
}

#[test]
fn sysusers_and_tmpfiles_are_understood() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(root.path().join("etc/group"), "root:x:0:\n").unwrap();
    if let Some(output) = systemd("systemd-sysusers", |command| {
        command.arg(format!("--root={}", root.path().display())).arg(source("pm2rs.sysusers"));
    }) {
        assert!(output.status.success(), "{output:?}");
        assert!(fs::read_to_string(root.path().join("etc/group")).unwrap().contains("pm2rs:"));
    }
    if let Some(output) = systemd("systemd-tmpfiles", |command| {
        command.arg(format!("--root={}", root.path().display())).arg("--create").arg(source("pm2rs.tmpfiles"));
    }) {
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!complaint.contains("pm2rs"), "{complaint}");
    }
}
