//! Every key: that it, its aliases and their camelCase forms do what the table says, and that wrong values are refused
//! in words that name the key, the app and the file.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use pm2rs::config::{CallerContext, CliOverrides, Ecosystem, Effect, KEYS, resolve_entry};
use pm2rs::core::AppSpec;
use serde_json::{Map, Value, json};

fn caller() -> CallerContext {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ecosystem");
    CallerContext {
        cwd: corpus.join("projects/watch"),
        env: [
            ("PATH".to_owned(), corpus.join("bin").display().to_string()),
            ("HOME".to_owned(), "/home/ann".to_owned()),
            ("SECRET".to_owned(), "s".to_owned()),
        ]
        .into(),
        home: "/home/ann/.pm2rs".into(),
        username: "ann".into(),
        cpus: 4,
        log_dir: "/logs".into(),
        pid_dir: "/pids".into(),
    }
}

fn resolve(keys: &Value) -> Result<(AppSpec, Vec<String>), String> {
    let mut entry: Map<String, Value> = Map::from_iter([("script".to_owned(), json!("index.js"))]);
    for (key, value) in keys.as_object().unwrap() {
        if ["exec", "cmd", "command"].contains(&key.as_str()) {
            entry.remove("script");
        }
        entry.insert(key.clone(), value.clone());
    }
    let ecosystem =
        Ecosystem::from_value(json!({ "apps": [entry] }), None, "eco.json").map_err(|error| error.to_string())?;
    let options = CliOverrides { env_name: None, ..CliOverrides::default() };
    let resolved = resolve_entry(&ecosystem.apps[0], &options, &caller()).map_err(|error| error.to_string())?;
    let warnings = ecosystem.warnings.iter().chain(&resolved.warnings).map(ToString::to_string).collect();
    Ok((resolved.spec, warnings))
}

/// What each key does: key, value, where in the spec, what is there then. `~` stands for the working folder.
fn effects() -> Vec<(&'static str, Value, &'static str, Value)> {
    let day = 86_400_000;
    vec![
        ("script", json!("one.js"), "/script", json!("~/one.js")),
        ("name", json!("x y"), "/name", json!("x y")),
        ("namespace", json!("shop"), "/namespace", json!("shop")),
        ("cwd", json!("."), "/cwd", json!("~")),
        ("args", json!("-a 'b c'"), "/args", json!(["-a", "b c"])),
        ("args", json!(["-a", 1, true, null, false]), "/args", json!(["-a", "1", "true"])),
        ("exec_interpreter", json!("bash"), "/interpreter", json!("bash")),
        ("node_args", json!("--a --b=\"c d\""), "/node_args", json!(["--a", "--b=c d"])),
        ("node_args", json!(["--a"]), "/node_args", json!(["--a"])),
        ("exec_mode", json!("cluster"), "/exec_mode", json!("cluster_mode")),
        ("exec_mode", json!("fork_mode"), "/exec_mode", json!("fork_mode")),
        ("execute_command", json!(true), "/exec_mode", json!("fork_mode")),
        ("instances", json!(4), "/instances", json!(4)),
        ("instances", json!("max"), "/instances", json!(0)),
        ("instances", json!("-1"), "/instances", json!(-1)),
        ("instances", json!("auto"), "/instances", json!(0)),
        ("instances", json!(1), "/exec_mode", json!("cluster_mode")),
        ("out_file", json!("logs/o.log"), "/log/out_file", json!("~/logs/o.log")),
        ("out_file", json!("NULL"), "/log/out_file", json!(null)),
        ("out_file", json!("o.log"), "/log/files", json!(true)),
        ("error_file", json!("~/e.log"), "/log/error_file", json!("/home/ann/e.log")),
        ("error_file", json!("/dev/null"), "/log/error_file", json!(null)),
        ("log_file", json!("/var/log/x.log"), "/log/log_file", json!("/var/log/x.log")),
        ("log_file", json!(true), "/log/log_file", json!("/logs/index.log")),
        ("log_file", json!(false), "/log/log_file", json!(null)),
        ("disable_logs", json!(true), "/log/disable_logs", json!(true)),
        ("log_type", json!("json"), "/log/log_type", json!("json")),
        ("log_type", json!("other"), "/log/log_type", json!("raw")),
        ("log_date_format", json!("HH:mm"), "/log/log_date_format", json!("HH:mm")),
        ("time", json!(true), "/log/log_date_format", json!("YYYY-MM-DDTHH:mm:ss")),
        ("merge_logs", json!(false), "/log/merge_logs", json!(false)),
        ("instances", json!("max"), "/log/merge_logs", json!(true)),
        ("instances", json!(2), "/log/merge_logs", json!(false)),
        ("exec_mode", json!("cluster"), "/log/merge_logs", json!(false)),
        ("env", json!({ "A": "1" }), "/env/A", json!("1")),
        ("env", json!({ "A": { "b": [1] } }), "/env/A", json!("{\"b\":[1]}")),
        ("env", json!({ "A": 1.5 }), "/unquoted_env", json!(["A"])),
        ("env", json!({ "SECRET": null }), "/env/SECRET", Value::Null),
        ("env", json!("A=1 B='x y'"), "/env/B", json!("x y")),
        ("filter_env", json!("SECRET"), "/env/SECRET", Value::Null),
        ("filter_env", json!(["CRE"]), "/env/SECRET", Value::Null),
        ("filter_env", json!(true), "/env/SECRET", Value::Null),
        ("filter_env", json!(true), "/env/HOME", json!("/home/ann")),
        ("filter_env", json!(false), "/env/SECRET", json!("s")),
        ("port", json!(3000), "/env/PORT", json!("3000")),
        ("port", json!("3000"), "/env/PORT", json!("3000")),
        ("instance_var", json!("ID"), "/instance_var", json!("ID")),
        ("increment_var", json!("PORT"), "/increment_var", json!("PORT")),
        ("append_env_to_name", json!(true), "/name", json!("index")),
        ("max_memory_restart", json!("100M"), "/max_memory_restart", json!(100 << 20)),
        ("max_memory_restart", json!(1000), "/max_memory_restart", json!(1000)),
        ("pid_file", json!("x.pid"), "/pid_file", json!("~/x.pid")),
        ("restart_delay", json!(5000), "/restart_delay", json!(5000)),
        ("exp_backoff_restart_delay", json!("100"), "/exp_backoff_restart_delay", json!(100)),
        ("autorestart", json!(false), "/autorestart", json!(false)),
        ("autostart", json!(false), "/autostart", json!(false)),
        ("stop_exit_codes", json!(2), "/stop_exit_codes", json!([2])),
        ("stop_exit_codes", json!("[0, 3]"), "/stop_exit_codes", json!([0, 3])),
        ("stop_exit_codes", json!([0, "1"]), "/stop_exit_codes", json!([0, 1])),
        ("min_uptime", json!("1h"), "/min_uptime", json!(3_600_000)),
        ("min_uptime", json!(100), "/min_uptime", json!(100)),
        ("max_restarts", json!(0), "/max_restarts", json!(0)),
        ("max_restarts", json!("Infinity"), "/max_restarts", json!(u32::MAX)),
        ("cron_restart", json!("0 0 * * *"), "/cron_restart", json!("0 0 * * *")),
        ("cron_restart", json!("*/5 * * * * *"), "/cron_restart", json!("*/5 * * * * *")),
        ("cron_restart", json!(0), "/cron_restart", Value::Null),
        ("kill_timeout", json!("5s"), "/kill_timeout", json!(5000)),
        ("listen_timeout", json!(day), "/listen_timeout", json!(day)),
        ("wait_ready", json!(true), "/wait_ready", json!(true)),
        ("shutdown_with_message", json!(true), "/shutdown_with_message", json!(true)),
        ("treekill", json!(false), "/treekill", json!(false)),
        ("watch", json!(true), "/watch/paths", json!([])),
        ("watch", json!(false), "/watch", Value::Null),
        ("watch", json!("true"), "/watch/paths", json!([])),
        ("watch", json!("false"), "/watch", Value::Null),
        ("watch", json!("src"), "/watch/paths", json!(["~/src"])),
        ("watch", json!(["a", "/b"]), "/watch/paths", json!(["~/a", "/b"])),
        ("ignore_watch", json!("a b"), "/watch/ignore", json!(["a", "b"])),
        ("ignore_watch", json!("a b"), "/watch/off", json!(true)),
        ("watch_delay", json!(1000), "/watch/delay", json!(1000)),
        ("watch_options", json!({ "usePolling": true }), "/extra/watch_options/usePolling", json!(true)),
        ("source_map_support", json!(false), "/source_map_support", json!(false)),
        ("disable_source_map_support", json!(true), "/source_map_support", json!(false)),
        ("uid", json!(1000), "/uid", json!("1000")),
        ("uid", json!("www-data"), "/uid", json!("www-data")),
        ("gid", json!("www-data"), "/gid", json!("www-data")),
        ("version", json!("1.0.0"), "/version", json!("1.0.0")),
        ("username", json!("bob"), "/username", json!("bob")),
        ("drain_timeout", json!("1m"), "/drain_timeout", json!(60_000)),
        ("kill_signal", json!("sigterm"), "/kill_signal", json!("SIGTERM")),
        ("kill_signal", json!("QUIT"), "/kill_signal", json!("SIGQUIT")),
        ("probe", json!("http://127.0.0.1:1/x"), "/probe/http", json!("http://127.0.0.1:1/x")),
        ("probe", json!({ "exec": "curl -f x", "timeout": "2s" }), "/probe/exec", json!(["curl", "-f", "x"])),
        ("probe", json!({ "tcp": "127.0.0.1:1", "timeout": "2s" }), "/probe/timeout", json!(2000)),
        ("reload_batch", json!(3), "/reload_batch", json!(3)),
        ("on_reload_failure", json!("keep"), "/on_reload_failure", json!("keep")),
        ("balance", json!("rr"), "/balance", json!("rr")),
        ("agent", json!(false), "/agent", json!(false)),
        ("listen", json!(8080), "/listen", json!(["8080"])),
        ("listen", json!(["[::1]:80", "./x.sock"]), "/listen", json!(["[::1]:80", "~/x.sock"])),
        ("log_rotate", json!(false), "/log/rotate/enabled", json!(false)),
        ("log_rotate", json!({ "max_size": "1M" }), "/log/rotate/max_size", json!(1 << 20)),
        ("log_rotate", json!({ "interval": "0 0 * * *" }), "/log/rotate/retain", json!(30)),
        ("journal", json!(true), "/log/journal", json!(true)),
        ("log_files", json!(false), "/log/files", json!(false)),
        ("log_syslog", json!("unix:/dev/log"), "/log/syslog", json!("unix:/dev/log")),
        ("log_syslog", json!("udp:[::1]:514"), "/log/syslog", json!("udp:[::1]:514")),
        ("watch_reload", json!(true), "/watch/reload", json!(true)),
        ("watch_ext", json!(".js"), "/watch/ext", json!(["js"])),
    ]
}

/// `max_memory_restart` as `maxMemoryRestart`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |all, word| all + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn every_key_has_its_effect_under_all_its_names() {
    let home = caller().cwd.display().to_string();
    for (name, value, pointer, expected) in effects() {
        let key = KEYS.iter().find(|key| key.name == name).unwrap();
        let expected: Value = serde_json::from_str(&expected.to_string().replace("\"~", &format!("\"{home}"))).unwrap();
        for name in std::iter::once(&key.name).chain(key.aliases) {
            for written in [(*name).to_owned(), camel_case(name)] {
                let (spec, warnings) = resolve(&json!({ written.clone(): value })).unwrap();
                let spec = serde_json::to_value(spec).unwrap();
                let found = spec.pointer(pointer).cloned().unwrap_or(Value::Null);
                assert_eq!(found, expected, "{written}: {value}");
                assert_eq!(warnings, [""; 0], "{written}: {value}");
            }
        }
    }
}

#[test]
fn no_key_is_without_a_row_above() {
    let rows = effects();
    for key in KEYS.iter().filter(|key| key.effect == Effect::Applied) {
        assert!(rows.iter().any(|(name, ..)| *name == key.name), "{} has no row", key.name);
    }
}

#[test]
fn keys_about_watching_come_together() {
    let keys = json!({
        "watch": true, "ignore_watch": ["a"], "watch_delay": 500, "watch_reload": true, "watch_ext": ["js", ".ts"],
        "watch_options": { "ignored": ["b"] },
    });
    let (spec, _) = resolve(&keys).unwrap();
    let expected = json!({ "paths": [], "ignore": ["a", "b"], "ext": ["js", "ts"], "delay": 500, "reload": true });
    assert_eq!(serde_json::to_value(spec.watch).unwrap(), expected);
}

#[test]
fn keys_without_effect_are_shown_as_they_were_given() {
    for key in KEYS.iter().filter(|key| key.effect != Effect::Applied) {
        let (spec, warnings) = resolve(&json!({ key.name: { "a": 1 } })).unwrap();
        assert_eq!(spec.extra[key.name], json!({ "a": 1 }));
        assert_eq!(warnings.len(), usize::from(key.effect != Effect::Kept), "{}", key.name);
    }
}

#[test]
fn wrong_values_are_refused_by_name() {
    let table = [
        ("script", json!(1), "string"),
        ("name", json!(["a"]), "string, but it is an array"),
        ("name", json!("a\u{0}b"), "string"),
        ("instances", json!("foo"), "number, or \"max\", but it is \"foo\""),
        ("instances", json!(100_000), "number, or \"max\""),
        ("instances", json!(1.5), "number"),
        ("exec_mode", json!("clustered"), "one of fork, cluster"),
        ("autorestart", json!("yes"), "boolean, but it is \"yes\""),
        ("watch", json!(3), "boolean, array of strings or string"),
        ("max_memory_restart", json!("100 MB"), "100M"),
        ("max_memory_restart", json!(-1), "100M"),
        ("max_memory_restart", json!("0"), "100M"),
        ("min_uptime", json!(10), "from 100 to"),
        ("min_uptime", json!("1d"), "from 100 to"),
        ("max_restarts", json!(-1), "from 0 to"),
        ("kill_timeout", json!("soon"), "500ms"),
        ("kill_timeout", json!(1e18), "500ms"),
        ("restart_delay", json!(-5), "from 0"),
        ("cron_restart", json!("every day"), "cron pattern ("),
        ("cron_restart", json!("61 * * * *"), "cron pattern ("),
        ("cron_restart", json!(5), "cron pattern"),
        ("stop_exit_codes", json!([256]), "from 0 to 255"),
        ("env", json!(["A"]), "object of strings"),
        ("env", json!({ "A=B": "1" }), "object of strings"),
        ("env", json!("A"), "NAME=value"),
        ("env_production", json!(1), "object of strings"),
        ("port", json!(70_000), "from 0 to 65535"),
        ("instance_var", json!("A=B"), "environment variable"),
        ("uid", json!("a:b"), "user's or group's"),
        ("uid", json!({}), "user's or group's"),
        ("kill_signal", json!("SIGSTOP"), "one of SIGINT"),
        ("balance", json!("random"), "one of auto, shared, rr, sticky"),
        ("reload_batch", json!(0), "from 1 to"),
        ("probe", json!("127.0.0.1"), "http:// or tcp://"),
        ("probe", json!({ "http": "http://a", "tcp": "b" }), "one of"),
        ("probe", json!({ "htpp": "http://a" }), "did you mean \"http\""),
        ("probe", json!({ "http": "http://a", "timeout": 0 }), "proper \"timeout\""),
        ("log_rotate", json!({ "maxsize": 1 }), "did you mean \"max_size\""),
        ("log_rotate", json!({ "max_size": 1 }), "proper \"max_size\""),
        ("log_rotate", json!({ "date_format": "../x" }), "proper \"date_format\""),
        ("log_rotate", json!({ "interval": "x" }), "cron pattern"),
        ("io", json!({}), ""),
    ];
    for (key, value, part) in table {
        if part.is_empty() {
            assert!(resolve(&json!({ key: value })).is_ok());
            continue;
        }
        let message = resolve(&json!({ "name": "api", key: value })).expect_err(key);
        let app = if key == "name" { "1" } else { "api" };
        let beginnings = [
            format!("Expect \"{key}\" to be a typeof "),
            format!("Verify \"{key}\" with regex failed, it should be a "),
            format!("Cron pattern error: expect \"{key}\" to be a "),
        ];
        assert!(beginnings.iter().any(|beginning| message.starts_with(beginning)), "{message}");
        assert!(message.contains(part), "{key}: {value}: {message}");
        assert!(message.contains("of `eco.json`)"), "{message}");
        assert!(message.contains(&format!("app `{app}`")) || key == "name", "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn what_javascript_takes_for_false_says_nothing() {
    for (key, value) in [
        ("cron_restart", json!("")),
        ("instances", json!("")),
        ("exec_mode", json!("")),
        ("max_memory_restart", json!(0)),
        ("max_memory_restart", json!(false)),
        ("ignore_watch", json!(false)),
        ("restart_delay", json!("")),
        ("port", json!("")),
        ("uid", json!("")),
    ] {
        assert_eq!(resolve(&json!({ key: value })).expect(key), resolve(&json!({})).unwrap(), "{key}");
    }
}

#[test]
fn what_people_write_by_mistake_is_told_of_and_stops_nothing() {
    let table = [
        (json!({ "env_file": ".env" }), "key \"env_file\" is not supported: have Node read it with node_args"),
        (json!({ "watch_ignore": ["a"] }), "unknown key \"watch_ignore\", did you mean \"ignore_watch\"?"),
        (json!({ "maxRestart": 3 }), "unknown key \"maxRestart\", did you mean \"max_restarts\"?"),
        (json!({ "performance": {} }), "unknown key \"performance\" (app"),
    ];
    for (keys, beginning) in table {
        let (_, warnings) = resolve(&keys).unwrap();
        assert!(warnings.len() == 1 && warnings[0].starts_with(beginning), "{warnings:?}");
    }
    let (spec, warnings) = resolve(&json!({ "env_note": "for later", "_comment": 1, "//": "x" })).unwrap();
    assert!(warnings.is_empty() && spec.extra.len() == 1, "{warnings:?}");
}

#[test]
fn a_listen_address_that_cannot_be_bound_is_refused() {
    let message = resolve(&json!({ "listen": "over there" })).expect_err("no address");
    assert!(message.contains("listen"), "{message}");
}

#[test]
fn no_message_shows_the_value_of_a_variable() {
    for env in [json!({ "TOKEN": "hunter2\u{0}" }), json!("TOKEN hunter2"), json!({ "A=": "hunter2" })] {
        let message = resolve(&json!({ "env": env })).expect_err("wrong env");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let (spec, _) = resolve(&json!({ "env": { "A": "hunter2" }, "env_test": { "B": "hunter2" } })).unwrap();
    assert!(!format!("{spec:?}").contains("hunter2"));
}
