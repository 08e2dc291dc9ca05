//! The manual pages, made from the grammar, and the examples.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::exit::Failure;
use crate::cli::line::{Grammar, explained};
use crate::cli::session::VERSION;

/// The page of all commands.
const PROGRAM: &str = "pm2rs";

/// What `examples` prints.
pub const EXAMPLES: &str = "\
Start
  pm2rs start app.js                        a script
  pm2rs start app.js -i max --name api      one process per CPU, sharing the port
  pm2rs start app.js -- --port 8080         arguments for the app
  pm2rs start ecosystem.config.js           the apps of a file
  pm2rs start \"npm run dev\"                 a command line
  pm2rs start script.py --interpreter python3

Look
  pm2rs list                                the processes
  pm2rs describe api                        all about one
  pm2rs logs api --lines 100                its output
  pm2rs jlist                               JSON for programs

Change
  pm2rs reload api                          replace it without losing a request
  pm2rs restart api --update-env            restart it with the present environment
  pm2rs scale api +2                        two processes more
  pm2rs stop all                            stop everything
  pm2rs delete api                          stop and forget

Keep
  pm2rs save                                remember what runs
  pm2rs resurrect                           start what was remembered
  pm2rs startup                             start it at boot
";

/// What the page of `pm2rs` ends with, in roff.
const FOR_PM2_USERS: &str = r#".SH "FOR USERS OF PM2"
Called through a link named \fBpm2\fR, this program keeps its files where PM2 does: in \fBPM2_HOME\fR, or ~/.pm2.
Through one named \fBpm2-runtime\fR it is a container's command: it starts what it is given, shows what that prints
and ends with it.
Absolute paths in the variables \fBPM2_LOG_FILE_PATH\fR, \fBPM2_PID_FILE_PATH\fR, \fBPM2_DUMP_FILE_PATH\fR,
\fBPM2_DEFAULT_LOG_PATH\fR, \fBPM2_DEFAULT_PID_PATH\fR and \fBPM2_MODULE_CONF_FILE\fR move single files and folders
of a private daemon out of it; the daemon reads them when it starts.
.PP
Of PM2's other variables these have an effect: \fBPM2_SILENT\fR, \fBPM2_CONCURRENT_ACTIONS\fR (as \fB\-\-parallel\fR),
\fBFORCE\fR (as \fB\-\-force\fR of save), \fBPM2_LOG_DATE_FORMAT\fR (in a private daemon's log), and for apps without a key of
that meaning \fBPM2_KILL_TIMEOUT\fR, \fBPM2_GRACEFUL_LISTEN_TIMEOUT\fR, \fBPM2_KILL_SIGNAL\fR, \fBPM2_KILL_USE_MESSAGE\fR and
\fBPM2_PROCESS_INSTANCE_VAR\fR. The rest have none: nothing is polled at a pace that \fBPM2_WORKER_INTERVAL\fR,
\fBPM2_KILL_RETRY_TIME\fR or \fBEXP_BACKOFF_RESET_TIMER\fR could set, there is no lock for \fBPM2_RELOAD_LOCK_TIMEOUT\fR, no Node in
the daemon for \fBPM2_NODE_OPTIONS\fR and \fBPM2_OPTIMIZE_MEMORY\fR, no agent for \fBPM2_DEEP_MONITORING\fR (load a tracing library
by node_args), no look at Git for \fBPM2_ENABLE_GIT_PARSING\fR, and a socket is its owner's alone, whatever
\fBPM2_SOCKET_USER\fR and \fBPM2_SOCKET_GROUP\fR say.
.PP
A program that loads PM2's npm library, as in require('pm2'), does not find the daemon of pm2rs: the library starts a
daemon of PM2 in the same home and speaks with that one, whose list is empty. The apps of pm2rs are not touched by it, and
pm2.pid is put right at the next change. What such a program starts is listed and stopped with PM2 alone; when it saves,
its list replaces dump.pm2, and the one before is in dump.pm2.bak. Use \fBpm2rs jlist\fR or the bus instead.
"#;

/// Writes `pm2rs.1` and a page for each command into a folder.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path) -> Result<(), Failure> {
    let cannot =
        |path: &Path, error: std::io::Error| Failure::error(format!("cannot write `{}`: {error}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    let grammar = Grammar::command().version(VERSION);
    let mut pages = vec![(PROGRAM.to_owned(), grammar.clone())];
    for command in grammar.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("pm2rs-{}", command.get_name());
        let page = explained(command.clone()).display_name(name.clone()).version(VERSION);
        pages.push((name, page));
    }
    for (name, page) in pages {
        let path = folder.join(format!("{name}.1"));
        let mut text = Vec::new();
        Man::new(page)
            .title(name.as_str())
            .source(concat!("pm2rs ", env!("CARGO_PKG_VERSION")))
            .render(&mut text)
            .map(|()| text.extend_from_slice(if name == PROGRAM { FOR_PM2_USERS.as_bytes() } else { b"" }))
            .and_then(|()| std::fs::write(&path, &text))
            .map_err(|error| cannot(&path, error))?;
    }
    Ok(())
}
