//! What is used of what is reserved of what there is.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::api::{AgentUse, KindUse, ResourceAmounts, ResourceUse, SlotUse, UseOfOne};
use shared::{Resources, TaskOptions};

use crate::kinds::KindEntry;
use crate::registry::Agent;
use crate::usage::Evidence;
use crate::{Scheduler, Timestamp};

/// How often it is looked how many slots are taken.
const LOOK: Duration = Duration::from_secs(1);
/// Weight of the newest look in the decaying mean: the last few minutes count.
const NEWEST: f64 = 1.0 / 60.0;

/// How many slots are taken while there is enough to do.
#[derive(Debug, Default)]
pub(crate) struct Utilisation {
    next_look: Timestamp,
    mean: Option<f64>,
}

impl Scheduler {
    /// Looks how many slots are taken, if tasks wait that an agent could run.
    pub(crate) fn look_at_slots(&mut self, now: Timestamp) {
        if now < self.utilisation.next_look {
            return;
        }
        self.utilisation.next_look = now + LOOK;
        let waiting: usize = self.kinds.iter().flat_map(|kind| kind.waiting).sum();
        let in_vain: usize = self.unmet.demands().map(|demand| self.lines.waiting(demand).count()).sum();
        let SlotUse { slots, taken, .. } = self.slot_use();
        if waiting > in_vain && slots > 0 {
            let share = taken as f64 / slots as f64;
            let mean = self.utilisation.mean.map_or(share, |mean| mean + NEWEST * (share - mean));
            self.utilisation.mean = Some(mean);
        }
    }

    /// What is used of what is reserved of what there is; agents that get no work are left out.
    pub fn resource_use(&self, now: Timestamp) -> ResourceUse {
        let mut agents: Vec<&Agent> =
            self.registry.iter().map(|(_, agent)| agent).filter(|agent| agent.takes_work()).collect();
        agents.sort_by(|a, b| a.id.cmp(&b.id));
        let agents: Vec<AgentUse> = agents.into_iter().map(show_agent).collect();
        let kinds = self.kinds.iter().filter_map(|kind| Some(show_kind(kind, &kind.usage.evidence()?, now)));
        let mut kinds: Vec<KindUse> = kinds.collect();
        kinds.sort_by(|a, b| a.kind.cmp(&b.kind));
        ResourceUse { slots: self.slot_use(), mesh: sum(&agents), agents, kinds, unmet: self.show_unmet(now) }
    }

    pub(crate) fn slot_use(&self) -> SlotUse {
        let agents = || self.registry.iter().map(|(_, agent)| agent).filter(|agent| agent.takes_work());
        SlotUse {
            slots: agents().map(|agent| u64::from(agent.slots)).sum(),
            taken: agents().map(|agent| u64::from(agent.slots_taken())).sum(),
            taken_under_backlog: self.utilisation.mean,
        }
    }
}

fn show_agent(agent: &Agent) -> AgentUse {
    let (capacity, reserved) = (agent.capacity.dimensions(), agent.reserved.dimensions());
    let shares = agent.report.as_ref().map(|report| [report.cpu, report.memory, report.disk, report.network]);
    let offered = agent.offered.dimensions();
    let resources = (0..4).map(|i| ResourceAmounts {
        resource: Resources::NAMES[i].to_owned(),
        capacity: capacity[i],
        reserved: reserved[i],
        used: shares.filter(|_| offered[i] > 0).map(|shares| (shares[i] * offered[i] as f64).round() as u64),
    });
    let countables = agent.countables.iter().map(|(name, capacity)| ResourceAmounts {
        resource: name.to_owned(),
        capacity,
        reserved: agent.countables_reserved.get(name),
        used: None,
    });
    AgentUse {
        agent: agent.id.clone(),
        slots: agent.slots,
        taken: agent.slots_taken(),
        resources: resources.chain(countables).collect(),
    }
}

/// All agents together.
fn sum(agents: &[AgentUse]) -> Vec<ResourceAmounts> {
    let mut sums: BTreeMap<&str, ResourceAmounts> = BTreeMap::new();
    for amounts in agents.iter().flat_map(|agent| &agent.resources) {
        let resource = amounts.resource.clone();
        let sum = sums.entry(&amounts.resource).or_insert(ResourceAmounts { resource, ..ResourceAmounts::default() });
        sum.capacity = sum.capacity.saturating_add(amounts.capacity);
        sum.reserved = sum.reserved.saturating_add(amounts.reserved);
        sum.used = sum.used.map_or(amounts.used, |used| Some(used + amounts.used.unwrap_or(0)));
    }
    let common = Resources::NAMES.into_iter().filter_map(|name| sums.remove(name)).collect::<Vec<_>>();
    common.into_iter().chain(sums.into_values()).collect()
}

fn show_kind(kind: &KindEntry, evidence: &Evidence, now: Timestamp) -> KindUse {
    let reserved = kind.reserved_by(&TaskOptions::default()).resources.dimensions();
    let spreads = [evidence.cpu, evidence.memory].into_iter().enumerate();
    let resources = spreads.filter_map(|(i, spread)| {
        let spread = spread?;
        Some(UseOfOne {
            resource: Resources::NAMES[i].to_owned(),
            reserved: reserved[i],
            p50: spread.p50,
            p95: spread.p95,
            peak: spread.peak,
            efficiency: spread.efficiency,
        })
    });
    KindUse {
        kind: kind.kind.clone(),
        samples: evidence.samples,
        since_ms: now.since(evidence.since).as_millis() as u64,
        out_of_memory: evidence.out_of_memory,
        resources: resources.collect(),
    }
}
