//! The control service: a NATS micro service on `<mesh>.api.<noun>.<verb>`, as `nats micro ls` shows it.
//!
//! Requests and answers are JSON, in the shapes of [`shared::api`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::service::{Service, ServiceExt as _, endpoint::Endpoint, error::Error as ServiceError};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::api::{ById, List, Mesh, Queue, Refusal, TaskState};
use shared::connect::Counters;
use shared::subject::{Subjects, TaskSubject};
use shared::{AgentId, Client, Kind, TaskId};
use tokio::sync::mpsc;

use crate::dead::DeadLetters;
use crate::node::{Command, Handle};
use crate::recommend;
use crate::settings::{self, Scope};
use crate::store::{Config, Store};

/// An operation of the service.
#[derive(Clone, Copy, Debug)]
enum Operation {
    MeshStatus,
    AgentList,
    AgentGet,
    AgentDrain,
    QueueList,
    QueueGet,
    QueueSet,
    TenantList,
    TenantSet,
    ResourceList,
    ResourceRecommend,
    ResourceApply,
    TaskList,
    TaskGet,
    TaskWhy,
    TaskCancel,
    DeadList,
    DeadGet,
    DeadReplay,
    DeadDiscard,
}

impl Operation {
    const ALL: [(Operation, &'static str, &'static str); 20] = [
        (Operation::MeshStatus, "mesh", "status"),
        (Operation::AgentList, "agent", "list"),
        (Operation::AgentGet, "agent", "get"),
        (Operation::AgentDrain, "agent", "drain"),
        (Operation::QueueList, "queue", "list"),
        (Operation::QueueGet, "queue", "get"),
        (Operation::QueueSet, "queue", "set"),
        (Operation::TenantList, "tenant", "list"),
        (Operation::TenantSet, "tenant", "set"),
        (Operation::ResourceList, "resource", "list"),
        (Operation::ResourceRecommend, "resource", "recommend"),
        (Operation::ResourceApply, "resource", "apply"),
        (Operation::TaskList, "task", "list"),
        (Operation::TaskGet, "task", "get"),
        (Operation::TaskWhy, "task", "why"),
        (Operation::TaskCancel, "task", "cancel"),
        (Operation::DeadList, "dead", "list"),
        (Operation::DeadGet, "dead", "get"),
        (Operation::DeadReplay, "dead", "replay"),
        (Operation::DeadDiscard, "dead", "discard"),
    ];
}

/// Which tasks `task.list` shows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TaskFilter {
    kind: Option<Kind>,
    state: Option<TaskState>,
    limit: Option<usize>,
}

/// What is to be changed of a kind or a tenant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    id: String,
    settings: serde_json::Value,
}

/// Most things that one list holds.
const LIST_LIMIT: usize = 1000;

/// Starts the service; it ends when what is returned is dropped.
pub async fn start(
    nats: &async_nats::Client,
    subjects: &Subjects,
    instance: &str,
    commands: mpsc::Sender<Command>,
    counters: &Arc<Counters>,
) -> anyhow::Result<Service> {
    let service = nats
        .service_builder()
        .description("Hivemesh: tasks, agents, queues, dead letters")
        .start(format!("{}-api", subjects.mesh()), env!("CARGO_PKG_VERSION"))
        .await
        .map_err(|e| anyhow::anyhow!(e).context("failed to start the control service"))?;
    let handle = Handle::from_sender(commands);
    let store = Store::new(nats.clone(), subjects.clone(), Config::default());
    let dead = DeadLetters::new(store.clone(), Client::new(nats.clone(), subjects.mesh().clone()));
    for (operation, noun, verb) in Operation::ALL {
        let endpoint = service
            .endpoint_builder()
            .name(format!("{noun}-{verb}"))
            .add(subjects.api(noun, verb))
            .await
            .map_err(|e| anyhow::anyhow!(e).context("failed to start the control service"))?;
        let answering = Answering {
            handle: handle.clone(),
            store: store.clone(),
            dead: dead.clone(),
            subjects: subjects.clone(),
            instance: instance.to_owned(),
            counters: counters.clone(),
        };
        tokio::spawn(answering.answer_all(operation, endpoint));
    }
    Ok(service)
}

/// Answers requests.
#[derive(Clone)]
struct Answering {
    handle: Handle,
    store: Store,
    dead: DeadLetters,
    subjects: Subjects,
    instance: String,
    counters: Arc<Counters>,
}

impl Answering {
    async fn answer_all(self, operation: Operation, mut endpoint: Endpoint) {
        while let Some(request) = endpoint.next().await {
            let answering = self.clone();
            // One slow look into a stream does not hold up the next request.
            tokio::spawn(async move {
                let answer = answering.answer(operation, &request.message.payload).await;
                let answer = answer.map_err(|refusal| ServiceError {
                    status: shared::header::clean(&refusal.error, shared::header::MAX_ERROR_BYTES),
                    code: usize::from(refusal.code),
                });
                let _ = request.respond(answer).await;
            });
        }
    }

    async fn answer(&self, operation: Operation, body: &[u8]) -> Result<Bytes, Refusal> {
        match operation {
            Operation::MeshStatus => {
                let (mesh, instance) = (self.subjects.mesh().to_string(), self.instance.clone());
                let status = self.handle.look(move |scheduler, _| scheduler.status(&mesh, &instance)).await?;
                json(&Mesh { refused: self.counters.violations.load(Ordering::Relaxed), ..status })
            }
            Operation::AgentList => json(&List { items: self.handle.look(scheduler::Scheduler::agents).await? }),
            Operation::AgentGet => json(&self.handle.agent(agent_id(body)?).await?),
            Operation::AgentDrain => {
                let id = agent_id(body)?;
                self.handle.agent(id.clone()).await?;
                json(&self.handle.drain(id).await?)
            }
            Operation::QueueList => json(&List { items: self.queues().await? }),
            Operation::QueueGet => json(&queue(&self.handle, read::<ById>(body)?.id).await?),
            Operation::QueueSet => {
                let Change { id, settings } = read(body)?;
                json(&settings::change(&self.store, Scope::Kind, &id, settings).await?)
            }
            Operation::TenantList => json(&List { items: self.handle.look(|s, _| s.tenants()).await? }),
            Operation::TenantSet => {
                let Change { id, settings } = read(body)?;
                json(&settings::change(&self.store, Scope::Tenant, &id, settings).await?)
            }
            Operation::ResourceList => json(&self.handle.look(scheduler::Scheduler::resource_use).await?),
            Operation::ResourceRecommend => {
                json(&List { items: self.handle.look(scheduler::Scheduler::recommendations).await? })
            }
            Operation::ResourceApply => json(&recommend::apply(&self.handle, &self.store, read(body)?).await?),
            Operation::TaskList => {
                let filter: TaskFilter = read_or_default(body)?;
                let limit = filter.limit.unwrap_or(LIST_LIMIT).min(LIST_LIMIT);
                let test = move |task: &shared::api::Task| {
                    filter.kind.as_ref().is_none_or(|kind| *kind == task.kind)
                        && filter.state.is_none_or(|state| state == task.state)
                };
                let items = self.handle.look(move |scheduler, now| scheduler.tasks(now, test, limit)).await?;
                json(&List { items })
            }
            Operation::TaskGet => json(&self.handle.task(&self.store, task_id(body)?).await?),
            Operation::TaskWhy => json(&self.handle.why(&self.store, task_id(body)?).await?),
            Operation::TaskCancel => json(&self.handle.cancel(&self.store, task_id(body)?).await?),
            Operation::DeadList => json(&self.dead.list(&read_or_default(body)?).await?),
            Operation::DeadGet => json(&self.dead.get(&read(body)?).await?),
            Operation::DeadReplay => json(&self.dead.replay(&read(body)?).await?),
            Operation::DeadDiscard => json(&self.dead.discard(&read(body)?).await?),
        }
    }

    /// What the scheduler knows of each kind, and what the stream holds of it, known or not.
    async fn queues(&self) -> Result<Vec<Queue>, Refusal> {
        let known = self.handle.look(|scheduler, _| scheduler.queues()).await?;
        let mut queues: BTreeMap<Kind, Queue> = known.into_iter().map(|q| (q.kind.clone(), q)).collect();
        let (stream, filter) = (self.subjects.tasks_stream(), self.subjects.all_tasks());
        let counts =
            self.store.subject_counts(stream, filter, usize::MAX).await.map_err(|e| crate::node::unavailable(&e))?;
        for (subject, count) in counts {
            let Ok(TaskSubject { kind, .. }) = TaskSubject::parse(&self.subjects, &subject) else { continue };
            let queue = queues.entry(kind.clone()).or_insert_with(|| Queue {
                kind,
                stored: 0,
                waiting: 0,
                running: 0,
                agents: 0,
                strategy: String::new(),
            });
            queue.stored += count as u64;
        }
        Ok(queues.into_values().collect())
    }
}

/// What waits and runs of a kind, and the settings that hold for it.
pub(crate) async fn queue(handle: &Handle, kind: String) -> Result<shared::api::QueueSettings, Refusal> {
    let kind = Kind::new(kind).map_err(|e| Refusal { error: e.to_string(), code: 400 })?;
    let settings = handle.look(move |scheduler, _| scheduler.queue(&kind)).await?;
    serde_json::to_value(settings.settings)
        .map(|shown| shared::api::QueueSettings { queue: settings.queue, settings: shown })
        .map_err(|e| Refusal { error: e.to_string(), code: 500 })
}

fn json<T: Serialize>(answer: &T) -> Result<Bytes, Refusal> {
    serde_json::to_vec(answer).map(Into::into).map_err(|e| Refusal { error: e.to_string(), code: 500 })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let problem =
        |e: serde_json::Error| Refusal { error: format!("the request is not the JSON expected: {e}"), code: 400 };
    serde_json::from_slice(body).map_err(problem)
}

fn read_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() { Ok(T::default()) } else { read(body) }
}

fn task_id(body: &[u8]) -> Result<TaskId, Refusal> {
    TaskId::new(read::<ById>(body)?.id).map_err(|e| Refusal { error: e.to_string(), code: 400 })
}

fn agent_id(body: &[u8]) -> Result<AgentId, Refusal> {
    AgentId::new(read::<ById>(body)?.id).map_err(|e| Refusal { error: e.to_string(), code: 400 })
}
