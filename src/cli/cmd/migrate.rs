//! `migrate`: takes over what PM2 runs.
//!
//! PM2's daemon writes its list when it gets SIGTERM, stops its apps and exits with 0 (which its unit does not count as
//! a failure). So that is what it gets; then its list is started here, and its unit no longer starts it at boot. Nothing
//! of PM2's is removed: `pm2 resurrect` is the way back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::start;
use crate::cli::args::MigrateArgs;
use crate::cli::exit::Failure;
use crate::cli::pm2_daemon::Pm2Daemon;
use crate::cli::session::Session;
use crate::config::{self, dump};
use crate::core::{AppSpec, ExecMode, STATIC_SERVER};

/// Where PM2's `startup` puts its unit.
const UNITS: &str = "/etc/systemd/system";

/// `migrate [FOLDER] [--dry-run]`.
///
/// # Errors
/// Where there is nothing of PM2's, its daemon does not end, or an app does not start here.
pub async fn migrate(session: &Session, args: &MigrateArgs) -> Result<(), Failure> {
    let pm2 = Pm2::find(session, args)?;
    let (console, home) = (&session.console, pm2.home.display());
    match &pm2.daemon {
        Some(daemon) => console.info(format!("PM2 runs in {home} (process {})", daemon.pid())),
        None => console.info(format!("PM2 does not run in {home}; its saved list is taken")),
    }
    let mut apps = pm2.apps()?;
    say_what_changes(session, &pm2, &apps);
    if args.dry_run {
        if pm2.daemon.is_some() {
            console.info("PM2 writes its list anew when it is taken over; apps may differ from those it saved last");
        }
        return Ok(());
    }
    if let Some(daemon) = &pm2.daemon {
        console.info("Stopping PM2, which writes its list and stops its apps");
        daemon.end()?;
        apps = pm2.apps()?;
    }
    for unit in &pm2.units {
        disable(session, unit);
    }
    let client = session.daemon().await?;
    let mut failed = false;
    for app in &apps {
        match start::launch(session, &client, app, true).await {
            Ok(()) => console.info(format!("App [{}] taken over", app.name)),
            Err(failure) => {
                failure.tell(console);
                failed = true;
            }
        }
    }
    session.show_list(&client).await?;
    console.info("PM2's files are as they were; `pm2 resurrect` of PM2 would start its apps again");
    if failed { Err(Failure::Said) } else { Ok(()) }
}

/// What there is of PM2.
struct Pm2 {
    home: PathBuf,
    daemon: Option<Pm2Daemon>,
    /// Names of the units that start it at boot.
    units: Vec<String>,
    /// Modules it has, which are not taken over.
    modules: Vec<String>,
    /// Whose apps they are to be, where that is somebody else than who asks.
    user: Option<String>,
}

impl Pm2 {
    fn find(session: &Session, args: &MigrateArgs) -> Result<Pm2, Failure> {
        let caller = session.caller();
        let usual = || {
            let named = caller.env.get("PM2_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
            named.or_else(|| Some(std::env::home_dir()?.join(".pm2")))
        };
        let home = args.folder.as_ref().map(|folder| caller.cwd.join(folder)).or_else(usual);
        let home = home.ok_or_else(|| Failure::error("there is no home folder; say where PM2's is"))?;
        let daemon = Pm2Daemon::of(&home)?;
        if daemon.is_none() && !home.join("dump.pm2").exists() {
            let home = home.display();
            return Err(Failure::error(format!("there is nothing of PM2's in `{home}`: no daemon and no saved list")));
        }
        let modules = fs::read_dir(home.join("modules")).map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        });
        Ok(Pm2 { units: units_of(&home), user: owner(&home), modules: modules.unwrap_or_default(), daemon, home })
    }

    /// The apps of its saved list.
    fn apps(&self) -> Result<Vec<AppSpec>, Failure> {
        let saved = dump::load(&self.home.join("dump.pm2"))?.unwrap_or_default();
        let apps = dump::by_app(saved).into_iter().map(|app| AppSpec {
            uid: app.spec.uid.clone().or_else(|| self.user.clone()),
            // What was stopped there waits here to be started.
            autostart: app.spec.autostart && app.processes.iter().any(|(_, stopped)| !stopped),
            ..app.spec
        });
        Ok(apps.collect())
    }
}

/// The units that PM2's `startup` wrote for this home.
fn units_of(home: &Path) -> Vec<String> {
    let names_home = |text: &str| {
        text.lines().any(|line| {
            let value = line.trim().strip_prefix("Environment=").map(|value| value.trim_matches('"'));
            value.and_then(|value| value.strip_prefix("PM2_HOME=")).is_some_and(|value| Path::new(value) == home)
        })
    };
    let Ok(entries) = fs::read_dir(UNITS) else { return Vec::new() };
    let units = entries.flatten().filter(|entry| {
        entry.path().extension().is_some_and(|kind| kind == "service")
            && fs::read_to_string(entry.path()).is_ok_and(|text| names_home(&text))
    });
    units.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The owner of a folder, by name, where root looks at somebody else's.
fn owner(folder: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let uid = fs::metadata(folder).ok()?.uid();
    if uid == 0 || !nix::unistd::geteuid().is_root() {
        return None;
    }
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name)
}

fn disable(session: &Session, unit: &str) {
    let done = Command::new("systemctl").args(["disable", unit]).output();
    match done {
        Ok(output) if output.status.success() => {
            session.console.info(format!("{unit} no longer starts PM2 at boot; `pm2rs startup` starts these apps"));
        }
        _ => session.console.warn(format!(
            "cannot disable `{unit}`, which starts PM2 at boot: as root, run `systemctl disable {unit}`"
        )),
    }
}

/// Says of each app what it will find different.
fn say_what_changes(session: &Session, pm2: &Pm2, apps: &[AppSpec]) {
    let console = &session.console;
    for app in apps {
        let count = app.instances.on(session.caller().cpus);
        let mode = if app.exec_mode == ExecMode::Cluster { "cluster" } else { "fork" };
        let script = if app.script == Path::new(STATIC_SERVER) { Path::new("serve") } else { &app.script };
        console.say(format!("{}: {count} in {mode} mode, {}", app.name, script.display()));
        for change in changes(app) {
            console.say(format!("  {change}"));
        }
    }
    for unit in &pm2.units {
        console.say(format!("{unit}: will be disabled; it starts PM2 at boot"));
    }
    for module in &pm2.modules {
        let instead = match module.as_str() {
            "pm2-logrotate" => "log files are rotated without it (`log_rotate`)",
            "pm2-server-monit" | "pm2-auto-pull" => "use a tool of its own for that",
            _ => "modules are not run here; start it as an app if it is one",
        };
        console.say(format!("module {module}: stays behind; {instead}"));
    }
}

/// What of an app means something else here than in PM2.
fn changes(app: &AppSpec) -> Vec<String> {
    let mut changes = Vec::new();
    if app.script == Path::new(STATIC_SERVER) {
        changes.push("the server of static files is pm2rs's own, with the same settings".to_owned());
    } else if !app.script.exists() {
        changes.push("its script does not exist any more: it will not start".to_owned());
    }
    if app.exec_mode == ExecMode::Cluster {
        changes.push(format!("its workers run in the `{}` of its own PATH, not in PM2's Node", app.interpreter));
        changes.push("a reload keeps the old workers when the new ones fail, and exits with 1 then".to_owned());
    }
    if app.cron_restart.is_some() {
        changes.push("cron_restart: as in PM2, it starts the app also when it is stopped".to_owned());
    }
    if app.max_memory_restart.is_some() {
        changes.push("max_memory_restart: looked at every second or two, not every 30 s".to_owned());
    }
    if !app.autostart {
        changes.push("it is stopped there and will be stopped here".to_owned());
    }
    if app.uid.is_some() {
        changes.push("it gets all groups of its user, and that user's environment".to_owned());
    }
    if app.restart_delay == 0 && app.exp_backoff_restart_delay == 0 && app.autorestart {
        changes.push("crashes in a row are restarted with growing delays".to_owned());
    }
    let ignored = app
        .extra
        .keys()
        .filter(|key| config::find_key(key).is_some_and(|key| matches!(key.effect, config::Effect::Unsupported(_))));
    for key in ignored {
        changes.push(format!("{key}: has no effect here"));
    }
    changes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_changes_is_told() {
        let app = AppSpec {
            script: "/nowhere/app.js".into(),
            max_memory_restart: Some(1),
            autorestart: false,
            ..AppSpec::default()
        };
        let told = changes(&app);
        assert!(told[0].contains("does not exist"), "{told:?}");
        assert!(told[1].starts_with("max_memory_restart"), "{told:?}");
        assert_eq!(told.len(), 2, "{told:?}");
    }
}
