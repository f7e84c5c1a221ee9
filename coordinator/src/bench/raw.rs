//! The raw path: a forwarder and a worker, tasks of this process on connections of their own.
//!
//! It has subjects of the same shapes as a mesh under a name of its own, and its streams are set up as the
//! mesh's are, so that the broker has the same to do for both.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, AckKind, ErrorCode, stream};
use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt as _;
use shared::client::SubmitError;
use shared::connect::{Patience, Settings};
use shared::subject::{AgentVerb, InboxVerb, Subjects};
use shared::{AgentId, Client, MeshName, Outcome, TaskId, header};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::warn;

use super::CONNECT_PATIENCE;

/// Carries the ack subject to the worker and back: a client may not publish with it as the reply subject.
const ACK_HEADER: &str = "Bench-Ack";
/// The worker's name.
const WORKER: &str = "worker";
/// Tasks pulled at once.
const PULL_BATCH: usize = 500;
/// Tasks delivered and not acked.
const MAX_ACK_PENDING: i64 = 20_000;
/// Results that are being recorded at once.
const SETTLING: usize = 1_024;
/// How long deleting what was made may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);

/// The raw path, running.
pub(crate) struct RawPath {
    jetstream: jetstream::Context,
    subjects: Subjects,
    /// The streams made so far.
    streams: Vec<String>,
    running: JoinSet<()>,
}

impl RawPath {
    /// Makes its streams, after the mesh's own, and starts the forwarder and the worker.
    pub(crate) async fn start(mesh: &Client, connection: &Settings) -> anyhow::Result<Self> {
        let name = MeshName::new(format!("BENCH_{:06x}", fastrand::u32(..1 << 24)))?;
        let jetstream = mesh.jetstream().clone();
        let mut path = Self { jetstream, subjects: Subjects::new(name), streams: Vec::new(), running: JoinSet::new() };
        match path.start_parts(mesh, connection).await {
            Ok(()) => Ok(path),
            Err(error) => {
                path.remove().await;
                Err(error)
            }
        }
    }

    /// The name that its subjects begin with.
    pub(crate) fn mesh(&self) -> &MeshName {
        self.subjects.mesh()
    }

    /// Ends it and deletes its streams.
    pub(crate) async fn remove(mut self) {
        self.running.shutdown().await;
        for name in self.streams {
            let deleted = tokio::time::timeout(REMOVE_LIMIT, self.jetstream.delete_stream(&name)).await;
            if !matches!(deleted, Ok(Ok(_))) {
                eprintln!("could not delete stream `{name}` of the raw path: delete it by hand");
            }
        }
    }

    async fn start_parts(&mut self, mesh: &Client, connection: &Settings) -> anyhow::Result<()> {
        let (model, own) = (mesh.subjects(), self.subjects.clone());
        self.stream_like(mesh, model.tasks_stream(), own.tasks_stream(), own.task_stream_filters()).await?;
        self.stream_like(mesh, model.results_stream(), own.results_stream(), vec![own.results()]).await?;
        self.start_worker(connection).await?;
        self.start_forwarder(connection).await
    }

    /// A stream set up as one of the mesh's is, under another name.
    async fn stream_like(
        &mut self,
        mesh: &Client,
        model: String,
        name: String,
        subjects: Vec<String>,
    ) -> anyhow::Result<()> {
        let model = mesh.jetstream().get_stream(&model).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                SubmitError::NoStream(mesh.subjects().mesh().clone()).into()
            }
            _ => anyhow::Error::new(error).context(format!("failed to look at stream `{model}`")),
        })?;
        let config = stream::Config { name: name.clone(), subjects, ..model.cached_info().config.clone() };
        self.jetstream
            .create_stream(config)
            .await
            .with_context(|| format!("failed to make stream `{name}` for the raw path (--skip-raw does without)"))?;
        self.streams.push(name);
        Ok(())
    }

    async fn start_worker(&mut self, connection: &Settings) -> anyhow::Result<()> {
        let worker = AgentId::new(WORKER)?;
        let nats = connection.connect("bench raw worker", Patience::Limited(CONNECT_PATIENCE)).await?;
        let inbox = nats.subscribe(self.subjects.inbox(&worker, InboxVerb::Run)).await?;
        reach_server(&nats).await?;
        self.running.spawn(echo(nats, inbox, self.subjects.agent(&worker, AgentVerb::Done)));
        Ok(())
    }

    async fn start_forwarder(&mut self, connection: &Settings) -> anyhow::Result<()> {
        let nats = connection.connect("bench raw forwarder", Patience::Limited(CONNECT_PATIENCE)).await?;
        let done = nats.subscribe(self.subjects.agents(AgentVerb::Done)).await?;
        let stream = jetstream::new(nats.clone()).get_stream_no_info(self.subjects.tasks_stream()).await?;
        let consumer = stream.create_consumer(consumer_config(&self.subjects)).await;
        let consumer = consumer.context("failed to make a consumer for the raw path")?;
        let tasks = consumer.stream().max_messages_per_batch(PULL_BATCH).heartbeat(Duration::from_secs(2));
        let tasks = tasks.expires(Duration::from_secs(10)).messages().await?;
        let inbox = self.subjects.inbox(&AgentId::new(WORKER)?, InboxVerb::Run);
        self.running.spawn(forward(nats.clone(), tasks, inbox));
        self.running.spawn(settle(Client::new(nats, self.mesh().clone()), done));
        Ok(())
    }
}

fn consumer_config(subjects: &Subjects) -> pull::Config {
    pull::Config {
        durable_name: Some("raw".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(60),
        max_ack_pending: MAX_ACK_PENDING,
        filter_subject: subjects.all_tasks(),
        ..Default::default()
    }
}

/// A round trip, after which the server knows the subscriptions made before it.
async fn reach_server(nats: &async_nats::Client) -> anyhow::Result<()> {
    jetstream::new(nats.clone()).query_account().await.context("failed to reach JetStream")?;
    Ok(())
}

/// The worker: sends back what it gets.
async fn echo(nats: async_nats::Client, mut inbox: Subscriber, done: String) {
    while let Some(Message { headers, payload, .. }) = inbox.next().await {
        if nats.publish_with_headers(done.clone(), headers.unwrap_or_default(), payload).await.is_err() {
            return;
        }
    }
}

/// The way to the worker: every task goes to its inbox.
async fn forward(nats: async_nats::Client, mut tasks: pull::Stream, inbox: String) {
    while let Some(task) = tasks.next().await {
        let task = match task {
            Ok(task) => task.message,
            Err(error) => {
                warn!(%error, "the raw path's pull was interrupted");
                continue;
            }
        };
        let (Some(ack), Some((_, id))) = (task.reply, task.subject.rsplit_once('.')) else { continue };
        let mut headers = HeaderMap::new();
        headers.insert(ACK_HEADER, ack.as_str());
        headers.insert(header::TASK, id);
        if let Some(reply_to) = task.headers.as_ref().and_then(|headers| headers.get(header::REPLY_TO)) {
            headers.insert(header::REPLY_TO, reply_to.clone());
        }
        if nats.publish_with_headers(inbox.clone(), headers, task.payload).await.is_err() {
            return;
        }
    }
}

/// The way back: records each result, or sends it where it is wanted instead, then acks its task.
async fn settle(client: Client, mut done: Subscriber) {
    let places = Arc::new(Semaphore::new(SETTLING));
    let mut settling = JoinSet::new();
    while let (Some(message), Ok(place)) = (done.next().await, places.clone().acquire_owned().await) {
        let client = client.clone();
        settling.spawn(async move {
            if let Err(error) = settle_one(&client, message).await {
                warn!(%error, "the raw path could not settle a task");
            }
            drop(place);
        });
        while settling.try_join_next().is_some() {}
    }
}

async fn settle_one(client: &Client, message: Message) -> anyhow::Result<()> {
    let sent = message.headers.context("no headers")?;
    let get = |name| sent.get(name).map(async_nats::HeaderValue::as_str).context("a header is missing");
    let mut headers = HeaderMap::new();
    headers.insert(header::TASK, get(header::TASK)?);
    headers.insert(header::OUTCOME, Outcome::Succeeded.as_str());
    if let Ok(reply_to) = get(header::REPLY_TO) {
        client.nats().publish_with_headers(reply_to.to_owned(), headers, message.payload).await?;
    } else {
        let subject = client.subjects().result(&TaskId::new(get(header::TASK)?)?);
        let result =
            PublishMessage::build().headers(headers).expected_last_subject_sequence(0).payload(message.payload);
        client.jetstream().send_publish(subject, result).await?.await?;
    }
    client.nats().request(get(ACK_HEADER)?.to_owned(), AckKind::Ack.into()).await?;
    Ok(())
}
