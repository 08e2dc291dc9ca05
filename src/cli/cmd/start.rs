//! `start`: scripts, configuration files, and what is stopped.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use super::control::{self, Verb};
use super::targets::Selection;
use super::{file, logs};
use crate::api::{self, Client, StartDict};
use crate::cli::args::StartArgs;
use crate::cli::exit::Failure;
use crate::cli::render::row::Row;
use crate::cli::session::Session;
use crate::config::{self, Resolved};
use crate::core::{AppSpec, ExecMode};

/// The file that is started when nothing is named.
const DEFAULT_FILE: &str = "ecosystem.config.js";

/// `start`: one target after the other, then the list once.
///
/// # Errors
/// When a target cannot be started; those after it are not tried then.
pub async fn start(session: &Session, args: &StartArgs) -> Result<(), Failure> {
    let default = [DEFAULT_FILE.to_owned()];
    let targets = if args.targets.is_empty() { default.as_slice() } else { &args.targets };
    let mut started = Vec::new();
    let mut client = None;
    for target in targets {
        if target == "-" || config::file_kind(target).is_some() {
            started.extend(file::bring_up(session, Verb::Restart, target, &mut client).await?);
        } else {
            started.push(start_one(session, target, &mut client).await?);
        }
    }
    let Some(client) = client else { return Ok(()) };
    if !args.runtime {
        session.show_list(&client).await?;
    }
    if session.options.attach_logs && !session.options.no_daemon {
        return logs::follow(session, &client, &started).await;
    }
    Ok(())
}

/// Starts a script, or what of this name exists already; answers with the target that stands for it.
async fn start_one(session: &Session, target: &str, client: &mut Option<Client>) -> Result<String, Failure> {
    if let Some(plan) = &session.options.cron_restart {
        control::say_plan(session, plan);
    }
    // A script that cannot be run is found out before a daemon is started for it.
    let resolved = (!may_exist(session, target)).then(|| resolve(session, target)).transpose()?;
    let daemon = session.daemon().await?;
    let rows = session.rows(&daemon).await?;
    let resolved = match resolved {
        Some(resolved) => resolved,
        None => match existing(session, &daemon, target).await? {
            Some(selection) => {
                control::apply(session, &daemon, &rows, Verb::Restart, &selection, None).await?;
                session.console.info("Process successfully started");
                *client = Some(daemon);
                return Ok(selection.target);
            }
            None => resolve(session, target)?,
        },
    };
    for warning in &resolved.warnings {
        session.console.warn(&warning.0);
    }
    let spec = &resolved.spec;
    if session.options.write {
        write_resolved(session, spec)?;
    }
    if !session.options.force && restart_stopped(session, &daemon, spec).await? {
        *client = Some(daemon);
        return Ok(spec.name.clone());
    }
    say_new_folders(session, spec);
    session.console.info(starting(spec, session.caller().cpus));
    let force = session.options.force;
    launch(session, &daemon, spec, force).await?;
    session.console.info("Done.");
    *client = Some(daemon);
    Ok(spec.name.clone())
}

/// PM2 takes a word without folder and extension for something that exists, before it looks for a script. Not one that
/// comes with another name for the new app, but a number is an id, whose app gets that name.
fn may_exist(session: &Session, target: &str) -> bool {
    let other_name = session.options.name.as_deref().is_some_and(|name| name != target);
    let number = target.parse::<f64>().is_ok();
    !target.contains('/') && (number || (Path::new(target).extension().is_none() && !other_name))
}

async fn existing(session: &Session, client: &Client, target: &str) -> Result<Option<Selection>, Failure> {
    match session.resolve(client, &[target]).await {
        Ok(ids) if ids.is_empty() => Ok(None),
        Ok(ids) => Ok(Some(Selection { typed: target.to_owned(), target: target.to_owned(), ids })),
        Err(api::Error::NoSuchTarget(_)) if target.parse::<u32>().is_err() => Ok(None),
        Err(api::Error::NoSuchTarget(id)) => Err(control::unknown_id(session, Verb::Restart, &id)),
        Err(api::Error::NoProcess) if resolve(session, target).is_ok() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn resolve(session: &Session, target: &str) -> Result<Resolved, Failure> {
    let args = session.options.app_args.clone().unwrap_or_default();
    Ok(config::resolve_script(target, args, &session.options.overrides(), &session.caller())?)
}

/// The same script under the same name: an error while it runs, a restart of all of that name when none does, or when a
/// daemon that had to be started for this has taken it up again, as after a crash of the machine or its container.
async fn restart_stopped(session: &Session, client: &Client, spec: &AppSpec) -> Result<bool, Failure> {
    let rows = &session.own_rows(client).await?;
    let same = |row: &&Row| row.name == spec.name && Path::new(&row.script) == spec.script;
    let same: Vec<&Row> = rows.iter().filter(same).collect();
    if same.is_empty() {
        return Ok(false);
    }
    let runs = |row: &&Row| !matches!(row.status.as_str(), "stopped" | "stopping" | "errored");
    if !session.started_daemon.get() && same.iter().any(runs) {
        return Err(api::Error::AlreadyLaunched(spec.script.display().to_string()).into());
    }
    let named = rows.iter().filter(|row| row.name == spec.name);
    let ids = named.filter_map(|row| u32::try_from(row.id).ok()).collect();
    let selection = Selection { typed: spec.name.clone(), target: spec.name.clone(), ids };
    control::apply(session, client, rows, Verb::Restart, &selection, None).await?;
    session.console.info("Process successfully started");
    Ok(true)
}

/// PM2's lines about folders for an app's files that are not there yet; the daemon makes them.
pub fn say_new_folders(session: &Session, spec: &AppSpec) {
    let log = &spec.log;
    let files = [&log.log_file, &log.out_file, &log.error_file, &spec.pid_file];
    let caller = session.caller();
    let own = [caller.log_dir.as_path(), caller.pid_dir.as_path()];
    let folders = files.into_iter().filter_map(|file| file.as_deref()?.parent());
    let missing: BTreeSet<&Path> = folders.filter(|folder| !own.contains(folder) && !folder.exists()).collect();
    for folder in missing {
        session.console.warn_aside(format!("Folder does not exist: {}", folder.display()));
        session.console.info(format!("Creating folder: {}", folder.display()));
    }
}

/// PM2's line before a start.
pub fn starting(spec: &AppSpec, cpus: u32) -> String {
    let mode = match spec.exec_mode {
        ExecMode::Fork => "fork_mode",
        ExecMode::Cluster => "cluster_mode",
    };
    let count = spec.instances.on(cpus);
    let noun = if count == 1 { "instance" } else { "instances" };
    format!("Starting {} in {mode} ({count} {noun})", spec.script.display())
}

/// Has the daemon start an app and waits until it did.
///
/// # Errors
/// When the daemon refuses it or it does not come up.
pub async fn launch(session: &Session, client: &Client, spec: &AppSpec, force: bool) -> Result<(), Failure> {
    let json = to_json(spec)?;
    let daemon = session.serving(client).await?;
    let job = daemon.manager().start_app(&json, &StartDict { force }).await?;
    session.finish(client, &format!("start {}", spec.name), &job).await
}

/// A spec as the bus carries it.
///
/// # Errors
/// None that a resolved spec could cause.
pub fn to_json(spec: &AppSpec) -> Result<String, Failure> {
    serde_json::to_string(spec).map_err(|error| Failure::error(format!("cannot send the app `{}`: {error}", spec.name)))
}

/// `--write`: the resolved configuration as `./NAME-pm2.json`.
fn write_resolved(session: &Session, spec: &AppSpec) -> Result<(), Failure> {
    let path = session.caller().cwd.join(format!("{}-pm2.json", spec.name.replace('/', "-")));
    let cannot = |error: &dyn std::fmt::Display| Failure::error(format!("cannot write `{}`: {error}", path.display()));
    let document = serde_json::json!({ "apps": [config::to_entry(spec)] });
    let text = serde_json::to_string_pretty(&document).map_err(|error| cannot(&error))?;
    let mut file = std::fs::File::create(&path).map_err(|error| cannot(&error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(|error| cannot(&error))
}
