//! From keys to a complete [`AppSpec`]: defaults filled in, paths absolute, environment merged, program found.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::core::{
    AppSpec, Balance, ExecMode, FilterEnv, Instances, LogSpec, LogType, OnReloadFailure, RotateSpec, STATIC_SERVER,
    WatchSpec,
};

use super::ecosystem::{AppEntry, default_name};
use super::environment::{self, Environment};
use super::error::{ConfigError, Place, Warning};
use super::interpreter::{self, Choice, Refusal};
use super::keys::{self, Effect};
use super::options::{CallerContext, CliOverrides};
use super::script::{self, Found, Search};
use super::{paths, validate};

/// A format that PM2 gives `time: true`.
const TIME_FORMAT: &str = "YYYY-MM-DDTHH:mm:ss";

/// An app, ready to be sent to the daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// What to run.
    pub spec: AppSpec,
    /// What the person should know about it.
    pub warnings: Vec<Warning>,
}

/// Resolves what was typed: `pm2rs start TARGET [options] -- ARGS`.
///
/// # Errors
/// A wrong option, a script or interpreter that is not there.
pub fn resolve_script(
    target: &str,
    args: Vec<String>,
    options: &CliOverrides,
    caller: &CallerContext,
) -> Result<Resolved, ConfigError> {
    let place = Place::default();
    let canonical =
        keys::canonicalise(&options.keys()).map_err(|problem| ConfigError::Key { place: place.clone(), problem })?;
    let mut keys = canonical.keys;
    keys.insert("script".to_owned(), json!(target));
    if !args.is_empty() {
        keys.insert("args".to_owned(), Value::from(args));
    }
    let mut warnings: Vec<Warning> = canonical.warnings.into_iter().map(Warning).collect();
    if let Some(name) = &options.env_name {
        warnings.push(Warning(format!("--env {name}: without effect on a script, only on the apps of a file")));
    }
    Resolver { keys: &keys, place: &place, caller, warnings }.resolve(None, None, None)
}

/// Resolves an app of a file. Of the options only those are taken that PM2 takes with a file; what others were given is
/// said in a warning.
///
/// # Errors
/// A wrong option, a script or interpreter that is not there.
pub fn resolve_entry(
    entry: &AppEntry,
    options: &CliOverrides,
    caller: &CallerContext,
) -> Result<Resolved, ConfigError> {
    let mut warnings: Vec<Warning> = Vec::new();
    if let [first, rest @ ..] = options.without_effect_on_files().as_slice() {
        let all = rest.iter().fold((*first).to_owned(), |all, option| format!("{all}, {option}"));
        warnings.push(Warning(format!("{all}: without effect on the apps of a file, which has keys for it")));
    }
    let mut keys = entry.keys.clone();
    let mut added = Map::new();
    options.watch_keys(&mut added);
    if let Some(namespace) = &options.namespace {
        added.insert("namespace".to_owned(), json!(namespace));
    }
    // PM2 completes with these what the file leaves open, and with uid, gid and cwd overrules it.
    added.retain(|key, _| !keys.contains_key(key));
    let overruling = [
        ("uid", options.uid.clone()),
        ("gid", options.gid.clone()),
        ("cwd", options.cwd.as_deref().and_then(Path::to_str).map(str::to_owned)),
    ];
    added.extend(overruling.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?)))));
    let added = keys::canonicalise(&added).map_err(|problem| ConfigError::Key { place: Place::default(), problem })?;
    keys.extend(added.keys);
    Resolver { keys: &keys, place: &entry.place, caller, warnings }.resolve(
        options.env_name.as_deref(),
        entry.deploy.as_deref(),
        entry.file.as_deref(),
    )
}

/// The keys of one app, in normal form, and what they are resolved against.
pub(super) struct Resolver<'a> {
    pub(super) keys: &'a Map<String, Value>,
    pub(super) place: &'a Place,
    pub(super) caller: &'a CallerContext,
    pub(super) warnings: Vec<Warning>,
}

/// What had to be looked up for an app.
pub(super) struct Program {
    pub(super) name: String,
    pub(super) cwd: PathBuf,
    pub(super) found: Found,
    pub(super) choice: Choice,
    pub(super) exec_mode: ExecMode,
    pub(super) environment: Environment,
    pub(super) filter_env: FilterEnv,
}

impl<'a> Resolver<'a> {
    fn resolve(
        mut self,
        env_name: Option<&str>,
        deploy: Option<&Value>,
        file: Option<&Path>,
    ) -> Result<Resolved, ConfigError> {
        let Some(script) = self.text("script") else {
            return Err(ConfigError::NoScript { place: self.place.clone() });
        };
        let cwd = self
            .text("cwd")
            .map_or_else(|| self.caller.cwd.clone(), |cwd| paths::resolve(&self.caller.cwd, cwd, &self.caller.env));
        let filter_env = self.filter_env();
        let inherited = Environment::inherited(self.caller, &filter_env);
        let mut environment = environment::of_app(inherited, self.keys, deploy, env_name, &mut self.warnings);
        if let Some(port) = self.number("port") {
            environment.overlay(&Map::from_iter([("PORT".to_owned(), json!(port))]));
        }
        // As a shell would: programs that ask for the logical folder get the link, not what it points to.
        environment.all.insert("PWD".to_owned(), cwd.to_string_lossy().into_owned());

        let (found, choice, exec_mode) = self.program(script, &cwd, &environment)?;
        if choice.program.contains("python") && !environment.all.contains_key("PYTHONUNBUFFERED") {
            environment.set("PYTHONUNBUFFERED", "1");
        }
        let name = self.name(script, env_name);
        if name == "all" {
            self.warn("an app named `all` can be reached by its number only: commands take `all` for every app");
        }
        let version = self.text("version").map(str::to_owned).or_else(|| version_of(&found, script, &cwd));
        let spec = AppSpec {
            version,
            source_file: file.map(Path::to_owned),
            ..self.spec(Program { name, cwd, found, choice, exec_mode, environment, filter_env })
        };
        validate::validate_spec(&spec)?;
        Ok(Resolved { spec, warnings: self.warnings })
    }

    /// Everything that follows from the keys alone, once the program is known.
    pub(super) fn spec(&self, program: Program) -> AppSpec {
        let Program { name, cwd, found, choice, exec_mode, environment, filter_env } = program;
        let defaults = AppSpec::default();
        // Our server says when it serves.
        let serves_files = found.path.as_os_str() == STATIC_SERVER;
        AppSpec {
            namespace: self.text("namespace").filter(|ns| !ns.is_empty()).unwrap_or("default").to_owned(),
            version: self.text("version").map(str::to_owned),
            script: found.path,
            args: found.args,
            node_args: choice.flags.into_iter().chain(self.list("node_args")).collect(),
            interpreter: choice.program,
            exec_mode,
            instances: Instances(self.keys.get("instances").and_then(Value::as_i64).map_or(1, as_instances)),
            own_env: environment.own.into_iter().collect(),
            unquoted_env: environment.unquoted.into_iter().collect(),
            env: environment.all,
            instance_var: self.instance_var(&defaults),
            increment_var: self.text("increment_var").map(str::to_owned),
            filter_env,
            autorestart: self.flag("autorestart", defaults.autorestart),
            autostart: self.flag("autostart", defaults.autostart),
            min_uptime: self.number("min_uptime").unwrap_or(defaults.min_uptime),
            max_restarts: self.count("max_restarts").unwrap_or(defaults.max_restarts),
            restart_delay: self.number("restart_delay").unwrap_or(defaults.restart_delay),
            exp_backoff_restart_delay: self
                .number("exp_backoff_restart_delay")
                .unwrap_or(defaults.exp_backoff_restart_delay),
            stop_exit_codes: self.codes(),
            cron_restart: self.text("cron_restart").map(str::to_owned),
            max_memory_restart: self.number("max_memory_restart"),
            kill_timeout: self
                .number("kill_timeout")
                .or_else(|| self.ms_of("PM2_KILL_TIMEOUT"))
                .unwrap_or(defaults.kill_timeout),
            kill_signal: self.kill_signal(&defaults),
            treekill: self.flag("treekill", defaults.treekill),
            shutdown_with_message: self
                .flag("shutdown_with_message", self.caller.env.contains_key("PM2_KILL_USE_MESSAGE")),
            drain_timeout: self.number("drain_timeout").unwrap_or(defaults.drain_timeout),
            wait_ready: self.flag("wait_ready", serves_files),
            listen_timeout: self
                .number("listen_timeout")
                .or_else(|| self.ms_of("PM2_GRACEFUL_LISTEN_TIMEOUT"))
                .unwrap_or(defaults.listen_timeout),
            probe: self.parsed("probe"),
            reload_batch: self.count("reload_batch").unwrap_or(defaults.reload_batch),
            on_reload_failure: self.parsed::<OnReloadFailure>("on_reload_failure").unwrap_or_default(),
            balance: self.parsed::<Balance>("balance").unwrap_or_default(),
            agent: self.flag("agent", defaults.agent),
            listen: self.list("listen").iter().map(|address| self.address(address, &cwd)).collect(),
            uid: self.text("uid").map(str::to_owned),
            gid: self.text("gid").map(str::to_owned),
            watch: self.watch(&cwd),
            log: self.log(&name, &cwd),
            pid_file: Some(match self.text("pid_file") {
                Some(given) => paths::resolve(&cwd, given, &self.caller.env),
                None => self.caller.pid_dir.join(format!("{}.pid", paths::file_name(&name))),
            }),
            source_map_support: !self.flag("disable_source_map_support", false)
                && self.flag("source_map_support", true),
            username: self.text("username").unwrap_or(&self.caller.username).to_owned(),
            source_file: None,
            extra: self.extra(),
            name,
            cwd,
        }
    }

    /// Finds the program, what interprets it and in which mode.
    fn program(
        &mut self,
        script: &str,
        cwd: &Path,
        environment: &Environment,
    ) -> Result<(Found, Choice, ExecMode), ConfigError> {
        let wanted = self.wanted_mode();
        if script == "serve" && environment.own.iter().any(|name| name.starts_with("PM2_SERVE_")) {
            let path = PathBuf::from(STATIC_SERVER);
            let found = Found { path, args: self.list("args"), shell: false };
            return Ok((found, Choice::of("node"), wanted.unwrap_or(ExecMode::Fork)));
        }
        let search = Search { cwd, env: &environment.all, cluster: wanted == Some(ExecMode::Cluster) };
        let found = script::find(script, &self.list("args"), &search).map_err(ConfigError::ScriptNotFound)?;
        if found.shell {
            if wanted == Some(ExecMode::Cluster) {
                self.warn("cluster mode is for Node programs: a shell line runs in fork mode");
            }
            return Ok((found, Choice::of("none"), ExecMode::Fork));
        }
        let given = self.text("exec_interpreter").filter(|given| !given.is_empty());
        let choice = interpreter::choose(given, &found.path, &environment.all, cwd).map_err(|refusal| {
            let place = self.place.clone();
            match refusal {
                Refusal::Missing(interpreter) => ConfigError::NoInterpreter { interpreter, place },
                Refusal::Unfit(problem) => ConfigError::Interpreter { problem, place },
            }
        })?;
        if choice.program == "none" && !interpreter::is_executable(&found.path) {
            let problem = format!("cannot execute `{}`: it lacks the permission (`chmod +x`)", found.path.display());
            return Err(ConfigError::Interpreter { problem, place: self.place.clone() });
        }
        let node = interpreter::is_node(&choice.program);
        let exec_mode = match wanted {
            Some(ExecMode::Cluster) if !node => {
                self.warn("cluster mode is for Node programs: it runs in fork mode");
                ExecMode::Fork
            }
            Some(mode) => mode,
            // PM2: a number of instances makes a Node program a cluster, be it 1.
            None if node && self.keys.contains_key("instances") => ExecMode::Cluster,
            None => ExecMode::Fork,
        };
        self.warn_of_package_manager(&found.path, exec_mode);
        Ok((found, choice, exec_mode))
    }

    /// npm and its like start the app as a child of theirs, which is no cluster worker: several of them want one port.
    fn warn_of_package_manager(&mut self, script: &Path, mode: ExecMode) {
        let name = script.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let one = matches!(self.keys.get("instances").and_then(Value::as_i64), None | Some(1));
        if mode == ExecMode::Cluster && !one && matches!(name, "npm" | "npx" | "yarn" | "pnpm") {
            self.warn(&format!(
                "`{name}` starts the app as its child, which shares no port: name the app's own script"
            ));
        }
    }

    /// The mode that was asked for in so many words.
    fn wanted_mode(&self) -> Option<ExecMode> {
        if self.flag("execute_command", false) {
            return Some(ExecMode::Fork);
        }
        self.text("exec_mode").map(|mode| if mode.starts_with("cluster") { ExecMode::Cluster } else { ExecMode::Fork })
    }

    fn name(&self, script: &str, env_name: Option<&str>) -> String {
        let name =
            self.text("name").filter(|name| !name.is_empty()).map_or_else(|| default_name(script), str::to_owned);
        match env_name {
            Some(env_name) if self.flag("append_env_to_name", false) => format!("{name}-{env_name}"),
            _ => name,
        }
    }

    pub(super) fn filter_env(&self) -> FilterEnv {
        self.parsed("filter_env").unwrap_or_default()
    }

    fn kill_signal(&self, defaults: &AppSpec) -> String {
        let of_caller = self.caller.env.get("PM2_KILL_SIGNAL").and_then(|name| super::kind::signal(name));
        self.text("kill_signal").or(of_caller).unwrap_or(&defaults.kill_signal).to_owned()
    }

    fn instance_var(&self, defaults: &AppSpec) -> String {
        let of_caller = self.caller.env.get("PM2_PROCESS_INSTANCE_VAR").map(String::as_str);
        let of_caller = of_caller.filter(|name| super::kind::is_variable(name));
        self.text("instance_var").or(of_caller).unwrap_or(&defaults.instance_var).to_owned()
    }

    /// An address to listen on; the path of a socket is made absolute, a number or host is not a path.
    fn address(&self, address: &str, cwd: &Path) -> String {
        if address.contains('/') && !address.starts_with('@') {
            paths::resolve(cwd, address, &self.caller.env).to_string_lossy().into_owned()
        } else {
            address.to_owned()
        }
    }

    fn watch(&self, cwd: &Path) -> Option<WatchSpec> {
        let (off, paths) = match self.keys.get("watch") {
            // As in PM2 the rest is kept for who turns it on.
            None | Some(Value::Bool(false)) => (true, Vec::new()),
            Some(Value::Array(paths)) => (false, paths.iter().filter_map(Value::as_str).collect()),
            Some(_) => (false, Vec::new()),
        };
        let ignored = self.keys.get("watch_options").and_then(|options| options.get("ignored"));
        let ignored = ignored.and_then(|ignored| super::kind::Kind::Words.check(ignored).ok());
        let watch = WatchSpec {
            paths: paths.into_iter().map(|path| paths::resolve(cwd, path, &self.caller.env)).collect(),
            ignore: self.list("ignore_watch").into_iter().chain(words_of(ignored.as_ref())).collect(),
            ext: self.list("watch_ext").iter().map(|ext| ext.trim_start_matches('.').to_owned()).collect(),
            delay: self.number("watch_delay").unwrap_or(0),
            reload: self.flag("watch_reload", false),
            off,
        };
        let says_nothing = watch == WatchSpec { off: true, ..WatchSpec::default() };
        (!says_nothing).then_some(watch)
    }

    fn log(&self, name: &str, cwd: &Path) -> LogSpec {
        let env = &self.caller.env;
        let default = |kind: &str| Some(self.caller.log_dir.join(format!("{}{kind}.log", paths::file_name(name))));
        let given = |key: &str, kind: &str| match self.text(key) {
            Some(given) => paths::log_path(cwd, given, env),
            None => default(kind),
        };
        let log_file = match self.keys.get("log_file") {
            Some(Value::Bool(true)) => default(""),
            Some(Value::String(given)) => paths::log_path(cwd, given, env),
            _ => None,
        };
        let named = ["out_file", "error_file", "log_file"]
            .iter()
            .any(|key| self.text(key).is_some_and(|given| paths::log_path(cwd, given, env).is_some()));
        let mut rotate = serde_json::to_value(RotateSpec::default()).unwrap_or_default();
        if let (Some(Value::Object(changed)), Some(all)) = (self.keys.get("log_rotate"), rotate.as_object_mut()) {
            all.extend(changed.clone());
        }
        LogSpec {
            out_file: given("out_file", "-out"),
            error_file: given("error_file", "-error"),
            log_file,
            merge_logs: self.flag("merge_logs", self.one_log_file()),
            disable_logs: self.flag("disable_logs", false),
            // PM2 knows one word here and takes any other for none.
            log_type: if self.text("log_type") == Some("json") { LogType::Json } else { LogType::Raw },
            log_date_format: Some(TIME_FORMAT)
                .filter(|_| self.flag("time", false))
                .or_else(|| self.text("log_date_format").filter(|format| !format.is_empty()))
                .map(str::to_owned),
            rotate: serde_json::from_value(rotate).unwrap_or_default(),
            journal: self.keys.get("journal").and_then(Value::as_bool),
            files: self.keys.get("log_files").and_then(Value::as_bool).or(named.then_some(true)),
            syslog: self.text("log_syslog").and_then(|address| address.parse().ok()),
        }
    }

    /// Whether all processes write into one file where nothing else is said. One process has no need of a number in its
    /// file's name; PM2 takes `max` for one, unless cluster mode is asked for in so many words.
    fn one_log_file(&self) -> bool {
        let counted = self.keys.get("instances").and_then(Value::as_i64).is_some_and(|count| count != 0);
        !counted && self.wanted_mode() != Some(ExecMode::Cluster)
    }

    /// What `jlist` shows as it was given: keys without effect here, other environments, and keys whose value in the spec
    /// is not the one given.
    fn extra(&self) -> std::collections::BTreeMap<String, Value> {
        const SHOWN_AS_GIVEN: &[&str] = &[
            "watch",
            "time",
            "port",
            "append_env_to_name",
            "watch_options",
            "source_map_support",
            "disable_source_map_support",
        ];
        let shown = |key: &str| {
            SHOWN_AS_GIVEN.contains(&key)
                || keys::is_named_env(key)
                || keys::find(key).is_some_and(|key| key.effect != Effect::Applied)
        };
        let given = self.keys.iter().filter(|(key, _)| shown(key)).map(|(key, value)| (key.clone(), value.clone()));
        let unplanned = self.keys.get("cron_restart") == Some(&json!(false));
        given.chain(unplanned.then(|| ("cron_restart".to_owned(), json!(0)))).collect()
    }

    fn warn(&mut self, what: &str) {
        self.warnings.push(Warning(format!("{what}{}", self.place)));
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.keys.get(key).and_then(Value::as_str)
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.keys.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.keys.get(key).and_then(Value::as_u64)
    }

    fn count(&self, key: &str) -> Option<u32> {
        self.number(key).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    fn list(&self, key: &str) -> Vec<String> {
        words_of(self.keys.get(key)).collect()
    }

    fn codes(&self) -> Vec<i32> {
        let codes = self.keys.get("stop_exit_codes").and_then(Value::as_array);
        codes.into_iter().flatten().filter_map(|code| i32::try_from(code.as_i64()?).ok()).collect()
    }

    /// A key whose normal form is the spec's own.
    fn parsed<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.keys.get(key).and_then(|value| serde_json::from_value(value.clone()).ok())
    }

    /// A time that the caller's environment sets for all apps, as PM2's daemon takes it.
    fn ms_of(&self, variable: &str) -> Option<u64> {
        self.caller.env.get(variable).and_then(|text| super::units::millis(text)).filter(|ms| *ms <= 86_400_000)
    }
}

fn words_of(list: Option<&Value>) -> impl Iterator<Item = String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

/// The kind has bounded it to ±1024.
fn as_instances(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(1)
}

/// The `version` of the nearest package.json at or above the script; of a shell line, the working folder's.
fn version_of(found: &Found, script: &str, cwd: &Path) -> Option<String> {
    // A program in PATH has a version, but it is not the app's.
    let own = !found.shell && (script.contains('/') || found.path.starts_with(cwd));
    let start: PathBuf = if own { found.path.clone() } else { cwd.join("line") };
    start.ancestors().skip(1).find_map(|folder| {
        let text = std::fs::read_to_string(folder.join("package.json")).ok().filter(|text| text.len() <= 1 << 20)?;
        let package: Value = serde_json::from_str(&text).ok()?;
        Some(package.get("version")?.as_str()?.chars().take(64).collect())
    })
}
