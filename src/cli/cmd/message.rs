//! Commands that speak to processes: sendSignal, send, attach, trigger.

use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use super::targets;
use crate::api::{Client, LogsDict};
use crate::cli::args::{AttachArgs, SendArgs, SendSignalArgs, TriggerArgs};
use crate::cli::exit::Failure;
use crate::cli::records::Records;
use crate::cli::session::Session;

/// `sendSignal SIGNAL NAME|ID`.
///
/// # Errors
/// For an unknown process or signal.
pub async fn signal(session: &Session, args: &SendSignalArgs) -> Result<(), Failure> {
    let (signal, target) = (args.signal.as_str(), args.target.as_str());
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let by_id = target.parse::<u32>().is_ok();
    let what = if by_id { "process id" } else { "process name" };
    session.console.info(format!("Sending signal to {what} {target}"));
    let Ok(selection) = targets::select(session, &client, &rows, target).await else {
        let unknown = if by_id { format!("{target} id unknown") } else { "Unknown process name".to_owned() };
        session.console.notice(unknown + &targets::hint(&rows, target));
        return Err(Failure::Said);
    };
    client.manager().send_signal(&[selection.target.as_str()], signal).await?;
    session.console.say(format!("successfully sent signal {signal} to {what} {target}"));
    session.show_list(&client).await
}

/// `send ID LINE`.
///
/// # Errors
/// For an unknown process, or one without standard input.
pub async fn line(session: &Session, args: &SendArgs) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let id = known(session, &client, &args.id).await?;
    client.manager().send_line(id, &args.line).await?;
    session.show_list(&client).await
}

/// `attach ID`: lines typed go to the process, what it prints comes here.
///
/// # Errors
/// For an unknown process, or one without standard input.
pub async fn attach(session: &Session, args: &AttachArgs) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let id = known(session, &client, &args.id).await?;
    let options = LogsDict { lines: 0, follow: true, ..LogsDict::default() };
    let pipe = client.manager().open_logs(&[args.id.as_str()], &options).await?;
    let mut records = Records::of(pipe.into())?;
    let mut typed = BufReader::new(stdin()).lines();
    let separator = args.separator.as_deref().unwrap_or_default();
    let mut input_open = true;
    loop {
        tokio::select! {
            record = records.next() => match record? {
                Some(record) => session.console.answer(&format!("{separator}{}\n", record.message)),
                None => return Ok(()),
            },
            line = typed.next_line(), if input_open => match line {
                Ok(Some(line)) => client.manager().send_line(id, &line).await?,
                _ => input_open = false,
            },
        }
    }
}

async fn known(session: &Session, client: &Client, typed: &str) -> Result<u32, Failure> {
    let rows = session.rows(client).await?;
    let id = typed.parse().ok().filter(|id| rows.iter().any(|row| row.id == u64::from(*id)));
    id.ok_or_else(|| Failure::error(format!("Process with ID <{typed}> unknown.")))
}

/// `trigger TARGET ACTION [PARAMETER]`: waits for the answers.
///
/// # Errors
/// When nobody received it.
pub async fn trigger(session: &Session, args: &TriggerArgs) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let nobody = || session.console.notice("Not any process has received a command (offline or unexistent)");
    let Ok(selection) = targets::select(session, &client, &rows, &args.target).await else {
        nobody();
        return Err(Failure::Said);
    };
    let params = args.params.as_deref().unwrap_or_default();
    let replies = client.manager().trigger(&[selection.target.as_str()], &args.action, params).await?;
    if replies.is_empty() {
        nobody();
        return Err(Failure::Said);
    }
    session.console.say(format!("{} processes have received command {}", replies.len(), args.action));
    for (id, reply) in replies {
        let row = rows.iter().find(|row| row.id == u64::from(id));
        let (name, namespace) = row.map_or(("", ""), |row| (row.name.as_str(), row.namespace.as_str()));
        session.console.answer(&format!("[{name}:{id}:{namespace}]={reply}\n"));
    }
    Ok(())
}
