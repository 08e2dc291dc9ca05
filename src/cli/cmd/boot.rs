//! startup and unstartup: have the daemon, and with it the apps, come back at boot. By systemd.
//!
//! Root enables the packaged system unit, which restores everybody's apps; who uses that one hears whether it is. Everybody
//! else gets a user unit, and lingering, so that it runs without them being logged in (loginctl(1)). Where root says whose home it is about (`--hp`, `--home`,
//! PM2_HOME) or how the unit is to be called, as PM2's users do, the private daemon of that home gets a unit of its own,
//! which brings back what was saved.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::api::Client;
use crate::cli::args::StartupArgs;
use crate::cli::connect::Place;
use crate::cli::exit::Failure;
use crate::cli::session::Session;

/// There if and only if systemd is the init system: sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
const UNIT: &str = "pm2rs.service";
/// Where packages and administrators put system units: systemd.unit(5).
const SYSTEM_UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
/// The same for users' units.
const USER_UNITS: [&str; 3] = ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"];

/// Where `startup` writes system units.
const UNIT_FOLDER: &str = "/etc/systemd/system";
/// By this first line a unit is known that `startup` wrote.
const OURS: &str = "# Written by `pm2rs startup`.";
/// `--wait-ip`: systemd.special(7), network-online.target.
const WAIT_IP: &str = "Wants=network-online.target\nAfter=network-online.target\n";

/// Has a file for each user whose service manager starts at boot: loginctl(1).
const LINGERING: &str = "/var/lib/systemd/linger";
/// How long a user's service manager may take to start.
const MANAGER_DEADLINE: Duration = Duration::from_secs(20);

/// The packaged user unit.
const USER_UNIT: &str = include_str!("../../../systemd/user/pm2rs.service");

/// `startup`.
///
/// # Errors
/// Where there is no systemd, no unit to enable, or systemd refuses.
pub async fn startup(session: &Session, args: &StartupArgs) -> Result<(), Failure> {
    check(args)?;
    if let Some(unit) = HomeUnit::wanted(session)? {
        return unit.install(session);
    }
    if is_root() {
        if !SYSTEM_UNITS.iter().any(|folder| Path::new(folder).join(UNIT).exists()) {
            return Err(Failure::error(format!("`{UNIT}` is not installed; install the package of pm2rs")));
        }
        if session.options.wait_ip {
            let drop_in = Path::new(UNIT_FOLDER).join(format!("{UNIT}.d")).join("wait-ip.conf");
            write(session, &drop_in, &format!("[Unit]\n{WAIT_IP}"))?;
            run(session, "systemctl", &["daemon-reload"])?;
        }
        run(session, "systemctl", &["enable", "--now", UNIT])?;
        session.console.info("The system service starts at boot, with the apps that ran");
        return Ok(());
    }
    // What runs with the service that the caller's commands go to is not brought back by another one.
    let client = if session.choice.place == Place::User { None } else { session.choice.find().await.ok().flatten() };
    let mode = match &client {
        Some(client) => client.manager().mode().await?,
        None => String::new(),
    };
    if mode == "system" {
        return with_the_system(session);
    }
    if !USER_UNITS.iter().any(|folder| Path::new(folder).join(UNIT).exists()) {
        install_user_unit(session)?;
    }
    linger(session)?;
    run(session, "systemctl", &["--user", "daemon-reload"])?;
    run(session, "systemctl", &["--user", "enable", "--now", UNIT])?;
    session.console.info("Your user service starts at boot, with the apps that ran; use it with --user");
    if let Some(client) = client.filter(|_| mode == "private") {
        say_what_stays_away(session, &client).await?;
    }
    Ok(())
}

/// For who uses the system service: only root decides when that starts.
fn with_the_system(session: &Session) -> Result<(), Failure> {
    let enabled = Command::new("systemctl").args(["is-enabled", "--quiet", UNIT]).status();
    if enabled.is_ok_and(|status| status.success()) {
        session.console.info("The system service starts at boot, with the apps that ran; there is nothing to do");
        return Ok(());
    }
    session.console.info("To setup the Startup Script, copy/paste the following command:");
    session.console.say(format!("sudo systemctl enable {UNIT}"));
    Err(Failure::Said)
}

/// The apps of a private daemon, which no unit starts.
async fn say_what_stays_away(session: &Session, client: &Client) -> Result<(), Failure> {
    if client.manager().apps().await? > 0 {
        let (home, user) = (session.choice.home.display(), session.caller().username);
        session.console.warn(format!(
            "the apps of your private daemon do not come back at boot: start them with --user, or type \
             `sudo pm2rs startup --home {home} -u {user}` and `pm2rs save`"
        ));
    }
    Ok(())
}

/// `unstartup`.
///
/// # Errors
/// Where there is no systemd or it refuses.
pub fn unstartup(session: &Session, args: &StartupArgs) -> Result<(), Failure> {
    check(args)?;
    if let Some(unit) = HomeUnit::wanted(session)? {
        unit.remove(session)?;
    } else if is_root() {
        run(session, "systemctl", &["disable", UNIT])?;
    } else {
        run(session, "systemctl", &["--user", "disable", UNIT])?;
        remove_user_unit(session)?;
        session.console.info("Your other services still start at boot, unless you type `loginctl disable-linger`");
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

/// The unit of a private daemon.
#[derive(Debug, PartialEq, Eq)]
struct HomeUnit {
    name: String,
    user: String,
    home: PathBuf,
    wait_ip: bool,
}

impl HomeUnit {
    /// The unit that the options ask for, if they ask for one.
    fn wanted(session: &Session) -> Result<Option<HomeUnit>, Failure> {
        let options = &session.options;
        let private = session.choice.place == Place::Private;
        if options.hp.is_none() && options.service_name.is_none() && !private {
            return match options.wait_ip && !is_root() {
                true => Err(Failure::error("--wait-ip is for system units, which root installs")),
                false => Ok(None),
            };
        }
        if !is_root() {
            return Err(Failure::error("a unit of that home or name is root's to install: use `sudo`, or no option"));
        }
        let user = options.uid.clone().or_else(|| options.user.clone()).filter(|user| !user.is_empty());
        let user = user.or_else(|| std::env::var("SUDO_USER").ok()).unwrap_or_else(|| "root".to_owned());
        let account = nix::unistd::User::from_name(&user).ok().flatten();
        let account = account.ok_or_else(|| Failure::error(format!("there is no user `{user}`")))?;
        let home = match &options.hp {
            Some(hp) => session.caller().cwd.join(hp).join(session.choice.folder),
            None if private => session.choice.home.clone(),
            None => account.dir.join(session.choice.folder),
        };
        let name = options.service_name.clone().unwrap_or_else(|| format!("pm2-{user}"));
        let name = name.trim_end_matches(".service").to_owned();
        // systemd.unit(5): what a unit's name is made of.
        let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\".contains(c);
        if name.is_empty() || !name.chars().all(fits) {
            return Err(Failure::error(format!("`{name}` is no name for a unit")));
        }
        Ok(Some(HomeUnit { name, user, home, wait_ip: options.wait_ip }))
    }

    fn path(&self) -> PathBuf {
        Path::new(UNIT_FOLDER).join(format!("{}.service", self.name))
    }

    fn install(&self, session: &Session) -> Result<(), Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::error(format!("cannot tell where this program is: {error}")))?;
        write(session, &self.path(), &self.text(&program))?;
        run(session, "systemctl", &["daemon-reload"])?;
        run(session, "systemctl", &["enable", &self.name])?;
        let console = &session.console;
        console.info("Freeze a process list on reboot via:");
        console.say("$ pm2 save\n");
        console.info("Remove init script via:");
        console.say(format!("$ pm2 unstartup systemd --service-name {}", self.name));
        Ok(())
    }

    fn remove(&self, session: &Session) -> Result<(), Failure> {
        let path = self.path();
        let ours = std::fs::read_to_string(&path).is_ok_and(|text| text.starts_with(OURS));
        if !ours {
            return Err(Failure::error(format!("`{}` is not a unit that `startup` wrote", path.display())));
        }
        run(session, "systemctl", &["disable", &self.name])?;
        std::fs::remove_file(&path)
            .map_err(|error| Failure::error(format!("cannot remove `{}`: {error}", path.display())))?;
        run(session, "systemctl", &["daemon-reload"])
    }

    fn text(&self, program: &Path) -> String {
        let (program, home) = (quoted(program), quoted(&self.home));
        let wait_ip = if self.wait_ip { WAIT_IP } else { "" };
        format!(
            "{OURS}\n[Unit]\nDescription=pm2rs for {user}\nDocumentation=man:pm2rs(1)\nAfter=network.target\n{wait_ip}\
             StartLimitIntervalSec=0\n\n\
             [Service]\nType=notify\nNotifyAccess=main\nUser={user}\n\
             ExecStart={program} daemon --home {home}\n\
             ExecStartPost=-{program} resurrect --silent --home {home}\n\
             ExecReload={program} reload all --home {home}\n\
             Restart=always\nRestartSec=100ms\nWatchdogSec=30s\nTimeoutStopSec=90s\nLimitNOFILE=524288\nEnvironment=PM2RS_OPEN_FILES=1024\n\
             # Apps outlive a daemon that dies, and the next one takes them over.\n\
             KillMode=process\nOOMPolicy=continue\nFileDescriptorStoreMax=8192\nNonBlocking=yes\n\n\
             [Install]\nWantedBy=multi-user.target\n",
            user = self.user,
        )
    }
}

/// systemd.service(5): `%` begins a specifier, quotes keep blanks together.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

fn write(session: &Session, path: &Path, text: &str) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::error(format!("cannot write `{}`: {error}", path.display()));
    path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(cannot)?;
    std::fs::write(path, text).map_err(cannot)?;
    session.console.info(format!("Wrote {}", path.display()));
    Ok(())
}

/// Has the caller's service manager run from boot to shutdown. Where only root may decide that, as for who came by su(1)
/// rather than by a login of their own, they get the command to have it done, as from PM2.
fn linger(session: &Session) -> Result<(), Failure> {
    let name = &session.caller().username;
    let marked = Path::new(LINGERING).join(name).exists();
    if !marked && run(session, "loginctl", &["enable-linger"]).is_err() {
        session.console.info("To setup the Startup Script, copy/paste the following command:");
        let user = if session.choice.place == Place::User { " --user" } else { "" };
        session.console.say(format!("sudo loginctl enable-linger {name} && pm2rs startup{user}"));
        return Err(Failure::Said);
    }
    // It is started only now, if nobody of that name is logged in.
    let manager = user_runtime().join("systemd/private");
    let deadline = Instant::now() + MANAGER_DEADLINE;
    while !manager.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Where a user's service manager has its sockets: pam_systemd(8).
fn user_runtime() -> PathBuf {
    let of_uid = || PathBuf::from(format!("/run/user/{}", nix::unistd::getuid()));
    std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).map_or_else(of_uid, PathBuf::from)
}

fn user_unit_path() -> Result<PathBuf, Failure> {
    let home = std::env::home_dir().ok_or_else(|| Failure::error("there is no home folder for the unit"))?;
    let config = std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    Ok(config.join("systemd/user").join(UNIT))
}

/// Removes the unit that [`install_user_unit`] wrote, if it did.
fn remove_user_unit(session: &Session) -> Result<(), Failure> {
    let path = user_unit_path()?;
    let ours = std::fs::read_to_string(&path).is_ok_and(|text| text.lines().next() == USER_UNIT.lines().next());
    if !ours {
        return Ok(());
    }
    std::fs::remove_file(&path)
        .map_err(|error| Failure::error(format!("cannot remove `{}`: {error}", path.display())))?;
    run(session, "systemctl", &["--user", "daemon-reload"])
}

fn install_user_unit(session: &Session) -> Result<(), Failure> {
    let path = user_unit_path()?;
    if path.exists() {
        return Ok(());
    }
    let program = std::env::current_exe()
        .map_err(|error| Failure::error(format!("cannot tell where this program is: {error}")))?;
    write(session, &path, &user_unit(&program))
}

/// The packaged unit, for the program at this path: by it alone, which the shell might not understand as it is.
fn user_unit(program: &Path) -> String {
    let start = format!("ExecStart={} daemon --user", quoted(program));
    let line = |line: &str| if line.starts_with("ExecStart=") { start.clone() + "\n" } else { format!("{line}\n") };
    USER_UNIT.lines().map(line).collect()
}

fn run(session: &Session, program: &str, args: &[&str]) -> Result<(), Failure> {
    let shown = format!("{program} {}", args.join(" "));
    session.console.info(format!("Running {shown}"));
    // Who came by su(1) has no XDG_RUNTIME_DIR, by which `systemctl --user` finds the service manager.
    let status = Command::new(program).args(args).env("XDG_RUNTIME_DIR", user_runtime()).status();
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
    fn a_homes_unit_starts_its_daemon_and_brings_back_its_list() {
        let mut unit =
            HomeUnit { name: "pm2-ann".into(), user: "ann".into(), home: "/home/ann/my %pm2".into(), wait_ip: false };
        let text = unit.text(Path::new("/usr/bin/pm2rs"));
        assert!(text.contains("\nUser=ann\n"), "{text}");
        assert!(text.contains("\nExecStart=\"/usr/bin/pm2rs\" daemon --home \"/home/ann/my %%pm2\"\n"), "{text}");
        assert!(text.contains("resurrect --silent --home"), "{text}");
        assert!(!text.contains("network-online"), "{text}");
        unit.wait_ip = true;
        assert!(unit.text(Path::new("/usr/bin/pm2rs")).contains("\nAfter=network-online.target\n"));
    }

    #[test]
    fn unit_names_the_program_safely() {
        let unit = user_unit(Path::new("/opt/my apps/100%/pm2rs"));
        assert!(unit.contains("ExecStart=\"/opt/my apps/100%%/pm2rs\" daemon --user\n"), "{unit}");
    }
}
