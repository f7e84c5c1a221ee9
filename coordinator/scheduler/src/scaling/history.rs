//! What was done about a pool, and what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::policy::Share;
use super::rule::{Cause, Rule};
use crate::Timestamp;

/// So many events are remembered.
const KEPT: usize = 500;

/// A change that was ordered, or would have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number of the order; none if nothing was ordered.
    pub order: Option<u64>,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// How many agents were there then, those that were leaving not counted.
    pub before: u32,
    /// How many were wished for.
    pub wished: u32,
    /// How many were there when it ended.
    pub after: Option<u32>,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took until it had its effect, or until it was given up.
    #[serde(with = "humantime_serde")]
    pub took: Option<Duration>,
    /// What whoever was to do it said.
    pub error: Option<String>,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is under way.
    Underway,
    /// Everybody came, or left.
    Succeeded,
    /// Some came in time.
    Partly,
    /// Nobody came in time, or it was refused.
    Failed,
    /// It was not ordered: the pool is paused, or only tells what it would do.
    Planned,
}

/// What a pool is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// There are as many agents as are wished for.
    #[default]
    Steady,
    /// Agents are starting.
    Growing,
    /// Agents are leaving.
    Shrinking,
    /// Agents are missing, and no start is tried after those that failed.
    BackingOff,
    /// It is not known how things are.
    Blind,
    /// It is paused, or only tells what it would do.
    Paused,
}

impl Outcome {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Underway => "underway",
            Outcome::Succeeded => "succeeded",
            Outcome::Partly => "partly",
            Outcome::Failed => "failed",
            Outcome::Planned => "planned",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Phase {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Steady => "steady",
            Phase::Growing => "growing",
            Phase::Shrinking => "shrinking",
            Phase::BackingOff => "backing-off",
            Phase::Blind => "blind",
            Phase::Paused => "paused",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Counts since this leader's reign began.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Changes that were ordered.
    pub ordered: u64,
    /// Those that have ended well.
    pub succeeded: u64,
    /// Those that ended in part.
    pub partly: u64,
    /// Those that came to nothing.
    pub failed: u64,
    /// Those that made the pool grow.
    pub growing: u64,
    /// Those that made it shrink.
    pub shrinking: u64,
    /// Those that replaced agents.
    pub replacing: u64,
    /// Share of those that have ended which ended well.
    pub success_rate: Option<Share>,
    /// How often the direction has changed.
    pub flaps: u64,
    /// How long the pool was at what.
    pub time_in: BTreeMap<Phase, Duration>,
}

/// What was done about one pool.
#[derive(Clone, Debug, Default)]
pub struct History {
    events: VecDeque<Event>,
    counts: Statistics,
    phase: Phase,
    since: Option<Timestamp>,
}

impl History {
    /// What another leader has ordered and what has not come to an end: how it ends is to be told too.
    pub(super) fn with_underway(events: Vec<Event>) -> Self {
        Self { events: events.into(), ..Self::default() }
    }

    /// What was done, the oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.events.iter()
    }

    /// What the pool is at.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Counts, and how long the pool was at what.
    pub fn statistics(&self, now: Timestamp) -> Statistics {
        let mut counts = self.counts.clone();
        if let Some(since) = self.since {
            *counts.time_in.entry(self.phase).or_default() += now.since(since);
        }
        let ended = counts.succeeded + counts.partly + counts.failed;
        counts.success_rate = (ended > 0).then(|| Share::of(counts.succeeded as f64, ended as f64));
        counts
    }

    /// Something was ordered, or would have been.
    pub(super) fn note(&mut self, event: Event) {
        if event.outcome != Outcome::Planned {
            self.counts.ordered += 1;
            match event.cause.rule {
                Rule::Replacement => self.counts.replacing += 1,
                _ if event.wished < event.before => self.counts.shrinking += 1,
                _ => self.counts.growing += 1,
            }
        }
        self.count(event.outcome);
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// An order has had its effect, or is given up.
    pub(super) fn end(&mut self, order: u64, after: u32, outcome: Outcome, took: Duration, error: Option<String>) {
        self.count(outcome);
        // One that is older than what is remembered is not known.
        if let Some(event) = self.events.iter_mut().rev().find(|event| event.order == Some(order)) {
            event.after = Some(after);
            event.outcome = outcome;
            event.took = Some(took);
            event.error = error;
        }
    }

    /// The direction has changed.
    pub(super) fn flapped(&mut self) {
        self.counts.flaps += 1;
    }

    /// The pool is at this now.
    pub(super) fn enter(&mut self, phase: Phase, now: Timestamp) {
        if phase == self.phase && self.since.is_some() {
            return;
        }
        if let Some(since) = self.since.replace(now) {
            *self.counts.time_in.entry(self.phase).or_default() += now.since(since);
        }
        self.phase = phase;
    }

    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Succeeded => self.counts.succeeded += 1,
            Outcome::Partly => self.counts.partly += 1,
            Outcome::Failed => self.counts.failed += 1,
            Outcome::Underway | Outcome::Planned => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_before_and_after() {
        let mut history = History::default();
        history.note(event(1));

        history.end(1, 5, Outcome::Partly, Duration::from_secs(3), Some("no more room".into()));

        let told = history.events().next().unwrap();
        assert_eq!((told.before, told.after, told.outcome), (2, Some(5), Outcome::Partly));
        assert_eq!(history.statistics(at(9)).success_rate, Some(Share::ZERO));
    }

    #[test]
    fn only_so_many_are_remembered_and_all_are_counted() {
        let mut history = History::default();

        for number in 0..(KEPT as u64 + 7) {
            history.note(event(number));
        }

        assert_eq!((history.events().len(), history.statistics(at(0)).growing), (KEPT, KEPT as u64 + 7));
        assert_eq!(history.events().next().and_then(|event| event.order), Some(7));
    }

    #[test]
    fn the_time_in_each_phase_adds_up() {
        let mut history = History::default();
        for (phase, second) in [(Phase::Steady, 0), (Phase::Growing, 4), (Phase::Growing, 5), (Phase::Steady, 6)] {
            history.enter(phase, at(second));
        }

        let time_in = history.statistics(at(10)).time_in;

        assert_eq!(
            (time_in[&Phase::Steady], time_in[&Phase::Growing]),
            (Duration::from_secs(8), Duration::from_secs(2))
        );
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(second))
    }

    fn event(order: u64) -> Event {
        Event {
            order: Some(order),
            at: at(order),
            cause: Cause::new(Rule::QueuedWork, 7.0, 5.0),
            before: 2,
            wished: 6,
            after: None,
            outcome: Outcome::Underway,
            took: None,
            error: None,
        }
    }
}
