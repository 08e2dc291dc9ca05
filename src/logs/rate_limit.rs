//! Whether journald drops lines of ours when there are many.
//!
//! It does so without a word to the sender, so whoever runs the service is told that it may. See LogRateLimitIntervalSec=
//! in systemd.exec(5) and RateLimitIntervalSec= in journald.conf(5).

use std::ffi::OsStr;
use std::path::Path;

/// An interval (microseconds) within which no sender gets anywhere near a burst.
const HARMLESS: u64 = 1000;

/// The unit of ours whose limit journald applies, if it applies one.
#[must_use]
pub fn limited_unit() -> Option<String> {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let unit = unit_of(&cgroup)?.to_owned();
    // Where the service manager tells journald what a unit says; nothing is there for a unit that says nothing.
    let told = std::fs::read_link(format!("/run/systemd/units/log-rate-limit-interval:{unit}")).ok();
    let own = told.as_deref().map(Path::as_os_str).and_then(OsStr::to_str).and_then(|text| text.parse::<u64>().ok());
    let limited = match own {
        Some(interval) => interval > HARMLESS,
        None => !settings().iter().any(|text| switches_off(text)),
    };
    limited.then_some(unit)
}

/// As journald sees it: a user's services all belong to the unit of that user's service manager.
fn unit_of(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.split('/').find(|part| part.ends_with(".service"))
}

fn settings() -> Vec<String> {
    let mut paths = vec!["/etc/systemd/journald.conf".into()];
    for folder in ["/usr/lib", "/run", "/etc"] {
        let entries = std::fs::read_dir(Path::new(folder).join("systemd/journald.conf.d")).into_iter().flatten();
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.into_iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

fn switches_off(settings: &str) -> bool {
    settings.lines().any(|line| {
        let setting = line.trim().split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        matches!(setting, Some(("RateLimitIntervalSec" | "RateLimitBurst", "0")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_knows_us_by_this_unit() {
        assert_eq!(unit_of("0::/system.slice/pm2rs.service\n"), Some("pm2rs.service"));
        let users =
            "1:name=systemd:/x.service\n0::/user.slice/user-1000.slice/user@1000.service/app.slice/pm2rs.service\n";
        assert_eq!(unit_of(users), Some("user@1000.service"));
        assert_eq!(unit_of("0::/\n"), None);
    }

    #[test]
    fn a_machine_may_have_no_limit() {
        assert!(switches_off("[Journal]\nRateLimitIntervalSec=0\n"));
        assert!(switches_off("[Journal]\nRateLimitBurst = 0\n"));
        assert!(!switches_off("[Journal]\n#RateLimitBurst=0\nRateLimitIntervalSec=30s\n"));
    }
}
