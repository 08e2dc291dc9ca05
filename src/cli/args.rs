//! The commands: their names, aliases, arguments and help. One definition for parsing, help, man page and completion.
//!
//! Must never do anything: what a command does is in `cmd/`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// A command and its own arguments.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Start scripts, configuration files, or what is stopped
    #[command(after_help = START_EXAMPLES)]
    Start(StartArgs),
    /// Stop processes; they stay in the list
    Stop(TargetArgs),
    /// Restart processes
    Restart(TargetArgs),
    /// Replace processes one after the other, without losing a request
    #[command(alias = "gracefulReload")]
    Reload(TargetArgs),
    /// Stop processes and forget them
    #[command(visible_alias = "del")]
    Delete(TargetArgs),
    /// Change the number of an app's processes
    Scale(ScaleArgs),
    /// Restart the apps of a file, start those that are missing
    #[command(name = "startOrRestart")]
    StartOrRestart(FileArgs),
    /// Reload the apps of a file, start those that are missing
    #[command(name = "startOrReload")]
    StartOrReload(FileArgs),
    /// Same as startOrReload
    #[command(name = "startOrGracefulReload")]
    StartOrGracefulReload(FileArgs),
    /// Make what runs equal to a file, with the least disturbance
    Apply(ApplyArgs),
    /// Check a configuration file
    Validate(FileArgs),

    /// Show the processes
    #[command(visible_aliases = ["ls", "l", "ps", "status"])]
    List,
    /// Print the processes as JSON
    Jlist,
    /// Print the processes as Node prints objects
    #[command(alias = "prettyList")]
    Prettylist,
    /// Show all about a process
    #[command(visible_aliases = ["desc", "info", "show"])]
    Describe(DescribeArgs),
    /// Print a process's environment
    Env(ProcessArg),
    /// Print the ids of an app's processes
    Id(NameArg),
    /// Print operating system process ids
    Pid(OptionalNameArg),

    /// Show logs and follow them
    #[command(visible_alias = "log")]
    Logs(LogsArgs),
    /// Empty log files
    Flush(OptionalTargetArg),
    /// Reopen all log files
    #[command(name = "reloadLogs")]
    ReloadLogs,

    /// Serve the static files of a folder
    #[command(visible_alias = "expose")]
    Serve(ServeArgs),

    /// Set the counters of processes to zero
    Reset(TargetArgs),
    /// Send a signal to processes
    #[command(name = "sendSignal")]
    SendSignal(SendSignalArgs),
    /// Write a line to a process's standard input
    Send(SendArgs),
    /// Connect the terminal with a process's input and output
    Attach(AttachArgs),
    /// Have processes perform an action that they offer
    Trigger(TriggerArgs),

    /// Save the list, to come back with resurrect
    #[command(visible_alias = "save")]
    Dump,
    /// Empty the saved list
    Cleardump,
    /// Start what was saved
    Resurrect,
    /// Stop everything and the daemon
    Kill,
    /// Ask whether the daemon answers
    Ping,
    /// Have the daemon run the present version, apps untouched
    #[command(visible_alias = "updatePM2")]
    Update,
    /// Print what a bug report needs
    Report,

    /// Take over what PM2 runs
    Migrate(MigrateArgs),
    /// Have apps come back at boot
    Startup(StartupArgs),
    /// Undo startup
    Unstartup(StartupArgs),
    /// Write a sample ecosystem.config.js
    #[command(visible_alias = "init")]
    Ecosystem(EcosystemArgs),

    /// Set a value
    Set(SetArgs),
    /// Set several values: "key value key value"
    Multiset(MultisetArgs),
    /// Print a value, or all of them
    Get(GetArgs),
    /// Print values, or set one
    #[command(visible_alias = "config")]
    Conf(ConfArgs),
    /// Remove a value, or all of them
    Unset(KeyArg),

    /// Print or install shell completion
    Completion(CompletionArgs),
    /// Show examples
    Examples,
    /// Run the daemon
    #[command(hide = true)]
    Daemon(DaemonArgs),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(ManArgs),
}

const START_EXAMPLES: &str = "\
Examples:
  pm2rs start app.js                     one process
  pm2rs start app.js -i max              one process per CPU, sharing the port
  pm2rs start app.js --name api -- -p 80 a name, and arguments for the app
  pm2rs start ecosystem.config.js        the apps of a file
  pm2rs start ecosystem.config.js --only api --env production
  pm2rs start api                        a stopped app
  pm2rs start \"npm run dev\"              a command line
  cat apps.json | pm2rs start -          a configuration from elsewhere";

/// Arguments of `start`.
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// Scripts, configuration files, names, ids, namespaces, `all`, or `-` for JSON on standard input
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// With `--no-daemon`: the lines alone, no list, and an end when nothing runs any more
    #[arg(long, hide = true)]
    pub runtime: bool,
    /// With `--no-daemon`: the lines alone
    #[arg(long, hide = true)]
    pub raw: bool,
    /// With `--no-daemon`: key=value pairs
    #[arg(long, hide = true)]
    pub format: bool,
    /// With `--runtime`: lines with their processes
    #[arg(long, hide = true)]
    pub formatted: bool,
    /// With `--runtime`: no end when nothing runs any more
    #[arg(long, hide = true)]
    pub no_auto_exit: bool,
}

/// Arguments of what acts on processes.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Names, ids, namespaces, /regex/, script paths, configuration files, `all`, or `-` for JSON on standard input
    #[arg(value_name = "id|name|namespace|all|json|stdin", required = true)]
    pub targets: Vec<String>,
}

/// Arguments of what takes one configuration file.
#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// Configuration file
    #[arg(value_name = "file")]
    pub file: String,
}

/// Arguments of `scale`.
#[derive(Debug, Clone, Args)]
pub struct ScaleArgs {
    /// Name or id of the app
    #[arg(value_name = "app_name")]
    pub app: String,
    /// The number wanted, or +N, or -N
    #[arg(value_name = "number")]
    pub number: String,
}

/// Arguments of `apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// Configuration file
    #[arg(value_name = "file")]
    pub file: String,
    /// Only print what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `describe`.
#[derive(Debug, Clone, Args)]
pub struct DescribeArgs {
    /// Name or id
    #[arg(value_name = "name|id")]
    pub target: String,
}

/// A process by its id.
#[derive(Debug, Clone, Args)]
pub struct ProcessArg {
    /// Id of the process
    #[arg(value_name = "id")]
    pub id: String,
}

/// An app by its name.
#[derive(Debug, Clone, Args)]
pub struct NameArg {
    /// Name of the app
    #[arg(value_name = "name")]
    pub app: String,
}

/// An app by its name, or all.
#[derive(Debug, Clone, Args)]
pub struct OptionalNameArg {
    /// Name of the app
    #[arg(value_name = "app_name")]
    pub app: Option<String>,
}

/// A target, or all.
#[derive(Debug, Clone, Args)]
pub struct OptionalTargetArg {
    /// Name or id
    #[arg(value_name = "api")]
    pub target: Option<String>,
}

/// Arguments of `logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Ids, names, namespaces, /regex/
    #[arg(value_name = "id|name|namespace")]
    pub targets: Vec<String>,
    /// key=value pairs
    #[arg(long)]
    pub format: bool,
    /// The lines alone
    #[arg(long)]
    pub raw: bool,
    /// Standard error only
    #[arg(long)]
    pub err: bool,
    /// Standard output only
    #[arg(long)]
    pub out: bool,
    /// Last lines shown of each file [default: 15, with --since all]
    #[arg(long, value_name = "N")]
    pub lines: Option<String>,
    /// Time before each line
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, default_missing_value = "YYYY-MM-DD-HH:mm:ss")]
    pub timestamp: Option<String>,
    /// Show what is there and end
    #[arg(long)]
    pub nostream: bool,
    /// Only what was written since then: `10:30`, `yesterday`, `2026-11-21 10:30`, `2h ago`
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Only what was written until then; shows what is there and ends
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Only lines in which this regular expression is found
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Highlight a word
    #[arg(long, value_name = "WORD", num_args = 0..=1, default_missing_value = "")]
    pub highlight: Option<String>,
}

/// Arguments of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The folder
    #[arg(value_name = "path", default_value = ".")]
    pub path: PathBuf,
    /// Port to listen on
    #[arg(value_name = "port")]
    pub port: Option<String>,
    /// Port to listen on
    #[arg(long = "port", value_name = "PORT")]
    pub port_option: Option<String>,
    /// Answer with the home page what is not there: the page has routes of its own
    #[arg(long)]
    pub spa: bool,
    /// List folders that have no index.html
    #[arg(long)]
    pub ftp: bool,
    /// User whom to ask for a password
    #[arg(long, value_name = "NAME")]
    pub basic_auth_username: Option<String>,
    /// The password
    #[arg(long, value_name = "PASSWORD")]
    pub basic_auth_password: Option<String>,
    /// No effect: there is no PM2 Plus agent
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", hide = true)]
    pub monitor: Option<String>,
}

/// Arguments of `sendSignal`.
#[derive(Debug, Clone, Args)]
pub struct SendSignalArgs {
    /// Name or number of the signal
    #[arg(value_name = "signal")]
    pub signal: String,
    /// Name or id
    #[arg(value_name = "pm2_id|name")]
    pub target: String,
}

/// Arguments of `send`.
#[derive(Debug, Clone, Args)]
pub struct SendArgs {
    /// Id of the process
    #[arg(value_name = "pm_id")]
    pub id: String,
    /// The line
    #[arg(value_name = "line")]
    pub line: String,
}

/// Arguments of `attach`.
#[derive(Debug, Clone, Args)]
pub struct AttachArgs {
    /// Id of the process
    #[arg(value_name = "pm_id")]
    pub id: String,
    /// Text before lines written by the process
    #[arg(value_name = "separator")]
    pub separator: Option<String>,
}

/// Arguments of `trigger`.
#[derive(Debug, Clone, Args)]
pub struct TriggerArgs {
    /// Id, name, namespace or `all`
    #[arg(value_name = "id|name|namespace|all")]
    pub target: String,
    /// Name of the action
    #[arg(value_name = "action_name")]
    pub action: String,
    /// Parameter for the action
    #[arg(value_name = "params")]
    pub params: Option<String>,
}

/// Arguments of `migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// PM2's home folder; PM2_HOME or ~/.pm2 by default
    #[arg(value_name = "folder")]
    pub folder: Option<PathBuf>,
    /// Only print what would be done, and what changes its meaning
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `startup` and `unstartup`.
#[derive(Debug, Clone, Args)]
pub struct StartupArgs {
    /// Only systemd is known
    #[arg(value_name = "platform")]
    pub platform: Option<String>,
}

/// Arguments of `ecosystem`.
#[derive(Debug, Clone, Args)]
pub struct EcosystemArgs {
    /// `simple` for the shortest sample
    #[arg(value_name = "mode")]
    pub mode: Option<String>,
}

/// Arguments of `set`.
#[derive(Debug, Clone, Args)]
pub struct SetArgs {
    /// `app:key`, or a key of pm2rs
    #[arg(value_name = "key")]
    pub key: Option<String>,
    /// Its value
    #[arg(value_name = "value")]
    pub value: Option<String>,
}

/// Arguments of `multiset`.
#[derive(Debug, Clone, Args)]
pub struct MultisetArgs {
    /// Keys and values in turn
    #[arg(value_name = "value")]
    pub pairs: String,
}

/// Arguments of `get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// Key
    #[arg(value_name = "key")]
    pub key: Option<String>,
}

/// Arguments of `conf`.
#[derive(Debug, Clone, Args)]
pub struct ConfArgs {
    /// Key
    #[arg(value_name = "key")]
    pub key: Option<String>,
    /// Its value
    #[arg(value_name = "value")]
    pub value: Option<String>,
}

/// Arguments of `unset`.
#[derive(Debug, Clone, Args)]
pub struct KeyArg {
    /// Key, or `all`
    #[arg(value_name = "key")]
    pub key: String,
}

/// Arguments of `completion`.
#[derive(Debug, Clone, Args)]
pub struct CompletionArgs {
    /// `bash`, `zsh` or `fish` for the script, `install`, `uninstall`; by default the script for your shell
    #[arg(value_name = "what")]
    pub what: Option<String>,
}

/// Arguments of `daemon`.
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    /// Detached from the terminal, readiness told on standard output
    #[arg(long, hide = true)]
    pub detached: bool,
    /// End what a dead daemon left behind, if its service is stopped; ExecStop= of pm2rs-leftovers.service
    #[arg(long, hide = true, conflicts_with = "detached")]
    pub end_leftovers: bool,
    /// Say by the exit status whether this program could take over the state that comes on standard input
    #[arg(long, hide = true, conflicts_with_all = ["detached", "end_leftovers"])]
    pub check_state: bool,
    /// The same of a keeper's state
    #[arg(long, hide = true, conflicts_with_all = ["detached", "end_leftovers", "check_state"])]
    pub check_keeper: bool,
}

/// Arguments of `man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Folder
    #[arg(value_name = "dir")]
    pub dir: PathBuf,
}
