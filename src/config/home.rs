//! PM2's files, each of which a variable of the environment can move out of its home.

use std::path::{Path, PathBuf};

/// A file or folder of PM2's home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeFile {
    /// The daemon's own log.
    DaemonLog,
    /// The daemon's pid.
    DaemonPid,
    /// The saved list.
    Dump,
    /// The folder of the apps' logs.
    Logs,
    /// The folder of the apps' pid files.
    Pids,
    /// What `set` keeps.
    Settings,
}

impl HomeFile {
    /// Its name in the home, and the variable that moves it.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            HomeFile::DaemonLog => ("pm2.log", "PM2_LOG_FILE_PATH"),
            HomeFile::DaemonPid => ("pm2.pid", "PM2_PID_FILE_PATH"),
            HomeFile::Dump => ("dump.pm2", "PM2_DUMP_FILE_PATH"),
            HomeFile::Logs => ("logs", "PM2_DEFAULT_LOG_PATH"),
            HomeFile::Pids => ("pids", "PM2_DEFAULT_PID_PATH"),
            HomeFile::Settings => ("module_conf.json", "PM2_MODULE_CONF_FILE"),
        }
    }

    /// Where it is. A relative path moves nothing: command line and daemon would each take it from a folder of their
    /// own.
    #[must_use]
    pub fn path(self, home: &Path, env: impl Fn(&str) -> Option<String>) -> PathBuf {
        let (name, variable) = self.names();
        let moved = env(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        moved.unwrap_or_else(|| home.join(name))
    }

    /// Where this process's environment has it.
    #[must_use]
    pub fn here(self, home: &Path) -> PathBuf {
        self.path(home, |name| std::env::var(name).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_moves_a_file_out_of_the_home() {
        let home = Path::new("/h");
        let of = |value: &'static str| move |name: &str| (name == "PM2_LOG_FILE_PATH").then(|| value.to_owned());
        assert_eq!(HomeFile::DaemonLog.path(home, of("/var/log/pm2.log")), Path::new("/var/log/pm2.log"));
        assert_eq!(HomeFile::DaemonLog.path(home, of("pm2.log")), Path::new("/h/pm2.log"));
        assert_eq!(HomeFile::Dump.path(home, of("/var/log/pm2.log")), Path::new("/h/dump.pm2"));
    }
}
