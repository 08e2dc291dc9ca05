//! Which files a process's output goes to. Pure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::core::{AppSpec, LogSpec, ProcessId};

/// The file of a process's standard output or standard error, with the `-ID` part unless logs are merged; `None` where
/// no file is wanted.
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
    // A device or somebody else's pipe (`/dev/stdout`, `/proc/1/fd/1`) has no variant per process.
    if log.merge_logs || path.starts_with("/dev") || path.starts_with("/proc") {
        return Some(path.to_owned());
    }
    Some(numbered(path, process))
}

/// `api-out.log` becomes `api-out-3.log`, `api` becomes `api-3`.
fn numbered(path: &Path, process: ProcessId) -> PathBuf {
    let mut name = OsString::from(path.file_stem().unwrap_or_default());
    name.push(format!("-{process}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
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
        assert_eq!(out(&spec(|log| log.out_file = Some("/l/my.app.txt".into()))), Some("/l/my.app-3.txt".into()));
        assert_eq!(out(&spec(|log| log.out_file = Some("/l/plain".into()))), Some("/l/plain-3".into()));
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
