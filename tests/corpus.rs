//! Shell scripts as PM2's users have them, run with a link named `pm2`: what they start, list, grep and count.
//!
//! Each script of `tests/corpus` insists on what it expects and says where it was disappointed. They run with PM2
//! itself as well, but for what pm2rs does better on purpose.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a script in a home folder and a folder of apps of its own.
fn run(script: &str) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let place = tempfile::tempdir().unwrap();
    let (bin, apps, home) = (place.path().join("bin"), place.path().join("apps"), place.path().join("home"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&apps).unwrap();
    for name in ["pm2", "pm2-runtime"] {
        symlink(env!("CARGO_BIN_EXE_pm2rs"), bin.join(name)).unwrap();
    }
    for app in fs::read_dir(corpus.join("apps")).unwrap() {
        let app = app.unwrap();
        fs::copy(app.path(), apps.join(app.file_name())).unwrap();
    }
    let mut path = bin.clone().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let with = |program: &str| {
        let mut command = Command::new(program);
        command.env("PATH", &path).env("PM2_HOME", &home).env("CORPUS", &corpus).current_dir(&apps);
        for name in ["PM2RS_HOME", "PM2_SILENT", "FORCE_COLOR", "NO_COLOR", "NODE_ENV", "LIMIT", "PORT", "FOO", "BAR"] {
            command.env_remove(name);
        }
        // A machine that is busy with many tests at once may need more than the usual 3 s to start Node.
        command.env("PM2_GRACEFUL_LISTEN_TIMEOUT", "60000").stdin(Stdio::null());
        command
    };
    let ended = with("bash").arg(corpus.join(script)).output().unwrap();
    let killed = with("pm2").arg("kill").output().unwrap();
    let out = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log = fs::read_to_string(home.join("pm2.log")).unwrap_or_default();
    assert!(ended.status.success(), "{script}: {}{}\n{log}", out(&ended.stdout), out(&ended.stderr));
    assert!(killed.status.success(), "{script}: {}", out(&killed.stderr));
}

#[test]
fn a_script() {
    run("script.sh");
}

#[test]
fn a_file() {
    run("file.sh");
}

#[test]
fn in_the_foreground() {
    run("foreground.sh");
}

#[test]
fn errors() {
    run("errors.sh");
}

#[test]
fn an_exporter() {
    run("exporter.sh");
}

#[test]
fn a_server_of_static_files() {
    run("serve.sh");
}

#[test]
fn deployments() {
    run("deploy.sh");
}

#[test]
fn loops_over_ids() {
    run("ids.sh");
}

#[test]
fn options_of_a_restart() {
    run("amended.sh");
}

#[test]
fn exit_codes_and_silence() {
    run("codes.sh");
}

#[test]
fn columns_and_rows() {
    run("columns.sh");
}

#[test]
fn what_is_said_to_processes() {
    run("speak.sh");
}

#[test]
fn a_migration() {
    run("migrate.sh");
}
