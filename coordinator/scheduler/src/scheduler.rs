//! The scheduler itself: one entry for events, one answer for time.
//!
//! What it does about agents stands in `liveness`, what it does about tasks in `attempts`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;
use rustc_hash::{FxHashMap, FxHashSet};
use shared::message::AttemptRef;
use shared::{Epoch, Kind};

use crate::Timestamp;
use crate::brake::Brake;
use crate::config::{Config, KindConfig, STEP_DOWN, TenantConfig, TenantSettings};
use crate::efficiency::Utilisation;
use crate::event::{Action, Actions, Dispatch, Event, Sequence};
use crate::history::History;
use crate::kinds::{Demand, KindKey, Kinds};
use crate::lines::{LineKey, Lines, Trial};
use crate::performance::Performance;
use crate::placement::{self, Choice, Strategy};
use crate::registry::{Agent, AgentKey, Registry};
use crate::retries::Retries;
use crate::shares::Charge;
use crate::tally::Tally;
use crate::tasks::{Attempt, State, Tasks};
use crate::tenants::{TenantKey, Tenants};
use crate::unmet::Unmet;
use crate::waits::Waits;
use crate::why::Recent;

/// How often agents are looked at for silence.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// So often lines may be tried in vain, one after the other, and two times each.
const FEWEST_TRIALS: usize = 64;

/// Longest wait for the agents to say what they hold, after a leader has taken over.
pub(crate) const ADOPTION: Duration = Duration::from_millis(1000);

/// How much longer it may take to learn how earlier attempts ended.
const HISTORIES: Duration = Duration::from_secs(4);

/// Decides which agent runs which task, and when an agent counts as lost.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) kinds: Kinds,
    pub(crate) lines: Lines,
    pub(crate) tenants: Tenants,
    pub(crate) tasks: Tasks,
    pub(crate) random: fastrand::Rng,
    /// The epoch it leads in, if it leads.
    pub(crate) epoch: Option<Epoch>,
    /// Agents whose word is awaited before anything is placed, and until when.
    pub(crate) adoption: Option<Adoption>,
    /// Attempts of an older epoch are taken over until then.
    pub(crate) adopt_until: Timestamp,
    /// Until when an agent that we have not heard of may run at most once what the leader before us gave it.
    pub(crate) strangers_held_until: Timestamp,
    /// Since when nothing that agents say can have escaped us.
    pub(crate) listening_since: Option<Timestamp>,
    pub(crate) brake: Brake,
    pub(crate) timers: BinaryHeap<Reverse<(Timestamp, Timer)>>,
    pub(crate) next_tick: Timestamp,
    pub(crate) counters: Counters,
    /// How long tasks waited for their first start since it leads.
    pub(crate) waits: Waits,
    pub(crate) tally: Tally,
    /// Changes whenever the set of kinds does that agents can do.
    pub(crate) served_version: u64,
    /// Agents that can take something that they could not take before, if anything waits for that.
    pub(crate) with_room: BTreeSet<AgentKey>,
    /// What no agent could ever run that is there.
    pub(crate) unmet: Unmet,
    /// How many slots are taken while there is enough to do.
    pub(crate) utilisation: Utilisation,
    /// Tasks whose end is wanted and whose message has not come yet.
    pub(crate) cancelled: FxHashSet<Sequence>,
    /// What leaders before have kept of tasks that have not come yet.
    pub(crate) histories: FxHashMap<Sequence, History>,
    /// What spoke for the agents of tasks that were settled of late.
    pub(crate) recent: Recent,
    turns: u64,
    /// The time of the event that is being handled.
    now: Timestamp,
}

/// A new leader finds out what runs before it starts anything.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) awaited: FxHashSet<AgentKey>,
    /// Whether it is not known yet how earlier attempts ended.
    pub(crate) histories_awaited: bool,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Adoption {
    fn is_over(&self, now: Timestamp) -> bool {
        let everybody_spoke = self.awaited.is_empty() && now >= self.not_before;
        (everybody_spoke || now >= self.not_after) && (!self.histories_awaited || now >= self.not_after + HISTORIES)
    }

    /// When it can be over without anything happening before.
    fn next_look(&self) -> Timestamp {
        match (self.histories_awaited, self.awaited.is_empty()) {
            (true, _) => self.not_after + HISTORIES,
            (false, true) => self.not_before,
            (false, false) => self.not_after,
        }
    }
}

/// What falls due at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The task's next attempt.
    Retry(Sequence),
    /// The task's deadline.
    Deadline(Sequence),
    /// The agent gets work of the kind again.
    Readmission(AgentKey, KindKey),
    /// The next task of the kind may start.
    KindPace(KindKey),
    /// The next task of the tenant may.
    TenantPace(TenantKey),
}

/// What keeps a task from being started although an agent may have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Nothing of the kind starts until somebody wants it to.
    Paused(KindKey),
    /// So many of the kind run as may.
    KindRunning(KindKey, usize),
    /// So many of the tenant run as may.
    TenantRunning(TenantKey, usize),
    /// The next one of the kind may start at this moment.
    KindRate(KindKey, Timestamp),
    /// The next one of the tenant may.
    TenantRate(TenantKey, Timestamp),
}

impl Limit {
    /// When it lifts by itself, if it does.
    fn lifts(self) -> Option<(Timestamp, Timer)> {
        match self {
            Limit::Paused(_) | Limit::KindRunning(..) | Limit::TenantRunning(..) => None,
            Limit::KindRate(kind, until) => Some((until, Timer::KindPace(kind))),
            Limit::TenantRate(tenant, until) => Some((until, Timer::TenantPace(tenant))),
        }
    }
}

/// What has been counted since this coordinator leads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) settled: [u64; 5],
    pub(crate) reassigned: u64,
}

impl Scheduler {
    /// A scheduler that knows nothing yet. The seed decides what it decides by chance: the jitter of backoffs.
    pub fn new(config: Config, seed: u64) -> Self {
        let tenants = Tenants::new(&config);
        let weights = config.placement.resource_weights.as_array();
        Self {
            config,
            registry: Registry::new(weights),
            kinds: Kinds::default(),
            lines: Lines::default(),
            tenants,
            now: Timestamp::default(),
            tasks: Tasks::default(),
            random: fastrand::Rng::with_seed(seed),
            epoch: None,
            adoption: None,
            adopt_until: Timestamp::default(),
            strangers_held_until: Timestamp::default(),
            listening_since: None,
            brake: Brake::default(),
            timers: BinaryHeap::new(),
            next_tick: Timestamp::default(),
            counters: Counters::default(),
            waits: Waits::default(),
            tally: Tally::default(),
            served_version: 0,
            with_room: BTreeSet::new(),
            unmet: Unmet::default(),
            utilisation: Utilisation::default(),
            cancelled: FxHashSet::default(),
            histories: FxHashMap::default(),
            recent: Recent::default(),
            turns: 0,
        }
    }

    /// Applies one event and appends what the coordinator must now do, in order.
    ///
    /// A coordinator that does not lead keeps its picture of the agents, and orders nothing.
    pub fn handle(&mut self, event: Event, now: Timestamp, actions: &mut Actions) {
        self.now = now;
        self.listening_since.get_or_insert(now);
        match event {
            Event::LeadershipTaken(epoch) => self.take_leadership(epoch, now, actions),
            Event::LeadershipLost => self.lose_leadership(),
            Event::LinkRestored => self.link_restored(now, actions),
            Event::CanaryHeard => self.canary_heard(now, actions),
            Event::AgentDisconnected(agent) => self.agent_disconnected(&agent, now, actions),
            Event::AgentHello(agent, hello) => self.agent_hello(&agent, &hello, now, actions),
            Event::AgentBeat(agent, beat) => self.agent_beat(&agent, &beat, now, actions),
            Event::AgentReport(agent, report) => self.agent_report(&agent, report, now),
            Event::AgentBye(agent, bye) => self.agent_bye(&agent, &bye, now, actions),
            Event::AgentUnreachable(agent) => self.agent_unreachable(&agent, now, actions),
            Event::AgentDrained(agent) => self.agent_drained(&agent, actions),
            Event::HistoriesKnown(histories) => self.histories_known(histories),
            Event::TaskDelivered(delivery) => self.task_delivered(delivery, now, actions),
            Event::TaskUnreadable(unreadable) => self.task_unreadable(unreadable, actions),
            Event::TaskCancelled(sequence) => self.task_cancelled(sequence, actions),
            Event::KindPurged(kind) => self.kind_purged(&kind, actions),
            Event::AgentConfigured(agent, config) => self.agent_configured(&agent, config, actions),
            Event::KindConfigured(name, config) => self.kind_configured(name, config),
            Event::TenantConfigured(name, config) => self.tenant_configured(name, config),
            Event::AttemptDone(agent, done) => self.attempt_done(&agent, done, now, actions),
            Event::TaskRecorded(sequence) => self.task_recorded(sequence, actions),
            Event::TaskRemoved(sequence) => self.task_removed(sequence, actions),
            Event::DeadlineReached => self.deadline_reached(now, actions),
        }
        self.place_waiting_tasks(now, actions);
    }

    /// When [`Event::DeadlineReached`] is next due.
    pub fn next_deadline(&self) -> Timestamp {
        let due = self.timers.peek().map(|Reverse((due, _))| *due);
        let due = due.map_or(self.next_tick, |due| due.min(self.next_tick));
        self.adoption.as_ref().map_or(due, |adoption| due.min(adoption.next_look()))
    }

    /// The settings it goes by.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The epoch it leads in, if it leads.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Changes whenever the set of kinds changes that agents can do.
    pub fn served_version(&self) -> u64 {
        self.served_version
    }

    /// Kinds that are not paused, and that at least one agent can do that is not gone.
    pub fn served_kinds(&self) -> impl Iterator<Item = &Kind> {
        self.kinds
            .iter()
            .filter(|entry| !entry.settings.paused)
            .filter(|entry| entry.agents.iter().any(|key| self.registry.get(*key).is_present()))
            .map(|entry| &entry.kind)
    }

    /// Whether nothing of the kind is to be fetched or started.
    pub fn is_paused(&self, kind: &Kind) -> bool {
        self.kinds.find(kind).map_or_else(|| self.config.kind(kind).paused, |key| self.kinds.get(key).settings.paused)
    }

    /// Whether it has just begun to lead, and finds out first what runs.
    pub fn is_adopting(&self) -> bool {
        self.adoption.is_some()
    }

    /// Tasks of a kind that have been fetched and not placed, by priority.
    pub fn waiting(&self, kind: &Kind) -> [usize; 4] {
        self.kinds.find(kind).map_or([0; 4], |key| self.kinds.get(key).waiting)
    }

    /// Attempts that the agents with work can hold at once: how much it makes sense to have at hand.
    pub fn total_slots(&self) -> usize {
        self.registry.iter().filter(|(_, a)| a.is_present()).map(|(_, a)| (a.slots + a.queue) as usize).sum()
    }

    /// Tasks that are fetched and not settled.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    fn deadline_reached(&mut self, now: Timestamp, actions: &mut Actions) {
        while let Some(Reverse((due, timer))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Retry(sequence) => self.retry(sequence, now, actions),
                Timer::Deadline(sequence) => self.expire(sequence, now, actions),
                Timer::Readmission(agent, kind) => self.readmit(agent, kind),
                Timer::KindPace(kind) => self.lines.release_kind(kind),
                Timer::TenantPace(tenant) => self.lines.release_tenant(tenant),
            }
        }
        // The agent that is emptied for a task may not be the right one any more.
        self.lines.unblock_alone();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.check_agents(now, actions);
            self.let_retries_go(now, actions);
            self.look_at_waits(now, actions);
        }
    }

    fn take_leadership(&mut self, epoch: Epoch, now: Timestamp, actions: &mut Actions) {
        self.epoch = Some(epoch);
        self.counters = Counters::default();
        self.waits = Waits::default();
        self.kinds.iter_mut().for_each(|kind| kind.settled = [0; 5]);
        self.brake.begin();
        self.forgive_silence(self.config.liveness.lost_after, now);
        let mut awaited = FxHashSet::default();
        for key in self.registry.keys() {
            let agent = self.registry.get(key);
            if agent.is_present() {
                awaited.insert(key);
                actions.push(Action::Welcome { agent: agent.id.clone(), hello_wanted: false });
                actions.push(Action::Probe(agent.id.clone()));
            }
        }
        // An agent that we have not heard of yet beats within its interval. Who has listened for longer than that
        // knows them all.
        let one_beat = self.config.liveness.beat_interval + Duration::from_millis(100);
        let not_before = now.max(self.listening_since.unwrap_or(now) + one_beat);
        self.adoption = Some(Adoption { awaited, histories_awaited: true, not_before, not_after: now + ADOPTION });
        self.adopt_until = now + ADOPTION * 10;
        // Who led before may lead on beyond our reach, and tell its agents meanwhile that it has heard them.
        let former_leads = if epoch.0 > 1 { STEP_DOWN + self.config.liveness.hold } else { Duration::ZERO };
        self.strangers_held_until = now + former_leads;
    }

    fn lose_leadership(&mut self) {
        self.epoch = None;
        self.adoption = None;
        self.tasks.clear();
        self.lines.clear();
        self.timers.clear();
        self.with_room.clear();
        self.unmet = Unmet::default();
        self.utilisation = Utilisation::default();
        self.histories.clear();
        self.cancelled.clear();
        for entry in self.kinds.iter_mut() {
            entry.waiting = [0; 4];
            entry.running = 0;
            entry.retries = Retries::default();
            entry.strategy.spread.clear();
        }
        for key in self.registry.keys() {
            let agent = self.registry.get_mut(key);
            agent.add_up(self.now);
            agent.in_flight.clear();
            agent.missing.clear();
            agent.overrun.clear();
            agent.kept_for = None;
            // The timers that would have let it in again are gone.
            agent.performance.values_mut().filter(|performance| performance.ejected).for_each(Performance::readmit);
            agent.release_all();
        }
        for tenant in self.tenants.keys() {
            self.tenants.get_mut(tenant).running = 0;
        }
    }

    /// Whether anything may be started now.
    fn may_place(&mut self, now: Timestamp) -> bool {
        if self.adoption.as_ref().is_some_and(|adoption| adoption.is_over(now)) {
            self.adoption = None;
        }
        self.epoch.is_some() && self.adoption.is_none()
    }

    fn place_waiting_tasks(&mut self, now: Timestamp, actions: &mut Actions) {
        if !self.may_place(now) {
            return;
        }
        self.wake_lines(now);
        let mut blocked = 0;
        while let Some(line) = self.lines.next_ready() {
            self.place_head(line, now, actions);
            blocked = if self.lines.is_blocked(line) { blocked + 1 } else { 0 };
            if blocked > 2 * self.lines.count() + FEWEST_TRIALS {
                // Who was said to have room has none: better that something waits for the next event than that all does.
                debug_assert!(false, "the filter and the search do not agree");
                self.with_room.clear();
            }
            self.wake_lines(now);
        }
    }

    /// Lets one more line be tried again for each agent that still has room.
    fn wake_lines(&mut self, now: Timestamp) {
        let Self { with_room, lines, kinds, registry, .. } = self;
        with_room.retain(|key| {
            let agent = registry.get(*key);
            let can_do = Arc::clone(&agent.kinds);
            agent.has_place()
                && lines.unblock_first(
                    |kind| can_do.contains(&kind),
                    |demand| {
                        placement::prepare(demand, kinds, registry, now);
                        placement::could_take(demand, kinds.get(demand.kind), *key, registry)
                    },
                )
        });
    }

    fn place_head(&mut self, line: LineKey, now: Timestamp, actions: &mut Actions) {
        let Some((sequence, demand)) = self.lines.head(line) else { return self.lines.pop(line) };
        let Some(task) = self.tasks.get(sequence).filter(|task| task.state == State::Waiting) else {
            return self.lines.pop(line);
        };
        if task.is_expired(now) {
            self.lines.pop(line);
            return self.expire(sequence, now, actions);
        }
        let (kind, tenant) = (demand.kind, demand.tenant);
        if let Some(limit) = self.limit_reached(kind, tenant, now) {
            self.timers.extend(limit.lifts().map(Reverse));
            return self.lines.put_off(line, Trial::Held);
        }
        placement::prepare(demand, &mut self.kinds, &mut self.registry, now);
        let kind = self.kinds.get_mut(kind);
        let affinity = task.affinity.as_ref();
        match placement::choose(demand, affinity, kind, &mut self.registry, &mut self.random) {
            Some(choice) => {
                self.lines.pop(line);
                let held_until = self.held_until(sequence, choice.agent);
                if now < held_until {
                    self.leave_line(sequence);
                    return self.back_off(sequence, held_until.since(now), now);
                }
                self.start(sequence, choice, now, actions);
            }
            None => {
                if !placement::anybody_able(demand, kind, &self.registry) {
                    let (demand, is_new) = (demand.clone(), task.attempts == 0);
                    self.note_unmet(&demand, sequence, now, actions);
                    if is_new && !self.unmet.may_keep(&demand, self.lines.len(line)) {
                        return self.send_back(line, &demand, actions);
                    }
                    return self.lines.put_off(line, Trial::Blocked);
                }
                if demand.alone {
                    let agent = placement::agent_to_empty(demand, sequence, kind, &self.registry);
                    self.keep_for(sequence, agent);
                }
                self.lines.put_off(line, Trial::Blocked);
            }
        }
    }

    /// The limit that keeps the next task of a kind and a tenant from being started, if one does.
    pub(crate) fn limit_reached(&self, kind: KindKey, tenant: TenantKey, now: Timestamp) -> Option<Limit> {
        let (entry, owner) = (self.kinds.get(kind), self.tenants.get(tenant));
        if entry.settings.paused {
            return Some(Limit::Paused(kind));
        }
        if let Some(most) = entry.settings.max_running.filter(|most| entry.running >= *most) {
            return Some(Limit::KindRunning(kind, most));
        }
        if let Some(most) = owner.settings.max_running.filter(|most| owner.running >= *most) {
            return Some(Limit::TenantRunning(tenant, most));
        }
        if let Some(until) = entry.pace.not_before(entry.settings.rate, now) {
            return Some(Limit::KindRate(kind, until));
        }
        let until = owner.pace.not_before(owner.settings.rate, now)?;
        Some(Limit::TenantRate(tenant, until))
    }

    /// Sees to it that nothing waits for ever, and that tenants are charged for what runs on.
    fn look_at_waits(&mut self, now: Timestamp, actions: &mut Actions) {
        let Self { lines, tasks, tenants, config, .. } = self;
        let aged_after = config.placement.aged_after;
        lines.find_aged(|sequence| tasks.get(sequence).is_some_and(|task| now.since(task.accepted) >= aged_after));
        lines.charge_as_it_goes(|tenant| tenants.get(tenant).settings.weight, now);
        self.look_for_unmet(now, actions);
        self.look_at_slots(now);
    }

    /// Keeps the agent free for a task that must run alone, and no other.
    fn keep_for(&mut self, sequence: Sequence, chosen: Option<AgentKey>) {
        let is_kept = |agent: &Agent| agent.kept_for == Some(sequence);
        if chosen.is_some_and(|key| is_kept(self.registry.get(key))) {
            return;
        }
        self.stop_keeping_for(sequence);
        if let Some(key) = chosen {
            self.registry.get_mut(key).kept_for.get_or_insert(sequence);
        }
    }

    fn start(&mut self, sequence: Sequence, choice: Choice, now: Timestamp, actions: &mut Actions) {
        let key = choice.agent;
        self.tally.placements[choice.why.by as usize] += 1;
        self.tally.in_advance += u64::from(!choice.why.had_free_slot);
        self.leave_line(sequence);
        self.turns += 1;
        let turn = self.turns;
        let epoch = self.epoch.expect("only a leader places");
        let task = self.tasks.get(sequence).expect("it was at the head of its line");
        let (number, kind, tenant) = (task.attempts + 1, task.demand.kind, task.demand.tenant);
        let waited = now.since(task.accepted);
        if number == 1 {
            self.waits.add(waited);
        }
        let rate = self.rate_of(sequence);
        let owner = self.tenants.get_mut(tenant);
        owner.pace.started(owner.settings.rate, now);
        let entry = self.kinds.get_mut(kind);
        entry.pace.started(entry.settings.rate, now);
        if number == 1 {
            entry.counts.started(waited);
        }
        let charge = Some(self.lines.shares.charge(kind, tenant, rate, owner.settings.weight));
        self.occupy(sequence, Attempt { why: Some(choice.why), charge, ..Attempt::new(key, number, epoch, now) });
        let agent = self.registry.get_mut(key);
        agent.last_turn = turn;
        let (agent, incarnation) = (agent.id.clone(), agent.incarnation);
        let task = self.tasks.get(sequence).expect("it was at the head of its line");
        let attempt = AttemptRef { task: task.id.clone(), attempt: number, epoch };
        let (timeout, reserved) = (task.timeout, task.demand.reserved.clone());
        actions.push(Action::Dispatch(Dispatch { sequence, agent, incarnation, attempt, timeout, reserved }));
    }

    /// How much of a slot an attempt takes up: more than one where it reserves more than a slot's share of something
    /// that there is for its kind. (Dominant resource fairness: Ghodsi et al., NSDI 2011.)
    fn rate_of(&self, sequence: Sequence) -> f64 {
        let Some(task) = self.tasks.get(sequence) else { return 1.0 };
        let Demand { kind, reserved, .. } = &task.demand;
        if reserved.is_empty() || !self.lines.shares.are_shared(*kind) {
            return 1.0;
        }
        let fleet = self.registry.fleet();
        let load = fleet.load_of(*kind);
        let resources = reserved.resources.dimensions().into_iter().zip(load.capacity);
        let countables = reserved.countable.iter().map(|(name, needed)| (needed, fleet.offered(*kind, name)));
        let shares = resources.chain(countables).filter(|(_, capacity)| *capacity > 0);
        let dominant = shares.map(|(needed, capacity)| needed as f64 / capacity as f64).fold(0.0, f64::max);
        (dominant * load.slots as f64).max(1.0)
    }

    /// The task does not wait any more: its place in the line is passed over when it comes up.
    pub(crate) fn leave_line(&mut self, sequence: Sequence) {
        let Some(task) = self.tasks.get(sequence).filter(|task| task.state == State::Waiting) else { return };
        let kind = self.kinds.get_mut(task.demand.kind);
        kind.retries.waits_no_more(sequence);
        let waiting = &mut kind.waiting[task.priority as usize];
        *waiting = waiting.saturating_sub(1);
        if task.demand.alone {
            self.stop_keeping_for(sequence);
        }
    }

    /// No agent is kept free for the task any more.
    fn stop_keeping_for(&mut self, sequence: Sequence) {
        for key in self.registry.keys() {
            if self.registry.get_mut(key).kept_for.take_if(|kept| *kept == sequence).is_some() {
                self.room_made(key);
            }
        }
    }

    /// The attempt takes a slot of its agent, and what the task reserves.
    pub(crate) fn occupy(&mut self, sequence: Sequence, mut attempt: Attempt) {
        let Some(task) = self.tasks.get_mut(sequence) else { return };
        let agent = self.registry.get_mut(attempt.agent);
        if task.demand.alone {
            agent.kept_for = Some(sequence);
        }
        agent.add_up(self.now);
        if agent.in_flight.insert(sequence) {
            agent.reserve(&task.demand.reserved);
        }
        let kind = self.kinds.get_mut(task.demand.kind);
        kind.running += 1;
        if kind.settings.strategy == Strategy::Spread {
            attempt.spread = agent.labels.get(&kind.settings.spread_over).map(CompactString::from);
        }
        if let Some(value) = &attempt.spread {
            *kind.strategy.spread.entry(value.clone()).or_default() += 1;
        }
        task.attempts = task.attempts.max(attempt.number);
        task.last_agent = Some(agent.id.clone());
        let (kind, tenant) = (task.demand.kind, task.demand.tenant);
        let owner = self.tenants.get_mut(tenant);
        owner.running += 1;
        attempt.occupied_since = self.now;
        let charge = *attempt.charge.get_or_insert(Charge::later(owner.settings.weight));
        task.state = State::Running(attempt);
        self.lines.begin(kind, tenant, charge, self.now);
    }

    /// The attempt gives back what it took. Its task must be given another state at once.
    pub(crate) fn vacate(&mut self, sequence: Sequence) -> Option<Attempt> {
        let task = self.tasks.get(sequence)?;
        let attempt = task.attempt()?.clone();
        let agent = self.registry.get_mut(attempt.agent);
        agent.add_up(self.now);
        if agent.in_flight.swap_remove(&sequence) {
            agent.release(&task.demand.reserved);
        }
        agent.missing.remove(&sequence);
        agent.kept_for.take_if(|kept| *kept == sequence);
        let kind = self.kinds.get_mut(task.demand.kind);
        kind.running = kind.running.saturating_sub(1);
        if let Some(count) = attempt.spread.as_ref().and_then(|value| kind.strategy.spread.get_mut(value)) {
            *count = count.saturating_sub(1);
        }
        let (kind, tenant) = (task.demand.kind, task.demand.tenant);
        if let Some(charge) = attempt.charge {
            self.lines.end(kind, tenant, charge, attempt.occupied_since, self.now);
        }
        self.limits_may_lift(kind, tenant);
        self.room_made(attempt.agent);
        Some(attempt)
    }

    /// An attempt less runs: what a limit has held may be tried again.
    fn limits_may_lift(&mut self, kind: KindKey, tenant: TenantKey) {
        let owner = self.tenants.get_mut(tenant);
        owner.running = owner.running.saturating_sub(1);
        if owner.settings.max_running.is_some() {
            self.lines.release_tenant(tenant);
        }
        if self.kinds.get(kind).settings.max_running.is_some() {
            self.lines.release_kind(kind);
        }
    }

    /// The agent can take something that it could not take before.
    pub(crate) fn room_made(&mut self, key: AgentKey) {
        if self.lines.anything_blocked() {
            self.with_room.insert(key);
        }
    }

    /// How the agent is has changed, and with it what a strategy that compares agents leaves to the others.
    pub(crate) fn shares_changed(&mut self, key: AgentKey) {
        if !self.lines.anything_blocked() {
            return;
        }
        self.with_room.insert(key);
        let can_do = Arc::clone(&self.registry.get(key).kinds);
        for kind in can_do.iter().map(|kind| self.kinds.get(*kind)) {
            if kind.settings.strategy.compares_agents() && kind.waiting != [0; 4] {
                self.with_room.extend(&kind.agents);
            }
        }
    }

    /// The key of a kind, with its settings looked up if it is new.
    pub(crate) fn kind_key(&mut self, kind: &Kind) -> KindKey {
        if let Some(key) = self.kinds.find(kind) {
            return key;
        }
        let settings = self.config.kind(kind);
        let is_spread = settings.strategy == Strategy::Spread;
        let key = self.kinds.add(kind, settings);
        if is_spread {
            self.tell_apart_by_labels();
        }
        key
    }

    /// Settings of kinds have changed: what waits is placed by the new ones at once.
    fn kind_configured(&mut self, name: String, config: KindConfig) {
        self.config.said.kinds.insert(name, config);
        for number in 0..self.kinds.len() {
            let key = KindKey::from_index(number);
            let settings = self.config.kind(&self.kinds.get(key).kind);
            let kind = self.kinds.get_mut(key);
            if kind.settings != settings {
                // What is paused is not fetched either.
                self.served_version += u64::from(kind.settings.paused != settings.paused);
                kind.settings = settings;
                kind.standards = placement::Standards::default();
                self.registry.drop_order(placement::Sort::Quality(key));
            }
        }
        self.tell_apart_by_labels();
        self.lines.retry_all();
    }

    /// Settings of tenants have changed: what waits already is shared by the new ones.
    fn tenant_configured(&mut self, name: String, config: TenantConfig) {
        self.config.said.tenants.insert(name, config);
        for key in self.tenants.keys() {
            let tenant = self.tenants.get_mut(key);
            tenant.settings = TenantSettings::of(&tenant.name, &self.config);
        }
        self.lines.retry_all();
    }

    /// Agents that differ in a label that tasks are spread over are told apart.
    fn tell_apart_by_labels(&mut self) {
        let spread = self.kinds.iter().filter(|kind| kind.settings.strategy == Strategy::Spread);
        let labels: BTreeSet<String> = spread.map(|kind| kind.settings.spread_over.clone()).collect();
        self.registry.spread_over(labels.into_iter().collect());
    }
}
