//! `report`: what a person who reports a problem should send along, in the sections that PM2's has.

use std::process::Command;

use jiff::Zoned;

use super::log_files::daemon_tail;
use crate::cli::exit::Failure;
use crate::cli::render::list;
use crate::cli::session::{Session, VERSION, now};

/// Lines of the daemon's log.
const LINES: usize = 20;
/// PM2's widths of the line that begins the whole, of those that begin a section, and of a fact's name.
const WIDE: usize = 79;
const NARROW: usize = 60;
const NAMES: usize = 21;

/// `report`.
///
/// # Errors
/// When the daemon does not answer.
pub async fn report(session: &Session) -> Result<(), Failure> {
    let client = session.daemon().await?;
    let rows = session.rows(&client).await?;
    let date = Zoned::now().strftime("%a %b %d %Y %H:%M:%S GMT%z").to_string();
    let mut text = format!("```\n{}\n", rule("PM2 report", WIDE));
    text.push_str(&fact("Date", &date));
    let mut section = |title: &str, body: &str| {
        let end = "=".repeat(WIDE);
        text.push_str(&format!("{end}\n{}\n{}\n", rule(title, NARROW), body.trim_end()));
    };
    let of_daemon = session.look(&client, async |daemon| daemon.manager().report().await).await?;
    section("Daemon", &of_daemon);
    section("CLI", &of_this_program());
    section("System info", &of_the_machine(session));
    section("PM2 list", &list::table(&rows, now(), None, false));
    let log = match daemon_tail(&client, LINES).await {
        Some((path, lines)) => {
            let lines: String = lines.iter().map(|line| format!("{:<10} | {line}\n", "PM2")).collect();
            format!("{} last {LINES} lines:\n{lines}", path.display())
        }
        None => "see `journalctl --unit pm2rs`".to_owned(),
    };
    section("Daemon logs", &log);
    text.push_str("```\n\nPlease read it through for what is not to be published before you send it to anybody.\n");
    session.console.answer(&text);
    Ok(())
}

fn rule(title: &str, width: usize) -> String {
    format!("{:-<width$}", format!("--- {title} "))
}

fn fact(name: &str, value: &str) -> String {
    format!("{name:<NAMES$}: {value}\n")
}

fn of_this_program() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
    let argv: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let node = Command::new("node").arg("--version").output().ok().filter(|node| node.status.success());
    let node = node.map(|node| String::from_utf8_lossy(&node.stdout).trim().trim_start_matches('v').to_owned());
    [
        fact("local pm2", VERSION),
        fact("node version", node.as_deref().unwrap_or("not in PATH")),
        fact("argv", &argv.join(",")),
        fact("user", &user),
        fact("uid", &nix::unistd::geteuid().to_string()),
        fact("gid", &nix::unistd::getegid().to_string()),
    ]
    .concat()
}

fn of_the_machine(session: &Session) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let home = std::env::var("HOME").unwrap_or_default();
    [
        fact("arch", std::env::consts::ARCH),
        fact("platform", std::env::consts::OS),
        fact("type", read("/proc/sys/kernel/osrelease").trim()),
        fact("cpus", &value(&cpus, "model name")),
        fact("cpus nb", &session.caller().cpus.to_string()),
        fact("freemem", &value(&memory, "MemAvailable")),
        fact("totalmem", &value(&memory, "MemTotal")),
        fact("home", &home),
    ]
    .concat()
}
