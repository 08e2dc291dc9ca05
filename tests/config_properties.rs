//! Whatever bytes come, reading them ends soon and without a panic, and what is accepted keeps the rules.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pm2rs::config::{
    CallerContext, CliOverrides, Ecosystem, KEYS, LoadContext, cron_problem, diff, dump, load_file, nearest,
    parse_stdin, resolve_entry, resolve_script, validate_spec,
};
use pm2rs::core::AppSpec;
use proptest::prelude::*;
use serde_json::{Map, Value};

/// A caller without Node, so that nothing is started.
fn caller() -> CallerContext {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ecosystem/projects/watch");
    CallerContext {
        cwd: corpus,
        env: [("PATH".to_owned(), "/nowhere".to_owned())].into(),
        home: "/h".into(),
        username: "ann".into(),
        cpus: 2,
        log_dir: "/logs".into(),
        pid_dir: "/pids".into(),
    }
}

/// Text that looks like one of the languages, so that parsers get beyond the first character.
fn almost_text() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "'",
        "apps",
        "script",
        "- ",
        "\n",
        "  ",
        "=",
        "[[apps]]",
        "&a",
        "*a",
        "<<",
        "//",
        "/*",
        "*/",
        "\\u0000",
        "\\",
        "#",
        "1e999",
        "0x",
        "null",
        "true",
        "|",
        ">",
        "%",
        "!!binary",
        "---",
        "\u{0}",
        "\u{feff}",
        "é",
        "\u{1f600}",
        ".inf",
        "2026-11-21",
    ]);
    let bytes = prop_oneof![4 => pieces.prop_map(|piece| piece.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..4)];
    prop::collection::vec(bytes, 0..60).prop_map(|pieces| pieces.concat())
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Eighths: what JSON text carries there and back without loss.
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        "[ -~]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "max",
            "0",
            "-1",
            "100M",
            "1h",
            "Infinity",
            "* * * * *",
            "SIGTERM",
            "cluster",
            "index.js"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,8}", inner), 0..4).prop_map(|pairs| Value::Object(Map::from_iter(pairs))),
        ]
    })
}

/// An entry with some known keys and any values.
fn any_entry() -> impl Strategy<Value = Value> {
    let names: Vec<&str> = KEYS.iter().map(|key| key.name).chain(["env_production", "unknown"]).collect();
    prop::collection::vec((prop::sample::select(names), any_json()), 0..6).prop_map(|pairs| {
        let mut entry = Map::from_iter([("script".to_owned(), Value::from("index.js"))]);
        entry.extend(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Value::Object(entry)
    })
}

proptest! {
    #[test]
    fn files_of_any_bytes_are_read_in_bounded_time(bytes in almost_text()) {
        let folder = tempfile::tempdir().unwrap();
        let caller = caller();
        let context = LoadContext::new(&caller, Vec::new());
        for name in ["a.json", "a.yaml", "a.toml"] {
            let path = folder.path().join(name);
            fs::write(&path, &bytes).unwrap();
            let before = Instant::now();
            if let Err(error) = load_file(&path, &context) {
                prop_assert!(!error.to_string().is_empty());
                prop_assert_eq!(error.to_string().lines().count(), 1);
            }
            prop_assert!(before.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn standard_input_of_any_text_is_read(text in any::<String>()) {
        let _ = parse_stdin(&text, &LoadContext::new(&caller(), Vec::new()));
    }

    #[test]
    fn any_entry_is_refused_or_becomes_a_spec_that_keeps_the_rules(entry in any_entry()) {
        let caller = CallerContext {
            env: [("PATH".to_owned(), format!("{}/tests/ecosystem/bin", env!("CARGO_MANIFEST_DIR")))].into(),
            ..caller()
        };
        let Ok(ecosystem) = Ecosystem::from_value(Value::from(vec![entry]), None, "x.json") else { return Ok(()) };
        let Ok(resolved) = resolve_entry(&ecosystem.apps[0], &CliOverrides::default(), &caller) else { return Ok(()) };
        prop_assert!(validate_spec(&resolved.spec).is_ok());
        // The bus and the state file carry it as JSON.
        let text = serde_json::to_string(&resolved.spec).unwrap();
        let back: AppSpec = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(diff(&resolved.spec, &back), vec![]);
        prop_assert_eq!(back, resolved.spec);
    }

    #[test]
    fn any_target_is_refused_or_found(target in any::<String>(), args in prop::collection::vec(any::<String>(), 0..3)) {
        let _ = resolve_script(&target, args, &CliOverrides::default(), &caller());
    }

    #[test]
    fn any_spec_from_the_bus_is_refused_or_keeps_the_rules(value in any_json(), key in 0..60_usize) {
        let mut spec = serde_json::to_value(AppSpec { name: "a".into(), script: "/a".into(), ..AppSpec::default() }).unwrap();
        let keys: Vec<String> = spec.as_object().unwrap().keys().cloned().collect();
        spec[&keys[key % keys.len()]] = value;
        if let Ok(spec) = serde_json::from_value::<AppSpec>(spec) {
            let _ = validate_spec(&spec);
        }
    }

    #[test]
    fn saved_lists_of_any_content_are_read(value in any_json(), text in any::<String>()) {
        let _ = dump::from_text(&text, "dump.pm2");
        let _ = dump::from_text(&Value::from(vec![value]).to_string(), "dump.pm2");
    }

    #[test]
    fn any_cron_pattern_is_judged(pattern in prop_oneof![any::<String>(), "[0-9*/,LW#?A-Z -]{0,40}"]) {
        let _ = cron_problem(&pattern);
    }

    #[test]
    fn the_nearest_word_is_a_candidate(word in any::<String>()) {
        let known = ["instances", "env", "watch"];
        if let Some(near) = nearest(&word, known.into_iter()) {
            prop_assert!(known.contains(&near));
        }
    }
}
