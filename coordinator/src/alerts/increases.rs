//! By how much counters have grown over the last while.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use scheduler::Timestamp;

use super::sample::Labels;

/// What is remembered of the counters of one metric: when each grew, and by how much.
#[derive(Debug, Default)]
pub(crate) struct Increases {
    since: Option<Timestamp>,
    counters: BTreeMap<Labels, Counter>,
}

#[derive(Debug, Default)]
struct Counter {
    last: f64,
    steps: VecDeque<(Timestamp, f64)>,
}

impl Increases {
    /// Takes in what the counters are now. One that was not there before began at zero, but for the first look: what
    /// was counted before that is not known to be new.
    pub(crate) fn observe<'a>(
        &mut self,
        counters: impl Iterator<Item = (&'a Labels, f64)>,
        over: Duration,
        now: Timestamp,
    ) {
        let is_first = self.since.is_none();
        self.since.get_or_insert(now);
        for (labels, value) in counters {
            match self.counters.get_mut(labels) {
                Some(counter) => counter.take_in(value, now),
                None => {
                    let mut counter = Counter { last: if is_first { value } else { 0.0 }, ..Counter::default() };
                    counter.take_in(value, now);
                    self.counters.insert(labels.clone(), counter);
                }
            }
        }
        let begin = now - over;
        for counter in self.counters.values_mut() {
            while counter.steps.front().is_some_and(|(at, _)| *at <= begin) {
                counter.steps.pop_front();
            }
        }
    }

    /// For how long they were looked at, up to `over`; nothing while that is less than half of it, since a few seconds
    /// tell nothing about an hour.
    pub(crate) fn covered(&self, over: Duration, now: Timestamp) -> Option<Duration> {
        let covered = now.since(self.since?).min(over);
        (covered * 2 >= over).then_some(covered)
    }

    /// By how much each has grown.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&Labels, f64)> {
        self.counters.iter().map(|(labels, counter)| (labels, counter.steps.iter().map(|(_, step)| step).sum()))
    }
}

impl Counter {
    /// A counter that is less than it was has begun anew.
    fn take_in(&mut self, value: f64, now: Timestamp) {
        let step = if value >= self.last { value - self.last } else { value };
        if step > 0.0 {
            self.steps.push_back((now, step));
        }
        self.last = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(60);

    fn at(second: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(1000 + second))
    }

    fn observe(increases: &mut Increases, second: u64, counters: &[(&str, f64)]) {
        let counters: Vec<(Labels, f64)> =
            counters.iter().map(|(kind, value)| ([("kind".into(), (*kind).into())].into(), *value)).collect();
        increases.observe(counters.iter().map(|(labels, value)| (labels, *value)), OVER, at(second));
    }

    fn total(increases: &Increases) -> f64 {
        increases.each().map(|(_, grown)| grown).sum()
    }

    #[test]
    fn what_was_counted_before_the_first_look_is_no_increase() {
        let mut increases = Increases::default();

        observe(&mut increases, 0, &[("a", 100.0)]);
        observe(&mut increases, 10, &[("a", 103.0), ("b", 2.0)]);

        assert_eq!(total(&increases), 5.0);
    }

    #[test]
    fn a_counter_that_begins_anew_has_grown_by_what_it_is() {
        let mut increases = Increases::default();

        observe(&mut increases, 0, &[("a", 100.0)]);
        observe(&mut increases, 10, &[("a", 4.0)]);

        assert_eq!(total(&increases), 4.0);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut increases = Increases::default();
        observe(&mut increases, 0, &[("a", 0.0)]);
        observe(&mut increases, 10, &[("a", 5.0)]);

        observe(&mut increases, 69, &[("a", 5.0)]);
        assert_eq!(total(&increases), 5.0);
        observe(&mut increases, 70, &[("a", 5.0)]);
        assert_eq!(total(&increases), 0.0);
    }

    #[test]
    fn nothing_is_said_before_half_of_the_window_is_seen() {
        let mut increases = Increases::default();
        assert_eq!(increases.covered(OVER, at(0)), None);

        observe(&mut increases, 0, &[]);

        assert_eq!(increases.covered(OVER, at(29)), None);
        assert_eq!(increases.covered(OVER, at(30)), Some(Duration::from_secs(30)));
        assert_eq!(increases.covered(OVER, at(300)), Some(OVER));
    }
}
