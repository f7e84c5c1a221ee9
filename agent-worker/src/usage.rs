//! Measures the host: what it offers, and how busy it is.
//!
//! All of this reads from the kernel and may block: keep it off the session's thread.

use std::time::Instant;

use shared::Incarnation;
use shared::message::Report;
use sysinfo::{
    CpuRefreshKind, MemoryRefreshKind, Networks, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System,
};

/// Cores that this process may use, which a container's limit can make fewer than the host has.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// Bytes of memory of the host, or of the container where it has less; zero if that is not known.
pub(crate) fn total_memory() -> u64 {
    let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(kinds).map_or(0, |system| memory_in_use(&system).1)
}

/// Bytes free on the disk of the working directory; zero if that is not known.
pub(crate) fn free_disk() -> u64 {
    disk_of_the_working_directory().map_or(0, |(free, _)| free)
}

/// The name of the host.
pub(crate) fn host_name() -> String {
    System::host_name().unwrap_or_default()
}

/// Bytes used and in all.
fn memory_in_use(system: &System) -> (u64, u64) {
    let total = system.total_memory();
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 && limits.total_memory < total => {
            (limits.total_memory.saturating_sub(limits.free_memory), limits.total_memory)
        }
        _ => (total.saturating_sub(system.available_memory()), total),
    }
}

/// Bytes free to us and in all. Only this one disk is asked: another may be a network's that does not answer.
fn disk_of_the_working_directory() -> Option<(u64, u64)> {
    let disk = nix::sys::statvfs::statvfs(".").ok()?;
    let block = disk.fragment_size();
    Some((disk.blocks_available() * block, disk.blocks() * block))
}

/// Measures how busy the host is, between one look and the next.
pub(crate) struct Meter {
    system: System,
    networks: Option<Networks>,
    last_look: Instant,
    network_bps: u64,
}

impl Meter {
    /// Looks for the first time. `network_bps` is the bandwidth that counts as fully used; zero if not known.
    pub(crate) fn new(network_bps: u64) -> Option<Self> {
        let mut system = System::new().ok()?;
        system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        Some(Self {
            system,
            networks: Networks::new_with_refreshed_list().ok(),
            last_look: Instant::now(),
            network_bps,
        })
    }

    /// Looks again and reports what happened since.
    pub(crate) fn report(&mut self, incarnation: Incarnation) -> Report {
        self.system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let (memory_used, memory_total) = memory_in_use(&self.system);
        let (disk_free, disk_total) = disk_of_the_working_directory().unwrap_or_default();
        let network_bytes_per_second = self.network_bytes_per_second();
        Report {
            incarnation,
            cpu: fraction(f64::from(self.system.global_cpu_usage()), 100.0),
            memory: fraction(memory_used as f64, memory_total as f64),
            disk: fraction(disk_total.saturating_sub(disk_free) as f64, disk_total as f64),
            network: fraction(network_bytes_per_second * 8.0, self.network_bps as f64),
            network_bytes_per_second,
            agent_memory_bytes: self.own_memory(),
        }
    }

    /// Received and sent by all interfaces but the loopback.
    fn network_bytes_per_second(&mut self) -> f64 {
        let span = self.last_look.elapsed().as_secs_f64();
        self.last_look = Instant::now();
        let Some(networks) = &mut self.networks else { return 0.0 };
        networks.refresh(true);
        let outside = networks.iter().filter(|(name, _)| name.as_os_str() != "lo");
        let bytes: u64 = outside.map(|(_, data)| data.received() + data.transmitted()).sum();
        if span > 0.0 { bytes as f64 / span } else { 0.0 }
    }

    fn own_memory(&mut self) -> u64 {
        let Ok(own) = sysinfo::get_current_pid() else { return 0 };
        let kinds = ProcessRefreshKind::nothing().with_memory();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), true, kinds);
        self.system.process(own).map_or(0, sysinfo::Process::memory)
    }
}

fn fraction(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}
