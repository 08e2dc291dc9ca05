//! What the daemon checks of a spec before it believes it: whoever may call the bus may send anything.
//!
//! Bounds follow the kernel's where it has some: a path is PATH_MAX, an argument or variable MAX_ARG_STRLEN, all of them
//! together what execve(2) takes with the usual stack. Whether files and users exist is looked up when a worker starts.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use crate::core::{AppSpec, FilterEnv, LogSpec, Probe, ProbeKind, RotateSpec, WatchSpec, is_socket_name};

use super::error::ConfigError;
use super::kind::{STOP_SIGNALS, cron_problem, is_user, is_variable};

/// limits.h, PATH_MAX.
const MAX_PATH: usize = 4096;
/// execve(2): one string, its NUL included.
const MAX_STRING: usize = 128 * 1024 - 1;
/// execve(2): a quarter of the usual stack of 8 MiB.
const MAX_STRINGS: usize = 2 << 20;
/// Names are shown in tables and become parts of file names and bus paths.
const MAX_NAME: usize = 1024;
/// Entries of any list that is not arguments.
const MAX_LIST: usize = 1024;
/// A day in milliseconds: no wait is longer.
const MAX_WAIT: u64 = 86_400_000;
/// JSON text of what is only kept to be shown.
const MAX_EXTRA: usize = 256 * 1024;
/// Processes of an app.
const MAX_INSTANCES: i32 = 1024;

type Checked = Result<(), ConfigError>;

/// Checks a spec that came from elsewhere.
///
/// # Errors
/// The first rule that it breaks, naming the key.
pub fn validate_spec(spec: &AppSpec) -> Result<(), ConfigError> {
    name("name", &spec.name)?;
    name("namespace", &spec.namespace)?;
    path("script", &spec.script)?;
    path("cwd", &spec.cwd)?;
    text("interpreter", &spec.interpreter, MAX_PATH)?;
    rule(!spec.interpreter.is_empty(), "interpreter", "it is empty")?;
    rule(
        !spec.interpreter.contains('/') || spec.interpreter.starts_with('/'),
        "interpreter",
        "it is neither a name nor an absolute path",
    )?;
    strings(spec)?;
    limits(spec)?;
    rule(STOP_SIGNALS.contains(&spec.kill_signal.as_str()), "kill_signal", "it is not a signal to stop with")?;
    if let Some(pattern) = &spec.cron_restart {
        cron("cron_restart", pattern)?;
    }
    for (key, user) in [("uid", &spec.uid), ("gid", &spec.gid)] {
        rule(user.as_deref().is_none_or(is_user), key, "it can be neither a name nor a number")?;
    }
    if let Some(probe) = &spec.probe {
        self::probe(probe)?;
    }
    count("listen", spec.listen.len(), 64)?;
    for address in &spec.listen {
        let sound = is_address(address) || is_socket_name(address);
        rule(sound, "listen", "expected a port, an address with port, an absolute path or the name of a socket")?;
    }
    if let Some(watch) = &spec.watch {
        self::watch(watch)?;
    }
    log(&spec.log)?;
    for (key, file) in [("pid_file", &spec.pid_file), ("source_file", &spec.source_file)] {
        file.as_deref().map_or(Ok(()), |file| path(key, file))?;
    }
    text("username", &spec.username, MAX_NAME)?;
    text("version", spec.version.as_deref().unwrap_or_default(), MAX_NAME)?;
    let extra = serde_json::to_string(&spec.extra).map_or(usize::MAX, |text| text.len());
    rule(extra <= MAX_EXTRA, "extra", "it is too large")
}

/// Arguments and variables: what execve(2) is given.
fn strings(spec: &AppSpec) -> Checked {
    let mut total = 0;
    for (key, words) in [("args", &spec.args), ("node_args", &spec.node_args)] {
        for word in words {
            text(key, word, MAX_STRING)?;
            total += word.len() + 1;
        }
    }
    for (variable, value) in &spec.env {
        rule(is_variable(variable), "env", "a variable's name is empty, too long or contains = or NUL")?;
        rule(!value.contains('\0'), "env", &format!("the value of `{variable}` contains NUL"))?;
        let length = variable.len() + 1 + value.len();
        rule(length <= MAX_STRING, "env", &format!("`{variable}` is longer than {MAX_STRING} bytes"))?;
        total += length + 1;
    }
    let problem = format!("arguments and environment together are larger than {MAX_STRINGS} bytes");
    rule(total <= MAX_STRINGS, "env", &problem)?;
    let names = spec.own_env.iter().chain(&spec.unquoted_env);
    rule(names.clone().count() <= 2 * 65536 && names.clone().all(|name| is_variable(name)), "own_env", "a wrong name")?;
    rule(is_variable(&spec.instance_var), "instance_var", "it cannot name a variable")?;
    rule(spec.increment_var.as_deref().is_none_or(is_variable), "increment_var", "it cannot name a variable")?;
    match &spec.filter_env {
        FilterEnv::All(_) => Ok(()),
        FilterEnv::Name(variable) => text("filter_env", variable, MAX_PATH),
        FilterEnv::Parts(parts) => list("filter_env", parts, MAX_PATH),
    }
}

/// Numbers.
fn limits(spec: &AppSpec) -> Checked {
    let waits = [
        ("min_uptime", spec.min_uptime),
        ("restart_delay", spec.restart_delay),
        ("exp_backoff_restart_delay", spec.exp_backoff_restart_delay),
        ("kill_timeout", spec.kill_timeout),
        ("drain_timeout", spec.drain_timeout),
        ("listen_timeout", spec.listen_timeout),
    ];
    for (key, wait) in waits {
        rule(wait <= MAX_WAIT, key, &format!("{wait} ms is longer than a day"))?;
    }
    let instances = spec.instances.0;
    rule((-MAX_INSTANCES..=MAX_INSTANCES).contains(&instances), "instances", &format!("{instances} are too many"))?;
    rule((1..=1024).contains(&spec.reload_batch), "reload_batch", "expected 1 to 1024")?;
    count("stop_exit_codes", spec.stop_exit_codes.len(), 256)?;
    rule(spec.stop_exit_codes.iter().all(|code| (0..=255).contains(code)), "stop_exit_codes", "expected 0 to 255")?;
    rule(spec.max_memory_restart != Some(0), "max_memory_restart", "it is 0")
}

fn probe(probe: &Probe) -> Checked {
    match &probe.kind {
        ProbeKind::Http(url) => {
            text("probe", url, MAX_PATH)?;
            rule(url.starts_with("http://"), "probe", "expected a URL that begins with http://")?;
        }
        ProbeKind::Tcp(address) => {
            text("probe", address, MAX_PATH)?;
            rule(!address.is_empty(), "probe", "expected an address")?;
        }
        ProbeKind::Exec(command) => {
            rule(!command.is_empty(), "probe", "expected a command")?;
            list("probe", command, MAX_STRING)?;
        }
    }
    let bounded = (1..=600_000).contains(&probe.interval) && (1..=600_000).contains(&probe.timeout);
    rule(bounded, "probe", "interval and timeout must be from 1 to 600000 ms")?;
    rule((1..=1000).contains(&probe.count), "probe", "count must be from 1 to 1000")
}

fn watch(watch: &WatchSpec) -> Checked {
    count("watch", watch.paths.len(), MAX_LIST)?;
    watch.paths.iter().try_for_each(|watched| path("watch", watched))?;
    list("ignore_watch", &watch.ignore, MAX_PATH)?;
    list("watch_ext", &watch.ext, 64)?;
    rule(watch.delay <= MAX_WAIT, "watch_delay", "it is longer than a day")
}

fn log(log: &LogSpec) -> Checked {
    for (key, file) in [("out_file", &log.out_file), ("error_file", &log.error_file), ("log_file", &log.log_file)] {
        file.as_deref().map_or(Ok(()), |file| path(key, file))?;
    }
    text("log_date_format", log.log_date_format.as_deref().unwrap_or_default(), 256)?;
    let RotateSpec { max_size, retain, total_size, interval, date_format, .. } = &log.rotate;
    rule(*max_size >= 4096 && *total_size >= 4096, "log_rotate", "sizes must be 4096 bytes or more")?;
    rule(*retain <= 10_000, "log_rotate", "retain must be 10000 or less")?;
    text("log_rotate", date_format, 64)?;
    // It becomes a part of a file's name.
    rule(!date_format.is_empty() && !date_format.contains('/'), "log_rotate", "date_format is no part of a name")?;
    interval.as_deref().map_or(Ok(()), |pattern| cron("log_rotate", pattern))
}

/// A name that people read in tables and type.
fn name(key: &'static str, name: &str) -> Checked {
    rule(!name.trim().is_empty(), key, "it is empty")?;
    rule(name.len() <= MAX_NAME, key, &format!("it is longer than {MAX_NAME} bytes"))?;
    rule(!name.contains(char::is_control), key, "it contains a control character")
}

fn path(key: &'static str, path: &Path) -> Checked {
    let bytes = path.as_os_str().as_encoded_bytes();
    rule(path.is_absolute(), key, "it is not an absolute path")?;
    rule(bytes.len() < MAX_PATH, key, &format!("it is longer than {MAX_PATH} bytes"))?;
    rule(!bytes.contains(&0), key, "it contains NUL")
}

fn text(key: &'static str, text: &str, max: usize) -> Checked {
    rule(text.len() <= max, key, &format!("it is longer than {max} bytes"))?;
    rule(!text.contains('\0'), key, "it contains NUL")
}

fn list(key: &'static str, items: &[String], max: usize) -> Checked {
    count(key, items.len(), MAX_LIST)?;
    items.iter().try_for_each(|item| text(key, item, max))
}

fn count(key: &'static str, count: usize, max: usize) -> Checked {
    rule(count <= max, key, &format!("{count} are more than {max}"))
}

fn cron(key: &'static str, pattern: &str) -> Checked {
    rule(pattern.len() <= 256, key, "the pattern is too long")?;
    cron_problem(pattern).map_or(Ok(()), |problem| Err(ConfigError::Spec { key, problem }))
}

fn rule(holds: bool, key: &'static str, problem: &str) -> Checked {
    if holds { Ok(()) } else { Err(ConfigError::Spec { key, problem: problem.to_owned() }) }
}

/// `8080`, `127.0.0.1:80`, `[::1]:80`, `localhost:80`, `/run/x.sock` (unix(7): at most 107 bytes), `@abstract`.
fn is_address(address: &str) -> bool {
    if address.starts_with(['/', '@']) {
        return (2..=107).contains(&address.len()) && !address.contains('\0');
    }
    if u16::from_str(address).is_ok() || SocketAddr::from_str(address).is_ok() {
        return true;
    }
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host_like = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    u16::from_str(port).is_ok()
        && host.len() <= 253
        && (Ipv6Addr::from_str(host).is_ok() || (!host.is_empty() && host.chars().all(host_like)))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::core::Instances;

    fn sound() -> AppSpec {
        AppSpec { name: "api".into(), script: "/srv/api.js".into(), cwd: "/srv".into(), ..AppSpec::default() }
    }

    #[test]
    fn a_sound_spec_passes() {
        assert!(validate_spec(&sound()).is_ok());
    }

    #[test]
    fn each_rule_is_enforced() {
        type Break = fn(&mut AppSpec);
        let table: &[(&str, Break)] = &[
            ("name", |s| s.name.clear()),
            ("name", |s| s.name = "a\nb".into()),
            ("name", |s| s.name = "x".repeat(2000)),
            ("namespace", |s| s.namespace = "\u{1b}[31m".into()),
            ("script", |s| s.script = PathBuf::from("api.js")),
            ("script", |s| s.script = PathBuf::from("/a\0b")),
            ("cwd", |s| s.cwd = PathBuf::from(format!("/{}", "x".repeat(5000)))),
            ("interpreter", |s| s.interpreter.clear()),
            ("interpreter", |s| s.interpreter = "./node".into()),
            ("args", |s| s.args = vec!["a\0".into()]),
            ("args", |s| s.args = vec!["x".repeat(200_000)]),
            ("env", |s| drop(s.env.insert("A=B".into(), String::new()))),
            ("env", |s| drop(s.env.insert("A".into(), "\0".into()))),
            ("env", |s| (0..100).for_each(|n| drop(s.env.insert(format!("V{n}"), "x".repeat(100_000))))),
            ("instance_var", |s| s.instance_var.clear()),
            ("increment_var", |s| s.increment_var = Some("=".into())),
            ("instances", |s| s.instances = Instances(1_000_000)),
            ("instances", |s| s.instances = Instances(i32::MIN)),
            ("kill_timeout", |s| s.kill_timeout = u64::MAX),
            ("drain_timeout", |s| s.drain_timeout = u64::MAX),
            ("kill_signal", |s| s.kill_signal = "SIGSTOP".into()),
            ("cron_restart", |s| s.cron_restart = Some("every day".into())),
            ("stop_exit_codes", |s| s.stop_exit_codes = vec![-1]),
            ("reload_batch", |s| s.reload_batch = 0),
            ("max_memory_restart", |s| s.max_memory_restart = Some(0)),
            ("uid", |s| s.uid = Some("root:x".into())),
            ("listen", |s| s.listen = vec!["not an address".into()]),
            ("listen", |s| s.listen = vec!["127.0.0.1:70000".into()]),
            ("probe", |s| {
                s.probe = Some(Probe { kind: ProbeKind::Exec(vec![]), interval: 1, timeout: 1, count: 1 });
            }),
            ("watch", |s| s.watch = Some(WatchSpec { paths: vec!["src".into()], ..WatchSpec::default() })),
            ("out_file", |s| s.log.out_file = Some("out.log".into())),
            ("log_rotate", |s| s.log.rotate.date_format = "../../etc".into()),
            ("log_rotate", |s| s.log.rotate.max_size = 1),
            ("extra", |s| drop(s.extra.insert("io".into(), "x".repeat(1 << 20).into()))),
        ];
        for (number, (expected, spoil)) in table.iter().enumerate() {
            let mut spec = sound();
            spoil(&mut spec);
            match validate_spec(&spec) {
                Err(ConfigError::Spec { key, .. }) => assert_eq!(key, *expected, "row {number}"),
                other => panic!("row {number}, {expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn addresses_are_what_a_socket_can_be_bound_to() {
        for sound in ["80", "127.0.0.1:80", "[::1]:80", "localhost:3000", "/run/x.sock", "@x", "0.0.0.0:0"] {
            assert!(is_address(sound), "{sound}");
        }
        for wrong in ["", ":", "x", "99999", "host:", ":80", "/", "a b:80", "host:80:90"] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }

    #[test]
    fn no_message_holds_the_value_of_a_variable() {
        let mut spec = sound();
        spec.env.insert("TOKEN".into(), "hunter2\0".into());
        let message = validate_spec(&spec).expect_err("NUL is refused").to_string();
        assert!(message.contains("TOKEN") && !message.contains("hunter2"), "{message}");
    }
}
