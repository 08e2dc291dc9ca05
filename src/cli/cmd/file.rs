//! Commands that take a configuration file: starting it, making what runs equal to it, checking it.

use std::collections::BTreeSet;
use std::path::Path;

use zbus::OwnedObjectPath;

use super::control::{self, Verb};
use super::start::{say_new_folders, to_json};
use super::targets::{self, Selection};
use crate::api::{Client, StartDict};
use crate::cli::args::ApplyArgs;
use crate::cli::exit::Failure;
use crate::cli::render::row::{Row, scalar};
use crate::cli::session::Session;
use crate::config::{self, Change, Ecosystem, Needs};
use crate::core::{AppSpec, STATIC_SERVER};

/// Apps that are started or restarted at a time, as in PM2.
const CONCURRENT: usize = 2;

/// startOrRestart and startOrReload: what runs gets the file's configuration, what is missing is started.
///
/// # Errors
/// When the file is wrong (nothing is done then) or an app does not come up.
pub async fn start_or(session: &Session, verb: Verb, file: &str) -> Result<(), Failure> {
    let mut client = None;
    bring_up(session, verb, file, &mut client).await?;
    match client {
        Some(client) => session.show_list(&client).await,
        None => Ok(()),
    }
}

/// restart and reload of a file: as [`start_or`]; after a reload PM2 shows no list.
///
/// # Errors
/// As [`start_or`].
pub async fn renew_all(session: &Session, verb: Verb, file: &str) -> Result<(), Failure> {
    match verb {
        Verb::Reload => bring_up(session, verb, file, &mut None).await.map(drop),
        _ => start_or(session, verb, file).await,
    }
}

/// As [`start_or`], without the list; answers with the names of the apps.
///
/// # Errors
/// As [`start_or`].
pub async fn bring_up(
    session: &Session,
    verb: Verb,
    file: &str,
    client: &mut Option<Client>,
) -> Result<Vec<String>, Failure> {
    let Apps { specs, absent } = apps(session, file)?;
    if specs.is_empty() && !absent.is_empty() {
        say_missing(session, absent.iter().map(|(name, _)| name.as_str()));
        return Err(tell(session, &absent));
    }
    let mut failed = !absent.is_empty();
    let daemon = session.daemon().await?;
    let rows = session.own_rows(&daemon).await?;
    let known: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let (present, missing): (Vec<&AppSpec>, Vec<&AppSpec>) =
        specs.iter().partition(|spec| known.contains(spec.name.as_str()));
    for spec in present {
        if let Err(failure) = renew(session, &daemon, &rows, verb, spec).await {
            failure.tell(&session.console);
            failed = true;
        }
    }
    let unknown = absent.iter().map(|(name, _)| name.as_str()).filter(|name| !known.contains(name));
    say_missing(session, missing.iter().map(|spec| spec.name.as_str()).chain(unknown));
    failed |= !start_all(session, &daemon, &missing).await;
    if failed {
        tell(session, &absent);
        session.show_list(&daemon).await?;
        return Err(Failure::Said);
    }
    *client = Some(daemon);
    Ok(specs.into_iter().map(|spec| spec.name).collect())
}

/// PM2's line before it starts what of a file is not there.
fn say_missing<'a>(session: &Session, names: impl Iterator<Item = &'a str>) {
    let names: Vec<&str> = names.collect();
    if !names.is_empty() {
        session.console.warn(format!("Applications {} not running, starting...", names.join(", ")));
    }
}

/// Says why apps cannot run here.
fn tell(session: &Session, absent: &[(String, Failure)]) -> Failure {
    for (_, failure) in absent {
        failure.tell(&session.console);
    }
    Failure::Said
}

/// Starts apps, a few at a time; their ids follow the file's order. Whether all came up; what did not has been said.
async fn start_all(session: &Session, client: &Client, specs: &[&AppSpec]) -> bool {
    let at_a_time = session.options.at_a_time().and_then(|n| usize::try_from(n).ok()).unwrap_or(CONCURRENT).max(1);
    let mut well = true;
    for some in specs.chunks(at_a_time) {
        let mut jobs = Vec::with_capacity(some.len());
        for spec in some {
            say_new_folders(session, spec);
            if spec.wait_ready && spec.script != Path::new(STATIC_SERVER) {
                let name = &spec.name;
                session.console.warn(format!("App {name} has option 'wait_ready' set, waiting for app to be ready..."));
            }
            let asked = match to_json(spec) {
                // A file may well run one script under several names, or twice.
                Ok(json) => ask_to_start(session, client, &json).await,
                Err(failure) => Err(failure),
            };
            jobs.push((spec, asked));
        }
        for (spec, asked) in jobs {
            let finished = match asked {
                Ok(job) => session.finish(client, &format!("start {}", spec.name), &job).await,
                Err(failure) => Err(failure),
            };
            match finished {
                Ok(()) => {
                    let count = spec.instances.on(session.caller().cpus);
                    session.console.info(format!("App [{}] launched ({count} instances)", spec.name));
                }
                Err(failure) => {
                    failure.tell(&session.console);
                    well = false;
                }
            }
        }
    }
    well
}

async fn ask_to_start(session: &Session, client: &Client, json: &str) -> Result<OwnedObjectPath, Failure> {
    let daemon = session.serving(client).await?;
    Ok(daemon.manager().start_app(json, &StartDict { force: true }).await?)
}

/// Gives an app that exists the file's configuration, its number of processes included.
async fn renew(session: &Session, client: &Client, rows: &[Row], verb: Verb, spec: &AppSpec) -> Result<(), Failure> {
    let of_app = rows.iter().filter(|row| row.name == spec.name);
    let ids: Vec<u32> = of_app.filter_map(|row| u32::try_from(row.id).ok()).collect();
    let selection = Selection { typed: spec.name.clone(), target: spec.name.clone(), ids };
    control::apply(session, client, rows, verb, &selection, Some(to_json(spec)?)).await?;
    resize(session, client, spec).await
}

/// Gives an app the number of processes that the file wants.
async fn resize(session: &Session, client: &Client, spec: &AppSpec) -> Result<(), Failure> {
    let wanted = spec.instances.on(session.caller().cpus);
    let present = session.own_rows(client).await?.iter().filter(|row| row.name == spec.name).count();
    if u32::try_from(present).is_ok_and(|present| present != wanted) {
        let daemon = session.serving(client).await?;
        let job = daemon.manager().scale(&spec.name, &wanted.to_string()).await?;
        session.finish(client, &format!("scale {}", spec.name), &job).await?;
    }
    Ok(())
}

/// stop and delete of a file: the apps of these names, as far as they exist.
///
/// # Errors
/// When the file is wrong or the daemon could not do it.
pub async fn end(session: &Session, verb: Verb, file: &str) -> Result<(), Failure> {
    let ecosystem = load(session, file)?;
    let client = session.daemon().await?;
    let rows = session.own_rows(&client).await?;
    for entry in ecosystem.only(session.options.only.as_deref()) {
        let name = entry.name();
        if rows.iter().any(|row| row.name == name) {
            let selection = targets::select(session, &client, &rows, &name).await?;
            control::end(session, &client, &rows, verb, &selection).await?;
        }
    }
    session.show_list(&client).await
}

/// `validate FILE`: says what is in it, or what is wrong with it.
///
/// # Errors
/// When the file is wrong.
pub fn validate(session: &Session, file: &str) -> Result<(), Failure> {
    let specs = specs(session, file)?;
    if session.options.json {
        let text = serde_json::to_string(&specs).map_err(|error| Failure::error(error.to_string()))?;
        session.console.print(&format!("{text}\n"));
        return Ok(());
    }
    for spec in &specs {
        let count = spec.instances.on(session.caller().cpus);
        session.console.info(format!("App [{}] is valid ({count} instances of {})", spec.name, spec.script.display()));
    }
    Ok(())
}

/// `apply FILE`: makes what runs equal to the file, by the least that is enough; `--dry-run` only says what that is.
///
/// # Errors
/// When the file is wrong or an app does not come up.
pub async fn apply(session: &Session, args: &ApplyArgs) -> Result<(), Failure> {
    let specs = specs(session, &args.file)?;
    let client = session.daemon().await?;
    let rows = session.own_rows(&client).await?;
    let mut missing = Vec::new();
    let mut failed = false;
    for spec in &specs {
        let Some(first) = rows.iter().find(|row| row.name == spec.name) else {
            session.console.say(format!("{}: start", spec.name));
            missing.push(spec);
            continue;
        };
        let id = u32::try_from(first.id).unwrap_or(u32::MAX);
        let present: AppSpec =
            serde_json::from_str(&session.look(&client, async |daemon| daemon.manager().get_spec(id).await).await?)
                .map_err(|error| {
                    Failure::error(format!("cannot read the configuration of `{}`: {error}", spec.name))
                })?;
        let changes = config::diff(&present, spec);
        say_changes(session, &spec.name, &changes);
        if args.dry_run {
            continue;
        }
        let done = match config::needs(&changes) {
            Needs::Nothing if changes.is_empty() => Ok(()),
            Needs::Restart => renew(session, &client, &rows, Verb::Restart, spec).await,
            _ if changes.iter().all(|change| change.needs == Needs::Scale) => resize(session, &client, spec).await,
            Needs::Nothing | Needs::Scale | Needs::Reload => renew(session, &client, &rows, Verb::Reload, spec).await,
        };
        if let Err(failure) = done {
            failure.tell(&session.console);
            failed = true;
        }
    }
    if args.dry_run {
        return Ok(());
    }
    failed |= !start_all(session, &client, &missing).await;
    session.show_list(&client).await?;
    if failed { Err(Failure::Said) } else { Ok(()) }
}

/// What is different about an app, a line for each key, and what it takes.
fn say_changes(session: &Session, name: &str, changes: &[Change]) {
    let verb = match config::needs(changes) {
        _ if changes.is_empty() => "no change",
        Needs::Nothing => "reload, for what only the daemon needs to know",
        Needs::Scale => "scale",
        Needs::Reload => "reload",
        Needs::Restart => "restart",
    };
    session.console.say(format!("{name}: {verb}"));
    for change in changes {
        let old = change.old.as_deref().unwrap_or("nothing");
        let new = change.new.as_deref().unwrap_or("nothing");
        session.console.say(format!("  {}: {old} -> {new}", change.key));
    }
}

/// Apps of a file, resolved.
struct Apps {
    specs: Vec<AppSpec>,
    /// The names of others, and why they cannot run here.
    absent: Vec<(String, Failure)>,
}

/// The apps of a file that are meant. An app whose script or interpreter is not there does not hold up the others; a
/// file with wrong keys is refused as a whole.
fn apps(session: &Session, file: &str) -> Result<Apps, Failure> {
    let ecosystem = load(session, file)?;
    let caller = session.caller();
    let overrides = session.options.overrides();
    let entries = ecosystem.only(session.options.only.as_deref());
    if entries.is_empty() {
        // As in PM2, no error: a file may be one of several that a script goes through.
        let only = session.options.only.as_deref().unwrap_or_default();
        let names = ecosystem.apps.iter().map(config::AppEntry::name).collect::<Vec<_>>();
        let near = config::nearest(only, names.iter().map(String::as_str));
        let hint = near.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default();
        session.console.warn_aside(format!("no app `{only}` in `{file}`{hint}"));
    }
    let mut apps = Apps { specs: Vec::with_capacity(entries.len()), absent: Vec::new() };
    for entry in entries {
        let resolved = match config::resolve_entry(entry, &overrides, &caller) {
            Ok(resolved) => resolved,
            Err(error) if error.is_about_what_is_absent() => {
                apps.absent.push((entry.name(), Failure::from(error)));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for warning in resolved.warnings {
            session.console.warn(warning.0);
        }
        apps.specs.push(resolved.spec);
    }
    Ok(apps)
}

/// As [`apps`], where all of them must be able to run.
fn specs(session: &Session, file: &str) -> Result<Vec<AppSpec>, Failure> {
    let Apps { specs, absent } = apps(session, file)?;
    if absent.is_empty() { Ok(specs) } else { Err(tell(session, &absent)) }
}

fn load(session: &Session, file: &str) -> Result<Ecosystem, Failure> {
    let context = session.load_context(&session.caller());
    let ecosystem = if file == "-" {
        config::parse_stdin(&control::standard_input()?, &context)?
    } else {
        config::load_file(Path::new(file), &context)?
    };
    for warning in &ecosystem.warnings {
        session.console.warn(&warning.0);
    }
    for plan in ecosystem.apps.iter().filter_map(|entry| entry.get("cron_restart")) {
        control::say_plan(session, &scalar(plan));
    }
    Ok(ecosystem)
}
