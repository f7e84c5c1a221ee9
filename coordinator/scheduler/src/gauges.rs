//! What the scheduler can tell in numbers: what alerts go by.

use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::Kind;
use shared::api::AgentState;

use crate::kinds::KindKey;
use crate::registry::Agent;
use crate::tasks::State;
use crate::{Scheduler, Timestamp};

/// How things are at a moment, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Agents by state.
    pub agents: Vec<(AgentState, u64)>,
    /// Those of them that are offline and have not said goodbye.
    pub agents_lost: u64,
    /// Slots of the agents that get work.
    pub slots: u64,
    /// Those of them that have an attempt in them.
    pub slots_taken: u64,
    /// Each kind that is known.
    pub kinds: Vec<KindGauges>,
}

/// How things are with one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct KindGauges {
    /// Which one.
    pub kind: Kind,
    /// Agents that can do it and are there.
    pub agents: u64,
    /// Tasks that no present agent could ever run.
    pub unmet: u64,
    /// How long the oldest task has waited that is fetched and has not been started.
    pub oldest_waiting: Option<Duration>,
    /// Tasks settled by this leader, in the order of [`shared::Outcome::ALL`].
    pub settled: [u64; 5],
}

impl Scheduler {
    /// How things are, in numbers.
    pub fn gauges(&self, now: Timestamp) -> Gauges {
        let agents = || self.registry.iter().map(|(_, agent)| agent);
        let working = || agents().filter(|agent| agent.takes_work());
        let of_state = |state: AgentState| (state, agents().filter(|agent| agent.state == state).count() as u64);
        Gauges {
            agents: AgentState::ALL.map(of_state).to_vec(),
            agents_lost: agents().filter(|agent| is_lost(agent)).count() as u64,
            slots: working().map(|agent| u64::from(agent.slots)).sum(),
            slots_taken: working().map(|agent| u64::from(agent.slots_taken())).sum(),
            kinds: self.kind_gauges(now),
        }
    }

    fn kind_gauges(&self, now: Timestamp) -> Vec<KindGauges> {
        let mut oldest: FxHashMap<KindKey, Timestamp> = FxHashMap::default();
        for (_, task) in self.tasks.iter().filter(|(_, task)| task.state == State::Waiting) {
            let accepted = oldest.entry(task.demand.kind).or_insert(task.accepted);
            *accepted = (*accepted).min(task.accepted);
        }
        let unmet = self.unmet_tasks();
        let show = |entry: &crate::kinds::KindEntry| KindGauges {
            kind: entry.kind.clone(),
            agents: entry.agents.iter().filter(|key| self.registry.get(**key).is_present()).count() as u64,
            unmet: unmet.get(&entry.key).copied().unwrap_or(0),
            oldest_waiting: oldest.get(&entry.key).map(|accepted| now.since(*accepted)),
            settled: entry.settled,
        };
        self.kinds.iter().map(show).collect()
    }
}

/// Whether it went without a goodbye, and is not back.
fn is_lost(agent: &Agent) -> bool {
    agent.state == AgentState::Offline && agent.losses.back() == Some(&agent.last_heard)
}
