//! The client's side of the measurement: publishes tasks and sees their results arrive.
//!
//! It is the same for both paths, which differ in the mesh's name alone. A task is done when its result,
//! with the right body, is seen by the client; a result that comes twice counts once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use shared::client::{NewTask, SubmitError};
use shared::{Client, Kind, Outcome, Priority, TaskId, header};
use tokio::task::JoinSet;

/// Latencies in nanoseconds.
pub type LatencyHistogram = Histogram<u64>;

/// How long no result may arrive before the measurement is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// The longest latency that is told apart from longer ones, in nanoseconds.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// What becomes of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Results {
    /// They are recorded, and the client reads the stream's subjects.
    #[default]
    Keep,
    /// They are not recorded: the client gets a copy, at `Hive-Reply-To`.
    Discard,
}

/// Sends tasks to one mesh, in batches.
pub(crate) struct Load {
    client: Client,
    kinds: Vec<Kind>,
    body: Bytes,
    in_flight: usize,
    results: Results,
    /// How many tasks are submitted together.
    together: usize,
    /// What the subjects begin with that copies of results are wanted at.
    inbox: String,
    run: u32,
    batches: u32,
}

impl Load {
    /// A load of tasks with this body, spread over the kinds.
    pub(crate) fn new(client: Client, kinds: Vec<Kind>, body: Bytes, in_flight: usize) -> Self {
        let (results, inbox) = (Results::Keep, client.nats().new_inbox());
        Self { client, kinds, body, in_flight, results, together: 1, inbox, run: fastrand::u32(..), batches: 0 }
    }

    /// So many tasks are submitted together while throughput is measured; each by itself if nothing is said.
    pub(crate) fn together(self, together: usize) -> Self {
        Self { together, ..self }
    }

    /// What becomes of the results; they are kept if nothing is said.
    pub(crate) fn results(self, results: Results) -> Self {
        Self { results, ..self }
    }

    /// Publishes as fast as the confirmations allow. The result is tasks a second, from the first publish to
    /// the last result.
    pub(crate) async fn throughput(&mut self, tasks: usize) -> anyhow::Result<f64> {
        let (batch, results) = self.begin(tasks).await?;
        let started = Instant::now();
        let (_, arrivals) = tokio::try_join!(self.publish_at_once(&batch, tasks), results.all())?;
        let last = arrivals.into_iter().max().unwrap_or(started);
        Ok(tasks as f64 / last.duration_since(started).as_secs_f64().max(f64::EPSILON))
    }

    /// Publishes tasks whose results are not waited for.
    pub(crate) async fn publish_only(&mut self, tasks: usize) -> anyhow::Result<()> {
        self.batches += 1;
        let batch = format!("{:08x}-{}-", self.run, self.batches);
        self.publish_at_once(&batch, tasks).await
    }

    /// Publishes at a steady rate and measures each task from the publish call to its result.
    pub(crate) async fn latency(&mut self, tasks: usize, rate: u32) -> anyhow::Result<LatencyHistogram> {
        let (batch, results) = self.begin(tasks).await?;
        let (published, arrivals) = tokio::try_join!(self.publish_steadily(&batch, tasks, rate), results.all())?;
        let mut histogram = Histogram::new_with_bounds(1, LONGEST_NANOS, 3).context("bad bounds of the histogram")?;
        for (published, arrived) in published.into_iter().zip(arrivals) {
            let nanos = arrived.duration_since(published).as_nanos();
            histogram.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        Ok(histogram)
    }

    /// A new batch, whose results are listened for before its first task goes out.
    async fn begin(&mut self, tasks: usize) -> anyhow::Result<(String, Arrivals)> {
        self.batches += 1;
        let batch = format!("{:08x}-{}-", self.run, self.batches);
        let arriving = match self.results {
            Results::Keep => self.client.subjects().results(),
            Results::Discard => format!("{}.*", self.inbox),
        };
        let subscriber =
            self.client.nats().subscribe(arriving.clone()).await.context("failed to listen for results")?;
        // A subscription counts when the server has it, and only a round trip tells.
        self.client.jetstream().query_account().await.context("failed to reach JetStream")?;
        let prefix = arriving.replace('*', &batch);
        let collector = Collector { subscriber, prefix, body: self.body.clone(), arrivals: vec![None; tasks] };
        let mut collecting = JoinSet::new();
        collecting.spawn(collector.collect());
        Ok((batch, Arrivals { collecting }))
    }

    async fn publish_at_once(&self, batch: &str, tasks: usize) -> anyhow::Result<()> {
        if self.together > 1 {
            return self.publish_together(batch, tasks).await;
        }
        let mut confirmations = FuturesUnordered::new();
        for number in 0..tasks {
            if confirmations.len() >= self.in_flight {
                confirmations.next().await.transpose()?;
            }
            confirmations.push(self.publish(batch, number).await?);
        }
        while let Some(confirmed) = confirmations.next().await {
            confirmed?;
        }
        Ok(())
    }

    /// The same in batches; as many of them are on their way as make up what may be unconfirmed at once.
    async fn publish_together(&self, batch: &str, tasks: usize) -> anyhow::Result<()> {
        let mut confirmations = FuturesUnordered::new();
        let most = self.in_flight.div_ceil(self.together);
        for first in (0..tasks).step_by(self.together) {
            if confirmations.len() >= most {
                confirmations.next().await.transpose()?;
            }
            let numbers = first..(first + self.together).min(tasks);
            let group = numbers.map(|number| self.task(batch, number)).collect::<anyhow::Result<Vec<_>>>()?;
            confirmations.push(async move {
                let stored = self.client.submit_together(&group).await;
                stored.into_iter().collect::<Result<Vec<u64>, SubmitError>>()
            });
        }
        while let Some(confirmed) = confirmations.next().await {
            confirmed?;
        }
        Ok(())
    }

    async fn publish_steadily(&self, batch: &str, tasks: usize, rate: u32) -> anyhow::Result<Vec<Instant>> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut confirmations = FuturesUnordered::new();
        let mut published = Vec::with_capacity(tasks);
        while published.len() < tasks {
            tokio::select! {
                _ = ticks.tick() => {
                    published.push(Instant::now());
                    confirmations.push(self.publish(batch, published.len() - 1).await?);
                }
                Some(confirmed) = confirmations.next() => { confirmed?; }
            }
        }
        while let Some(confirmed) = confirmations.next().await {
            confirmed?;
        }
        Ok(published)
    }

    /// Sends a task; the future that comes back waits for the broker to have it.
    async fn publish(
        &self,
        batch: &str,
        number: usize,
    ) -> anyhow::Result<impl Future<Output = Result<u64, SubmitError>> + use<>> {
        Ok(self.client.send(&self.task(batch, number)?).await?.stored())
    }

    fn task(&self, batch: &str, number: usize) -> anyhow::Result<NewTask> {
        let kind = self.kinds[number % self.kinds.len()].clone();
        let id = TaskId::new(format!("{batch}{number}"))?;
        let (priority, body) = (Priority::Normal, self.body.clone());
        let mut headers = HeaderMap::new();
        if self.results == Results::Discard {
            headers.insert(header::RESULT, "discard");
            headers.insert(header::REPLY_TO, format!("{}.{batch}{number}", self.inbox));
        }
        Ok(NewTask { kind, priority, id, headers, body })
    }
}

/// The results of a batch, collected by a task of their own.
struct Arrivals {
    collecting: JoinSet<anyhow::Result<Vec<Instant>>>,
}

impl Arrivals {
    /// When each of them arrived, by the number of the task.
    async fn all(mut self) -> anyhow::Result<Vec<Instant>> {
        self.collecting.join_next().await.context("nobody collects the results")?.context("the collector broke")?
    }
}

/// Reads the results of one batch as they arrive.
struct Collector {
    subscriber: Subscriber,
    /// What the subject of each result begins with; the number of its task follows.
    prefix: String,
    body: Bytes,
    arrivals: Vec<Option<Instant>>,
}

impl Collector {
    async fn collect(mut self) -> anyhow::Result<Vec<Instant>> {
        let mut left = self.arrivals.len();
        while left > 0 {
            let Ok(next) = tokio::time::timeout(STALL_LIMIT, self.subscriber.next()).await else {
                let total = self.arrivals.len();
                bail!(
                    "no result for {} s, {} of {total} arrived: is there an agent for the kind, and is the mesh idle?",
                    STALL_LIMIT.as_secs(),
                    total - left
                );
            };
            let message = next.context("the connection was closed")?;
            if self.arrived(&message)? {
                left -= 1;
            }
        }
        self.subscriber.unsubscribe().await.ok();
        Ok(self.arrivals.into_iter().flatten().collect())
    }

    /// Notes a result; whether it is one that was missing.
    fn arrived(&mut self, message: &Message) -> anyhow::Result<bool> {
        let number = message.subject.strip_prefix(&self.prefix).and_then(|number| number.parse::<usize>().ok());
        let Some(arrival) = number.and_then(|number| self.arrivals.get_mut(number)) else { return Ok(false) };
        if arrival.is_some() {
            return Ok(false);
        }
        let get = |name| message.headers.as_ref().and_then(|h| h.get(name)).map_or("", |value| value.as_str());
        if get(header::OUTCOME) != Outcome::Succeeded.as_str() {
            bail!("a task ended as `{}`: {}", get(header::OUTCOME).escape_debug(), get(header::ERROR).escape_debug());
        }
        if message.payload != self.body {
            bail!("a result is not what was sent: the handler of this kind must be `echo`");
        }
        *arrival = Some(Instant::now());
        Ok(true)
    }
}
