//! The kinds, and what waits of each.
//!
//! Tasks that ask the same of their agent stand in one queue: if the head cannot be placed, none behind it can,
//! and a task that asks for something else is not held up by it.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;
use shared::needs::Needs;
use shared::{Kind, Priority, Resources};

use crate::config::KindSettings;
use crate::event::Sequence;
use crate::performance::RunTime;
use crate::placement::StrategyState;
use crate::registry::AgentKey;
use crate::retries::Retries;

/// Short name of a kind within the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindKey(u32);

/// A kind as the scheduler knows it.
#[derive(Debug)]
pub(crate) struct KindEntry {
    pub(crate) key: KindKey,
    pub(crate) kind: Kind,
    pub(crate) settings: KindSettings,
    /// Agents that can do it, whether or not they are there; in the order they came.
    pub(crate) agents: Vec<AgentKey>,
    pub(crate) run_time: RunTime,
    pub(crate) strategy: StrategyState,
    /// Tasks fetched and not placed, by priority.
    pub(crate) waiting: [usize; 4],
    pub(crate) running: usize,
    /// Its tasks that have failed before and are on their way again.
    pub(crate) retries: Retries,
    /// How often an agent was ejected from it: where that never was, nobody has to look whether one is.
    pub(crate) ejections: u64,
}

/// All kinds that an agent can do or a task has named.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    entries: Vec<KindEntry>,
    by_name: FxHashMap<Kind, KindKey>,
}

impl Kinds {
    pub(crate) fn find(&self, kind: &Kind) -> Option<KindKey> {
        self.by_name.get(kind).copied()
    }

    pub(crate) fn find_or_add(&mut self, kind: &Kind, settings: impl FnOnce() -> KindSettings) -> KindKey {
        if let Some(key) = self.find(kind) {
            return key;
        }
        let key = KindKey(u32::try_from(self.entries.len()).expect("fewer than four billion kinds"));
        self.entries.push(KindEntry {
            key,
            kind: kind.clone(),
            settings: settings(),
            agents: Vec::new(),
            run_time: RunTime::default(),
            strategy: StrategyState::default(),
            waiting: [0; 4],
            running: 0,
            retries: Retries::default(),
            ejections: 0,
        });
        self.by_name.insert(kind.clone(), key);
        key
    }

    pub(crate) fn get(&self, key: KindKey) -> &KindEntry {
        &self.entries[key.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, key: KindKey) -> &mut KindEntry {
        &mut self.entries[key.0 as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &KindEntry> {
        self.entries.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut KindEntry> {
        self.entries.iter_mut()
    }
}

/// What a task asks of its agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Demand {
    pub(crate) kind: KindKey,
    pub(crate) needs: Needs,
    pub(crate) resources: [u64; 4],
    /// Whether its agent may have nothing else meanwhile.
    pub(crate) alone: bool,
}

impl Demand {
    pub(crate) fn resources(&self) -> Resources {
        Resources::from_dimensions(self.resources)
    }
}

/// Short name of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueKey(u32);

/// Where a queue stands among the others: the most urgent head first, then whose turn is longest ago.
type Place = (Priority, u64, QueueKey);

#[derive(Debug)]
struct Queue {
    demand: Demand,
    /// Sequences that wait, by priority. One that has been settled or placed otherwise stays until it comes up.
    lines: [VecDeque<Sequence>; 4],
    turn: u64,
    place: Option<Place>,
    blocked: bool,
}

impl Queue {
    fn head_priority(&self) -> Option<Priority> {
        Priority::ALL.into_iter().find(|p| !self.lines[*p as usize].is_empty())
    }
}

/// What waits for an agent.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: Vec<Option<Queue>>,
    free: Vec<QueueKey>,
    by_demand: FxHashMap<Demand, QueueKey>,
    /// Queues whose head has not been tried since something changed for them.
    ready: BTreeSet<Place>,
    /// Queues whose head no agent has room for.
    blocked: BTreeSet<Place>,
    turns: u64,
}

impl Queues {
    /// Puts a task at the end of its line, or at the front if it has been waiting already.
    pub(crate) fn push(&mut self, demand: &Demand, priority: Priority, sequence: Sequence, front: bool) {
        let key = self.find_or_add(demand);
        let queue = self.queue_mut(key);
        let line = &mut queue.lines[priority as usize];
        if front {
            line.push_front(sequence);
        } else {
            line.push_back(sequence);
        }
        self.replace(key);
    }

    /// The queue whose head is to be tried next.
    pub(crate) fn next_ready(&self) -> Option<QueueKey> {
        self.ready.first().map(|place| place.2)
    }

    /// The task at the head, and what it asks for.
    pub(crate) fn head(&self, key: QueueKey) -> Option<(Sequence, &Demand)> {
        let queue = self.queues[key.0 as usize].as_ref()?;
        let priority = queue.head_priority()?;
        Some((*queue.lines[priority as usize].front()?, &queue.demand))
    }

    /// Takes the head off, and lets the other queues have their turn.
    pub(crate) fn pop(&mut self, key: QueueKey) {
        self.turns += 1;
        let turn = self.turns;
        let queue = self.queue_mut(key);
        if let Some(priority) = queue.head_priority() {
            queue.lines[priority as usize].pop_front();
        }
        queue.turn = turn;
        self.replace(key);
    }

    /// No agent has room for the head: it is not tried again until something changes for it.
    pub(crate) fn block(&mut self, key: QueueKey) {
        self.queue_mut(key).blocked = true;
        self.replace(key);
    }

    /// Lets the first queue be tried again that passes the test. Whether there was one is returned.
    pub(crate) fn unblock_first(&mut self, mut test: impl FnMut(&Demand) -> bool) -> bool {
        let passes = |key: &QueueKey| self.queues[key.0 as usize].as_ref().is_some_and(|queue| test(&queue.demand));
        let Some(key) = self.blocked.iter().map(|place| place.2).find(passes) else { return false };
        self.queue_mut(key).blocked = false;
        self.replace(key);
        true
    }

    /// The queue of the demand, if anything waits for it and is not tried for now.
    pub(crate) fn blocked(&self, demand: &Demand) -> Option<QueueKey> {
        let key = *self.by_demand.get(demand)?;
        self.queues[key.0 as usize].as_ref().filter(|queue| queue.blocked).map(|_| key)
    }

    /// Lets the queue be tried again.
    pub(crate) fn unblock(&mut self, key: QueueKey) {
        self.queue_mut(key).blocked = false;
        self.replace(key);
    }

    /// How many stand in the queue, those included that are passed over when they come up.
    pub(crate) fn len(&self, key: QueueKey) -> usize {
        self.queues[key.0 as usize].as_ref().map_or(0, |queue| queue.lines.iter().map(VecDeque::len).sum())
    }

    /// Lets all queues be tried again that pass the test.
    pub(crate) fn unblock_all(&mut self, test: impl Fn(&Demand) -> bool) {
        while self.unblock_first(&test) {}
    }

    pub(crate) fn anything_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Forgets everything that waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn find_or_add(&mut self, demand: &Demand) -> QueueKey {
        if let Some(key) = self.by_demand.get(demand) {
            return *key;
        }
        let queue =
            Queue { demand: demand.clone(), lines: Default::default(), turn: self.turns, place: None, blocked: false };
        let key = self.free.pop().unwrap_or_else(|| {
            self.queues.push(None);
            QueueKey(u32::try_from(self.queues.len() - 1).expect("fewer than four billion queues"))
        });
        self.queues[key.0 as usize] = Some(queue);
        self.by_demand.insert(demand.clone(), key);
        key
    }

    fn queue_mut(&mut self, key: QueueKey) -> &mut Queue {
        self.queues[key.0 as usize].as_mut().expect("a queue is dropped only when nothing names it")
    }

    /// Puts the queue where it now belongs: among the ready, among the blocked, or away if it is empty.
    fn replace(&mut self, key: QueueKey) {
        let queue = self.queues[key.0 as usize].as_mut().expect("a queue is dropped only when nothing names it");
        if let Some(place) = queue.place.take() {
            self.ready.remove(&place);
            self.blocked.remove(&place);
        }
        let Some(priority) = queue.head_priority() else {
            let queue = self.queues[key.0 as usize].take().expect("it was there a moment ago");
            self.by_demand.remove(&queue.demand);
            self.free.push(key);
            return;
        };
        let place = (priority, queue.turn, key);
        queue.place = Some(place);
        if queue.blocked {
            self.blocked.insert(place)
        } else {
            self.ready.insert(place)
        };
    }
}
