//! What /proc tells of processes: parsers by hand, of the few files that are read often.
//!
//! Owns proc(5)'s formats. Must never be asked for more than it needs to read: one file a question.

use std::fs;
use std::io;

/// One process, as `/proc/PID/stat` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: u32,
    /// The kernel's name of it: at most 15 bytes, whatever they are.
    pub comm: String,
    /// `R`, `S`, `D`, `Z`, `T`, ...
    pub state: char,
    /// Parent.
    pub ppid: u32,
    /// Process group.
    pub pgrp: u32,
    /// Session.
    pub session: u32,
    /// CPU time in user mode (clock ticks, see [`ticks_per_second`]).
    pub utime: u64,
    /// CPU time in the kernel (clock ticks).
    pub stime: u64,
    /// Threads that have not ended.
    pub threads: u64,
    /// When it started (clock ticks since boot). A pid together with this names a process for good.
    pub start_time: u64,
    /// Resident memory (bytes). The kernel keeps it a little behind, by some pages a CPU.
    pub rss: u64,
}

impl Stat {
    /// Reads a process's line.
    ///
    /// # Errors
    /// `NotFound` when there is no such process (any more); `InvalidData` for a line that is not understood.
    pub fn read(pid: u32) -> io::Result<Stat> {
        let line = fs::read(format!("/proc/{pid}/stat")).map_err(|error| {
            // A process that goes away between open(2) and read(2) is told by ESRCH.
            if error.raw_os_error() == Some(libc::ESRCH) { io::ErrorKind::NotFound.into() } else { error }
        })?;
        Stat::parse(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not understood: /proc/PID/stat"))
    }

    /// Takes a line apart; `None` when it is not one.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Stat> {
        // The name is in brackets and may itself hold brackets, spaces and newlines: the last one ends it.
        let open = line.iter().position(|&b| b == b'(')?;
        let close = line.iter().rposition(|&b| b == b')')?;
        let pid = std::str::from_utf8(line.get(..open)?).ok()?.trim().parse().ok()?;
        let comm = String::from_utf8_lossy(line.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        // proc(5) counts from 1: after the name (2) comes the state (3). `nth` takes what it skips.
        let state = fields.next()?.chars().next()?;
        let ppid = fields.next()?.parse().ok()?;
        let pgrp = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let utime = fields.nth(14 - 7)?.parse().ok()?;
        let stime = fields.next()?.parse().ok()?;
        let threads = fields.nth(20 - 16)?.parse().ok()?;
        let start_time = fields.nth(22 - 21)?.parse().ok()?;
        let rss_pages: u64 = fields.nth(24 - 23)?.parse().ok()?;
        let rss = rss_pages.saturating_mul(rustix::param::page_size() as u64);
        Some(Stat { pid, comm, state, ppid, pgrp, session, utime, stime, threads, start_time, rss })
    }

    /// Whether it has ended already and only its status is left to be collected. A main thread that has ended before
    /// others is a zombie, too, of a process that lives.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
    }
}

/// When a process started (clock ticks since boot); `None` when there is no such process.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    Stat::read(pid).ok().map(|stat| stat.start_time)
}

/// How long (ms) a process's main thread was ready to run and had to wait for a CPU since it began; `None` when the
/// process with this start time is gone, or where the kernel does not count it (CONFIG_SCHED_INFO).
#[must_use]
pub fn awaited_cpu(pid: u32, start_time: u64) -> Option<u64> {
    let counted = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    (self::start_time(pid)? == start_time).then(|| parse_awaited_cpu(&counted))?
}

/// The second of three numbers: time on a CPU and time waited for one (ns), turns (Documentation/scheduler/sched-stats.rst).
fn parse_awaited_cpu(counted: &str) -> Option<u64> {
    let waited: u64 = counted.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(waited / 1_000_000)
}

/// How a process ended that has ended but is not collected yet, as wait(2)'s word; `None` when it runs, is gone, or
/// is not ours to look at.
#[must_use]
pub fn zombie_wait_word(pid: u32) -> Option<i32> {
    // The kernel writes 0 there for those who may not trace the process; following this link asks for the same right.
    fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
    let line = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&line).filter(Stat::is_dead)?;
    parse_wait_word(&line)
}

/// The last field (52) of a line of stat.
fn parse_wait_word(line: &[u8]) -> Option<i32> {
    let close = line.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(line.get(close + 1..)?).ok()?.split_ascii_whitespace();
    fields.nth(52 - 3)?.parse().ok()
}

/// All processes that this one may see. What ends meanwhile is left out.
///
/// # Errors
/// When /proc cannot be read.
pub fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok())
            && let Ok(stat) = Stat::read(pid)
        {
            found.push(stat);
        }
    }
    Ok(found)
}

/// The children of a process, zombies included. Cheap where the kernel keeps a list
/// (`/proc/PID/task/TID/children`, CONFIG_PROC_CHILDREN), else by a walk over all processes.
///
/// # Errors
/// When the process is gone or /proc cannot be read.
pub fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(task?.path().join("children")) {
            Ok(list) => found.extend(parse_children(&list)),
            // No such file for this thread: it ended, or the kernel keeps no lists.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(all()?.into_iter().filter(|stat| stat.ppid == pid).map(|stat| stat.pid).collect());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn parse_children(list: &str) -> impl Iterator<Item = u32> + '_ {
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok())
}

/// When the machine booted (seconds since the epoch).
///
/// # Errors
/// When /proc/stat cannot be read or has no such line.
pub fn boot_time() -> io::Result<u64> {
    parse_boot_time(&fs::read_to_string("/proc/stat")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no btime in /proc/stat"))
}

fn parse_boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Clock ticks a second, the unit of times in /proc (100 on all that is in use).
#[must_use]
pub fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// What a process has used until a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The moment (ms of [`super::clock::boot_ms`]).
    pub at: u64,
    /// CPU time so far (ms).
    pub cpu: u64,
    /// Resident memory (bytes).
    pub rss: u64,
}

impl Sample {
    /// Samples the process with this pid and start time; `None` when it is gone, also when another has its pid now.
    #[must_use]
    pub fn take(pid: u32, start_time: u64) -> Option<Sample> {
        let stat = Stat::read(pid).ok().filter(|stat| stat.start_time == start_time && !stat.is_dead())?;
        let ticks = stat.utime.saturating_add(stat.stime);
        let cpu = ticks.saturating_mul(1000) / ticks_per_second().max(1);
        Some(Sample { at: super::clock::boot_ms(), cpu, rss: stat.rss })
    }

    /// CPU use between two samples in percent of one CPU: 200 is two CPUs busy. 0 when no time lies between them.
    #[must_use]
    pub fn cpu_percent_since(&self, earlier: &Sample) -> f64 {
        let elapsed = self.at.saturating_sub(earlier.at);
        if elapsed == 0 { 0.0 } else { self.cpu.saturating_sub(earlier.cpu) as f64 * 100.0 / elapsed as f64 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NODE: &[u8] = b"6116 (node) S 6100 6116 6116 0 -1 4194560 14253 2014 1 0 39 7 2 1 20 0 11 0 1743210 \
        1088434176 12800 18446744073709551615 4194304 82921717 140723395923984 0 0 0 0 4096 134300162 0 0 0 17 1 0 0 0 \
        0 0 100000000 100100000 100200000 140723395925000 140723395925100 140723395925100 140723395928034 0\n";

    #[test]
    fn a_line_of_stat_is_understood() {
        let stat = Stat::parse(NODE).unwrap();
        let page = rustix::param::page_size() as u64;
        let wanted = Stat {
            pid: 6116,
            comm: "node".to_owned(),
            state: 'S',
            ppid: 6100,
            pgrp: 6116,
            session: 6116,
            utime: 39,
            stime: 7,
            threads: 11,
            start_time: 1_743_210,
            rss: 12800 * page,
        };
        assert_eq!(stat, wanted);
        assert_eq!(parse_wait_word(NODE), Some(0));
        let killed = String::from_utf8(NODE.to_vec()).unwrap().replace("034 0\n", "034 9\n");
        assert_eq!(parse_wait_word(killed.as_bytes()), Some(libc::SIGKILL));
        assert_eq!(parse_wait_word(&NODE[..NODE.len() - 3]), None);
    }

    #[test]
    fn a_name_may_hold_brackets_spaces_newlines_and_garbage() {
        for name in ["a) R 1 (b", "((", "x\ny", " "] {
            let line = String::from_utf8(NODE.to_vec()).unwrap().replace("node", name);
            let stat = Stat::parse(line.as_bytes()).unwrap();
            assert_eq!((stat.comm.as_str(), stat.ppid, stat.start_time), (name, 6100, 1_743_210));
        }
        let mut line = NODE.to_vec();
        line[7] = 0xff;
        assert_eq!(Stat::parse(&line).unwrap().ppid, 6100);
    }

    #[test]
    fn what_is_not_a_line_is_refused() {
        for line in [&b""[..], b"1 (x", b"1 )x(", b"x (y) S 1 1 1", b"1 (y) S 1 1 1 0 0 0", b")("] {
            assert_eq!(Stat::parse(line), None, "{line:?}");
        }
        for end in 0..200 {
            assert_eq!(Stat::parse(&NODE[..end.min(90)]), None);
        }
    }

    #[test]
    fn this_process_is_found_with_its_parent_and_its_child() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = Stat::read(std::process::id()).unwrap();
        assert_eq!(own.ppid, std::os::unix::process::parent_id());
        assert!(own.rss > 0 && own.start_time > 0);
        assert!(children(own.pid).unwrap().contains(&child.id()));
        assert!(all().unwrap().iter().any(|stat| stat.pid == child.id() && stat.ppid == own.pid));
        let sample = Sample::take(child.id(), start_time(child.id()).unwrap()).unwrap();
        assert!(sample.rss > 0);
        assert_eq!(Sample::take(child.id(), 1), None, "another process under that pid");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Stat::read(child.id()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn time_waited_for_a_cpu_is_read_of_the_process_that_is_meant() {
        assert_eq!(parse_awaited_cpu("155439399 8923658141 51\n"), Some(8923));
        assert_eq!(parse_awaited_cpu("155439399"), None);
        let own = std::process::id();
        assert!(awaited_cpu(own, start_time(own).unwrap()).is_some());
        assert_eq!(awaited_cpu(own, 1), None, "another process under that pid");
    }

    #[test]
    fn cpu_use_is_relative_to_one_cpu() {
        let before = Sample { at: 1000, cpu: 50, rss: 0 };
        let after = Sample { at: 2000, cpu: 1550, rss: 0 };
        assert!((after.cpu_percent_since(&before) - 150.0).abs() < f64::EPSILON);
        assert!(before.cpu_percent_since(&before).abs() < f64::EPSILON);
    }

    #[test]
    fn boot_time_lies_in_the_past() {
        assert_eq!(parse_boot_time("cpu 1 2\nintr 3\nbtime 1763701234\nprocesses 5\n"), Some(1_763_701_234));
        assert_eq!(parse_boot_time("cpu 1 2\n"), None);
        assert!(boot_time().unwrap() * 1000 <= super::super::clock::wall_ms());
    }
}
