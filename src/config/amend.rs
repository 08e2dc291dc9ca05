//! Options that are typed with the restart of an app that exists: `pm2rs restart api --max-memory-restart 200M`.

use serde_json::{Map, Value, json};

use crate::core::{AppSpec, ExecMode, WatchSpec};

use super::environment::Environment;
use super::error::{ConfigError, Place, Warning};
use super::interpreter::{self, Choice, Refusal};
use super::options::{CallerContext, CliOverrides};
use super::paths;
use super::resolve::{Program, Resolved, Resolver};
use super::script::Found;
use super::{keys, validate};

/// Which parts of the spec, as JSON pointers, a key decides. What is not here does not change with a restart.
const DECIDES: &[(&str, &[&str])] = &[
    ("name", &["/name"]),
    ("namespace", &["/namespace"]),
    ("instances", &["/instances"]),
    ("cwd", &["/cwd"]),
    ("args", &["/args"]),
    ("exec_interpreter", &["/interpreter"]),
    ("execute_command", &["/exec_mode"]),
    ("node_args", &["/node_args"]),
    ("uid", &["/uid"]),
    ("gid", &["/gid"]),
    ("pid_file", &["/pid_file"]),
    ("out_file", &["/log/out_file", "/log/files"]),
    ("error_file", &["/log/error_file", "/log/files"]),
    ("log_file", &["/log/log_file", "/log/files"]),
    ("log_type", &["/log/log_type"]),
    ("log_date_format", &["/log/log_date_format"]),
    ("time", &["/log/log_date_format", "/extra/time"]),
    ("disable_logs", &["/log/disable_logs"]),
    ("merge_logs", &["/log/merge_logs"]),
    ("cron_restart", &["/cron_restart", "/extra/cron_restart"]),
    ("max_memory_restart", &["/max_memory_restart"]),
    ("restart_delay", &["/restart_delay"]),
    ("exp_backoff_restart_delay", &["/exp_backoff_restart_delay"]),
    ("max_restarts", &["/max_restarts"]),
    ("stop_exit_codes", &["/stop_exit_codes"]),
    ("kill_timeout", &["/kill_timeout"]),
    ("listen_timeout", &["/listen_timeout"]),
    ("wait_ready", &["/wait_ready"]),
    ("shutdown_with_message", &["/shutdown_with_message"]),
    ("autorestart", &["/autorestart"]),
    ("autostart", &["/autostart"]),
    ("treekill", &["/treekill"]),
    ("source_map_support", &["/source_map_support"]),
    ("disable_source_map_support", &["/source_map_support"]),
    ("filter_env", &["/filter_env"]),
    ("watch", &["/watch", "/extra/watch"]),
    ("ignore_watch", &["/watch/ignore"]),
    ("watch_delay", &["/watch/delay"]),
    ("watch_ext", &["/watch/ext"]),
    ("vizion", &["/extra/vizion"]),
    ("pmx", &["/extra/pmx"]),
    ("automation", &["/extra/automation"]),
];

/// Typed as the value of an option, it takes the option back, as in PM2: what it decides is as if it had never been given.
const NONE: &str = "null";

/// The spec with what the options say; nothing where they say nothing about it.
///
/// # Errors
/// A wrong option, an interpreter that is not there.
pub fn amend(
    spec: &AppSpec,
    args: Option<&[String]>,
    options: &CliOverrides,
    caller: &CallerContext,
) -> Result<Option<Resolved>, ConfigError> {
    if options.env_name.is_some() {
        return Err(ConfigError::EnvWithoutFile);
    }
    let place = Place::default();
    let wrong = |problem: String| ConfigError::Key { place: place.clone(), problem };
    let (taken_back, typed): (Map<_, _>, Map<_, _>) = options.keys().into_iter().partition(|(_, value)| *value == NONE);
    let taken_back = taken_back.keys().filter_map(|key| Some(keys::find(key)?.name));
    let canonical = keys::canonicalise(&typed).map_err(wrong)?;
    let mut keys = canonical.keys;
    if let Some(args) = args {
        keys.insert("args".to_owned(), json!(args));
    }
    let decided: Vec<String> = keys.keys().cloned().chain(taken_back.map(str::to_owned)).collect();
    if decided.is_empty() {
        return Ok(None);
    }
    let given = |key: &str| keys.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let cwd = given("cwd").map_or_else(|| spec.cwd.clone(), |cwd| paths::resolve(&caller.cwd, cwd, &caller.env));
    let choice = match given("exec_interpreter") {
        Some(name) => {
            interpreter::choose(Some(name), &spec.script, &spec.env, &cwd).map_err(|refusal| match refusal {
                Refusal::Missing(interpreter) => ConfigError::NoInterpreter { interpreter, place: place.clone() },
                Refusal::Unfit(problem) => ConfigError::Interpreter { problem, place: place.clone() },
            })?
        }
        None => Choice::of(spec.interpreter.as_str()),
    };
    let resolver = Resolver { keys: &keys, place: &place, caller, warnings: Vec::new() };
    let fresh = resolver.spec(Program {
        name: given("name").unwrap_or(&spec.name).to_owned(),
        cwd,
        found: Found { path: spec.script.clone(), args: args.unwrap_or(&spec.args).to_vec(), shell: false },
        choice,
        exec_mode: if options.execute_command { ExecMode::Fork } else { spec.exec_mode },
        environment: Environment { all: spec.env.clone(), ..Environment::default() },
        filter_env: resolver.filter_env(),
    });
    let mut amended = merged(spec, &fresh, decided.iter().map(String::as_str))
        .ok_or_else(|| wrong("the options cannot be applied to the app as it is".to_owned()))?;
    match (&spec.watch, &mut amended.watch) {
        (Some(before), Some(now)) => go_on_watching(before, now, |key| keys.contains_key(key)),
        // How it is to be watched once it is.
        (None, now @ None) => *now = fresh.watch,
        _ => {}
    }
    validate::validate_spec(&amended)?;
    Ok(Some(Resolved { spec: amended, warnings: canonical.warnings.into_iter().map(Warning).collect() }))
}

/// `--watch` says what is watched, where it names that; how, stays as it was unless that is said, too.
fn go_on_watching(before: &WatchSpec, now: &mut WatchSpec, said: impl Fn(&str) -> bool) {
    if !said("ignore_watch") {
        now.ignore.clone_from(&before.ignore);
    }
    if !said("watch_ext") {
        now.ext.clone_from(&before.ext);
    }
    if !said("watch_delay") {
        now.delay = before.delay;
    }
    now.reload = before.reload;
    if now.paths.is_empty() && before.off {
        now.paths.clone_from(&before.paths);
    }
}

/// `old` with those parts of `fresh` that the keys decide.
fn merged<'a>(old: &AppSpec, fresh: &AppSpec, keys: impl Iterator<Item = &'a str>) -> Option<AppSpec> {
    let mut all = serde_json::to_value(old).ok()?;
    let fresh = serde_json::to_value(fresh).ok()?;
    for key in keys {
        let decided = DECIDES.iter().find(|(known, _)| *known == key).map_or(&[][..], |(_, decided)| *decided);
        for pointer in decided {
            let (parent, last) = pointer.rsplit_once('/')?;
            let Some(of) = all.pointer_mut(parent).and_then(Value::as_object_mut) else { continue };
            match fresh.pointer(pointer) {
                Some(value) => drop(of.insert(last.to_owned(), value.clone())),
                // What is only shown is not shown as null.
                None if parent == "/extra" => drop(of.remove(last)),
                None => drop(of.insert(last.to_owned(), Value::Null)),
            }
        }
    }
    serde_json::from_value(all).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn spec() -> AppSpec {
        AppSpec {
            name: "api".to_owned(),
            script: "/srv/api.js".into(),
            args: vec!["--port".to_owned(), "80".to_owned()],
            interpreter: "node".to_owned(),
            cwd: "/srv".into(),
            max_memory_restart: Some(1 << 20),
            kill_timeout: 5000,
            ..AppSpec::default()
        }
    }

    fn amended(options: &CliOverrides) -> AppSpec {
        amend(&spec(), None, options, &CallerContext::default()).unwrap().unwrap().spec
    }

    #[test]
    fn without_options_nothing_changes() {
        let nothing = amend(&spec(), None, &CliOverrides::default(), &CallerContext::default());
        assert_eq!(nothing.unwrap(), None);
    }

    #[test]
    fn only_what_was_typed_changes() {
        let limit = CliOverrides { max_memory_restart: Some("200M".to_owned()), ..CliOverrides::default() };
        assert_eq!(amended(&limit), AppSpec { max_memory_restart: Some(200 << 20), ..spec() });
        let name = CliOverrides { name: Some("web".to_owned()), ..CliOverrides::default() };
        assert_eq!(amended(&name), AppSpec { name: "web".to_owned(), ..spec() });
        let watch = CliOverrides { watch: vec!["src".to_owned()], ..CliOverrides::default() };
        assert_eq!(amended(&watch).watch.unwrap().paths, [std::path::Path::new("/srv/src")]);
    }

    #[test]
    fn a_cron_pattern_of_zero_takes_it_away() {
        let planned = AppSpec { cron_restart: Some("0 3 * * *".to_owned()), ..spec() };
        let off = CliOverrides { cron_restart: Some("0".to_owned()), ..CliOverrides::default() };
        let spec = amend(&planned, None, &off, &CallerContext::default()).unwrap().unwrap().spec;
        assert_eq!(spec.cron_restart, None);
    }

    #[test]
    fn watch_changes_nothing_but_what_is_watched() {
        let ignoring = WatchSpec { ignore: vec!["logs".to_owned()], delay: 500, ..WatchSpec::default() };
        let watched = AppSpec { watch: Some(ignoring.clone()), ..spec() };
        let again = CliOverrides { watch: vec!["src".to_owned()], ..CliOverrides::default() };
        let amended = amend(&watched, None, &again, &CallerContext::default()).unwrap().unwrap().spec.watch.unwrap();
        assert_eq!(amended, WatchSpec { paths: amended.paths.clone(), ..ignoring });
        assert_eq!(amended.paths.len(), 1);
    }

    #[test]
    fn watch_turned_on_again_is_as_it_was() {
        let before =
            WatchSpec { paths: vec!["/srv/src".into()], ignore: vec!["logs".to_owned()], ..WatchSpec::default() };
        let off = AppSpec { watch: Some(WatchSpec { off: true, ..before.clone() }), ..spec() };
        let on = CliOverrides { watch: vec![String::new()], ..CliOverrides::default() };
        let amended = amend(&off, None, &on, &CallerContext::default()).unwrap().unwrap().spec;
        assert_eq!(amended.watch, Some(before));
    }

    #[test]
    fn what_is_not_watched_has_an_ignore_list_all_the_same() {
        let ignoring = CliOverrides { ignore_watch: vec!["logs".to_owned()], ..CliOverrides::default() };
        let unwatched = amended(&ignoring);
        assert_eq!(unwatched.watched(), None);
        let on = CliOverrides { watch: vec![String::new()], ..CliOverrides::default() };
        let watched = amend(&unwatched, None, &on, &CallerContext::default()).unwrap().unwrap().spec;
        assert_eq!(watched.watched().unwrap().ignore, ["logs"]);
    }

    #[test]
    fn arguments_are_replaced() {
        let args = ["--fast".to_owned()];
        let amended = amend(&spec(), Some(&args), &CliOverrides::default(), &CallerContext::default());
        assert_eq!(amended.unwrap().unwrap().spec, AppSpec { args: args.to_vec(), ..spec() });
    }

    #[test]
    fn null_takes_an_option_back() {
        let old = AppSpec { node_args: vec!["--harmony".to_owned()], ..spec() };
        let none = || Some("null".to_owned());
        let options = CliOverrides { node_args: none(), max_memory_restart: none(), ..CliOverrides::default() };
        let amended = amend(&old, None, &options, &CallerContext::default()).unwrap().unwrap().spec;
        assert_eq!(amended, AppSpec { node_args: Vec::new(), max_memory_restart: None, ..old });
    }

    #[test]
    fn every_key_of_the_options_decides_something() {
        let all = CliOverrides {
            name: Some("a".into()),
            namespace: Some("n".into()),
            instances: Some("2".into()),
            cwd: Some("/tmp".into()),
            interpreter: Some("node".into()),
            node_args: Some("--x".into()),
            execute_command: true,
            filter_env: vec!["A".into()],
            uid: Some("0".into()),
            gid: Some("0".into()),
            pid: Some("/p".into()),
            output: Some("/o".into()),
            error: Some("/e".into()),
            log: Some("/l".into()),
            log_type: Some("json".into()),
            log_date_format: Some("YYYY".into()),
            time: true,
            disable_logs: true,
            merge_logs: true,
            watch: vec![String::new()],
            ignore_watch: vec!["x".into()],
            watch_delay: Some("1".into()),
            ext: Some("js".into()),
            cron_restart: Some("* * * * *".into()),
            max_memory_restart: Some("1M".into()),
            restart_delay: Some("1".into()),
            exp_backoff_restart_delay: Some("1".into()),
            max_restarts: Some("1".into()),
            stop_exit_codes: Some("1".into()),
            kill_timeout: Some("1".into()),
            listen_timeout: Some("1".into()),
            wait_ready: true,
            shutdown_with_message: true,
            no_autorestart: true,
            no_autostart: true,
            no_treekill: true,
            source_map_support: true,
            disable_source_map_support: true,
            switched_off: vec!["vizion", "pmx", "automation"],
            ..CliOverrides::default()
        };
        let keys = keys::canonicalise(&all.keys()).unwrap().keys;
        let forgotten: Vec<&String> = keys.keys().filter(|key| DECIDES.iter().all(|(known, _)| known != key)).collect();
        assert_eq!(forgotten, Vec::<&String>::new());
    }
}
