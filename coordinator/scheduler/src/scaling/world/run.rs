//! What came of a curve, and what is asked of it.

use std::time::Duration;

use super::super::Event;
use super::Curve;

/// How things were at one look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// When.
    pub at: Duration,
    /// Slots that were taken since the look before, in the mean.
    pub busy: f64,
    /// Agents that were there, those that leave among them.
    pub present: u32,
    /// Agents that were wished for.
    pub wished: u32,
    /// How long 95 of 100 tasks waited at most that started of late.
    pub wait_p95: Duration,
}

/// A task that has started.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// When.
    pub at: Duration,
    /// How long after it came.
    pub waited: Duration,
}

/// An order to start agents.
#[derive(Clone, Copy, Debug)]
pub struct Ordered {
    /// When.
    pub at: Duration,
    /// How many.
    pub count: u32,
}

/// What came of a curve.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What was so at each look.
    pub looks: Vec<Look>,
    /// Tasks that have started.
    pub started: Vec<Started>,
    /// Orders to start agents.
    pub ordered: Vec<Ordered>,
    /// What was done about the pool.
    pub events: Vec<Event>,
    /// Tasks that were still waiting at the end.
    pub left: usize,
    /// Attempts that ended because their agent did.
    pub interrupted: u64,
    /// Seconds that agents were there or starting.
    pub agent_seconds: f64,
    /// Seconds that slots were taken.
    pub slot_seconds: f64,
}

impl Run {
    /// How often the wished number changed its direction.
    pub fn reversals(&self) -> usize {
        let steps = self.looks.windows(2).map(|pair| i64::from(pair[1].wished) - i64::from(pair[0].wished));
        let signs: Vec<i64> = steps.map(i64::signum).filter(|sign| *sign != 0).collect();
        signs.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    /// How long tasks waited that started within this time: 95 of 100 no longer.
    pub fn wait_p95(&self, from: Duration, to: Duration) -> Duration {
        let within = self.started.iter().filter(|started| (from..to).contains(&started.at));
        percentile(95, within.map(|started| started.waited).collect())
    }

    /// Share of the slots that was taken, for as long as agents were there or starting.
    pub fn utilisation(&self, curve: &Curve) -> f64 {
        self.slot_seconds / (self.agent_seconds * f64::from(curve.policy.slots))
    }

    /// Agent-hours, compared with what somebody would pay who knew the future.
    pub fn times_clairvoyant(&self, curve: &Curve) -> f64 {
        self.agent_seconds / 3600.0 / curve.fewest_agent_hours()
    }

    /// The most orders to start agents within any hour.
    pub fn most_starts_in_an_hour(&self) -> usize {
        let hour = Duration::from_secs(3600);
        let within = |first: &Ordered| {
            self.ordered.iter().filter(|other| other.at >= first.at && other.at < first.at + hour).count()
        };
        self.ordered.iter().map(within).max().unwrap_or_default()
    }

    /// What was so at the end.
    ///
    /// # Panics
    /// If the run was shorter than an interval.
    pub fn last(&self) -> &Look {
        self.looks.last().expect("a run has looks")
    }

    /// What happened, a line each.
    pub fn story(&self) -> String {
        let line = |event: &Event| {
            let at = event.at.since_origin().as_secs();
            let (before, wished, after) = (event.before, event.wished, event.after);
            format!("{at:>6} s  {before} -> {wished} ({after:?}) {} {:?}", event.cause.rule, event.outcome)
        };
        self.events.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// How long so many of 100 waited at most; nothing if nobody did.
pub fn percentile(percent: usize, mut waits: Vec<Duration>) -> Duration {
    if waits.is_empty() {
        return Duration::ZERO;
    }
    let rank = (waits.len() - 1) * percent / 100;
    *waits.select_nth_unstable(rank).1
}
