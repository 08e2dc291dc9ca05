//! Which files a process's output goes to. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::core::{AppSpec, LogSpec, ProcessId};

/// The file of a process's standard output or standard error, with the `-ID` part unless logs are merged or the name
/// does not end in `.log`; `None` where no file is wanted.
#[must_use]
pub fn out_path(spec: &AppSpec, process: ProcessId, err: bool) -> Option<PathBuf> {
    let path = if err { &spec.log.error_file } else { &spec.log.out_file };
    resolve(&spec.log, path.as_deref(), process)
}

/// The file that gets both streams in addition; `None` where none is wanted.
#[must_use]
pub fn combined_path(spec: &AppSpec, process: ProcessId) -> Option<PathBuf> {
    resolve(&spec.log, spec.log.log_file.as_deref(), process)
}

fn resolve(log: &LogSpec, path: Option<&Path>, process: ProcessId) -> Option<PathBuf> {
    if log.disable_logs || log.files == Some(false) {
        return None;
    }
    let path = path.filter(|path| *path != Path::new("/dev/null") && *path != Path::new("NULL"))?;
    Some(if log.merge_logs { path.to_owned() } else { numbered(path, process) })
}

/// `api-out.log` becomes `api-out-3.log`; a name that ends otherwise stays as it is, as in PM2.
fn numbered(path: &Path, process: ProcessId) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let Some(stem) = name.strip_suffix(b".log") else { return path.to_owned() };
    let numbered = [stem, format!("-{process}.log").as_bytes()].concat();
    path.with_file_name(OsStr::from_bytes(&numbered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut LogSpec)) -> AppSpec {
        let mut spec = AppSpec::default();
        spec.log.out_file = Some("/l/api-out.log".into());
        spec.log.error_file = Some("/l/api-error.log".into());
        change(&mut spec.log);
        spec
    }

    fn out(spec: &AppSpec) -> Option<PathBuf> {
        out_path(spec, ProcessId(3), false)
    }

    #[test]
    fn files_bear_the_process_unless_merged() {
        assert_eq!(out(&spec(|_| ())), Some("/l/api-out-3.log".into()));
        assert_eq!(out_path(&spec(|_| ()), ProcessId(3), true), Some("/l/api-error-3.log".into()));
        assert_eq!(out(&spec(|log| log.merge_logs = true)), Some("/l/api-out.log".into()));
        for (given, made) in [
            ("/l/my.app.log", "/l/my.app-3.log"),
            ("/l/my.log.log", "/l/my.log-3.log"),
            ("/l/my.log.old", "/l/my.log.old"),
            ("/l/my.txt", "/l/my.txt"),
            ("/l/plain", "/l/plain"),
        ] {
            assert_eq!(out(&spec(|log| log.out_file = Some(given.into()))), Some(made.into()));
        }
        assert_eq!(combined_path(&spec(|log| log.log_file = Some("/l/a.log".into())), ProcessId(0)), {
            Some("/l/a-0.log".into())
        });
    }

    #[test]
    fn no_file_where_none_is_wanted() {
        assert_eq!(combined_path(&spec(|_| ()), ProcessId(3)), None);
        for none in ["/dev/null", "NULL"] {
            assert_eq!(out(&spec(|log| log.out_file = Some(none.into()))), None);
        }
        assert_eq!(out(&spec(|log| log.out_file = None)), None);
        assert_eq!(out(&spec(|log| log.disable_logs = true)), None);
        assert_eq!(out(&spec(|log| log.files = Some(false))), None);
    }

    #[test]
    fn devices_keep_their_name() {
        assert_eq!(out(&spec(|log| log.out_file = Some("/dev/stdout".into()))), Some("/dev/stdout".into()));
        assert_eq!(out(&spec(|log| log.out_file = Some("/proc/1/fd/1".into()))), Some("/proc/1/fd/1".into()));
    }
}
