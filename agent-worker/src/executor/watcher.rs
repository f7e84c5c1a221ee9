//! Looks at the processes of an attempt now and then: for what they use, and whether that is more than they may.
//!
//! What comes and goes between two looks is not seen. Nor is memory that no process has mapped, such as files in a
//! temporary file system: only the kernel could count that, in a [control group](super::control_groups).

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::limits::{Excess, Limits};
use super::measure::{Usage, proportional_memory};
use super::strays::Lookout;
use shared::Used;

/// When it is looked first. Most commands that take no time have ended by then, and cost nothing.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// How often it is looked while there is a limit: what allocates as fast as it can gets some hundred MiB in between.
const LIMITED_INTERVAL: Duration = Duration::from_millis(50);
/// The longest pause between two looks that only measure; it doubles up to this. A look at a process takes 0.1 ms.
const LONGEST_INTERVAL: Duration = Duration::from_millis(250);
/// Looking may take this share of the time.
const SHARE_OF_TIME: u32 = 20;

/// The watch over one attempt.
#[derive(Debug)]
pub(crate) struct Watch {
    lookout: Lookout,
    limits: Limits,
    seen: Seen,
}

/// The most that was seen of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    memory_peak: u64,
    cpu: Duration,
    processes: u64,
}

impl Watch {
    pub(crate) fn new(lookout: Lookout, limits: Limits) -> Self {
        Self { lookout, limits, seen: Seen::default() }
    }

    /// Looks on until the attempt has more than it may.
    pub(crate) async fn excess(&mut self) -> Excess {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            let seen = self.seen;
            // Without a look, because the runtime ends, there is no other either.
            let Some(seen) = self.lookout.look(move |pids| seen.and(pids)).await else { continue };
            self.seen = seen;
            if let Some(excess) = seen.excess(&self.limits) {
                return excess;
            }
            pause = self.next_pause(pause).max(began.elapsed() * SHARE_OF_TIME);
        }
    }

    fn next_pause(&self, last: Duration) -> Duration {
        let is_limited = self.limits.memory_bytes.is_some() || self.limits.processes.is_some();
        if is_limited { LIMITED_INTERVAL } else { (last * 2).min(LONGEST_INTERVAL) }
    }

    /// What was seen, together with what the process that it began with has used and waited for. Both may lack
    /// something, so the larger one counts.
    pub(crate) fn used(&self, by_leader: Used) -> Used {
        let seen = Some(self.seen).filter(|seen| seen.processes > 0);
        Used {
            cpu: by_leader.cpu.max(seen.map(|seen| seen.cpu)),
            memory_peak: by_leader.memory_peak.max(seen.map(|seen| seen.memory_peak)),
            io_bytes: by_leader.io_bytes,
        }
    }
}

impl Seen {
    /// This and what these processes use now.
    fn and(self, pids: &[Pid]) -> Self {
        let now = Usage::of(pids);
        let memory_peak = if now.memory_bytes <= self.memory_peak {
            self.memory_peak
        } else if pids.len() == 1 {
            now.memory_bytes
        } else {
            // They may share much of it. That is only looked into where it could matter.
            self.memory_peak.max(proportional_memory(pids))
        };
        Self { memory_peak, cpu: self.cpu.max(now.cpu), processes: self.processes.max(now.processes) }
    }

    fn excess(&self, limits: &Limits) -> Option<Excess> {
        let memory = limits.memory_bytes.filter(|limit| self.memory_peak > *limit);
        let processes = limits.processes.filter(|limit| self.processes > u64::from(*limit));
        let of_memory = memory.map(|limit| Excess::Memory { seen: self.memory_peak, limit });
        of_memory.or(processes.map(|limit| Excess::Processes { seen: self.processes, limit }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_limit_is_too_much_and_as_much_is_not() {
        let limits = Limits { memory_bytes: Some(100), cpu_millis: Some(1), processes: Some(3) };
        let seen = Seen { memory_peak: 100, cpu: Duration::from_secs(9), processes: 3 };

        assert_eq!(seen.excess(&limits), None);
        let more = Seen { memory_peak: 101, processes: 4, ..seen };
        assert_eq!(more.excess(&limits), Some(Excess::Memory { seen: 101, limit: 100 }));
        let limits = Limits { memory_bytes: None, ..limits };
        assert_eq!(more.excess(&limits), Some(Excess::Processes { seen: 4, limit: 3 }));
        assert_eq!(more.excess(&Limits::default()), None);
    }

    #[test]
    fn the_most_that_was_ever_seen_is_kept() {
        let before = Seen { memory_peak: u64::MAX, cpu: Duration::MAX, processes: u64::MAX };

        assert_eq!(before.and(&[Pid::this()]), before);
        let now = Seen::default().and(&[Pid::this()]);
        assert!(now.memory_peak > 1 << 20 && now.processes >= 1, "{now:?}");
        assert_eq!(now.and(&[]), now);
    }
}
