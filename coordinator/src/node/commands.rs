//! What the rest of the process asks of the coordinator's loop, and what its helpers report to it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use scheduler::{Event, Figures, History, Scheduler, Sequence, Timestamp};
use shared::api::logs::TaskProgress;
use shared::api::{self, Refusal};
use shared::message::{AttemptRef, Follow};
use shared::subject::InboxVerb;
use shared::{AgentId, Epoch, Kind, TaskId};
use tokio::sync::{mpsc, oneshot, watch};

use super::Node;
use super::lanes::LaneFigures;
use crate::metrics::Counts;
use crate::store::{Store, Stored};
use crate::{alerts, scale};

/// Looks at the scheduler and sends what it saw.
type Look = Box<dyn FnOnce(&Scheduler, Timestamp) + Send>;

/// Something for the coordinator's loop to do.
pub enum Command {
    /// Let somebody look at the scheduler.
    Look(Look),
    /// Say how much there is of everything, and what has been counted.
    Read(oneshot::Sender<Box<Reading>>),
    /// A lane's consumer is there.
    LaneReady(String),
    /// A message was read from the stream that no lane delivers.
    TakeIn(Stored),
    /// An attempt's end is recorded although nobody here knew of it.
    Confirm(AgentId, AttemptRef),
    /// These tasks have results, and all others had none when they were listed in this reign and so many messages had come
    /// into the task stream.
    ResultsKnown(Epoch, Vec<TaskId>, u64),
    /// How attempts ended under leaders before.
    HistoriesKnown(Epoch, Vec<(Sequence, History)>),
    /// End a task that is fetched; answers whether it was.
    Cancel(TaskId, oneshot::Sender<bool>),
    /// End a task that was read from the stream for it.
    CancelStored(Stored, oneshot::Sender<()>),
    /// End every task of a kind that is fetched and does not run; answers which.
    Purge(Kind, oneshot::Sender<Vec<Sequence>>),
    /// End a task that was read from the stream because its kind is purged, unless it runs; answers whether it was.
    PurgeStored(Stored, oneshot::Sender<bool>),
    /// Tell the scheduler something.
    Happen(Box<Event>),
    /// Let somebody ask about the pools of agents, or change them.
    Scale(scale::Ask),
    /// Let somebody look into the book of alerts, or change it.
    Alerts(alerts::Ask),
    /// Let an agent finish and leave.
    Drain(AgentId, oneshot::Sender<()>),
    /// Tell how far the attempt is that runs of a task.
    Progress(TaskId, oneshot::Sender<Option<TaskProgress>>),
    /// Have an agent tell what an attempt writes.
    Follow(AgentId, Follow),
    /// Stop working.
    Stop(oneshot::Sender<()>),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::Look(_) => "Look",
            Command::Read(_) => "Read",
            Command::LaneReady(_) => "LaneReady",
            Command::TakeIn(_) => "TakeIn",
            Command::Confirm(..) => "Confirm",
            Command::ResultsKnown(..) => "ResultsKnown",
            Command::HistoriesKnown(..) => "HistoriesKnown",
            Command::Cancel(..) => "Cancel",
            Command::CancelStored(..) => "CancelStored",
            Command::Purge(..) => "Purge",
            Command::PurgeStored(..) => "PurgeStored",
            Command::Happen(_) => "Happen",
            Command::Scale(_) => "Scale",
            Command::Alerts(_) => "Alerts",
            Command::Drain(..) => "Drain",
            Command::Progress(..) => "Progress",
            Command::Follow(..) => "Follow",
            Command::Stop(_) => "Stop",
        })
    }
}

impl Node {
    pub(super) async fn on_command(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Look(look) => look(&self.scheduler, self.clock.now()),
            // Who asked may have given up.
            Command::Read(answer) => drop(answer.send(Box::new(self.read()))),
            Command::LaneReady(name) => {
                if let Some(reign) = &mut self.reign {
                    reign.lanes.ready(&name);
                }
            }
            Command::TakeIn(stored) => self.on_fetched(stored, false).await,
            Command::HistoriesKnown(epoch, histories) => {
                if self.scheduler.epoch() == Some(epoch) {
                    self.tell_scheduler(Event::HistoriesKnown(histories));
                }
            }
            Command::Confirm(agent, attempt) => self.settled.entry(agent).or_default().push(attempt),
            Command::ResultsKnown(epoch, ids, last) => self.on_results_known(epoch, &ids, last),
            Command::Cancel(id, answer) => {
                let sequence = self.scheduler.sequence_of(&id);
                if let Some(sequence) = sequence {
                    self.tell_scheduler(Event::TaskCancelled(sequence));
                }
                let _ = answer.send(sequence.is_some());
            }
            Command::CancelStored(stored, answer) => {
                self.cancel_stored(stored).await;
                let _ = answer.send(());
            }
            Command::Purge(kind, answer) => {
                let purged = self.scheduler.unrun_of(&kind);
                self.tell_scheduler(Event::KindPurged(kind));
                let _ = answer.send(purged);
            }
            Command::PurgeStored(stored, answer) => {
                let is_left = self.scheduler.runs_or_ends(Sequence(stored.sequence));
                if !is_left {
                    self.cancel_stored(stored).await;
                }
                let _ = answer.send(!is_left);
            }
            Command::Happen(event) => self.tell_scheduler(*event),
            // Whoever asks is told by what he gets no answer from that nobody is there.
            Command::Scale(ask) => drop(self.scaling.send(ask)),
            // If nobody is there, whoever asks is told so by what is dropped.
            Command::Alerts(ask) => drop(self.alerting.send(ask)),
            Command::Drain(agent, answer) => {
                self.tell_scheduler(Event::AgentDrained(agent));
                let _ = answer.send(());
            }
            Command::Progress(id, answer) => drop(answer.send(self.progress_of(&id))),
            Command::Follow(agent, follow) => self.tell_agent(&agent, InboxVerb::Follow, &follow).await,
            Command::Stop(answer) => {
                self.supervisor.stopping();
                self.finish_turn().await;
                let _ = answer.send(());
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes a task in and ends it.
    async fn cancel_stored(&mut self, stored: Stored) {
        let sequence = Sequence(stored.sequence);
        self.on_fetched(stored, true).await;
        // It may have been fetched since it was looked for: then the scheduler has it, or it is looked up.
        if let Some(envelope) = self.reign.as_mut().and_then(|reign| reign.envelopes.get_mut(&sequence)) {
            envelope.cancel_wanted = true;
        }
        self.tell_scheduler(Event::TaskCancelled(sequence));
    }

    /// How much there is of everything, and what has been counted.
    fn read(&self) -> Reading {
        Reading {
            figures: self.scheduler.figures(self.clock.now()),
            counts: self.counts.clone(),
            lanes: self.reign.as_ref().map(|reign| reign.lanes.figures()).unwrap_or_default(),
            lease: self.reign.as_ref().map(|reign| reign.lease_until.saturating_duration_since(Instant::now())),
        }
    }

    fn on_results_known(&mut self, epoch: Epoch, ids: &[TaskId], last: u64) {
        if let Some(reign) = &mut self.reign
            && self.scheduler.epoch() == Some(epoch)
        {
            ids.iter().for_each(|id| reign.known.insert(id.as_str()));
            reign.inherited = last;
            reign.known_complete = true;
        }
    }
}

/// What the loop says of itself in numbers.
#[derive(Debug)]
pub struct Reading {
    pub(crate) figures: Figures,
    pub(crate) counts: Counts,
    pub(crate) lanes: LaneFigures,
    /// For how long the lease is still ours, if it is.
    pub(crate) lease: Option<Duration>,
}

/// Reaches the coordinator's loop from elsewhere in the process.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<api::Mesh>,
}

impl Handle {
    pub(super) fn new(commands: mpsc::Sender<Command>, status: watch::Receiver<api::Mesh>) -> Self {
        Self { commands, status }
    }

    /// The mesh at a glance, at most a quarter of a second old.
    pub fn status(&self) -> api::Mesh {
        self.status.borrow().clone()
    }

    /// Whether this coordinator leads.
    pub fn leads(&self) -> bool {
        self.status.borrow().leading
    }

    /// The mesh at a glance, for who waits for it to change.
    pub(crate) fn watch(&self) -> watch::Receiver<api::Mesh> {
        self.status.clone()
    }

    /// Looks at the scheduler.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Scheduler, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (send, receive) = oneshot::channel();
        let look: Look = Box::new(move |scheduler, now| drop(send.send(look(scheduler, now))));
        self.send(Command::Look(look)).await?;
        receive.await.map_err(|_| stopping())
    }

    /// How much there is of everything, and what has been counted.
    pub(crate) async fn read(&self) -> Result<Box<Reading>, Refusal> {
        let (answer, reading) = oneshot::channel();
        self.send(Command::Read(answer)).await?;
        reading.await.map_err(|_| stopping())
    }

    /// A task, wherever it is: at the coordinator, in the stream, or among the results.
    pub async fn task(&self, store: &Store, id: TaskId) -> Result<api::Task, Refusal> {
        let wanted = id.clone();
        let held = self.look(move |scheduler, now| scheduler.task(&wanted, now)).await?;
        if let Some(task) = held.as_ref().filter(|task| task.state != api::TaskState::Settled) {
            let runs = task.state == api::TaskState::Running;
            let progress = if runs { self.progress(id).await? } else { None };
            return Ok(api::Task { progress, ..task.clone() });
        }
        if let Some(result) = store.result(&id).await.map_err(|e| unavailable(&e))? {
            return Ok(settled_task(&id, &result));
        }
        // Its result is on its way into the stream.
        if let Some(task) = held {
            return Ok(task);
        }
        if let Some(stored) = store.queued_by_id(&id).await.map_err(|e| unavailable(&e))? {
            return Ok(queued_task(&id, &stored));
        }
        Err(Refusal { error: format!("there is no task `{id}`, and no result of one"), code: 404 })
    }

    /// How far the attempt is that runs of a task, if its handler reports it.
    async fn progress(&self, id: TaskId) -> Result<Option<TaskProgress>, Refusal> {
        let (answer, known) = oneshot::channel();
        self.send(Command::Progress(id, answer)).await?;
        known.await.map_err(|_| stopping())
    }

    /// Has an agent tell what an attempt writes.
    pub(crate) async fn follow(&self, agent: AgentId, follow: Follow) -> Result<(), Refusal> {
        self.send(Command::Follow(agent, follow)).await
    }

    /// Ends a task, wherever it is.
    pub async fn cancel(&self, store: &Store, id: TaskId) -> Result<api::Task, Refusal> {
        let (answer, known) = oneshot::channel();
        self.send(Command::Cancel(id.clone(), answer)).await?;
        if !known.await.map_err(|_| stopping())?
            && let Some(stored) = store.queued_by_id(&id).await.map_err(|e| unavailable(&e))?
        {
            let (answer, done) = oneshot::channel();
            self.send(Command::CancelStored(stored, answer)).await?;
            done.await.map_err(|_| stopping())?;
        }
        self.task(store, id).await
    }

    /// Lets an agent finish and leave.
    pub async fn drain(&self, id: AgentId) -> Result<api::Agent, Refusal> {
        let (answer, done) = oneshot::channel();
        self.send(Command::Drain(id.clone(), answer)).await?;
        done.await.map_err(|_| stopping())?;
        self.agent(id).await
    }

    /// Ends every task of a kind that is fetched and does not run; answers how many.
    pub(crate) async fn purge(&self, kind: Kind) -> Result<Vec<Sequence>, Refusal> {
        let (answer, purged) = oneshot::channel();
        self.send(Command::Purge(kind, answer)).await?;
        purged.await.map_err(|_| stopping())
    }

    /// Ends a task that was read from the stream, unless it runs or is on its way to its end; answers whether it was.
    pub(crate) async fn purge_stored(&self, stored: Stored) -> Result<bool, Refusal> {
        let (answer, purged) = oneshot::channel();
        self.send(Command::PurgeStored(stored, answer)).await?;
        purged.await.map_err(|_| stopping())
    }

    /// Tells the scheduler something.
    pub(crate) async fn happen(&self, event: Event) -> Result<(), Refusal> {
        self.send(Command::Happen(Box::new(event))).await
    }

    /// Asks about the pools of agents, or changes them.
    pub(crate) async fn scale<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut scale::Pools) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (send, receive) = oneshot::channel();
        self.send(Command::Scale(Box::new(move |pools| drop(send.send(ask(pools)))))).await?;
        receive.await.map_err(|_| stopping())
    }

    /// Looks into the book of alerts, or changes it; only the leader has one. What was changed is kept when this returns.
    pub(crate) async fn alerts<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut alerts::Book, Timestamp) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (send, receive) = oneshot::channel();
        let ask: alerts::Ask = Box::new(move |book, now| {
            let answer = ask(book, now);
            let reply: alerts::Reply = Box::new(move |kept| drop(send.send(kept.and(answer))));
            reply
        });
        self.send(Command::Alerts(ask)).await?;
        let no_leader = || "this coordinator does not look after alerts now: ask the leader, in a moment".to_owned();
        receive.await.map_err(|_| Refusal { error: no_leader(), code: 503 })?
    }

    /// Why a task is where it is, wherever that is.
    pub async fn why(&self, store: &Store, id: TaskId) -> Result<api::Explanation, Refusal> {
        let wanted = id.clone();
        if let Some(known) = self.look(move |scheduler, now| scheduler.why(&wanted, now)).await? {
            return Ok(known);
        }
        if let Some(result) = store.result(&id).await.map_err(|e| unavailable(&e))? {
            let task = settled_task(&id, &result);
            let outcome = task.outcome.map_or("settled", |outcome| outcome.as_str());
            let agent = task.agent.map(|agent| format!(" on {agent}")).unwrap_or_default();
            let summary = format!("it is {outcome}{agent}; why that agent was chosen is not remembered any more");
            return Ok(api::Explanation { summary, ..api::Explanation::default() });
        }
        match store.queued_by_id(&id).await.map_err(|e| unavailable(&e))? {
            Some(stored) => self.why_queued(&id, &stored).await,
            None => Err(Refusal { error: format!("there is no task `{id}`, and no result of one"), code: 404 }),
        }
    }

    /// Why a task waits that is in the stream still: what would keep it from an agent if it were fetched.
    async fn why_queued(&self, id: &TaskId, stored: &Stored) -> Result<api::Explanation, Refusal> {
        let kind = queued_task(id, stored).kind;
        let options = shared::TaskOptions::parse(|name| stored.headers.get(name).map(async_nats::HeaderValue::as_str));
        let options = options.unwrap_or_default();
        let mut would = self.look(move |scheduler, now| scheduler.why_would(&kind, &options, now)).await?;
        would.summary =
            format!("it has not been fetched yet: others stand before it; as things are, {}", would.summary);
        Ok(would)
    }

    /// One agent.
    pub async fn agent(&self, id: AgentId) -> Result<api::Agent, Refusal> {
        let wanted = id.clone();
        let found = self.look(move |scheduler, now| scheduler.agent(&wanted, now)).await?;
        found.ok_or_else(|| Refusal { error: format!("there is no agent `{id}`"), code: 404 })
    }

    /// Stops the loop.
    pub async fn stop(&self) {
        let (answer, done) = oneshot::channel();
        if self.send(Command::Stop(answer)).await.is_ok() {
            let _ = done.await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), Refusal> {
        self.commands.send(command).await.map_err(|_| stopping())
    }
}

fn stopping() -> Refusal {
    Refusal { error: "the coordinator is stopping".to_owned(), code: 503 }
}

/// What could not be read from a stream.
pub(crate) fn unavailable(error: &crate::store::StoreError) -> Refusal {
    Refusal { error: crate::chain(error), code: 503 }
}

pub(crate) fn settled_task(id: &TaskId, stored: &Stored) -> api::Task {
    let result = shared::client::TaskResult::parse(Some(&stored.headers), stored.body.clone());
    let kind = result.as_ref().and_then(|r| shared::Kind::new(&r.kind).ok());
    api::Task {
        id: id.clone(),
        kind: kind.unwrap_or_else(|| shared::Kind::new("unknown").expect("it is a good name")),
        priority: None,
        state: api::TaskState::Settled,
        attempts: result.as_ref().map_or(0, |r| r.attempts),
        agent: result.as_ref().and_then(|r| r.agent.clone()),
        age_ms: None,
        outcome: result.as_ref().map(|r| r.outcome),
        reason: result.as_ref().and_then(|r| r.error.clone()),
        alone: false,
        queued_ms: result.as_ref().map(|r| r.queued.as_millis() as u64),
        run_ms: result.as_ref().map(|r| r.run.as_millis() as u64),
        progress: None,
    }
}

pub(crate) fn queued_task(id: &TaskId, stored: &Stored) -> api::Task {
    let mut tokens = stored.subject.split('.').skip(2);
    let kind = tokens.next().and_then(|kind| shared::Kind::new(kind).ok());
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    api::Task {
        id: id.clone(),
        kind: kind.unwrap_or_else(|| shared::Kind::new("unknown").expect("it is a good name")),
        priority: tokens.next().map_or(Some(shared::Priority::Normal), |priority| priority.parse().ok()),
        state: api::TaskState::Queued,
        attempts: 0,
        agent: None,
        age_ms: Some(since_1970.saturating_sub(stored.stored).as_millis() as u64),
        outcome: None,
        reason: Some(
            "the coordinator has not fetched it yet: it stands behind others, or no agent can do its kind".to_owned(),
        ),
        alone: false,
        queued_ms: None,
        run_ms: None,
        progress: None,
    }
}
