//! The strategies: each ranks the agents that pass the filter, by a formula of its own.

use std::collections::BTreeMap;

use compact_str::CompactString;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::cohort::Sort;
use super::ring::Ring;
use crate::kinds::KindKey;
use crate::registry::{Agent, AgentKey};

/// How the tasks of a kind are placed.
///
/// Whatever the strategy, an agent with a free slot comes before one that only has room in its queue, and tasks with
/// the same `Hive-Affinity` prefer the same agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The agent whose last task of the kind is longest ago: a cycle over those that pass the filter. Who comes is next,
    /// who leaves is left out, and the order of the others stays.
    RoundRobin,
    /// The agent with the fewest attempts, running plus queued, in proportion to its slots.
    #[default]
    LeastConnections,
    /// The agent with the least of its resources in use: the weighted sum of the shares of CPU, memory, disk and network
    /// (0.4, 0.3, 0.2, 0.1 unless set, the original framework's), as its last report measured them, and what it has been
    /// given since. A host above 90 % of CPU is avoided while another can do the kind.
    ResourceBased,
    /// The agent that is made for it: 1 / (number of kinds it can do), plus the weights of the preferred labels
    /// (`prefer`) that it has; of equals the one with the least load. Who can do more kinds than others keeps a quarter
    /// of its slots free for what only it can do.
    CapabilityBased,
    /// A share in proportion to measured performance: slots times success rate times speed, all decaying means. By start
    /// tags, as in start-time fair queueing (Goyal, Vin and Cheng, 1996): each task moves its agent on by 1 / weight, and
    /// the one that is furthest behind is next. Under backlog, when every slot is in use and speed shows by itself, an
    /// agent may fill its slots in proportion to its success rate.
    Weighted,
    /// The agent that the key of `Hive-Affinity` belongs to on a ring of agents, or the next ones on it where that one has
    /// more than 1.25 times its share of the load (consistent hashing with bounded loads: Mirrokni, Thorup and
    /// Zadimoghaddam, 2016). Without a key, as `least-connections`.
    Affinity,
    /// Where the fewest attempts of the kind are, by the value of a label (`spread-over`); there, as `least-connections`.
    Spread,
    /// The agent with the least left that can still take it, of slots or of a resource (`pack-by`): best fit. It leaves
    /// others empty, to be given up or kept for what is large.
    BinPack,
    /// The less loaded of two that are drawn by lot (Mitzenmacher, 2001).
    PowerOfTwo,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Strategy; 9] = [
        Strategy::RoundRobin,
        Strategy::LeastConnections,
        Strategy::ResourceBased,
        Strategy::CapabilityBased,
        Strategy::Weighted,
        Strategy::Affinity,
        Strategy::Spread,
        Strategy::BinPack,
        Strategy::PowerOfTwo,
    ];

    /// How it is written in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Strategy::RoundRobin => "round-robin",
            Strategy::LeastConnections => "least-connections",
            Strategy::ResourceBased => "resource-based",
            Strategy::CapabilityBased => "capability-based",
            Strategy::Weighted => "weighted",
            Strategy::Affinity => "affinity",
            Strategy::Spread => "spread",
            Strategy::BinPack => "bin-pack",
            Strategy::PowerOfTwo => "power-of-two",
        }
    }

    /// Whether how much it gives to an agent depends on how the others are.
    pub(crate) fn compares_agents(self) -> bool {
        matches!(self, Strategy::ResourceBased | Strategy::CapabilityBased | Strategy::Weighted)
    }

    /// The order that it goes by.
    pub(crate) fn sort(self, kind: KindKey, packing: Packing) -> Sort {
        match self {
            Strategy::RoundRobin => Sort::Turn(kind),
            Strategy::LeastConnections | Strategy::Affinity | Strategy::Spread | Strategy::PowerOfTwo => Sort::Load,
            Strategy::ResourceBased => Sort::Use,
            Strategy::CapabilityBased => Sort::Quality(kind),
            Strategy::Weighted => Sort::Pass(kind),
            Strategy::BinPack => Sort::Left(packing.dimension()),
        }
    }

    /// What it made of an agent, as it is shown: less is better.
    pub(crate) fn score(self, key: u64) -> f64 {
        match self {
            Strategy::RoundRobin => key as f64,
            Strategy::LeastConnections | Strategy::Affinity | Strategy::Spread | Strategy::PowerOfTwo => load_of(key),
            Strategy::ResourceBased => (key >> TURN_BITS) as f64 / SHARE_STEPS,
            Strategy::CapabilityBased => 1.0 - (key >> QUALITY_SHIFT) as f64 / QUALITY_STEPS,
            Strategy::Weighted => key as f64 / PASS_STEP,
            Strategy::BinPack => key as f64,
        }
    }

    /// What its score means, in words.
    pub(crate) fn score_means(self) -> &'static str {
        match self {
            Strategy::RoundRobin => "the turn in which it got a task of the kind last; the lowest is next",
            Strategy::LeastConnections | Strategy::Affinity | Strategy::Spread => {
                "attempts it had for each of its slots; the least is next"
            }
            Strategy::PowerOfTwo => "attempts for each of its slots, this one included; the less of two is next",
            Strategy::ResourceBased => "the weighted share of its resources in use; the least is next",
            Strategy::CapabilityBased => "how far it is made for the kind, 0 to 1; the most is next",
            Strategy::Weighted => "tasks given to it for its weight; the least is next",
            Strategy::BinPack => "what it had left; the least that is enough is next",
        }
    }
}

/// What `bin-pack` fills up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Slots.
    #[default]
    Slots,
    /// CPU.
    Cpu,
    /// Memory.
    Memory,
    /// Disk.
    Disk,
    /// Network.
    Network,
}

impl Packing {
    fn dimension(self) -> Option<usize> {
        match self {
            Packing::Slots => None,
            Packing::Cpu => Some(0),
            Packing::Memory => Some(1),
            Packing::Disk => Some(2),
            Packing::Network => Some(3),
        }
    }
}

/// The lower bits of a key say when an agent had its turn: of equals the one is next whose turn is longest ago.
const TURN_BITS: u32 = 40;
const TURN_MASK: u64 = (1 << TURN_BITS) - 1;
const LOAD_STEPS: f64 = 4096.0;
const SHARE_STEPS: f64 = 16_777_215.0;
const QUALITY_SHIFT: u32 = 48;
const QUALITY_STEPS: f64 = 65_535.0;
/// What a task of weight 1 moves its agent on by, in `weighted`.
const PASS_STEP: f64 = 1_048_576.0;

/// What `power-of-two` goes by: what an agent would carry with one more attempt, in proportion to its slots.
pub(super) fn key_of_room(room: f32) -> u64 {
    ((f64::from(room) * LOAD_STEPS) as u64) << TURN_BITS
}

fn load_of(key: u64) -> f64 {
    (key >> TURN_BITS) as f64 / LOAD_STEPS
}

/// Puts a share into the upper bits of a key.
fn steps(share: f64, steps: f64) -> u64 {
    (share.clamp(0.0, 1.0) * steps).round() as u64
}

/// Where an agent stands in an order that is not kept: less is better.
pub(crate) fn rank(sort: Sort, agent: &Agent, prefer: &BTreeMap<String, f64>, weights: [f64; 4]) -> u64 {
    let turn = agent.last_turn & TURN_MASK;
    match sort {
        Sort::Load => ((agent.load() * LOAD_STEPS) as u64).min(SHARE_STEPS as u64) << TURN_BITS | turn,
        Sort::Use => steps(share_in_use(agent, weights), SHARE_STEPS) << TURN_BITS | turn,
        Sort::Left(None) => u64::from(agent.slots.saturating_sub(agent.taken() as u32)),
        Sort::Left(Some(dimension)) => agent.unreserved().dimensions()[dimension].min(u64::MAX - 1),
        Sort::Quality(_) => {
            let load = ((agent.load() * 256.0) as u64).min(u64::from(u16::MAX));
            steps(1.0 - quality(agent, prefer), QUALITY_STEPS) << QUALITY_SHIFT | load << 32 | turn & 0xffff_ffff
        }
        Sort::Turn(_) | Sort::Pass(_) => 0,
    }
}

fn share_in_use(agent: &Agent, weights: [f64; 4]) -> f64 {
    let sum: f64 = weights.iter().sum();
    weights.iter().zip(agent.estimated_use()).map(|(weight, used)| weight * used).sum::<f64>() / sum.max(1e-9)
}

/// How well an agent is made for a kind, 0.0 to 1.0.
fn quality(agent: &Agent, prefer: &BTreeMap<String, f64>) -> f64 {
    let special = 1.0 / agent.kinds.len().max(1) as f64;
    let has = |label: &str| match label.split_once('=') {
        Some((name, value)) => agent.labels.get(name).is_some_and(|has| has == value),
        None => agent.labels.contains_key(label),
    };
    let (mut sum, mut most) = (special, 1.0);
    for (label, weight) in prefer {
        most += weight;
        sum += if has(label) { *weight } else { 0.0 };
    }
    sum / most
}

/// What a strategy remembers of a kind.
#[derive(Debug, Default)]
pub(crate) struct StrategyState {
    /// How often an agent was sought.
    pub(crate) placements: u64,
    /// The turn of `round-robin` that was last.
    turns: u64,
    /// The start tag that was given last, in `weighted`: who was out of work is not owed what it missed.
    virtual_time: u64,
    /// Who is next to a key, once a task with one has come.
    pub(crate) ring: Option<Ring>,
    /// Attempts that run by the value of the label that they are spread over.
    pub(crate) spread: FxHashMap<CompactString, usize>,
}

impl StrategyState {
    /// Where the agent stands from now on that was chosen, in an order that is kept.
    pub(crate) fn moved(&mut self, sort: Sort, key: u64, weight: f64) -> Option<u64> {
        match sort {
            Sort::Turn(_) => {
                self.turns += 1;
                Some(self.turns)
            }
            Sort::Pass(_) => {
                let start = key.max(self.virtual_time);
                self.virtual_time = start;
                Some(start + (PASS_STEP / weight.max(1e-3)) as u64)
            }
            Sort::Load | Sort::Use | Sort::Left(_) | Sort::Quality(_) => None,
        }
    }

    /// An agent can do the kind now.
    pub(crate) fn joined(&mut self, key: AgentKey, agent: &Agent) {
        if let Some(ring) = &mut self.ring {
            ring.add(key, &agent.id);
        }
    }

    /// An agent cannot do the kind any more, or is not there.
    pub(crate) fn forget(&mut self, agent: AgentKey) {
        if let Some(ring) = &mut self.ring {
            ring.remove(agent);
        }
    }
}
