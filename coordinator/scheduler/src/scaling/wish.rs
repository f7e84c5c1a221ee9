//! How many agents there are to be, kept across leaders, and brought in line with how many there are.
//!
//! The wish is an absolute number: a leader that takes it over orders what is missing by it, and not what another has
//! ordered already. Whoever keeps it stores it before the orders are carried out that came with it. If that was lost and
//! agents are started twice, there are more than are wished for, and the surplus is drained.
//!
//! What was ordered has come about when it is seen, whatever whoever was to do it says: a start when its agents beat, a
//! drain when they are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::AgentId;
use shared::api::AgentState;

use super::history::{Event, History, Outcome};
use super::policy::{Overdue, Policy};
use super::rule::{Cause, Rule};
use super::signals::Agent;
use super::victims;
use crate::Timestamp;

/// Budgets are by the hour.
const HOUR: Duration = Duration::from_secs(3600);

/// What is to be done about the agents of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// So many agents are to be started; or, where one can only say how many there are to be, that many.
    Start {
        /// Number of the order.
        order: u64,
        /// How many more.
        count: u32,
        /// How many altogether.
        wished: u32,
    },
    /// These are to take no new work, finish what they run, hand back what has not begun, and leave.
    Drain {
        /// Number of the order.
        order: u64,
        /// Which ones.
        agents: Vec<AgentId>,
        /// How many are to be left.
        wished: u32,
    },
    /// These have left, or have not in time: what there is of them still is to be ended and not to be started again.
    Remove {
        /// Which ones.
        agents: Vec<AgentId>,
        /// How many are to be left.
        wished: u32,
    },
}

/// How things stand, for the arbiter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// How many agents are wished for.
    pub wished: u32,
    /// How many are there, those that leave not counted.
    pub present: u32,
    /// How many were ordered and are not there yet.
    pub starting: u32,
    /// Since when the first of them should be starting.
    pub starting_since: Option<Timestamp>,
    /// How many are missing and not ordered, as after a start that failed.
    pub missing: u32,
    /// Who was told to go and is still there.
    pub leaving: BTreeSet<AgentId>,
    /// How long a new agent takes until it works.
    pub startup_time: Duration,
    /// When agents came last that were asked for.
    pub grown: Option<Timestamp>,
    /// When agents were told to go last.
    pub shrunk: Option<Timestamp>,
    /// Whether the hour's flap budget has room for the pool to shrink and grow again.
    pub may_shrink: bool,
    /// How long nothing shrinks after it could not be done.
    pub shrink_backoff: Option<Duration>,
}

/// The wished number of agents, and what is under way to it. It is what a new leader must know of the one before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wish {
    /// None before the first look, which takes over what is there.
    agents: Option<u32>,
    /// Why it was changed, for as long as nothing was done about it.
    cause: Option<Cause>,
    /// Whether it was made larger then.
    is_larger: bool,
    orders: u64,
    starts: Vec<Start>,
    leaving: BTreeMap<AgentId, Leaving>,
    starting: Patience,
    shrinking: Patience,
    /// When starts came to nothing, and when the direction changed, within the last hour.
    fruitless: Vec<Timestamp>,
    reversals: Vec<Timestamp>,
    direction: Option<Direction>,
    grown: Option<Timestamp>,
    shrunk: Option<Timestamp>,
    startup_time: Option<Duration>,
    surplus_since: Option<Timestamp>,
    /// Who was there at the last look, and since when. Each leader learns it anew.
    #[serde(skip)]
    known: Option<BTreeMap<AgentId, Timestamp>>,
}

/// Agents that were ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Start {
    order: u64,
    at: Timestamp,
    count: u32,
    /// How many of them have come, and when the last one did.
    came: u32,
    came_at: Timestamp,
    /// How many were there, and how many were to be there with them.
    before: u32,
    target: u32,
    cause: Cause,
    error: Option<String>,
}

impl Start {
    fn open(&self) -> u32 {
        self.count.saturating_sub(self.came)
    }
}

/// An agent that was told to go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Leaving {
    order: u64,
    since: Timestamp,
    deadline: Timestamp,
    ended: bool,
    /// How many were there when it was told, how many were wished for, and why.
    before: u32,
    target: u32,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Direction {
    Up,
    Down,
}

/// Waits longer after each failure in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Patience {
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Patience {
    /// Half of the wait is by chance, so that pools that failed together don't try again together.
    fn fail(&mut self, policy: &Policy, now: Timestamp, chance: f64) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + policy.backoff.ceiling(self.failures).mul_f64(0.5 + chance / 2.0));
    }

    fn left(&self, now: Timestamp) -> Option<Duration> {
        self.not_before.map(|moment| moment.since(now)).filter(|left| !left.is_zero())
    }
}

/// What a look at the agents goes by.
pub(super) struct Scene<'a> {
    pub(super) policy: &'a Policy,
    pub(super) agents: &'a [Agent],
    pub(super) now: Timestamp,
    /// Drawn for this look, 0.0 to 1.0.
    pub(super) chance: f64,
}

impl Wish {
    /// How many agents are wished for; none before the first look.
    pub fn agents(&self) -> Option<u32> {
        self.agents
    }

    /// What has been ordered and has not come to an end, by the orders' numbers.
    pub(super) fn underway(&self) -> Vec<Event> {
        let starts = self.starts.iter().map(|s| event(Some(s.order), s.at, s.cause, s.before, s.target));
        let drain = |l: &Leaving| (l.order, event(Some(l.order), l.since, l.cause, l.before, l.target));
        let mut orders: BTreeMap<u64, Event> = self.leaving.values().map(drain).collect();
        orders.extend(starts.filter_map(|event| Some((event.order?, event))));
        orders.into_values().collect()
    }

    /// Takes in who is there: what has come, who has left, which starts have ended.
    pub(super) fn look(&mut self, scene: &Scene<'_>, history: &mut History, orders: &mut Vec<Order>) {
        self.fruitless.retain(|at| scene.now.since(*at) < HOUR);
        self.reversals.retain(|at| scene.now.since(*at) < HOUR);
        self.see_who_left(scene, history, orders);
        let present = self.present(scene);
        let count = present.len() as u32;
        if self.agents.is_none() {
            let wished = scene.policy.bounded(count);
            let rule = if wished < count { Rule::Maximum } else { Rule::Minimum };
            self.cause = (wished != count).then(|| Cause::new(rule, count.into(), wished.into()));
            self.is_larger = wished > count;
            self.agents = Some(wished);
        }
        self.see_who_came(&present);
        self.see_who_died_young(&present, scene);
        self.end_starts(count, scene, history);
        self.known = Some(present);
    }

    /// Wishes for so many from now on.
    pub(super) fn change(&mut self, wished: u32, cause: Cause, history: &mut History, now: Timestamp) {
        let Some(before) = self.agents.filter(|before| *before != wished) else { return };
        let direction = if wished > before { Direction::Up } else { Direction::Down };
        let is_said = matches!(cause.rule, Rule::Minimum | Rule::Maximum | Rule::Asked);
        if !is_said {
            if self.direction.is_some_and(|last| last != direction) {
                self.reversals.push(now);
                history.flapped();
            }
            self.direction = Some(direction);
        }
        self.agents = Some(wished);
        self.cause = Some(cause);
        self.is_larger = direction == Direction::Up;
    }

    /// Wishes for what is there: somebody else decides.
    pub(super) fn follow(&mut self, scene: &Scene<'_>) {
        self.agents = Some(self.present(scene).len() as u32);
        self.cause = None;
        self.starts.clear();
    }

    /// Orders what is missing, or names who is to go.
    pub(super) fn act(&mut self, scene: &Scene<'_>, history: &mut History, orders: &mut Vec<Order>) {
        let (Some(wished), now) = (self.agents, scene.now) else { return };
        let present = self.present(scene).len() as u32;
        let missing = wished.saturating_sub(present + self.open());
        if missing > 0 {
            self.surplus_since = None;
            if self.may_start(scene.policy, now) {
                self.start(missing, present, wished, now, history, orders);
            }
            return;
        }
        if present <= wished {
            self.surplus_since = None;
            self.conclude(present, wished, now, history);
            return;
        }
        // A larger wish is met already.
        self.cause = self.cause.filter(|_| !self.is_larger);
        // A smaller one was decided on what is known; a surplus may be somebody who is about to go.
        let since = *self.surplus_since.get_or_insert(now);
        if self.cause.is_some() || now.since(since) >= scene.policy.interval {
            self.drain(present, wished, scene, history, orders);
        }
    }

    /// Whoever was to carry out an order says that it could not.
    pub(super) fn refused(&mut self, order: u64, error: String, scene: &Scene<'_>, history: &mut History) {
        if let Some(start) = self.starts.iter_mut().find(|start| start.order == order) {
            start.error = Some(error);
            return;
        }
        let refused: Vec<(AgentId, Leaving)> =
            self.leaving.iter().filter(|(_, leaving)| leaving.order == order).map(|(id, l)| (id.clone(), *l)).collect();
        let Some((_, first)) = refused.first() else { return };
        let took = scene.now.since(first.since);
        self.leaving.retain(|_, leaving| leaving.order != order);
        // They are still there, and stay.
        let present = self.present(scene);
        self.agents = self.agents.map(|wished| wished.max(scene.policy.bounded(present.len() as u32)));
        self.shrunk = None;
        self.shrinking.fail(scene.policy, scene.now, scene.chance);
        history.end(order, present.len() as u32, Outcome::Failed, took, Some(error));
        self.known = Some(present);
    }

    /// How things stand.
    pub(super) fn standing(&self, policy: &Policy, present: u32, now: Timestamp) -> Standing {
        let (wished, starting) = (self.agents.unwrap_or_default(), self.open());
        let shrinks_already = self.direction == Some(Direction::Down);
        // Room is kept to grow again: that is what a wait may depend on.
        let has_room = self.reversals.len() + 2 <= policy.flap_budget as usize;
        Standing {
            wished,
            present,
            starting,
            starting_since: self.starts.iter().find(|start| start.open() > 0).map(|start| start.at),
            missing: wished.saturating_sub(present + starting),
            leaving: self.leaving.keys().cloned().collect(),
            startup_time: self.startup_time.unwrap_or(policy.startup_time),
            grown: self.grown,
            shrunk: self.shrunk,
            may_shrink: shrinks_already || self.direction.is_none() || has_room,
            shrink_backoff: self.shrinking.left(now),
        }
    }

    /// Whether starts are put off after those that failed.
    pub(super) fn is_backing_off(&self, policy: &Policy, now: Timestamp) -> bool {
        !self.may_start(policy, now)
    }

    /// Who is there and has not been told to go.
    pub(super) fn present(&self, scene: &Scene<'_>) -> BTreeMap<AgentId, Timestamp> {
        let staying = scene.agents.iter().filter(|agent| agent.is_present() && !self.leaving.contains_key(&agent.id));
        staying.map(|agent| (agent.id.clone(), agent.registered)).collect()
    }

    fn open(&self) -> u32 {
        self.starts.iter().map(Start::open).sum()
    }

    fn may_start(&self, policy: &Policy, now: Timestamp) -> bool {
        // What is under way may come to nothing as well.
        let at_stake = self.fruitless.len() + self.starts.len();
        self.starting.left(now).is_none() && at_stake < policy.flap_budget as usize
    }

    fn next_order(&mut self) -> u64 {
        self.orders += 1;
        self.orders
    }

    fn see_who_came(&mut self, present: &BTreeMap<AgentId, Timestamp>) {
        let Some(known) = &self.known else {
            // What another leader has ordered: whoever is there counts, since nobody knows who was before.
            let target = self.starts.iter().map(|start| start.target).max().unwrap_or_default();
            let mut short = target.saturating_sub(present.len() as u32);
            for start in self.starts.iter_mut().rev() {
                let open = start.count.min(short);
                start.came = start.count - open;
                short -= open;
            }
            return;
        };
        let mut new = present.iter().filter(|(id, _)| !known.contains_key(*id)).map(|(_, registered)| *registered);
        for start in &mut self.starts {
            while start.open() > 0 {
                let Some(registered) = new.next() else { return };
                start.came += 1;
                start.came_at = start.came_at.max(registered);
            }
        }
    }

    /// An agent that is lost before it could have been of use is a start that has failed.
    fn see_who_died_young(&mut self, present: &BTreeMap<AgentId, Timestamp>, scene: &Scene<'_>) {
        let Some(known) = &self.known else { return };
        let was_young = |registered: Timestamp| scene.now.since(registered) < scene.policy.startup_timeout;
        let missed = |id: &AgentId| !present.contains_key(id) && !self.leaving.contains_key(id);
        let mut gone = known.iter().filter(|(id, _)| missed(id) && is_gone(scene.agents, id));
        if gone.any(|(_, registered)| was_young(*registered)) {
            self.fruitless.push(scene.now);
            self.starting.fail(scene.policy, scene.now, scene.chance);
        }
    }

    fn end_starts(&mut self, present: u32, scene: &Scene<'_>, history: &mut History) {
        let (policy, now) = (scene.policy, scene.now);
        for start in std::mem::take(&mut self.starts) {
            let took = now.since(start.at);
            if start.open() == 0 {
                let effect = if start.came_at > start.at { start.came_at.since(start.at) } else { took };
                let learnt = self.startup_time.map_or(effect, |known| (known * 3 + effect) / 4);
                self.startup_time = Some(learnt);
                self.starting.failures = 0;
                self.grown = Some(now);
                history.end(start.order, present, Outcome::Succeeded, effect, None);
            } else if took >= policy.startup_timeout || start.error.is_some() {
                let outcome = if start.came > 0 { Outcome::Partly } else { Outcome::Failed };
                if outcome == Outcome::Partly {
                    // It leads somewhere: the next try is not put off for longer and longer.
                    self.starting = Patience::default();
                    self.grown = Some(now);
                } else {
                    self.fruitless.push(now);
                }
                self.starting.fail(policy, now, scene.chance);
                history.end(start.order, present, outcome, took, start.error.clone());
                self.cause = self.cause.or(Some(start.cause));
            } else {
                self.starts.push(start);
            }
        }
    }

    fn see_who_left(&mut self, scene: &Scene<'_>, history: &mut History, orders: &mut Vec<Order>) {
        let wished = self.agents.unwrap_or_default();
        let gone: Vec<AgentId> = self.leaving.keys().filter(|id| is_gone(scene.agents, id)).cloned().collect();
        let mut left: BTreeMap<u64, Timestamp> = BTreeMap::new();
        for id in &gone {
            if let Some(leaving) = self.leaving.remove(id) {
                left.insert(leaving.order, leaving.since);
            }
        }
        if !gone.is_empty() {
            orders.push(Order::Remove { agents: gone, wished });
        }
        let present = self.present(scene).len() as u32;
        for (order, since) in left {
            if self.leaving.values().all(|leaving| leaving.order != order) {
                self.shrinking = Patience::default();
                history.end(order, present, Outcome::Succeeded, scene.now.since(since), None);
            }
        }
        if scene.policy.overdue == Overdue::End {
            self.end_overdue(wished, scene.now, orders);
        }
    }

    fn end_overdue(&mut self, wished: u32, now: Timestamp, orders: &mut Vec<Order>) {
        let overdue = self.leaving.iter_mut().filter(|(_, leaving)| !leaving.ended && leaving.deadline <= now);
        let mut agents = Vec::new();
        for (id, leaving) in overdue {
            leaving.ended = true;
            agents.push(id.clone());
        }
        if !agents.is_empty() {
            orders.push(Order::Remove { agents, wished });
        }
    }

    fn start(
        &mut self,
        count: u32,
        before: u32,
        wished: u32,
        now: Timestamp,
        history: &mut History,
        orders: &mut Vec<Order>,
    ) {
        let order = self.next_order();
        let replacement = Cause::new(Rule::Replacement, before.into(), wished.into());
        let cause = self.cause.take().unwrap_or(replacement);
        let start = Start { order, at: now, count, came: 0, came_at: now, before, target: wished, cause, error: None };
        self.starts.push(start);
        history.note(event(Some(order), now, cause, before, wished));
        orders.push(Order::Start { order, count, wished });
    }

    /// The number is as it is wished for without anything being done.
    fn conclude(&mut self, present: u32, wished: u32, now: Timestamp, history: &mut History) {
        if self.open() > 0 {
            return;
        }
        if let Some(cause) = self.cause.take() {
            let done = event(None, now, cause, present, wished);
            history.note(Event {
                after: Some(present),
                outcome: Outcome::Succeeded,
                took: Some(Duration::ZERO),
                ..done
            });
            if !self.is_larger {
                self.shrunk = Some(now);
            }
        }
    }

    fn drain(&mut self, present: u32, wished: u32, scene: &Scene<'_>, history: &mut History, orders: &mut Vec<Order>) {
        let now = scene.now;
        self.surplus_since = None;
        let staying: Vec<&Agent> = scene.agents.iter().filter(|agent| !self.leaving.contains_key(&agent.id)).collect();
        let agents = victims::choose(&staying, (present - wished) as usize);
        // Who can't go yet goes when it can: it stays too many until then.
        if agents.is_empty() {
            return;
        }
        let left = present - agents.len() as u32;
        let surplus = Cause::new(Rule::Surplus, present.into(), wished.into());
        let cause = self.cause.take().unwrap_or(surplus);
        let order = self.next_order();
        let deadline = now + scene.policy.drain_deadline;
        let leaving = Leaving { order, since: now, deadline, ended: false, before: present, target: wished, cause };
        self.leaving.extend(agents.iter().map(|id| (id.clone(), leaving)));
        self.known = Some(self.present(scene));
        self.shrunk = Some(now);
        history.note(event(Some(order), now, cause, present, wished));
        orders.push(Order::Drain { order, agents, wished: left });
    }
}

fn event(order: Option<u64>, at: Timestamp, cause: Cause, before: u32, wished: u32) -> Event {
    Event { order, at, cause, before, wished, after: None, outcome: Outcome::Underway, took: None, error: None }
}

fn is_gone(agents: &[Agent], id: &AgentId) -> bool {
    agents.iter().find(|agent| agent.id == *id).is_none_or(|agent| agent.state == AgentState::Offline)
}
