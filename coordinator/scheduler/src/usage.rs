//! What attempts have used, and how busy hosts were while their agents' slots were full: what recommendations stand on.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use shared::message::Report;
use shared::{Resources, Used};
use sketches_ddsketch::{Config, DDSketch};

use crate::Timestamp;

/// What is remembered at least, and at most twice as long: so that what kinds are like in the night counts by day.
const WINDOW: Duration = Duration::from_secs(24 * 3600);

/// How far a quantile may be off, relatively.
const ACCURACY: f64 = 0.02;
/// So many bins cover amounts from 1 to a tebibyte.
const BINS: u32 = 1024;

/// So many reports with full slots are remembered of an agent: ten minutes of them.
const REPORTS: usize = 120;

/// What the attempts of a kind have used.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    current: Option<Box<Window>>,
    before: Option<Box<Window>>,
}

impl Usage {
    /// An attempt has ended that had so much reserved.
    pub(crate) fn observe(
        &mut self,
        run: Duration,
        used: &Used,
        reserved: &Resources,
        out_of_memory: bool,
        now: Timestamp,
    ) {
        if used.cpu.is_none() && used.memory_peak.is_none() && !out_of_memory {
            return;
        }
        if self.current.as_ref().is_some_and(|window| now.since(window.since) >= WINDOW) {
            self.before = self.current.take();
        }
        let window = self.current.get_or_insert_with(|| Box::new(Window::new(now)));
        window.samples += 1;
        if out_of_memory {
            window.out_of_memory += 1;
            window.not_enough = window.not_enough.max(reserved.memory_bytes);
        }
        // Below that the kernel's clock of CPU time is too coarse.
        let seconds = run.as_secs_f64().max(0.001);
        if let Some(cpu) = used.cpu {
            window.cpu.observe(cpu.as_secs_f64() * 1000.0 / seconds, reserved.cpu_millis, seconds);
        }
        if let Some(peak) = used.memory_peak {
            window.memory.observe(peak as f64, reserved.memory_bytes, seconds);
        }
    }

    /// What was seen, if anything was.
    pub(crate) fn evidence(&self) -> Option<Evidence> {
        let current = self.current.as_ref()?;
        let mut all = Window::new(self.before.as_ref().map_or(current.since, |before| before.since));
        for window in [self.before.as_ref(), Some(current)].into_iter().flatten() {
            all.samples += window.samples;
            all.out_of_memory += window.out_of_memory;
            all.not_enough = all.not_enough.max(window.not_enough);
            all.cpu.merge(&window.cpu);
            all.memory.merge(&window.memory);
        }
        Some(Evidence {
            since: all.since,
            samples: all.samples,
            out_of_memory: all.out_of_memory,
            not_enough: all.not_enough,
            cpu: all.cpu.spread(),
            memory: all.memory.spread(),
        })
    }
}

/// What was seen of a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    pub(crate) since: Timestamp,
    pub(crate) samples: u64,
    /// Attempts that were ended for the memory they took.
    pub(crate) out_of_memory: u64,
    /// The most memory that one of them had reserved.
    pub(crate) not_enough: u64,
    pub(crate) cpu: Option<Spread>,
    pub(crate) memory: Option<Spread>,
}

/// How much was used, over all samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) samples: u64,
    pub(crate) p50: u64,
    pub(crate) p95: u64,
    pub(crate) peak: u64,
    /// Used of reserved, in resource-seconds; nothing if nothing was reserved.
    pub(crate) efficiency: Option<f64>,
}

#[derive(Debug)]
struct Window {
    since: Timestamp,
    samples: u64,
    out_of_memory: u64,
    not_enough: u64,
    cpu: Amounts,
    memory: Amounts,
}

impl Window {
    fn new(since: Timestamp) -> Self {
        let (cpu, memory) = (Amounts::default(), Amounts::default());
        Self { since, samples: 0, out_of_memory: 0, not_enough: 0, cpu, memory }
    }
}

/// Amounts of one resource that attempts have used. The sketch keeps quantiles in bounded space (Masson, Rim, Lee:
/// DDSketch, VLDB 2019).
struct Amounts {
    sketch: DDSketch,
    used: f64,
    reserved: f64,
}

impl Default for Amounts {
    fn default() -> Self {
        Self { sketch: DDSketch::new(Config::new(ACCURACY, BINS, 1.0)), used: 0.0, reserved: 0.0 }
    }
}

impl fmt::Debug for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amounts").field("samples", &self.sketch.count()).finish_non_exhaustive()
    }
}

impl Amounts {
    fn observe(&mut self, amount: f64, reserved: u64, seconds: f64) {
        self.sketch.add(amount);
        if reserved > 0 {
            self.used += amount * seconds;
            self.reserved += reserved as f64 * seconds;
        }
    }

    fn merge(&mut self, other: &Amounts) {
        self.sketch.merge(&other.sketch).expect("all sketches are alike");
        self.used += other.used;
        self.reserved += other.reserved;
    }

    fn spread(&self) -> Option<Spread> {
        let peak = self.sketch.max()?;
        // What a bin stands for may lie above all that is in it.
        let quantile = |q| self.sketch.quantile(q).ok().flatten().unwrap_or(peak).min(peak).round() as u64;
        Some(Spread {
            samples: self.sketch.count() as u64,
            p50: quantile(0.5),
            p95: quantile(0.95),
            peak: peak.ceil() as u64,
            efficiency: (self.reserved > 0.0).then(|| self.used / self.reserved),
        })
    }
}

/// How busy an agent's host was, when it reported while all its slots were taken.
#[derive(Debug, Default)]
pub(crate) struct Full {
    /// When, and the shares of CPU and memory.
    reports: VecDeque<(Timestamp, [f32; 2])>,
}

impl Full {
    pub(crate) fn observe(&mut self, report: &Report, now: Timestamp) {
        if self.reports.len() == REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back((now, [report.cpu as f32, report.memory as f32]));
    }

    pub(crate) fn samples(&self) -> usize {
        self.reports.len()
    }

    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.reports.front().map(|(when, _)| *when)
    }

    /// The shares of the resource that was short, CPU or memory: half of the time, 95 % of it and always, no more was in
    /// use. With the name of the resource.
    pub(crate) fn shortest(&self) -> Option<(&'static str, [f64; 3])> {
        let of = |number: usize| {
            let mut shares: Vec<f32> = self.reports.iter().map(|(_, shares)| shares[number]).collect();
            shares.sort_unstable_by(f32::total_cmp);
            let at = |q: f64| f64::from(shares[((shares.len() - 1) as f64 * q).round() as usize]);
            (Resources::NAMES[number], [at(0.5), at(0.95), at(1.0)])
        };
        if self.reports.is_empty() {
            return None;
        }
        let (cpu, memory) = (of(0), of(1));
        Some(if memory.1[1] > cpu.1[1] { memory } else { cpu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    fn used(cpu_ms: u64, memory_peak: u64) -> Used {
        Used { cpu: Some(Duration::from_millis(cpu_ms)), memory_peak: Some(memory_peak), io_bytes: None }
    }

    #[test]
    fn quantiles_are_those_of_what_was_used() {
        let mut usage = Usage::default();
        let reserved = Resources { cpu_millis: 1000, memory_bytes: 400 << 20, ..Resources::ZERO };
        for number in 1..=100 {
            usage.observe(Duration::from_secs(1), &used(number * 10, number << 20), &reserved, false, at(number));
        }

        let evidence = usage.evidence().unwrap();

        let (cpu, memory) = (evidence.cpu.unwrap(), evidence.memory.unwrap());
        assert!((490..=510).contains(&cpu.p50) && (930..=970).contains(&cpu.p95), "{cpu:?}");
        assert_eq!((cpu.peak, memory.peak), (1000, 100 << 20));
        assert!((0.50..0.51).contains(&cpu.efficiency.unwrap()), "{cpu:?}");
        assert!((0.12..0.13).contains(&memory.efficiency.unwrap()), "{memory:?}");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut usage = Usage::default();
        let day = WINDOW.as_secs();
        for (when, peak) in [(0, 100), (day, 50), (2 * day, 40)] {
            usage.observe(Duration::from_secs(1), &used(1, peak << 20), &Resources::ZERO, false, at(when));
        }

        let evidence = usage.evidence().unwrap();

        assert_eq!((evidence.memory.unwrap().peak, evidence.samples, evidence.since), (50 << 20, 2, at(day)));
    }

    #[test]
    fn attempts_that_nobody_measured_are_no_evidence() {
        let mut usage = Usage::default();
        usage.observe(Duration::from_secs(1), &Used::default(), &Resources::ZERO, false, at(1));

        assert!(usage.evidence().is_none());
    }
}
