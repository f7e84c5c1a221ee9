//! Measures the host: what it offers, and how busy it is. Where a control group gives the agent less than the whole
//! host, as in a container, that is what it offers, and its use is measured against that.
//!
//! All of this reads from the kernel and may block: keep it off the session's thread.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use shared::Incarnation;
use shared::message::Report;
use sysinfo::{
    CpuRefreshKind, MemoryRefreshKind, Networks, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System,
};

use crate::cgroup;

/// Cores that this process may use, which a container's limit can make fewer than the host has.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// Thousandths of cores that this process may use. A container's limit need not be whole cores.
pub(crate) fn cpu_millis() -> u64 {
    let cores = cores_by_affinity().unwrap_or_else(|| u64::from(cores())) * 1000;
    own_limits().cpu.map_or(cores, |limit| limit.amount.min(cores))
}

/// Cores that the process may run on, whatever share of them it gets.
fn cores_by_affinity() -> Option<u64> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
    Some(cores.count() as u64).filter(|cores| *cores > 0)
}

/// Bytes of memory of the host, or of the container where it has less; zero if that is not known.
pub(crate) fn total_memory() -> u64 {
    let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(kinds).map_or(0, |system| memory_in_use(&system, &own_limits()).1)
}

fn own_limits() -> cgroup::Limits {
    cgroup::Limits::read(Path::new(cgroup::ROOT), &cgroup::own())
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
fn memory_in_use(system: &System, limits: &cgroup::Limits) -> (u64, u64) {
    let total = system.total_memory();
    let of_the_host = || (total.saturating_sub(system.available_memory()), total);
    let limit = limits.memory.as_ref().filter(|limit| limit.amount < total);
    limit.and_then(|limit| Some((limit.memory_used()?, limit.amount))).unwrap_or_else(of_the_host)
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
    /// CPU time that the group with the limit had used then, where there is one.
    cpu_used: Option<Duration>,
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
            cpu_used: own_limits().cpu.and_then(|limit| limit.cpu_used()),
            network_bps,
        })
    }

    /// Looks again and reports what happened since.
    pub(crate) fn report(&mut self, incarnation: Incarnation) -> Report {
        self.system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let limits = own_limits();
        let (memory_used, memory_total) = memory_in_use(&self.system, &limits);
        let (disk_free, disk_total) = disk_of_the_working_directory().unwrap_or_default();
        let span = self.last_look.elapsed();
        self.last_look = Instant::now();
        let network_bytes_per_second = self.network_bytes_per_second(span);
        let cpu_of_the_host = fraction(f64::from(self.system.global_cpu_usage()), 100.0);
        Report {
            incarnation,
            cpu: self.cpu_of_the_limit(&limits, span).unwrap_or(cpu_of_the_host),
            memory: fraction(memory_used as f64, memory_total as f64),
            disk: fraction(disk_total.saturating_sub(disk_free) as f64, disk_total as f64),
            network: fraction(network_bytes_per_second * 8.0, self.network_bps as f64),
            network_bytes_per_second,
            agent_memory_bytes: self.own_memory(),
        }
    }

    /// How much was used of what a control group allows, if one does.
    fn cpu_of_the_limit(&mut self, limits: &cgroup::Limits, span: Duration) -> Option<f64> {
        let limit = limits.cpu.as_ref()?;
        let before = std::mem::replace(&mut self.cpu_used, limit.cpu_used());
        let used = self.cpu_used?.checked_sub(before?)?;
        Some(fraction(used.as_secs_f64() * 1000.0, span.as_secs_f64() * limit.amount as f64))
    }

    /// Received and sent by all interfaces but the loopback.
    fn network_bytes_per_second(&mut self, span: Duration) -> f64 {
        let span = span.as_secs_f64();
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
