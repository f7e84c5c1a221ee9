//! The filter: what keeps a task from an agent, in the order in which it is asked.
//!
//! The same code answers whether an agent may get a task and why a task waits.

use shared::api::AgentState;
use shared::message::Needed;
use shared::{Countables, Resources};

use super::strategy::Strategy;
use crate::kinds::{Demand, KindEntry};
use crate::registry::{Agent, AgentKey, Registry};
use crate::time::Timestamp;

/// How far ahead an agent is given work: enough for this long, so that its slots never wait for the network,
/// and little enough that a task is not stuck behind another while an agent elsewhere falls idle.
const LOOK_AHEAD_SECONDS: f64 = 0.025;

/// How much of its slots a generalist may fill with what others can do as well.
const OF_A_GENERALIST: f32 = 0.75;

/// The fraction of the golden ratio. Its multiples, taken modulo 1, fill the unit interval evenly (Weyl, 1916).
const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;

/// What keeps a task from an agent that can do its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Obstacle {
    /// It takes no work: what state it is in.
    State(AgentState),
    /// Its labels are not those needed.
    Needs,
    /// All that it has of this resource is less than what is asked for.
    TooSmall(Part),
    /// Its host has too little memory or disk left, and another has not.
    Pressure,
    /// Its host's CPU is busy, and another's is not.
    Busy,
    /// It fails everything of the kind, and others do not.
    Ejected,
    /// It is kept free for another task.
    Kept,
    /// The task must run alone, and it has something.
    NotEmpty,
    /// Its slots, and what it may have in advance, are taken.
    Slots,
    /// It keeps what it has free for what only it can do.
    Generalist,
    /// It fails more than others, and has its share.
    Share,
    /// What it has left of this resource is less than what is asked for.
    Reserved(Part),
}

/// A resource that a demand asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The one of this number in `Resources::dimensions`.
    Resource(usize),
    /// The countable one of this number, as the demand names them.
    Countable(usize),
}

/// What agents are compared with: how the others are that can do the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Standard {
    fewest_kinds: usize,
    best_success: f64,
    /// Whether agents whose host is under pressure get it all the same, because there is no other.
    pub(crate) pressured_too: bool,
    busy_too: bool,
    ejected_too: bool,
}

impl Standard {
    /// Where nothing is compared.
    const NONE: Standard = Standard {
        fewest_kinds: usize::MAX,
        best_success: 1.0,
        pressured_too: true,
        busy_too: true,
        ejected_too: true,
    };

    /// Looks at the agents that could take this, if there is anything to compare.
    pub(crate) fn of(demand: &Demand, kind: &KindEntry, registry: &Registry) -> Self {
        if !is_needed(kind, registry) {
            return Self::NONE;
        }
        let able = || kind.agents.iter().map(|key| registry.get(*key)).filter(|agent| is_able(demand, agent));
        let ejected_too = able().all(|agent| is_ejected(kind, agent));
        let mut standard = Self { best_success: 0.0, ejected_too, ..Self::NONE };
        // One that was ejected is no reason to keep the task from another: it does not get it either.
        for agent in able().filter(|agent| ejected_too || !is_ejected(kind, agent)) {
            standard.fewest_kinds = standard.fewest_kinds.min(agent.kinds.len());
            standard.best_success = standard.best_success.max(agent.success_for(kind));
            standard.pressured_too &= agent.is_under_pressure();
            standard.busy_too &= agent.is_busy();
        }
        standard
    }
}

/// Whether agents are to be compared at all.
pub(crate) fn is_needed(kind: &KindEntry, registry: &Registry) -> bool {
    kind.settings.strategy.compares_agents() || kind.ejections > 0 || registry.fleet().any_pressured(kind.key)
}

/// The standards of a kind, kept for a moment.
#[derive(Debug, Default)]
pub(crate) struct Standards {
    known: Vec<(Demand, Standard)>,
    version: u64,
    until: Timestamp,
    /// Whether anybody is there that could ever take this.
    able: Vec<(Demand, bool)>,
    able_version: u64,
}

/// So many are kept.
const STANDARDS: usize = 16;

impl Standards {
    /// How the agents are that could take this. What they do well and badly at may be a moment old; who is there is not.
    pub(crate) fn get(&self, demand: &Demand) -> Standard {
        self.known.iter().find(|(known, _)| known.is_like(demand)).map_or(Standard::NONE, |(_, standard)| *standard)
    }

    /// Whether what is known of this must be found out anew.
    fn is_stale(&self, demand: &Demand, version: u64, now: Timestamp) -> bool {
        self.version != version || now >= self.until || !self.known.iter().any(|(known, _)| known.is_like(demand))
    }

    fn put(&mut self, demand: &Demand, standard: Standard, version: u64, now: Timestamp) {
        if self.version != version || now >= self.until || self.known.len() == STANDARDS {
            self.known.clear();
            self.version = version;
            self.until = now + crate::scheduler::TICK;
        }
        self.known.push((demand.clone(), standard));
    }
}

/// Finds out how the agents are that could take this, if that is to be known and is not.
pub(crate) fn look_around(demand: &Demand, kind: &mut KindEntry, registry: &Registry, now: Timestamp) {
    if !is_needed(kind, registry) {
        return kind.standards.known.clear();
    }
    let version = registry.fleet().version();
    if kind.standards.is_stale(demand, version, now) {
        let standard = Standard::of(demand, kind, registry);
        kind.standards.put(demand, standard, version, now);
    }
}

/// Whether the agent could ever take this, however busy it is now.
pub(crate) fn is_able(demand: &Demand, agent: &Agent) -> bool {
    agent.takes_work() && demand.needs.are_met_by(&agent.labels) && too_small(&demand.reserved, agent).is_none()
}

/// What keeps a task from an agent that can do its kind, if anything does.
pub(crate) fn obstacle(demand: &Demand, kind: &KindEntry, agent: &Agent, standard: &Standard) -> Option<Obstacle> {
    if !agent.takes_work() {
        return Some(Obstacle::State(agent.state));
    }
    if !demand.needs.are_met_by(&agent.labels) {
        return Some(Obstacle::Needs);
    }
    if let Some(part) = too_small(&demand.reserved, agent) {
        return Some(Obstacle::TooSmall(part));
    }
    if !standard.pressured_too && agent.is_under_pressure() {
        return Some(Obstacle::Pressure);
    }
    if kind.settings.strategy == Strategy::ResourceBased && !standard.busy_too && agent.is_busy() {
        return Some(Obstacle::Busy);
    }
    if !standard.ejected_too && is_ejected(kind, agent) {
        return Some(Obstacle::Ejected);
    }
    if demand.alone {
        if agent.taken() > 0 {
            return Some(Obstacle::NotEmpty);
        }
    } else if agent.kept_for.is_some() {
        return Some(Obstacle::Kept);
    }
    let room = agent.room();
    if room > 1.0 + kind.look_ahead() || !agent.has_place() {
        return Some(Obstacle::Slots);
    }
    if room > kind_limit(kind, agent.kinds.len(), standard) {
        return Some(Obstacle::Generalist);
    }
    if kind.settings.strategy == Strategy::Weighted && agent.taken() >= weighted_limit(kind, agent, standard) {
        return Some(Obstacle::Share);
    }
    not_left(&demand.reserved, agent).map(Obstacle::Reserved)
}

/// How much an agent that can do so many kinds may carry with one more attempt, in proportion to its slots.
pub(crate) fn kind_limit(kind: &KindEntry, kinds: usize, standard: &Standard) -> f32 {
    let generalist = kind.settings.strategy == Strategy::CapabilityBased && kinds > standard.fewest_kinds;
    if generalist { OF_A_GENERALIST } else { 1.0 + kind.look_ahead() }
}

/// How many attempts an agent may have under `weighted`.
fn weighted_limit(kind: &KindEntry, agent: &Agent, standard: &Standard) -> usize {
    // Under a backlog an agent gets as much as it gets done: that it is fast shows by itself, that it succeeds does
    // not. One that does worse than the best is given no work in advance either.
    let share = agent.success_for(kind) / standard.best_success.max(f64::MIN_POSITIVE);
    let slots = f64::from(agent.slots);
    let ahead = slots * f64::from(kind.look_ahead()) * ((share - 0.9) * 10.0).clamp(0.0, 1.0);
    // Rounded up or down by turns, so that a fraction of a slot is a fraction of the time.
    let dither = (kind.strategy.placements as f64 * GOLDEN_RATIO).fract();
    (slots * share.min(1.0) + ahead + dither).floor() as usize
}

impl KindEntry {
    /// How much more than its slots an agent is given, in proportion to them: 25 ms of work, or as much again as its
    /// slots where it is not known yet how long an attempt runs. An agent takes no more than its queue.
    pub(crate) fn look_ahead(&self) -> f32 {
        self.run_time.seconds().map_or(1.0, |run| (LOOK_AHEAD_SECONDS / run.max(1e-6)) as f32)
    }
}

/// The first resource of which all that the agent has is not enough.
fn too_small(needed: &Needed, agent: &Agent) -> Option<Part> {
    let needed_and_had = needed.resources.dimensions().into_iter().zip(agent.capacity.dimensions());
    let resource = needed_and_had.into_iter().position(|(need, capacity)| capacity != 0 && need > capacity);
    resource.map(Part::Resource).or_else(|| short_of(&needed.countable, |name| agent.countables.get(name)))
}

/// The first resource of which what the agent has left is not enough.
fn not_left(needed: &Needed, agent: &Agent) -> Option<Part> {
    if needed.resources != Resources::ZERO {
        let needed_and_left = needed.resources.dimensions().into_iter().zip(agent.unreserved().dimensions());
        if let Some(number) = needed_and_left.into_iter().position(|(need, left)| need > left) {
            return Some(Part::Resource(number));
        }
    }
    short_of(&needed.countable, |name| agent.uncounted(name))
}

/// The first countable resource of which there is not enough.
fn short_of(countables: &Countables, amount: impl Fn(&str) -> u64) -> Option<Part> {
    countables.iter().position(|(name, need)| need > amount(name)).map(Part::Countable)
}

fn is_ejected(kind: &KindEntry, agent: &Agent) -> bool {
    agent.performance.get(&kind.key).is_some_and(|performance| performance.ejected)
}

/// The agent that shall be emptied for a task that must run alone: the one that is being so already, or else the
/// one that has least to finish.
pub(crate) fn agent_to_empty(
    demand: &Demand,
    sequence: crate::event::Sequence,
    kind: &KindEntry,
    registry: &Registry,
) -> Option<AgentKey> {
    let able = kind.agents.iter().copied().filter(|key| is_able(demand, registry.get(*key)));
    able.min_by_key(|key| {
        let agent = registry.get(*key);
        let other = agent.kept_for.is_some_and(|kept| kept != sequence);
        (agent.kept_for != Some(sequence), other, agent.in_flight.len(), *key)
    })
}

/// Whether an agent is there that could ever take this, however busy it is now, and however it is doing.
pub(crate) fn anybody_able(demand: &Demand, kind: &mut KindEntry, registry: &Registry) -> bool {
    let version = registry.fleet().version();
    let standards = &mut kind.standards;
    if standards.able_version != version || standards.able.len() == STANDARDS {
        standards.able.clear();
        standards.able_version = version;
    }
    if let Some((_, able)) = standards.able.iter().find(|(known, _)| known.is_like(demand)) {
        return *able;
    }
    let could = |agent: &Agent| {
        agent.is_present() && demand.needs.are_met_by(&agent.labels) && too_small(&demand.reserved, agent).is_none()
    };
    let able = kind.agents.iter().any(|key| could(registry.get(*key)));
    kind.standards.able.push((demand.clone(), able));
    able
}
