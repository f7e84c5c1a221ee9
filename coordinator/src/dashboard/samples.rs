//! What the mesh was like in the last ten minutes, a sample a second; and what is asked of the broker beside, so that
//! no view of a page has to wait for a stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use scheduler::{Pulse, StartWaits as Waits};
use shared::{Kind, Outcome};

use super::sources::AlertView;
use crate::roll_call::Coordinator;
use crate::store::Fill;

/// How many samples are kept: ten minutes.
const KEPT: usize = 600;
/// Over how many of them rates and waits are told: a minute for figures, ten seconds for a point of a chart.
const FIGURE: usize = 60;
const POINT: usize = 10;

/// The mesh in one second.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// When it was taken.
    pub(super) at: Instant,
    /// Tasks settled a second; unknown where no leader was seen from one sample to the next.
    pub(super) settled: Option<f64>,
    /// Those of them that failed or are dead.
    pub(super) failed: Option<f64>,
    /// Half of the tasks that started in the ten seconds before waited no longer.
    pub(super) wait_p50: Option<Duration>,
    /// 95 of 100 did not.
    pub(super) wait_p95: Option<Duration>,
    /// Tasks in the task stream, whoever has them.
    pub(super) stored: Option<u64>,
}

/// What is known of the broker.
#[derive(Clone, Debug, Default)]
pub(super) struct Broker {
    /// How much the streams hold.
    pub(super) fills: Vec<Fill>,
    /// How long it took to answer.
    pub(super) answered_in: Option<Duration>,
    /// What it said instead of an answer.
    pub(super) problem: Option<String>,
}

/// How many tasks of each kind are stored.
#[derive(Clone, Debug, Default)]
pub(super) struct StoredByKind {
    /// The counts.
    pub(super) counts: BTreeMap<Kind, u64>,
    /// When they were taken; never if nothing was.
    pub(super) at: Option<Instant>,
}

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) samples: VecDeque<Sample>,
    /// The last pulse, and when it was taken.
    pub(super) pulse: Pulse,
    /// How many tasks had waited how long, a second apart, the newest last.
    waits: VecDeque<Waits>,
    last: Option<Instant>,
    pub(super) broker: Broker,
    pub(super) stored: StoredByKind,
    pub(super) coordinators: Vec<Coordinator>,
    pub(super) alerts: Vec<AlertView>,
    /// When somebody looked at a page.
    pub(super) looked_at: Option<Instant>,
}

/// The same, for the sampler and the pages.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Seen>);

impl Shared {
    /// Whoever holds it does nothing else meanwhile.
    pub(super) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Takes a pulse in.
    pub(super) fn take(&mut self, pulse: Pulse, now: Instant) {
        let passed = self.last.map(|last| now.duration_since(last).as_secs_f64()).filter(|passed| *passed > 0.0);
        let same_reign = pulse.epoch.is_some() && pulse.epoch == self.pulse.epoch;
        let passed = passed.filter(|_| same_reign);
        let more = |outcomes: &[Outcome]| {
            let sum = |pulse: &Pulse| outcomes.iter().map(|outcome| pulse.settled[*outcome as usize]).sum::<u64>();
            passed.map(|passed| sum(&pulse).saturating_sub(sum(&self.pulse)) as f64 / passed)
        };
        let (settled, failed) = (more(&Outcome::ALL), more(&[Outcome::Failed, Outcome::Dead]));
        if self.waits.len() > FIGURE {
            self.waits.pop_front();
        }
        self.waits.push_back(pulse.waits.clone());
        let waited = self.waited(POINT);
        let stored = self.broker.fills.first().map(|tasks| tasks.messages);
        let (wait_p50, wait_p95) = (waited.quantile(0.5), waited.quantile(0.95));
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at: now, settled, failed, wait_p50, wait_p95, stored });
        (self.pulse, self.last) = (pulse, Some(now));
    }

    /// Tasks settled a second, in the last ten seconds.
    pub(super) fn rate(&self) -> Option<f64> {
        let known: Vec<f64> = self.samples.iter().rev().take(POINT).filter_map(|sample| sample.settled).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }

    /// How long tasks waited that started in the last minute.
    pub(super) fn waits(&self) -> Waits {
        self.waited(FIGURE)
    }

    fn waited(&self, seconds: usize) -> Waits {
        let Some(newest) = self.waits.back() else { return Waits::default() };
        let earlier = self.waits.len().saturating_sub(seconds + 1);
        newest.since(&self.waits[earlier])
    }

    /// Whoever leads, as far as it is known here.
    pub(super) fn leader(&self) -> Option<&Coordinator> {
        self.coordinators.iter().filter(|coordinator| coordinator.leading).max_by_key(|coordinator| coordinator.epoch)
    }
}

#[cfg(test)]
mod tests {
    use shared::Epoch;

    use super::*;

    fn pulse(epoch: u64, succeeded: u64, failed: u64) -> Pulse {
        Pulse { epoch: Some(Epoch(epoch)), settled: [succeeded, failed, 0, 0, 0], ..Pulse::default() }
    }

    #[test]
    fn a_rate_is_what_was_settled_since_the_sample_before() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let second = |n: u64| start + Duration::from_secs(n);

        seen.take(pulse(1, 100, 0), second(0));
        seen.take(pulse(1, 300, 4), second(2));

        assert_eq!(seen.samples[0].settled, None, "nothing is known of before");
        assert_eq!((seen.samples[1].settled, seen.samples[1].failed), (Some(102.0), Some(2.0)));
        assert_eq!(seen.rate(), Some(102.0));
    }

    #[test]
    fn over_a_change_of_leader_there_is_no_rate() {
        let (mut seen, start) = (Seen::default(), Instant::now());

        seen.take(pulse(1, 100, 0), start);
        seen.take(pulse(2, 3, 0), start + Duration::from_secs(1));
        seen.take(Pulse::default(), start + Duration::from_secs(2));

        assert!(seen.samples.iter().all(|sample| sample.settled.is_none()), "{seen:?}");
    }

    #[test]
    fn no_more_than_ten_minutes_are_kept() {
        let (mut seen, start) = (Seen::default(), Instant::now());

        (0..1000).for_each(|n| seen.take(pulse(1, n, 0), start + Duration::from_secs(n)));

        assert_eq!((seen.samples.len(), seen.waits.len()), (KEPT, FIGURE + 1));
    }
}
