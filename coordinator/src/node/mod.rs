//! A coordinator at work: one loop that hands what happens to the scheduler and carries out what it orders.
//!
//! Everything that arrives for the loop arrives as a message of one of three subscriptions, a command of this
//! process, or a deadline. Nothing in the loop waits for an answer: what has to be answered (records, acks,
//! probes, look-ups) is published with a reply subject in the coordinator's own inbox that says what it was about,
//! and is tried again if the answer stays out.

mod agents;
mod answers;
mod commands;
mod envelope;
mod history;
mod known;
mod lanes;
mod progress;
mod records;
mod settle;
mod tasks;
mod traces;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use rustc_hash::FxHashMap;
use scheduler::{Action, Actions, Event, Notice, Scheduler, Sequence, Timestamp};
use shared::codec::Format;
use shared::connect::Counters;
use shared::message::AttemptRef;
use shared::subject::{InboxVerb, Subjects};
use shared::supervisor::Supervisor;
use shared::{AgentId, Epoch, Kind};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

pub use commands::{Command, Handle, Reading};
pub(crate) use commands::{queued_task, settled_task, unavailable};

use crate::api::Services;
use crate::metrics::Counts;
use crate::store::Store;
use crate::{alerts, lease, scale};
use envelope::{Envelope, Stage};
use history::Unremembered;
use known::KnownIds;
use lanes::{Keeper, Lanes};
use progress::Board;
use records::Records;

/// Messages taken at once from a subscription before orders are carried out.
const TURN: usize = 256;

/// How long an answer may stay out before the question is put again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often what is slow to change is looked at: kinds, stuck lanes, held messages.
const MAINTENANCE: Duration = Duration::from_millis(250);

/// How long a kind is fetched that nobody can do any more.
const LINGER: Duration = Duration::from_secs(10);

/// How often we send a message to ourselves, to see whether our link is well.
const CANARY: Duration = Duration::from_millis(100);

/// How long a coordinator holds the lease although it cannot lead.
const CANNOT_LEAD: Duration = Duration::from_secs(30);

/// The epoch of the very first leader: there is none before it that could still be at work.
const FIRST_EPOCH: Epoch = Epoch(1);

/// Where the broker says that a connection was closed, if this account may hear it.
const DISCONNECTS: &str = "$SYS.ACCOUNT.*.DISCONNECT";

/// How often the broker is told that held messages are still being worked on; a third of its patience.
const EXTENSION: Duration = Duration::from_secs(10);

/// What a coordinator is made of.
#[derive(Debug)]
pub struct Parts {
    /// The connection.
    pub nats: async_nats::Client,
    /// What happens to it.
    pub counters: Arc<Counters>,
    /// The streams.
    pub store: Store,
    /// The subjects of the mesh.
    pub subjects: Subjects,
    /// The decisions.
    pub scheduler: scheduler::Config,
    /// Name of this process among the coordinators.
    pub instance: String,
    /// Who wants to know whether the loop goes on.
    pub supervisor: Supervisor,
    /// Reaches the pools of agents.
    pub scaling: mpsc::UnboundedSender<scale::Ask>,
    /// Reaches the book of alerts.
    pub alerting: mpsc::UnboundedSender<alerts::Ask>,
}

/// A coordinator, leading or standing by.
#[derive(Debug)]
pub struct Node {
    nats: async_nats::Client,
    counters: Arc<Counters>,
    store: Store,
    subjects: Subjects,
    instance: String,
    supervisor: Supervisor,
    clock: Clock,
    scheduler: Scheduler,
    actions: Actions,
    /// Prefix of the reply subjects of what this process asks.
    inbox: String,
    formats: FxHashMap<AgentId, Format>,
    /// Attempts to be confirmed at the end of the turn.
    settled: FxHashMap<AgentId, Vec<AttemptRef>>,
    status: watch::Sender<shared::api::Mesh>,
    commands: mpsc::Receiver<Command>,
    own_commands: mpsc::Sender<Command>,
    scaling: mpsc::UnboundedSender<scale::Ask>,
    alerting: mpsc::UnboundedSender<alerts::Ask>,
    counts: Counts,
    disconnects_seen: u64,
    next_maintenance: Instant,
    next_canary: Instant,
    reign: Option<Reign>,
    services: Option<Services>,
    /// Since when it holds the lease and could not begin to lead.
    cannot_lead_since: Option<Instant>,
}

/// What only a leader has.
#[derive(Debug)]
struct Reign {
    /// When it is over unless the lease is renewed.
    lease_until: Instant,
    envelopes: FxHashMap<Sequence, Envelope>,
    /// Questions whose answers are awaited, the oldest first.
    awaited: VecDeque<(Instant, Sequence, Stage)>,
    lanes: Lanes,
    records: Records,
    /// Histories of attempts whose record is not answered yet.
    unremembered: Unremembered,
    known: KnownIds,
    /// Whether [`Reign::known`] holds all results; before, every id is looked up.
    known_complete: bool,
    /// When they are to be listed, if that is still to be done.
    results_due: Option<Instant>,
    /// Whether several servers have the results, and so one of them may not know the newest.
    results_are_replicated: bool,
    /// The last message that was there when a leader before could still be at work: up to it, an attempt may have been
    /// made before.
    inherited: u64,
    calls: Subscriber,
    served_version: u64,
    progress: Board,
    /// Kinds that agents could do a moment ago, with the moment at which they are given up.
    lingering: BTreeMap<Kind, Instant>,
    next_extension: Instant,
    next_survey: Instant,
    service: async_nats::service::Service,
}

impl Reign {
    /// Whether a leader before may have made an attempt of it.
    fn may_have_been_tried(&self, sequence: Sequence) -> bool {
        !self.known_complete || sequence.0 <= self.inherited
    }
}

/// The scheduler's time, from a monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Clock {
    origin: Instant,
    origin_since_1970: Duration,
}

impl Clock {
    fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), origin_since_1970: since_1970 }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_origin(self.origin_since_1970 + self.origin.elapsed())
    }

    fn instant(&self, moment: Timestamp) -> Instant {
        self.origin + moment.since_origin().saturating_sub(self.origin_since_1970)
    }

    fn from_wall(moment: SystemTime) -> Timestamp {
        Timestamp::from_origin(moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}

/// The subscriptions that every coordinator has, leading or not.
struct Ears {
    inbox: Subscriber,
    agents: Subscriber,
    pings: Subscriber,
    disconnects: Subscriber,
}

impl Node {
    /// A coordinator that does not lead yet, and the handle by which the rest of the process reaches it.
    pub fn new(parts: Parts) -> (Self, Handle) {
        let Parts { nats, counters, store, subjects, scheduler, instance, supervisor, scaling, alerting } = parts;
        let (own_commands, commands) = mpsc::channel(1024);
        let scheduler = Scheduler::new(scheduler, fastrand::u64(..));
        let (status, watched) = watch::channel(scheduler.status(subjects.mesh().as_str(), &instance));
        let handle = Handle::new(own_commands.clone(), watched);
        let node = Self {
            inbox: nats.new_inbox(),
            disconnects_seen: counters.disconnects.load(Ordering::Relaxed),
            nats,
            counters,
            store,
            subjects,
            instance,
            supervisor,
            clock: Clock::start(),
            scheduler,
            actions: Actions::new(),
            formats: FxHashMap::default(),
            settled: FxHashMap::default(),
            status,
            commands,
            own_commands,
            scaling,
            alerting,
            counts: Counts::default(),
            next_maintenance: Instant::now(),
            next_canary: Instant::now(),
            reign: None,
            services: None,
            cannot_lead_since: None,
        };
        (node, handle)
    }

    /// What operations work with that it is asked for over NATS while it leads. To be said before it runs.
    pub fn answer_with(&mut self, services: Services) {
        self.services = Some(services);
    }

    /// Works until it is told to stop.
    pub async fn run(mut self, mut changes: mpsc::Receiver<lease::Change>) -> anyhow::Result<()> {
        let mut ears = self.listen().await?;
        self.tell_supervisor();
        loop {
            let deadline = self.clock.instant(self.scheduler.next_deadline());
            let deadline = deadline.min(self.next_maintenance).min(self.next_canary);
            tokio::select! {
                Some(message) = ears.inbox.next() => {
                    self.on_answer(message).await;
                    for _ in 0..TURN {
                        let Some(Some(message)) = ears.inbox.next().now_or_never() else { break };
                        self.on_answer(message).await;
                    }
                }
                Some(message) = ears.agents.next() => {
                    self.on_agent(message);
                    for _ in 0..TURN {
                        let Some(Some(message)) = ears.agents.next().now_or_never() else { break };
                        self.on_agent(message);
                    }
                }
                Some(advisory) = ears.disconnects.next() => self.on_disconnect(&advisory),
                Some(ping) = ears.pings.next() => self.answer_ping(&ping).await,
                Some(change) = changes.recv() => self.on_lease(change).await?,
                Some(command) = self.commands.recv() => {
                    if self.on_command(command).await.is_break() {
                        return Ok(());
                    }
                }
                Some(call) = next_call(&mut self.reign) => self.on_call(call).await,
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            self.turn().await;
        }
    }

    /// Hears everything that any coordinator has to hear.
    async fn listen(&self) -> anyhow::Result<Ears> {
        let inbox = self.nats.subscribe(format!("{}.>", self.inbox)).await?;
        let agents = self.nats.subscribe(self.subjects.all_agents()).await?;
        let pings = self.nats.subscribe(self.subjects.coordinator(&self.instance)).await?;
        let disconnects = self.nats.subscribe(DISCONNECTS).await?;
        Ok(Ears { inbox, agents, pings, disconnects })
    }

    /// What is done after each batch of events: what is due, what was ordered, what is to be fetched.
    async fn turn(&mut self) {
        self.step_down_if_outlived().await;
        let now = self.clock.now();
        if self.scheduler.next_deadline() <= now {
            self.scheduler.handle(Event::DeadlineReached, now, &mut self.actions);
        }
        if Instant::now() >= self.next_canary {
            self.next_canary = Instant::now() + CANARY;
            let subject = self.reply_to(answers::Topic::Canary, 0);
            self.publish(subject, None, None, Bytes::new()).await;
        }
        if Instant::now() >= self.next_maintenance {
            self.next_maintenance = Instant::now() + MAINTENANCE;
            self.maintain().await;
        }
        self.carry_out().await;
        self.send_records_together().await;
        self.confirm_settled().await;
        self.pull().await;
    }

    fn tell_scheduler(&mut self, event: Event) {
        let now = self.clock.now();
        self.scheduler.handle(event, now, &mut self.actions);
    }

    /// Carries out what the scheduler has ordered.
    async fn carry_out(&mut self) {
        // Carrying out may lead to further orders: a task that was looked up and found settled, for one.
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.act(action).await;
            }
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Dispatch(dispatch) => {
                self.confirm_before(&dispatch).await;
                self.count_start(&dispatch);
                self.dispatch(dispatch).await;
            }
            Action::Repeat(dispatch) => self.dispatch(dispatch).await,
            Action::Record(settlement) => self.record(settlement).await,
            Action::Settled { agent, attempt } => self.settled.entry(agent).or_default().push(attempt),
            Action::Cancel { agent, attempt, reason } => {
                let cancel = shared::message::Cancel { attempt, reason: reason.into() };
                self.tell_agent(&agent, InboxVerb::Cancel, &cancel).await;
            }
            Action::CheckSettled { agent, attempt, sequence } => self.check_settled(agent, attempt, sequence),
            Action::Remember { sequence, history } => self.remember(sequence, &history).await,
            Action::ForgetHistory(sequence) => self.forget_history(sequence).await,
            Action::SettleDuplicate(sequence) => self.look_up(sequence).await,
            Action::Probe(agent) => self.probe(&agent).await,
            Action::Welcome { agent, hello_wanted } => self.welcome(&agent, hello_wanted).await,
            Action::Heard { agent, sequence } => {
                let epoch = self.scheduler.epoch().unwrap_or_default();
                self.tell_agent(&agent, InboxVerb::Heard, &shared::message::Heard { epoch, sequence }).await;
            }
            Action::Drain(agent) => {
                let epoch = self.scheduler.epoch().unwrap_or_default();
                self.tell_agent(&agent, InboxVerb::Drain, &shared::message::Drain { epoch }).await;
            }
            Action::Release { sequence, delay } => self.release(sequence, delay).await,
            Action::LookBack(kind) => {
                if let Some(reign) = &mut self.reign {
                    reign.lanes.look_back(&kind);
                }
            }
            Action::Tell(notice) => self.tell(notice).await,
        }
    }

    /// Begins to lead, or ends. A coordinator that holds the lease and cannot begin for long ends its process, so that
    /// another can.
    async fn on_lease(&mut self, change: lease::Change) -> anyhow::Result<()> {
        match change {
            lease::Change::Held { epoch, until } => {
                if let Some(reign) = &mut self.reign {
                    reign.lease_until = until;
                    return Ok(());
                }
                match self.begin_reign(epoch, until).await {
                    Ok(reign) => (self.reign, self.cannot_lead_since) = (Some(reign), None),
                    Err(error) => return self.lead_later(error),
                }
                self.tell_scheduler(Event::LeadershipTaken(epoch));
                let detail = Some(format!("{} leads", self.instance));
                self.tell(Notice { topic: "mesh", what: "led", agent: None, task: None, detail }).await;
                self.learn_histories();
            }
            lease::Change::Lost => {
                self.cannot_lead_since = None;
                self.step_down().await;
            }
        }
        self.publish_status();
        self.tell_supervisor();
        Ok(())
    }

    /// The lease is ours, and the streams do not answer. During an election of the broker's that is so for seconds, for
    /// every coordinator; the next renewal is the next try.
    fn lead_later(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        let since = *self.cannot_lead_since.get_or_insert_with(Instant::now);
        if since.elapsed() > CANNOT_LEAD {
            return Err(error.context("the lease is ours, but we cannot lead"));
        }
        warn!(error = format!("{error:#}"), "the lease is ours, but we cannot lead yet");
        Ok(())
    }

    /// Leads no more. What is under way stays in the stream, for whoever leads next.
    async fn step_down(&mut self) {
        let Some(reign) = self.reign.take() else { return };
        self.tell_scheduler(Event::LeadershipLost);
        self.actions.clear();
        let _ = reign.service.stop().await;
    }

    /// A leader whose lease has run out by its own clock (it was stopped, or its renewals were held up) does not
    /// wait for the broker's word.
    async fn step_down_if_outlived(&mut self) {
        if self.reign.as_ref().is_some_and(|reign| Instant::now() >= reign.lease_until) {
            warn!("the lease was not renewed in time: not leading any more");
            self.step_down().await;
            self.publish_status();
            self.tell_supervisor();
        }
    }

    async fn begin_reign(&self, epoch: Epoch, lease_until: Instant) -> anyhow::Result<Reign> {
        let services = self.services.clone().context("nobody has said what to answer with")?;
        let (jobs, keeper_jobs) = mpsc::unbounded_channel();
        let ready = self.own_commands.clone();
        tokio::spawn(Keeper { store: self.store.clone(), epoch, jobs: keeper_jobs, ready }.run());
        let (_, inherited) = self.store.task_count().await?;
        let results_are_replicated = self.store.results_are_replicated().await?;
        let former_leads = if epoch == FIRST_EPOCH { Duration::ZERO } else { lease::LIFETIME };
        Ok(Reign {
            lease_until,
            envelopes: FxHashMap::default(),
            awaited: VecDeque::new(),
            lanes: Lanes::new(self.subjects.clone(), epoch, jobs),
            records: Records::default(),
            unremembered: Unremembered::default(),
            known: KnownIds::default(),
            known_complete: false,
            results_due: Some(Instant::now() + former_leads),
            results_are_replicated,
            inherited,
            calls: self.nats.subscribe(self.subjects.calls()).await?,
            served_version: u64::MAX,
            progress: Board::default(),
            lingering: BTreeMap::new(),
            next_extension: Instant::now() + EXTENSION,
            next_survey: Instant::now(),
            service: crate::api::start(services).await?,
        })
    }

    /// What changes slowly.
    async fn maintain(&mut self) {
        self.supervisor.alive();
        let disconnects = self.counters.disconnects.load(Ordering::Relaxed);
        if disconnects != self.disconnects_seen {
            self.disconnects_seen = disconnects;
            self.tell_scheduler(Event::LinkRestored);
            if let Some(reign) = &mut self.reign {
                reign.lanes.forget_pulls();
            }
        }
        self.serve_kinds();
        self.set_stuck_kinds_apart().await;
        self.ask_again().await;
        self.remember_again().await;
        self.extend_held().await;
        self.survey();
        self.learn_results();
        self.publish_status();
        self.counts.make_room(Instant::now());
    }

    /// A coordinator that stands by is as ready as one that leads.
    fn tell_supervisor(&mut self) {
        let epoch = self.scheduler.epoch().filter(|_| self.reign.is_some());
        let words = epoch.map_or("standing by".to_owned(), |epoch| format!("leading in epoch {epoch}"));
        self.supervisor.ready(&words);
    }

    fn publish_status(&self) {
        let status = self.scheduler.status(self.subjects.mesh().as_str(), &self.instance);
        let refused = self.counters.violations.load(Ordering::Relaxed);
        self.status.send_replace(shared::api::Mesh { refused, ..status });
    }

    /// Gives the lanes the kinds that agents can do. One that nobody can do any more is kept for a moment: its
    /// agents may be starting anew, and a lane is not made for nothing.
    fn serve_kinds(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        reign.lanes.set_window(self.scheduler.total_slots());
        let version = self.scheduler.served_version();
        if reign.served_version == version && reign.lingering.is_empty() {
            return;
        }
        reign.served_version = version;
        let now = Instant::now();
        let mut served: BTreeSet<Kind> = self.scheduler.served_kinds().cloned().collect();
        for kind in reign.lanes.kinds().difference(&served) {
            reign.lingering.entry(kind.clone()).or_insert(now + LINGER);
        }
        // What is paused is not fetched from now on, whoever could do it.
        let is_paused = |kind: &Kind| self.scheduler.is_paused(kind);
        reign.lingering.retain(|kind, until| !served.contains(kind) && *until > now && !is_paused(kind));
        served.extend(reign.lingering.keys().cloned());
        reign.lanes.serve(served);
    }

    async fn set_stuck_kinds_apart(&mut self) {
        let full = self.reign.as_ref().map(|reign| reign.lanes.full_shared()).unwrap_or_default();
        for priority in full {
            let waiting = |kind: &&Kind| self.scheduler.waiting(kind)[priority as usize];
            let most = self.scheduler.served_kinds().max_by_key(waiting).cloned();
            let (Some(kind), Some(reign)) = (most, &mut self.reign) else { continue };
            let moved = reign.lanes.set_apart(&kind, priority, Instant::now());
            self.move_held(moved).await;
        }
    }

    /// Tells whoever listens, and the log.
    async fn tell(&mut self, notice: Notice) {
        let Notice { topic, what, agent, task, detail } = notice;
        self.counts.told(topic, what, task.as_ref().map(|(_, kind, _)| kind));
        let (task, kind, attempt) = match task {
            Some((id, kind, attempt)) => (Some(id.to_string()), Some(kind.to_string()), Some(attempt)),
            None => (None, None, None),
        };
        let agent = agent.map(|agent| agent.to_string());
        debug!(topic, what, agent, task, detail, "event");
        if topic != "task" {
            info!(agent, detail, "{topic} {what}");
        }
        let event = shared::api::Event {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            topic: topic.to_owned(),
            what: what.to_owned(),
            epoch: self.scheduler.epoch().unwrap_or_default(),
            agent,
            task,
            kind,
            attempt,
            detail,
            data: None,
        };
        let body = Format::Json.encode(&event);
        self.publish(self.subjects.event(topic, what), None, None, body).await;
    }

    async fn answer_ping(&self, ping: &Message) {
        if let Some(reply) = &ping.reply {
            let answer: &'static [u8] = if self.reign.is_some() { b"leader" } else { b"standby" };
            self.publish(reply.to_string(), None, None, Bytes::from_static(answer)).await;
        }
    }

    /// Hands a message to the connection. What matters is answered, and sent again if it is not; so an error here,
    /// which only says that the connection is closed or the message too large, is only logged.
    async fn publish(&self, subject: String, reply: Option<String>, headers: Option<HeaderMap>, body: Bytes) {
        let published = match (reply, headers) {
            (None, None) => self.nats.publish(subject, body).await,
            (None, Some(headers)) => self.nats.publish_with_headers(subject, headers, body).await,
            (Some(reply), None) => self.nats.publish_with_reply(subject, reply, body).await,
            (Some(reply), Some(headers)) => {
                self.nats.publish_with_reply_and_headers(subject, reply, headers, body).await
            }
        };
        if let Err(error) = published {
            warn!(%error, "a message could not be sent");
        }
    }
}

/// The next call, as long as this coordinator leads.
async fn next_call(reign: &mut Option<Reign>) -> Option<Message> {
    match reign {
        Some(reign) => reign.calls.next().await,
        None => std::future::pending().await,
    }
}

impl Node {
    /// Before it stops: what is being recorded or removed is given a moment to be so.
    async fn finish_turn(&mut self) {
        self.carry_out().await;
        self.send_records_together().await;
        self.confirm_settled().await;
        let _ = tokio::time::timeout(Duration::from_millis(200), self.nats.flush()).await;
    }
}
