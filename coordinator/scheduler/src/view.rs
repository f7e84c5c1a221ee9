//! What the scheduler shows of itself: the shapes of [`shared::api`].

use std::collections::BTreeMap;

use shared::api;
use shared::{AgentId, Kind, Outcome, TaskId};

use crate::config::KindConfig;
use crate::event::Sequence;
use crate::kinds::KindEntry;
use crate::registry::Agent;
use crate::tasks::{State, Task};
use crate::{Scheduler, Timestamp};

/// What waits and runs of a kind, and the settings that hold for it.
#[derive(Clone, Debug)]
pub struct QueueView {
    /// What waits and runs.
    pub queue: api::Queue,
    /// The settings, complete, as they are written.
    pub settings: KindConfig,
}

impl Scheduler {
    /// All agents, by id.
    pub fn agents(&self, now: Timestamp) -> Vec<api::Agent> {
        let mut agents: Vec<_> = self.registry.iter().map(|(_, agent)| self.show_agent(agent, now)).collect();
        agents.sort_by(|a, b| a.id.cmp(&b.id));
        agents
    }

    /// One agent.
    pub fn agent(&self, id: &AgentId, now: Timestamp) -> Option<api::Agent> {
        self.registry.find(id).map(|key| self.show_agent(self.registry.get(key), now))
    }

    /// Whether somebody has said that an agent gets no work.
    pub fn is_set_aside(&self, id: &AgentId) -> bool {
        self.config.said.agents.get(id.as_str()).is_some_and(|said| said.quarantined)
    }

    /// Tasks fetched and not settled, the oldest first.
    pub fn tasks(&self, now: Timestamp, test: impl Fn(&api::Task) -> bool, limit: usize) -> Vec<api::Task> {
        let shown = self.tasks_after(Sequence(0), now);
        shown.map(|(_, task)| task).filter(test).take(limit).collect()
    }

    /// Tasks fetched and not settled whose messages come after this one, the oldest first.
    pub fn tasks_after(&self, after: Sequence, now: Timestamp) -> impl Iterator<Item = (Sequence, api::Task)> {
        let later = self.tasks.iter().map(|(sequence, _)| sequence).filter(|sequence| *sequence > after);
        let mut sequences: Vec<Sequence> = later.collect();
        sequences.sort_unstable();
        let show = move |sequence| Some((sequence, self.show_task(self.tasks.get(sequence)?, now)));
        sequences.into_iter().filter_map(show)
    }

    /// One task that is fetched and not settled.
    pub fn task(&self, id: &TaskId, now: Timestamp) -> Option<api::Task> {
        let task = self.tasks.get(self.tasks.find(id)?)?;
        Some(self.show_task(task, now))
    }

    /// Whether the task of this message is fetched, or known to run.
    pub fn has(&self, sequence: Sequence) -> bool {
        self.tasks.get(sequence).is_some()
    }

    /// Whether an agent has the task of this message, or its outcome is being recorded.
    pub fn runs_or_ends(&self, sequence: Sequence) -> bool {
        let state = self.tasks.get(sequence).map(|task| &task.state);
        matches!(state, Some(State::Running(_) | State::Settling { .. }))
    }

    /// The message of a task that is fetched and not settled.
    pub fn sequence_of(&self, id: &TaskId) -> Option<Sequence> {
        self.tasks.find(id)
    }

    /// The agent that has a task, and the number of its attempt.
    pub fn attempt_of(&self, id: &TaskId) -> Option<(&AgentId, u32)> {
        let attempt = self.tasks.get(self.tasks.find(id)?)?.attempt()?;
        Some((&self.registry.get(attempt.agent).id, attempt.number))
    }

    /// By which strategy the agent was chosen that has a task, and with which score; unknown of one that was adopted.
    pub fn choice_of(&self, sequence: Sequence) -> Option<(crate::placement::Strategy, f64)> {
        let why = self.tasks.get(sequence)?.attempt()?.why.as_ref()?;
        Some((why.by, why.by.score(why.key)))
    }

    /// What waits and runs of each kind that is known; what is only stored is not seen from here.
    pub fn queues(&self) -> Vec<api::Queue> {
        let mut queues: Vec<_> = self.kinds.iter().map(|entry| self.show_queue(entry)).collect();
        queues.sort_by(|a, b| a.kind.cmp(&b.kind));
        queues
    }

    /// What waits and runs of a kind, known or not, and the settings that hold for it.
    pub fn queue(&self, kind: &Kind) -> QueueView {
        let known = self.kinds.find(kind).map(|key| self.kinds.get(key));
        let settings = known.map_or_else(|| self.config.kind(kind), |entry| entry.settings.clone());
        let queue = known.map(|entry| self.show_queue(entry)).unwrap_or_else(|| api::Queue {
            kind: kind.clone(),
            stored: 0,
            waiting: 0,
            running: 0,
            agents: 0,
            strategy: settings.strategy.as_str().to_owned(),
            paused: settings.paused,
        });
        QueueView { queue, settings: settings.written() }
    }

    /// Everybody whom tasks that came have named, with what holds for them.
    pub fn tenants(&self) -> Vec<api::Tenant> {
        let show = |key| {
            let tenant = self.tenants.get(key);
            api::Tenant {
                name: tenant.name.to_string(),
                weight: tenant.settings.weight,
                running: tenant.running as u64,
                max_running: tenant.settings.max_running.map(|most| most as u64),
                rate: tenant.settings.rate.map(|rate| rate.to_string()),
            }
        };
        self.tenants.keys().map(show).collect()
    }

    /// How the tasks of a kind are placed, if it is known.
    pub fn strategy_of(&self, kind: &Kind) -> Option<crate::placement::Strategy> {
        self.kinds.find(kind).map(|key| self.kinds.get(key).settings.strategy)
    }

    /// The mesh at a glance.
    pub fn status(&self, mesh: &str, instance: &str) -> api::Mesh {
        let mut agents: BTreeMap<String, u32> = BTreeMap::new();
        for (_, agent) in self.registry.iter() {
            *agents.entry(agent.state.to_string()).or_default() += 1;
        }
        let working = || self.registry.iter().filter(|(_, agent)| agent.takes_work());
        api::Mesh {
            mesh: mesh.to_owned(),
            instance: instance.to_owned(),
            leading: self.epoch().is_some(),
            epoch: self.epoch().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agents,
            slots: working().map(|(_, agent)| u64::from(agent.slots)).sum(),
            running: self.kinds.iter().map(|entry| entry.running as u64).sum(),
            waiting: self.kinds.iter().flat_map(|entry| entry.waiting).map(|n| n as u64).sum(),
            settled: Outcome::ALL.iter().map(|o| (o.to_string(), self.counters.settled[*o as usize])).collect(),
            reassigned: self.counters.reassigned,
            refused: 0,
        }
    }

    fn show_queue(&self, entry: &KindEntry) -> api::Queue {
        api::Queue {
            kind: entry.kind.clone(),
            stored: 0,
            waiting: entry.waiting.iter().map(|n| *n as u64).sum(),
            running: entry.running as u64,
            agents: entry.agents.iter().filter(|key| self.registry.get(**key).is_present()).count() as u32,
            strategy: entry.settings.strategy.as_str().to_owned(),
            paused: entry.settings.paused,
        }
    }

    pub(crate) fn show_agent(&self, agent: &Agent, now: Timestamp) -> api::Agent {
        let mut kinds: Vec<Kind> = agent.kinds.iter().map(|key| self.kinds.get(*key).kind.clone()).collect();
        kinds.sort();
        let running = agent.slots_taken();
        api::Agent {
            id: agent.id.clone(),
            state: agent.state,
            slots: agent.slots,
            running,
            queued: agent.in_flight.len() as u32 - running,
            kinds,
            labels: agent.labels.clone(),
            host: agent.host.clone(),
            version: agent.version.clone(),
            incarnation: agent.incarnation,
            beat_age_ms: now.since(agent.last_heard).as_millis() as u64,
            capacity: agent.capacity,
            reserved: agent.reserved,
            countables: agent.countables.clone(),
            countables_reserved: agent.countables_reserved.clone(),
            enforcement: agent.enforcement.clone(),
            usage: agent.usage(),
            succeeded: agent.succeeded,
            failed: agent.failed,
            kept_for: agent.kept_for.and_then(|sequence| Some(self.tasks.get(sequence)?.id.clone())),
        }
    }

    fn show_task(&self, task: &Task, now: Timestamp) -> api::Task {
        self.show_task_with(task, now, || self.why_waiting(task, now).summary)
    }

    /// The same, where somebody else says why it waits for an agent.
    pub(crate) fn show_task_with(&self, task: &Task, now: Timestamp, why: impl FnOnce() -> String) -> api::Task {
        let kind = self.kinds.get(task.demand.kind);
        let (state, reason) = match &task.state {
            State::Waiting => (api::TaskState::Waiting, Some(why())),
            State::BackingOff if kind.retries.holds_back(self.tasks.find(&task.id)) => {
                (api::TaskState::Waiting, Some(WHY_HELD_BACK.to_owned()))
            }
            State::BackingOff => (api::TaskState::Waiting, Some(why_pausing(task))),
            State::Running(_) => (api::TaskState::Running, None),
            State::Settling { .. } => (api::TaskState::Settled, None),
        };
        api::Task {
            id: task.id.clone(),
            kind: kind.kind.clone(),
            priority: Some(task.priority),
            state,
            attempts: task.attempts,
            agent: task.last_agent.as_ref().map(ToString::to_string),
            age_ms: Some(now.since(task.accepted).as_millis() as u64),
            outcome: None,
            reason,
            queued_ms: task.attempt().map(|attempt| attempt.started.since(task.accepted).as_millis() as u64),
            alone: task.demand.alone,
            run_ms: task.attempt().map(|attempt| now.since(attempt.started).as_millis() as u64),
            progress: None,
        }
    }
}

/// Why a task that has failed before waits although its pause is over.
pub(crate) const WHY_HELD_BACK: &str = "its next attempt waits: tasks of its kind that have not failed go first \
                             (`retry-share` of the kind)";

/// What came before the next attempt, in words.
pub(crate) fn why_pausing(task: &Task) -> String {
    match task.history.last_error() {
        Some(error) => format!("next attempt after: {error}"),
        None => "next attempt after: its agent would not take it".to_owned(),
    }
}
