//! How much there is of everything, in numbers: what waits and runs, who is there, what is taken. Looked at now and then,
//! and nothing is counted for it on the way of a task.

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::api::AgentState;
use shared::{Epoch, Kind, Resources};

use crate::kinds::{Demand, KindKey};
use crate::registry::Agent;
use crate::tally::Tally;
use crate::{Scheduler, Timestamp};

/// So many filters are asked at most to find out what keeps tasks waiting, an agent and a line each: beyond that, it costs
/// the loop more than it tells.
const QUESTIONS: usize = 20_000;

/// How much there is of everything.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The epoch it leads in, if it leads.
    pub epoch: Option<Epoch>,
    /// Tasks that are fetched, and whose messages are not removed yet.
    pub in_hand: usize,
    /// Kinds of which something waits or runs, or that agents can do.
    pub kinds: Vec<KindFigures>,
    /// Agents by state, in the order of [`AgentState::ALL`].
    pub agents: [u64; AgentState::ALL.len()],
    /// Slots of the agents that get work.
    pub slots: u64,
    /// Of those, the ones that have an attempt in them.
    pub slots_taken: u64,
    /// CPU, memory, disk and network of the agents that get work, in the units of [`Resources`].
    pub resources: [Amounts; 4],
    /// What they offer of countable resources, under their names.
    pub countables: BTreeMap<String, Amounts>,
    /// Tasks that wait by what keeps them from the agent that comes nearest: a filter's name as `why` shows it, `no-agent`
    /// where there is none, or `limit` where one of their kind or tenant holds them.
    pub blocked: BTreeMap<String, u64>,
    /// What has been counted.
    pub tally: Tally,
}

/// How much there is of one kind.
#[derive(Clone, Debug)]
pub struct KindFigures {
    /// The kind.
    pub kind: Kind,
    /// Tasks fetched and not placed, by priority.
    pub waiting: [u64; 4],
    /// Tasks that agents have, by priority.
    pub running: [u64; 4],
    /// Tasks that no present agent could ever run, as far as the coordinator has seen them.
    pub unmet: u64,
    /// Agents that can do it and are not offline.
    pub agents: u64,
    /// How long ago the oldest was accepted that waits for an agent.
    pub oldest: Option<Duration>,
}

/// How much there is of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amounts {
    /// All that is offered; what is not limited is not in it.
    pub capacity: u64,
    /// What attempts have reserved of it.
    pub reserved: u64,
    /// What is used of it on the hosts, by whomever, as their agents reported last.
    pub used: f64,
}

impl Scheduler {
    /// How much there is of everything. It takes as long as there are kinds, agents, lines and running attempts.
    pub fn figures(&self, now: Timestamp) -> Figures {
        let mut figures = Figures {
            epoch: self.epoch,
            in_hand: self.tasks.len(),
            kinds: self.kind_figures(now),
            blocked: self.blocked_by(now),
            tally: self.tally.clone(),
            ..Figures::default()
        };
        for (_, agent) in self.registry.iter() {
            figures.agents[agent.state as usize] += 1;
            if agent.takes_work() {
                figures.add(agent);
            }
        }
        figures
    }

    fn kind_figures(&self, now: Timestamp) -> Vec<KindFigures> {
        let (running, oldest, unmet) = (self.running_by_priority(), self.oldest_by_kind(), self.unmet_tasks());
        let figures = self.kinds.iter().map(|entry| KindFigures {
            kind: entry.kind.clone(),
            waiting: entry.waiting.map(|count| count as u64),
            running: running.get(&entry.key).copied().unwrap_or_default(),
            unmet: unmet.get(&entry.key).copied().unwrap_or_default(),
            agents: entry.agents.iter().filter(|key| self.registry.get(**key).is_present()).count() as u64,
            oldest: oldest.get(&entry.key).map(|accepted| now.since(*accepted)),
        });
        figures.filter(|kind| !kind.is_empty()).collect()
    }

    fn running_by_priority(&self) -> FxHashMap<KindKey, [u64; 4]> {
        let mut running: FxHashMap<KindKey, [u64; 4]> = FxHashMap::default();
        let in_flight = self.registry.iter().flat_map(|(_, agent)| &agent.in_flight);
        for task in in_flight.filter_map(|sequence| self.tasks.get(*sequence)) {
            running.entry(task.demand.kind).or_default()[task.priority as usize] += 1;
        }
        running
    }

    /// When the oldest task of each kind was accepted that waits for an agent.
    fn oldest_by_kind(&self) -> FxHashMap<KindKey, Timestamp> {
        let mut oldest: FxHashMap<KindKey, Timestamp> = FxHashMap::default();
        for (kind, sequence) in self.lines.first_of_each(|sequence| self.tasks.is_waiting(sequence)) {
            if let Some(task) = self.tasks.get(sequence) {
                let kept = oldest.entry(kind).or_insert(task.accepted);
                *kept = task.accepted.min(*kept);
            }
        }
        oldest
    }

    /// Tasks that wait, by what keeps them from the agent that comes nearest.
    fn blocked_by(&self, now: Timestamp) -> BTreeMap<String, u64> {
        let mut blocked = BTreeMap::new();
        let mut add = |what: String, demand: &Demand| {
            let waiting = self.lines.waiting(demand).filter(|sequence| self.tasks.is_waiting(*sequence)).count();
            *blocked.entry(what).or_default() += waiting as u64;
        };
        self.lines.held_demands().for_each(|demand| add("limit".to_owned(), demand));
        let mut asked = 0;
        for (demand, _) in self.lines.blocked_heads() {
            asked += self.kinds.get(demand.kind).agents.len() + 1;
            if asked > QUESTIONS {
                break;
            }
            let nearest = self.why_placed(demand, now).nearest;
            add(nearest.map_or_else(|| "no-agent".to_owned(), |miss| miss.filter), demand);
        }
        blocked
    }
}

impl KindFigures {
    fn is_empty(&self) -> bool {
        self.agents == 0 && self.unmet == 0 && self.waiting == [0; 4] && self.running == [0; 4]
    }
}

impl Figures {
    fn add(&mut self, agent: &Agent) {
        self.slots += u64::from(agent.slots);
        self.slots_taken += u64::from(agent.slots_taken());
        let (capacity, reserved) = (agent.capacity.dimensions(), agent.reserved.dimensions());
        let offered: [u64; 4] = agent.offered.dimensions();
        let shares = agent.report.as_ref().map_or([0.0; 4], |r| [r.cpu, r.memory, r.disk, r.network]);
        for (i, amounts) in self.resources.iter_mut().enumerate() {
            amounts.add(capacity[i], reserved[i], shares[i] * offered[i] as f64);
        }
        for (name, capacity) in agent.countables.iter() {
            let amounts = self.countables.entry(name.to_owned()).or_default();
            amounts.add(capacity, agent.countables_reserved.get(name), 0.0);
        }
    }

    /// The resources under their names.
    pub fn resources(&self) -> impl Iterator<Item = (&'static str, Amounts)> {
        Resources::NAMES.into_iter().zip(self.resources)
    }
}

impl Amounts {
    fn add(&mut self, capacity: u64, reserved: u64, used: f64) {
        self.capacity = self.capacity.saturating_add(capacity);
        self.reserved = self.reserved.saturating_add(reserved);
        self.used += used;
    }
}
