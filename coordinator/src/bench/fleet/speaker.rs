//! Agents that speak the protocol, all in one process and over one connection: each is a real
//! [`Session`](agent_worker::session::Session), and what it wants done is done at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_worker::session::{Action, Ended, Event, Intervals, Order, Session, Setup};
use agent_worker::wire;
use async_nats::{Client, HeaderMap, Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt as _;
use rustc_hash::FxHashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::codec::Format;
use shared::message::{Beat, Heard, Pong, Report};
use shared::subject::{AgentVerb, InboxVerb, Subjects};
use shared::task::AttemptOutcome;
use shared::{AgentId, Countables, Incarnation, Kind, Resources, Used, header};
use tokio::sync::oneshot;
use tracing::debug;

/// Messages taken at a time.
const BATCH: usize = 256;
/// How late a beat may be: timers are looked at so often.
const TICK: Duration = Duration::from_millis(2);

/// What all speakers have done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Beats sent.
    pub(crate) beats: AtomicU64,
    /// Attempts started.
    pub(crate) starts: AtomicU64,
    /// Agents that were welcomed at least once.
    pub(crate) welcomed: AtomicU64,
}

/// What is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Beat,
    Report,
    Session,
}

/// A fleet of agents.
pub(crate) struct Fleet {
    client: Client,
    subjects: Subjects,
    began: Instant,
    agents: Vec<Speaker>,
    by_id: FxHashMap<AgentId, usize>,
    /// Since the beginning; the soonest first.
    timers: BinaryHeap<Reverse<(Duration, usize, Due)>>,
    counts: Arc<Counts>,
}

/// One agent.
struct Speaker {
    session: Session<Bytes>,
    intervals: Option<Intervals>,
    sequence: u64,
    /// When the session wants to be asked next, as far as a timer is set for it.
    session_due: Option<Duration>,
    /// The last beat that wants an answer, and when it said what was so.
    unanswered: Option<(u64, Duration)>,
}

impl Fleet {
    /// Agents called `fleet-1`, `fleet-2` and so on that echo tasks of one kind.
    pub(crate) fn new(client: Client, subjects: Subjects, agents: usize, slots: u32, kind: &Kind) -> Self {
        let incarnation = Incarnation::now();
        let id = |number| AgentId::new(format!("fleet-{number}")).expect("it is a good name");
        let ids: Vec<AgentId> = (1..=agents).map(id).collect();
        let agents = ids.iter().map(|id| Speaker::new(setup(id.clone(), incarnation, slots, kind))).collect();
        let by_id = ids.into_iter().enumerate().map(|(place, id)| (id, place)).collect();
        let counts = Arc::default();
        Self { client, subjects, began: Instant::now(), agents, by_id, timers: BinaryHeap::new(), counts }
    }

    /// What they have done so far.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Goes on until it is told to end.
    pub(crate) async fn run(mut self, mut end: oneshot::Receiver<()>) -> anyhow::Result<()> {
        let inboxes = self.client.subscribe(self.subjects.all_inboxes()).await?;
        let mut inboxes = inboxes.ready_chunks(BATCH);
        let mut ticks = tokio::time::interval(TICK);
        for place in 0..self.agents.len() {
            self.apply(place, Event::Connected).await;
        }
        loop {
            tokio::select! {
                Some(messages) = inboxes.next() => {
                    for message in messages {
                        self.receive(message).await;
                    }
                }
                _ = ticks.tick() => self.do_what_is_due().await,
                _ = &mut end => return Ok(()),
            }
        }
    }

    async fn receive(&mut self, message: Message) {
        let Some((agent, verb)) = self.subjects.inbox_of(&message.subject) else { return };
        let Some(place) = self.by_id.get(agent).copied() else { return };
        let event = match verb {
            InboxVerb::Run => run_ordered(message),
            InboxVerb::Ping => return self.answer_ping(place, &message).await,
            InboxVerb::Welcome => decode(&message).map(Event::Welcomed),
            InboxVerb::Cancel => decode(&message).map(Event::CancelOrdered),
            InboxVerb::Settled => decode(&message).map(Event::Settled),
            InboxVerb::Drain => decode(&message).map(Event::DrainOrdered),
            // They write nothing.
            InboxVerb::Follow => return,
            InboxVerb::Heard => decode(&message).map(|heard| self.agents[place].heard(&heard)),
        };
        match event {
            Some(event) => self.apply(place, event).await,
            None => debug!(verb = verb.as_str(), "ignored a message that cannot be read"),
        }
    }

    async fn apply(&mut self, place: usize, event: Event<Bytes>) {
        let mut actions = Vec::new();
        self.agents[place].session.handle(event, self.began.elapsed(), &mut actions);
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                if let Some(event) = self.carry_out(place, action).await {
                    self.agents[place].session.handle(event, self.began.elapsed(), &mut actions);
                }
            }
        }
        let (agent, timers) = (&mut self.agents[place], &mut self.timers);
        let due = agent.session.next_deadline();
        if let Some(due) = due.filter(|due| agent.session_due.is_none_or(|set| *due < set)) {
            agent.session_due = Some(due);
            timers.push(Reverse((due, place, Due::Session)));
        }
    }

    /// Does it, and says what came of it.
    async fn carry_out(&mut self, place: usize, action: Action<Bytes>) -> Option<Event<Bytes>> {
        match action {
            Action::Start { key, work, .. } => {
                self.counts.starts.fetch_add(1, Ordering::Relaxed);
                return Some(Event::HandlerEnded { key, ended: echoed(work) });
            }
            // Nothing runs for longer than an event takes.
            Action::Stop(_) | Action::Leave => {}
            Action::SendHello(hello) => self.say(place, AgentVerb::Hello, &*hello).await,
            Action::SendBeat => self.beat(place).await,
            Action::SendDone(done) => {
                let (headers, body) = (wire::write_done(&done), done.ended.output.clone());
                let subject = self.subjects.agent(&self.agents[place].session.setup().agent, AgentVerb::Done);
                self.publish(subject.into(), headers, body).await;
            }
            Action::SendBye(bye) => self.say(place, AgentVerb::Bye, &bye).await,
            Action::SetIntervals(intervals) => self.set_intervals(place, intervals),
        }
        None
    }

    /// The first beat and report come at a moment drawn by lot: agents of different hosts are not in step either.
    fn set_intervals(&mut self, place: usize, intervals: Intervals) {
        let first = self.agents[place].intervals.replace(intervals).is_none();
        if !first {
            return;
        }
        self.counts.welcomed.fetch_add(1, Ordering::Relaxed);
        let now = self.began.elapsed();
        self.timers.push(Reverse((now + intervals.beat.mul_f64(fastrand::f64()), place, Due::Beat)));
        self.timers.push(Reverse((now + intervals.report.mul_f64(fastrand::f64()), place, Due::Report)));
    }

    async fn do_what_is_due(&mut self) {
        let now = self.began.elapsed();
        while let Some(Reverse((due, place, what))) = self.timers.peek().copied()
            && due <= now
        {
            self.timers.pop();
            let next = self.agents[place].intervals;
            match (what, next) {
                (Due::Session, _) => {
                    self.agents[place].session_due = None;
                    self.apply(place, Event::DeadlineReached).await;
                }
                (Due::Beat, Some(intervals)) => {
                    self.beat(place).await;
                    // What was missed is not made up for.
                    self.timers.push(Reverse(((due + intervals.beat).max(now), place, Due::Beat)));
                }
                (Due::Report, Some(intervals)) => {
                    self.report(place).await;
                    self.timers.push(Reverse(((due + intervals.report).max(now), place, Due::Report)));
                }
                (Due::Beat | Due::Report, None) => {}
            }
        }
    }

    async fn beat(&mut self, place: usize) {
        let beat = self.agents[place].beat(self.began.elapsed());
        self.counts.beats.fetch_add(1, Ordering::Relaxed);
        self.say(place, AgentVerb::Beat, &beat).await;
    }

    async fn report(&mut self, place: usize) {
        let incarnation = self.agents[place].session.setup().incarnation;
        let share = || 0.2 + 0.2 * fastrand::f64();
        let report = Report {
            incarnation,
            cpu: share(),
            memory: share(),
            disk: 0.1,
            network: 0.0,
            network_bytes_per_second: 0.0,
            agent_memory_bytes: 0,
        };
        self.say(place, AgentVerb::Report, &report).await;
    }

    async fn answer_ping(&mut self, place: usize, message: &Message) {
        let Some(reply) = message.reply.clone() else { return };
        let agent = &mut self.agents[place];
        let beat = Beat { answer: false, ..agent.beat(self.began.elapsed()) };
        let pong = Pong { agent: agent.session.setup().agent.clone(), beat };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, Format::MessagePack.content_type());
        self.publish(reply, headers, Format::MessagePack.encode(&pong)).await;
    }

    async fn say(&self, place: usize, verb: AgentVerb, message: &impl Serialize) {
        let subject = self.subjects.agent(&self.agents[place].session.setup().agent, verb);
        self.publish(subject.into(), HeaderMap::new(), Format::MessagePack.encode(message)).await;
    }

    async fn publish(&self, subject: Subject, headers: HeaderMap, body: Bytes) {
        let sent = if headers.is_empty() {
            self.client.publish(subject, body).await
        } else {
            self.client.publish_with_headers(subject, headers, body).await
        };
        if let Err(error) = sent {
            debug!(%error, "a message could not be sent");
        }
    }
}

impl Speaker {
    fn new(setup: Setup) -> Self {
        Self { session: Session::new(setup), intervals: None, sequence: 0, session_due: None, unanswered: None }
    }

    fn beat(&mut self, now: Duration) -> Beat {
        self.sequence += 1;
        let answer = self.session.wants_answers();
        if answer {
            self.unanswered = Some((self.sequence, now));
        }
        Beat {
            incarnation: self.session.setup().incarnation,
            sequence: self.sequence,
            holds: self.session.holds(),
            draining: self.session.draining(),
            lag_ms: 0,
            answer,
        }
    }

    fn heard(&mut self, heard: &Heard) -> Event<Bytes> {
        let answered = self.unanswered.take_if(|(sequence, _)| *sequence <= heard.sequence);
        Event::Heard { epoch: heard.epoch, sent: answered.map_or(Duration::ZERO, |(_, sent)| sent) }
    }
}

fn setup(agent: AgentId, incarnation: Incarnation, slots: u32, kind: &Kind) -> Setup {
    Setup {
        agent,
        incarnation,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: "fleet".to_owned(),
        slots,
        queue: slots,
        labels: Default::default(),
        kinds: vec![kind.clone()],
        at_most_once: Vec::new(),
        capacity: Resources::default(),
        resources: Countables::ZERO,
        needs: Default::default(),
        enforcement: "off".to_owned(),
    }
}

fn echoed(work: Bytes) -> Ended {
    Ended {
        outcome: AttemptOutcome::Succeeded,
        output: work,
        error: String::new(),
        run: Duration::ZERO,
        used: Used::default(),
    }
}

fn run_ordered(message: Message) -> Option<Event<Bytes>> {
    let order: Order = wire::read_run(&message.headers.unwrap_or_default()).ok()?;
    Some(Event::RunOrdered(order, message.payload))
}

fn decode<T: DeserializeOwned>(message: &Message) -> Option<T> {
    let named = message.headers.as_ref().and_then(|headers| headers.get(header::CONTENT_TYPE));
    Format::from_content_type(named.map(async_nats::header::HeaderValue::as_str)).ok()?.decode(&message.payload).ok()
}
