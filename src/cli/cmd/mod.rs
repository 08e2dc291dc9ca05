//! What the commands do. One file for each family; none of them parses words or lays out text.

mod boot;
mod completion;
mod control;
mod describe;
mod ecosystem;
mod file;
mod lifetime;
mod list;
mod log_files;
mod logs;
mod manual;
mod message;
mod migrate;
mod persist;
mod report;
mod serve;
pub mod settings;
mod start;
mod targets;

use super::args::Command;
use super::exit::Failure;
use super::session::Session;
use control::Verb;

/// Performs a command.
///
/// # Errors
/// Why it could not be done.
pub async fn run(session: &Session, command: &Command) -> Result<(), Failure> {
    let work = perform(session, command);
    match command {
        _ if !session.options.no_daemon => work.await,
        Command::Start(args) => logs::foreground(session, Some(args), work).await,
        Command::Restart(_)
        | Command::StartOrRestart(_)
        | Command::StartOrReload(_)
        | Command::StartOrGracefulReload(_)
        | Command::Serve(_)
        | Command::Resurrect => logs::foreground(session, None, work).await,
        _ => work.await,
    }
}

async fn perform(session: &Session, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Start(args) => start::start(session, args).await,
        Command::Stop(args) => control::act(session, Verb::Stop, &args.targets).await,
        Command::Restart(args) => control::act(session, Verb::Restart, &args.targets).await,
        Command::Reload(args) => control::act(session, Verb::Reload, &args.targets).await,
        Command::Delete(args) => control::act(session, Verb::Delete, &args.targets).await,
        Command::Scale(args) => control::scale(session, args).await,
        Command::Reset(args) => control::reset(session, &args.targets).await,
        Command::StartOrRestart(args) => file::start_or(session, Verb::Restart, &args.file).await,
        Command::StartOrReload(args) | Command::StartOrGracefulReload(args) => {
            file::start_or(session, Verb::Reload, &args.file).await
        }
        Command::Apply(args) => file::apply(session, args).await,
        Command::Validate(args) => file::validate(session, &args.file),
        Command::List => list::list(session).await,
        Command::Jlist => list::jlist(session).await,
        Command::Prettylist => list::prettylist(session).await,
        Command::Id(args) => list::ids(session, &args.app).await,
        Command::Pid(args) => list::pids(session, args.app.as_deref()).await,
        Command::Describe(args) => describe::describe(session, &args.target).await,
        Command::Env(args) => describe::environment(session, &args.id).await,
        Command::Logs(args) => logs::logs(session, args).await,
        Command::Flush(args) => log_files::flush(session, args.target.as_deref()).await,
        Command::ReloadLogs => log_files::reopen(session).await,
        Command::Serve(args) => serve::serve(session, args).await,
        Command::SendSignal(args) => message::signal(session, args).await,
        Command::Send(args) => message::line(session, args).await,
        Command::Attach(args) => message::attach(session, args).await,
        Command::Trigger(args) => message::trigger(session, args).await,
        Command::Dump => persist::save(session).await,
        Command::Cleardump => persist::clear(session).await,
        Command::Resurrect => persist::resurrect(session).await,
        Command::Kill => lifetime::kill(session).await,
        Command::Ping => lifetime::ping(session).await,
        Command::Update => lifetime::update(session).await,
        Command::Report => report::report(session).await,
        Command::Migrate(args) => migrate::migrate(session, args).await,
        Command::Startup(args) => boot::startup(session, args).await,
        Command::Unstartup(args) => boot::unstartup(session, args),
        Command::Ecosystem(args) => ecosystem::write_sample(session, args),
        Command::Set(args) => settings::set(session, args.key.as_deref(), args.value.as_deref()).await,
        Command::Multiset(args) => settings::multiset(session, &args.pairs).await,
        Command::Get(args) => settings::get(session, args.key.as_deref()),
        Command::Conf(args) => settings::set(session, args.key.as_deref(), args.value.as_deref()).await,
        Command::Unset(args) => settings::unset(session, &args.key),
        Command::Completion(args) => completion::run(session, args.what.as_deref()).await,
        Command::Examples => {
            session.console.print(manual::EXAMPLES);
            Ok(())
        }
        Command::Man(args) => manual::write(&args.dir),
        Command::Daemon(_) => Err(Failure::error("the daemon is started without a runtime of the command's")),
    }
}
