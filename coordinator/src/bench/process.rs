//! What a process of this machine has used, from `/proc`.

use std::time::{Duration, Instant};

use anyhow::Context as _;

/// A process that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pid: u32,
}

/// The processes of a mesh on this machine, by their ids; none if they are elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    /// The NATS servers.
    pub brokers: Vec<u32>,
    /// The coordinators.
    pub coordinators: Vec<u32>,
    /// The agents.
    pub agents: Vec<u32>,
}

/// Processes whose CPU time is counted together.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// What they are called together.
    pub(crate) name: &'static str,
    processes: Vec<Measured>,
}

impl Processes {
    /// Who works on a task of the mesh.
    pub(crate) fn of_mesh(&self) -> Vec<Part> {
        let parts = [("broker", &self.brokers), ("coordinator", &self.coordinators), ("agents", &self.agents)];
        self.with_us(parts.to_vec(), "client")
    }

    /// Who works on a task of the raw path, whose forwarder and worker are in this process.
    pub(crate) fn of_raw_path(&self) -> Vec<Part> {
        self.with_us(vec![("broker", &self.brokers)], "forwarder, worker and client")
    }

    fn with_us(&self, parts: Vec<(&'static str, &Vec<u32>)>, us: &'static str) -> Vec<Part> {
        if self.brokers.is_empty() {
            return Vec::new();
        }
        let own = vec![std::process::id()];
        let all = parts.into_iter().chain([(us, &own)]);
        all.map(|(name, pids)| Part { name, processes: pids.iter().copied().map(Measured::new).collect() }).collect()
    }
}

impl Part {
    /// The time that all of them have run so far.
    pub(crate) fn used(&self) -> anyhow::Result<Duration> {
        self.processes.iter().map(|process| process.mark().map(|mark| mark.cpu)).sum()
    }
}

/// CPU time of a process up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    at: Instant,
    cpu: Duration,
}

impl Measured {
    /// The process of this id.
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// The time that its threads have run so far.
    pub(crate) fn mark(self) -> anyhow::Result<Mark> {
        let tasks = format!("/proc/{}/task", self.pid);
        let mut cpu = Duration::ZERO;
        for thread in std::fs::read_dir(&tasks).with_context(|| format!("failed to read `{tasks}`"))? {
            // A thread may end between the two looks.
            let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            cpu += on_cpu(&text).with_context(|| format!("`{tasks}` has a schedstat that is none: {text:?}"))?;
        }
        Ok(Mark { at: Instant::now(), cpu })
    }

    /// Its memory in bytes, as it is now.
    pub(crate) fn resident_bytes(self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let status = std::fs::read_to_string(&path).with_context(|| format!("failed to read `{path}`"))?;
        resident(&status).with_context(|| format!("`{path}` does not say what it has in memory"))
    }
}

impl Mark {
    /// Share of one core that was used since an earlier mark; 2.0 are two cores.
    pub(crate) fn cores_since(self, earlier: Mark) -> f64 {
        let spent = self.cpu.saturating_sub(earlier.cpu).as_secs_f64();
        spent / self.at.duration_since(earlier.at).as_secs_f64().max(f64::EPSILON)
    }
}

/// Nanoseconds on a CPU: the first of the three numbers of a `schedstat` (Documentation/scheduler/sched-stats of Linux).
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(on_cpu("1500000000 20 3\n"), Some(Duration::from_millis(1500)));
        assert_eq!(on_cpu(""), None);
        assert_eq!(resident("Name:\tx\nVmRSS:\t   2048 kB\nThreads:\t1\n"), Some(2 << 20));
    }

    #[test]
    fn this_process_uses_what_it_uses() {
        let own = Measured::new(std::process::id());
        let before = own.mark().unwrap();

        let mut sum = 0u64;
        while before.at.elapsed() < Duration::from_millis(50) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }

        assert!(own.mark().unwrap().cores_since(before) > 0.05, "it was busy");
        assert!(own.resident_bytes().unwrap() > 1 << 20);
    }
}
