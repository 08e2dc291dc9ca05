//! The options that every command accepts, before or after its name, as PM2's parser has it.
//!
//! Owns their syntax and help only. What an option means for an app is decided by `config`.

use std::path::PathBuf;

use clap::Args;

use crate::config::CliOverrides;

/// Heading of the options that describe an app.
const APP: &str = "Options of an app";
/// Heading of the options that choose the daemon.
const DAEMON: &str = "Which daemon";
/// Heading of the options that change what is printed.
const OUTPUT: &str = "Output";

/// Everything that may be typed with any command.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Arguments for the app: whatever followed `--`.
    #[arg(skip)]
    pub app_args: Option<Vec<String>>,

    /// Use the system service
    #[arg(long, help_heading = DAEMON, conflicts_with_all = ["user", "home"])]
    pub system: bool,
    /// Use your user service; with a value, the user to run the app as (`--uid`)
    #[arg(long, value_name = "USER", num_args = 0..=1, default_missing_value = "", help_heading = DAEMON)]
    pub user: Option<String>,
    /// Use the private daemon of this folder
    #[arg(long, value_name = "DIR", help_heading = DAEMON)]
    pub home: Option<PathBuf>,

    /// Print the version
    #[arg(short = 'v', long, short_alias = 'V', help_heading = OUTPUT)]
    pub version: bool,
    /// Print nothing but what a machine would read
    #[arg(short, long, help_heading = OUTPUT)]
    pub silent: bool,
    /// Print JSON alone on standard output
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Print the list in compact blocks
    #[arg(short, long, help_heading = OUTPUT)]
    pub mini_list: bool,
    /// Sort the list: name, namespace, pid, id, cpu, memory, uptime or status, then `:asc` or `:desc`
    #[arg(long, value_name = "FIELD[:ORDER]", help_heading = OUTPUT)]
    pub sort: Option<String>,
    /// No colours
    #[arg(long, help_heading = OUTPUT)]
    pub no_color: bool,

    /// Name of the app
    #[arg(short, long, value_name = "NAME", help_heading = APP)]
    pub name: Option<String>,
    /// Namespace of the app
    #[arg(long, value_name = "NAMESPACE", help_heading = APP)]
    pub namespace: Option<String>,
    /// Processes: a number, 0 or `max` for one per CPU, -N for CPUs minus N
    #[arg(short, long, value_name = "N", help_heading = APP)]
    pub instances: Option<String>,
    /// Folder to run in
    #[arg(long, value_name = "DIR", help_heading = APP)]
    pub cwd: Option<PathBuf>,
    /// Program that runs the script; `none` executes the script itself
    #[arg(long, value_name = "PROGRAM", help_heading = APP)]
    pub interpreter: Option<String>,
    /// Arguments of the interpreter
    #[arg(long, alias = "interpreter-args", value_name = "ARGS", help_heading = APP)]
    pub node_args: Option<String>,
    /// Run in fork mode
    #[arg(short = 'x', long, help_heading = APP)]
    pub execute_command: bool,
    /// Use `env_NAME` of the configuration file
    #[arg(long, value_name = "NAME", help_heading = APP)]
    pub env: Option<String>,
    /// Take over the present environment
    #[arg(short = 'a', long, help_heading = APP)]
    pub update_env: bool,
    /// Variable that the app shall not see (repeatable)
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", help_heading = APP)]
    pub filter_env: Vec<String>,
    /// Start though it runs already; save though the list is empty
    #[arg(short, long, help_heading = APP)]
    pub force: bool,
    /// Of a configuration file, only these apps (comma-separated)
    #[arg(long, value_name = "NAMES", help_heading = APP)]
    pub only: Option<String>,
    /// User to run as
    #[arg(short = 'u', long, value_name = "USER", help_heading = APP)]
    pub uid: Option<String>,
    /// Group to run as
    #[arg(long, value_name = "GROUP", help_heading = APP)]
    pub gid: Option<String>,
    /// File for the process id; `-ID` is added
    #[arg(short, long, value_name = "FILE", help_heading = APP)]
    pub pid: Option<PathBuf>,
    /// Also write the resolved configuration to `./NAME-pm2.json`
    #[arg(short, long, help_heading = APP)]
    pub write: bool,
    /// Processes to act on at a time
    #[arg(long, value_name = "N", help_heading = APP)]
    pub parallel: Option<u32>,
    /// Follow the logs afterwards
    #[arg(long = "attach", help_heading = APP)]
    pub attach_logs: bool,

    /// File for standard output
    #[arg(short, long, value_name = "FILE", help_heading = APP)]
    pub output: Option<String>,
    /// File for standard error
    #[arg(short, long, value_name = "FILE", help_heading = APP)]
    pub error: Option<String>,
    /// File for both
    #[arg(short, long, value_name = "FILE", num_args = 0..=1, default_missing_value = "", help_heading = APP)]
    pub log: Option<String>,
    /// How lines are written: raw or json
    #[arg(long, value_name = "TYPE", help_heading = APP)]
    pub log_type: Option<String>,
    /// Time before each line, in dayjs's format
    #[arg(long, value_name = "FORMAT", help_heading = APP)]
    pub log_date_format: Option<String>,
    /// Time before each line, `YYYY-MM-DDTHH:mm:ss`
    #[arg(long, help_heading = APP)]
    pub time: bool,
    /// Keep no logs
    #[arg(long, help_heading = APP)]
    pub disable_logs: bool,
    /// One file for all processes of the app
    #[arg(long, help_heading = APP)]
    pub merge_logs: bool,

    /// Restart when files change
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "", help_heading = APP)]
    pub watch: Vec<String>,
    /// What not to watch (comma-separated globs)
    #[arg(long, value_name = "GLOBS", help_heading = APP)]
    pub ignore_watch: Vec<String>,
    /// Wait before the restart: seconds, or milliseconds as `500ms`
    #[arg(long, value_name = "DELAY", help_heading = APP)]
    pub watch_delay: Option<String>,
    /// With --watch: only files with these extensions (comma-separated)
    #[arg(long, value_name = "EXTENSIONS", help_heading = APP)]
    pub ext: Option<String>,

    /// Planned restarts (cron pattern, 0 for none)
    #[arg(short = 'c', long = "cron-restart", alias = "cron", value_name = "PATTERN", help_heading = APP)]
    pub cron_restart: Option<String>,
    /// Restart above this much memory: bytes, or 100K, 100M, 1G
    #[arg(long, value_name = "MEMORY", help_heading = APP)]
    pub max_memory_restart: Option<String>,
    /// Delay before each restart (ms)
    #[arg(long, value_name = "MS", help_heading = APP)]
    pub restart_delay: Option<String>,
    /// First delay before a restart (ms), growing by half
    #[arg(long, value_name = "MS", help_heading = APP)]
    pub exp_backoff_restart_delay: Option<String>,
    /// Unstable restarts until the app counts as errored
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "", help_heading = APP)]
    pub max_restarts: Option<String>,
    /// Exit codes after which it is not restarted (comma-separated)
    #[arg(long, value_name = "CODES", help_heading = APP)]
    pub stop_exit_codes: Option<String>,
    /// From the stop signal to SIGKILL (ms)
    #[arg(short, long, value_name = "MS", help_heading = APP)]
    pub kill_timeout: Option<String>,
    /// How long it may take to get ready (ms)
    #[arg(long, value_name = "MS", help_heading = APP)]
    pub listen_timeout: Option<String>,
    /// Ready only when it sends `ready`
    #[arg(long, help_heading = APP)]
    pub wait_ready: bool,
    /// Stop it by the message `shutdown`
    #[arg(long, help_heading = APP)]
    pub shutdown_with_message: bool,
    /// Do not restart it when it ends
    #[arg(long, help_heading = APP)]
    pub no_autorestart: bool,
    /// Add it without starting it
    #[arg(long, help_heading = APP)]
    pub no_autostart: bool,
    /// Signal the main process alone
    #[arg(long, help_heading = APP)]
    pub no_treekill: bool,
    /// Use source maps in stack traces
    #[arg(long, help_heading = APP)]
    pub source_map_support: bool,
    /// Do not use source maps in stack traces
    #[arg(long, help_heading = APP)]
    pub disable_source_map_support: bool,

    /// Run the daemon within this command and show the logs
    #[arg(long, help_heading = DAEMON)]
    pub no_daemon: bool,

    /// Home folder of the user for `startup`
    #[arg(long, value_name = "DIR", hide = true)]
    pub hp: Option<PathBuf>,
    /// Name of the unit for `startup`
    #[arg(long, value_name = "NAME", hide = true)]
    pub service_name: Option<String>,
    /// Start after the network is up, for `startup`
    #[arg(long, hide = true)]
    pub wait_ip: bool,

    /// No effect: nothing reads the app's git repository
    #[arg(long, hide = true)]
    pub no_vizion: bool,
    /// No effect: no metrics client is loaded
    #[arg(long, hide = true)]
    pub no_pmx: bool,
    /// No effect: no metrics client is loaded
    #[arg(long, hide = true)]
    pub no_automation: bool,
    /// No effect: no tracing client is loaded
    #[arg(long, hide = true)]
    pub trace: bool,
    /// No effect: no tracing client is loaded
    #[arg(long, hide = true)]
    pub disable_trace: bool,
    /// No effect: no metrics client is loaded
    #[arg(long, hide = true)]
    pub v8: bool,
    /// No effect: no metrics client is loaded
    #[arg(long, hide = true)]
    pub event_loop_inspector: bool,
    /// No effect: no metrics client is loaded
    #[arg(long, hide = true)]
    pub deep_monitoring: bool,
}

impl Options {
    /// How many processes are acted on at a time, if that was said: typed, or by PM2's variable.
    pub fn at_a_time(&self) -> Option<u32> {
        self.parallel.or_else(|| std::env::var("PM2_CONCURRENT_ACTIONS").ok()?.parse().ok())
    }

    /// The options of an app, for `config` to read.
    #[must_use]
    pub fn overrides(&self) -> CliOverrides {
        let options = self.clone();
        let off = [("vizion", self.no_vizion), ("pmx", self.no_pmx), ("automation", self.no_automation)];
        CliOverrides {
            switched_off: off.into_iter().filter(|(_, off)| *off).map(|(key, _)| key).collect(),
            name: options.name,
            namespace: options.namespace,
            instances: options.instances,
            cwd: options.cwd,
            interpreter: options.interpreter,
            node_args: options.node_args,
            execute_command: options.execute_command,
            env_name: options.env,
            update_env: options.update_env,
            filter_env: options.filter_env,
            uid: options.uid.or(options.user.filter(|user| !user.is_empty())),
            gid: options.gid,
            pid: options.pid,
            output: options.output,
            error: options.error,
            log: options.log,
            log_type: options.log_type,
            log_date_format: options.log_date_format,
            time: options.time,
            disable_logs: options.disable_logs,
            merge_logs: options.merge_logs,
            watch: options.watch,
            ignore_watch: options.ignore_watch,
            watch_delay: options.watch_delay,
            ext: options.ext,
            cron_restart: options.cron_restart,
            max_memory_restart: options.max_memory_restart,
            restart_delay: options.restart_delay,
            exp_backoff_restart_delay: options.exp_backoff_restart_delay,
            max_restarts: options.max_restarts,
            stop_exit_codes: options.stop_exit_codes,
            kill_timeout: options.kill_timeout,
            listen_timeout: options.listen_timeout,
            wait_ready: options.wait_ready,
            shutdown_with_message: options.shutdown_with_message,
            no_autorestart: options.no_autorestart,
            no_autostart: options.no_autostart,
            no_treekill: options.no_treekill,
            source_map_support: options.source_map_support,
            disable_source_map_support: options.disable_source_map_support,
            more: std::collections::BTreeMap::new(),
        }
    }
}
