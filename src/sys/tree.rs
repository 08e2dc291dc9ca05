//! A worker's process tree: the worker and all that descends from it, to be signalled, ended and waited for as one.
//!
//! Owns who belongs to it. With a control group the kernel knows, and nothing escapes. Without, it is found out from
//! /proc: a process belongs to the tree when it is in the worker's session (setsid(2) was its first act), descends
//! from a member that lives, was a member when it was last looked for, or, if its parent is gone, still has the
//! worker's mark in its environment. What leaves the session, loses its parents and wipes its environment all between
//! two looks is lost; that takes a program that wants to.
//!
//! Must never signal by pid: pids are reused. Start times and pidfds tell.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cgroup::Cgroup;
use super::pidfd;
use super::proc::{self, Stat};

/// A process tree. Clones are of the same tree.
#[derive(Debug, Clone)]
pub enum Tree {
    /// All that is in a control group of the worker's own.
    Cgroup(Cgroup),
    /// The worker's session and descendants.
    Session(Arc<Session>),
}

/// A tree without a control group.
#[derive(Debug)]
pub struct Session {
    /// The worker, which is the session's leader.
    leader: Member,
    /// `NAME=value` in the environment of all of them, unless they take it out.
    mark: Option<Vec<u8>>,
    known: Mutex<Known>,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
struct Known {
    /// Members when last looked for, with their start times.
    seen: BTreeMap<u32, u64>,
    /// Nothing was left. From then on the session's number may belong to others, so it is never looked for again.
    over: bool,
}

/// A process of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its id.
    pub pid: u32,
    /// When it started (clock ticks since boot).
    pub start_time: u64,
}

/// Sweeps of SIGKILL over a tree whose members fork, before it is given up.
const MAX_SWEEPS: usize = 64;

impl Tree {
    /// The tree of a worker that leads a session, by its pid and start time. `mark` is an environment variable
    /// (`NAME=value`) that only this worker was given.
    #[must_use]
    pub fn session(pid: u32, start_time: u64, mark: Option<&str>) -> Tree {
        Tree::Session(Arc::new(Session {
            leader: Member { pid, start_time },
            mark: mark.map(|mark| mark.as_bytes().to_vec()),
            known: Mutex::default(),
        }))
    }

    /// Its live processes. Zombies do not count.
    ///
    /// # Errors
    /// When /proc or the control group cannot be read.
    pub fn members(&self) -> io::Result<Vec<Member>> {
        match self {
            Tree::Cgroup(cgroup) => {
                let member = |pid| proc::start_time(pid).map(|start_time| Member { pid, start_time });
                Ok(cgroup.pids()?.into_iter().filter_map(member).collect())
            }
            Tree::Session(session) => session.look(),
        }
    }

    /// Whether nothing of it lives.
    ///
    /// # Errors
    /// When /proc or the control group cannot be read.
    pub fn is_empty(&self) -> io::Result<bool> {
        match self {
            Tree::Cgroup(cgroup) => Ok(!cgroup.is_populated()?),
            Tree::Session(_) => Ok(self.members()?.is_empty()),
        }
    }

    /// Sends a signal to each process of it, once, and says to how many. One that is just being forked may be missed,
    /// as with kill(2) of a process group.
    ///
    /// # Errors
    /// When the tree cannot be read. Processes that have ended or may not be signalled (they became another user) are
    /// left out.
    pub fn signal_all(&self, signal: i32) -> io::Result<usize> {
        Ok(self.open_members()?.into_iter().filter(|(_, fd)| pidfd::send_signal(fd.as_fd(), signal).is_ok()).count())
    }

    /// SIGKILL to all of it, and to what it forks meanwhile. Returns when all have been signalled, not when they are
    /// gone: see [`Tree::wait_empty`].
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn kill_all(&self) -> io::Result<()> {
        if let Tree::Cgroup(cgroup) = self {
            let killed = cgroup.kill();
            // Else it is an old kernel, or a group that is not ours though its processes are.
            let by_hand = |error: &io::Error| {
                matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
            };
            if !killed.as_ref().is_err_and(by_hand) {
                return killed;
            }
        }
        let mut signalled = BTreeSet::new();
        for _ in 0..MAX_SWEEPS {
            let mut grew = false;
            for (member, fd) in self.open_members()? {
                if signalled.insert(member) {
                    grew = true;
                    // It may have ended, or be another user's by now; neither keeps the others alive.
                    let _ = pidfd::send_signal(fd.as_fd(), libc::SIGKILL);
                }
            }
            if !grew {
                break;
            }
        }
        Ok(())
    }

    /// Waits until nothing of it lives. The kernel tells; nothing is polled. Collects no status.
    ///
    /// # Errors
    /// When the tree cannot be read or no descriptors are left.
    pub async fn wait_empty(&self) -> io::Result<()> {
        if let Tree::Cgroup(cgroup) = self {
            return cgroup.wait_empty().await;
        }
        // All have to end, so one may be awaited after the other; those forked meanwhile are found by the next look.
        loop {
            let members = self.open_members()?;
            if members.is_empty() && self.is_empty()? {
                return Ok(());
            }
            for (_, fd) in members {
                pidfd::ended(fd.as_fd()).await?;
            }
        }
    }

    /// Descriptors of its processes, certain to be of them.
    fn open_members(&self) -> io::Result<Vec<(Member, OwnedFd)>> {
        let mut opened = Vec::new();
        for member in self.members()? {
            if let Some(fd) = pidfd::open_exact(member.pid, member.start_time)? {
                opened.push((member, fd));
            }
        }
        if let Tree::Cgroup(cgroup) = self {
            // Between reading the list and its start time a pid might have changed hands. What is still listed now,
            // under a pid that an open descriptor keeps from being reused, is meant.
            let still: BTreeSet<u32> = cgroup.pids()?.into_iter().collect();
            opened.retain(|(member, _)| still.contains(&member.pid));
        }
        Ok(opened)
    }
}

impl Session {
    /// Finds the live members, and remembers them.
    fn look(&self) -> io::Result<Vec<Member>> {
        let mut known = self.known();
        if known.over {
            return Ok(Vec::new());
        }
        let own = std::process::id();
        let processes = proc::all()?;
        let live: Vec<&Stat> =
            processes.iter().filter(|stat| !stat.is_dead() && stat.pid != own && stat.pid != 1).collect();
        // While any process is in the session its number is not given away; once another process has it, all were gone.
        let number_is_ours =
            processes.iter().all(|stat| stat.pid != self.leader.pid || stat.start_time == self.leader.start_time);
        let mut members: BTreeMap<u32, u64> = live
            .iter()
            .filter(|stat| {
                let is_leader = stat.pid == self.leader.pid && stat.start_time == self.leader.start_time;
                let in_session =
                    number_is_ours && stat.session == self.leader.pid && stat.start_time >= self.leader.start_time;
                is_leader || in_session || known.seen.get(&stat.pid) == Some(&stat.start_time)
            })
            .map(|stat| (stat.pid, stat.start_time))
            .collect();
        add_descendants(&mut members, &live);
        if let Some(mark) = &self.mark {
            let adopters = ancestors(own, &processes);
            for stat in live.iter().filter(|stat| stat.start_time >= self.leader.start_time) {
                if adopters.contains(&stat.ppid)
                    && !members.contains_key(&stat.pid)
                    && has_variable(stat.pid, |variable| variable == mark)
                {
                    members.insert(stat.pid, stat.start_time);
                }
            }
            add_descendants(&mut members, &live);
        }
        known.over = members.is_empty();
        known.seen.clone_from(&members);
        Ok(members.into_iter().map(|(pid, start_time)| Member { pid, start_time }).collect())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each look replaces it as a whole: a panic elsewhere leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes that were started with such a variable (`NAME=value`), as far as that can be seen; but not this one and
/// those above it.
///
/// # Errors
/// When /proc cannot be read.
pub fn marked(is_mark: impl Fn(&[u8]) -> bool) -> io::Result<Vec<Member>> {
    let processes = proc::all()?;
    let spared = ancestors(std::process::id(), &processes);
    let is_marked = |pid| has_variable(pid, &is_mark);
    let found = processes.iter().filter(|stat| !stat.is_dead() && !spared.contains(&stat.pid) && is_marked(stat.pid));
    Ok(found.map(|stat| Member { pid: stat.pid, start_time: stat.start_time }).collect())
}

/// Adds all that descend from members.
fn add_descendants(members: &mut BTreeMap<u32, u64>, live: &[&Stat]) {
    loop {
        let before = members.len();
        for stat in live {
            if members.contains_key(&stat.ppid) {
                members.insert(stat.pid, stat.start_time);
            }
        }
        if members.len() == before {
            return;
        }
    }
}

/// A process, all above it, and init, which may not be above it in a container that was entered from outside. Orphans
/// of its descendants fall to one of them.
fn ancestors(pid: u32, processes: &[Stat]) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([1]);
    let mut next = Some(pid);
    while let Some(pid) = next.filter(|pid| *pid != 0 && found.insert(*pid)) {
        next = processes.iter().find(|stat| stat.pid == pid).map(|stat| stat.ppid);
    }
    found
}

/// Whether a process was started with such a variable.
fn has_variable(pid: u32, is_meant: impl Fn(&[u8]) -> bool) -> bool {
    // Somebody else's environment cannot be read, and is not the worker's.
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.split(|&b| b == 0).any(is_meant))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::time::Duration;

    use crate::sys::cgroup;
    use crate::sys::pidfd::ExitStatus;
    use crate::sys::spawn::{Child, Spawn};

    const DEADLINE: Duration = Duration::from_secs(20);

    /// Starts a shell script as a worker; it writes the pids of what it leaves behind, one a line, `lines` of them.
    async fn worker(script: &str, lines: usize, describe: impl FnOnce(&mut Spawn)) -> (Child, Vec<u32>) {
        let (reader, writer) = io::pipe().unwrap();
        let mut spawn = Spawn::new("/bin/sh", ["-c", script]);
        spawn.env.push(("PATH".into(), "/usr/bin:/bin".into()));
        spawn.fds.push((writer.into(), 1));
        describe(&mut spawn);
        let child = spawn.start().unwrap().release(DEADLINE).await.unwrap();
        let pids = tokio::task::spawn_blocking(move || {
            BufReader::new(reader).lines().take(lines).map(|line| line.unwrap().parse().unwrap()).collect()
        });
        (child, tokio::time::timeout(DEADLINE, pids).await.unwrap().unwrap())
    }

    async fn wait(child: &Child) -> ExitStatus {
        tokio::time::timeout(DEADLINE, pidfd::wait(child.pidfd.as_fd())).await.unwrap().unwrap()
    }

    fn pids(tree: &Tree) -> Vec<u32> {
        tree.members().unwrap().into_iter().map(|member| member.pid).collect()
    }

    fn sorted(mut pids: Vec<u32>) -> Vec<u32> {
        pids.sort_unstable();
        pids
    }

    /// A grandchild in a session of its own whose parent lives.
    const DAEMONIZES: &str = "sh -c 'setsid sh -c \"echo \\$\\$; exec sleep 600\" & wait $!' & ";
    /// A grandchild in a session of its own whose parent has ended: nothing in /proc leads from it to the worker.
    const ESCAPES: &str = "(setsid sh -c 'echo $$; exec sleep 600' &) ; ";

    #[tokio::test]
    async fn a_session_has_children_orphans_and_those_who_left_it() {
        // A child, an orphan in the session, and a child that has a session of its own but still a parent.
        let script = format!("sleep 600 & echo $!; (sleep 600 & echo $!); {DAEMONIZES} wait");
        let (child, left) = worker(&script, 3, |_| ()).await;
        let tree = Tree::session(child.pid, child.start_time, None);
        let members = pids(&tree);
        assert!(members.contains(&child.pid));
        assert!(left.iter().all(|pid| members.contains(pid)), "{left:?} {members:?}");
        assert!(!members.contains(&std::process::id()));
        assert!(!tree.is_empty().unwrap());
        // The worker is killed alone: what is left of it is remembered.
        pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert_eq!(wait(&child).await, ExitStatus::Signal(libc::SIGKILL));
        let members = pids(&tree);
        assert!(left.iter().all(|pid| members.contains(pid)), "{left:?} {members:?}");
        let waiting = tree.wait_empty();
        tree.kill_all().unwrap();
        tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(tree.is_empty().unwrap());
    }

    #[tokio::test]
    async fn a_stop_signal_reaches_each_once_and_collects_nothing() {
        // Not SIGINT: what a shell puts into the background ignores it.
        let (child, left) = worker("sleep 600 & echo $!; exec sleep 600", 1, |_| ()).await;
        let tree = Tree::session(child.pid, child.start_time, None);
        let waiting = tree.clone();
        let waiting = tokio::spawn(async move { waiting.wait_empty().await });
        assert_eq!(tree.signal_all(libc::SIGTERM).unwrap(), 2);
        tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(wait(&child).await, ExitStatus::Signal(libc::SIGTERM), "its status was still there");
        assert!(proc::start_time(left[0]).is_none_or(|_| Stat::read(left[0]).unwrap().is_dead()));
        assert_eq!(tree.signal_all(libc::SIGTERM).unwrap(), 0);
    }

    #[tokio::test]
    async fn one_that_escapes_before_the_first_look_is_known_by_its_mark_only() {
        let mark = format!("PM2RS_TEST_MARK={}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let script = format!("{ESCAPES} echo 0; exec sleep 600");
        let (child, mut left) = worker(&script, 2, |spawn| spawn.env.push((name.into(), value.into()))).await;
        let marked = Tree::session(child.pid, child.start_time, Some(&mark));
        pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
        wait(&child).await;
        // The 0 came when the shell between had ended, and made it an orphan.
        left.retain(|pid| *pid != 0);
        let blind = Tree::session(child.pid, child.start_time, None);
        assert_eq!(pids(&blind), Vec::<u32>::new());
        assert_eq!(pids(&marked), left);
        marked.kill_all().unwrap();
        tokio::time::timeout(DEADLINE, marked.wait_empty()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nothing_escapes_a_cgroup() {
        let Some(group) = cgroup::tests::for_test("tree") else { return };
        let folder = group.open().unwrap();
        let script = format!("{ESCAPES} {DAEMONIZES} trap '' INT TERM; while :; do sleep 600; done");
        let (child, left) = worker(&script, 2, |spawn| spawn.cgroup = Some(folder)).await;
        let tree = Tree::Cgroup(group.clone());
        let members = pids(&tree);
        assert!(members.contains(&child.pid) && left.iter().all(|pid| members.contains(pid)), "{left:?} {members:?}");
        assert_eq!(tree.signal_all(0).unwrap(), tree.members().unwrap().len());
        let waiting = tree.wait_empty();
        tree.kill_all().unwrap();
        assert_eq!(wait(&child).await, ExitStatus::Signal(libc::SIGKILL));
        tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(tree.is_empty().unwrap());
        group.remove().unwrap();
    }

    #[tokio::test]
    async fn those_who_fork_on_are_caught() {
        // Each child is replaced as soon as it ends.
        let (child, _) = worker("echo 1; while :; do sleep 0.001 & sleep 0.002; wait; done", 1, |_| ()).await;
        let tree = Tree::session(child.pid, child.start_time, None);
        tree.kill_all().unwrap();
        wait(&child).await;
        tokio::time::timeout(DEADLINE, tree.wait_empty()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn another_process_under_the_same_number_is_left_alone() {
        let (child, _) = worker("echo 1; exec sleep 600", 1, |_| ()).await;
        let tree = Tree::session(child.pid, child.start_time.wrapping_sub(1), None);
        assert!(tree.is_empty().unwrap());
        tree.kill_all().unwrap();
        let real = Tree::session(child.pid, child.start_time, None);
        assert_eq!(sorted(pids(&real)), [child.pid]);
        real.kill_all().unwrap();
        wait(&child).await;
        assert!(real.is_empty().unwrap());
    }

    #[tokio::test]
    async fn the_marked_are_found_wherever_they_are() {
        let mark = format!("PM2RS_TEST_MARK=all:{}", std::process::id());
        let set = |spawn: &mut Spawn| {
            let (name, value) = mark.split_once('=').unwrap();
            spawn.env.push((name.into(), value.into()));
        };
        let (child, mut wanted) = worker(&format!("{ESCAPES} exec sleep 600"), 1, set).await;
        wanted.push(child.pid);
        let found = || sorted(marked(|variable| variable == mark.as_bytes()).unwrap().iter().map(|m| m.pid).collect());
        // It executes its program a moment after its child has written.
        while found() != sorted(wanted.clone()) {
            tokio::task::yield_now().await;
        }
        for member in marked(|variable| variable == mark.as_bytes()).unwrap() {
            Tree::session(member.pid, member.start_time, None).kill_all().unwrap();
        }
        wait(&child).await;
        while !found().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
