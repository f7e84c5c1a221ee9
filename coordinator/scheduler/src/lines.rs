//! What waits for an agent, and in which order it is tried.
//!
//! Tasks of one tenant that ask the same of their agent stand in one line: if its head cannot be placed, none behind it
//! can, and a task that asks for something else is not held up by it. Between kinds the most urgent head goes first, and
//! among equals the kind whose turn is longest ago; within a kind the tenant that has had the least for its weight. What
//! has waited long goes out of turn, now and then, so that nothing waits for ever.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;
use shared::Priority;

use crate::Timestamp;
use crate::event::Sequence;
use crate::kinds::{Demand, KindKey};
use crate::shares::{Charge, Shares};
use crate::tenants::TenantKey;

/// Of so many tasks that are placed, one may go out of turn because it has waited long.
pub(crate) const OUT_OF_TURN: u64 = 16;

/// Short name of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LineKey(u32);

/// Where a line stands among those of its kind: out of turn, then by what its tenant has had, its head's priority, and
/// whose turn is longest ago.
type Place = (bool, u64, Priority, u64, LineKey);

/// Where a kind stands among the others: by its first line's priority, unless that goes out of turn, and whose turn is
/// longest ago.
type KindPlace = (bool, Priority, u64, KindKey);

/// Whether a line's head is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// It has not been tried since something changed for it.
    Ready,
    /// No agent has room for it.
    Blocked,
    /// A limit of its kind or tenant is reached.
    Held,
}

#[derive(Debug)]
struct Line {
    demand: Demand,
    /// Sequences that wait, by priority. One that has been settled or placed otherwise stays until it comes up.
    waiting: [VecDeque<Sequence>; 4],
    turn: u64,
    trial: Trial,
    out_of_turn: bool,
    place: Option<Place>,
}

impl Line {
    fn priority(&self) -> Option<Priority> {
        let first = || Priority::ALL.into_iter().find(|p| !self.waiting[*p as usize].is_empty());
        if !self.out_of_turn {
            return first();
        }
        let oldest = |p: &Priority| self.waiting[*p as usize].front().copied().unwrap_or(Sequence(u64::MAX));
        Priority::ALL.into_iter().min_by_key(oldest).filter(|p| !self.waiting[*p as usize].is_empty())
    }

    fn head(&self) -> Option<Sequence> {
        self.waiting[self.priority()? as usize].front().copied()
    }

    fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }
}

/// The lines of one kind.
#[derive(Debug, Default)]
struct KindLines {
    turn: u64,
    ready: BTreeSet<Place>,
    blocked: BTreeSet<Place>,
    held: BTreeSet<LineKey>,
    at: [Option<KindPlace>; 2],
}

/// Everything that waits for an agent.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Vec<Option<Line>>,
    free: Vec<LineKey>,
    by_demand: FxHashMap<Demand, LineKey>,
    kinds: Vec<KindLines>,
    /// Kinds with lines that are ready, and with lines that are blocked.
    order: [BTreeSet<KindPlace>; 2],
    /// What tenants have had of each kind.
    pub(crate) shares: Shares,
    turns: u64,
    /// Lines whose oldest task has waited long, the oldest first.
    aged: VecDeque<LineKey>,
    next_out_of_turn: u64,
    /// Lines of tasks that must run alone.
    alone: usize,
}

const READY: usize = 0;
const BLOCKED: usize = 1;

impl Lines {
    /// Puts a task at the end of its line, or at the front if it has been waiting already.
    pub(crate) fn push(&mut self, demand: &Demand, priority: Priority, sequence: Sequence, front: bool) {
        let key = self.find_or_add(demand);
        let line = &mut self.line_mut(key).waiting[priority as usize];
        if front {
            line.push_front(sequence);
        } else {
            line.push_back(sequence);
        }
        self.replace(key);
    }

    /// The line whose head is to be tried next.
    pub(crate) fn next_ready(&self) -> Option<LineKey> {
        let kind = self.order[READY].first()?.3;
        self.kinds[kind.index()].ready.first().map(|place| place.4)
    }

    /// The task at the head, and what it asks for.
    pub(crate) fn head(&self, key: LineKey) -> Option<(Sequence, &Demand)> {
        let line = self.lines[key.0 as usize].as_ref()?;
        Some((line.head()?, &line.demand))
    }

    /// Takes the head off, and lets the other lines have their turn.
    pub(crate) fn pop(&mut self, key: LineKey) {
        self.turns += 1;
        let turn = self.turns;
        let line = self.line_mut(key);
        if let Some(priority) = line.priority() {
            line.waiting[priority as usize].pop_front();
        }
        line.turn = turn;
        line.out_of_turn = false;
        let kind = line.demand.kind;
        self.kinds[kind.index()].turn = turn;
        self.replace(key);
        self.let_one_out_of_turn();
    }

    /// The head cannot be placed now: it is not tried again until something changes for it.
    pub(crate) fn put_off(&mut self, key: LineKey, trial: Trial) {
        self.line_mut(key).trial = trial;
        self.replace(key);
    }

    /// Lets the first line be tried again, of the kinds meant, that passes the test. Whether there was one is returned.
    pub(crate) fn unblock_first(
        &mut self,
        is_meant: impl Fn(KindKey) -> bool,
        mut test: impl FnMut(&Demand) -> bool,
    ) -> bool {
        let kinds = self.order[BLOCKED].iter().map(|place| place.3).filter(|kind| is_meant(*kind));
        let mut lines = kinds.flat_map(|kind| self.kinds[kind.index()].blocked.iter().map(|place| place.4));
        let passes = |key: &LineKey| self.lines[key.0 as usize].as_ref().is_some_and(|l| test(&l.demand));
        let Some(key) = lines.find(passes) else { return false };
        self.unblock(key);
        true
    }

    /// The line of these tasks, if it is blocked.
    pub(crate) fn blocked(&self, demand: &Demand) -> Option<LineKey> {
        let key = *self.by_demand.get(demand)?;
        self.lines[key.0 as usize].as_ref().filter(|line| line.trial == Trial::Blocked).map(|_| key)
    }

    /// What stands in the line of these tasks, those included that are passed over when they come up.
    pub(crate) fn waiting(&self, demand: &Demand) -> impl Iterator<Item = Sequence> {
        let line = self.by_demand.get(demand).and_then(|key| self.lines[key.0 as usize].as_ref());
        line.into_iter().flat_map(|line| line.waiting.iter().flatten().copied())
    }

    /// What the blocked lines wait for, and the head of each.
    pub(crate) fn blocked_heads(&self) -> impl Iterator<Item = (&Demand, Sequence)> {
        let blocked = self.lines.iter().flatten().filter(|line| line.trial == Trial::Blocked);
        blocked.filter_map(|line| Some((&line.demand, line.head()?)))
    }

    /// What lines ask for that a limit holds.
    pub(crate) fn held_demands(&self) -> impl Iterator<Item = &Demand> {
        self.lines.iter().flatten().filter(|line| line.trial == Trial::Held).map(|line| &line.demand)
    }

    /// Of each line and priority the first that passes the test, with its kind.
    pub(crate) fn first_of_each(&self, test: impl Fn(Sequence) -> bool) -> impl Iterator<Item = (KindKey, Sequence)> {
        self.lines.iter().flatten().flat_map(move |line| {
            let firsts = line.waiting.iter().filter_map(|queue| queue.iter().copied().find(|first| test(*first)));
            firsts.map(|first| (line.demand.kind, first)).collect::<Vec<_>>()
        })
    }

    /// Whether no agent had room for the line's head.
    pub(crate) fn is_blocked(&self, key: LineKey) -> bool {
        self.lines[key.0 as usize].as_ref().is_some_and(|line| line.trial == Trial::Blocked)
    }

    /// How many lines there are.
    pub(crate) fn count(&self) -> usize {
        self.by_demand.len()
    }

    /// Lets the line be tried again.
    pub(crate) fn unblock(&mut self, key: LineKey) {
        self.line_mut(key).trial = Trial::Ready;
        self.replace(key);
    }

    /// Lets the lines be tried again that wait for an agent that has nothing.
    pub(crate) fn unblock_alone(&mut self) {
        while self.alone > 0 && self.unblock_first(|_| true, |demand| demand.alone) {}
    }

    /// Lets the lines of a kind be tried again that a limit holds.
    pub(crate) fn release_kind(&mut self, kind: KindKey) {
        let Some(lines) = self.kinds.get_mut(kind.index()) else { return };
        for key in std::mem::take(&mut lines.held) {
            self.unblock(key);
        }
    }

    /// Lets the lines of a tenant be tried again that a limit holds.
    pub(crate) fn release_tenant(&mut self, tenant: TenantKey) {
        let is_of = |line: &Line| line.demand.tenant == tenant;
        let is_meant = |key: &LineKey| self.lines[key.0 as usize].as_ref().is_some_and(is_of);
        let held: Vec<LineKey> = self.kinds.iter().flat_map(|lines| &lines.held).copied().filter(is_meant).collect();
        held.into_iter().for_each(|key| self.unblock(key));
    }

    /// Lets everything be tried again: what it is tried by has changed.
    pub(crate) fn retry_all(&mut self) {
        for number in 0..self.lines.len() {
            if self.lines[number].is_some() {
                self.unblock(LineKey(number as u32));
            }
        }
    }

    /// How many stand in the line, those included that are passed over when they come up.
    pub(crate) fn len(&self, key: LineKey) -> usize {
        self.lines[key.0 as usize].as_ref().map_or(0, Line::len)
    }

    pub(crate) fn anything_blocked(&self) -> bool {
        !self.order[BLOCKED].is_empty()
    }

    /// An attempt starts, and its tenant is charged for it: its lines come later.
    pub(crate) fn begin(&mut self, kind: KindKey, tenant: TenantKey, charge: Charge, now: Timestamp) {
        self.shares.begin(kind, tenant, charge, now);
        self.replace_tenant(kind, tenant);
    }

    /// An attempt has ended, and its tenant is charged for what it has really taken.
    pub(crate) fn end(&mut self, kind: KindKey, tenant: TenantKey, charge: Charge, began: Timestamp, now: Timestamp) {
        self.shares.end(kind, tenant, charge, began, now);
        self.replace_tenant(kind, tenant);
    }

    /// Charges tenants for what runs longer than was expected.
    pub(crate) fn charge_as_it_goes(&mut self, weight: impl Fn(TenantKey) -> f64, now: Timestamp) {
        for (kind, tenant) in self.shares.charge_as_it_goes(weight, now) {
            self.replace_tenant(kind, tenant);
        }
    }

    /// The tenant's lines of the kind stand where they now belong.
    fn replace_tenant(&mut self, kind: KindKey, tenant: TenantKey) {
        if self.shares.are_shared(kind) {
            self.shares.lines(kind, tenant).to_vec().into_iter().for_each(|key| self.replace(key));
        }
    }

    /// Finds the lines whose oldest task has waited too long, one of each kind.
    pub(crate) fn find_aged(&mut self, has_waited: impl Fn(Sequence) -> bool) {
        let oldest = |line: &Line| line.waiting.iter().filter_map(|line| line.front().copied()).min();
        let mut aged: FxHashMap<KindKey, (Sequence, LineKey)> = FxHashMap::default();
        for (number, line) in self.lines.iter().enumerate() {
            let Some(line) = line.as_ref().filter(|line| line.trial != Trial::Held) else { continue };
            let Some(sequence) = oldest(line).filter(|sequence| has_waited(*sequence)) else { continue };
            let found = (sequence, LineKey(number as u32));
            let kept = aged.entry(line.demand.kind).or_insert(found);
            *kept = found.min(*kept);
        }
        let mut aged: Vec<(Sequence, LineKey)> = aged.into_values().collect();
        aged.sort_unstable();
        self.aged = aged.into_iter().map(|(_, key)| key).collect();
    }

    /// Every so often the line goes first that has the oldest task.
    fn let_one_out_of_turn(&mut self) {
        if self.aged.is_empty() || self.turns < self.next_out_of_turn {
            return;
        }
        while let Some(key) = self.aged.pop_front() {
            let Some(line) = self.lines[key.0 as usize].as_mut() else { continue };
            self.next_out_of_turn = self.turns + OUT_OF_TURN;
            line.out_of_turn = true;
            return self.replace(key);
        }
    }

    /// What stands before a task: how many in its line, and how many in lines that are tried before it.
    pub(crate) fn ahead_of(&self, demand: &Demand, priority: Priority, sequence: Sequence) -> Option<(usize, usize)> {
        let key = *self.by_demand.get(demand)?;
        let line = self.lines[key.0 as usize].as_ref()?;
        let more_urgent: usize = line.waiting[..priority as usize].iter().map(VecDeque::len).sum();
        let place = line.waiting[priority as usize].iter().position(|other| *other == sequence)?;
        let lines = &self.kinds[demand.kind.index()];
        let own = line.place;
        let in_line = more_urgent + place;
        // Lines of the same standing take turns.
        let before =
            |place: &Place| match (own.is_some_and(|own| (place.1, place.2) < (own.1, own.2)), Some(*place) < own) {
                (true, _) => self.len(place.4),
                (false, true) => self.len(place.4).min(in_line + 1),
                (false, false) => self.len(place.4).min(in_line),
            };
        let others = lines.ready.iter().chain(&lines.blocked).filter(|place| place.4 != key);
        Some((in_line, others.map(before).sum()))
    }

    /// Forgets everything that waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn find_or_add(&mut self, demand: &Demand) -> LineKey {
        if let Some(key) = self.by_demand.get(demand) {
            return *key;
        }
        let kind = demand.kind;
        if self.kinds.len() <= kind.index() {
            self.kinds.resize_with(kind.index() + 1, KindLines::default);
        }
        self.alone += usize::from(demand.alone);
        let line = Line {
            demand: demand.clone(),
            waiting: Default::default(),
            turn: self.turns,
            trial: Trial::Ready,
            out_of_turn: false,
            place: None,
        };
        let key = self.free.pop().unwrap_or_else(|| {
            self.lines.push(None);
            LineKey(u32::try_from(self.lines.len() - 1).expect("fewer than four billion lines"))
        });
        self.lines[key.0 as usize] = Some(line);
        self.by_demand.insert(demand.clone(), key);
        if self.shares.enter(kind, demand.tenant, key) {
            self.replace_kind(kind);
        }
        key
    }

    /// All lines of a kind stand where they now belong.
    fn replace_kind(&mut self, kind: KindKey) {
        let lines = &self.kinds[kind.index()];
        let keys: Vec<LineKey> = lines.ready.iter().chain(&lines.blocked).map(|place| place.4).collect();
        keys.into_iter().for_each(|key| self.replace(key));
    }

    fn line_mut(&mut self, key: LineKey) -> &mut Line {
        self.lines[key.0 as usize].as_mut().expect("a line is dropped only when nothing names it")
    }

    /// Puts the line where it now belongs: among the ready, the blocked or the held, or away if it is empty.
    fn replace(&mut self, key: LineKey) {
        let line = self.lines[key.0 as usize].as_mut().expect("a line is dropped only when nothing names it");
        let kind = line.demand.kind;
        let lines = &mut self.kinds[kind.index()];
        if let Some(place) = line.place.take() {
            lines.ready.remove(&place);
            lines.blocked.remove(&place);
        }
        lines.held.remove(&key);
        match line.priority() {
            None => self.drop_line(key),
            Some(_) if line.trial == Trial::Held => drop(lines.held.insert(key)),
            Some(priority) => {
                let had = self.shares.had(kind, line.demand.tenant);
                let place = (!line.out_of_turn, had, priority, line.turn, key);
                line.place = Some(place);
                let places = if line.trial == Trial::Blocked { &mut lines.blocked } else { &mut lines.ready };
                places.insert(place);
            }
        }
        self.replace_among_kinds(kind);
    }

    fn drop_line(&mut self, key: LineKey) {
        if let Some(line) = self.lines[key.0 as usize].take() {
            self.alone -= usize::from(line.demand.alone);
            self.by_demand.remove(&line.demand);
            self.shares.leave(line.demand.kind, line.demand.tenant, key);
            self.free.push(key);
        }
    }

    fn replace_among_kinds(&mut self, kind: KindKey) {
        let lines = &mut self.kinds[kind.index()];
        for (which, first) in [(READY, lines.ready.first()), (BLOCKED, lines.blocked.first())] {
            let place = first.map(|place| (place.0, place.2, lines.turn, kind));
            if lines.at[which] == place {
                continue;
            }
            if let Some(before) = lines.at[which].take() {
                self.order[which].remove(&before);
            }
            if let Some(place) = place {
                self.order[which].insert(place);
            }
            lines.at[which] = place;
        }
    }
}
