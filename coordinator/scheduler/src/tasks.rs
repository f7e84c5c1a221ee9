//! The tasks that the coordinator has fetched, and how far each is.

use std::time::Duration;

use compact_str::CompactString;
use rustc_hash::FxHashMap;
use shared::message::AttemptRef;
use shared::task::Backoff;
use shared::{AgentId, Epoch, Priority, TaskId};

use crate::Timestamp;
use crate::event::Sequence;
use crate::history::History;
use crate::kinds::Demand;
use crate::liveness::OVERRUN;
use crate::placement::Why;
use crate::registry::AgentKey;
use crate::shares::Charge;

/// A task that is not settled yet, or whose message is not removed yet.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) priority: Priority,
    pub(crate) demand: Demand,
    pub(crate) accepted: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    /// Tasks with the same key prefer the same agent.
    pub(crate) affinity: Option<CompactString>,
    /// The number of the last attempt.
    pub(crate) attempts: u32,
    /// The last attempt whose end its agent has told: a beat that lists it still is out of date.
    pub(crate) last_ended: Option<(u32, Epoch)>,
    /// How earlier attempts ended.
    pub(crate) history: History,
    pub(crate) last_agent: Option<AgentId>,
    pub(crate) cancel_wanted: bool,
    /// Until when an agent that is lost may run it, where no other may meanwhile.
    pub(crate) held_until: Timestamp,
    /// Whether its message has been delivered to this coordinator. One that is only known from an agent's beat
    /// cannot be recorded yet.
    pub(crate) delivered: bool,
    pub(crate) state: State,
}

/// How far a task is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// For an agent.
    Waiting,
    /// For its next attempt.
    BackingOff,
    /// An agent has it.
    Running(Attempt),
    /// Its outcome is being recorded.
    Settling {
        /// Whose attempt it was, where one ended it.
        by: Option<(AgentId, AttemptRef)>,
    },
}

/// An attempt that an agent has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) agent: AgentKey,
    pub(crate) number: u32,
    pub(crate) epoch: Epoch,
    pub(crate) started: Timestamp,
    /// When its agent first said that it runs.
    pub(crate) running_since: Option<Timestamp>,
    /// How often its order was repeated.
    pub(crate) repeats: u32,
    /// The value of the label that its kind is spread over, as it was counted.
    pub(crate) spread: Option<CompactString>,
    /// Since when it takes a slot, and what its tenant was charged for that.
    pub(crate) occupied_since: Timestamp,
    pub(crate) charge: Option<Charge>,
    /// What spoke for its agent; unknown of one that was adopted.
    pub(crate) why: Option<Why>,
}

impl Attempt {
    pub(crate) fn new(agent: AgentKey, number: u32, epoch: Epoch, started: Timestamp) -> Self {
        Self {
            agent,
            number,
            epoch,
            started,
            running_since: None,
            repeats: 0,
            spread: None,
            occupied_since: started,
            charge: None,
            why: None,
        }
    }
}

impl Task {
    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        match &self.state {
            State::Running(attempt) => Some(attempt),
            _ => None,
        }
    }

    /// Whether it is not to be started any more.
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Whether the attempt has run for so much longer than it may that its agent was told to end it.
    pub(crate) fn has_overrun(&self, attempt: &Attempt, now: Timestamp) -> bool {
        let limit = self.timeout.zip(attempt.running_since);
        limit.is_some_and(|(limit, since)| now.since(since) >= limit + OVERRUN)
    }

    pub(crate) fn attempt_ref(&self, attempt: &Attempt) -> AttemptRef {
        AttemptRef { task: self.id.clone(), attempt: attempt.number, epoch: attempt.epoch }
    }
}

/// All tasks fetched, found by sequence and by id.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    by_sequence: FxHashMap<Sequence, Task>,
    by_id: FxHashMap<TaskId, Sequence>,
    /// Messages with the id of a task that is not settled yet; they wait to see what becomes of it.
    duplicates: FxHashMap<TaskId, Vec<Sequence>>,
}

impl Tasks {
    pub(crate) fn get(&self, sequence: Sequence) -> Option<&Task> {
        self.by_sequence.get(&sequence)
    }

    pub(crate) fn get_mut(&mut self, sequence: Sequence) -> Option<&mut Task> {
        self.by_sequence.get_mut(&sequence)
    }

    /// Whether the task waits for an agent.
    pub(crate) fn is_waiting(&self, sequence: Sequence) -> bool {
        self.get(sequence).is_some_and(|task| task.state == State::Waiting)
    }

    pub(crate) fn find(&self, id: &TaskId) -> Option<Sequence> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn insert(&mut self, sequence: Sequence, task: Task) {
        self.by_id.insert(task.id.clone(), sequence);
        self.by_sequence.insert(sequence, task);
    }

    pub(crate) fn remove(&mut self, sequence: Sequence) -> Option<Task> {
        let task = self.by_sequence.remove(&sequence)?;
        if self.by_id.get(&task.id) == Some(&sequence) {
            self.by_id.remove(&task.id);
        }
        Some(task)
    }

    /// Another message has the id of a task that is not settled: it waits.
    pub(crate) fn hold_duplicate(&mut self, id: &TaskId, sequence: Sequence) {
        let held = self.duplicates.entry(id.clone()).or_default();
        if !held.contains(&sequence) {
            held.push(sequence);
        }
    }

    /// The messages that waited for this task.
    pub(crate) fn take_duplicates(&mut self, id: &TaskId) -> Vec<Sequence> {
        if self.duplicates.is_empty() { Vec::new() } else { self.duplicates.remove(id).unwrap_or_default() }
    }

    /// It is not known any more since when attempts run; the next beats tell that they do.
    pub(crate) fn forget_since_when_they_run(&mut self) {
        for task in self.by_sequence.values_mut() {
            if let State::Running(attempt) = &mut task.state {
                attempt.running_since = None;
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Sequence, &Task)> {
        self.by_sequence.iter().map(|(sequence, task)| (*sequence, task))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_sequence.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
