//! What those go by who decide how many agents there should be: what a pool's agents carry, and what waits for them.
//!
//! What comes about between two looks is counted by counters that only grow. So anybody can look as often as he likes,
//! and nothing is done for a task but to add to a few numbers.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use hdrhistogram::Histogram;
use rustc_hash::{FxBuildHasher, FxHashSet};
use shared::api::AgentState;
use shared::{Epoch, Kind};

use crate::kinds::{KindEntry, KindKey};
use crate::placement;
use crate::registry::{self, AgentKey};
use crate::scaling::signals::{Agent, Measured};
use crate::scaling::{Policy, Share};
use crate::tasks::{State, Task};
use crate::{Scheduler, Timestamp};

/// So many of the demands that wait in vain are looked at for an agent that is the only one who could meet them.
const DEMANDS: usize = 32;

/// How long tasks waited, to within 6 %.
#[derive(Clone, Debug)]
pub struct Waits(Histogram<u64>);

impl Default for Waits {
    fn default() -> Self {
        // In milliseconds; what is longer than a month counts as a month.
        const MONTH: u64 = 31 * 24 * 3600 * 1000;
        Self(Histogram::new_with_bounds(1, MONTH, 1).expect("the bounds are good"))
    }
}

impl Waits {
    pub(crate) fn add(&mut self, wait: Duration) {
        self.0.saturating_record(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    }

    /// Takes in the waits of others.
    pub fn merge(&mut self, others: &Waits) {
        self.0.add(&others.0).expect("all have the same bounds");
    }

    /// What has come since these were all.
    #[must_use]
    pub fn since(&self, earlier: &Waits) -> Waits {
        let mut since = self.clone();
        // They only grow.
        since.0.subtract(&earlier.0).expect("what was counted stays counted");
        since
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// 95 of 100 are no longer than this; zero if there are none.
    pub fn p95(&self) -> Duration {
        Duration::from_millis(self.0.value_at_quantile(0.95))
    }
}

/// What has started and ended of a kind.
#[derive(Debug, Default)]
pub(crate) struct KindCounts {
    /// How long tasks had waited that started for the first time.
    waits: Option<Box<Waits>>,
    /// Attempts that have ended well, and how long they ran.
    runs: u64,
    run_time: Duration,
}

impl KindCounts {
    pub(crate) fn started(&mut self, waited: Duration) {
        self.waits.get_or_insert_default().add(waited);
    }

    pub(crate) fn ran(&mut self, run: Duration) {
        self.runs += 1;
        self.run_time += run;
    }
}

/// What a pool's agents carry, and what waits for them.
#[derive(Clone, Debug)]
pub struct PoolLoad {
    /// When it was so.
    pub at: Timestamp,
    /// The epoch of the leader that looked, if it led.
    pub epoch: Option<Epoch>,
    /// Whether the link is suspected rather than the agents, or it is not known yet who runs what.
    pub in_doubt: bool,
    /// Its agents, those that are gone but not forgotten among them.
    pub agents: Vec<AgentLoad>,
    /// The kinds that it is for, as far as they are known.
    pub kinds: Vec<KindLoad>,
}

/// What an agent carries and has done.
#[derive(Clone, Debug)]
pub struct AgentLoad {
    /// How it is.
    pub agent: Agent,
    /// For how long its slots were taken, put together; it only grows.
    pub slot_time: Duration,
    /// Attempts of it that have ended well, and badly; they only grow.
    pub succeeded: u64,
    /// See `succeeded`.
    pub failed: u64,
    /// How busy its host was when it reported last: the busier of CPU and memory.
    pub used: Option<Measured<Share>>,
}

/// What waits of a kind, and what has been done of it.
#[derive(Clone, Debug)]
pub struct KindLoad {
    /// The kind.
    pub kind: Kind,
    /// Tasks that the coordinator has fetched, whatever became of them.
    pub fetched: u64,
    /// Those of them that wait for an agent that the pool could have.
    pub waiting: u64,
    /// How long these have waited.
    pub ages: Waits,
    /// How long the first of them has.
    pub oldest: Duration,
    /// Tasks that were sent back to the stream because none of the agents could ever run them, nor one more like them.
    pub hopeless: u64,
    /// How many more may run at all, by the limits of the kind; without a limit any number.
    pub room: Option<u64>,
    /// How long tasks had waited that started; it only grows.
    pub started: Option<Waits>,
    /// Attempts that have ended well, and how long they ran; they only grow.
    pub runs: u64,
    /// See `runs`.
    pub run_time: Duration,
}

impl Scheduler {
    /// What the agents of a pool of this policy carry, and what waits for them.
    pub fn pool_load(&self, policy: &Policy, now: Timestamp) -> PoolLoad {
        let owned: Vec<(AgentKey, &registry::Agent)> =
            self.registry.iter().filter(|(_, agent)| self.is_owned(policy, agent)).collect();
        // More of the same would be of no use for what those cannot do who are there.
        let knows_what_it_can = owned.iter().any(|(_, agent)| agent.is_present());
        let only = self.only_ones(&owned);
        let agents = owned.iter().map(|(key, agent)| self.agent_load(agent, only.contains(key), now)).collect();
        let kinds = self.kind_loads(policy, &owned, knows_what_it_can, now);
        let in_doubt = !self.brake.is_free(now) || self.adoption.is_some();
        PoolLoad { at: now, epoch: self.epoch, in_doubt, agents, kinds }
    }

    fn is_owned(&self, policy: &Policy, agent: &registry::Agent) -> bool {
        let can_do = |kind: &Kind| self.kinds.find(kind).is_some_and(|key| agent.kinds.contains(&key));
        policy.owns(can_do, &agent.labels)
    }

    /// Those who are the only ones that could ever run something that waits.
    fn only_ones(&self, owned: &[(AgentKey, &registry::Agent)]) -> FxHashSet<AgentKey> {
        let mut only = FxHashSet::default();
        for (demand, _) in self.lines.blocked_heads().take(DEMANDS) {
            if demand.needs.is_empty() && demand.reserved.is_empty() {
                continue;
            }
            let kind = self.kinds.get(demand.kind);
            let mut able = kind.agents.iter().filter(|key| placement::is_able(demand, self.registry.get(**key)));
            if let (Some(first), None) = (able.next(), able.next()) {
                only.insert(*first);
            }
        }
        only.retain(|key| owned.iter().any(|(owned, _)| owned == key));
        only
    }

    fn agent_load(&self, agent: &registry::Agent, is_the_only_one: bool, now: Timestamp) -> AgentLoad {
        let kinds: BTreeSet<Kind> = agent.kinds.iter().map(|key| self.kinds.get(*key).kind.clone()).collect();
        let used = agent.report.as_ref().map(|report| {
            let share = Share::of(report.cpu.max(report.memory), 1.0);
            Measured::new(share, agent.reported)
        });
        AgentLoad {
            agent: Agent {
                id: agent.id.clone(),
                state: agent.state,
                registered: agent.registered,
                slots: agent.slots,
                running: agent.slots_taken(),
                remaining: self.remaining(agent, now),
                kinds,
                pinned: is_the_only_one || agent.kept_for.is_some(),
            },
            slot_time: agent.slot_time(now),
            succeeded: agent.succeeded,
            failed: agent.failed,
            used: used.filter(|_| agent.state != AgentState::Offline),
        }
    }

    /// How long until the last attempt of an agent has ended, by how long others of its kind run. One that runs longer than
    /// they do has as much before it as behind it, for all that is known.
    fn remaining(&self, agent: &registry::Agent, now: Timestamp) -> Duration {
        let left = |task: &Task| {
            let ran = now.since(task.attempt()?.started);
            let mean = self.kinds.get(task.demand.kind).run_time.seconds().map(Duration::from_secs_f64)?;
            Some(if ran < mean { mean - ran } else { ran })
        };
        let tasks = agent.in_flight.iter().filter_map(|sequence| self.tasks.get(*sequence));
        tasks.filter_map(left).max().unwrap_or_default()
    }

    fn kind_loads(
        &self,
        policy: &Policy,
        owned: &[(AgentKey, &registry::Agent)],
        knows_what_it_can: bool,
        now: Timestamp,
    ) -> Vec<KindLoad> {
        let keys: BTreeSet<KindKey> = if policy.kinds.is_empty() {
            owned.iter().flat_map(|(_, agent)| agent.kinds.iter().copied()).collect()
        } else {
            policy.kinds.iter().filter_map(|kind| self.kinds.find(kind)).collect()
        };
        let mut loads: HashMap<KindKey, KindLoad, FxBuildHasher> =
            keys.iter().map(|key| (*key, self.kind_load(self.kinds.get(*key), knows_what_it_can, now))).collect();
        for (_, task) in self.tasks.iter() {
            let Some(load) = loads.get_mut(&task.demand.kind) else { continue };
            load.fetched += u64::from(task.delivered);
            let is_hopeless = knows_what_it_can && self.unmet.contains(&task.demand);
            if task.state == State::Waiting && !is_hopeless {
                let waited = now.since(task.accepted);
                load.waiting += 1;
                load.oldest = load.oldest.max(waited);
                load.ages.add(waited);
            }
        }
        keys.iter().filter_map(|key| loads.remove(key)).collect()
    }

    fn kind_load(&self, kind: &KindEntry, knows_what_it_can: bool, now: Timestamp) -> KindLoad {
        let is_paced = kind.pace.not_before(kind.settings.rate, now).is_some();
        let may_run = kind.settings.max_running.map(|most| most.saturating_sub(kind.running) as u64);
        KindLoad {
            kind: kind.kind.clone(),
            fetched: 0,
            waiting: 0,
            ages: Waits::default(),
            oldest: Duration::ZERO,
            hopeless: if knows_what_it_can { self.unmet.sent_back(kind.key) } else { 0 },
            room: if is_paced || kind.settings.paused { Some(0) } else { may_run },
            started: kind.counts.waits.as_deref().cloned(),
            runs: kind.counts.runs,
            run_time: kind.counts.run_time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_since_is_told_apart_from_what_was_before() {
        let mut counts = KindCounts::default();
        (0..1000).for_each(|_| counts.started(Duration::from_secs(60)));
        let before = counts.waits.as_deref().cloned().unwrap();

        (1..=100).for_each(|wait| counts.started(Duration::from_millis(wait * 10)));
        let since = counts.waits.as_deref().unwrap().since(&before);

        let p95 = since.p95().as_millis();
        assert!((900..=1010).contains(&p95), "{p95} ms");
        assert!(before.since(&before).is_empty());
    }
}
