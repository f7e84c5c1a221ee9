//! A client of the mesh that knows nothing but NATS: it submits tasks, remembers which were accepted, and listens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::{self, message::PublishMessage};
use futures_util::StreamExt as _;
use shared::codec::Format;
use shared::message::Welcome;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::clock::Moment;
use crate::task::Job;

/// How long the broker may take to confirm a task before it is sent again.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// How long it is tried to submit a task.
const PATIENCE: Duration = Duration::from_secs(120);
/// Tasks on their way to the broker at once.
const IN_FLIGHT: usize = 64;
/// How often a load looks how much waits.
const LOOK: Duration = Duration::from_millis(100);

/// What the broker has accepted, by id.
pub type Ledger = HashMap<String, Job>;

/// A client of a mesh.
#[derive(Clone, Debug)]
pub struct Client {
    nats: async_nats::Client,
    jetstream: jetstream::Context,
    ledger: Arc<Mutex<Ledger>>,
    tried: Arc<Mutex<HashMap<String, ()>>>,
}

impl Client {
    /// Connects; it comes back by itself and soon when the broker was gone.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let options = async_nats::ConnectOptions::new()
            .name("oracle")
            .ping_interval(Duration::from_secs(2))
            .connection_timeout(Duration::from_secs(2))
            .request_timeout(Some(Duration::from_secs(2)))
            .subscription_capacity(1 << 20)
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(20));
        let nats = options.connect(url.split(',').collect::<Vec<_>>()).await.context("no connection to the broker")?;
        let jetstream = jetstream::ContextBuilder::new().timeout(Duration::from_secs(2)).build(nats.clone());
        Ok(Self { nats, jetstream, ledger: Arc::default(), tried: Arc::default() })
    }

    /// The connection.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// JetStream on it.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// What the broker has accepted.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a task was sent, accepted or not.
    pub fn has_tried(&self, id: &str) -> bool {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Submits a task, until the broker has confirmed it.
    pub async fn submit(&self, job: Job) -> anyhow::Result<()> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).insert(job.id.clone(), ());
        let started = Instant::now();
        while !self.try_submit(&job).await {
            anyhow::ensure!(started.elapsed() < PATIENCE, "the broker has not accepted {} for {PATIENCE:?}", job.id);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.ledger().insert(job.id.clone(), job);
        Ok(())
    }

    async fn try_submit(&self, job: &Job) -> bool {
        let subject = format!("hive.task.{}.normal.{}", job.kind, job.id);
        let message = PublishMessage::build().payload(job.body()).expected_last_subject_sequence(0);
        let publish = async { self.jetstream.send_publish(subject, message).await?.await };
        match tokio::time::timeout(CONFIRMATION, publish).await {
            Ok(Ok(_)) => true,
            // It is there already: an earlier try was stored, and its confirmation lost.
            Ok(Err(error)) => error.kind() == PublishErrorKind::WrongLastSequence,
            Err(_) => false,
        }
    }

    /// How many messages a stream of the mesh holds: `TASKS`, `RESULTS`, …
    pub async fn count(&self, stream: &str) -> anyhow::Result<u64> {
        let stream = self.jetstream.get_stream(format!("HIVE_{stream}")).await?;
        Ok(stream.cached_info().state.messages)
    }

    /// Waits until every accepted task has a result and none is in the stream, or the limit is over. Whether it
    /// came to that is returned: what is missing is for the oracle to say.
    pub async fn settle(&self, limit: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < limit {
            let (tasks, results) = tokio::join!(self.count("TASKS"), self.count("RESULTS"));
            let accepted = self.ledger().len() as u64;
            if tasks.is_ok_and(|tasks| tasks == 0) && results.is_ok_and(|results| results >= accepted) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// Submits tasks in the background until it is told to stop.
    pub fn load(&self, pace: Pace, job: impl Fn(u64) -> Job + Send + Sync + 'static) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let submitting = tokio::spawn(submit_all(self.clone(), pace, stop.clone(), job));
        Load { stop, submitting }
    }
}

/// How fast tasks are submitted.
#[derive(Clone, Debug)]
pub struct Pace {
    /// So many a second.
    pub rate: f64,
    /// No more while so many are in the task stream.
    pub most_waiting: u64,
    /// No more than this in all.
    pub most: u64,
    /// No more than this for now.
    pub allowed: Arc<AtomicU64>,
}

impl Pace {
    /// So many tasks a second, until it is told to stop.
    pub fn steady(rate: f64, most_waiting: u64) -> Self {
        Self { rate, most_waiting, most: u64::MAX, allowed: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// The same, but so many in all.
    #[must_use]
    pub fn up_to(mut self, most: u64) -> Self {
        self.most = most;
        self
    }
}

/// A load on the mesh.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    submitting: JoinHandle<anyhow::Result<u64>>,
}

impl Load {
    /// Submits no more, and waits until everything that was sent is accepted. How many that were is returned.
    pub async fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.submitting.await?
    }

    /// Waits until all are accepted.
    pub async fn all(self) -> anyhow::Result<u64> {
        self.submitting.await?
    }

    /// Whether all are submitted.
    pub fn is_over(&self) -> bool {
        self.submitting.is_finished()
    }
}

async fn submit_all(
    client: Client,
    pace: Pace,
    stop: Arc<AtomicBool>,
    job: impl Fn(u64) -> Job,
) -> anyhow::Result<u64> {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let failed = Arc::new(Mutex::new(None));
    let accepted = Arc::new(AtomicU64::new(0));
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (mut number, mut credit, mut last, mut looked) = (0, 0.0, Instant::now(), Instant::now() - LOOK);
    while number < pace.most && !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        credit = (credit + last.elapsed().as_secs_f64() * pace.rate).min(pace.rate / 4.0 + 1.0);
        last = Instant::now();
        if looked.elapsed() >= LOOK {
            // Asked for while the broker is away, it would hold the load up only later than the tasks do.
            if client.count("TASKS").await.is_ok_and(|waiting| waiting > pace.most_waiting) {
                continue;
            }
            looked = Instant::now();
        }
        let allowed = pace.most.min(pace.allowed.load(Ordering::Relaxed));
        while credit >= 1.0 && number < allowed {
            credit -= 1.0;
            let place = places.clone().acquire_owned().await?;
            let (client, job, failed, accepted) = (client.clone(), job(number), failed.clone(), accepted.clone());
            number += 1;
            tokio::spawn(async move {
                match client.submit(job).await {
                    Ok(()) => _ = accepted.fetch_add(1, Ordering::Relaxed),
                    Err(error) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
                }
                drop(place);
            });
        }
    }
    let _all = places.acquire_many(IN_FLIGHT as u32).await?;
    let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    failed.map_or(Ok(accepted.load(Ordering::Relaxed)), Err)
}

/// Something that a leader said to an agent.
#[derive(Clone, Debug)]
pub struct Order {
    /// When it was heard.
    pub at: Moment,
    /// Whom it was said to.
    pub agent: String,
    /// Whether it orders to run an attempt; it is a greeting otherwise.
    pub is_run: bool,
    /// The epoch of who said it.
    pub epoch: u64,
}

/// Hears what leaders say to agents, as anybody can.
#[derive(Clone, Debug)]
pub struct Ear(Arc<Mutex<Vec<Order>>>);

impl Ear {
    /// Listens from now on.
    pub async fn open(client: &Client) -> anyhow::Result<Self> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let runs = client.nats().subscribe("hive.inbox.*.run").await?;
        let welcomes = client.nats().subscribe("hive.inbox.*.welcome").await?;
        client.nats().flush().await?;
        let kept = heard.clone();
        tokio::spawn(async move {
            let mut said = futures_util::stream::select(runs, welcomes);
            while let Some(message) = said.next().await {
                if let Some(order) = read(&message).filter(|order| order.epoch > 0) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(order);
                }
            }
        });
        Ok(Self(heard))
    }

    /// Everything that was heard.
    pub fn heard(&self) -> Vec<Order> {
        self.lock().clone()
    }

    /// The newest epoch that was heard of.
    pub fn newest_epoch(&self) -> u64 {
        self.lock().iter().map(|order| order.epoch).max().unwrap_or(0)
    }

    /// How many leaders were heard.
    pub fn leaders(&self) -> usize {
        self.lock().iter().map(|order| order.epoch).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Waits for the first order to run something from a leader that is newer than this epoch.
    pub async fn first_run_after(&self, epoch: u64, limit: Duration) -> anyhow::Result<Order> {
        let started = Instant::now();
        loop {
            let found = {
                let heard = self.lock();
                let recent = heard.len().saturating_sub(5000);
                heard[recent..].iter().find(|order| order.is_run && order.epoch > epoch).cloned()
            };
            if let Some(order) = found {
                return Ok(order);
            }
            anyhow::ensure!(
                started.elapsed() < limit,
                "nobody newer than epoch {epoch} ordered anything for {limit:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Order>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(message: &async_nats::Message) -> Option<Order> {
    let at = Moment::now();
    let mut tokens = message.subject.split('.').skip(2);
    let (agent, verb) = (tokens.next()?.to_owned(), tokens.next()?);
    let is_run = verb == "run";
    let epoch = if is_run {
        message.headers.as_ref()?.get("Hive-Epoch")?.as_str().parse().ok()?
    } else {
        Format::MessagePack.decode::<Welcome>(&message.payload).ok()?.epoch.0
    };
    Some(Order { at, agent, is_run, epoch })
}
