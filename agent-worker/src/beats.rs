//! Says that the agent is alive and how busy its host is, from a thread and over a connection of its own: a
//! session that is busy, or a handler that hogs the async runtime, must not look like a dead agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Subject;
use async_nats::connection::State;
use serde::Serialize;
use shared::codec::Format;
use shared::connect::{Patience, Settings};
use shared::message::{Beat, Held};
use shared::subject::{AgentVerb, Subjects};
use shared::{AgentId, Incarnation};
use tokio::sync::{OnceCell, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::metrics::Told;
use crate::session::Intervals;
use crate::usage::Meter;

/// How long the session may take to say what it holds before the last answer is repeated.
const ANSWER_PATIENCE: Duration = Duration::from_millis(100);
/// The least time between two looks at the CPU that gives a meaningful share.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// A coordinator that asks for more beats or reports than this does not get them.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// How long the thread may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What a beat says of the session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// The beat's number: of two beats the later one says what was so later.
    pub(crate) sequence: u64,
    /// Whether the session wants to know that this was heard.
    pub(crate) answer: bool,
    pub(crate) holds: Vec<Held>,
    pub(crate) draining: bool,
}

/// The thread asks the session what it holds.
pub(crate) type Question = oneshot::Sender<Snapshot>;

/// Numbers the beats of this process, pongs included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequence(Arc<AtomicU64>);

impl Sequence {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Whose beats these are.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) settings: Settings,
    pub(crate) agent: AgentId,
    pub(crate) incarnation: Incarnation,
    /// The bandwidth that counts as fully used; zero if not known.
    pub(crate) network_bps: u64,
    pub(crate) sequence: Sequence,
    /// What has been said, for who asks.
    pub(crate) told: Told,
    /// The session's connection, for as long as there is no other.
    pub(crate) sessions: async_nats::Client,
    /// The thread's own connection, once it has been made.
    pub(crate) own: OnceCell<async_nats::Client>,
}

/// The thread, seen from the session.
pub(crate) struct Beats {
    intervals: watch::Sender<Option<Intervals>>,
    finished: oneshot::Receiver<()>,
}

impl Sender {
    /// Starts the thread. It is silent until the first [`Beats::set`].
    pub(crate) fn start(self) -> std::io::Result<(Beats, mpsc::Receiver<Question>)> {
        let (intervals, watched) = watch::channel(None);
        let (ask, questions) = mpsc::channel(1);
        let (finish, finished) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("beats".to_owned()).spawn(move || {
            runtime.block_on(self.speak(watched, ask));
            // A look at the host that hangs must not keep the agent from leaving.
            runtime.shutdown_background();
            let _ = finish.send(());
        })?;
        Ok((Beats { intervals, finished }, questions))
    }

    async fn speak(self, mut intervals: watch::Receiver<Option<Intervals>>, ask: mpsc::Sender<Question>) {
        let reports = self.report(intervals.clone());
        tokio::select! {
            () = self.beat(&mut intervals, ask) => {}
            () = reports => {}
            () = self.connect() => {}
        }
        if let Some(client) = self.own.get() {
            let _ = tokio::time::timeout(STOP_PATIENCE, client.flush()).await;
        }
    }

    /// Connects the thread's own connection, which then stays.
    async fn connect(&self) {
        let name = format!("agent-{}-beat", self.agent);
        match self.settings.connect(&name, Patience::Endless).await {
            Ok(client) => self.own.set(client).expect("this is the only place that sets it"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "beats have no connection of their own and share the session's");
            }
        }
        std::future::pending::<()>().await;
    }

    /// Sends by the thread's own connection, or by the session's while that one is being made. What cannot be
    /// sent now is not sent: kept for later, it would tell of a past that the coordinator takes for now. Whether it was
    /// sent is returned.
    async fn send(&self, subject: &Subject, message: &impl Serialize) -> bool {
        let is_connected = |client: &&async_nats::Client| client.connection_state() == State::Connected;
        let Some(client) = self.own.get().filter(is_connected).or(Some(&self.sessions).filter(is_connected)) else {
            return false;
        };
        let publish = client.publish(subject.clone(), Format::MessagePack.encode(message));
        match tokio::time::timeout(ANSWER_PATIENCE, publish).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => warn!(%subject, %error, "a message could not be sent"),
            Err(_) => debug!(%subject, "the connection takes no message at the moment"),
        }
        false
    }

    fn subject(&self, verb: AgentVerb) -> Subject {
        Subjects::new(self.settings.mesh.clone()).agent(&self.agent, verb).into()
    }

    async fn beat(&self, intervals: &mut watch::Receiver<Option<Intervals>>, ask: mpsc::Sender<Question>) {
        let subject = self.subject(AgentVerb::Beat);
        let (mut last, mut last_answer) = (Snapshot::default(), Instant::now());
        let mut due = Instant::now();
        while let Some(interval) = wait_until(&mut due, intervals, |i| i.beat).await {
            // After a pause the beats that were missed are not made up for: one says what there is to say.
            let now = Instant::now();
            due = if due + interval > now { due + interval } else { now + interval };
            let asked = Instant::now();
            let (answer, answered) = oneshot::channel();
            let answered = match ask.try_send(answer) {
                Ok(()) => tokio::time::timeout(ANSWER_PATIENCE, answered).await.ok().and_then(Result::ok),
                Err(_) => None,
            };
            let lag = match answered {
                Some(snapshot) => {
                    (last, last_answer) = (snapshot, Instant::now());
                    asked.elapsed()
                }
                None => {
                    // What is said again may not be so any more: that it is heard means nothing.
                    last = Snapshot { sequence: self.sequence.next(), answer: false, ..last };
                    last_answer.elapsed()
                }
            };
            let beat = Beat {
                incarnation: self.incarnation,
                sequence: last.sequence,
                holds: last.holds.clone(),
                draining: last.draining,
                lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
                answer: last.answer,
            };
            if self.send(&subject, &beat).await {
                self.told.beat();
            }
        }
    }

    async fn report(&self, mut intervals: watch::Receiver<Option<Intervals>>) {
        let subject = self.subject(AgentVerb::Report);
        let network_bps = self.network_bps;
        let first_look = tokio::task::spawn_blocking(move || Meter::new(network_bps)).await;
        let Ok(Some(mut meter)) = first_look else {
            warn!("this host cannot be measured: the agent reports nothing");
            return std::future::pending().await;
        };
        let mut looked = Instant::now();
        let mut epoch = None;
        loop {
            let mut due = looked + LOOK_INTERVAL;
            loop {
                let Some(now) = *intervals.borrow_and_update() else {
                    if intervals.changed().await.is_err() {
                        return;
                    }
                    continue;
                };
                // A leader that has just begun knows nothing of this host, and is told at once.
                if epoch.replace(now.epoch) == Some(now.epoch) {
                    due = looked + now.report.max(LOOK_INTERVAL);
                }
                tokio::select! {
                    () = tokio::time::sleep_until(due) => break,
                    changed = intervals.changed() => if changed.is_err() { return },
                }
            }
            let incarnation = self.incarnation;
            let look = tokio::task::spawn_blocking(move || {
                let report = meter.report(incarnation);
                (meter, report)
            });
            let Ok((used, report)) = look.await else { return std::future::pending().await };
            (meter, looked) = (used, Instant::now());
            if self.send(&subject, &report).await {
                self.told.report(&report);
            }
        }
    }
}

impl Beats {
    /// Beats and reports so often from now on.
    pub(crate) fn set(&self, intervals: Intervals) {
        self.intervals.send_replace(Some(intervals));
    }

    /// Falls silent. Nothing is said any more when this has ended.
    pub(crate) async fn stop(self) {
        drop(self.intervals);
        let _ = tokio::time::timeout(STOP_PATIENCE * 2, self.finished).await;
    }
}

/// Waits until the next one is due by the newest interval, which is returned; `None` when it is over.
async fn wait_until(
    due: &mut Instant,
    intervals: &mut watch::Receiver<Option<Intervals>>,
    which: impl Fn(&Intervals) -> Duration,
) -> Option<Duration> {
    loop {
        let interval = intervals.borrow_and_update().as_ref().map(|i| which(i).max(SHORTEST_INTERVAL));
        if let Some(interval) = interval {
            *due = (*due).min(Instant::now() + interval);
        }
        tokio::select! {
            () = tokio::time::sleep_until(*due), if interval.is_some() => return interval,
            changed = intervals.changed() => changed.ok()?,
        }
    }
}
