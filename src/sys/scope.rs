//! systemd's transient scopes: a unit for each worker, made of a process that exists already.
//!
//! Owns what is asked of org.freedesktop.systemd1, of the system's manager or a user's, whichever the connection leads
//! to. Must never wait for it without a deadline.

use std::pin::pin;
use std::time::Duration;

use zbus::export::ordered_stream::OrderedStreamExt;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, Variant};

use super::cgroup::{Cgroup, ResourceLimits};

/// After so long without an answer a start waits for the stop of the service that the scope is ordered to
/// (systemd.unit(5): a stop comes before a start), which waits for the daemon, and it for the scope.
const HELD_BACK: Duration = Duration::from_millis(300);

/// A scope to be.
#[derive(Debug, Clone)]
pub struct ScopeOrder<'a> {
    /// The unit's name, see [`unit_name`].
    pub unit: &'a str,
    /// What `systemctl status` shows beside it.
    pub description: &'a str,
    /// The slice it lies in; made when there is none.
    pub slice: &'a str,
    /// The process that it is made of; what it forks will be in it.
    pub pid: u32,
    /// Bounds on all of it.
    pub limits: ResourceLimits,
    /// A unit that is to be stopped first when the machine goes down: the daemon's own, so that it, not systemd, ends
    /// the worker.
    pub stopped_after: Option<&'a str>,
}

/// A scope that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The unit's name.
    pub unit: String,
    /// Its control group.
    pub cgroup: Cgroup,
}

/// Why there is no such scope, or it could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// systemd refused, or the bus does not work.
    #[error("cannot {verb} unit `{unit}`: {source}")]
    Bus {
        /// What was to be done.
        verb: &'static str,
        /// To which unit.
        unit: String,
        /// What was answered.
        source: zbus::Error,
    },
    /// The job that was to start it ended otherwise than well.
    #[error("cannot start unit `{unit}`: its job ended as `{result}`")]
    JobFailed {
        /// Which unit.
        unit: String,
        /// systemd's word: `canceled`, `timeout`, `failed`, `dependency`, `skipped`.
        result: String,
    },
    /// No answer in time.
    #[error("cannot {verb} unit `{unit}`: systemd did not answer within {} ms", deadline.as_millis())]
    TimedOut {
        /// What was to be done.
        verb: &'static str,
        /// To which unit.
        unit: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It runs, but the process is in no control group that can be seen (a machine without version 2).
    #[error("cannot find the control group of unit `{unit}`")]
    NoCgroup {
        /// Which unit.
        unit: String,
    },
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, &[(&str, Variant<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;

    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;

    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;

    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// Makes a scope and waits until the process is in it.
///
/// # Errors
/// See [`ScopeError`]. After one the unit may still come into being; it goes with its process.
pub async fn start(connection: &Connection, order: &ScopeOrder<'_>, deadline: Duration) -> Result<Scope, ScopeError> {
    let verb = "start";
    let unit = order.unit.to_owned();
    let started = tokio::time::timeout(deadline, start_job(connection, order)).await;
    match started {
        Ok(Ok(result)) if result == "done" => (),
        Ok(Ok(result)) => return Err(ScopeError::JobFailed { unit, result }),
        Ok(Err(source)) => return Err(ScopeError::Bus { verb, unit, source }),
        Err(_) => return Err(ScopeError::TimedOut { verb, unit, deadline }),
    }
    found(order.unit, order.pid).ok_or(ScopeError::NoCgroup { unit })
}

/// The scope of that name, if the process is in it. From the kernel rather than from the unit's ControlGroup: one message
/// less, and true if it is there.
#[must_use]
pub fn found(unit: &str, pid: u32) -> Option<Scope> {
    let cgroup = Cgroup::of(pid).filter(|cgroup| cgroup.path().ends_with(unit))?;
    Some(Scope { unit: unit.to_owned(), cgroup })
}

async fn start_job(connection: &Connection, order: &ScopeOrder<'_>) -> zbus::Result<String> {
    let manager = manager(connection).await?;
    // Listening before asking: the job may be over before its name is known. systemd tells the one who made the job
    // also without a subscription.
    let mut removed = manager.receive_job_removed_with_args(&[(2, order.unit)]).await?;
    let job = manager.start_transient_unit(order.unit, "fail", &properties(order), &[]).await?;
    let mut held_back = pin!(tokio::time::sleep(HELD_BACK));
    let mut waits = order.stopped_after.is_some();
    loop {
        let signal = tokio::select! {
            signal = removed.next() => signal,
            () = &mut held_back, if waits => {
                waits = false;
                // This takes the job that waits and has it run now. That it may be over by now is no error of ours.
                if let Err(error) = manager.start_unit(order.unit, "ignore-dependencies").await {
                    tracing::debug!(%error, unit = order.unit, "cannot hurry a unit on");
                }
                continue;
            }
        };
        let Some(signal) = signal else { break };
        let ended = signal.args()?;
        if ended.job == job {
            return Ok(ended.result);
        }
    }
    Err(zbus::Error::InputOutput(std::sync::Arc::new(std::io::ErrorKind::ConnectionAborted.into())))
}

fn properties<'a>(order: &ScopeOrder<'a>) -> Vec<(&'static str, Variant<'a>)> {
    let mut properties = vec![
        ("Description", Variant::from(order.description)),
        ("Slice", Variant::from(order.slice)),
        ("PIDs", Variant::from(vec![order.pid])),
        // A unit that failed would stay and keep its name taken.
        ("CollectMode", Variant::from("inactive-or-failed")),
    ];
    if let Some(unit) = order.stopped_after {
        // What is before another when starting is after it when stopping (systemd.unit(5)).
        properties.push(("Before", Variant::from(vec![unit])));
    }
    if let Some(bytes) = order.limits.memory_max {
        properties.push(("MemoryMax", Variant::from(bytes)));
    }
    if let Some(percent) = order.limits.cpu_percent {
        // Of a second of one CPU.
        properties.push(("CPUQuotaPerSecUSec", Variant::from(u64::from(percent) * 10_000)));
    }
    if let Some(tasks) = order.limits.tasks_max {
        properties.push(("TasksMax", Variant::from(tasks)));
    }
    properties
}

/// Has systemd end a unit; returns when it has begun to. One that is not there has ended.
///
/// # Errors
/// See [`ScopeError`].
pub async fn stop(connection: &Connection, unit: &str, deadline: Duration) -> Result<(), ScopeError> {
    let asked = async { manager(connection).await?.stop_unit(unit, "replace").await.map(drop) };
    unless_gone("stop", unit, deadline, asked).await
}

/// Has systemd forget that a unit failed, so that its name is free. One that is not there is forgotten.
///
/// # Errors
/// See [`ScopeError`].
pub async fn reset(connection: &Connection, unit: &str, deadline: Duration) -> Result<(), ScopeError> {
    let asked = async { manager(connection).await?.reset_failed_unit(unit).await };
    unless_gone("reset", unit, deadline, asked).await
}

async fn unless_gone(
    verb: &'static str,
    unit: &str,
    deadline: Duration,
    asked: impl Future<Output = zbus::Result<()>>,
) -> Result<(), ScopeError> {
    let unit = unit.to_owned();
    match tokio::time::timeout(deadline, asked).await {
        Ok(Err(error)) if is_named(&error, "NoSuchUnit") => Ok(()),
        Ok(outcome) => outcome.map_err(|source| ScopeError::Bus { verb, unit, source }),
        Err(_) => Err(ScopeError::TimedOut { verb, unit, deadline }),
    }
}

/// Whether this is systemd's error of that name.
fn is_named(error: &zbus::Error, name: &str) -> bool {
    let zbus::Error::MethodError(full, ..) = error else { return false };
    full.as_str().strip_prefix("org.freedesktop.systemd1.") == Some(name)
}

/// Whether systemd starts the service of this process again when it ends: it is restarting it, or it wants nothing of it
/// and restarts it whenever it ends. SIGTERM comes for a stop, for a restart and from kill(1) alike, and only this tells
/// which. False for a process that is no service.
///
/// # Errors
/// When the bus does not work.
pub async fn is_to_come_back(connection: &Connection) -> zbus::Result<bool> {
    let path = match manager(connection).await?.get_unit_by_pid(std::process::id()).await {
        Err(error) if is_named(&error, "NoUnitForPID") => return Ok(false),
        other => other?,
    };
    let unit = object(connection, path.clone(), "org.freedesktop.systemd1.Unit").await?;
    let (id, job): (u32, OwnedObjectPath) = unit.get_property("Job").await?;
    if id != 0 {
        let job = object(connection, job, "org.freedesktop.systemd1.Job").await?;
        match job.get_property::<String>("JobType").await?.as_str() {
            "stop" => return Ok(false),
            "restart" | "try-restart" => return Ok(true),
            // A start or a reload is not why it is to end.
            _ => (),
        }
    }
    let service = object(connection, path, "org.freedesktop.systemd1.Service").await?;
    Ok(service.get_property::<String>("Restart").await.is_ok_and(|restart| restart == "always"))
}

/// Whether a unit is inactive or failed and systemd is about to do nothing with it. Holds for one that is not loaded.
///
/// # Errors
/// When the bus does not work.
pub async fn is_at_rest(connection: &Connection, unit: &str) -> zbus::Result<bool> {
    let path = match manager(connection).await?.get_unit(unit).await {
        Err(error) if is_named(&error, "NoSuchUnit") => return Ok(true),
        other => other?,
    };
    let unit = object(connection, path, "org.freedesktop.systemd1.Unit").await?;
    let (job, _): (u32, OwnedObjectPath) = unit.get_property("Job").await?;
    let state: String = unit.get_property("ActiveState").await?;
    Ok(job == 0 && matches!(state.as_str(), "inactive" | "failed"))
}

async fn manager(connection: &Connection) -> zbus::Result<ManagerProxy<'static>> {
    ManagerProxy::builder(connection).cache_properties(CacheProperties::No).build().await
}

async fn object(
    connection: &Connection,
    path: OwnedObjectPath,
    interface: &'static str,
) -> zbus::Result<zbus::Proxy<'static>> {
    zbus::proxy::Builder::new(connection)
        .destination("org.freedesktop.systemd1")
        .path(path)
        .interface(interface)
        .cache_properties(CacheProperties::No)
        .build()
        .await
}

/// A valid name for a scope, from a prefix that says whose it is and parts that may hold anything. Characters that a
/// unit's name may not have, and `-` in parts, become `\xNN` as systemd-escape(1) does it.
#[must_use]
pub fn unit_name(prefix: &str, parts: &[&str]) -> String {
    /// UNIT_NAME_MAX without the suffix.
    const ROOM: usize = 255 - ".scope".len();
    let mut name = prefix.to_owned();
    for part in parts {
        name.push('-');
        for byte in part.bytes() {
            match byte {
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b':' | b'_' | b'.' => name.push(char::from(byte)),
                _ => name.push_str(&format!("\\x{byte:02x}")),
            }
        }
    }
    // Only a name that is far too long is cut, and then between characters, all of which are ASCII but the prefix's.
    let end = (0..=ROOM.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name.truncate(end);
    name + ".scope"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::pidfd;
    use crate::sys::spawn::Spawn;
    use std::os::fd::AsFd;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn names_are_valid_whatever_the_parts() {
        assert_eq!(unit_name("pm2rs", &["api", "3", "17"]), "pm2rs-api-3-17.scope");
        assert_eq!(unit_name("pm2rs", &["a-b/\u{e4} c@\\"]), "pm2rs-a\\x2db\\x2f\\xc3\\xa4\\x20c\\x40\\x5c.scope");
        let long = unit_name("pm2rs", &[&"/".repeat(500)]);
        assert!(long.len() <= 255 && long.ends_with(".scope"));
        // Parts cannot run into each other.
        assert_ne!(unit_name("p", &["a-b", "c"]), unit_name("p", &["a", "b-c"]));
    }

    #[tokio::test]
    async fn a_held_process_is_put_into_a_scope_and_ends_with_it() {
        let connection = Connection::system().await.ok().filter(|_| nix::unistd::geteuid().is_root());
        let running = std::path::Path::new("/run/systemd/system").is_dir();
        let Some(connection) = connection.filter(|_| running) else {
            println!("skipped, needs systemd, its bus and root");
            return;
        };
        let unit = unit_name("pm2rs-test", &["a b", &std::process::id().to_string()]);
        let mut spawn = Spawn::new("/bin/sh", ["-c", "sleep 600 & exec sleep 600"]);
        spawn.hold = true;
        let held = spawn.start().unwrap();
        let order = ScopeOrder {
            unit: &unit,
            description: "a test",
            slice: "pm2rs.slice",
            pid: held.pid(),
            limits: ResourceLimits { memory_max: Some(1 << 28), cpu_percent: Some(50), tasks_max: Some(30) },
            stopped_after: Some("pm2rs.service"),
        };
        let scope = start(&connection, &order, DEADLINE).await.unwrap();
        assert_eq!((scope.unit.as_str(), scope.cgroup.is_populated().unwrap()), (unit.as_str(), true));
        let taken = start(&connection, &order, DEADLINE).await.unwrap_err();
        assert!(taken.to_string().starts_with(&format!("cannot start unit `{unit}`: ")), "{taken}");
        let child = held.release(DEADLINE).await.unwrap();
        assert_eq!(Cgroup::of(child.pid), Some(scope.cgroup.clone()));
        stop(&connection, &unit, DEADLINE).await.unwrap();
        let status = tokio::time::timeout(DEADLINE, pidfd::wait(child.pidfd.as_fd())).await.unwrap().unwrap();
        assert_eq!(status, pidfd::ExitStatus::Signal(libc::SIGTERM));
        tokio::time::timeout(DEADLINE, scope.cgroup.wait_empty()).await.unwrap().unwrap();
        // Collected, or about to be; either way nobody has to know.
        reset(&connection, &unit, DEADLINE).await.unwrap();
        stop(&connection, "pm2rs-test-none.scope", DEADLINE).await.unwrap();
        assert!(is_at_rest(&connection, "pm2rs-test-none.service").await.unwrap());
        assert!(!is_at_rest(&connection, "dbus.service").await.unwrap());
        // Nobody restarts a test.
        assert!(!is_to_come_back(&connection).await.unwrap());
    }
}
