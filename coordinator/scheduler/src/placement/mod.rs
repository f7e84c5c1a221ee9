//! Filter, then rank: which agent gets a task.
//!
//! The filter is hard, a strategy only ranks what passes it. `Candidates` can only be made by the filter, so
//! nothing that it forbids can be chosen.

mod strategy;

pub use strategy::Strategy;
pub(crate) use strategy::StrategyState;

use shared::Resources;

use crate::event::Sequence;
use crate::queue::{Demand, KindEntry};
use crate::registry::{Agent, AgentKey, Registry};

/// How far ahead an agent is given work: enough for this long, so that its slots never wait for the network,
/// and little enough that a task is not stuck behind another while an agent elsewhere falls idle.
const LOOK_AHEAD_SECONDS: f64 = 0.025;

/// Host pressure from which `resource-based` avoids an agent while another can do the kind.
/// The same 90 % as the original framework's constraint check.
const PRESSURE: f64 = 0.9;

/// An agent that passed the filter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) agent: AgentKey,
    /// Whether a slot is free, and not only room in its queue.
    pub(crate) has_free_slot: bool,
}

/// The agents that may get a task. Only [`filter`] makes one.
#[derive(Debug, Default)]
pub(crate) struct Candidates(Vec<Candidate>);

impl Candidates {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Candidate> + Clone + '_ {
        self.0.iter().copied()
    }

    /// Those with a free slot, or all if none has one.
    pub(crate) fn best_tier(&self) -> impl Iterator<Item = AgentKey> + Clone + '_ {
        let any_free = self.0.iter().any(|c| c.has_free_slot);
        self.0.iter().filter(move |c| c.has_free_slot || !any_free).map(|c| c.agent)
    }
}

/// Finds the agents that may get a task of this demand now, into `candidates`.
pub(crate) fn filter(demand: &Demand, kind: &KindEntry, registry: &Registry, candidates: &mut Candidates) {
    candidates.0.clear();
    let admission = Admission::of(demand, kind, registry);
    for &key in &kind.agents {
        let agent = registry.get(key);
        if has_room(demand, kind, agent) && admission.room(kind, agent) > agent.taken() {
            let has_free_slot = agent.taken() < agent.slots as usize;
            candidates.0.push(Candidate { agent: key, has_free_slot });
        }
    }
}

/// Whether the agent would pass the filter for this demand.
pub(crate) fn could_take(demand: &Demand, kind: &KindEntry, agent: &Agent, registry: &Registry) -> bool {
    agent.kinds.contains(&demand.kind)
        && has_room(demand, kind, agent)
        && Admission::of(demand, kind, registry).room(kind, agent) > agent.taken()
}

/// Whether an agent is there that could ever take this, however busy it is now.
pub(crate) fn anybody_able(demand: &Demand, kind: &KindEntry, registry: &Registry) -> bool {
    kind.agents.iter().map(|key| registry.get(*key)).any(|agent| {
        agent.is_present() && demand.needs.are_met_by(&agent.labels) && agent.is_large_enough_for(&demand.resources())
    })
}

/// The agent that shall be emptied for a task that must run alone: the one that is being so already, or else the
/// one that has least to finish.
pub(crate) fn agent_to_empty(
    demand: &Demand,
    sequence: Sequence,
    kind: &KindEntry,
    registry: &Registry,
) -> Option<AgentKey> {
    let able = kind.agents.iter().copied().filter(|key| {
        let agent = registry.get(*key);
        agent.takes_work() && demand.needs.are_met_by(&agent.labels) && agent.is_large_enough_for(&demand.resources())
    });
    able.min_by_key(|key| {
        let agent = registry.get(*key);
        let other = agent.kept_for.is_some_and(|kept| kept != sequence);
        (agent.kept_for != Some(sequence), other, agent.in_flight.len(), *key)
    })
}

/// Whether the agent could take it, by what does not depend on the other agents.
fn has_room(demand: &Demand, kind: &KindEntry, agent: &Agent) -> bool {
    agent.takes_work()
        && agent.taken() < (agent.slots + look_ahead(kind, agent)) as usize
        && (!demand.alone || agent.taken() == 0)
        && (demand.alone || agent.kept_for.is_none())
        && demand.needs.are_met_by(&agent.labels)
        && fits(&demand.resources(), agent)
}

fn fits(resources: &Resources, agent: &Agent) -> bool {
    *resources == Resources::ZERO || resources.fits(&agent.unreserved())
}

/// How many attempts beyond its slots the agent is given.
fn look_ahead(kind: &KindEntry, agent: &Agent) -> u32 {
    match kind.run_time.seconds() {
        None => agent.queue.min(agent.slots),
        Some(run) => {
            let enough = f64::from(agent.slots) * LOOK_AHEAD_SECONDS / run.max(1e-6);
            agent.queue.min(enough as u32)
        }
    }
}

/// What a kind's strategy adds to the filter: how much of an agent it may fill, given how the others are.
struct Admission {
    strategy: Strategy,
    fewest_kinds: usize,
    best_success: f64,
    all_under_pressure: bool,
    /// Whether agents that were ejected from the kind get it all the same, because no other can take this.
    ejected_too: bool,
}

impl Admission {
    fn of(demand: &Demand, kind: &KindEntry, registry: &Registry) -> Self {
        let mut admission = Self {
            strategy: kind.settings.strategy,
            fewest_kinds: usize::MAX,
            best_success: 0.0,
            all_under_pressure: true,
            ejected_too: kind.ejections == 0,
        };
        // The other strategies admit to every slot there is: nothing to compare.
        if !admission.strategy.compares_agents() && kind.ejections == 0 {
            return admission;
        }
        // An agent that can never take this is no reason to keep it from another.
        let able = |agent: &&Agent| {
            agent.takes_work()
                && demand.needs.are_met_by(&agent.labels)
                && agent.is_large_enough_for(&demand.resources())
        };
        let able = || kind.agents.iter().map(|key| registry.get(*key)).filter(able);
        admission.ejected_too |= able().all(|agent| is_ejected(kind, agent));
        // Nor is one that was ejected: it does not get the task either.
        let ejected_too = admission.ejected_too;
        for agent in able().filter(|agent| ejected_too || !is_ejected(kind, agent)) {
            admission.fewest_kinds = admission.fewest_kinds.min(agent.kinds.len());
            admission.all_under_pressure &= is_under_pressure(agent);
            admission.best_success = admission.best_success.max(agent.success_for(kind));
        }
        admission
    }

    /// How many attempts the agent may have for one more of this demand to be placed on it, plus one.
    fn room(&self, kind: &KindEntry, agent: &Agent) -> usize {
        let slots = agent.slots as usize;
        let full = slots + look_ahead(kind, agent) as usize;
        if !self.ejected_too && is_ejected(kind, agent) {
            return 0;
        }
        match self.strategy {
            Strategy::RoundRobin | Strategy::LeastConnections => full,
            Strategy::ResourceBased => {
                if is_under_pressure(agent) && !self.all_under_pressure {
                    0
                } else {
                    full
                }
            }
            // A generalist keeps a quarter of its slots for what only generalists can do.
            Strategy::CapabilityBased => {
                if agent.kinds.len() > self.fewest_kinds {
                    slots - slots.div_ceil(4)
                } else {
                    full
                }
            }
            Strategy::Weighted => {
                // Under a backlog an agent gets as much as it gets done: that it is fast shows by itself, that it
                // succeeds does not. One that does worse than the best is given no work in advance either.
                let share = agent.success_for(kind) / self.best_success;
                let ahead = f64::from(look_ahead(kind, agent)) * ((share - 0.9) * 10.0).max(0.0);
                // Rounded up or down by turns, so that a fraction of a slot is a fraction of the time.
                let dither = (kind.strategy.placements as f64 * GOLDEN_RATIO).fract();
                (slots as f64 * share + ahead + dither).floor() as usize
            }
        }
    }
}

/// The fraction of the golden ratio. Its multiples, taken modulo 1, fill the unit interval evenly (Weyl, 1916).
const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;

fn is_ejected(kind: &KindEntry, agent: &Agent) -> bool {
    agent.performance.get(&kind.key).is_some_and(|performance| performance.ejected)
}

fn is_under_pressure(agent: &Agent) -> bool {
    agent.report.as_ref().is_some_and(|report| report.cpu > PRESSURE || report.memory > PRESSURE)
}
