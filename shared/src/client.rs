//! A small client: submit tasks, wait for results, call, watch. The command line is built on it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use shared::client::{Client, NewTask};
//!
//! let client = Client::new(async_nats::connect("nats://127.0.0.1:4222").await?, Default::default());
//! let result = client.call(NewTask::new("echo".parse()?, "hello"), std::time::Duration::from_secs(10)).await?;
//! assert_eq!(result.body, "hello");
//! # Ok(())
//! # }
//! ```

use std::time::{Duration, Instant};

use async_nats::header::{
    HeaderName, HeaderValue, NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
};
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, message::PublishMessage};
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::header;
use crate::names::{Kind, MeshName, Priority, TaskId, excerpt};
use crate::subject::Subjects;
use crate::task::Outcome;

/// How long one try to store a task may take before the same id is sent again.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a task is sent when the broker does not say that it has it.
const STORE_TRIES: u32 = 8;
/// Most tasks that are stored together. (The server takes 1,000.)
const MOST_TOGETHER: usize = 500;
/// Most bytes of bodies that are stored together, but for the last one's.
const MOST_BYTES_TOGETHER: usize = 4 << 20;

/// Makes a message one of an atomic batch (ADR-50): of which batch, and its place in it from 1 on. The last commits it,
/// and is answered for all: they are stored together or not at all.
pub fn add_to_batch(headers: &mut HeaderMap, batch: &str, place: u64, is_last: bool) {
    headers.insert(NATS_BATCH_ID, batch);
    headers.insert(NATS_BATCH_SEQUENCE, HeaderValue::from(place));
    if is_last {
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
    }
}

/// A client of one mesh.
#[derive(Clone, Debug)]
pub struct Client {
    nats: async_nats::Client,
    jetstream: jetstream::Context,
    subjects: Subjects,
}

/// A task to be submitted.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// What is to be done.
    pub kind: Kind,
    /// How urgent it is.
    pub priority: Priority,
    /// Its id; unique unless the caller wants to recognise a repetition.
    pub id: TaskId,
    /// Headers: the mesh's own, and any for the handler.
    pub headers: HeaderMap,
    /// The body; opaque to the mesh.
    pub body: Bytes,
}

impl NewTask {
    /// A task of normal priority with a new id and no headers.
    pub fn new(kind: Kind, body: impl Into<Bytes>) -> Self {
        Self { kind, priority: Priority::Normal, id: TaskId::generate(), headers: HeaderMap::new(), body: body.into() }
    }

    /// Sets a header. A line break or another control character in it is an error.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, SubmitError> {
        let bad = || SubmitError::BadHeader { name: excerpt(name), value: excerpt(value) };
        if value.chars().any(char::is_control) {
            return Err(bad());
        }
        let name: HeaderName = name.parse().map_err(|_| bad())?;
        let value: HeaderValue = value.parse().map_err(|_| bad())?;
        self.headers.insert(name, value);
        Ok(self)
    }
}

/// Why a task was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// A header that cannot be sent.
    #[error("header `{name}: {value}` cannot be sent: a name has no spaces or colons, a value no line breaks")]
    BadHeader {
        /// The name, escaped.
        name: String,
        /// The value, escaped.
        value: String,
    },
    /// More than the server takes in one message.
    #[error(
        "the task is {size} bytes with its headers, but the NATS server takes {limit}: pass a reference instead, or raise its max_payload"
    )]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The server's limit in bytes.
        limit: usize,
    },
    /// A task of this id is queued or running.
    #[error("a task with the id `{0}` is already queued or running")]
    Duplicate(TaskId),
    /// The mesh's streams are not there.
    #[error("mesh `{0}` has no task stream: start a coordinator on it first")]
    NoStream(MeshName),
    /// The broker did not confirm that it has the task. It may have it: submit it with the same id again.
    #[error("the NATS server did not confirm that it stored task `{id}`")]
    Store {
        /// The task.
        id: TaskId,
        /// What the last try ended with.
        source: jetstream::context::PublishError,
    },
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// It took too long.
    #[error("task `{id}` has no result after {}", humantime::format_duration(*.waited))]
    Timeout {
        /// The task.
        id: TaskId,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The subscription could not be made, or ended.
    #[error("failed to listen for results")]
    Subscribe(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The stream of results could not be read.
    #[error("failed to read the stream of results")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The task was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// A task's result.
#[derive(Clone, Debug)]
pub struct TaskResult {
    /// The task.
    pub id: TaskId,
    /// What was to be done.
    pub kind: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How often it was started.
    pub attempts: u32,
    /// The agent that ran it last.
    pub agent: Option<String>,
    /// Why it failed, in words.
    pub error: Option<String>,
    /// From acceptance to the last start.
    pub queued: Duration,
    /// How long the last attempt ran.
    pub run: Duration,
    /// The handler's output.
    pub body: Bytes,
}

impl TaskResult {
    /// Reads a result from its message; `None` if it is not one.
    pub fn parse(headers: Option<&HeaderMap>, body: Bytes) -> Option<Self> {
        let get = |name| headers?.get(name).map(HeaderValue::as_str);
        let millis = |name| Duration::from_millis(get(name).and_then(|v| v.parse().ok()).unwrap_or(0));
        Some(Self {
            id: TaskId::new(get(header::TASK)?).ok()?,
            kind: get(header::KIND).unwrap_or_default().to_owned(),
            outcome: get(header::OUTCOME)?.parse().ok()?,
            attempts: get(header::ATTEMPTS).and_then(|v| v.parse().ok()).unwrap_or(0),
            agent: get(header::AGENT).map(str::to_owned),
            error: get(header::ERROR).map(str::to_owned),
            queued: millis(header::QUEUED_MS),
            run: millis(header::RUN_MS),
            body,
        })
    }
}

/// A task on its way to the stream.
#[derive(Debug)]
pub struct Sent {
    id: TaskId,
    mesh: MeshName,
    ack: PublishAckFuture,
}

impl Sent {
    /// Waits until the broker has confirmed that it stored the task. The result is its sequence.
    pub async fn stored(self) -> Result<u64, SubmitError> {
        match self.ack.await {
            Ok(ack) => Ok(ack.sequence),
            Err(source) => Err(match source.kind() {
                PublishErrorKind::WrongLastSequence => SubmitError::Duplicate(self.id),
                PublishErrorKind::StreamNotFound => SubmitError::NoStream(self.mesh),
                _ => SubmitError::Store { id: self.id, source },
            }),
        }
    }
}

impl Client {
    /// A client of the mesh over a connection.
    pub fn new(nats: async_nats::Client, mesh: MeshName) -> Self {
        let jetstream = jetstream::ContextBuilder::new().timeout(STORE_TIMEOUT).build(nats.clone());
        Self { nats, jetstream, subjects: Subjects::new(mesh) }
    }

    /// The connection.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// JetStream on the connection.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// The subjects of the mesh.
    pub fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Submits a task and waits until it is stored. Sent again under the same id while the broker does not
    /// answer, so it is accepted once. Returns its sequence in the task stream.
    pub async fn submit(&self, task: &NewTask) -> Result<u64, SubmitError> {
        self.submit_again(task, false).await
    }

    /// Submits tasks as [`Self::submit`] does, many at a time in atomic batches. A broker that has everything on the disk
    /// before it confirms it takes them ten times as fast so. What is said of each is in their order.
    pub async fn submit_together(&self, tasks: &[NewTask]) -> Vec<Result<u64, SubmitError>> {
        let mut stored = Vec::with_capacity(tasks.len());
        while stored.len() < tasks.len() {
            let batch = first_together(&tasks[stored.len()..]);
            match self.store_together(batch).await {
                Ok(first) => stored.extend((first..).take(batch.len()).map(Ok)),
                // One of them is a reason for all: each is told its own. It may be that they were stored.
                Err(may_be_stored) => {
                    let each = batch.iter().map(|task| self.submit_again(task, may_be_stored));
                    stored.extend(futures_util::future::join_all(each).await);
                }
            }
        }
        stored
    }

    /// Stores tasks in one atomic batch. Returns the sequence of the first; or, if they were not stored, whether they may
    /// have been all the same.
    async fn store_together(&self, tasks: &[NewTask]) -> Result<u64, bool> {
        let (Some(last), true) = (tasks.len().checked_sub(1), tasks.iter().all(|task| self.check_size(task).is_ok()))
        else {
            return Err(false);
        };
        let batch = TaskId::generate();
        for (place, task) in tasks.iter().enumerate() {
            let mut headers = task.headers.clone();
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
            add_to_batch(&mut headers, batch.as_str(), place as u64 + 1, place == last);
            let (subject, body) = (self.subjects.task(&task.kind, task.priority, &task.id), task.body.clone());
            if place < last {
                self.nats.publish_with_headers(subject, headers, body).await.map_err(|_| false)?;
                continue;
            }
            let asked = self.nats.request_with_headers(subject, headers, body);
            let Ok(Ok(answer)) = tokio::time::timeout(STORE_TIMEOUT * 2, asked).await else { return Err(true) };
            return match serde_json::from_slice(&answer.payload) {
                Ok(Response::Ok(PublishAck { sequence, .. })) => Ok((sequence + 1).saturating_sub(tasks.len() as u64)),
                Ok(Response::Err { .. }) | Err(_) => Err(false),
            };
        }
        Err(false)
    }

    /// Submits a task that may have been stored by a try before this.
    async fn submit_again(&self, task: &NewTask, may_be_stored: bool) -> Result<u64, SubmitError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.send(task).await?.stored().await {
                // An earlier try of ours may have been stored although its confirmation was lost.
                Err(SubmitError::Duplicate(_)) if may_be_stored || tries > 1 => {
                    return Ok(self.queued_sequence(&task.id).await);
                }
                Err(SubmitError::Store { .. }) if tries < STORE_TRIES => {
                    tokio::time::sleep(Duration::from_millis(50 << tries)).await;
                }
                stored => return stored,
            }
        }
    }

    /// Sends a task without waiting for the broker's answer, so that many can be on their way.
    pub async fn send(&self, task: &NewTask) -> Result<Sent, SubmitError> {
        self.check_size(task)?;
        let message = PublishMessage::build()
            .headers(task.headers.clone())
            .expected_last_subject_sequence(0)
            .payload(task.body.clone());
        let subject = self.subjects.task(&task.kind, task.priority, &task.id);
        let ack = self
            .jetstream
            .send_publish(subject, message)
            .await
            .map_err(|source| SubmitError::Store { id: task.id.clone(), source })?;
        Ok(Sent { id: task.id.clone(), mesh: self.subjects.mesh().clone(), ack })
    }

    fn check_size(&self, task: &NewTask) -> Result<(), SubmitError> {
        let size = task.body.len() + task.headers.len() * 32;
        let limit = self.nats.max_payload();
        if limit > 0 && size > limit { Err(SubmitError::TooLarge { size, limit }) } else { Ok(()) }
    }

    async fn queued_sequence(&self, id: &TaskId) -> u64 {
        let Ok(stream) = self.jetstream.get_stream_no_info(self.subjects.tasks_stream()).await else { return 0 };
        let found = stream.direct_get_last_for_subject(self.subjects.tasks_with_id(id)).await;
        found.map(|message| message.sequence).unwrap_or(0)
    }

    /// The result of a task, if it is recorded.
    pub async fn result(&self, id: &TaskId) -> Result<Option<TaskResult>, WaitError> {
        use async_nats::jetstream::stream::DirectGetErrorKind;
        let stream = self
            .jetstream
            .get_stream_no_info(self.subjects.results_stream())
            .await
            .map_err(|e| WaitError::Read(e.into()))?;
        match stream.direct_get_last_for_subject(self.subjects.result(id)).await {
            Ok(message) => Ok(TaskResult::parse(Some(&message.headers), message.payload)),
            Err(e) if e.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(e) => Err(WaitError::Read(e.into())),
        }
    }

    /// Waits for the result of a task that keeps it, whoever submitted it.
    pub async fn wait(&self, id: &TaskId, timeout: Duration) -> Result<TaskResult, WaitError> {
        let started = Instant::now();
        let mut recorded =
            self.nats.subscribe(self.subjects.result(id)).await.map_err(|e| WaitError::Subscribe(e.into()))?;
        loop {
            // The stream has the last word: a subscriber also sees a result that the stream refuses.
            if let Some(result) = self.result(id).await? {
                return Ok(result);
            }
            let Some(left) = timeout.checked_sub(started.elapsed()) else {
                return Err(WaitError::Timeout { id: id.clone(), waited: timeout });
            };
            // The copy may overtake the stream, and a lost one must not be waited for: look again soon.
            let _ = tokio::time::timeout(left.min(Duration::from_secs(2)), recorded.next()).await;
        }
    }

    /// Submits a task and waits for its result, which comes straight from the coordinator.
    pub async fn call(&self, task: NewTask, timeout: Duration) -> Result<TaskResult, WaitError> {
        let inbox = self.nats.new_inbox();
        let mut replies = self.nats.subscribe(inbox.clone()).await.map_err(|e| WaitError::Subscribe(e.into()))?;
        let task = task.header(header::REPLY_TO, &inbox)?;
        self.submit(&task).await?;
        let reply = async {
            loop {
                match tokio::time::timeout(Duration::from_secs(2), replies.next()).await {
                    Ok(Some(Message { headers, payload, .. })) => {
                        if let Some(result) = TaskResult::parse(headers.as_ref(), payload) {
                            return Ok(result);
                        }
                    }
                    Ok(None) => return Err(WaitError::Subscribe("the connection was closed".into())),
                    // A reply is not stored: one that fell into a reconnect is found in the stream.
                    Err(_) => {
                        if let Some(result) = self.result(&task.id).await? {
                            return Ok(result);
                        }
                    }
                }
            }
        };
        let timed_out = WaitError::Timeout { id: task.id.clone(), waited: timeout };
        tokio::time::timeout(timeout, reply).await.unwrap_or(Err(timed_out))
    }

    /// Every result from now on, as it is recorded. What falls into a reconnect is not seen: read the stream
    /// where none may be missed.
    pub async fn watch(&self) -> Result<impl Stream<Item = TaskResult> + Unpin + use<>, WaitError> {
        let results = self.nats.subscribe(self.subjects.results()).await.map_err(|e| WaitError::Subscribe(e.into()))?;
        Ok(results.filter_map(|m| std::future::ready(TaskResult::parse(m.headers.as_ref(), m.payload))))
    }
}

/// Those of the tasks that go into the first batch.
fn first_together(tasks: &[NewTask]) -> &[NewTask] {
    let mut bytes = 0;
    let fits = |task: &&NewTask| {
        let fits = bytes < MOST_BYTES_TOGETHER;
        bytes += task.body.len();
        fits
    };
    let count = tasks.iter().take(MOST_TOGETHER).take_while(fits).count();
    &tasks[..count]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(count: usize, bytes: usize) -> Vec<NewTask> {
        (0..count).map(|_| NewTask::new(Kind::new("echo").unwrap(), vec![0; bytes])).collect()
    }

    #[test]
    fn a_batch_is_bounded_in_number_and_in_bytes_and_never_empty() {
        assert_eq!(first_together(&tasks(3, 10)).len(), 3);
        assert_eq!(first_together(&tasks(MOST_TOGETHER + 1, 1)).len(), MOST_TOGETHER);
        assert_eq!(first_together(&tasks(3, MOST_BYTES_TOGETHER)).len(), 1);
    }
}
