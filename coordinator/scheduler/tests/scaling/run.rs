//! What came of a curve, and what is asked of it.

use std::time::Duration;

use scheduler::scaling::{Event, clairvoyant};

use crate::curve::Curve;

/// How things were at one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) at: Duration,
    /// Slots that were taken since the look before, in the mean.
    pub(crate) busy: f64,
    pub(crate) present: u32,
    pub(crate) wished: u32,
    pub(crate) wait_p95: Duration,
}

/// A task that has started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    pub(crate) at: Duration,
    pub(crate) waited: Duration,
}

/// An order to start agents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ordered {
    pub(crate) at: Duration,
    pub(crate) count: u32,
}

/// What came of a curve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) looks: Vec<Look>,
    pub(crate) started: Vec<Started>,
    pub(crate) ordered: Vec<Ordered>,
    pub(crate) events: Vec<Event>,
    /// Tasks that were still waiting at the end.
    pub(crate) left: usize,
    /// Attempts that ended because their agent did.
    pub(crate) interrupted: u64,
    /// Seconds that agents were there or starting, and that slots were taken.
    pub(crate) agent_seconds: f64,
    pub(crate) slot_seconds: f64,
}

impl Run {
    /// How often the wished number changed its direction.
    pub(crate) fn reversals(&self) -> usize {
        let steps = self.looks.windows(2).map(|pair| i64::from(pair[1].wished) - i64::from(pair[0].wished));
        let signs: Vec<i64> = steps.map(i64::signum).filter(|sign| *sign != 0).collect();
        signs.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    /// How long tasks waited that started within this time: 95 of 100 no longer.
    pub(crate) fn wait_p95(&self, from: Duration, to: Duration) -> Duration {
        let within = self.started.iter().filter(|started| (from..to).contains(&started.at));
        percentile_95(within.map(|started| started.waited).collect())
    }

    /// Share of the slots that was taken, for as long as agents were there or starting.
    pub(crate) fn utilisation(&self, curve: &Curve) -> f64 {
        self.slot_seconds / (self.agent_seconds * f64::from(curve.policy.slots))
    }

    /// Agent-hours, compared with what somebody would pay who knew the future.
    pub(crate) fn times_clairvoyant(&self, curve: &Curve) -> f64 {
        let policy = &curve.policy;
        let work: Vec<(Duration, Duration)> = curve.tasks.iter().map(|task| (task.comes, task.runs)).collect();
        let terms = clairvoyant::Terms {
            step: policy.interval,
            target_wait: policy.target_wait,
            slots: policy.slots,
            min_agents: policy.min_agents,
            max_agents: policy.max_agents,
        };
        let fewest = clairvoyant::fewest_agents(&work, curve.end, &terms);
        self.agent_seconds / 3600.0 / clairvoyant::agent_hours(&fewest, policy.interval)
    }

    /// The most orders to start agents within any hour.
    pub(crate) fn most_starts_in_an_hour(&self) -> usize {
        let hour = Duration::from_secs(3600);
        let within = |first: &Ordered| {
            self.ordered.iter().filter(|other| other.at >= first.at && other.at < first.at + hour).count()
        };
        self.ordered.iter().map(within).max().unwrap_or_default()
    }

    pub(crate) fn last(&self) -> &Look {
        self.looks.last().expect("a run has looks")
    }

    /// What happened, for messages of failed tests.
    pub(crate) fn story(&self) -> String {
        let line = |event: &Event| {
            let at = event.at.since_origin().as_secs();
            let (before, wished, after) = (event.before, event.wished, event.after);
            format!("{at:>6} s  {before} -> {wished} ({after:?}) {} {:?}", event.cause.rule, event.outcome)
        };
        self.events.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

pub(crate) fn percentile_95(mut waits: Vec<Duration>) -> Duration {
    if waits.is_empty() {
        return Duration::ZERO;
    }
    let rank = (waits.len() - 1) * 95 / 100;
    *waits.select_nth_unstable(rank).1
}
