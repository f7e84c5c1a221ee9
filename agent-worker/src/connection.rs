//! Carries out what the session decides: listens to the agent's inbox, starts and stops handlers, and speaks to
//! the coordinator.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::header::HeaderValue;
use async_nats::{Client, HeaderMap, Message, Subject};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::Epoch;
use shared::codec::{DecodeError, Format};
use shared::connect::{ConnectError, Counters, Patience, Settings};
use shared::header;
use shared::message::{Beat, Follow, Heard, Pong};
use shared::subject::{AgentVerb, InboxVerb, Subjects};
use shared::supervisor::Supervisor;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, trace, warn};

use crate::beats::{self, Beats, Question, Sequence, Snapshot};
use crate::executor::{Executor, Work};
use crate::health;
use crate::logs::Teller;
use crate::metrics::{Counts, Figures, Told};
use crate::session::{Action, Ended, Event, Intervals, Key, Session};
use crate::wire;

/// How many messages or ends of attempts are taken at a time.
const BATCH: usize = 256;
/// How often it is looked whether the connection is a new one.
const RECONNECT_CHECK: Duration = Duration::from_millis(100);
/// How many beats an answer is remembered for.
const UNANSWERED: usize = 64;
/// How long the last words may take to reach the broker.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Why an agent could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not this host's.
    #[error("failed to listen on {address}, where the agent is to say whether it is well")]
    Health {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        source: std::io::Error,
    },
    /// There is no connection to the broker.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The agent's inbox cannot be listened to.
    #[error("failed to listen to the agent's inbox")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The thread that beats cannot be started.
    #[error("failed to start the thread that beats")]
    Thread(#[source] std::io::Error),
    /// The connection was closed for good.
    #[error("the connection to NATS was closed for good")]
    Closed,
}

/// How an agent left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// What ran had ended.
    Drained,
    /// At once; so many attempts were ended by force.
    Abandoned(u32),
}

/// What somebody on this host wants of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Drain,
    LeaveNow,
}

/// The connection of one agent, with all it moves.
pub(crate) struct Connection {
    client: Client,
    subjects: Subjects,
    done_subject: Subject,
    session: Session<Work>,
    executor: Executor,
    beats: Option<Beats>,
    sequence: Sequence,
    supervisor: Supervisor,
    /// Tells what attempts write, as long as this is there.
    _teller: Teller,
    /// The last beats that want an answer: their number and when they said what was so.
    unanswered: VecDeque<(u64, Duration)>,
    began: Instant,
    /// How often the client had connected when the session was last told so.
    connects: u64,
    /// The epoch of who welcomed the agent last.
    welcomed: Option<Epoch>,
    actions: Vec<Action<Work>>,
    spare: Vec<Action<Work>>,
    left: bool,
    counts: Counts,
    told: Told,
    /// What happens to the client's connection.
    counters: Arc<Counters>,
}

impl Connection {
    /// Connects, says hello, and goes on until the agent leaves. `executor` makes the executor for a limit of
    /// output bytes; on the address `health` it says whether the agent is well.
    pub(crate) async fn run(
        settings: Settings,
        session: Session<Work>,
        executor: impl FnOnce(usize) -> (Executor, mpsc::UnboundedReceiver<(Key, Ended)>),
        mut wishes: mpsc::UnboundedReceiver<Wish>,
        health: Option<SocketAddr>,
        supervisor: Supervisor,
    ) -> Result<Left, Error> {
        let health = match health {
            Some(address) => listen(address).await?,
            None => health::unasked(),
        };
        let agent = session.setup().agent.clone();
        let name = format!("agent-{agent}");
        supervisor.status("waiting for a NATS server");
        let (client, counters) = tokio::select! {
            connected = settings.connect_counted(&name, Patience::Endless) => connected?,
            // Nobody has given it any work yet.
            Some(_) = wishes.recv() => return Ok(Left::Drained),
        };
        supervisor.status("waiting for a coordinator");
        let subjects = Subjects::new(settings.mesh.clone());
        let inbox = client.subscribe(subjects.inbox_all(&agent)).await?;
        let (sequence, told) = (Sequence::default(), Told::default());
        let sender = beats::Sender {
            settings,
            agent: agent.clone(),
            incarnation: session.setup().incarnation,
            network_bps: session.setup().capacity.network_bps,
            sequence: sequence.clone(),
            told: told.clone(),
            sessions: client.clone(),
            own: Default::default(),
        };
        let (beats, questions) = sender.start().map_err(Error::Thread)?;
        let limit = output_limit(&client);
        let (executor, ended) = executor(limit);
        let progress = subjects.agent(&agent, AgentVerb::Progress).into();
        let teller = Teller::start(executor.logs().clone(), client.clone(), progress, limit);
        let connection = Self {
            done_subject: subjects.agent(&agent, AgentVerb::Done).into(),
            client,
            subjects,
            counts: Counts::new(&session.setup().kinds),
            told,
            counters,
            session,
            executor,
            beats: Some(beats),
            sequence,
            supervisor,
            _teller: teller,
            unanswered: VecDeque::new(),
            began: Instant::now(),
            connects: 0,
            welcomed: None,
            actions: Vec::new(),
            spare: Vec::new(),
            left: false,
        };
        connection.go_on(inbox.ready_chunks(BATCH), ended, questions, wishes, health).await
    }

    async fn go_on(
        mut self,
        mut inbox: impl Stream<Item = Vec<Message>> + Unpin,
        mut ended: mpsc::UnboundedReceiver<(Key, Ended)>,
        mut questions: mpsc::Receiver<Question>,
        mut wishes: mpsc::UnboundedReceiver<Wish>,
        mut health: mpsc::Receiver<health::Question>,
    ) -> Result<Left, Error> {
        let mut reconnect_check = tokio::time::interval(RECONNECT_CHECK);
        reconnect_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ends = Vec::with_capacity(BATCH);
        let mut abandoned = None;
        while !self.left {
            let deadline = self.session.next_deadline().map(|due| tokio::time::Instant::from_std(self.began + due));
            tokio::select! {
                Some(messages) = inbox.next() => {
                    for message in messages {
                        self.receive(message).await;
                    }
                }
                _ = ended.recv_many(&mut ends, BATCH) => {
                    for (key, ended) in ends.drain(..) {
                        if let Some(kind) = self.executor.forget(key) {
                            self.counts.ended(&kind, &ended);
                        }
                        self.apply(Event::HandlerEnded { key, ended }).await;
                    }
                }
                Some(question) = questions.recv() => {
                    // One that was given up finds nobody.
                    let snapshot = self.snapshot();
                    let _ = question.send(snapshot);
                }
                Some(question) = health.recv() => {
                    // Who asked may have gone.
                    question.answer(|| self.health(), || self.figures());
                }
                () = sleep_until(deadline) => self.apply(Event::DeadlineReached).await,
                _ = reconnect_check.tick() => {
                    self.supervisor.alive();
                    self.check_for_reconnect().await;
                }
                Some(wish) = wishes.recv() => match wish {
                    Wish::Drain => {
                        self.supervisor.stopping();
                        info!(running = self.session.occupied_slots(), "draining: taking no new work");
                        self.apply(Event::DrainWanted).await;
                    }
                    Wish::LeaveNow => {
                        self.supervisor.stopping();
                        abandoned = Some(self.session.occupied_slots());
                        self.apply(Event::LeaveWanted).await;
                    }
                },
                else => return Err(Error::Closed),
            }
        }
        Ok(abandoned.map_or(Left::Drained, Left::Abandoned))
    }

    async fn receive(&mut self, message: Message) {
        trace!(subject = %message.subject, bytes = message.payload.len(), "received");
        let verb = self.subjects.inbox_verb(&self.session.setup().agent, &message.subject);
        let event = match verb {
            Some(InboxVerb::Run) => run_ordered(message),
            Some(InboxVerb::Ping) => return self.answer_ping(&message).await,
            Some(InboxVerb::Welcome) => decode(&message).map(Event::Welcomed),
            Some(InboxVerb::Cancel) => decode(&message).map(Event::CancelOrdered),
            Some(InboxVerb::Settled) => decode(&message).map(Event::Settled),
            Some(InboxVerb::Drain) => decode(&message).map(Event::DrainOrdered),
            Some(InboxVerb::Heard) => decode(&message).map(|heard| self.heard(&heard)),
            Some(InboxVerb::Follow) => match decode(&message) {
                Ok(follow) => return self.follow(&follow).await,
                Err(error) => Err(error),
            },
            None => {
                debug!(subject = %message.subject, "ignored a message with an unknown verb");
                return;
            }
        };
        match event {
            Ok(event) => {
                if let Event::DrainOrdered(_) = event {
                    info!(running = self.session.occupied_slots(), "the coordinator wants the agent to drain");
                    self.supervisor.stopping();
                }
                self.apply(event).await;
            }
            Err(error) => {
                let error = &*error as &dyn std::error::Error;
                warn!(verb = verb.map(InboxVerb::as_str), error, "ignored a message that cannot be read");
            }
        }
    }

    async fn answer_ping(&mut self, message: &Message) {
        let Some(reply) = message.reply.clone() else { return };
        let beat = Beat { answer: false, ..self.beat() };
        let pong = Pong { agent: self.session.setup().agent.clone(), beat };
        // Who asks in JSON is answered in JSON.
        let format = format_of(message).unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, format.content_type());
        let sent = self.client.publish_with_headers(reply, headers, format.encode(&pong)).await;
        if let Err(error) = sent {
            debug!(%error, "a ping could not be answered");
        }
    }

    /// Lets somebody see what an attempt writes, or says that there is nothing to see.
    async fn follow(&self, follow: &Follow) {
        if self.executor.logs().follow(follow, Instant::now()) {
            return;
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::TASK, follow.task.as_str());
        headers.insert(header::LOG_STATE, "gone");
        let subject = self.subjects.agent(&self.session.setup().agent, AgentVerb::Progress).into();
        self.publish(subject, headers, Bytes::new()).await;
    }

    fn health(&self) -> health::State {
        health::State {
            is_connected: self.is_connected(),
            epoch: self.welcomed,
            running: self.session.occupied_slots(),
            draining: self.session.draining(),
        }
    }

    fn figures(&self) -> Figures {
        let setup = self.session.setup();
        Figures {
            is_connected: self.is_connected(),
            epoch: self.welcomed.map(|epoch| epoch.0),
            draining: self.session.draining(),
            slots: setup.slots,
            taken: self.session.occupied_slots(),
            queue: setup.queue,
            queued: self.session.queued(),
            capacity: setup.capacity,
            counts: self.counts.clone(),
            told: self.told.clone(),
            connects: self.client.statistics().connects.load(Ordering::Relaxed),
            connection: self.counters.clone(),
        }
    }

    fn beat(&mut self) -> Beat {
        let Snapshot { sequence, answer, holds, draining } = self.snapshot();
        Beat { incarnation: self.session.setup().incarnation, sequence, holds, draining, lag_ms: 0, answer }
    }

    fn snapshot(&mut self) -> Snapshot {
        let (sequence, answer) = (self.sequence.next(), self.session.wants_answers());
        if answer {
            self.unanswered.push_back((sequence, self.began.elapsed()));
            if self.unanswered.len() > UNANSWERED {
                self.unanswered.pop_front();
            }
        }
        Snapshot { sequence, answer, holds: self.session.holds(), draining: self.session.draining() }
    }

    /// A beat was heard, and what was said before it as well.
    fn heard(&mut self, heard: &Heard) -> Event<Work> {
        let mut sent = Duration::ZERO;
        while let Some((_, said)) = self.unanswered.pop_front_if(|(sequence, _)| *sequence <= heard.sequence) {
            sent = said;
        }
        Event::Heard { epoch: heard.epoch, sent }
    }

    async fn check_for_reconnect(&mut self) {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        if connects != self.connects && self.is_connected() {
            self.connects = connects;
            self.executor.logs().report_again();
            self.apply(Event::Connected).await;
        }
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Tells the session what happened and carries out what it wants, until it wants nothing more.
    async fn apply(&mut self, event: Event<Work>) {
        self.tell(event);
        while !self.actions.is_empty() {
            let mut actions = std::mem::replace(&mut self.actions, std::mem::take(&mut self.spare));
            for action in actions.drain(..) {
                self.carry_out(action).await;
            }
            self.spare = actions;
        }
    }

    fn tell(&mut self, event: Event<Work>) {
        self.session.handle(event, self.began.elapsed(), &mut self.actions);
    }

    async fn carry_out(&mut self, action: Action<Work>) {
        match action {
            Action::Start { key, order, work } => {
                self.counts.started(&order.kind);
                if let Some(ended) = self.executor.start(key, order.clone(), work) {
                    self.counts.ended(&order.kind, &ended);
                    self.tell(Event::HandlerEnded { key, ended });
                }
            }
            Action::Stop(key) => self.executor.stop(key),
            Action::SendHello(hello) => self.say(AgentVerb::Hello, &*hello).await,
            Action::SendBeat => {
                let beat = self.beat();
                self.say(AgentVerb::Beat, &beat).await;
            }
            Action::SendDone(done) => {
                let headers = wire::write_done(&done);
                self.publish(self.done_subject.clone(), headers, done.ended.output.clone()).await;
            }
            Action::SendBye(bye) => {
                // A beat that came after it would bring the agent back.
                if let Some(beats) = self.beats.take() {
                    beats.stop().await;
                }
                info!(returned = bye.returned.len(), "leaving");
                self.say(AgentVerb::Bye, &bye).await;
            }
            Action::SetIntervals(intervals) => self.welcomed(intervals),
            Action::Leave => {
                self.left = true;
                let _ = tokio::time::timeout(FLUSH_PATIENCE, self.client.flush()).await;
            }
        }
    }

    fn welcomed(&mut self, intervals: Intervals) {
        self.welcomed = Some(intervals.epoch);
        self.supervisor.ready(&format!("welcomed by the coordinator of epoch {}", intervals.epoch));
        info!(epoch = %intervals.epoch, beat_interval = ?intervals.beat, "welcomed by the coordinator");
        // A new leader knows nothing of how far anything is.
        self.executor.logs().report_again();
        if let Some(beats) = &self.beats {
            beats.set(intervals);
        }
    }

    async fn say(&self, verb: AgentVerb, message: &impl Serialize) {
        let subject = self.subjects.agent(&self.session.setup().agent, verb).into();
        self.publish(subject, HeaderMap::new(), Format::MessagePack.encode(message)).await;
    }

    async fn publish(&self, subject: Subject, headers: HeaderMap, body: Bytes) {
        // The client would keep it for the next connection until its queue is full, and then stand still. All
        // that is said here is said again after a reconnect.
        if !self.is_connected() {
            return;
        }
        let sent = if headers.is_empty() {
            self.client.publish(subject.clone(), body).await
        } else {
            self.client.publish_with_headers(subject.clone(), headers, body).await
        };
        if let Err(error) = sent {
            warn!(%subject, %error, "a message could not be sent");
        }
    }
}

async fn listen(address: SocketAddr) -> Result<mpsc::Receiver<health::Question>, Error> {
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Health { address, source })?;
    Ok(health::serve(listener))
}

/// Most bytes of output that fit into one `done`.
fn output_limit(client: &Client) -> usize {
    const UNKNOWN: usize = 1 << 20;
    let max_payload = client.max_payload();
    let max_payload = if max_payload == 0 { UNKNOWN } else { max_payload };
    max_payload.saturating_sub(wire::ROOM_FOR_HEADERS)
}

type ReadError = Box<dyn std::error::Error + Send + Sync>;

fn run_ordered(message: Message) -> Result<Event<Work>, ReadError> {
    let headers = message.headers.unwrap_or_default();
    let order = wire::read_run(&headers)?;
    Ok(Event::RunOrdered(order, Work { headers, body: message.payload }))
}

fn decode<T: DeserializeOwned>(message: &Message) -> Result<T, ReadError> {
    Ok(format_of(message)?.decode(&message.payload)?)
}

fn format_of(message: &Message) -> Result<Format, DecodeError> {
    let named = message.headers.as_ref().and_then(|headers| headers.get(header::CONTENT_TYPE));
    Format::from_content_type(named.map(HeaderValue::as_str))
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
