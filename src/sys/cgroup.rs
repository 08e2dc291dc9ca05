//! Control groups, version 2: finding them, making them, ending all that is in one.
//!
//! Owns the file formats of cgroups(7). Must never write into a group that somebody else manages: where systemd runs,
//! only groups that it has delegated are ours to divide.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use tokio::io::Interest;

use super::watched::Watched;

/// A group, by its folder. It need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

/// Bounds on what the processes of a group may use together; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Memory (bytes).
    pub memory_max: Option<u64>,
    /// CPU time in percent of one CPU.
    pub cpu_percent: Option<u32>,
    /// Processes and threads.
    pub tasks_max: Option<u64>,
}

/// What `memory.events` counts, that matters to a supervisor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// How often the limit was hit and memory could not be had otherwise.
    pub oom: u64,
    /// Processes that the kernel killed for it.
    pub oom_kill: u64,
}

impl Cgroup {
    /// The group with this folder.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Cgroup {
        Cgroup { path: path.into() }
    }

    /// The group that systemd calls by this name (the `ControlGroup` property): a path from the hierarchy's root.
    /// `None` where no version 2 hierarchy is mounted, or not the part with that group.
    #[must_use]
    pub fn named(name: &str) -> Option<Cgroup> {
        locate(&fs::read_to_string("/proc/self/mountinfo").ok()?, name).map(Cgroup::at)
    }

    /// The group this process is in.
    #[must_use]
    pub fn own() -> Option<Cgroup> {
        Cgroup::of_process("self")
    }

    /// The group that a process is in.
    #[must_use]
    pub fn of(pid: u32) -> Option<Cgroup> {
        Cgroup::of_process(&pid.to_string())
    }

    fn of_process(process: &str) -> Option<Cgroup> {
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
        Cgroup::named(v2_name(&groups)?)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process may make groups in it and put processes there. To be allowed by the kernel is not enough
    /// where systemd runs: it takes the tree to be its own but for groups marked as delegated (its CGROUP_DELEGATION).
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        let writable = |path: &Path| rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
        if !writable(&self.path) || !writable(&self.file("cgroup.procs")) {
            return false;
        }
        !Path::new("/run/systemd/system").is_dir()
            || ["user.delegate", "trusted.delegate"].into_iter().any(|name| {
                let mut value = [0u8; 8];
                let read = rustix::fs::getxattr(&self.path, name, &mut value);
                read.is_ok_and(|len| value.get(..len) == Some(b"1"))
            })
    }

    /// Makes a group in this one, or takes the one that is there.
    ///
    /// # Errors
    /// As mkdir(2); EAGAIN at the hierarchy's limit of groups.
    pub fn create(&self, name: &str) -> io::Result<Cgroup> {
        let child = Cgroup::at(self.path.join(name));
        match fs::create_dir(&child.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(child),
        }
    }

    /// Its folder as a descriptor, for processes that are to be born in it.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(&self.path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// EPERM and EACCES for want of rights here, there or in the closest group above both; EBUSY when this group
    /// gives controllers to groups below; ESRCH for no such process.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Removes it and all groups below, which must be empty of processes. One that is not there is removed already.
    ///
    /// # Errors
    /// EBUSY when there are processes.
    pub fn remove(&self) -> io::Result<()> {
        for child in self.children()? {
            child.remove()?;
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn children(&self) -> io::Result<Vec<Cgroup>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(Cgroup::at(entry.path()));
            }
        }
        Ok(found)
    }

    /// The processes in it and in all groups below. None when it does not exist.
    ///
    /// # Errors
    /// When a group cannot be read.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let mut found: Vec<u32> = match fs::read_to_string(self.file("cgroup.procs")) {
            Ok(list) => list.lines().filter_map(|pid| pid.parse().ok()).collect(),
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        for child in self.children()? {
            found.extend(child.pids()?);
        }
        // 0 stands for processes outside of our pid namespace.
        found.retain(|pid| *pid != 0);
        Ok(found)
    }

    /// Sends SIGKILL to all processes in it and below, at one stroke: nobody can fork away.
    ///
    /// # Errors
    /// `Unsupported` before Linux 5.14.
    pub fn kill(&self) -> io::Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(error) if is_gone(&error) && self.path.exists() => Err(io::ErrorKind::Unsupported.into()),
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        }
    }

    /// Whether there are live processes in it or below. A group that does not exist has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_populated(&self) -> io::Result<bool> {
        match fs::read_to_string(self.file("cgroup.events")) {
            Ok(events) => Ok(counter(&events, "populated") != Some(0)),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until there are no live processes in it or below. The kernel tells; nothing is polled.
    ///
    /// # Errors
    /// When it cannot be read or no descriptors are left.
    pub async fn wait_empty(&self) -> io::Result<()> {
        let events = match fs::File::open(self.file("cgroup.events")) {
            Err(error) if is_gone(&error) => return Ok(()),
            other => other?,
        };
        let told = Watched::with_interest(events.try_clone()?.into(), Interest::PRIORITY)?;
        let mut text = [0u8; 256];
        loop {
            // Reading is also what arms the event (kernfs: poll tells of changes since the last read).
            let len = match events.read_at(&mut text, 0) {
                Err(error) if is_gone(&error) => return Ok(()),
                other => other?,
            };
            let text = String::from_utf8_lossy(text.get(..len).unwrap_or_default());
            if counter(&text, "populated") == Some(0) {
                return Ok(());
            }
            told.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }

    /// Bounds what the group may use. Needs the controllers, see [`Cgroup::enable_controllers`].
    ///
    /// # Errors
    /// `NotFound` when the group does not have the controller for one of the bounds.
    pub fn limit(&self, limits: &ResourceLimits) -> io::Result<()> {
        /// cpu.max: time per period, both in microseconds.
        const PERIOD: u64 = 100_000;
        if let Some(bytes) = limits.memory_max {
            self.write("memory.max", &bytes.to_string())?;
            // The worker ends as a whole, not with one of its helpers missing.
            self.write("memory.oom.group", "1")?;
        }
        if let Some(percent) = limits.cpu_percent {
            self.write("cpu.max", &format!("{} {PERIOD}", PERIOD * u64::from(percent) / 100))?;
        }
        if let Some(tasks) = limits.tasks_max {
            self.write("pids.max", &tasks.to_string())?;
        }
        Ok(())
    }

    /// Gives groups below the controllers that [`Cgroup::limit`] needs, as far as they are there, and says which they
    /// have. A group that does so may not have processes itself (cgroups(7), "no internal processes"), so this
    /// process first moves into a group below of the name given.
    ///
    /// # Errors
    /// When it cannot move.
    pub fn enable_controllers(&self, own_group: &str) -> io::Result<Vec<String>> {
        self.create(own_group)?.add(std::process::id())?;
        for controller in ["memory", "cpu", "pids"] {
            // Whether it worked is seen below; one that is not there must not keep the others away.
            let _ = self.write("cgroup.subtree_control", &format!("+{controller}"));
        }
        let enabled = fs::read_to_string(self.file("cgroup.subtree_control"))?;
        Ok(enabled.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// What has happened to the group for want of memory; `None` without the memory controller.
    #[must_use]
    pub fn memory_events(&self) -> Option<MemoryEvents> {
        let events = fs::read_to_string(self.file("memory.events")).ok()?;
        Some(MemoryEvents {
            oom: counter(&events, "oom").unwrap_or(0),
            oom_kill: counter(&events, "oom_kill").unwrap_or(0),
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        // Opened without O_CREAT and in one write, as the kernel's files want it.
        io::Write::write_all(&mut fs::OpenOptions::new().write(true).open(self.file(name))?, value.as_bytes())
    }
}

/// Whether this is how a file of a removed group answers.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// A number in a file of lines `name number`.
fn counter(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// The version 2 group in `/proc/PID/cgroup`.
fn v2_name(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::")).map(|name| name.trim_end_matches(" (deleted)"))
}

/// The folder of a group, given where version 2 is mounted: at /sys/fs/cgroup, or beside version 1 at
/// /sys/fs/cgroup/unified, whole or, in a container, from some group on.
fn locate(mountinfo: &str, name: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        if source.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        // A group outside of our cgroup namespace begins with `/..`.
        let below = Path::new(name).strip_prefix(&root).ok().filter(|below| !below.starts_with(".."))?;
        Some(if below.as_os_str().is_empty() { point.into() } else { Path::new(&point).join(below) })
    })
}

/// Undoes the octal escapes of proc(5)'s mountinfo.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// A group of our own for a test; `None`, said, where none is to be had. To be removed by the test.
    pub fn for_test(name: &str) -> Option<Cgroup> {
        let own = Cgroup::own().filter(Cgroup::is_delegated);
        let made = own.and_then(|own| own.create(&format!("pm2rs-test-{name}-{}", std::process::id())).ok());
        if made.is_none() {
            println!("{name}: skipped, needs a delegated cgroup");
        }
        made
    }

    const HYBRID: &str = "\
31 1 0:27 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:29 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
";

    #[test]
    fn a_group_is_found_wherever_version_2_is_mounted() {
        let at = |mounts: &str, name: &str| locate(mounts, name).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(at(HYBRID, "/").as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(at(HYBRID, "/a.slice/b").as_deref(), Some("/sys/fs/cgroup/unified/a.slice/b"));
        let unified = "25 20 0:22 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(at(unified, "/x").as_deref(), Some("/sys/fs/cgroup/x"));
        let container = "25 20 0:22 /docker/abc /sys/fs/cgroup\\040x ro - cgroup2 cgroup rw\n";
        assert_eq!(at(container, "/docker/abc/y").as_deref(), Some("/sys/fs/cgroup x/y"));
        assert_eq!(at(container, "/docker/abcd"), None);
        assert_eq!(at(unified, "/../other"), None);
        assert_eq!(at("33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n", "/"), None);
    }

    #[test]
    fn the_group_of_a_process_is_read() {
        assert_eq!(v2_name("9:name=systemd:/old\n0::/user.slice/x.scope\n"), Some("/user.slice/x.scope"));
        assert_eq!(v2_name("0::/gone (deleted)\n"), Some("/gone"));
        assert_eq!(v2_name("1:cpu:/\n"), None);
    }

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let events = "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n";
        assert_eq!(
            (counter(events, "oom"), counter(events, "oom_kill"), counter(events, "oo")),
            (Some(3), Some(4), None)
        );
    }

    #[tokio::test]
    async fn a_group_is_made_filled_ended_and_removed() {
        let Some(group) = for_test("made") else { return };
        assert!(!group.is_populated().unwrap());
        let below = group.create("below").unwrap();
        let mut one = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut two = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        group.add(one.id()).unwrap();
        below.add(two.id()).unwrap();
        assert_eq!(Cgroup::of(two.id()), Some(below.clone()));
        let mut pids = group.pids().unwrap();
        pids.sort_unstable();
        let mut wanted = vec![one.id(), two.id()];
        wanted.sort_unstable();
        assert_eq!(pids, wanted);
        assert!(group.is_populated().unwrap());
        assert!(group.remove().is_err());
        let waiting = group.wait_empty();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), &mut waiting).await.is_err());
        group.kill().unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.unwrap().unwrap();
        one.wait().unwrap();
        two.wait().unwrap();
        group.remove().unwrap();
        assert!(!group.path().exists());
        // Of what is not there, nothing is left to be done.
        assert_eq!(group.pids().unwrap(), Vec::<u32>::new());
        assert!(!group.is_populated().unwrap());
        group.wait_empty().await.unwrap();
        group.kill().unwrap();
        group.remove().unwrap();
    }
}
