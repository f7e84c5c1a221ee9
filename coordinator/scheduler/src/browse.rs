//! Agents and tasks for whoever looks at many of them: filtered and sorted here, and only what is asked for is shown.
//! So a page costs about the same with ten agents and with 10,000.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::api::{self, AgentState, TaskState};
use shared::{AgentId, Kind, TaskId};

use crate::event::Sequence;
use crate::history::End;
use crate::kinds::{Demand, KindKey};
use crate::registry::Agent;
use crate::tasks::{State, Task};
use crate::{Scheduler, Timestamp};

/// Some of many.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// Those that were asked for.
    pub items: Vec<T>,
    /// How many there are of what was asked for, on all pages.
    pub total: usize,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { items: Vec::new(), total: 0 }
    }
}

/// Which agents are shown, and in which order.
#[derive(Clone, Debug, Default)]
pub struct AgentQuery {
    /// Only those that are doing so.
    pub state: Option<AgentState>,
    /// Only those that can do it.
    pub kind: Option<Kind>,
    /// Only those with this in their id or host, or with this label (`region=eu`); all if it is empty.
    pub text: String,
    /// What they are sorted by; equals by their id.
    pub sort: AgentSort,
    /// Whether the greatest comes first.
    pub descending: bool,
    /// How many are left out in front.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
}

/// What agents are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentSort {
    /// Their id.
    #[default]
    Id,
    /// How they are doing: those first that want looking after.
    State,
    /// The share of their slots that is taken.
    Load,
    /// How busy the CPU of their host is.
    Cpu,
    /// Attempts that failed on them.
    Failed,
    /// How long they have been silent.
    Beat,
}

/// Which of the tasks in hand are shown.
#[derive(Clone, Debug, Default)]
pub struct TaskQuery {
    /// Only those that are so far.
    pub state: Option<TaskState>,
    /// Only those of this kind.
    pub kind: Option<Kind>,
    /// Only those that this agent has.
    pub agent: Option<AgentId>,
    /// Only those with this in their id; all if it is empty.
    pub text: String,
    /// How many are left out in front.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
}

impl AgentSort {
    fn compare(self, a: &Agent, b: &Agent) -> Ordering {
        let load = |agent: &Agent| f64::from(agent.slots_taken()) / f64::from(agent.slots.max(1));
        let cpu = |agent: &Agent| agent.report.as_ref().map_or(-1.0, |report| report.cpu);
        match self {
            AgentSort::Id => Ordering::Equal,
            AgentSort::State => urgency(a.state).cmp(&urgency(b.state)),
            AgentSort::Load => load(a).total_cmp(&load(b)),
            AgentSort::Cpu => cpu(a).total_cmp(&cpu(b)),
            AgentSort::Failed => a.failed.cmp(&b.failed),
            AgentSort::Beat => b.last_heard.cmp(&a.last_heard),
        }
    }
}

fn urgency(state: AgentState) -> u8 {
    match state {
        AgentState::Unhealthy => 0,
        AgentState::Degraded => 1,
        AgentState::Stopping => 2,
        AgentState::Starting => 3,
        AgentState::Healthy => 4,
        AgentState::Offline => 5,
    }
}

fn is_like(agent: &Agent, text: &str) -> bool {
    let has_label =
        || text.split_once('=').is_some_and(|(name, value)| agent.labels.get(name).is_some_and(|v| v == value));
    text.is_empty() || agent.id.as_str().contains(text) || agent.host.contains(text) || has_label()
}

fn is_so_far(task: &Task, state: TaskState) -> bool {
    match state {
        TaskState::Queued => false,
        TaskState::Waiting => matches!(task.state, State::Waiting | State::BackingOff),
        TaskState::Running => matches!(task.state, State::Running(_)),
        TaskState::Settled => matches!(task.state, State::Settling { .. }),
    }
}

impl Scheduler {
    /// A page of the agents.
    pub fn agent_page(&self, query: &AgentQuery, now: Timestamp) -> Page<api::Agent> {
        let Ok(kind) = self.wanted_kind(query.kind.as_ref()) else { return Page::default() };
        let is_wanted = |agent: &&Agent| {
            query.state.is_none_or(|state| state == agent.state)
                && kind.is_none_or(|kind| agent.kinds.contains(&kind))
                && is_like(agent, &query.text)
        };
        let mut found: Vec<&Agent> = self.registry.iter().map(|(_, agent)| agent).filter(is_wanted).collect();
        found.sort_by(|a, b| {
            let order = query.sort.compare(a, b).then_with(|| a.id.cmp(&b.id));
            if query.descending { order.reverse() } else { order }
        });
        let total = found.len();
        let shown = found.into_iter().skip(query.offset).take(query.limit);
        Page { items: shown.map(|agent| self.show_agent(agent, now)).collect(), total }
    }

    /// A page of the tasks that are fetched and not settled, the oldest first.
    pub fn task_page(&self, query: &TaskQuery, now: Timestamp) -> Page<api::Task> {
        let Ok(kind) = self.wanted_kind(query.kind.as_ref()) else { return Page::default() };
        let is_wanted = |task: &Task| {
            query.state.is_none_or(|state| is_so_far(task, state))
                && kind.is_none_or(|kind| task.demand.kind == kind)
                && task.id.as_str().contains(&query.text)
        };
        let mut found: Vec<(Sequence, &Task)> = match &query.agent {
            Some(agent) => self.tasks_of(agent).filter(|(_, task)| is_wanted(task)).collect(),
            None => self.tasks.iter().filter(|(_, task)| is_wanted(task)).collect(),
        };
        found.sort_unstable_by_key(|(sequence, _)| *sequence);
        let total = found.len();
        // Tasks that ask for the same wait for the same reason, and that is asked of every agent.
        let mut reasons: FxHashMap<&Demand, String> = FxHashMap::default();
        let shown = found.into_iter().skip(query.offset).take(query.limit).map(|(_, task)| {
            let reason = || self.why_waiting(task, now).summary;
            self.show_task_with(task, now, || reasons.entry(&task.demand).or_insert_with(reason).clone())
        });
        Page { items: shown.collect(), total }
    }

    fn tasks_of(&self, agent: &AgentId) -> impl Iterator<Item = (Sequence, &Task)> {
        let agent = self.registry.find(agent).map(|key| self.registry.get(key));
        let sequences = agent.into_iter().flat_map(|agent| agent.in_flight.iter().copied());
        sequences.filter_map(|sequence| Some((sequence, self.tasks.get(sequence)?)))
    }

    /// The kind that is asked for, if one is; an error if nobody knows it.
    fn wanted_kind(&self, kind: Option<&Kind>) -> Result<Option<KindKey>, ()> {
        kind.map(|kind| self.kinds.find(kind).ok_or(())).transpose()
    }

    /// How long the oldest fetched task of each kind has waited that waits.
    pub fn oldest_waiting(&self, now: Timestamp) -> BTreeMap<Kind, Duration> {
        let mut oldest: FxHashMap<KindKey, Timestamp> = FxHashMap::default();
        for (_, task) in self.tasks.iter().filter(|(_, task)| is_so_far(task, TaskState::Waiting)) {
            let first = oldest.entry(task.demand.kind).or_insert(task.accepted);
            *first = task.accepted.min(*first);
        }
        oldest.into_iter().map(|(kind, since)| (self.kinds.get(kind).kind.clone(), now.since(since))).collect()
    }

    /// How earlier attempts of a task ended that is fetched and not settled.
    pub fn ends_of(&self, id: &TaskId) -> Vec<End> {
        let task = self.tasks.find(id).and_then(|sequence| self.tasks.get(sequence));
        task.map(|task| task.history.ends.clone()).unwrap_or_default()
    }
}
