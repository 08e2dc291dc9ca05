//! Reading configuration files: what is one, what code in it may do, and what is said when it is wrong.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pm2rs::config::{
    CallerContext, CliOverrides, ConfigError, Ecosystem, FileKind, LoadContext, Resolved, file_kind, load_file,
    parse_stdin, resolve_entry, resolve_script,
};
use pm2rs::core::{ExecMode, Instances};
use tempfile::TempDir;

/// A folder with files in it, and a caller who stands there.
struct Project {
    folder: TempDir,
    caller: CallerContext,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Project {
        let folder = tempfile::tempdir().unwrap();
        let env = ["PATH", "HOME"].map(|name| (name.to_owned(), std::env::var(name).unwrap())).into();
        let caller = CallerContext {
            cwd: folder.path().canonicalize().unwrap(),
            env,
            home: folder.path().join("home"),
            username: "ann".into(),
            cpus: 4,
            log_dir: "/logs".into(),
            pid_dir: "/pids".into(),
        };
        let project = Project { folder, caller };
        for (name, text) in files {
            project.write(name, text);
        }
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn make_executable(&self, name: &str) {
        fs::set_permissions(self.folder.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn context(&self) -> LoadContext {
        LoadContext::new(&self.caller, vec!["start".into()])
    }

    fn load(&self, file: &str) -> Result<Ecosystem, ConfigError> {
        load_file(Path::new(file), &self.context())
    }

    fn refusal(&self, file: &str) -> String {
        let message = self.load(file).expect_err(file).to_string();
        assert_eq!(message.lines().count(), 1, "one clear line: {message}");
        message
    }

    fn first(&self, file: &str) -> Resolved {
        resolve_entry(&self.load(file).unwrap().apps[0], &CliOverrides::default(), &self.caller).unwrap()
    }
}

#[test]
fn configuration_files_are_told_from_scripts_by_name() {
    let table = [
        ("ecosystem.config.js", Some(FileKind::Js)),
        ("/srv/a/my.config.cjs", Some(FileKind::Js)),
        ("x.config.mjs", Some(FileKind::Js)),
        ("x.config.ts", Some(FileKind::Js)),
        ("process.json", Some(FileKind::Json)),
        ("process.json5", Some(FileKind::Json)),
        ("process.json.bak", Some(FileKind::Json)),
        ("a.yml", Some(FileKind::Yaml)),
        ("a.yaml", Some(FileKind::Yaml)),
        ("pm2rs.toml", Some(FileKind::Toml)),
        ("app.js", None),
        ("app.ts", None),
        ("config.js", None),
        ("pm2.js", None),
        ("/srv/data.json.d/app.js", None),
        ("all", None),
        ("", None),
    ];
    for (name, kind) in table {
        assert_eq!(file_kind(name), kind, "{name}");
    }
}

#[test]
fn a_malformed_file_is_named_with_the_line() {
    let project = Project::new(&[
        ("a.json", "{\n  \"apps\": [\n    { \"script\" \"a.js\" }\n  ]\n}\n"),
        ("b.yaml", "apps:\n  - script: a.js\n   name: [\n"),
        ("c.toml", "[[apps]]\nscript = \"a.js\"\nname = \n"),
        ("d.config.js", "module.exports = {\n  apps: [{ script: 'a.js' ]\n};\n"),
        ("e.config.mjs", "export default {\n  apps: [{ name: 'x'\n    script: 'a.js' }]\n};\n"),
        ("f.config.cjs", "const a = 1;\nmodule.exports = { apps: [{ script: missing }] };\n"),
        ("g.config.mjs", "export default async () => {\n  throw new Error('no settings');\n};\n"),
    ]);
    let table = [
        ("a.json", "File a.json malformated: line 3, column 16: "),
        ("b.yaml", "File b.yaml malformated: line 3, column "),
        ("c.toml", "File c.toml malformated: line 3, column 8: "),
        ("d.config.js", "File d.config.js malformated: line 2: SyntaxError: "),
        ("e.config.mjs", "File e.config.mjs malformated: line 3: SyntaxError: Unexpected identifier"),
        ("f.config.cjs", "File f.config.cjs malformated: line 2: ReferenceError: missing is not defined"),
        ("g.config.mjs", "File g.config.mjs malformated: line 2: Error: no settings"),
    ];
    for (file, beginning) in table {
        let message = project.refusal(file);
        assert!(message.starts_with(beginning), "{message}");
    }
}

#[test]
fn an_error_in_a_module_that_the_file_uses_names_the_module() {
    let project = Project::new(&[
        ("a.config.js", "module.exports = require('./settings');\n"),
        ("settings.js", "\n\nthrow new TypeError('wrong');\n"),
    ]);
    let message = project.refusal("a.config.js");
    assert!(message.contains("settings.js:3: TypeError: wrong"), "{message}");
}

#[test]
fn what_is_no_configuration_is_refused() {
    let project = Project::new(&[
        ("none.json", "{ \"app\": [] }"),
        ("number.json", "3"),
        ("text.yaml", "just text"),
        ("entry.json", "[\"app.js\"]"),
        ("scriptless.json", "{ \"apps\": [{ \"name\": \"api\" }] }"),
        ("nothing.config.js", ""),
        ("undefined.config.mjs", "export default undefined;"),
        ("exit.config.js", "process.exit(3);"),
        ("deep.json", &"[".repeat(100_000)),
    ]);
    let table = [
        ("none.json", "No app in `none.json`"),
        ("number.json", "No app in `number.json`"),
        ("text.yaml", "No app in `text.yaml`"),
        ("entry.json", "Expect an app to be an object (app `1` of `entry.json`)"),
        ("scriptless.json", "No script path: key \"script\" is missing (app `api` of `scriptless.json`)"),
        ("nothing.config.js", "No app in `nothing.config.js`"),
        ("undefined.config.mjs", "No app in `undefined.config.mjs`"),
        ("exit.config.js", "its code ended the process before it exported anything"),
        ("deep.json", "nested too deeply"),
        ("absent.config.js", "File absent.config.js not found"),
        ("absent.json", "File absent.json not found"),
    ];
    for (file, part) in table {
        let message = project.refusal(file);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn files_made_to_exhaust_a_parser_are_refused_soon() {
    let bomb = (0..12).fold("a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let (name, before) = (char::from(b'b' + n), char::from(b'a' + n));
        text + &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","))
    });
    let indented: String = (0..3000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let project = Project::new(&[
        ("flow.yaml", &format!("apps: {}", "[".repeat(100_000))),
        ("indented.yaml", &indented),
        ("bomb.yaml", &(bomb + "apps: *m\n")),
        ("nested.toml", &format!("apps = {}", "[".repeat(100_000))),
        ("dotted.toml", &format!("{}b = 1", "a.".repeat(100_000))),
        ("nested.json", &format!("{{ apps: {}", "[".repeat(100_000))),
        ("large.json", &" ".repeat(9 << 20)),
    ]);
    for file in ["flow.yaml", "indented.yaml", "bomb.yaml", "nested.toml", "dotted.toml", "nested.json", "large.json"] {
        let before = Instant::now();
        project.refusal(file);
        assert!(before.elapsed() < Duration::from_secs(60), "{file}");
    }
}

#[test]
fn code_that_does_not_end_is_ended() {
    let project = Project::new(&[
        ("a.config.js", "while (true) {}"),
        ("b.config.mjs", "await new Promise(() => setInterval(() => {}, 1000));"),
    ]);
    for file in ["a.config.js", "b.config.mjs"] {
        let context = LoadContext { timeout: Duration::from_secs(2), ..project.context() };
        let before = Instant::now();
        let error = load_file(Path::new(file), &context).unwrap_err();
        assert!(matches!(error, ConfigError::Timeout { seconds: 2, .. }), "{error}");
        assert!(before.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn code_that_leaves_something_running_does_not_hold_us_up() {
    let project = Project::new(&[(
        "a.config.js",
        "setInterval(() => {}, 1000); require('net').createServer().listen(0);\n\
         require('child_process').spawn('sleep', ['2'], { stdio: 'inherit' }).unref();\n\
         module.exports = { apps: [{ script: 'a.js' }] };",
    )]);
    assert_eq!(project.load("a.config.js").unwrap().apps.len(), 1);
}

#[test]
fn output_of_code_is_bounded_and_does_not_disturb() {
    let project = Project::new(&[
        (
            "a.config.js",
            "require('child_process').execSync('echo {}', { stdio: ['ignore', 1, 2] });\n\
             require('fs').writeSync(1, '{\"value\":1}');\n\
             module.exports = { apps: [{ script: 'a.js' }] };",
        ),
        ("b.config.js", "module.exports = { apps: [{ script: 'x'.repeat(20 << 20) }] };"),
    ]);
    assert_eq!(project.load("a.config.js").unwrap().apps[0].name(), "a");
    let error = project.load("b.config.js").unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");
}

#[test]
fn code_sees_the_callers_circumstances() {
    let mut project = Project::new(&[(
        "sub/a.config.js",
        "module.exports = { apps: [{ script: 'a.js', name: process.env.WHO, args: [process.cwd(), __dirname, ...process.argv.slice(2)] }] };",
    )]);
    project.caller.env.insert("WHO".into(), "ann".into());
    project.caller.env.insert("NODE_CHANNEL_FD".into(), "3".into());
    let ecosystem = project.load("sub/a.config.js").unwrap();
    let here = project.caller.cwd.display().to_string();
    assert_eq!(ecosystem.apps[0].name(), "ann");
    assert_eq!(ecosystem.apps[0].get("args").unwrap(), &serde_json::json!([here, format!("{here}/sub"), "start"]));
}

#[test]
fn without_node_json_is_read_and_javascript_says_what_it_needs() {
    let mut project = Project::new(&[
        ("a.json", "{ apps: [{ script: 'a.js' }] } // JSON5"),
        ("b.json", "{ apps: [{ script: 'a' + '.js' }] }"),
        ("c.config.js", "module.exports = {}"),
    ]);
    project.caller.env.insert("PATH".into(), "/nowhere".into());
    assert_eq!(project.load("a.json").unwrap().apps.len(), 1);
    assert!(project.refusal("b.json").contains("line 1, column 24"), "{}", project.refusal("b.json"));
    assert_eq!(
        project.refusal("c.config.js"),
        "cannot read `c.config.js`: Node.js is needed for it, and `node` is not in PATH"
    );
}

#[test]
fn standard_input_is_json_in_any_of_pm2s_forms() {
    let project = Project::new(&[]);
    for text in ["[{ script: 'a.js' }]", "{\"apps\":[{\"script\":\"a.js\"}]}", "{ script: ['a', 'js'].join('.') }"] {
        assert_eq!(parse_stdin(text, &project.context()).unwrap().apps[0].name(), "a", "{text}");
    }
    assert!(parse_stdin("hello", &project.context()).unwrap_err().to_string().contains("stdin"));
    assert!(parse_stdin("", &project.context()).is_err());
}

#[test]
fn only_picks_apps_by_name() {
    let project = Project::new(&[]);
    let ecosystem =
        parse_stdin("[{script:'a.js'},{script:'b.js'},{script:'c.js',name:'d'}]", &project.context()).unwrap();
    let names = |only| ecosystem.only(only).iter().map(|app| app.name()).collect::<Vec<_>>();
    assert_eq!(names(None), ["a", "b", "d"]);
    assert_eq!(names(Some("b,d")), ["b", "d"]);
    assert_eq!(names(Some("d a")), ["a", "d"]);
    assert!(names(Some("c")).is_empty());
}

#[test]
fn what_is_typed_is_found_or_named() {
    let project = Project::new(&[
        ("app.js", ""),
        ("my app.js", ""),
        ("tool", "#!/bin/bash\n"),
        ("plain", "console.log(1)"),
        ("dir/package.json", "{}"),
        ("node_modules/.bin/local", "#!/usr/bin/env node\n"),
    ]);
    project.make_executable("tool");
    project.make_executable("node_modules/.bin/local");
    let start = |target: &str| resolve_script(target, vec!["-x".into()], &CliOverrides::default(), &project.caller);
    let table = [
        ("app.js", "node", ExecMode::Fork),
        ("./app.js", "node", ExecMode::Fork),
        ("my app.js", "node", ExecMode::Fork),
        ("tool", "none", ExecMode::Fork),
        ("plain", "node", ExecMode::Fork),
        ("dir", "node", ExecMode::Fork),
        ("local", "node", ExecMode::Fork),
        ("sleep", "none", ExecMode::Fork),
    ];
    for (target, interpreter, mode) in table {
        let spec = start(target).unwrap().spec;
        assert_eq!((spec.interpreter.as_str(), spec.exec_mode), (interpreter, mode), "{target}");
        assert!(spec.script.is_absolute());
        assert_eq!(spec.args, ["-x"]);
    }
    let here = project.caller.cwd.display();
    assert_eq!(start("nope.js").unwrap_err().to_string(), format!("Script not found: {here}/nope.js"));
    assert_eq!(start("/nope/x").unwrap_err().to_string(), "Script not found: /nope/x");
    let line = start("echo hi").unwrap().spec;
    assert_eq!(line.args, ["-c", "echo hi -x"]);
    assert_eq!(line.name, "echo hi");
}

#[test]
fn a_program_that_may_not_be_executed_is_told_of() {
    let project = Project::new(&[("tool", "#!/bin/bash\n")]);
    let error = resolve_script("tool", vec![], &CliOverrides::default(), &project.caller).unwrap_err().to_string();
    assert!(error.contains("chmod +x"), "{error}");
}

#[test]
fn options_become_keys_and_are_checked_like_them() {
    let project = Project::new(&[("app.js", "")]);
    let text = |s: &str| Some(s.to_owned());
    let options = CliOverrides {
        name: text("api"),
        namespace: text("shop"),
        instances: text("max"),
        node_args: text("--a 'b c'"),
        max_memory_restart: text("100M"),
        restart_delay: text("3000"),
        stop_exit_codes: text("0,2"),
        watch: vec![String::new()],
        ignore_watch: vec!["a,b".into(), "c".into()],
        watch_delay: text("4"),
        ext: text("js,ts"),
        log: text(""),
        output: text("NULL"),
        filter_env: vec!["A".into(), "B".into()],
        kill_timeout: text("2000"),
        wait_ready: true,
        no_autorestart: true,
        no_treekill: true,
        time: true,
        more: [("drain_timeout".to_owned(), "5s".into())].into(),
        ..CliOverrides::default()
    };
    let spec = resolve_script("app.js", vec![], &options, &project.caller).unwrap().spec;
    assert_eq!((spec.name.as_str(), spec.namespace.as_str()), ("api", "shop"));
    assert_eq!((spec.instances, spec.exec_mode), (Instances(0), ExecMode::Cluster));
    assert_eq!(spec.node_args, ["--a", "b c"]);
    assert_eq!((spec.max_memory_restart, spec.restart_delay, spec.kill_timeout), (Some(100 << 20), 3000, 2000));
    assert_eq!((spec.stop_exit_codes, spec.drain_timeout), (vec![0, 2], 5000));
    let watch = spec.watch.unwrap();
    assert_eq!(
        (watch.paths.len(), watch.delay, watch.ignore, watch.ext.len()),
        (0, 4000, ["a", "b", "c"].map(str::to_owned).into(), 2)
    );
    assert_eq!(spec.log.log_file.as_deref(), Some(Path::new("/logs/api.log")));
    assert_eq!((spec.log.out_file, spec.log.log_date_format.is_some()), (None, true));
    assert!(spec.wait_ready && !spec.autorestart && !spec.treekill);

    let wrong = CliOverrides { instances: text("many"), ..CliOverrides::default() };
    let message = resolve_script("app.js", vec![], &wrong, &project.caller).unwrap_err().to_string();
    assert_eq!(message, "Expect \"instances\" to be a typeof number, or \"max\", but it is \"many\"");
    let with_env = CliOverrides { env_name: text("production"), ..CliOverrides::default() };
    let warned = resolve_script("app.js", vec![], &with_env, &project.caller).unwrap().warnings;
    assert!(warned[0].0.starts_with("--env production: without effect on a script"), "{warned:?}");
}

#[test]
fn of_the_options_a_file_takes_those_that_pm2_lets_it_take() {
    let project = Project::new(&[
        ("a.json", "[{ script: 'app.js', namespace: 'own' }, { script: 'app.js', name: 'b', watch: false }]"),
        ("app.js", ""),
        ("sub/app.js", ""),
    ]);
    let options = CliOverrides {
        namespace: Some("given".into()),
        instances: Some("4".into()),
        name: Some("x".into()),
        uid: Some("nobody".into()),
        cwd: Some("sub".into()),
        watch: vec!["src".into()],
        ..CliOverrides::default()
    };
    let apps = project.load("a.json").unwrap().apps;
    let resolved = apps.iter().map(|app| resolve_entry(app, &options, &project.caller).unwrap()).collect::<Vec<_>>();
    let (a, b) = (&resolved[0].spec, &resolved[1].spec);
    assert_eq!((a.namespace.as_str(), b.namespace.as_str()), ("own", "given"));
    assert_eq!((a.name.as_str(), a.instances), ("app", Instances(1)));
    assert_eq!(a.uid.as_deref(), Some("nobody"));
    assert_eq!(a.cwd, project.caller.cwd.join("sub"));
    assert!(a.watch.is_some() && b.watch.is_none());
    assert!(resolved[0].warnings[0].to_string().starts_with("--name, --instances: without effect"));
}

#[test]
fn an_interpreter_that_is_missing_is_named() {
    let project = Project::new(&[
        ("a.json", "[{ name: 'api', script: 'app.js', interpreter: 'no-such-thing' }]"),
        ("app.js", ""),
    ]);
    let apps = project.load("a.json").unwrap().apps;
    let message = resolve_entry(&apps[0], &CliOverrides::default(), &project.caller).unwrap_err().to_string();
    assert!(message.starts_with("Interpreter no-such-thing is NOT AVAILABLE in PATH"), "{message}");
    assert!(message.ends_with("(app `api` of `a.json`)"), "{message}");
}

#[test]
fn node_at_a_version_is_nvms_newest_that_fits() {
    let mut project = Project::new(&[("app.js", "")]);
    for version in ["v20.9.0", "v20.11.1", "v22.1.0"] {
        let node = format!("nvm/versions/node/{version}/bin/node");
        project.write(&node, "#!/bin/sh\n");
        project.make_executable(&node);
    }
    let nvm = project.caller.cwd.join("nvm").display().to_string();
    project.caller.env.insert("NVM_DIR".into(), nvm.clone());
    let start = |interpreter: &str| {
        let options = CliOverrides { interpreter: Some(interpreter.into()), ..CliOverrides::default() };
        resolve_script("app.js", vec![], &options, &project.caller).map(|resolved| resolved.spec.interpreter)
    };
    assert_eq!(start("node@20").unwrap(), format!("{nvm}/versions/node/v20.11.1/bin/node"));
    assert_eq!(start("node@v20.9.0").unwrap(), format!("{nvm}/versions/node/v20.9.0/bin/node"));
    let message = start("node@18").unwrap_err().to_string();
    assert!(message.contains("nvm install 18"), "{message}");
    assert!(start("node@../../x").is_err());
}

#[test]
fn a_link_in_the_working_folder_stays_a_link() {
    let project = Project::new(&[("releases/1/app.js", "")]);
    std::os::unix::fs::symlink("releases/1", project.folder.path().join("current")).unwrap();
    let cwd = project.caller.cwd.join("current");
    let caller = CallerContext { cwd: cwd.clone(), ..project.caller.clone() };
    let spec = resolve_script("app.js", vec![], &CliOverrides::default(), &caller).unwrap().spec;
    assert_eq!((spec.script, spec.cwd), (cwd.join("app.js"), cwd));
}

#[test]
fn an_app_that_starts_apps_does_not_hand_on_what_is_its_own() {
    let mut project = Project::new(&[("app.js", "")]);
    let own = [
        ("pm_id", "3"),
        ("name", "parent"),
        ("NODE_APP_INSTANCE", "1"),
        ("NODE_UNIQUE_ID", "2"),
        ("LISTEN_FDS", "1"),
        ("NOTIFY_SOCKET", "/x"),
        ("MINE", "yes"),
    ];
    project.caller.env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let env = resolve_script("app.js", vec![], &CliOverrides::default(), &project.caller).unwrap().spec.env;
    assert_eq!(env.keys().map(String::as_str).collect::<Vec<_>>(), ["HOME", "MINE", "PATH", "PWD"]);
    // Outside of an app these are names like any other.
    project.caller.env.remove("pm_id");
    let env = resolve_script("app.js", vec![], &CliOverrides::default(), &project.caller).unwrap().spec.env;
    assert_eq!(env["name"], "parent");
}

#[test]
fn a_missing_environment_is_warned_of_and_goes_on() {
    let project = Project::new(&[("a.json", "[{ script: 'app.js', env_production: { A: 1 } }]"), ("app.js", "")]);
    let options = CliOverrides { env_name: Some("producton".into()), ..CliOverrides::default() };
    let apps = project.load("a.json").unwrap().apps;
    let resolved = resolve_entry(&apps[0], &options, &project.caller).unwrap();
    assert_eq!(resolved.warnings[0].to_string(), "Environment [producton] is not defined in process file");
}

#[test]
fn a_cluster_of_package_managers_is_warned_of() {
    let project = Project::new(&[("npm", "#!/usr/bin/env node\n"), ("app.js", "")]);
    let warnings = |target: &str, instances: &str| {
        let options = CliOverrides { instances: Some(instances.into()), ..CliOverrides::default() };
        resolve_script(target, vec![], &options, &project.caller).unwrap().warnings.len()
    };
    assert_eq!([warnings("./npm", "4"), warnings("./npm", "1"), warnings("app.js", "max")], [1, 0, 0]);
}

#[test]
fn the_version_is_the_nearest_packages() {
    let project = Project::new(&[
        ("package.json", r#"{ "version": "1.0.0" }"#),
        ("src/a.json", "[{ script: 'src/deep/app.js' }]"),
        ("src/deep/app.js", ""),
        ("src/deep/package.json", "not json"),
    ]);
    assert_eq!(project.first("src/a.json").spec.version.as_deref(), Some("1.0.0"));
}

#[test]
fn pm2s_server_of_static_files_is_not_mistaken_for_another_program() {
    let project = Project::new(&[
        ("a.json", "[{ script: 'serve', env: { PM2_SERVE_PATH: '.', PM2_SERVE_PORT: 8080 } }]"),
        (
            "b.json",
            "{ static: [{ path: 'dist', port: 81, spa: true, basic_auth: { username: 'ann', password: 'x' } }] }",
        ),
    ]);
    let app = project.first("a.json").spec;
    assert_eq!((app.script.to_str(), app.interpreter.as_str()), (Some(pm2rs::core::STATIC_SERVER), "node"));
    let site = project.first("b.json").spec;
    assert_eq!((site.name.as_str(), &site.script), ("static-page-server-81", &app.script));
    let given = |name: &str| site.env.get(&format!("PM2_SERVE_{name}")).map(String::as_str);
    let names = ["PORT", "PATH", "SPA", "BASIC_AUTH", "BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD", "FTP"];
    assert_eq!(names.map(given), [Some("81"), Some("dist"), Some("true"), Some("true"), Some("ann"), Some("x"), None]);
}
