//! What a test can wait for.

use shared::TaskId;
use shared::api::{self, AgentState, TaskState};

use crate::Mesh;

/// Something that the mesh may come to.
pub trait State {
    /// What is known once it has come.
    type Reached;

    /// The state in words, for the message of one that does not come.
    fn describe(&self) -> String;

    /// Looks whether it has come; the error is what is there instead.
    fn look(&self, mesh: &Mesh) -> impl Future<Output = Result<Self::Reached, String>>;
}

/// A task, to be waited for.
pub fn task(id: &TaskId) -> Task {
    Task(id.clone())
}

/// An agent, to be waited for.
pub fn agent(id: &str) -> Agent {
    Agent(id.to_owned())
}

/// The tasks of a kind that the coordinator has fetched, to be waited for.
pub fn queue(kind: &str) -> Queue {
    Queue(kind.to_owned())
}

/// At least so many results are recorded.
pub fn results(count: u64) -> Count {
    Count { stream: "RESULTS", count, at_least: true }
}

/// Exactly so many tasks are in the stream, whoever has them.
pub fn tasks(count: u64) -> Count {
    Count { stream: "TASKS", count, at_least: false }
}

/// At least so many dead letters are kept.
pub fn dead_letters(count: u64) -> Count {
    Count { stream: "DEAD", count, at_least: true }
}

/// One of the coordinators leads; what it comes to is its place in the list.
pub fn leader() -> Leader {
    Leader
}

/// A state of one's own: what it is called, and how to look whether it has come.
pub fn that<T, F: AsyncFn(&Mesh) -> Result<T, String>>(what: &str, look: F) -> That<F> {
    That { what: what.to_owned(), look }
}

/// See [`task`].
#[derive(Clone, Debug)]
pub struct Task(TaskId);

impl Task {
    /// It waits at the coordinator.
    pub fn waiting(self) -> TaskIs {
        TaskIs { id: self.0, state: TaskState::Waiting, agent: None }
    }

    /// It is in the stream, and the coordinator has not fetched it.
    pub fn queued(self) -> TaskIs {
        TaskIs { id: self.0, state: TaskState::Queued, agent: None }
    }

    /// An agent has it.
    pub fn running(self) -> TaskIs {
        TaskIs { id: self.0, state: TaskState::Running, agent: None }
    }

    /// This agent has it.
    pub fn running_on(self, agent: &str) -> TaskIs {
        TaskIs { id: self.0, state: TaskState::Running, agent: Some(agent.to_owned()) }
    }

    /// Its outcome is recorded.
    pub fn settled(self) -> TaskIs {
        TaskIs { id: self.0, state: TaskState::Settled, agent: None }
    }
}

/// A task is so far.
#[derive(Clone, Debug)]
pub struct TaskIs {
    id: TaskId,
    state: TaskState,
    agent: Option<String>,
}

impl State for TaskIs {
    type Reached = api::Task;

    fn describe(&self) -> String {
        let on = self.agent.as_ref().map(|agent| format!(" on {agent}")).unwrap_or_default();
        format!("that task {} is {}{on}", self.id, self.state)
    }

    async fn look(&self, mesh: &Mesh) -> Result<api::Task, String> {
        let task = mesh.look_at_task(&self.id).await?;
        let is_there = task.state == self.state && (self.agent.is_none() || task.agent == self.agent);
        if is_there { Ok(task) } else { Err(format!("{task:?}")) }
    }
}

/// See [`agent`].
#[derive(Clone, Debug)]
pub struct Agent(String);

impl Agent {
    /// It beats, and gets work.
    pub fn healthy(self) -> AgentIs {
        self.is(AgentState::Healthy)
    }

    /// It has left, or is lost.
    pub fn offline(self) -> AgentIs {
        self.is(AgentState::Offline)
    }

    /// It is in this state.
    pub fn is(self, state: AgentState) -> AgentIs {
        AgentIs { id: self.0, state }
    }

    /// It has so many attempts in its slots and its queue.
    pub fn holds(self, attempts: u32) -> AgentHolds {
        AgentHolds { id: self.0, attempts }
    }
}

async fn look_at_agent(mesh: &Mesh, id: &str) -> Result<api::Agent, String> {
    let agents = mesh.look_at_agents().await?;
    agents.into_iter().find(|agent| agent.id.as_str() == id).ok_or_else(|| "nobody has heard of it".to_owned())
}

/// An agent is in a state.
#[derive(Clone, Debug)]
pub struct AgentIs {
    id: String,
    state: AgentState,
}

impl State for AgentIs {
    type Reached = api::Agent;

    fn describe(&self) -> String {
        format!("that agent {} is {}", self.id, self.state)
    }

    async fn look(&self, mesh: &Mesh) -> Result<api::Agent, String> {
        let agent = look_at_agent(mesh, &self.id).await?;
        if agent.state == self.state { Ok(agent) } else { Err(format!("{agent:?}")) }
    }
}

/// An agent has so many attempts.
#[derive(Clone, Debug)]
pub struct AgentHolds {
    id: String,
    attempts: u32,
}

impl State for AgentHolds {
    type Reached = api::Agent;

    fn describe(&self) -> String {
        format!("that agent {} has {} attempts", self.id, self.attempts)
    }

    async fn look(&self, mesh: &Mesh) -> Result<api::Agent, String> {
        let agent = look_at_agent(mesh, &self.id).await?;
        if agent.running + agent.queued == self.attempts { Ok(agent) } else { Err(format!("{agent:?}")) }
    }
}

/// See [`queue`].
#[derive(Clone, Debug)]
pub struct Queue(String);

impl Queue {
    /// So many of them are with agents, and so many wait for one.
    pub fn has(self, running: u64, waiting: u64) -> QueueHas {
        QueueHas { kind: self.0, running, waiting }
    }
}

/// So many tasks of a kind run and wait.
#[derive(Clone, Debug)]
pub struct QueueHas {
    kind: String,
    running: u64,
    waiting: u64,
}

impl State for QueueHas {
    type Reached = api::Queue;

    fn describe(&self) -> String {
        format!("that {} of `{}` run and {} wait", self.running, self.kind, self.waiting)
    }

    async fn look(&self, mesh: &Mesh) -> Result<api::Queue, String> {
        let queue = mesh.look_at_queue(&self.kind).await?.queue;
        let is_there = (queue.running, queue.waiting) == (self.running, self.waiting);
        if is_there { Ok(queue) } else { Err(format!("{queue:?}")) }
    }
}

/// A stream holds so many messages.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    stream: &'static str,
    count: u64,
    at_least: bool,
}

impl State for Count {
    type Reached = u64;

    fn describe(&self) -> String {
        let words = if self.at_least { "at least" } else { "exactly" };
        format!("that HIVE_{} holds {words} {}", self.stream, self.count)
    }

    async fn look(&self, mesh: &Mesh) -> Result<u64, String> {
        let count = mesh.count(self.stream).await?;
        let reached = if self.at_least { count >= self.count } else { count == self.count };
        if reached { Ok(count) } else { Err(format!("it holds {count}")) }
    }
}

/// See [`leader`].
#[derive(Clone, Copy, Debug)]
pub struct Leader;

impl State for Leader {
    type Reached = usize;

    fn describe(&self) -> String {
        "that a coordinator leads".to_owned()
    }

    async fn look(&self, mesh: &Mesh) -> Result<usize, String> {
        let mut answers = Vec::new();
        for index in 0..mesh.coordinator_count() {
            let Some(url) = mesh.http_of(index) else { continue };
            match get(&format!("{url}/readyz")).await {
                Ok(said) if said.starts_with("leading") => return Ok(index),
                Ok(said) | Err(said) => answers.push(said),
            }
        }
        Err(answers.join(", "))
    }
}

async fn get(url: &str) -> Result<String, String> {
    let answer = reqwest::get(url).await.map_err(|error| error.to_string())?;
    answer.text().await.map_err(|error| error.to_string())
}

/// See [`that`].
#[derive(Clone, Debug)]
pub struct That<F> {
    what: String,
    look: F,
}

impl<T, F: AsyncFn(&Mesh) -> Result<T, String>> State for That<F> {
    type Reached = T;

    fn describe(&self) -> String {
        self.what.clone()
    }

    async fn look(&self, mesh: &Mesh) -> Result<T, String> {
        (self.look)(mesh).await
    }
}
