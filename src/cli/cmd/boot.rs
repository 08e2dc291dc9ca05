//! startup and unstartup: have the daemon, and with it the apps, come back at boot. By systemd.
//!
//! Root enables the packaged system unit. Everybody else gets a user unit, and lingering, so that it runs without them
//! being logged in (loginctl(1)).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::args::StartupArgs;
use crate::cli::exit::Failure;
use crate::cli::session::Session;

/// There if and only if systemd is the init system: sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
const UNIT: &str = "pm2rs.service";
/// Where packages and administrators put system units: systemd.unit(5).
const SYSTEM_UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
/// The same for users' units.
const USER_UNITS: [&str; 3] = ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"];

/// The packaged user unit.
const USER_UNIT: &str = include_str!("../../../systemd/user/pm2rs.service");

/// `startup`.
///
/// # Errors
/// Where there is no systemd, no unit to enable, or systemd refuses.
pub fn startup(session: &Session, args: &StartupArgs) -> Result<(), Failure> {
    check(args)?;
    if is_root() {
        if !SYSTEM_UNITS.iter().any(|folder| Path::new(folder).join(UNIT).exists()) {
            return Err(Failure::error(format!("`{UNIT}` is not installed; install the package of pm2rs")));
        }
        run(session, "systemctl", &["enable", "--now", UNIT])?;
        session.console.info("The system service starts at boot, with the apps that ran");
        return Ok(());
    }
    if !USER_UNITS.iter().any(|folder| Path::new(folder).join(UNIT).exists()) {
        install_user_unit(session)?;
    }
    run(session, "systemctl", &["--user", "daemon-reload"])?;
    run(session, "systemctl", &["--user", "enable", "--now", UNIT])?;
    run(session, "loginctl", &["enable-linger"])?;
    session.console.info("Your user service starts at boot, with the apps that ran; use it with --user");
    Ok(())
}

/// `unstartup`.
///
/// # Errors
/// Where there is no systemd or it refuses.
pub fn unstartup(session: &Session, args: &StartupArgs) -> Result<(), Failure> {
    check(args)?;
    if is_root() {
        run(session, "systemctl", &["disable", UNIT])?;
    } else {
        run(session, "systemctl", &["--user", "disable", UNIT])?;
    }
    session.console.info("Init file disabled.");
    Ok(())
}

fn check(args: &StartupArgs) -> Result<(), Failure> {
    if let Some(platform) = args.platform.as_deref().filter(|platform| *platform != "systemd") {
        return Err(Failure::error(format!("`{platform}` is not known here, only `systemd`")));
    }
    if !Path::new(BOOTED).exists() {
        return Err(Failure::error("systemd does not run here; have your init system run `pm2rs resurrect`"));
    }
    Ok(())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn install_user_unit(session: &Session) -> Result<(), Failure> {
    let home = std::env::home_dir().ok_or_else(|| Failure::error("there is no home folder for the unit"))?;
    let config = std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let path = config.join("systemd/user").join(UNIT);
    if path.exists() {
        return Ok(());
    }
    let cannot = |error: std::io::Error| Failure::error(format!("cannot write `{}`: {error}", path.display()));
    let program = std::env::current_exe().map_err(cannot)?;
    std::fs::create_dir_all(path.parent().unwrap_or(&config)).map_err(cannot)?;
    std::fs::write(&path, user_unit(&program)).map_err(cannot)?;
    session.console.info(format!("Wrote {}", path.display()));
    Ok(())
}

/// The packaged unit, for the program at this path.
fn user_unit(program: &Path) -> String {
    // systemd.service(5): `%` begins a specifier, quotes keep blanks together.
    let program = program.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    USER_UNIT.replace("ExecStart=/usr/bin/pm2rs ", &format!("ExecStart=\"{program}\" "))
}

fn run(session: &Session, program: &str, args: &[&str]) -> Result<(), Failure> {
    let shown = format!("{program} {}", args.join(" "));
    session.console.info(format!("Running {shown}"));
    let status = Command::new(program).args(args).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::error(format!("`{shown}` failed: {status}"))),
        Err(error) => Err(Failure::error(format!("cannot run `{shown}`: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_the_program_safely() {
        let unit = user_unit(Path::new("/opt/my apps/100%/pm2rs"));
        assert!(unit.contains("ExecStart=\"/opt/my apps/100%%/pm2rs\" daemon --user\n"), "{unit}");
    }
}
