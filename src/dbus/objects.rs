//! What each method does: reads its arguments, asks the daemon, answers. Whoever adds a method adds an arm here and
//! a line to the table in `interfaces.rs`, the XML and the proxy; a test holds the four together.

use std::sync::atomic::Ordering;
use std::time::Duration;

use zbus::{BoxDBusError, OwnedFd, fdo};

use super::authority::{self, Action};
use super::call::{Answer, Call, IntoBus};
use super::peer::locked;
use super::tree::Object;
use crate::api::{Error, JobState, LogsDict, StartDict, UpdateDict, names};
use crate::daemon::{LogRequest, Reply, StartOptions, UpdateOptions, What};

/// How long the change that makes a job known may stay behind the answer that names it.
const JOB_SHOWS: Duration = Duration::from_secs(1);

/// Calls a method that the table has, with arguments of the types the table has.
pub(super) async fn call(call: &Call<'_>, object: Object) -> Answer {
    match object {
        Object::Manager => manager(call).await,
        Object::App(id) => app(call, id).await,
        Object::Process(id) => process(call, id).await,
        Object::Job(id) => job(call, id).await,
    }
}

async fn manager(call: &Call<'_>) -> Answer {
    match call.member {
        "StartApp" => {
            let (spec, options): (String, StartDict) = call.arguments()?;
            let spec = from_json(&spec)?;
            let options = StartOptions { force: options.force };
            starts_job(call, |reply| What::Start(Box::clone(&spec), options, reply)).await
        }
        "Restart" | "Reload" => {
            let (targets, options): (Vec<String>, UpdateDict) = call.arguments()?;
            let options = update_options(options)?;
            update(call, &targets, &options).await
        }
        "Stop" => stops(call, &call.arguments::<Vec<String>>()?).await,
        "Delete" => deletes(call, &call.arguments::<Vec<String>>()?).await,
        "Scale" => {
            let (app, count): (String, String) = call.arguments()?;
            starts_job(call, |reply| What::Scale(app.clone(), count.clone(), reply)).await
        }
        "Reset" => {
            let targets: Vec<String> = call.arguments()?;
            does(call, |reply| What::Reset(targets.clone(), reply)).await
        }
        "SendSignal" => {
            let (targets, signal): (Vec<String>, String) = call.arguments()?;
            does(call, |reply| What::SendSignal(targets.clone(), signal.clone(), reply)).await
        }
        "SendLine" => {
            let (process, line): (u32, String) = call.arguments()?;
            does(call, |reply| What::SendLine(process, line.clone(), reply)).await
        }
        "SendMessage" => {
            let (process, json): (u32, String) = call.arguments()?;
            does(call, |reply| What::SendMessage(process, json.clone(), reply)).await
        }
        "Trigger" => {
            let (targets, action, parameters): (Vec<String>, String, String) = call.arguments()?;
            let make = |reply| What::Trigger(targets.clone(), action.clone(), parameters.clone(), reply);
            tells(call, make).await
        }
        "Resolve" => {
            let targets: Vec<String> = call.arguments()?;
            tells(call, |reply| What::Resolve(targets.clone(), reply)).await
        }
        "ListProcesses" => tells(call, What::List).await,
        "GetEnvironment" => {
            let process: u32 = call.arguments()?;
            tells(call, |reply| What::Environment(process, reply)).await
        }
        "GetSpec" => {
            let process: u32 = call.arguments()?;
            tells(call, |reply| What::Spec(process, reply)).await
        }
        "OpenLogs" => {
            let (targets, options): (Vec<String>, LogsDict) = call.arguments()?;
            let request = log_request(targets, &options)?;
            let output = call.ask(|reply| What::OpenLogs(request.clone(), reply)).await.map_err(Error::into_bus)?;
            call.reply(&OwnedFd::from(output))
        }
        "FlushLogs" => {
            let targets: Vec<String> = call.arguments()?;
            does(call, |reply| What::FlushLogs(targets.clone(), reply)).await
        }
        "ReopenLogs" => does(call, What::ReopenLogs).await,
        "Save" => {
            let force: bool = call.arguments()?;
            tells(call, |reply| What::Save(force, reply)).await
        }
        "ClearSaved" => does(call, What::ClearSaved).await,
        "Resurrect" => starts_job(call, What::Resurrect).await,
        "Kill" => starts_job(call, What::Kill).await,
        "Reexecute" => does(call, What::Reexecute).await,
        "Report" => tells(call, What::Report).await,
        "GetHostMetrics" => tells(call, What::HostMetrics).await,
        "Ping" => call.reply(&"pong"),
        _ => no_handler(call),
    }
}

/// An app's methods are the manager's for its processes, by their ids: a name might be another's too.
async fn app(call: &Call<'_>, id: u32) -> Answer {
    let view = locked(&call.shared.tree).app(id).cloned();
    let Some(view) = view else { return Err(Error::NoSuchTarget(id.to_string()).into_bus()) };
    let targets: Vec<String> = view.processes.iter().map(u32::to_string).collect();
    if targets.is_empty() {
        return Err(Error::NoSuchTarget(view.name).into_bus());
    }
    match call.member {
        "Scale" => {
            let count: String = call.arguments()?;
            starts_job(call, |reply| What::Scale(targets[0].clone(), count.clone(), reply)).await
        }
        "Stop" => stops(call, &targets).await,
        "Restart" | "Reload" => update(call, &targets, &UpdateOptions::default()).await,
        "Delete" => deletes(call, &targets).await,
        _ => no_handler(call),
    }
}

async fn process(call: &Call<'_>, id: u32) -> Answer {
    let targets = [id.to_string()];
    match call.member {
        "SendSignal" => {
            let signal: String = call.arguments()?;
            does(call, |reply| What::SendSignal(targets.to_vec(), signal.clone(), reply)).await
        }
        "GetEnvironment" => tells(call, |reply| What::Environment(id, reply)).await,
        "Stop" => stops(call, &targets).await,
        "Restart" | "Reload" => update(call, &targets, &UpdateOptions::default()).await,
        "Delete" => deletes(call, &targets).await,
        _ => no_handler(call),
    }
}

async fn job(call: &Call<'_>, id: u32) -> Answer {
    match call.member {
        "Wait" => wait(call, id).await,
        "Cancel" => does(call, |reply| What::CancelJob(id, reply)).await,
        _ => no_handler(call),
    }
}

/// Answers with the job's end, once it comes. How many may wait is bounded by the calls that a caller may have in hand.
async fn wait(call: &Call<'_>, id: u32) -> Answer {
    let caller = call.caller().await.map_err(Error::into_bus)?;
    let follows = |id| locked(&call.shared.tree).job(id).map(|job| authority::may_follow(&caller, job));
    if follows(id) == Some(false) && !call.granted(Action::of("Wait")).await {
        return Err(Error::AccessDenied(format!("job {id} was not asked for by you")).into_bus());
    }
    let mut turns = call.turns();
    loop {
        let ended = match locked(&call.shared.tree).job(id) {
            None => return Err(Error::NoSuchJob(id).into_bus()),
            Some(job) if job.state == JobState::Running => None,
            Some(job) => Some((job.state.as_str(), job.message.clone(), job.warnings.clone())),
        };
        if let Some(ended) = ended {
            return call.reply(&ended);
        }
        if call.shared.closing.load(Ordering::Relaxed) || turns.changed().await.is_err() {
            return Err(Error::ShuttingDown.into_bus());
        }
    }
}

async fn stops(call: &Call<'_>, targets: &[String]) -> Answer {
    starts_job(call, |reply| What::Stop(targets.to_vec(), reply)).await
}

async fn deletes(call: &Call<'_>, targets: &[String]) -> Answer {
    starts_job(call, |reply| What::Delete(targets.to_vec(), reply)).await
}

/// Restart or reload, as the method is called. No policy stands above a refusal where the caller brings code along.
async fn update(call: &Call<'_>, targets: &[String], options: &UpdateOptions) -> Answer {
    let brings_code = options.env.is_some() || options.spec.is_some();
    let action = if brings_code { None } else { Action::of(call.member) };
    let make = |reply| match call.member {
        "Reload" => What::Reload(targets.to_vec(), options.clone(), reply),
        _ => What::Restart(targets.to_vec(), options.clone(), reply),
    };
    let job = call.ask_as(action, make).await.map_err(Error::into_bus)?;
    job_answer(call, job).await
}

/// A request that answers with nothing.
async fn does(call: &Call<'_>, make: impl Fn(Reply<()>) -> What) -> Answer {
    call.ask(make).await.map_err(Error::into_bus)?;
    call.reply(&())
}

/// A request that answers with what the daemon says.
async fn tells<T: serde::Serialize + zbus::wire::DynamicType>(
    call: &Call<'_>,
    make: impl Fn(Reply<T>) -> What,
) -> Answer {
    let told = call.ask(make).await.map_err(Error::into_bus)?;
    call.reply(&told)
}

/// A request that answers with a job.
async fn starts_job(call: &Call<'_>, make: impl Fn(Reply<u32>) -> What) -> Answer {
    let job = call.ask(make).await.map_err(Error::into_bus)?;
    job_answer(call, job).await
}

/// The job's path, once there is an object there: the daemon's answer and its changes come by different ways, and who
/// gets a path must be able to call it.
async fn job_answer(call: &Call<'_>, id: u32) -> Answer {
    let mut turns = call.turns();
    let shows = async {
        while locked(&call.shared.tree).job(id).is_none() {
            if turns.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(JOB_SHOWS, shows).await.is_err() {
        tracing::error!(job = id, "the daemon named a job but did not show it");
    }
    call.reply(&names::job_path(id))
}

fn from_json<T: serde::de::DeserializeOwned>(json: &str) -> Result<Box<T>, BoxDBusError> {
    let spec = serde_json::from_str(json).map(Box::new);
    spec.map_err(|error| Error::InvalidArgument(format!("cannot read the spec: {error}")).into_bus())
}

fn update_options(options: UpdateDict) -> Result<UpdateOptions, BoxDBusError> {
    let spec = options.spec.as_deref().map(from_json).transpose()?;
    Ok(UpdateOptions { env: options.env, spec, batch: options.batch })
}

fn log_request(targets: Vec<String>, options: &LogsDict) -> Result<LogRequest, BoxDBusError> {
    let (out, err) = match options.streams.as_str() {
        "all" => (true, true),
        "out" => (true, false),
        "err" => (false, true),
        other => {
            let what = format!("no stream `{other}`: there are `out`, `err` and `all`");
            return Err(Error::InvalidArgument(what).into_bus());
        }
    };
    let LogsDict { lines, follow, since, until, ref grep, .. } = *options;
    Ok(LogRequest { targets, lines, follow, out, err, since, until, grep: grep.clone() })
}

fn no_handler(call: &Call<'_>) -> Answer {
    Err(fdo::Error::NotSupported(format!("`{}` is not served", call.member)).into())
}
