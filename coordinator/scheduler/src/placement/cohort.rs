//! Cohorts: agents that can do the same kinds, lined up in trees by what a strategy goes by.
//!
//! The trees only leave out what need not be looked at. Whether an agent may really get a task is asked of the filter
//! for each that they come up with.

use std::cmp::Reverse;

use compact_str::CompactString;
use shared::Countables;
use shared::needs::Needs;

use super::tournament::{Least, Marks, Most, Seat};
use crate::kinds::KindKey;
use crate::registry::{Agent, AgentKey};

/// An agent with this much has no room at all.
const NO_ROOM: f32 = f32::INFINITY;
/// A seat that nobody has comes last in every order.
const LAST: u64 = u64::MAX;
/// So many requirements on labels are remembered for a cohort; then it begins anew.
const MARKS: usize = 64;
/// How often a seat is drawn before one is looked for that has room.
const DRAWS: usize = 4;
/// Seats of a cohort at first.
const FEWEST_SEATS: usize = 8;

/// What the members of a cohort have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Traits {
    /// What they can do, in order.
    pub(crate) kinds: Box<[KindKey]>,
    /// Whether their hosts are under pressure.
    pub(crate) pressured: bool,
    /// What they have of the labels that tasks are spread over.
    pub(crate) values: Box<[Option<CompactString>]>,
    /// The countable resources that they offer, in order.
    pub(crate) countables: Box<[CompactString]>,
}

/// What an order goes by: less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Attempts in proportion to slots.
    Load,
    /// The weighted share of its resources that is in use.
    Use,
    /// How little it could still be given: of slots, or of a resource by its place in `Resources::dimensions`.
    Left(Option<usize>),
    /// How little it is made for the kind.
    Quality(KindKey),
    /// When it got a task of the kind last.
    Turn(KindKey),
    /// How much of the kind it has been given for its weight.
    Pass(KindKey),
}

impl Sort {
    /// Whether it is the order itself that moves an agent, and not what is known of the agent.
    fn is_kept(self) -> bool {
        matches!(self, Sort::Turn(_) | Sort::Pass(_))
    }
}

/// What is sought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search<'a> {
    pub(crate) sort: Sort,
    /// How much an agent may carry with one more attempt, in proportion to its slots.
    pub(crate) limit: f32,
    pub(crate) needs: &'a Needs,
    /// What it must have left, if it must have anything.
    pub(crate) resources: Option<[u64; 4]>,
    /// What it must have left of countable resources.
    pub(crate) countables: &'a Countables,
}

/// The two best that were found, in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) best: Option<Hit>,
    pub(crate) second: Option<Hit>,
}

/// An agent that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) key: u64,
    pub(crate) agent: AgentKey,
}

/// Where an agent sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) cohort: u32,
    pub(crate) seat: Seat,
}

impl Found {
    /// What something must be less than to be of interest.
    fn bar(&self) -> u64 {
        self.second.map_or(LAST, |hit| hit.key)
    }

    pub(crate) fn add(&mut self, hit: Hit) {
        if self.best.is_none_or(|best| hit.key < best.key) {
            self.second = self.best.replace(hit);
        } else if hit.key < self.bar() {
            self.second = Some(hit);
        }
    }
}

/// Attempts taken, slots, and capacity of each resource, of agents that take work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    pub(crate) taken: u64,
    pub(crate) slots: u64,
    pub(crate) capacity: [u64; 4],
}

impl Load {
    fn of(agent: &Agent) -> Self {
        if !agent.takes_work() {
            return Self::default();
        }
        Self { taken: agent.taken() as u64, slots: u64::from(agent.slots), capacity: agent.capacity.dimensions() }
    }

    pub(crate) fn plus(self, other: Load) -> Load {
        self.zip(other, u64::saturating_add)
    }

    fn minus(self, other: Load) -> Load {
        self.zip(other, u64::saturating_sub)
    }

    fn zip(self, other: Load, f: impl Fn(u64, u64) -> u64) -> Load {
        Load {
            taken: f(self.taken, other.taken),
            slots: f(self.slots, other.slots),
            capacity: std::array::from_fn(|i| f(self.capacity[i], other.capacity[i])),
        }
    }
}

/// What each has left of a countable resource, and how much is wanted of it.
type Wanted<'a> = (&'a Least<Reverse<u64>>, u64);

/// Agents that can do the same kinds.
#[derive(Debug)]
pub(crate) struct Cohort {
    pub(crate) traits: Traits,
    members: Vec<Option<AgentKey>>,
    vacant: Vec<Seat>,
    /// What those carry that take work, and how many slots they have; and altogether.
    loads: Vec<Load>,
    load: Load,
    /// What those offer of countable resources, in the order of the traits; and altogether.
    offers: Vec<Box<[u64]>>,
    offered: Box<[u64]>,
    /// What each would carry with one more attempt, in proportion to its slots.
    room: Least<f32>,
    /// What each has not reserved yet; and of countable resources, in the order of the traits.
    unreserved: Most,
    uncounted: Box<[Least<Reverse<u64>>]>,
    orders: Vec<(Sort, Least<u64>)>,
    marks: Vec<(Needs, Marks)>,
}

impl Cohort {
    pub(crate) fn new(traits: Traits) -> Self {
        let offered = vec![0; traits.countables.len()].into();
        Self {
            offers: Vec::new(),
            offered,
            uncounted: traits.countables.iter().map(|_| Least::new(FEWEST_SEATS, Reverse(0))).collect(),
            traits,
            members: Vec::new(),
            vacant: Vec::new(),
            loads: Vec::new(),
            load: Load::default(),
            room: Least::new(FEWEST_SEATS, NO_ROOM),
            unreserved: Most::new(FEWEST_SEATS),
            orders: Vec::new(),
            marks: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.vacant.len() == self.members.len()
    }

    fn seats(&self) -> usize {
        self.members.len().next_power_of_two().max(FEWEST_SEATS)
    }

    pub(crate) fn join(&mut self, key: AgentKey) -> Seat {
        if let Some(seat) = self.vacant.pop() {
            self.members[seat as usize] = Some(key);
            return seat;
        }
        let before = self.seats();
        self.members.push(Some(key));
        self.loads.push(Load::default());
        self.offers.push(vec![0; self.traits.countables.len()].into());
        if self.seats() > before {
            self.room = self.room.doubled(NO_ROOM);
            self.unreserved = self.unreserved.doubled();
            self.uncounted.iter_mut().for_each(|tree| *tree = tree.doubled(Reverse(0)));
            self.orders.iter_mut().for_each(|(_, order)| *order = order.doubled(LAST));
            self.marks.clear();
        }
        (self.members.len() - 1) as Seat
    }

    pub(crate) fn leave(&mut self, seat: Seat) {
        self.members[seat as usize] = None;
        self.vacant.push(seat);
        self.carry(seat, Load::default());
        self.room.set(seat, NO_ROOM);
        self.unreserved.set(seat, [0; 4]);
        self.uncounted.iter_mut().for_each(|tree| tree.set(seat, Reverse(0)));
        self.offer(seat, None);
        self.orders.iter_mut().for_each(|(_, order)| order.set(seat, LAST));
        self.marks.iter_mut().for_each(|(_, marks)| marks.set(seat, false));
    }

    /// Takes over how an agent is now.
    pub(crate) fn refresh(&mut self, seat: Seat, agent: &Agent, rank: impl Fn(Sort, &Agent) -> u64) {
        let has_room = agent.has_place() && agent.kept_for.is_none();
        self.room.set(seat, if has_room { agent.room() } else { NO_ROOM });
        self.carry(seat, Load::of(agent));
        self.unreserved.set(seat, agent.unreserved().dimensions());
        for (tree, name) in self.uncounted.iter_mut().zip(&self.traits.countables) {
            tree.set(seat, Reverse(agent.uncounted(name)));
        }
        self.offer(seat, Some(agent).filter(|agent| agent.takes_work()));
        for (sort, order) in &mut self.orders {
            if !sort.is_kept() {
                order.set(seat, rank(*sort, agent));
            } else if order.get(seat) == LAST {
                order.set(seat, 0);
            }
        }
    }

    fn carry(&mut self, seat: Seat, load: Load) {
        let before = std::mem::replace(&mut self.loads[seat as usize], load);
        self.load = self.load.minus(before).plus(load);
    }

    fn offer(&mut self, seat: Seat, agent: Option<&Agent>) {
        let Self { traits, offers, offered, .. } = self;
        for ((name, offer), sum) in traits.countables.iter().zip(&mut offers[seat as usize]).zip(offered) {
            let before = std::mem::replace(offer, agent.map_or(0, |agent| agent.countables.get(name)));
            *sum = (*sum).saturating_sub(before).saturating_add(*offer);
        }
    }

    /// What its members offer of a countable resource altogether, those that take work.
    pub(crate) fn offered(&self, name: &str) -> u64 {
        self.traits.countables.iter().position(|offered| offered == name).map_or(0, |number| self.offered[number])
    }

    /// What its members carry and have altogether, those that take work.
    pub(crate) fn load(&self) -> Load {
        self.load
    }

    /// Takes over what an agent's labels are now.
    pub(crate) fn relabel(&mut self, seat: Seat, agent: &Agent) {
        self.marks.iter_mut().for_each(|(needs, marks)| marks.set(seat, needs.are_met_by(&agent.labels)));
    }

    /// Makes sure that agents can be sought by this order and these needs.
    pub(crate) fn prepare<'a>(
        &mut self,
        search: &Search<'_>,
        agent: impl Fn(AgentKey) -> &'a Agent,
        rank: impl Fn(Sort, &Agent) -> u64,
    ) {
        let members = || self.members.iter().enumerate().filter_map(|(seat, key)| Some((seat as Seat, (*key)?)));
        if !self.orders.iter().any(|(sort, _)| *sort == search.sort) {
            let mut order = Least::new(self.seats(), LAST);
            for (seat, key) in members() {
                order.set(seat, if search.sort.is_kept() { 0 } else { rank(search.sort, agent(key)) });
            }
            self.orders.push((search.sort, order));
        }
        if search.needs.is_empty() || self.marks.iter().any(|(needs, _)| needs == search.needs) {
            return;
        }
        let mut marks = Marks::new(self.seats());
        members().for_each(|(seat, key)| marks.set(seat, search.needs.are_met_by(&agent(key).labels)));
        if self.marks.len() == MARKS {
            self.marks.clear();
        }
        self.marks.push((search.needs.clone(), marks));
    }

    /// Finds the best two that pass the test and are better than what was found before. It must be prepared.
    pub(crate) fn find(&self, search: &Search<'_>, found: &mut Found, passes: impl Fn(AgentKey) -> bool) {
        let Some((_, order)) = self.orders.iter().find(|(sort, _)| *sort == search.sort) else { return };
        let Some(countables) = self.countables(search.countables) else { return };
        let marks = self.marks.iter().find(|(needs, _)| !search.needs.is_empty() && needs == search.needs);
        let seats = self.seats();
        let worth_a_look = |node: usize, bar: u64| {
            self.room.at(node) <= search.limit
                && order.at(node) < bar
                && search.resources.is_none_or(|wanted| self.unreserved.may_have(node, &wanted))
                && marks.is_none_or(|(_, marks)| marks.has(node))
                && countables.iter().all(|(tree, wanted)| tree.at(node).0 >= *wanted)
        };
        // One of two children is looked at, the other waits here: never more than the tree is high.
        let mut waiting = [0usize; 33];
        let (mut count, mut node) = (0, 1);
        loop {
            if worth_a_look(node, found.bar()) {
                if node < seats {
                    let (left, right) = (node * 2, node * 2 + 1);
                    let left_first = order.at(left) <= order.at(right);
                    (node, waiting[count]) = if left_first { (left, right) } else { (right, left) };
                    count += 1;
                    continue;
                }
                let seat = (node - seats) as Seat;
                if let Some(agent) = self.members[seat as usize].filter(|key| passes(*key)) {
                    found.add(Hit { key: order.at(node), agent });
                }
            }
            if count == 0 {
                return;
            }
            count -= 1;
            node = waiting[count];
        }
    }

    /// The trees of what is wanted of countable resources, and how much is; none if nobody here has one of them.
    fn countables(&self, wanted: &Countables) -> Option<Vec<Wanted<'_>>> {
        let tree = |name: &str| {
            let number = self.traits.countables.iter().position(|offered| offered == name)?;
            Some(&self.uncounted[number])
        };
        wanted.iter().map(|(name, wanted)| Some((tree(name)?, wanted))).collect()
    }

    /// A member that has room within the limit, by lot, and what it would carry with one more attempt; every one that has
    /// can come up.
    pub(crate) fn draw(&self, limit: f32, random: &mut fastrand::Rng) -> Option<(AgentKey, f32)> {
        let by_lot = (0..DRAWS).map(|_| random.usize(..self.members.len().max(1)) as Seat);
        let by_lot = by_lot.into_iter().find(|seat| self.room.get(*seat) <= limit);
        let seat = by_lot.or_else(|| self.descend(limit, random))?;
        Some((self.members[seat as usize]?, self.room.get(seat)))
    }

    /// Goes down to one that has room, by lot where there is room on both sides.
    fn descend(&self, limit: f32, random: &mut fastrand::Rng) -> Option<Seat> {
        let (seats, mut node) = (self.seats(), 1);
        if self.room.at(node) > limit {
            return None;
        }
        while node < seats {
            let has_room = [node * 2, node * 2 + 1].map(|child| self.room.at(child) <= limit);
            let second = if has_room == [true, true] { random.bool() } else { has_room[1] };
            node = node * 2 + usize::from(second);
        }
        Some((node - seats) as Seat)
    }

    /// Whether anybody has room within the limit.
    pub(crate) fn has_room(&self, limit: f32) -> bool {
        self.room.at(1) <= limit
    }

    /// An order is not wanted any more.
    pub(crate) fn drop_order(&mut self, sort: Sort) {
        self.orders.retain(|(other, _)| *other != sort);
    }

    /// Moves an agent within an order that is kept.
    pub(crate) fn reorder(&mut self, seat: Seat, sort: Sort, key: u64) {
        if let Some((_, order)) = self.orders.iter_mut().find(|(s, _)| *s == sort) {
            order.set(seat, key);
        }
    }
}
