//! What the command line says without any daemon: help, usage, wrong input. No daemon may be started by any of these.
#![allow(clippy::unwrap_used)]

mod cli;

use std::path::Path;

use cli::pm2rs;

/// Compares with a committed file. `UPDATE_GOLDEN=1` writes it anew.
#[track_caller]
fn committed(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs; expected:\n{expected}\nactual:\n{actual}");
}

#[track_caller]
fn golden(name: &str, actual: &str) {
    committed(&format!("tests/golden/{name}"), actual);
}

#[test]
fn help_is_as_committed() {
    golden("help.txt", &pm2rs("--help").ok().complains("").stdout());
    golden("help-start.txt", &pm2rs("start -h").ok().complains("").stdout());
    golden("help-logs.txt", &pm2rs("logs --help").ok().complains("").stdout());
    golden("help-scale.txt", &pm2rs("-h scale").ok().complains("").stdout());
}

#[test]
fn version_anywhere() {
    let version = format!("{}\n", env!("CARGO_PKG_VERSION"));
    for line in ["-v", "--version", "-V", "list --version", "-v start app.js"] {
        assert_eq!(pm2rs(line).ok().stdout(), version, "{line}");
    }
}

#[test]
fn nothing_and_the_unknown_show_the_usage() {
    pm2rs("").fails().complains("").says("usage: pm2rs [options] <command>");
    pm2rs("frobnicate").fails().complains("").says("[PM2][ERROR] Command not found\n").says("usage: pm2rs");
    pm2rs("relaod all")
        .fails()
        .complains("")
        .says("[PM2][ERROR] Command not found: `relaod` (did you mean `reload`?)\n");
}

#[test]
fn called_as_pm2_it_names_itself_so() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("pm2");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pm2rs"), &link).unwrap();
    let ended = std::process::Command::new(&link).output().unwrap();
    assert!(String::from_utf8_lossy(&ended.stdout).contains("usage: pm2 [options] <command>"));
}

#[test]
fn wrong_lines_get_one_line_and_exit_1() {
    let table = [
        ("start app.js --bogus", "\n  error: unknown option `--bogus'\n\n"),
        ("list --srot cpu", "\n  error: unknown option `--srot' (did you mean `--sort'?)\n\n"),
        ("restart", "\n  error: missing required argument `id|name|namespace|all|json|stdin'\n\n"),
        ("sendSignal SIGUSR2", "\n  error: missing required argument `pm2_id|name'\n\n"),
        ("start app.js -i", "\n  error: option `-i, --instances <n>' argument missing\n\n"),
        ("list --system --home /tmp/x", "\n  error: option `--system' does not go with `--home <DIR>'\n\n"),
        ("restart all --parallel many", "\n  error: option `--parallel <N>' does not take `many'\n\n"),
    ];
    for (line, message) in table {
        pm2rs(line).fails().prints_nothing().complains(message);
    }
}

#[test]
fn wrong_apps_are_refused_before_a_daemon_is_started() {
    let home = tempfile::tempdir().unwrap();
    let cwd = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(cwd.path().join(name), text).unwrap();
    write("app.js", "");
    write("broken.json", "{ \"apps\": [\n  { \"name\": \"a\",, }\n] }");
    write("wrong.json", "{ \"apps\": [{ \"name\": \"a\", \"script\": \"app.js\", \"max_restarts\": \"many\" }] }");
    write("missing.json", "{ \"apps\": [{ \"name\": \"a\", \"script\": \"gone.js\" }] }");
    for (line, part) in [
        ("start ./nope.js", "nope.js"),
        ("start ./app.js -i foo", "instances"),
        ("start ./app.js --interpreter no-such-interpreter", "no-such-interpreter"),
        ("start none.config.js", "none.config.js"),
        ("start broken.json", "broken.json"),
        ("start wrong.json", "max_restarts"),
        ("start missing.json", "gone.js"),
        ("start", "ecosystem.config.js"),
        ("validate wrong.json", "max_restarts"),
        ("startOrReload missing.json", "gone.js"),
    ] {
        let ended = pm2rs(line).home(home.path()).cwd(cwd.path()).fails().mentions(part);
        assert!(ended.stdout().lines().all(|line| line.starts_with("[PM2][WARN] ")), "{ended}");
        assert!(ended.stderr().starts_with("[PM2][ERROR] "), "{line}: {}", ended.stderr());
        assert_eq!(ended.stderr().lines().count(), 1, "{line}: {}", ended.stderr());
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "something was started");
}

#[test]
fn what_pm2rs_has_not_is_answered_in_one_line() {
    for line in ["deploy production setup", "install pm2-logrotate", "pull api", "link a b", "profile:cpu", "plus"] {
        let ended = pm2rs(line).fails().prints_nothing();
        assert_eq!(ended.stderr().lines().count(), 1, "{line}: {}", ended.stderr());
    }
}

#[test]
fn settings_are_kept_in_pm2_s_file() {
    let home = tempfile::tempdir().unwrap();
    let call = |line: &str| pm2rs(line).home(home.path());
    call("set api:port 8080").ok().says("[PM2] Setting changed").says("Module: api\n$ pm2 set api:port 8080\n");
    call("multiset 'api:host localhost pm2:sysmonit false'").ok();
    call("set plain word").ok();
    assert_eq!(call("get api:port").ok().stdout(), "Value for module api key port: 8080\n");
    call("get").ok().says("$ pm2 set api:host localhost\n").says("$ pm2 set plain word\n");
    call("conf api").ok().says("$ pm2 set api:port 8080\n").says_not("plain");
    call("get api:nothing").fails().prints_nothing().complains("[PM2][ERROR] Unknown key api:nothing\n");
    call("set __proto__:polluted yes").fails().prints_nothing();
    let stored = std::fs::read_to_string(home.path().join("module_conf.json")).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["api"]["port"], "8080");
    call("conf api:port").ok().says("Module: api\n$ pm2 set api:port 8080\n").says_not("plain");
    call("set other").ok().says("$ pm2 set plain word\n").says("Module: api\n");
    call("unset api:port").ok().says("$ pm2 set api:host localhost\n").says_not("8080");
    call("get api:port").fails();
    call("unset nothing").ok().says("$ pm2 set plain word\n");
    call("unset all").ok();
    assert_eq!(call("get").ok().stdout(), "");
}

#[test]
fn sample_configuration_is_valid_and_overwrites_no_work_of_others() {
    let cwd = tempfile::tempdir().unwrap();
    std::fs::write(cwd.path().join("app.js"), "").unwrap();
    for line in ["init", "ecosystem simple", "init fancy"] {
        pm2rs(line).cwd(cwd.path()).ok().says("ecosystem.config.js generated");
        pm2rs("validate ecosystem.config.js").cwd(cwd.path()).ok().says("App [app");
    }
    let kept = cwd.path().join("ecosystem.config.js.bak");
    assert!(!kept.exists(), "a sample is nobody's work");
    std::fs::write(cwd.path().join("ecosystem.config.js"), "module.exports = {};").unwrap();
    pm2rs("init").cwd(cwd.path()).ok().says("generated").mentions("ecosystem.config.js.bak");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "module.exports = {};");
}

#[test]
fn completion_knows_commands_and_options() {
    let home = tempfile::tempdir().unwrap();
    let words = |at: &str, line: &str| {
        let line = format!("completion -- pm2rs {line}");
        let text = pm2rs(&line).home(home.path()).env("COMP_CWORD", at).ok().stdout();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words("1", "rel"), ["reload", "reloadLogs"]);
    assert_eq!(
        words("2", "logs --no"),
        [
            "--no-autorestart",
            "--no-autostart",
            "--no-color",
            "--no-daemon",
            "--no-treekill",
            "--node-args",
            "--nostream"
        ]
    );
    assert_eq!(words("2", "stop a"), ["all"]);
    for shell in ["bash", "zsh", "fish"] {
        pm2rs(&format!("completion {shell}")).ok().says("completion --");
    }
    pm2rs("completion tcsh").fails().prints_nothing();
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "completing started something");
}

#[test]
fn completion_is_installed_once_and_removed_whole() {
    let home = tempfile::tempdir().unwrap();
    let bashrc = home.path().join(".bashrc");
    std::fs::write(&bashrc, "alias x=y").unwrap();
    let call = |line: &str| {
        pm2rs(line).env("HOME", home.path().to_str().unwrap()).env("SHELL", "/bin/bash").ok();
        std::fs::read_to_string(&bashrc).unwrap()
    };
    let once = call("completion install");
    assert!(once.starts_with("alias x=y\n###-begin-pm2-completion-###\n"));
    assert_eq!(call("completion install"), once);
    assert_eq!(call("completion uninstall"), "alias x=y\n");
}

#[test]
fn manual_is_as_committed() {
    let folder = tempfile::tempdir().unwrap();
    pm2rs(&format!("man {}", folder.path().display())).ok();
    let names = |folder: &Path| {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for name in names(folder.path()) {
        let page = std::fs::read_to_string(folder.path().join(&name)).unwrap();
        committed(&format!("packaging/man/{name}"), &page);
    }
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man");
    assert_eq!(names(folder.path()), names(&packaged));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("pm2rs.1").contains("startOrReload"));
    assert!(read("pm2rs-start.1").contains("\\-\\-max\\-memory\\-restart"));
    assert!(!read("pm2rs-jlist.1").contains("\\-\\-max\\-memory\\-restart"));
}

#[test]
fn packaged_completions_are_what_the_program_prints() {
    for (shell, file) in [("bash", "pm2rs.bash"), ("zsh", "_pm2rs"), ("fish", "pm2rs.fish")] {
        committed(&format!("packaging/completions/{file}"), &pm2rs(&format!("completion {shell}")).ok().stdout());
    }
}
