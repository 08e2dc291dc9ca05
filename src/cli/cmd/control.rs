//! Commands that change processes which exist: stop, restart, reload, delete, scale, reset.

use std::io::Read;

use serde_json::json;

use super::start::to_json;
use super::targets::{self, Selection};
use super::{file, logs};
use crate::api::{self, Client, UpdateDict};
use crate::cli::args::ScaleArgs;
use crate::cli::exit::{Failure, no_such_target};
use crate::cli::render::inspect::inspect;
use crate::cli::render::row::Row;
use crate::cli::session::Session;
use crate::config;
use crate::core::AppSpec;

/// What is done to processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Ends them; they stay in the list.
    Stop,
    /// Ends and starts them.
    Restart,
    /// Replaces them one by one.
    Reload,
    /// Ends and forgets them.
    Delete,
}

impl Verb {
    /// PM2's name of the action.
    pub fn action(self) -> &'static str {
        match self {
            Verb::Stop => "stopProcessId",
            Verb::Restart => "restartProcessId",
            Verb::Reload => "reloadProcessId",
            Verb::Delete => "deleteProcessId",
        }
    }

    /// The command.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Reload => "reload",
            Verb::Delete => "delete",
        }
    }

    /// Whether the processes run on afterwards, with whatever changed.
    pub fn renews(self) -> bool {
        matches!(self, Verb::Restart | Verb::Reload)
    }
}

/// Most that is read from standard input: as much as of a file.
const STDIN_BOUND: u64 = 8 << 20;

/// All of standard input.
///
/// # Errors
/// When it cannot be read or is no text.
pub fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(STDIN_BOUND).read_to_string(&mut text);
    read.map_err(|error| Failure::error(format!("cannot read standard input: {error}")))?;
    Ok(text)
}

/// Stop, restart, reload or delete, one target after the other.
///
/// # Errors
/// When a target stands for nothing, or the daemon could not do it; those after it are left alone, as in PM2.
pub async fn act(session: &Session, verb: Verb, typed: &[String]) -> Result<(), Failure> {
    if typed.iter().any(|target| target == "-" || config::file_kind(target).is_some()) {
        return act_on_files(session, verb, typed).await;
    }
    if verb.renews() && session.options.env.is_some() {
        return Err(config::ConfigError::EnvWithoutFile.into());
    }
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let mut selections = Vec::with_capacity(typed.len());
    for target in typed {
        if verb.renews() && !session.options.update_env {
            session.console.say("Use --update-env to update environment variables");
        }
        if let Some(plan) = session.options.cron_restart.as_deref().filter(|_| verb.renews()) {
            say_plan(session, plan);
        }
        let selection = match targets::select(session, &client, &rows, target).await {
            Err(Failure::Error(_)) if target.parse::<u32>().is_ok() => {
                return Err(unknown_id(session, verb, target));
            }
            selected => selected?,
        };
        apply(session, &client, &rows, verb, &selection, None).await?;
        selections.push(selection);
    }
    conclude(session, &client, verb, &selections).await
}

/// What follows the actions: the list, or the logs where they were asked for.
pub async fn conclude(session: &Session, client: &Client, verb: Verb, selections: &[Selection]) -> Result<(), Failure> {
    if verb != Verb::Reload {
        session.show_list(client).await?;
    }
    if session.options.attach_logs && verb.renews() {
        let targets: Vec<String> = selections.iter().map(|selection| selection.target.clone()).collect();
        return logs::follow(session, client, &targets).await;
    }
    Ok(())
}

/// Files and standard input among the targets: each target by itself, in order.
async fn act_on_files(session: &Session, verb: Verb, typed: &[String]) -> Result<(), Failure> {
    for target in typed {
        let from_file = target == "-" || config::file_kind(target).is_some();
        if from_file && verb.renews() {
            file::renew_all(session, verb, target).await?;
        } else if from_file {
            file::end(session, verb, target).await?;
        } else {
            Box::pin(act(session, verb, std::slice::from_ref(target))).await?;
        }
    }
    Ok(())
}

/// Does it to one selection, with PM2's lines before and after. `spec` is the configuration that a file has for it.
///
/// # Errors
/// When an option is wrong (nothing is done then) or the daemon could not do it.
pub async fn apply(
    session: &Session,
    client: &Client,
    rows: &[Row],
    verb: Verb,
    selection: &Selection,
    spec: Option<String>,
) -> Result<(), Failure> {
    let orders = match spec {
        _ if !verb.renews() => vec![plain_order(selection)],
        Some(spec) => vec![(vec![selection.target.clone()], UpdateDict { spec: Some(spec), ..plain(session) })],
        None => amendments(session, client, rows, verb, selection).await?,
    };
    let typed = &selection.typed;
    say_action(session, verb, typed, &selection.ids_text());
    perform(session, client, rows, verb, selection, &orders).await
}

/// PM2's line before an action.
fn say_action(session: &Session, verb: Verb, typed: &str, ids: &str) {
    session.console.info(format!("Applying action {} on app [{typed}](ids: {ids})", verb.action()));
}

/// The refusal of an id that nothing has. PM2 takes any number for an id and says what it is about to do; the words
/// are its daemon's, other ones for each action.
pub fn unknown_id(session: &Session, verb: Verb, id: &str) -> Failure {
    say_action(session, verb, id, &inspect(&json!([id])));
    Failure::error(match verb {
        Verb::Stop | Verb::Delete => no_such_target(id),
        Verb::Restart => "God db process id unknown".to_owned(),
        Verb::Reload => "PM2 ID unknown".to_owned(),
    })
}

/// Says what a plan of restarts comes to, as PM2 does before anything else.
pub fn say_plan(session: &Session, plan: &str) {
    match plan {
        "0" => session.console.info("disabling cron restart"),
        pattern => session.console.info(format!("cron restart at {pattern}")),
    }
}

/// Ends processes that are of a file, of which PM2 tells only that it is done.
///
/// # Errors
/// When the daemon could not do it.
pub async fn end(
    session: &Session,
    client: &Client,
    rows: &[Row],
    verb: Verb,
    selection: &Selection,
) -> Result<(), Failure> {
    perform(session, client, rows, verb, selection, &[plain_order(selection)]).await
}

/// What the daemon is asked for: the targets, and what changes with them.
type Order = (Vec<String>, UpdateDict);

fn plain_order(selection: &Selection) -> Order {
    (vec![selection.target.clone()], UpdateDict::default())
}

async fn perform(
    session: &Session,
    client: &Client,
    rows: &[Row],
    verb: Verb,
    selection: &Selection,
    orders: &[Order],
) -> Result<(), Failure> {
    let (console, typed) = (&session.console, &selection.typed);
    for (targets, update) in orders {
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let daemon = session.serving(client).await?;
        let manager = daemon.manager();
        let job = match verb {
            Verb::Stop => manager.stop(&targets).await,
            Verb::Restart => manager.restart(&targets, update).await,
            Verb::Reload => manager.reload(&targets, update).await,
            Verb::Delete => manager.delete(&targets).await,
        }?;
        session.finish(client, &format!("{} {typed}", verb.word()), &job).await?;
    }
    let renamed = session.options.name.as_deref().filter(|_| verb.renews());
    for id in &selection.ids {
        let row = rows.iter().find(|row| row.id == u64::from(*id));
        let name = renamed.or(row.map(|row| row.name.as_str())).unwrap_or(typed);
        console.info(format!("[{name}]({id}) ✓"));
        if let (Verb::Stop, Some(plan)) = (verb, row.and_then(|row| row.cron_restart.as_deref())) {
            console.warn(format!("App {name} stopped but CRON RESTART is still UP {plan}"));
        }
    }
    Ok(())
}

/// What a restart or reload is asked for with, when no option of an app was typed.
fn plain(session: &Session) -> UpdateDict {
    let options = &session.options;
    UpdateDict {
        env: options.update_env.then(|| config::caller_environment(&session.caller())),
        spec: None,
        batch: options.at_a_time(),
    }
}

/// Options of an app that are typed with its restart change its configuration. Each app has its own, so processes are
/// taken together by what they are configured with.
async fn amendments(
    session: &Session,
    client: &Client,
    rows: &[Row],
    verb: Verb,
    selection: &Selection,
) -> Result<Vec<Order>, Failure> {
    let overrides = session.options.overrides();
    let args = session.options.app_args.as_deref();
    let unsaid = config::CliOverrides { update_env: overrides.update_env, ..config::CliOverrides::default() };
    let says_nothing = args.is_none() && overrides == unsaid;
    let row = |id: u32| rows.iter().find(|row| row.id == u64::from(id));
    let halted = |id: &u32| row(*id).is_some_and(|row| row.status == "stopped");
    if says_nothing && !selection.ids.iter().any(halted) {
        return Ok(vec![(vec![selection.target.clone()], plain(session))]);
    }
    let mut alike: Vec<(String, bool, Vec<String>)> = Vec::new();
    for id in &selection.ids {
        let spec = session.look(client, async |daemon| daemon.manager().get_spec(*id).await).await?;
        let watched = row(*id).is_some_and(|row| row.watching);
        match alike.iter_mut().find(|(known, watching, _)| *known == spec && *watching == watched) {
            Some((_, _, ids)) => ids.push(id.to_string()),
            None => alike.push((spec, watched, vec![id.to_string()])),
        }
    }
    let caller = session.caller();
    let mut orders = Vec::with_capacity(alike.len());
    for (json, watched, ids) in alike {
        let spec: AppSpec = serde_json::from_str(&json)
            .map_err(|error| Failure::error(format!("cannot read the configuration of an app: {error}")))?;
        let mut amended = match says_nothing {
            true => None,
            false => config::amend(&spec, args, &overrides, &caller)?.map(|resolved| resolved.spec),
        };
        // As in PM2 a stop ends the watching until `--watch` or a file wants it again, and `restart --watch` is the way
        // to turn it off.
        let ended = !watched && overrides.watch.is_empty();
        let turned_off = watched && verb == Verb::Restart && overrides.watch == [""];
        if spec.watched().is_some() && (ended || turned_off) {
            let spec = amended.get_or_insert(spec);
            if let Some(watch) = &mut spec.watch {
                watch.off = true;
            }
            spec.extra.remove("watch");
        }
        let spec = amended.as_ref().map(to_json).transpose()?;
        orders.push((ids, UpdateDict { spec, ..plain(session) }));
    }
    Ok(orders)
}

/// `scale`.
///
/// # Errors
/// For an unknown app, a wrong number, the present number.
pub async fn scale(session: &Session, args: &ScaleArgs) -> Result<(), Failure> {
    let (app, number) = (args.app.as_str(), args.number.trim());
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Failure::error(format!("cannot scale `{app}`: `{number}` is not a number, +number or -number")));
    }
    let client = session.daemon().await?;
    let before = session.rows(&client).await?;
    let of_app = |row: &&Row| row.name == app;
    if number.parse() == Ok(0) && before.iter().any(|row| of_app(&row)) {
        return scale_to_nothing(session, &client, before.iter().filter(of_app)).await;
    }
    let job = client.manager().scale(app, number).await.map_err(|error| match error {
        api::Error::NoSuchTarget(_) => {
            Failure::error(format!("Application {app} not found{}", targets::hint(&before, app)))
        }
        other => other.into(),
    })?;
    session.finish(&client, &format!("scale {app}"), &job).await?;
    let after = session.rows(&client).await?;
    let gone = before.iter().filter(|row| after.iter().all(|other| other.id != row.id));
    for _ in after.iter().filter(|row| before.iter().all(|other| other.id != row.id)) {
        session.console.info("Scaling up application");
    }
    gone.for_each(|row| say_gone(session, row));
    session.show_list(&client).await
}

/// PM2 takes this for the deletion of all of them.
async fn scale_to_nothing(session: &Session, client: &Client, rows: impl Iterator<Item = &Row>) -> Result<(), Failure> {
    for row in rows {
        let daemon = session.serving(client).await?;
        let job = daemon.manager().delete(&[row.id.to_string().as_str()]).await?;
        session.finish(client, &format!("delete {}", row.name), &job).await?;
        say_gone(session, row);
    }
    session.show_list(client).await
}

fn say_gone(session: &Session, row: &Row) {
    say_action(session, Verb::Delete, &row.id.to_string(), &inspect(&json!([row.id])));
    session.console.info(format!("[{}]({}) ✓", row.name, row.id));
}

/// `reset`.
///
/// # Errors
/// When a target stands for nothing.
pub async fn reset(session: &Session, typed: &[String]) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let mut selections = Vec::with_capacity(typed.len());
    for target in typed {
        let Ok(selection) = targets::select(session, &client, &rows, target).await else {
            let unknown = match target.as_str() {
                // As in PM2, where nothing is reset to begin with, no error.
                "all" => continue,
                id if id.parse::<u32>().is_ok() => format!("{id} id unknown"),
                _ => "Unknown process name".to_owned(),
            };
            session.console.notice(unknown + &targets::hint(&rows, target));
            return Err(Failure::Said);
        };
        selections.push(selection);
    }
    for selection in &selections {
        for id in &selection.ids {
            session.console.info(format!("Resetting meta for process id {id}"));
        }
        session.serving(&client).await?.manager().reset(&[selection.target.as_str()]).await?;
    }
    session.show_list(&client).await
}
