//! The saved process list: PM2's is understood, ours comes back as it was, a damaged one gives way to the one before.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pm2rs::config::dump::{SavedProcess, by_app, from_text, load, save, to_text};
use pm2rs::core::{AppSpec, ExecMode, Instances, LogSpec, Probe, ProbeKind, STATIC_SERVER, WatchSpec};
use serde_json::{Value, json};

fn of_pm2() -> Vec<SavedProcess> {
    from_text(include_str!("ecosystem/dump.pm2"), "dump.pm2").unwrap()
}

/// A process whose every field is other than its default.
fn thorough() -> SavedProcess {
    let spec = AppSpec {
        name: "thorough".into(),
        namespace: "shop".into(),
        script: "/srv/a.js".into(),
        args: vec!["a b".into()],
        cwd: "/srv".into(),
        exec_mode: ExecMode::Cluster,
        instances: Instances(-1),
        env: [("TOKEN".to_owned(), "hunter2".to_owned()), ("PORT".to_owned(), "80".to_owned())].into(),
        own_env: vec!["PORT".into()],
        unquoted_env: vec!["PORT".into()],
        instance_var: "ID".into(),
        increment_var: Some("PORT".into()),
        stop_exit_codes: vec![0],
        cron_restart: Some("0 0 * * *".into()),
        max_memory_restart: Some(1 << 30),
        restart_delay: 5,
        probe: Some(Probe { kind: ProbeKind::Tcp("127.0.0.1:80".into()), interval: 1, timeout: 2, count: 3 }),
        listen: vec!["80".into()],
        uid: Some("mail".into()),
        watch: Some(WatchSpec { paths: vec!["/srv/src".into()], ..WatchSpec::default() }),
        log: LogSpec { out_file: Some("/var/log/a-2024.log".into()), ..LogSpec::default() },
        pid_file: Some("/run/a.pid".into()),
        version: Some("1.0.0".into()),
        username: "ann".into(),
        source_file: Some("/srv/ecosystem.config.js".into()),
        extra: [("vizion".to_owned(), json!(true)), ("env_production".to_owned(), json!({ "A": 1 }))].into(),
        ..AppSpec::default()
    };
    SavedProcess { spec, instance: 2, status: "stopped".into(), restarts: 7, created_at: 1_763_700_000_000 }
}

#[test]
fn pm2s_list_is_understood() {
    let list = of_pm2();
    let (api, shell) = (&list[0], &list[2]);
    assert_eq!((api.instance, api.restarts, api.created_at, api.is_stopped()), (0, 3, 1_763_700_000_000, false));
    let spec = &api.spec;
    assert_eq!((spec.name.as_str(), spec.namespace.as_str(), spec.exec_mode), ("api", "shop", ExecMode::Cluster));
    assert_eq!((spec.script.as_path(), spec.cwd.as_path()), (Path::new("/srv/api/server.js"), Path::new("/srv/api")));
    assert_eq!((spec.args.len(), spec.node_args.len(), spec.interpreter.as_str()), (1, 1, "node"));
    assert_eq!((spec.kill_timeout, spec.wait_ready, spec.max_memory_restart), (5000, true, Some(300 << 20)));
    assert_eq!((spec.cron_restart.as_deref(), spec.version.as_deref()), (Some("0 4 * * *"), Some("2.1.0")));
    assert_eq!(spec.log.out_file.as_deref(), Some(Path::new("/home/ann/.pm2/logs/api-out.log")));
    assert_eq!(spec.log.error_file.as_deref(), Some(Path::new("/home/ann/.pm2/logs/api-error.log")));
    assert_eq!(spec.pid_file.as_deref(), Some(Path::new("/home/ann/.pm2/pids/api.pid")));
    assert_eq!(spec.env.keys().map(String::as_str).collect::<Vec<_>>(), ["HOME", "NODE_ENV", "PATH", "PORT"]);
    assert_eq!(spec.env["PORT"], "3000");
    assert_eq!(spec.extra["env_production"], json!({ "NODE_ENV": "production" }));

    assert_eq!(shell.spec.args, ["-c", "echo hi; sleep 100"]);
    assert_eq!(shell.spec.interpreter, "none");
    assert_eq!(shell.spec.log.out_file, None);
    assert_eq!(shell.spec.log.error_file.as_deref(), Some(Path::new("/var/log/echo-2024.log")), "it is merged");
    assert_eq!(shell.spec.max_memory_restart, None, "what cannot be read is left out");
}

#[test]
fn what_pm2_serves_is_served_without_pm2() {
    let entry = |script: &str, env: Value| {
        let entry = json!([{ "name": "site", "pm_exec_path": script, "pm_cwd": "/srv/site", "exec_interpreter": "node",
            "exec_mode": "fork_mode", "env": env }]);
        from_text(&entry.to_string(), "dump.pm2").unwrap().remove(0).spec
    };
    let settings = json!({ "PM2_SERVE_PORT": "8080", "PM2_SERVE_PATH": "/srv/site", "PM2_SERVE_FTP": false });
    let site = entry("/usr/lib/node_modules/pm2/lib/API/Serve.js", settings.clone());
    assert_eq!((site.script.as_path(), site.wait_ready), (Path::new(STATIC_SERVER), true));
    assert_eq!((site.env["PM2_SERVE_PORT"].as_str(), site.env["PM2_SERVE_FTP"].as_str()), ("8080", "false"));
    // The app's own script stays what it is, whatever its variables are called.
    assert_eq!(entry("/srv/site/Serve.js", settings).script, Path::new("/srv/site/Serve.js"));
}

#[test]
fn processes_of_an_app_come_together() {
    let apps = by_app(of_pm2());
    assert_eq!(apps.len(), 2);
    assert_eq!((apps[0].spec.instances, &apps[0].processes), (Instances(2), &vec![(0, false), (1, true)]));
    assert_eq!(apps[1].processes, [(0, false)]);
    // The same app twice (`start -f`) stays twice.
    let twice = [of_pm2(), of_pm2()].concat();
    assert_eq!(by_app(twice).len(), 4);
}

#[test]
fn ours_comes_back_as_it_was() {
    let list = vec![thorough(), SavedProcess { instance: 3, status: "online".into(), ..thorough() }];
    assert_eq!(from_text(&to_text(&list), "dump.pm2").unwrap(), list);
}

#[test]
fn pm2s_users_find_their_keys_in_ours() {
    let entries: Vec<Value> = serde_json::from_str(&to_text(&[thorough()])).unwrap();
    let entry = &entries[0];
    assert_eq!(entry["pm_exec_path"], "/srv/a.js");
    assert_eq!(entry["exec_mode"], "cluster_mode");
    assert_eq!(entry["status"], "stopped");
    assert_eq!(entry["ID"], 2);
    assert_eq!(entry["env"]["TOKEN"], "hunter2");
    assert_eq!(entry["vizion"], true);
    assert!(entry.get("pm_id").is_none() && entry.get("instances").is_none());
    assert_eq!(to_text(&[thorough()]).matches("hunter2").count(), 1, "secrets stand there once");
}

#[test]
fn an_entry_that_breaks_a_rule_is_refused_by_number() {
    let table = [
        ("{}", "dump.pm2`: "),
        ("[{}]", "entry 1: it has no \"name\""),
        (r#"[{"name":"a"}]"#, "entry 1: it has no \"pm_exec_path\""),
        (r#"[{"name":"a","pm_exec_path":"a.js","pm_cwd":"/"}]"#, "entry 1: invalid script"),
        (r#"[{"name":"a","pm2rs":{"kill_timeout":-1}}]"#, "entry 1: "),
    ];
    for (text, part) in table {
        let message = from_text(text, "dump.pm2").unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_saved_list_is_for_its_owner_alone_and_the_one_before_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump.pm2");
    let backup = folder.path().join("dump.pm2.bak");
    assert_eq!(load(&path).unwrap(), None);

    let (first, second) = (vec![thorough()], of_pm2());
    save(&path, &first).unwrap();
    assert!(!backup.exists());
    save(&path, &second).unwrap();
    assert_eq!(load(&path).unwrap(), Some(second.clone()));
    for file in [&path, &backup] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left behind");

    // Damaged, or lost between the two renames: the list before is taken.
    fs::write(&path, "[{").unwrap();
    assert_eq!(load(&path).unwrap(), Some(first.clone()));
    fs::remove_file(&path).unwrap();
    assert_eq!(load(&path).unwrap(), Some(first));
    fs::write(&backup, "").unwrap();
    assert!(load(&path).is_err());
}

#[test]
fn a_link_that_somebody_left_is_not_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump.pm2");
    let target = folder.path().join("target");
    fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, folder.path().join("dump.pm2.new")).unwrap();
    save(&path, &[thorough()]).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}
