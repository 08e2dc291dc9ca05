//! The command line: what people type, what they see.
//!
//! ```text
//!   words ── line.rs (as PM2's parser reads them; args.rs, options.rs) ──▶ Command, Options
//!         ── cmd/ (what it does) ──▶ config: files and options become specs
//!                                ──▶ connect.rs: the daemon, by api::Client
//!                                ──▶ render/ (pure), console.rs: what people see
//! ```
//!
//! Must never see the daemon's insides, nor do anything that the bus cannot: whatever a command does, `busctl` can.

mod args;
mod cmd;
mod connect;
mod console;
mod exit;
mod line;
mod options;
mod pm2_daemon;
mod progress;
mod records;
mod render;
mod session;
mod unsupported;
mod when;

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Command, DaemonArgs};
use connect::{Choice, Place};
use console::Console;
use exit::{Exit, Failure};
use line::Typed;
use options::Options;
use session::{Session, VERSION};

use crate::daemon::{DaemonOptions, Mode, check_keeper, check_state, end_leftovers, run as daemon_run};

/// Entry point of the binary.
#[must_use]
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let called = Path::new(&program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let in_container = matches!(called, "pm2-runtime" | "pm2-docker");
    let as_pm2 = in_container || called == "pm2";
    let words: Result<Vec<String>, _> = words.map(|word| word.into_string()).collect();
    let typed = match words.map(|words| if in_container { line::of_container(words) } else { words }) {
        Ok(words) => line::read(&words).map(|typed| (typed, words)),
        Err(word) => Err(Failure::Usage(format!("`{}' is not UTF-8", word.display()))),
    };
    let exit = match typed {
        Ok((Typed::Command(both), words)) => perform(*both, words, as_pm2),
        Ok((other, _)) => answer(&other, as_pm2),
        Err(failure) => failure.tell(&Console::of_this_process(&Options::default())),
    };
    exit.into()
}

/// What needs no daemon and no session.
fn answer(typed: &Typed, as_pm2: bool) -> Exit {
    let console = Console::of_this_process(&Options::default());
    match typed {
        Typed::Help(text) => {
            console.print(&if as_pm2 { text.replace("pm2rs ", "pm2 ") } else { text.clone() });
            Exit::Success
        }
        Typed::Version => {
            console.print(&format!("{VERSION}\n"));
            Exit::Success
        }
        Typed::Unsupported(name, instead) => Failure::error(format!("`{name}` is not there: {instead}")).tell(&console),
        Typed::Unknown(name, near) => {
            let hint = near.as_ref().map(|near| format!(": `{name}` (did you mean `{near}`?)"));
            // PM2 prints this where scripts look for it, on standard output.
            console.print(&format!("[PM2][ERROR] Command not found{}\n", hint.unwrap_or_default()));
            console.print(&usage(as_pm2));
            Exit::Failure
        }
        Typed::Nothing | Typed::Command(_) => {
            console.print(&usage(as_pm2));
            Exit::Failure
        }
    }
}

fn usage(as_pm2: bool) -> String {
    let name = if as_pm2 { "pm2" } else { "pm2rs" };
    format!(
        "\nusage: {name} [options] <command>\n\n\
         {name} -h, --help             all commands and options\n\
         {name} examples               examples\n\
         {name} <command> -h           help on a command\n\n"
    )
}

fn perform((command, options): (Command, Options), words: Vec<String>, as_pm2: bool) -> Exit {
    let console = Console::of_this_process(&options);
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let choice = Choice::of(&options, as_pm2, &env);
    if let Command::Daemon(args) = &command {
        return run_daemon(args, choice, &console);
    }
    let session =
        Session { console, options, choice, words, successor: RefCell::default(), started_daemon: Cell::default() };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::error(format!("cannot wait for anything: {error}")).tell(&console),
    };
    let done = runtime.block_on(cmd::run(&session, &command));
    // A read of standard input that goes on in a thread must not hold up the end.
    runtime.shutdown_background();
    done.map_or_else(|failure| failure.tell(&console), |()| Exit::Success)
}

/// The daemon itself: in the foreground, or detached by a command that waits for it on our standard input.
fn run_daemon(args: &DaemonArgs, choice: Choice, console: &Console) -> Exit {
    let mode = match choice.place {
        Place::System => Mode::System,
        Place::User => Mode::User,
        Place::Private | Place::Any => Mode::Private { home: choice.home },
    };
    if args.check_state || args.check_keeper {
        let check = |text: &[u8]| match args.check_keeper {
            true => check_keeper(text).map_err(|error| format!("{error:#}")),
            false => check_state(text).map_err(|error| error.to_string()),
        };
        return match check_input(check) {
            Ok(()) => Exit::Success,
            Err(problem) => Failure::error(problem).tell(console),
        };
    }
    if args.end_leftovers {
        return match end_leftovers(&mode) {
            Ok(()) => Exit::Success,
            Err(error) => Failure::error(format!("{error:#}")).tell(console),
        };
    }
    let ready = args.detached.then(|| std::io::stdin().as_fd().try_clone_to_owned()).transpose();
    let ready = match ready {
        Ok(ready) => ready,
        Err(error) => return Failure::error(format!("cannot tell when ready: {error}")).tell(console),
    };
    match daemon_run(DaemonOptions { mode, ready }) {
        Ok(()) => Exit::Success,
        Err(error) => Failure::error(format!("{error:#}")).tell(console),
    }
}

/// Whether this program could go on with the state on standard input.
fn check_input(check: impl Fn(&[u8]) -> Result<(), String>) -> Result<(), String> {
    /// A state that is larger is none of ours.
    const BOUND: u64 = 1 << 30;
    let mut text = Vec::new();
    let read = std::io::stdin().take(BOUND).read_to_end(&mut text);
    read.map_err(|error| format!("cannot read the state: {error}"))?;
    check(&text)
}
