//! What /proc tells of the whole machine: CPU time, memory, traffic of the network and of disks.
//!
//! Owns the formats of proc(5)'s `stat`, `meminfo`, `net/route`, `net/dev` and `diskstats`. What is missing there (a
//! container hides some of it) counts as nothing.

use std::fs;
use std::path::Path;

/// The machine at one moment. Counters run from its boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// CPU time of all CPUs that was used (clock ticks).
    pub busy: u64,
    /// CPU time of all CPUs, used or not (clock ticks).
    pub total: u64,
    /// Memory (bytes).
    pub memory: u64,
    /// Memory that programs could still get (bytes).
    pub available: u64,
    /// The network interface of the default route, else the first that is not the loopback; empty for none.
    pub interface: String,
    /// Bytes that it received.
    pub received: u64,
    /// Bytes that it sent.
    pub sent: u64,
    /// Bytes read from disks.
    pub read: u64,
    /// Bytes written to disks.
    pub written: u64,
}

/// diskstats counts sectors of this size, whatever the disk's own are (iostats.rst of the kernel).
const SECTOR: u64 = 512;

impl Host {
    /// Looks at the machine.
    #[must_use]
    pub fn look() -> Host {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut host = Host::default();
        host.take_stat(&text("/proc/stat"));
        host.take_meminfo(&text("/proc/meminfo"));
        host.take_net(&text("/proc/net/dev"), &text("/proc/net/route"));
        host.take_diskstats(&text("/proc/diskstats"), |name| Path::new("/sys/block").join(name).exists());
        host
    }

    fn take_stat(&mut self, stat: &str) {
        let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else { return };
        // user nice system idle iowait irq softirq steal; guest time is in user time already.
        let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map(|n| n.parse().unwrap_or(0)).collect();
        self.total = ticks.iter().sum();
        self.busy = self.total - ticks.iter().skip(3).take(2).sum::<u64>();
    }

    fn take_meminfo(&mut self, meminfo: &str) {
        let kilobytes = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        self.memory = kilobytes("MemTotal") * 1024;
        self.available = kilobytes("MemAvailable") * 1024;
    }

    fn take_net(&mut self, dev: &str, route: &str) {
        let default = route.lines().skip(1).find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next()?;
            (fields.next()? == "00000000").then_some(name)
        });
        let mut interfaces = dev.lines().filter_map(|line| line.split_once(':'));
        let wanted = |name: &str| default.map_or(name != "lo", |default| name == default);
        let Some((name, counters)) = interfaces.find(|(name, _)| wanted(name.trim())) else { return };
        let counters: Vec<u64> = counters.split_ascii_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        name.trim().clone_into(&mut self.interface);
        self.received = counters.first().copied().unwrap_or(0);
        self.sent = counters.get(8).copied().unwrap_or(0);
    }

    /// Whole disks only: partitions are counted in them, and what is stacked upon disks (dm, md, loop) goes through them.
    fn take_diskstats(&mut self, diskstats: &str, is_disk: impl Fn(&str) -> bool) {
        const STACKED: [&str; 5] = ["loop", "ram", "dm-", "md", "zram"];
        for line in diskstats.lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (Some(name), Some(read), Some(written)) = (fields.get(2), fields.get(5), fields.get(9)) else {
                continue;
            };
            if STACKED.iter().any(|prefix| name.starts_with(prefix)) || !is_disk(name) {
                continue;
            }
            self.read += read.parse::<u64>().unwrap_or(0) * SECTOR;
            self.written += written.parse::<u64>().unwrap_or(0) * SECTOR;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_understood() {
        let mut host = Host::default();
        host.take_stat("cpu  100 5 45 800 50 0 0 0 7 0\ncpu0 1 2 3 4\n");
        assert_eq!((host.busy, host.total), (150, 1000));
        host.take_meminfo("MemTotal:        2000 kB\nMemFree: 5 kB\nMemAvailable:    1500 kB\n");
        assert_eq!((host.memory, host.available), (2_048_000, 1_536_000));
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  \
                   wlan0: 3 1 0 0 0 0 0 0 4 1 0 0 0 0 0 0\n  eth0: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0\n";
        host.take_net(dev, "Iface Destination Gateway\neth0 0000A8C0 0\neth0 00000000 0100A8C0\n");
        assert_eq!((host.interface.as_str(), host.received, host.sent), ("eth0", 1000, 2000));
        host.take_net(dev, "");
        assert_eq!(host.interface, "wlan0");
        let disks =
            "8 0 sda 10 0 100 5 20 0 200 9 0 0 0\n8 1 sda1 9 0 90 5 20 0 200 9 0 0 0\n253 0 dm-0 1 0 7 1 1 0 7 1 0\n";
        host.take_diskstats(disks, |name| !name.ends_with('1'));
        assert_eq!((host.read, host.written), (51_200, 102_400));
    }

    #[test]
    fn nonsense_counts_as_nothing() {
        let mut host = Host::default();
        host.take_stat("cpu x y z\n");
        host.take_meminfo("MemTotal: lots\n");
        host.take_net("eth0: \n", "a\nb\n");
        host.take_diskstats("8 0\nsda\n", |_| true);
        assert_eq!(host, Host { interface: "eth0".to_owned(), ..Host::default() });
    }

    #[test]
    fn this_machine_has_time_and_memory() {
        let host = Host::look();
        assert!(host.total > 0 && host.memory > host.available);
    }
}
