//! The share of a kind that goes to tasks which have failed before.
//!
//! Backoff spreads retries over time, but when much fails at once they come back all the same, and a kind that only
//! repeats what failed does nothing else. So while tasks wait that have not failed, those that have are let go again
//! only up to a share of what runs; the others stay where they are, the one that was due first in front.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use crate::event::Sequence;

/// The tasks of a kind that have failed before and whose pause is over.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    /// Let go again: they wait for an agent, or run.
    on_their_way: FxHashSet<Sequence>,
    /// Of these, how many wait.
    waiting: FxHashSet<Sequence>,
    /// Held back, in the order in which they were due.
    held_back: VecDeque<Sequence>,
    is_held_back: FxHashSet<Sequence>,
}

impl Retries {
    /// A task's pause is over: it waits for its turn.
    pub(crate) fn due(&mut self, sequence: Sequence) {
        if self.is_held_back.insert(sequence) {
            self.held_back.push_back(sequence);
        }
    }

    /// The next one that may go, given how many attempts of the kind run and how many tasks wait, these included.
    pub(crate) fn next(&mut self, share: f64, running: usize, waiting: usize) -> Option<Sequence> {
        let allowed = ((running as f64 * share).ceil() as usize).max(1);
        let others_wait = waiting > self.waiting.len();
        if others_wait && self.on_their_way.len() >= allowed {
            return None;
        }
        while let Some(sequence) = self.held_back.pop_front() {
            // One that was settled meanwhile has gone already.
            if self.is_held_back.remove(&sequence) {
                self.on_their_way.insert(sequence);
                self.waiting.insert(sequence);
                return Some(sequence);
            }
        }
        None
    }

    /// It has been given to an agent, or is settled.
    pub(crate) fn waits_no_more(&mut self, sequence: Sequence) {
        if !self.waiting.is_empty() {
            self.waiting.remove(&sequence);
        }
    }

    /// Its attempt has ended, or it is settled.
    pub(crate) fn over(&mut self, sequence: Sequence) {
        if !self.on_their_way.is_empty() || !self.is_held_back.is_empty() {
            self.waits_no_more(sequence);
            self.on_their_way.remove(&sequence);
            self.is_held_back.remove(&sequence);
        }
    }

    /// Whether the task is held back.
    pub(crate) fn holds_back(&self, sequence: Option<Sequence>) -> bool {
        sequence.is_some_and(|sequence| self.is_held_back.contains(&sequence))
    }

    /// Whether any is.
    pub(crate) fn hold_any_back(&self) -> bool {
        !self.is_held_back.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(count: u64) -> Retries {
        let mut retries = Retries::default();
        (1..=count).for_each(|n| retries.due(Sequence(n)));
        retries
    }

    #[test]
    fn while_others_wait_only_a_share_goes_the_first_due_first() {
        let mut retries = due(5);

        let gone: Vec<_> = std::iter::from_fn(|| retries.next(0.2, 10, 100)).collect();

        assert_eq!(gone, [Sequence(1), Sequence(2)]);
        retries.over(Sequence(1));
        assert_eq!(retries.next(0.2, 10, 100), Some(Sequence(3)));
    }

    #[test]
    fn where_nothing_else_waits_all_go() {
        let mut retries = due(5);
        let mut waiting = 0;

        while retries.next(0.2, 10, waiting).is_some() {
            waiting += 1;
        }

        assert_eq!(waiting, 5);
    }

    #[test]
    fn one_always_goes() {
        assert_eq!(due(3).next(0.0, 0, 100), Some(Sequence(1)));
    }

    #[test]
    fn one_that_was_settled_meanwhile_is_passed_over() {
        let mut retries = due(2);
        retries.over(Sequence(1));

        assert_eq!(retries.next(1.0, 10, 0), Some(Sequence(2)));
        assert!(!retries.hold_any_back());
    }
}
