//! The names under which the daemon and its objects are found.
//!
//! Paths are made here and nowhere else; what a path means is read back here too.

use std::fmt::Write as _;

use zbus::{ObjectPath, OwnedObjectPath};

/// The well-known bus name, on the system and on the session bus.
pub const BUS_NAME: &str = "org.pm2rs1";
/// Path of the manager and root of the tree.
pub const MANAGER_PATH: &str = "/org/pm2rs1";
/// File name of the private peer-to-peer socket within the runtime folder.
pub const PRIVATE_SOCKET: &str = "bus.sock";
/// The variable by which workers, and what they start, are known as such.
pub const WORKER_MARK: &str = "PM2RS_WORKER";

/// Interface of the manager.
pub const MANAGER_INTERFACE: &str = "org.pm2rs1.Manager";
/// Interface of an app.
pub const APP_INTERFACE: &str = "org.pm2rs1.App";
/// Interface of a process row.
pub const PROCESS_INTERFACE: &str = "org.pm2rs1.Process";
/// Interface of a job.
pub const JOB_INTERFACE: &str = "org.pm2rs1.Job";

/// `text` as one element of an object path: what is not an ASCII letter or digit, and a digit in front, becomes `_`
/// and two hexadecimal digits; nothing becomes `_`. The same as sd_bus_path_encode(3), so other tools can read it.
#[must_use]
pub fn escape(text: &str) -> String {
    if text.is_empty() {
        return "_".to_owned();
    }
    let mut label = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && at > 0) {
            label.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(label, "_{byte:02x}");
        }
    }
    label
}

/// Path of the app called `name`, where no other app has it.
#[must_use]
pub fn app_path(name: &str) -> OwnedObjectPath {
    path(format!("{MANAGER_PATH}/app/{}", escape(name)))
}

/// Path of the app called `name` where an app of that name is there already. An escaped name never has two underscores
/// in a row, so it is nobody else's.
#[must_use]
pub fn app_path_with_id(name: &str, id: u32) -> OwnedObjectPath {
    path(format!("{MANAGER_PATH}/app/{}__{id}", escape(name)))
}

/// Path of a process row.
#[must_use]
pub fn process_path(id: u32) -> OwnedObjectPath {
    path(format!("{MANAGER_PATH}/process/{id}"))
}

/// Path of a job.
#[must_use]
pub fn job_path(id: u32) -> OwnedObjectPath {
    path(format!("{MANAGER_PATH}/job/{id}"))
}

/// The number in a path that [`process_path`] made.
#[must_use]
pub fn process_id(path: &str) -> Option<u32> {
    number(path, "/process/")
}

/// The number in a path that [`job_path`] made.
#[must_use]
pub fn job_id(path: &str) -> Option<u32> {
    number(path, "/job/")
}

fn number(path: &str, folder: &str) -> Option<u32> {
    let digits = path.strip_prefix(MANAGER_PATH)?.strip_prefix(folder)?;
    let canonical = digits == "0" || !digits.starts_with(['0', '+']);
    if canonical { digits.parse().ok() } else { None }
}

/// Callers give ASCII letters, digits, underscores and single slashes only.
fn path(text: String) -> OwnedObjectPath {
    ObjectPath::from_string_unchecked(text).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_escaped_as_systemd_does() {
        for (name, label) in [
            ("api", "api"),
            ("web-1", "web_2d1"),
            ("1st", "_31st"),
            ("a_b", "a_5fb"),
            ("", "_"),
            ("größe", "gr_c3_b6_c3_9fe"),
            ("a/b", "a_2fb"),
        ] {
            assert_eq!(escape(name), label, "{name}");
            assert!(ObjectPath::try_from(app_path(name).as_str()).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_second_app_of_a_name_cannot_meet_a_third() {
        assert_eq!(app_path_with_id("api", 7).as_str(), "/org/pm2rs1/app/api__7");
        assert_ne!(app_path("api__7"), app_path_with_id("api", 7));
    }

    #[test]
    fn numbers_come_back_out_of_paths() {
        assert_eq!(process_id(process_path(12).as_str()), Some(12));
        assert_eq!(job_id(job_path(0).as_str()), Some(0));
        for odd in ["/org/pm2rs1/job/", "/org/pm2rs1/job/01", "/org/pm2rs1/job/+1", "/org/pm2rs1/job/1/2", "/job/1"] {
            assert_eq!(job_id(odd), None, "{odd}");
        }
        assert_eq!(job_id(process_path(1).as_str()), None);
    }
}
