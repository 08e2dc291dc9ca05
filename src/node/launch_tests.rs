//! Tables of what is executed for which spec.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::core::{AppId, ProcessId, WorkerId};

const AGENT: &str = "/run/pm2rs/agent.cjs";

fn spec(change: impl FnOnce(&mut AppSpec)) -> AppSpec {
    let mut spec = AppSpec {
        name: "web".into(),
        script: "/srv/web/app.js".into(),
        cwd: "/srv/web".into(),
        source_map_support: false,
        ..AppSpec::default()
    };
    spec.env.insert("PATH".into(), "/opt/bin:/usr/bin:tools".into());
    change(&mut spec);
    spec
}

fn order(spec: AppSpec) -> SpawnOrder {
    SpawnOrder {
        worker: WorkerId(9),
        process: ProcessId(4),
        app: AppId(1),
        instance: 2,
        spec: Arc::new(spec),
        restarts: 3,
    }
}

fn start(spec: AppSpec, installed: &[&str], account: Option<&Account>) -> Result<Launch, LaunchError> {
    start_with(spec, installed, account, account.is_some())
}

fn start_with(
    spec: AppSpec,
    installed: &[&str],
    account: Option<&Account>,
    others_env: bool,
) -> Result<Launch, LaunchError> {
    let executable = |path: &Path| installed.iter().any(|p| Path::new(p) == path);
    let node_versions = |folder: &Path| {
        assert!(folder.ends_with("versions/node"), "{folder:?}");
        ["v18.20.8", "v20.9.0", "v20.10.1", "v22.1.0"].map(str::to_owned).to_vec()
    };
    let context = LaunchContext {
        pm2_home: Path::new("/home/ada/.pm2"),
        agent: Path::new(AGENT),
        channel_fd: Some(3),
        out_log: Some(Path::new("/l/web-out-4.log")),
        error_log: None,
        combined_log: None,
        pid_file: None,
        created_at: 1000,
        now: 2000,
        unique_id: "u-1",
        account,
        others_env,
        executable: &executable,
        node_versions: &node_versions,
    };
    launch(&order(spec), &context)
}

fn command(launch: &Launch) -> String {
    let mut words = vec![launch.program.to_string_lossy().into_owned()];
    words.extend(launch.args.iter().cloned());
    words.join(" ")
}

#[test]
fn the_command_line_follows_the_interpreter() {
    type Change = fn(&mut AppSpec);
    let table: &[(Change, &[&str], &str)] = &[
        (|_| (), &["/usr/bin/node"], "/usr/bin/node --require /run/pm2rs/agent.cjs /srv/web/app.js"),
        (|_| (), &["/usr/bin/node", "/opt/bin/node"], "/opt/bin/node --require /run/pm2rs/agent.cjs /srv/web/app.js"),
        (|s| s.agent = false, &["/usr/bin/node"], "/usr/bin/node /srv/web/app.js"),
        (
            |s| {
                s.node_args = vec!["--max-old-space-size=100".into()];
                s.args = vec!["-p".into(), "1 2".into()];
                s.source_map_support = true;
            },
            &["/usr/bin/node"],
            "/usr/bin/node --max-old-space-size=100 --enable-source-maps --require /run/pm2rs/agent.cjs /srv/web/app.js -p 1 2",
        ),
        (
            |s| s.node_args = vec!["--permission".into()],
            &["/usr/bin/node"],
            "/usr/bin/node --permission --allow-fs-read=/run/pm2rs/agent.cjs --require /run/pm2rs/agent.cjs /srv/web/app.js",
        ),
        (
            |s| drop(s.env.insert("NODE_OPTIONS".into(), "--experimental-permission --allow-fs-read=/srv".into())),
            &["/usr/bin/node"],
            "/usr/bin/node --allow-fs-read=/run/pm2rs/agent.cjs --require /run/pm2rs/agent.cjs /srv/web/app.js",
        ),
        (
            |s| s.interpreter = "nodejs".into(),
            &["/usr/bin/nodejs"],
            "/usr/bin/nodejs --require /run/pm2rs/agent.cjs /srv/web/app.js",
        ),
        (|s| s.interpreter = "none".into(), &[], "/srv/web/app.js"),
        (|s| s.interpreter = "python3".into(), &["/usr/bin/python3"], "/usr/bin/python3 /srv/web/app.js"),
        (|s| s.interpreter = "nodemon".into(), &["/usr/bin/nodemon"], "/usr/bin/nodemon /srv/web/app.js"),
        (|s| s.interpreter = "run".into(), &["/srv/web/tools/run"], "/srv/web/tools/run /srv/web/app.js"),
        (|s| s.interpreter = "./mine".into(), &["/srv/web/./mine"], "/srv/web/./mine /srv/web/app.js"),
        (
            |s| {
                s.interpreter = "node@20".into();
                s.env.insert("NVM_DIR".into(), "/nvm".into());
                s.agent = false;
            },
            &["/nvm/versions/node/v20.9.0/bin/node", "/nvm/versions/node/v20.10.1/bin/node"],
            "/nvm/versions/node/v20.10.1/bin/node /srv/web/app.js",
        ),
        (
            |s| {
                s.interpreter = "node@v18.20.8".into();
                s.env.insert("HOME".into(), "/home/ada".into());
                s.agent = false;
            },
            &["/home/ada/.nvm/versions/node/v18.20.8/bin/node"],
            "/home/ada/.nvm/versions/node/v18.20.8/bin/node /srv/web/app.js",
        ),
    ];
    for (change, installed, expected) in table {
        let launch = start(spec(*change), installed, None).unwrap();
        assert_eq!(command(&launch), *expected);
        assert_eq!(launch.agent, launch.args.iter().any(|arg| arg == AGENT), "{expected}");
    }
}

#[test]
fn what_is_missing_is_named() {
    type Change = fn(&mut AppSpec);
    let table: &[(Change, &str)] = &[
        (|_| (), "interpreter `node` not found in PATH (/opt/bin:/usr/bin:tools)"),
        (|s| s.interpreter = "/opt/n/bin/node".into(), "interpreter `/opt/n/bin/node` is not an executable file"),
        (
            |s| s.interpreter = "node@20".into(),
            "`node@20` needs nvm, and neither NVM_DIR nor HOME is set in the environment",
        ),
        (
            |s| {
                s.interpreter = "node@2".into();
                s.env.insert("NVM_DIR".into(), "/nvm".into());
            },
            "Node 2 is not in `/nvm/versions/node`; install it with `nvm install 2`",
        ),
    ];
    for (change, expected) in table {
        assert_eq!(start(spec(*change), &[], None).unwrap_err().to_string(), *expected);
    }
}

#[test]
fn the_environment_is_what_pm2s_apps_see() {
    let installed = ["/usr/bin/node"];
    let launch = start(
        spec(|s| {
            s.exec_mode = ExecMode::Cluster;
            s.env.insert("PORT".into(), "3000".into());
            s.env.insert("HOME".into(), "/home/ada".into());
            s.env.insert("pm_id".into(), "77".into());
            s.env.insert("NOTIFY_SOCKET".into(), "/run/callers".into());
            s.increment_var = Some("PORT".into());
        }),
        &installed,
        None,
    )
    .unwrap();
    for (name, value) in [
        ("PORT", "3002"),
        ("HOME", "/home/ada"),
        ("pm_id", "4"),
        ("NODE_APP_INSTANCE", "2"),
        ("exec_mode", "cluster_mode"),
        ("restart_time", "3"),
        ("pm_err_log_path", "/dev/null"),
        ("pm_out_log_path", "/l/web-out-4.log"),
        ("PM2_HOME", "/home/ada/.pm2"),
        ("NODE_CHANNEL_FD", "3"),
        ("NODE_CHANNEL_SERIALIZATION_MODE", "json"),
        ("NODE_UNIQUE_ID", "9"),
    ] {
        assert_eq!(launch.env.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!launch.env.contains_key("NOTIFY_SOCKET"));
}

#[test]
fn a_fork_worker_is_no_cluster_worker() {
    let spec = spec(|s| {
        s.env.insert("NODE_UNIQUE_ID".into(), "1".into());
        s.instance_var = "INSTANCE".into();
    });
    let launch = start(spec, &["/usr/bin/node"], None).unwrap();
    assert!(!launch.env.contains_key("NODE_UNIQUE_ID"));
    assert_eq!(launch.env["NODE_CHANNEL_FD"], "3");
    assert_eq!(launch.env["INSTANCE"], "2");
    assert!(!launch.env.contains_key("NODE_APP_INSTANCE"));
}

#[test]
fn settings_are_handed_on_as_pm2_does() {
    let spec = spec(|s| {
        s.source_file = Some("/srv/web/ecosystem.config.js".into());
        s.max_memory_restart = Some(1 << 20);
        s.kill_timeout = 3000;
        s.stop_exit_codes = vec![3];
        s.wait_ready = true;
        s.uid = Some("web".into());
        s.env.insert("time".into(), "mine".into());
        s.own_env = vec!["time".into()];
        for (key, value) in
            [("time", json!(true)), ("port", json!(80)), ("pmx", json!(false)), ("io", json!({ "a": 1 }))]
        {
            s.extra.insert(key.into(), value);
        }
        s.extra.insert("env_production".into(), json!({ "A": "1" }));
    });
    let account = Account { name: "web".into(), uid: 33, gid: 34, home: "/srv".into(), shell: "/bin/sh".into() };
    let env = start(spec, &["/usr/bin/node"], Some(&account)).unwrap().env;
    for (name, value) in [
        ("PM2_JSON_PROCESSING", "true"),
        ("max_memory_restart", "1048576"),
        ("kill_timeout", "3000"),
        ("wait_ready", "true"),
        ("time", "mine"),
        ("port", "80"),
        ("vizion", "true"),
        ("pmx", "false"),
        ("io", r#"{"a":1}"#),
        ("uid", "33"),
        ("gid", "34"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
    // Lists, and what is as it is without any setting.
    for name in ["stop_exit_codes", "env_production", "listen_timeout", "merge_logs", "watch", "cron_restart"] {
        assert_eq!(env.get(name), None, "{name}");
    }
}

#[test]
fn another_users_worker_is_at_home_there() {
    let account = Account { name: "web".into(), uid: 33, gid: 34, home: "/srv".into(), shell: "/bin/sh".into() };
    let spec = spec(|s| {
        s.env.insert("HOME".into(), "/root".into());
    });
    let launch = start(spec, &["/usr/bin/node"], Some(&account)).unwrap();
    for (name, value) in [("HOME", "/srv"), ("USER", "web"), ("LOGNAME", "web"), ("SHELL", "/bin/sh")] {
        assert_eq!(launch.env[name], value);
    }
}

#[test]
fn what_an_app_is_told_of_its_home_stays() {
    // The variables that it names itself, whether the rest may be another's, its user, and what it gets.
    type Row = (&'static [&'static str], bool, Option<&'static str>, [&'static str; 3]);
    let account = Account { name: "web".into(), uid: 33, gid: 34, home: "/srv".into(), shell: "/bin/sh".into() };
    let table: [Row; 6] = [
        (&[], false, None, ["/app", "ci", "web"]),
        (&[], true, None, ["/srv", "web", "web"]),
        (&["HOME", "USER"], true, None, ["/app", "ci", "web"]),
        (&["HOME", "USER"], false, None, ["/app", "ci", "web"]),
        (&[], false, Some("web"), ["/srv", "web", "web"]),
        (&["HOME", "USER"], false, Some("web"), ["/srv", "ci", "web"]),
    ];
    for (own, others_env, user, expected) in table {
        let spec = spec(|s| {
            s.env.extend([("HOME".into(), "/app".into()), ("USER".into(), "ci".into())]);
            s.own_env = own.iter().map(|name| (*name).to_owned()).collect();
            s.uid = user.map(str::to_owned);
        });
        let launch = start_with(spec, &["/usr/bin/node"], Some(&account), others_env).unwrap();
        let got = ["HOME", "USER", "LOGNAME"].map(|name| launch.env[name].as_str());
        assert_eq!(got, expected, "{own:?}, {others_env}, {user:?}");
    }
}

#[test]
fn our_server_of_static_files_lies_beside_the_agent() {
    let launch = start(spec(|spec| spec.script = crate::core::STATIC_SERVER.into()), &["/usr/bin/node"], None).unwrap();
    assert_eq!(command(&launch), "/usr/bin/node --require /run/pm2rs/agent.cjs /run/pm2rs/serve.cjs");
}
