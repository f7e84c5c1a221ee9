//! The strategies: each ranks the agents that passed the filter, by a formula of its own.

use std::cmp::Ordering;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{Candidate, Candidates};
use crate::queue::KindEntry;
use crate::registry::{Agent, AgentKey, Registry};

/// Weights of CPU, memory, disk and network in `resource-based`: the original framework's.
const RESOURCE_WEIGHTS: [f64; 4] = [0.4, 0.3, 0.2, 0.1];

/// How the tasks of a kind are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// A cycle over the agents, in the order of their names in the registry: each in turn, those left out that
    /// do not pass the filter.
    RoundRobin,
    /// The agent with the fewest attempts, running plus queued, in proportion to its slots.
    #[default]
    LeastConnections,
    /// The agent with the largest weighted free share of CPU, memory, disk and network (0.4, 0.3, 0.2, 0.1):
    /// what its last report measured, and what it has been given since. A host above 90 % of CPU or memory is
    /// avoided while another can do the kind.
    ResourceBased,
    /// The most specialised agent that can do it: the one with the fewest kinds. Generalists get it when the
    /// specialists are full, and keep a quarter of their slots free for what only they can do.
    CapabilityBased,
    /// A share in proportion to measured performance: success rate times speed, both decaying means. Smooth
    /// weighted round-robin (as in nginx, commit 52327e0627f4, 2012); under backlog, when every slot is in use and speed
    /// shows by itself, an agent may fill its slots in proportion to its success rate.
    Weighted,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Strategy; 5] = [
        Strategy::RoundRobin,
        Strategy::LeastConnections,
        Strategy::ResourceBased,
        Strategy::CapabilityBased,
        Strategy::Weighted,
    ];

    /// How it is written in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Strategy::RoundRobin => "round-robin",
            Strategy::LeastConnections => "least-connections",
            Strategy::ResourceBased => "resource-based",
            Strategy::CapabilityBased => "capability-based",
            Strategy::Weighted => "weighted",
        }
    }

    /// Whether how much it gives to an agent depends on how the others are.
    pub(crate) fn compares_agents(self) -> bool {
        match self {
            Strategy::RoundRobin | Strategy::LeastConnections => false,
            Strategy::ResourceBased | Strategy::CapabilityBased | Strategy::Weighted => true,
        }
    }

    /// Chooses among the agents that passed the filter.
    pub(crate) fn choose(self, candidates: &Candidates, kind: &mut KindEntry, registry: &Registry) -> Option<AgentKey> {
        kind.strategy.placements += 1;
        match self {
            Strategy::RoundRobin => kind.strategy.next_in_cycle(candidates),
            Strategy::LeastConnections => least(candidates.best_tier(), registry, Agent::load),
            Strategy::ResourceBased => least(candidates.best_tier(), registry, |agent| -free_share(agent)),
            Strategy::CapabilityBased => most_specialised(candidates, registry),
            Strategy::Weighted => weighted(candidates, kind, registry),
        }
    }
}

/// What a strategy remembers of a kind.
#[derive(Debug, Default)]
pub(crate) struct StrategyState {
    /// How often an agent was sought.
    pub(crate) placements: u64,
    /// Whose turn it was last.
    cursor: Option<AgentKey>,
    /// What each agent is owed, in `weighted`.
    credit: FxHashMap<AgentKey, f64>,
}

impl StrategyState {
    /// An agent is not there any more.
    pub(crate) fn forget(&mut self, agent: AgentKey) {
        self.credit.remove(&agent);
    }

    fn next_in_cycle(&mut self, candidates: &Candidates) -> Option<AgentKey> {
        let after = candidates.best_tier().filter(|key| Some(*key) > self.cursor).min();
        self.cursor = after.or_else(|| candidates.best_tier().min());
        self.cursor
    }
}

/// The agent with the least of something; of equals the one whose turn is longest ago.
fn least(
    agents: impl Iterator<Item = AgentKey>,
    registry: &Registry,
    measure: impl Fn(&Agent) -> f64,
) -> Option<AgentKey> {
    let rank = |key: AgentKey| {
        let agent = registry.get(key);
        (measure(agent), agent.last_turn, key)
    };
    agents.map(rank).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2))).map(|rank| rank.2)
}

fn free_share(agent: &Agent) -> f64 {
    let used = agent.estimated_use();
    RESOURCE_WEIGHTS.iter().zip(used).map(|(weight, used)| weight * (1.0 - used)).sum()
}

fn most_specialised(candidates: &Candidates, registry: &Registry) -> Option<AgentKey> {
    let compare = |a: &Candidate, b: &Candidate| -> Ordering {
        let (x, y) = (registry.get(a.agent), registry.get(b.agent));
        (x.kinds.len().cmp(&y.kinds.len()))
            .then(b.has_free_slot.cmp(&a.has_free_slot))
            .then(x.load().total_cmp(&y.load()))
            .then(x.last_turn.cmp(&y.last_turn))
            .then(a.agent.cmp(&b.agent))
    };
    candidates.iter().min_by(compare).map(|candidate| candidate.agent)
}

fn weighted(candidates: &Candidates, kind: &mut KindEntry, registry: &Registry) -> Option<AgentKey> {
    let mut total = 0.0;
    let mut chosen: Option<(AgentKey, f64)> = None;
    for key in candidates.best_tier() {
        let weight = registry.get(key).weight_for(kind);
        total += weight;
        let credit = kind.strategy.credit.entry(key).or_default();
        *credit += weight;
        if chosen.is_none_or(|(_, most)| *credit > most) {
            chosen = Some((key, *credit));
        }
    }
    let (key, _) = chosen?;
    *kind.strategy.credit.entry(key).or_default() -= total;
    Some(key)
}
