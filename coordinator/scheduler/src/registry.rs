//! The agents: who they are, how they are doing, what they carry.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexSet;
use rustc_hash::{FxHashMap, FxHashSet};
use shared::api::AgentState;
use shared::message::{Hello, Needed, Report};
use shared::needs::Labels;
use shared::{AgentId, Countables, Epoch, Incarnation, Resources};

use crate::Timestamp;
use crate::event::Sequence;
use crate::kinds::{KindEntry, KindKey, Kinds};
use crate::performance::Performance;
use crate::placement::{self, Fleet, Search, Sort};
use crate::usage::Full;

/// Short name of an agent within the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AgentKey(u32);

impl AgentKey {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// An agent as the scheduler knows it.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) incarnation: Incarnation,
    pub(crate) state: AgentState,
    pub(crate) slots: u32,
    /// How many attempts it takes beyond its slots, so that these never wait for the network.
    pub(crate) queue: u32,
    pub(crate) kinds: Arc<FxHashSet<KindKey>>,
    /// Those of which no attempt may run while another does.
    pub(crate) at_most_once: FxHashSet<KindKey>,
    pub(crate) labels: Labels,
    pub(crate) host: String,
    pub(crate) version: String,
    /// What it offers, and what may be reserved of it: more, where the ratios say so.
    pub(crate) offered: Resources,
    pub(crate) capacity: Resources,
    pub(crate) reserved: Resources,
    /// What it offers of countable resources, and what of that is reserved.
    pub(crate) countables: Countables,
    pub(crate) countables_reserved: Countables,
    /// What its own settings say that an attempt of a kind needs.
    pub(crate) declared: FxHashMap<KindKey, Needed>,
    /// How it keeps commands to what is reserved for them.
    pub(crate) enforcement: String,
    /// Tasks whose current attempt it has.
    pub(crate) in_flight: IndexSet<Sequence, rustc_hash::FxBuildHasher>,
    /// When this process of it was first heard.
    pub(crate) registered: Timestamp,
    pub(crate) last_heard: Timestamp,
    pub(crate) beat_sequence: u64,
    pub(crate) last_probe: Timestamp,
    /// Since when the broker says that nobody listens on its inbox.
    pub(crate) unreachable_since: Option<Timestamp>,
    /// Whether the broker has seen its connection close since it was heard.
    pub(crate) connection_closed: bool,
    /// When it was lost, of late: one that comes and goes gets no work for a while.
    pub(crate) losses: VecDeque<Timestamp>,
    /// Until when it gets none, and how often that was so.
    pub(crate) quarantined_until: Option<Timestamp>,
    pub(crate) quarantines: u32,
    /// Whether somebody has said that it gets none.
    pub(crate) set_aside: bool,
    /// A task that runs alone, for which no other is given to the agent.
    pub(crate) kept_for: Option<Sequence>,
    pub(crate) report: Option<Report>,
    pub(crate) reported: Timestamp,
    /// What it carried when it reported: what has come since is not in the report's figures.
    pub(crate) in_flight_at_report: usize,
    /// How busy its host was while its slots were full.
    pub(crate) full: Full,
    pub(crate) performance: FxHashMap<KindKey, Performance>,
    /// When it was last given something, on a counter that all placements share.
    pub(crate) last_turn: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// Attempts that a beat should have listed and did not, once.
    pub(crate) missing: FxHashSet<Sequence>,
    /// Attempts that it let run on beyond their limit. They were given up, and take up a slot until it says that they
    /// have ended.
    pub(crate) overrun: FxHashSet<(Sequence, u32, Epoch)>,
    /// For how long its slots were taken, put together, and until when that is added up.
    slot_time: Duration,
    slot_time_until: Timestamp,
    /// Changes whenever a hello says something.
    pub(crate) description: u64,
    /// Whether its host has too little memory or disk left, and whether its CPU is busy.
    pressured: bool,
    busy: bool,
    /// Whether it is among those whose changes are yet to be taken over.
    is_dirty: bool,
}

/// Share of a resource in use from which a host counts as being under pressure, and down to which it has eased. The
/// former is the original framework's.
const PRESSURE: f64 = 0.9;
const EASED: f64 = 0.85;

impl Agent {
    fn new(id: AgentId, now: Timestamp) -> Self {
        Self {
            id,
            incarnation: Incarnation::default(),
            state: AgentState::Starting,
            slots: 0,
            queue: 0,
            kinds: Arc::default(),
            at_most_once: FxHashSet::default(),
            labels: Labels::new(),
            host: String::new(),
            version: String::new(),
            offered: Resources::ZERO,
            capacity: Resources::ZERO,
            reserved: Resources::ZERO,
            countables: Countables::ZERO,
            countables_reserved: Countables::ZERO,
            declared: FxHashMap::default(),
            enforcement: String::new(),
            full: Full::default(),
            in_flight: IndexSet::default(),
            registered: now,
            last_heard: now,
            beat_sequence: 0,
            last_probe: Timestamp::default(),
            unreachable_since: None,
            connection_closed: false,
            losses: VecDeque::new(),
            quarantined_until: None,
            quarantines: 0,
            set_aside: false,
            kept_for: None,
            report: None,
            reported: Timestamp::default(),
            in_flight_at_report: 0,
            performance: FxHashMap::default(),
            last_turn: 0,
            succeeded: 0,
            failed: 0,
            missing: FxHashSet::default(),
            overrun: FxHashSet::default(),
            slot_time: Duration::ZERO,
            slot_time_until: now,
            description: 0,
            pressured: false,
            busy: false,
            is_dirty: false,
        }
    }

    /// Takes over what a hello says about the agent.
    pub(crate) fn describe(&mut self, hello: &Hello, kinds: FxHashSet<KindKey>, capacity: Resources) {
        self.incarnation = hello.incarnation;
        self.slots = hello.slots;
        self.queue = hello.queue;
        self.kinds = Arc::new(kinds);
        self.labels.clone_from(&hello.labels);
        self.host.clone_from(&hello.host);
        self.version.clone_from(&hello.version);
        self.offered = hello.capacity;
        self.capacity = capacity;
        self.countables.clone_from(&hello.resources);
        self.enforcement.clone_from(&hello.enforcement);
        self.description += 1;
    }

    /// Takes over how busy its host is.
    pub(crate) fn report(&mut self, report: Report, now: Timestamp) {
        let bar = |was: bool| if was { EASED } else { PRESSURE };
        self.pressured = report.memory.max(report.disk) > bar(self.pressured);
        self.busy = report.cpu > bar(self.busy);
        self.in_flight_at_report = self.in_flight.len();
        if self.in_flight.len() >= self.slots as usize {
            self.full.observe(&report, now);
        }
        self.report = Some(report);
        self.reported = now;
    }

    /// An attempt takes this of what it has.
    pub(crate) fn reserve(&mut self, needed: &Needed) {
        self.reserved = self.reserved.plus(&needed.resources);
        if !needed.countable.is_empty() {
            self.countables_reserved = self.countables_reserved.plus(&needed.countable);
        }
    }

    /// It has this back.
    pub(crate) fn release(&mut self, needed: &Needed) {
        self.reserved = self.reserved.minus(&needed.resources);
        if !needed.countable.is_empty() {
            self.countables_reserved = self.countables_reserved.minus(&needed.countable);
        }
    }

    /// It has nothing reserved any more.
    pub(crate) fn release_all(&mut self) {
        self.reserved = Resources::ZERO;
        self.countables_reserved = Countables::ZERO;
    }

    /// What it can still reserve of a countable resource.
    pub(crate) fn uncounted(&self, name: &str) -> u64 {
        self.countables.get(name).saturating_sub(self.countables_reserved.get(name))
    }

    /// Whether its host has too little memory or disk left.
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.pressured
    }

    /// Whether its host's CPU is busy.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// What it would carry with one more attempt, in proportion to its slots.
    pub(crate) fn room(&self) -> f32 {
        if self.slots == 0 { f32::INFINITY } else { (self.taken() + 1) as f32 / self.slots as f32 }
    }

    /// Whether it may get new work, if it has room for it.
    pub(crate) fn takes_work(&self) -> bool {
        matches!(self.state, AgentState::Healthy)
    }

    /// Whether it may get new work and has a place for it.
    pub(crate) fn has_place(&self) -> bool {
        self.takes_work() && self.taken() < (self.slots + self.queue) as usize
    }

    /// How many of its slots have an attempt in them.
    pub(crate) fn slots_taken(&self) -> u32 {
        self.slots.min(self.in_flight.len() as u32)
    }

    /// Adds up for how long its slots were taken, before another number of them is.
    pub(crate) fn add_up(&mut self, now: Timestamp) {
        self.slot_time = self.slot_time(now);
        self.slot_time_until = now;
    }

    /// For how long its slots were taken until now, put together. It only grows.
    pub(crate) fn slot_time(&self, now: Timestamp) -> Duration {
        self.slot_time + now.since(self.slot_time_until) * self.slots_taken()
    }

    /// How many places in its slots and its queue are taken up.
    pub(crate) fn taken(&self) -> usize {
        self.in_flight.len() + self.overrun.len()
    }

    /// Whether it gets no work although it is well.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantined_until.is_some() || self.set_aside
    }

    /// It was heard: what made it suspect is past.
    pub(crate) fn heard(&mut self, now: Timestamp) {
        self.last_heard = now;
        self.unreachable_since = None;
        self.connection_closed = false;
    }

    /// Whether it is there, as far as anybody knows.
    pub(crate) fn is_present(&self) -> bool {
        !matches!(self.state, AgentState::Offline)
    }

    /// What it can still reserve. A dimension that it names no capacity for is not limited.
    pub(crate) fn unreserved(&self) -> Resources {
        let mut left = self.capacity.minus(&self.reserved).dimensions();
        for (left, capacity) in left.iter_mut().zip(self.capacity.dimensions()) {
            if capacity == 0 {
                *left = u64::MAX;
            }
        }
        Resources::from_dimensions(left)
    }

    /// Running plus queued per slot.
    pub(crate) fn load(&self) -> f64 {
        self.taken() as f64 / f64::from(self.slots.max(1))
    }

    /// How much of the kind it gets done, compared with the others: as many as it has slots before anything is known.
    pub(crate) fn weight_for(&self, kind: &KindEntry) -> f64 {
        let slots = f64::from(self.slots.max(1));
        slots * self.performance.get(&kind.key).map_or(1.0, |performance| performance.weight(&kind.run_time))
    }

    /// How often it succeeds with the kind, 0.05 to 1.0; 1.0 before anything is known.
    pub(crate) fn success_for(&self, kind: &KindEntry) -> f64 {
        self.performance.get(&kind.key).map_or(1.0, Performance::success_rate)
    }

    /// Share of each resource in use, 0.0 to 1.0: what its last report measured, and what it has been given
    /// since, an attempt being counted as the share of a slot, or by its reservation where that is more.
    pub(crate) fn estimated_use(&self) -> [f64; 4] {
        let measured = self.report.as_ref().map_or([0.0; 4], |r| [r.cpu, r.memory, r.disk, r.network]);
        let since = self.in_flight.len() as f64 - self.in_flight_at_report as f64;
        let by_slots = since / f64::from(self.slots.max(1));
        let (reserved, capacity) = (self.reserved.dimensions(), self.capacity.dimensions());
        std::array::from_fn(|i| {
            let by_reservation = if capacity[i] == 0 { 0.0 } else { reserved[i] as f64 / capacity[i] as f64 };
            // Attempts load the CPU; how much of the rest they take is only known where they reserve it.
            let estimated = if i == 0 { measured[i] + by_slots } else { measured[i] };
            estimated.max(by_reservation).clamp(0.0, 1.0)
        })
    }

    /// The last report as it is shown.
    pub(crate) fn usage(&self) -> BTreeMap<String, f64> {
        let Some(report) = &self.report else { return BTreeMap::new() };
        let shares = [report.cpu, report.memory, report.disk, report.network];
        Resources::NAMES.iter().map(|name| (*name).to_owned()).zip(shares).collect()
    }
}

/// All agents that have registered and are not forgotten.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    agents: Vec<Option<Agent>>,
    by_id: FxHashMap<AgentId, AgentKey>,
    free: Vec<AgentKey>,
    fleet: Fleet,
    /// Agents that the fleet knows out of date.
    dirty: Vec<AgentKey>,
    /// What CPU, memory, disk and network weigh.
    weights: [f64; 4],
}

impl Registry {
    /// Nobody yet. CPU, memory, disk and network weigh so much where they are compared.
    pub(crate) fn new(weights: [f64; 4]) -> Self {
        Self { weights, ..Self::default() }
    }

    pub(crate) fn find(&self, id: &AgentId) -> Option<AgentKey> {
        self.by_id.get(id).copied()
    }

    /// The agent of this id, made if it is new.
    pub(crate) fn find_or_add(&mut self, id: &AgentId, now: Timestamp) -> AgentKey {
        if let Some(key) = self.find(id) {
            return key;
        }
        let agent = Agent::new(id.clone(), now);
        let key = self.free.pop().unwrap_or_else(|| {
            self.agents.push(None);
            AgentKey(u32::try_from(self.agents.len() - 1).expect("fewer than four billion agents"))
        });
        self.agents[key.index()] = Some(agent);
        self.by_id.insert(id.clone(), key);
        key
    }

    pub(crate) fn get(&self, key: AgentKey) -> &Agent {
        self.agents[key.index()].as_ref().expect("keys of forgotten agents are not kept")
    }

    /// The agent, if it is not forgotten.
    pub(crate) fn try_get(&self, key: AgentKey) -> Option<&Agent> {
        self.agents.get(key.index())?.as_ref()
    }

    /// The agent, to be changed: the fleet is told of it before anything is placed.
    pub(crate) fn get_mut(&mut self, key: AgentKey) -> &mut Agent {
        let agent = self.agents[key.index()].as_mut().expect("keys of forgotten agents are not kept");
        if !std::mem::replace(&mut agent.is_dirty, true) {
            self.dirty.push(key);
        }
        agent
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AgentKey, &Agent)> {
        self.agents.iter().enumerate().filter_map(|(i, agent)| Some((AgentKey(i as u32), agent.as_ref()?)))
    }

    /// The agent, if it is not forgotten.
    pub(crate) fn try_get_mut(&mut self, key: AgentKey) -> Option<&mut Agent> {
        self.agents.get(key.index())?.as_ref()?;
        Some(self.get_mut(key))
    }

    pub(crate) fn keys(&self) -> Vec<AgentKey> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Drops agents that have been gone for longer than `after`, and tells which, with what they could do.
    pub(crate) fn forget(&mut self, after: Duration, now: Timestamp) -> Vec<(AgentKey, Arc<FxHashSet<KindKey>>)> {
        let gone = |agent: &Agent| {
            agent.state == AgentState::Offline && agent.in_flight.is_empty() && now.since(agent.last_heard) > after
        };
        let gone: Vec<AgentKey> = self.iter().filter(|(_, agent)| gone(agent)).map(|(key, _)| key).collect();
        gone.into_iter().filter_map(|key| Some((key, self.drop_agent(key)?.kinds))).collect()
    }

    fn drop_agent(&mut self, key: AgentKey) -> Option<Agent> {
        let agent = self.agents[key.index()].take()?;
        self.by_id.remove(&agent.id);
        self.dirty.retain(|dirty| *dirty != key);
        self.fleet.remove(key);
        self.free.push(key);
        Some(agent)
    }

    /// Takes over into the fleet what has changed about agents.
    pub(crate) fn settle(&mut self, kinds: &Kinds) {
        let Self { agents, fleet, dirty, weights, .. } = self;
        for key in dirty.drain(..) {
            let Some(agent) = agents[key.index()].as_mut() else { continue };
            agent.is_dirty = false;
            fleet.refresh(key, agent, |sort, agent| rank(sort, agent, kinds, *weights));
        }
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Makes sure that the kind's agents can be sought so.
    pub(crate) fn prepare(&mut self, kind: &KindEntry, search: &Search<'_>) {
        let Self { agents, fleet, weights, .. } = self;
        let agent = |key: AgentKey| agents[key.index()].as_ref().expect("keys of forgotten agents are not kept");
        let rank = |sort: Sort, agent: &Agent| placement::rank(sort, agent, &kind.settings.prefer, *weights);
        fleet.prepare(kind.key, search, agent, rank);
    }

    /// Moves an agent within an order that is kept.
    pub(crate) fn reorder(&mut self, key: AgentKey, sort: Sort, to: u64) {
        if let Some(place) = self.fleet.place_of(key) {
            self.fleet.reorder(place, sort, to);
        }
    }

    /// Tasks are spread over these labels from now on.
    pub(crate) fn spread_over(&mut self, labels: Vec<String>) {
        if self.fleet.spread_over(labels) {
            for key in self.keys() {
                self.get_mut(key).description += 1;
            }
        }
    }

    /// An order is not to be gone by any more: what it is made of has changed.
    pub(crate) fn drop_order(&mut self, sort: Sort) {
        self.fleet.drop_order(sort);
    }
}

fn rank(sort: Sort, agent: &Agent, kinds: &Kinds, weights: [f64; 4]) -> u64 {
    match sort {
        Sort::Quality(kind) => placement::rank(sort, agent, &kinds.get(kind).settings.prefer, weights),
        _ => placement::rank(sort, agent, &std::collections::BTreeMap::new(), weights),
    }
}
