//! What the coordinator's loop says, as samples. However many kinds there are, a bounded number of them is named.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::{Amounts, Figures, KindFigures};
use shared::api::AgentState;
use shared::metrics::Exposition;
use shared::{Kind, Outcome, Priority};

use super::broker::{Seen, since_1970};
use super::counts::{Counts, KindCounts, MOST_KINDS};
use super::families;
use crate::node::Reading;

/// What kinds are called that are not named.
const OTHER: &str = "other";
/// So many countable resources are named.
const MOST_COUNTABLES: usize = 50;
const MILLIS_PER_CORE: f64 = 1000.0;
const BITS_PER_BYTE: f64 = 8.0;

/// What this coordinator has counted, whether it leads or not.
pub(super) fn add_counts(counts: &Counts, figures: &Figures, samples: &mut Exposition) {
    for (kind, counts) in counts.kinds() {
        match kind {
            Some(kind) => add_kind(kind.as_str(), counts, samples),
            None if counts.delivered > 0 => add_kind(OTHER, counts, samples),
            None => {}
        }
    }
    samples.add(&families::ASSIGNMENT, &[], &counts.assignment);
    for ((topic, what), count) in &counts.events {
        samples.add(&families::EVENTS, &[topic, what], *count);
    }
    for (verb, count) in counts.messages() {
        samples.add(&families::AGENT_MESSAGES, &[verb.as_str()], count);
    }
    let tally = &figures.tally;
    for (strategy, count) in tally.placements() {
        samples.add(&families::PLACEMENTS, &[strategy.as_str()], count);
    }
    for (outcome, count) in tally.ended() {
        samples.add(&families::ATTEMPTS_ENDED, &[outcome.as_str()], count);
    }
    for (reason, count) in tally.losses() {
        samples.add(&families::AGENTS_LOST, &[reason], count);
    }
    samples.add(&families::PLACEMENTS_IN_ADVANCE, &[], tally.in_advance);
    samples.add(&families::ORDERS_REPEATED, &[], tally.repeats);
    samples.add(&families::BEATS, &[], tally.beats);
    samples.add(&families::AGENTS_SUSPECTED, &[], tally.suspicions);
}

fn add_kind(kind: &str, counts: &KindCounts, samples: &mut Exposition) {
    samples.add(&families::TASKS_DELIVERED, &[kind], counts.delivered);
    samples.add(&families::ATTEMPTS_STARTED, &[kind], counts.started);
    samples.add(&families::TASKS_RETRIED, &[kind], counts.retried);
    samples.add(&families::TASKS_REASSIGNED, &[kind], counts.reassigned);
    for outcome in Outcome::ALL {
        samples.add(&families::TASKS_SETTLED, &[kind, outcome.as_str()], counts.settled(outcome));
    }
    samples.add(&families::WAIT, &[kind], &counts.wait);
    samples.add(&families::RUN, &[kind], &counts.run);
    samples.add(&families::END_TO_END, &[kind], &counts.end_to_end);
}

/// What only a leader knows of the mesh.
pub(super) fn add_mesh(reading: &Reading, seen: &Seen, samples: &mut Exposition) {
    let figures = &reading.figures;
    add_queues(reading, seen, samples);
    for state in AgentState::ALL {
        samples.add(&families::AGENTS, &[state.as_str()], figures.agents[state as usize]);
    }
    samples.add(&families::SLOTS, &[], figures.slots);
    samples.add(&families::SLOTS_TAKEN, &[], figures.slots_taken);
    samples.add(&families::TASKS_IN_HAND, &[], figures.in_hand as u64);
    for (filter, tasks) in &figures.blocked {
        samples.add(&families::TASKS_BLOCKED, &[filter], *tasks);
    }
    samples.add(&families::LANES, &["shared"], reading.lanes.shared);
    samples.add(&families::LANES, &["own"], reading.lanes.own);
    samples.add(&families::LANES_WAITING, &[], reading.lanes.waiting);
    add_resources(figures, samples);
    seen.add(samples);
}

fn add_resources(figures: &Figures, samples: &mut Exposition) {
    let families = [&families::CPU, &families::MEMORY, &families::DISK, &families::NETWORK];
    let units = [MILLIS_PER_CORE, 1.0, 1.0, BITS_PER_BYTE];
    for ((_, amounts), (family, unit)) in figures.resources().zip(families.into_iter().zip(units)) {
        let Amounts { capacity, reserved, used } = amounts;
        samples.add(family, &["capacity"], capacity as f64 / unit);
        samples.add(family, &["reserved"], reserved as f64 / unit);
        samples.add(family, &["used"], used / unit);
    }
    for (resource, amounts) in figures.countables.iter().take(MOST_COUNTABLES) {
        samples.add(&families::COUNTABLE, &[resource, "capacity"], amounts.capacity);
        samples.add(&families::COUNTABLE, &[resource, "reserved"], amounts.reserved);
    }
}

/// How much there is of a kind, or of all that are not named.
#[derive(Clone, Debug, Default, PartialEq)]
struct Queue {
    depth: [u64; 4],
    waiting: [u64; 4],
    running: [u64; 4],
    unmet: u64,
    agents: u64,
    oldest_seconds: Option<f64>,
}

fn add_queues(reading: &Reading, seen: &Seen, samples: &mut Exposition) {
    for (kind, queue) in queues(&reading.figures.kinds, seen, &named(reading, seen)) {
        for priority in Priority::ALL {
            let labels = &[kind.as_str(), priority.as_str()];
            samples.add(&families::QUEUE_DEPTH, labels, queue.depth[priority as usize]);
            samples.add(&families::TASKS_WAITING, labels, queue.waiting[priority as usize]);
            samples.add(&families::TASKS_RUNNING, labels, queue.running[priority as usize]);
        }
        samples.add(&families::QUEUE_OLDEST, &[&kind], queue.oldest_seconds.unwrap_or(0.0));
        samples.add(&families::KIND_AGENTS, &[&kind], queue.agents);
        samples.add(&families::TASKS_UNMET, &[&kind], queue.unmet);
    }
}

/// The kinds that are named: those that have numbers of their own, and of the others the first as far as there is room.
fn named(reading: &Reading, seen: &Seen) -> BTreeSet<Kind> {
    let mut named: BTreeSet<Kind> = reading.counts.kinds().filter_map(|(kind, _)| kind.cloned()).collect();
    let others = reading.figures.kinds.iter().map(|figures| &figures.kind).chain(seen.queues.0.keys());
    for kind in others {
        if named.len() >= MOST_KINDS {
            break;
        }
        if !named.contains(kind) {
            named.insert(kind.clone());
        }
    }
    named
}

fn queues(kinds: &[KindFigures], seen: &Seen, named: &BTreeSet<Kind>) -> BTreeMap<String, Queue> {
    let now = since_1970();
    let name = |kind: &Kind| if named.contains(kind) { kind.to_string() } else { OTHER.to_owned() };
    let mut queues: BTreeMap<String, Queue> = named.iter().map(|kind| (kind.to_string(), Queue::default())).collect();
    let (stored, apart) = &seen.queues;
    let known: BTreeSet<&Kind> = kinds.iter().map(|figures| &figures.kind).collect();
    for figures in kinds {
        let in_stream = stored.get(&figures.kind).map(|queued| queued.stored).unwrap_or_default();
        let queue = queues.entry(name(&figures.kind)).or_default();
        queue.unmet += figures.unmet;
        queue.agents += figures.agents;
        queue.older(figures.oldest.map(|age| age.as_secs_f64()));
        for (i, in_stream) in in_stream.into_iter().enumerate() {
            let (waiting, running) = (figures.waiting[i], figures.running[i]);
            queue.waiting[i] += waiting;
            queue.running[i] += running;
            // What the stream holds was looked up a moment before, or has agents already.
            queue.depth[i] += in_stream.saturating_sub(running).max(waiting);
        }
    }
    for (kind, queued) in stored {
        let queue = queues.entry(name(kind)).or_default();
        queue.older(queued.oldest.map(|stored| now.saturating_sub(stored).as_secs_f64()));
        if !known.contains(kind) {
            (0..4).for_each(|i| queue.depth[i] += queued.stored[i]);
        }
    }
    if *apart > 0 {
        queues.entry(OTHER.to_owned()).or_default().depth[Priority::Normal as usize] += apart;
    }
    queues
}

impl Queue {
    fn older(&mut self, seconds: Option<f64>) {
        self.oldest_seconds = match (self.oldest_seconds, seconds) {
            (Some(known), Some(other)) => Some(known.max(other)),
            (known, other) => known.or(other),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Queued;

    fn kind(name: &str) -> Kind {
        Kind::new(name).unwrap()
    }

    fn figures(name: &str, waiting: u64, running: u64) -> KindFigures {
        KindFigures {
            kind: kind(name),
            waiting: [0, 0, waiting, 0],
            running: [0, 0, running, 0],
            unmet: 0,
            agents: 1,
            oldest: Some(Duration::from_secs(waiting)),
        }
    }

    fn seen(stored: &[(&str, u64)], apart: u64) -> Seen {
        let queued = |count: u64| Queued { stored: [0, 0, count, 0], oldest: None };
        Seen {
            queues: (stored.iter().map(|(name, count)| (kind(name), queued(*count))).collect(), apart),
            ..Seen::default()
        }
    }

    #[test]
    fn what_waits_in_the_stream_is_queued_and_what_runs_is_not() {
        let kinds = [figures("a", 10, 4), figures("b", 3, 0)];
        let named = ["a", "b", "unserved"].map(kind).into();

        let queues = queues(&kinds, &seen(&[("a", 100), ("unserved", 7)], 0), &named);

        assert_eq!(queues["a"].depth, [0, 0, 96, 0]);
        assert_eq!(queues["b"].depth, [0, 0, 3, 0], "the stream was looked at before they came");
        assert_eq!((queues["unserved"].depth, queues["unserved"].agents), ([0, 0, 7, 0], 0));
        assert_eq!(queues["a"].oldest_seconds, Some(10.0));
    }

    #[test]
    fn kinds_that_are_not_named_are_told_together() {
        let kinds = [figures("a", 1, 0), figures("b", 2, 1), figures("c", 4, 0)];

        let queues = queues(&kinds, &seen(&[("d", 8)], 16), &["a"].map(kind).into());

        assert_eq!(queues.keys().collect::<Vec<_>>(), ["a", OTHER]);
        let other = &queues[OTHER];
        assert_eq!((other.depth, other.running), ([0, 0, 2 + 4 + 8 + 16, 0], [0, 0, 1, 0]));
        assert_eq!(other.oldest_seconds, Some(4.0));
    }
}
