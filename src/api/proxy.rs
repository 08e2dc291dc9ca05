//! What a client calls: one proxy for each interface. They ask for nothing by themselves: no properties are cached and
//! nothing is introspected, so that a call costs one message there and one back.

use std::collections::BTreeMap;

use zbus::{OwnedFd, OwnedObjectPath, proxy};

use super::Error;
use super::options::{LogsDict, StartDict, UpdateDict};

/// `org.pm2rs1.Manager`.
#[proxy(interface = "org.pm2rs1.Manager", default_service = "org.pm2rs1", default_path = "/org/pm2rs1")]
pub trait Manager {
    /// Starts an app: a JSON object with the keys of `core::AppSpec`. Answers with the job.
    #[zbus(allow_interactive_auth)]
    fn start_app(&self, spec: &str, options: &StartDict) -> Result<OwnedObjectPath, Error>;
    /// Stops and starts again, or starts what is stopped. Answers with the job.
    #[zbus(allow_interactive_auth)]
    fn restart(&self, targets: &[&str], options: &UpdateDict) -> Result<OwnedObjectPath, Error>;
    /// Replaces workers one by one, the old ones serving until the new ones are ready. Answers with the job.
    #[zbus(allow_interactive_auth)]
    fn reload(&self, targets: &[&str], options: &UpdateDict) -> Result<OwnedObjectPath, Error>;
    /// Ends workers, keeps the rows. Answers with the job.
    #[zbus(allow_interactive_auth)]
    fn stop(&self, targets: &[&str]) -> Result<OwnedObjectPath, Error>;
    /// Ends workers and forgets the rows. Answers with the job.
    #[zbus(allow_interactive_auth)]
    fn delete(&self, targets: &[&str]) -> Result<OwnedObjectPath, Error>;
    /// Sets an app's count of processes: `4`, `+2`, `-1`. Answers with the job.
    #[zbus(allow_interactive_auth)]
    fn scale(&self, app: &str, count: &str) -> Result<OwnedObjectPath, Error>;
    /// Sets counters to 0.
    #[zbus(allow_interactive_auth)]
    fn reset(&self, targets: &[&str]) -> Result<(), Error>;
    /// Sends a signal, by name or number, to workers.
    #[zbus(allow_interactive_auth)]
    fn send_signal(&self, targets: &[&str], signal: &str) -> Result<(), Error>;
    /// Writes a line to a process's standard input.
    #[zbus(allow_interactive_auth)]
    fn send_line(&self, process: u32, line: &str) -> Result<(), Error>;
    /// Sends JSON to a process, where it arrives as `process.on('message')`.
    #[zbus(allow_interactive_auth)]
    fn send_message(&self, process: u32, json: &str) -> Result<(), Error>;
    /// Calls an action that processes announced; answers with process and reply (JSON) of each.
    #[zbus(allow_interactive_auth)]
    fn trigger(&self, targets: &[&str], action: &str, parameters: &str) -> Result<Vec<(u32, String)>, Error>;
    /// The process ids that targets stand for.
    fn resolve(&self, targets: &[&str]) -> Result<Vec<u32>, Error>;
    /// PM2's jlist: a JSON array of what the caller may see.
    fn list_processes(&self) -> Result<String, Error>;
    /// A process's environment.
    #[zbus(allow_interactive_auth)]
    fn get_environment(&self, process: u32) -> Result<BTreeMap<String, String>, Error>;
    /// The spec of a process's app, as JSON.
    #[zbus(allow_interactive_auth)]
    fn get_spec(&self, process: u32) -> Result<String, Error>;
    /// The read end of a pipe with output as JSON lines. No targets stand for all of the caller's.
    #[zbus(allow_interactive_auth)]
    fn open_logs(&self, targets: &[&str], options: &LogsDict) -> Result<OwnedFd, Error>;
    /// Empties log files.
    #[zbus(allow_interactive_auth)]
    fn flush_logs(&self, targets: &[&str]) -> Result<(), Error>;
    /// Opens log files again, for those who rotate them by other means.
    fn reopen_logs(&self) -> Result<(), Error>;
    /// Saves the list of apps; answers with the file's path.
    fn save(&self, force: bool) -> Result<String, Error>;
    /// Forgets the saved list.
    fn clear_saved(&self) -> Result<(), Error>;
    /// Starts what was saved. Answers with the job.
    fn resurrect(&self) -> Result<OwnedObjectPath, Error>;
    /// Ends everything, then the daemon. Answers with the job.
    #[zbus(allow_interactive_auth)]
    fn kill(&self) -> Result<OwnedObjectPath, Error>;
    /// Executes the daemon's program anew in place; apps go on.
    #[zbus(allow_interactive_auth)]
    fn reexecute(&self) -> Result<(), Error>;
    /// A text for bug reports.
    #[zbus(allow_interactive_auth)]
    fn report(&self) -> Result<String, Error>;
    /// What the machine is doing, as JSON.
    fn get_host_metrics(&self) -> Result<String, Error>;
    /// `pong`.
    fn ping(&self) -> Result<String, Error>;

    /// The daemon's version.
    #[zbus(property(emits_changed_signal = "false"))]
    fn version(&self) -> Result<String, Error>;
    /// `system`, `user` or `private`.
    #[zbus(property(emits_changed_signal = "false"))]
    fn mode(&self) -> Result<String, Error>;
    /// The daemon's process id.
    #[zbus(property(emits_changed_signal = "false"))]
    fn pid(&self) -> Result<u32, Error>;
    /// Where the daemon keeps its files.
    #[zbus(property(emits_changed_signal = "false"))]
    fn home(&self) -> Result<String, Error>;
    /// Count of apps.
    #[zbus(property(emits_changed_signal = "false"))]
    fn apps(&self) -> Result<u32, Error>;
    /// Count of process rows.
    #[zbus(property(emits_changed_signal = "false"))]
    fn processes(&self) -> Result<u32, Error>;
    /// Count of rows that are online.
    #[zbus(property(emits_changed_signal = "false"))]
    fn online(&self) -> Result<u32, Error>;

    /// PM2's event of a process: `start`, `online`, `exit`, ... `at` in milliseconds since the epoch.
    #[zbus(signal)]
    fn process_event(&self, process: u32, name: &str, event: &str, manually: bool, at: u64) -> zbus::Result<()>;
    /// A job is there.
    #[zbus(signal)]
    fn job_new(&self, job: zbus::ObjectPath<'_>) -> zbus::Result<()>;
    /// A job ended: `done`, `failed` or `cancelled`. Its object stays a while.
    #[zbus(signal)]
    fn job_removed(&self, job: zbus::ObjectPath<'_>, result: &str) -> zbus::Result<()>;
}

/// `org.pm2rs1.App`.
#[proxy(interface = "org.pm2rs1.App", default_service = "org.pm2rs1")]
pub trait App {
    /// As `Manager.Stop` for this app.
    #[zbus(allow_interactive_auth)]
    fn stop(&self) -> Result<OwnedObjectPath, Error>;
    /// As `Manager.Restart` for this app.
    #[zbus(allow_interactive_auth)]
    fn restart(&self) -> Result<OwnedObjectPath, Error>;
    /// As `Manager.Reload` for this app.
    #[zbus(allow_interactive_auth)]
    fn reload(&self) -> Result<OwnedObjectPath, Error>;
    /// As `Manager.Delete` for this app.
    #[zbus(allow_interactive_auth)]
    fn delete(&self) -> Result<OwnedObjectPath, Error>;
    /// As `Manager.Scale` for this app.
    #[zbus(allow_interactive_auth)]
    fn scale(&self, count: &str) -> Result<OwnedObjectPath, Error>;

    /// Its name.
    #[zbus(property(emits_changed_signal = "false"))]
    fn name(&self) -> Result<String, Error>;
    /// PM2's status of its processes rolled into one.
    #[zbus(property(emits_changed_signal = "false"))]
    fn status(&self) -> Result<String, Error>;
    /// Its process rows.
    #[zbus(property(emits_changed_signal = "false"))]
    fn processes(&self) -> Result<Vec<OwnedObjectPath>, Error>;
}

/// `org.pm2rs1.Process`.
#[proxy(interface = "org.pm2rs1.Process", default_service = "org.pm2rs1")]
pub trait Process {
    /// As `Manager.Stop` for this row.
    #[zbus(allow_interactive_auth)]
    fn stop(&self) -> Result<OwnedObjectPath, Error>;
    /// As `Manager.Restart` for this row.
    #[zbus(allow_interactive_auth)]
    fn restart(&self) -> Result<OwnedObjectPath, Error>;
    /// As `Manager.Reload` for this row.
    #[zbus(allow_interactive_auth)]
    fn reload(&self) -> Result<OwnedObjectPath, Error>;
    /// As `Manager.Delete` for this row.
    #[zbus(allow_interactive_auth)]
    fn delete(&self) -> Result<OwnedObjectPath, Error>;
    /// As `Manager.SendSignal` for this row.
    #[zbus(allow_interactive_auth)]
    fn send_signal(&self, signal: &str) -> Result<(), Error>;
    /// As `Manager.GetEnvironment` for this row.
    #[zbus(allow_interactive_auth)]
    fn get_environment(&self) -> Result<BTreeMap<String, String>, Error>;

    /// PM2's word for its state.
    #[zbus(property(emits_changed_signal = "false"))]
    fn status(&self) -> Result<String, Error>;
    /// pm2rs's word for its state.
    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> Result<String, Error>;
    /// Process id of its worker, 0 for none.
    #[zbus(property(emits_changed_signal = "false"))]
    fn pid(&self) -> Result<u32, Error>;
    /// Why it does not run, or what is amiss.
    #[zbus(property(emits_changed_signal = "false"))]
    fn reason(&self) -> Result<String, Error>;
}

/// `org.pm2rs1.Job`.
#[proxy(interface = "org.pm2rs1.Job", default_service = "org.pm2rs1")]
pub trait Job {
    /// Returns once the job has ended: state, message, warnings.
    fn wait(&self) -> Result<(String, String, Vec<String>), Error>;
    /// What it has not begun it does not begin.
    #[zbus(allow_interactive_auth)]
    fn cancel(&self) -> Result<(), Error>;

    /// `running`, `done`, `failed` or `cancelled`.
    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> Result<String, Error>;
    /// Steps done.
    #[zbus(property(emits_changed_signal = "false"))]
    fn done(&self) -> Result<u32, Error>;
    /// Steps in all.
    #[zbus(property(emits_changed_signal = "false"))]
    fn total(&self) -> Result<u32, Error>;
    /// Why it failed; empty otherwise.
    #[zbus(property(emits_changed_signal = "false"))]
    fn message(&self) -> Result<String, Error>;
}
