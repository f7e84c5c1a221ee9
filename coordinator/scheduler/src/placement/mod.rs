//! Filter, then rank: which agent gets a task.
//!
//! The filter is hard, a strategy only ranks what passes it. Agents that can do the same stand in cohorts, whose trees
//! find the best that passes without looking at most of the others, so that it costs about the same with ten agents
//! and with ten thousand.

mod cohort;
mod filter;
mod fleet;
mod ring;
mod strategy;
mod tournament;

pub(crate) use cohort::{Search, Sort};
pub(crate) use filter::{Obstacle, Part, Standard, Standards, agent_to_empty, anybody_able, is_able, obstacle};
pub(crate) use fleet::Fleet;
pub use strategy::{Packing, Strategy};
pub(crate) use strategy::{StrategyState, rank};

use compact_str::CompactString;
use shared::needs::Needs;

use crate::Timestamp;
use crate::kinds::{Demand, KindEntry, Kinds};
use crate::registry::{AgentKey, Registry};
use cohort::{Found, Hit};
use ring::Ring;

/// How much more than its share of the load an agent may have that a key belongs to.
const BOUND: f64 = 1.25;
/// How many points of the ring are looked at for a key.
const STEPS: usize = 64;
/// How often `power-of-two` draws at most for two that are not the same.
const DRAWS: usize = 4;

/// The agent that gets a task, and what spoke for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) agent: AgentKey,
    pub(crate) why: Why,
}

/// What spoke for an agent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Why {
    /// What it was chosen by.
    pub(crate) by: Strategy,
    /// What that made of it, and of the next best.
    pub(crate) key: u64,
    pub(crate) runner_up: Option<(AgentKey, u64)>,
    /// Whether it had a free slot, and not only room in its queue.
    pub(crate) had_free_slot: bool,
}

/// Takes over what has changed, so that agents can be sought for this demand.
pub(crate) fn prepare(demand: &Demand, kinds: &mut Kinds, registry: &mut Registry, now: Timestamp) {
    registry.settle(kinds);
    let kind = kinds.get_mut(demand.kind);
    filter::look_around(demand, kind, registry, now);
    let sort = kind.settings.strategy.sort(kind.key, kind.settings.packing);
    let countables = &demand.reserved.countable;
    registry.prepare(kind, &Search { sort, limit: 1.0, needs: &demand.needs, resources: None, countables });
}

/// Whether the agent would pass the filter for this demand. It must be prepared.
pub(crate) fn could_take(demand: &Demand, kind: &KindEntry, agent: AgentKey, registry: &Registry) -> bool {
    let agent = registry.get(agent);
    let standard = kind.standards.get(demand);
    agent.kinds.contains(&demand.kind) && obstacle(demand, kind, agent, &standard).is_none()
}

/// The agent that gets the task, if any can have it now. It must be prepared.
pub(crate) fn choose(
    demand: &Demand,
    affinity: Option<&CompactString>,
    kind: &mut KindEntry,
    registry: &mut Registry,
    random: &mut fastrand::Rng,
) -> Option<Choice> {
    let standard = kind.standards.get(demand);
    let strategy = kind.settings.strategy;
    if let Some(agent) = affinity.and_then(|key| by_affinity(key, demand, kind, registry, &standard)) {
        let why = Why { by: Strategy::Affinity, key: 0, runner_up: None, had_free_slot: true };
        return Some(Choice { agent, why });
    }
    let place = Placing { demand, kind, registry, standard };
    let choice = match strategy {
        _ if demand.alone => place.emptiest(),
        Strategy::Spread => place.spread(),
        Strategy::PowerOfTwo => place.best_of_two(random).or_else(|| place.best()),
        _ => place.best(),
    };
    kind.strategy.placements += 1;
    let choice = choice?;
    let sort = strategy.sort(kind.key, kind.settings.packing);
    let weight = registry.get(choice.agent).weight_for(kind);
    if let Some(key) = kind.strategy.moved(sort, choice.why.key, weight) {
        registry.reorder(choice.agent, sort, key);
    }
    Some(choice)
}

/// The agent that a key belongs to, unless it has too much already; then the next on the ring.
fn by_affinity(
    key: &str,
    demand: &Demand,
    kind: &mut KindEntry,
    registry: &Registry,
    standard: &Standard,
) -> Option<AgentKey> {
    if demand.alone {
        return None;
    }
    if kind.strategy.ring.is_none() {
        let mut ring = Ring::default();
        kind.agents.iter().for_each(|agent| ring.add(*agent, &registry.get(*agent).id));
        kind.strategy.ring = Some(ring);
    }
    let load = registry.fleet().load_of(kind.key);
    let average = (load.taken + 1) as f64 / load.slots.max(1) as f64;
    let ring = kind.strategy.ring.as_ref()?;
    let admits = |agent: &AgentKey| {
        let agent = registry.get(*agent);
        let bound = (BOUND * average * f64::from(agent.slots)).ceil().max(1.0);
        agent.room() <= 1.0 && (agent.taken() as f64) < bound && obstacle(demand, kind, agent, standard).is_none()
    };
    ring.from(key).take(STEPS).find(admits)
}

/// A task that is being placed.
struct Placing<'a> {
    demand: &'a Demand,
    kind: &'a KindEntry,
    registry: &'a Registry,
    standard: Standard,
}

impl Placing<'_> {
    /// The best by the strategy's order: of those with a free slot, or else of those with room in their queues.
    fn best(&self) -> Option<Choice> {
        let cohorts = || self.cohorts();
        self.tiers().find_map(|limit| self.search(cohorts(), limit))
    }

    /// Where the fewest attempts of the kind are; there, the one with the least load.
    fn spread(&self) -> Option<Choice> {
        let label = self.kind.settings.spread_over.as_str();
        let count = |number: &u32| {
            let value = self.registry.fleet().value(*number, label);
            value.and_then(|value| self.kind.strategy.spread.get(value)).copied().unwrap_or(0)
        };
        let mut cohorts: Vec<(usize, u32)> = self.cohorts().map(|number| (count(&number), number)).collect();
        cohorts.sort_unstable();
        let equals = || cohorts.chunk_by(|a, b| a.0 == b.0);
        self.tiers()
            .find_map(|limit| equals().find_map(|group| self.search(group.iter().map(|(_, number)| *number), limit)))
    }

    /// The less loaded of two that were drawn by lot.
    fn best_of_two(&self, random: &mut fastrand::Rng) -> Option<Choice> {
        let mut found = Found::default();
        for _ in 0..DRAWS {
            let cohort = self.fleet().cohort(self.cohort_by_lot(random)?);
            let Some((agent, room)) = cohort.draw(1.0, random) else { continue };
            if found.best.is_none_or(|best| best.agent != agent) {
                found.add(Hit { key: strategy::key_of_room(room), agent });
            }
            if found.second.is_some() {
                break;
            }
        }
        let mut drawn = [found.best, found.second].into_iter().flatten();
        let best = drawn.find(|hit| self.passes(hit.agent))?;
        self.choice(Found { best: Some(best), second: drawn.next() }, 1.0)
    }

    /// One of the cohorts in which somebody has a free slot.
    fn cohort_by_lot(&self, random: &mut fastrand::Rng) -> Option<u32> {
        let with_room = || self.cohorts().filter(|number| self.fleet().cohort(*number).has_room(1.0));
        let count = with_room().count();
        if count == 0 { None } else { with_room().nth(random.usize(..count)) }
    }

    /// For a task that runs alone: an agent that has nothing.
    fn emptiest(&self) -> Option<Choice> {
        let agents = self.kind.agents.iter().copied().filter(|agent| self.passes(*agent));
        let agent = agents.min_by_key(|agent| (self.registry.get(*agent).last_turn, *agent))?;
        let why = Why { by: self.kind.settings.strategy, key: 0, runner_up: None, had_free_slot: true };
        Some(Choice { agent, why })
    }

    /// How much an agent may carry with one more attempt: first its slots, then what it may have in advance.
    fn tiers(&self) -> impl Iterator<Item = f32> + use<> {
        [1.0, 1.0 + self.kind.look_ahead()].into_iter()
    }

    fn fleet(&self) -> &Fleet {
        self.registry.fleet()
    }

    fn cohorts(&self) -> impl Iterator<Item = u32> + '_ {
        let is_meant = |number: &u32| self.standard.pressured_too || !self.fleet().cohort(*number).traits.pressured;
        self.fleet().able(self.kind.key).iter().copied().filter(is_meant)
    }

    fn search(&self, cohorts: impl Iterator<Item = u32>, limit: f32) -> Option<Choice> {
        let needs: &Needs = &self.demand.needs;
        let resources = Some(self.demand.reserved.resources.dimensions()).filter(|wanted| *wanted != [0; 4]);
        let countables = &self.demand.reserved.countable;
        let settings = &self.kind.settings;
        let sort = settings.strategy.sort(self.kind.key, settings.packing);
        let mut found = Found::default();
        for number in cohorts {
            let cohort = self.fleet().cohort(number);
            let limit = limit.min(filter::kind_limit(self.kind, cohort.traits.kinds.len(), &self.standard));
            cohort.find(&Search { sort, limit, needs, resources, countables }, &mut found, |agent| self.passes(agent));
        }
        self.choice(found, limit)
    }

    fn choice(&self, found: Found, limit: f32) -> Option<Choice> {
        let best = found.best?;
        let runner_up = found.second.map(|hit| (hit.agent, hit.key));
        let (by, key, had_free_slot) = (self.kind.settings.strategy, best.key, limit <= 1.0);
        Some(Choice { agent: best.agent, why: Why { by, key, runner_up, had_free_slot } })
    }

    fn passes(&self, agent: AgentKey) -> bool {
        obstacle(self.demand, self.kind, self.registry.get(agent), &self.standard).is_none()
    }
}
