//! Everything that touches JetStream: the streams and their settings, the consumers of the lanes, and the
//! spelling of JetStream's own subjects.
//!
//! What is on the hot path is not done here but spelled here: the leader publishes pulls, records and acks itself
//! and gets their answers in its inbox, so that nothing waits for a reply.

mod alerts;
mod browse;
mod calls;
mod contents;
mod events;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{self, DirectGetErrorKind, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, kv};
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use shared::subject::Subjects;
use shared::{Epoch, Kind, TaskId};

pub(crate) use browse::Fill;

pub(crate) use events::HOOK_ACK_WAIT;

pub use calls::{Call, Calls};
#[cfg(test)]
pub(crate) use contents::Queued;
pub(crate) use contents::{Contents, Queues};

/// Oldest server that has what the mesh needs: per-message TTL, schedules, atomic batches.
const MINIMUM_SERVER: (i64, i64, i64) = (2, 12, 0);

/// How long a delivered message may stay unacknowledged before the broker delivers it again. Held messages are
/// extended long before; it only matters when a coordinator dies and no other takes over.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// How long it is kept how the attempts of a task ended, if nothing more happens to it: what was not removed when its
/// task was settled goes by its age.
const HISTORY_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Settings of the streams.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Copies of every stream: 1 on a single broker, 3 on a cluster that shall survive the loss of a server.
    pub replicas: usize,
    /// How long results are kept.
    ///
    /// Longer lets a late client find its result and a repeated id be recognised; shorter saves disk.
    #[serde(with = "humantime_serde")]
    pub result_age: Duration,
    /// Bytes of results kept; the oldest go first. -1 is not limited.
    pub result_bytes: i64,
    /// How long events are kept.
    #[serde(with = "humantime_serde")]
    pub event_age: Duration,
    /// Bytes of queued tasks; what would exceed them is refused when it is published. -1 is not limited.
    pub task_bytes: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            replicas: 1,
            result_age: Duration::from_secs(24 * 3600),
            result_bytes: -1,
            event_age: Duration::from_secs(72 * 3600),
            task_bytes: -1,
        }
    }
}

/// Why the broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is too old.
    #[error("the NATS server is version {found}, but Hivemesh needs {}.{} or later", MINIMUM_SERVER.0, MINIMUM_SERVER.1)]
    TooOld {
        /// What it says it is.
        found: String,
    },
    /// It has no JetStream, or not for us.
    #[error(
        "the NATS server has no JetStream for this account: start it with `-js`, or enable JetStream in its configuration"
    )]
    NoJetStream(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stream of that name is somebody else's.
    #[error(
        "stream `{stream}` exists, but is not a task stream of the mesh: {problem}; use another --mesh, or delete it"
    )]
    Foreign {
        /// The stream.
        stream: String,
        /// What is different.
        problem: String,
    },
    /// Something was refused.
    #[error("failed to {what}")]
    Refused {
        /// What was tried.
        what: String,
        /// What the broker said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn refused<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: impl Into<String>) -> impl FnOnce(E) -> StoreError {
    move |source| StoreError::Refused { what: what.into(), source: source.into() }
}

/// JetStream, as the mesh uses it.
#[derive(Clone, Debug)]
pub struct Store {
    jetstream: jetstream::Context,
    nats: async_nats::Client,
    subjects: Subjects,
    config: Config,
    calls: Arc<Calls>,
}

/// What a look at a stored message found.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers, without those that the broker adds.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// When it was stored, since 1970.
    pub stored: Duration,
}

impl Store {
    /// The store of a mesh over a connection.
    pub fn new(nats: async_nats::Client, subjects: Subjects, config: Config) -> Self {
        let jetstream = jetstream::ContextBuilder::new().timeout(Duration::from_secs(5)).build(nats.clone());
        Self { jetstream, nats, subjects, config, calls: Arc::default() }
    }

    /// What JetStream is asked for through this store and its clones.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Makes the streams, or checks those that are there.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let (major, minor, patch) = MINIMUM_SERVER;
        if !self.nats.is_server_compatible(major, minor, patch) {
            return Err(StoreError::TooOld { found: self.nats.server_info().version });
        }
        self.jetstream.query_account().await.map_err(|e| StoreError::NoJetStream(e.into()))?;
        for stream in self.streams() {
            self.ensure(stream).await?;
        }
        self.lease_bucket().await?;
        self.settings_bucket().await?;
        self.hooks_bucket().await?;
        Ok(())
    }

    /// The streams as the mesh makes them.
    pub fn streams(&self) -> [stream::Config; 5] {
        let Config { replicas, result_age, result_bytes, event_age, task_bytes } = self.config;
        let base = stream::Config {
            storage: StorageType::File,
            num_replicas: replicas,
            allow_direct: true,
            max_consumers: -1,
            ..Default::default()
        };
        [
            stream::Config {
                name: self.subjects.tasks_stream(),
                description: Some("tasks until they are settled".to_owned()),
                subjects: self.subjects.task_stream_filters(),
                retention: RetentionPolicy::WorkQueue,
                // A full stream refuses new tasks and drops none. (It could not hold message schedules then: the
                // server has one or the other.)
                discard: DiscardPolicy::New,
                max_bytes: task_bytes,
                allow_atomic_publish: true,
                ..base.clone()
            },
            stream::Config {
                name: self.subjects.results_stream(),
                description: Some("one result a task, written once".to_owned()),
                subjects: vec![self.subjects.results()],
                max_age: result_age,
                max_bytes: result_bytes,
                discard: DiscardPolicy::Old,
                allow_atomic_publish: true,
                ..base.clone()
            },
            stream::Config {
                name: self.subjects.events_stream(),
                description: Some("what happened in the mesh".to_owned()),
                subjects: vec![self.subjects.events()],
                max_age: event_age,
                max_bytes: 1 << 30,
                discard: DiscardPolicy::Old,
                ..base.clone()
            },
            stream::Config {
                name: self.subjects.dead_stream(),
                description: Some("tasks that could not be done".to_owned()),
                subjects: vec![self.subjects.all_dead()],
                discard: DiscardPolicy::Old,
                ..base.clone()
            },
            stream::Config {
                name: self.subjects.history_stream(),
                description: Some("how attempts of tasks ended that are not settled yet".to_owned()),
                subjects: vec![self.subjects.histories()],
                max_messages_per_subject: 1,
                max_age: HISTORY_AGE,
                discard: DiscardPolicy::Old,
                ..base
            },
        ]
    }

    async fn ensure(&self, wanted: stream::Config) -> Result<(), StoreError> {
        let name = wanted.name.clone();
        let existing = match self.jetstream.get_stream(&name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(_) => {
                let created = self.jetstream.create_stream(wanted).await;
                return created.map(drop).map_err(refused(format!("create stream `{name}`")));
            }
        };
        if existing.retention != wanted.retention {
            let problem = format!("its retention is {:?} and not {:?}", existing.retention, wanted.retention);
            return Err(StoreError::Foreign { stream: name, problem });
        }
        // What an operator has set on the stream stays; only what the mesh relies on is put right.
        let mut config = existing.clone();
        config.subjects = wanted.subjects;
        config.allow_direct = true;
        config.allow_atomic_publish |= wanted.allow_atomic_publish;
        if config == existing {
            return Ok(());
        }
        self.jetstream.update_stream(config).await.map(drop).map_err(refused(format!("update stream `{name}`")))
    }

    /// The bucket of the leader's lease.
    pub async fn lease_bucket(&self) -> Result<kv::Store, StoreError> {
        let bucket = self.subjects.lease_bucket();
        if let Ok(store) = self.jetstream.get_key_value(&bucket).await {
            return Ok(store);
        }
        let config = kv::Config {
            bucket: bucket.clone(),
            description: "who leads the mesh".to_owned(),
            history: 1,
            limit_markers: Some(Duration::from_secs(1)),
            num_replicas: self.config.replicas,
            ..Default::default()
        };
        self.jetstream.create_key_value(config).await.map_err(refused(format!("create bucket `{bucket}`")))
    }

    /// The bucket of what is said of kinds, tenants and pools while the mesh runs, and of how many agents are wished for.
    pub async fn settings_bucket(&self) -> Result<kv::Store, StoreError> {
        let bucket = self.subjects.settings_bucket();
        if let Ok(store) = self.jetstream.get_key_value(&bucket).await {
            return Ok(store);
        }
        let config = kv::Config {
            bucket: bucket.clone(),
            description: "settings of kinds, tenants and pools".to_owned(),
            history: 1,
            num_replicas: self.config.replicas,
            ..Default::default()
        };
        self.jetstream.create_key_value(config).await.map_err(refused(format!("create bucket `{bucket}`")))
    }

    /// The subjects of the mesh.
    pub(crate) fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// JetStream on the connection.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// The names of all consumers of the task stream.
    pub async fn lanes(&self) -> Result<Vec<String>, StoreError> {
        let stream = self.tasks().await?;
        stream.consumer_names().try_collect().await.map_err(refused("list the consumers of the task stream"))
    }

    /// Removes one consumer of the task stream; that it is not there is fine.
    pub async fn remove_lane(&self, name: &str) -> Result<(), StoreError> {
        use async_nats::jetstream::stream::ConsumerErrorKind;
        match self.calls.note(Call::Lane, self.tasks().await?.delete_consumer(name).await) {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), ConsumerErrorKind::JetStream(ref e) if e.error_code().0 == CONSUMER_NOT_FOUND) => {
                Ok(())
            }
            Err(e) => Err(refused(format!("remove consumer `{name}`"))(e)),
        }
    }

    /// Makes a consumer of the task stream, or gives it other filters. A consumer whose filters grow does not
    /// look back: what the new ones match and it has passed is not delivered. Such a lane is made anew instead.
    pub async fn put_lane(&self, name: &str, filters: Vec<String>) -> Result<(), StoreError> {
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: -1,
            max_deliver: -1,
            filter_subjects: filters,
            num_replicas: self.config.replicas,
            // What it knows is worth nothing after a restart of the broker: the lane is made anew, and what is not removed
            // from the stream comes again. Written to disk, it would be so with all that is pending, several times a second.
            memory_storage: true,
            ..Default::default()
        };
        let created = self.calls.note(Call::Lane, self.tasks().await?.create_consumer(config).await);
        created.map(drop).map_err(refused(format!("create consumer `{name}`")))
    }

    /// Where a pull on a lane is published, and its body.
    pub fn pull(&self, lane: &str, batch: usize, expires: Duration) -> (String, Bytes) {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{lane}", self.subjects.tasks_stream());
        let body = format!(r#"{{"batch":{batch},"expires":{}}}"#, expires.as_nanos());
        (subject, body.into())
    }

    /// Where the result of a task is looked up; the answer is the message, or the status 404.
    pub fn result_lookup(&self, id: &TaskId) -> String {
        format!("$JS.API.DIRECT.GET.{}.{}", self.subjects.results_stream(), self.subjects.result(id))
    }

    /// Where the same is asked of the server that leads the stream, with the body of that request; see
    /// [`says_not_found`].
    pub fn result_lookup_at_leader(&self, id: &TaskId) -> (String, Bytes) {
        let subject = format!("$JS.API.STREAM.MSG.GET.{}", self.subjects.results_stream());
        (subject, format!(r#"{{"last_by_subj":"{}"}}"#, self.subjects.result(id)).into())
    }

    /// Whether more than one server keeps the results.
    pub async fn results_are_replicated(&self) -> Result<bool, StoreError> {
        let stream = self.jetstream.get_stream(self.subjects.results_stream()).await;
        Ok(stream.map_err(refused("read the state of the results"))?.cached_info().config.num_replicas > 1)
    }

    /// Where a message is removed from the task stream by its sequence, and the body of that request.
    pub fn removal(&self, sequence: u64) -> (String, Bytes) {
        let subject = format!("$JS.API.STREAM.MSG.DELETE.{}", self.subjects.tasks_stream());
        (subject, format!(r#"{{"seq":{sequence},"no_erase":true}}"#).into())
    }

    /// The result of a task, if it is recorded.
    pub async fn result(&self, id: &TaskId) -> Result<Option<Stored>, StoreError> {
        let stream = self.get(self.subjects.results_stream()).await?;
        self.found(stream.direct_get_last_for_subject(self.subjects.result(id)).await)
    }

    /// A queued task by its sequence, if it is still there.
    pub async fn queued(&self, sequence: u64) -> Result<Option<Stored>, StoreError> {
        self.found(self.tasks().await?.direct_get(sequence).await)
    }

    /// A queued task by its id, if it is there: the id stands in its subject, or is its sequence.
    pub async fn queued_by_id(&self, id: &TaskId) -> Result<Option<Stored>, StoreError> {
        let stream = self.tasks().await?;
        let by_subject = self.found(stream.direct_get_last_for_subject(self.subjects.tasks_with_id(id)).await)?;
        match (by_subject, id.as_str().parse::<u64>()) {
            (None, Ok(sequence)) if sequence > 0 => self.found(stream.direct_get(sequence).await),
            (by_subject, _) => Ok(by_subject),
        }
    }

    /// The subjects of what is queued, as far as they can be listed at a bearable price: those without an id
    /// always, those with one while they are not too many.
    pub async fn queued_subjects(&self) -> Result<Vec<String>, StoreError> {
        const BEARABLE: u64 = 20_000;
        let stream = self.jetstream.get_stream(self.subjects.tasks_stream()).await;
        let state = stream.map_err(refused("read the state of the task stream"))?.cached_info().state.clone();
        let filters = match state.subjects_count {
            0 => Vec::new(),
            1..=BEARABLE => vec![self.subjects.all_tasks()],
            _ => self.subjects.task_filters_without_id(),
        };
        let mut subjects = Vec::new();
        for filter in filters {
            let counts = self.subject_counts(self.subjects.tasks_stream(), filter, BEARABLE as usize).await?;
            subjects.extend(counts.into_iter().map(|(subject, _)| subject));
        }
        Ok(subjects)
    }

    /// A queued message by its exact subject.
    pub async fn queued_by_subject(&self, subject: &str) -> Result<Option<Stored>, StoreError> {
        self.found(self.tasks().await?.direct_get_last_for_subject(subject).await)
    }

    /// How many messages the task stream holds, and the sequence of the last.
    pub async fn task_count(&self) -> Result<(u64, u64), StoreError> {
        let stream = self.calls.note(Call::Count, self.jetstream.get_stream(self.subjects.tasks_stream()).await);
        let state = stream.map_err(refused("read the state of the task stream"))?.cached_info().state.clone();
        Ok((state.messages, state.last_sequence))
    }

    /// How many messages the task stream holds, and of how many subjects.
    pub(crate) async fn task_stream_size(&self) -> Result<(u64, u64), StoreError> {
        let stream = self.jetstream.get_stream(self.subjects.tasks_stream()).await;
        let state = stream.map_err(refused("read the state of the task stream"))?.cached_info().state.clone();
        Ok((state.messages, state.subjects_count))
    }

    /// How many tasks of a kind the stream holds, whoever has them. The broker counts them without sending any but two.
    pub(crate) async fn queued_of_kind(&self, kind: &Kind) -> Result<u64, StoreError> {
        let mut count = 0;
        for filter in self.subjects.kind_filters(kind) {
            count += self.count_queued(&filter).await?;
        }
        Ok(count)
    }

    /// How many messages of the task stream match a filter: the first that does is read, and its answer says how many
    /// come after it.
    async fn count_queued(&self, filter: &str) -> Result<u64, StoreError> {
        let what = || format!("count the tasks under `{filter}`");
        let subject = format!("$JS.API.DIRECT.GET.{}", self.subjects.tasks_stream());
        let question = serde_json::json!({ "seq": 1, "next_by_subj": filter, "batch": 1 }).to_string();
        let answer = self.nats.request(subject, question.into()).await.map_err(refused(what()))?;
        match answer.status {
            None => {
                let header = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Num-Pending"));
                let after: Option<u64> = header.and_then(|value| value.as_str().parse().ok());
                after.map(|after| after + 1).ok_or_else(|| refused(what())("the answer has no number in it"))
            }
            Some(StatusCode::NOT_FOUND) => Ok(0),
            Some(status) => {
                let said = format!("{status} {}", answer.description.unwrap_or_default());
                Err(refused(what())(said))
            }
        }
    }

    /// How many messages of each subject a stream holds that match the filter, at most `limit` subjects.
    pub async fn subject_counts(
        &self,
        stream: String,
        filter: String,
        limit: usize,
    ) -> Result<Vec<(String, usize)>, StoreError> {
        use futures_util::StreamExt as _;
        let stream = self.get(stream).await?;
        let subjects = self.calls.note(Call::Count, stream.info_with_subjects(filter).await);
        let subjects = subjects.map_err(refused("count subjects"))?;
        subjects.take(limit).try_collect().await.map_err(refused("count subjects"))
    }

    /// What is kept of how attempts ended: each with the sequence of its task.
    pub async fn histories(&self) -> Result<Vec<(u64, Bytes)>, StoreError> {
        use futures_util::StreamExt as _;
        let what = || "read how attempts ended";
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(10),
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let stream = self.get(self.subjects.history_stream()).await?;
        let consumer = stream.create_consumer(config).await.map_err(refused(what()))?;
        let count = consumer.cached_info().num_pending as usize;
        let mut kept: BTreeMap<u64, (Epoch, Bytes)> = BTreeMap::new();
        if count > 0 {
            let batch = consumer.fetch().max_messages(count).messages().await.map_err(refused(what()))?;
            futures_util::pin_mut!(batch);
            while let Some(message) = batch.next().await {
                let message = message.map_err(refused(what()))?;
                let Some((sequence, epoch)) = self.subjects.history_key(&message.subject) else { continue };
                // Of several leaders the last one has followed those before.
                if kept.get(&sequence).is_none_or(|(other, _)| *other <= epoch) {
                    kept.insert(sequence, (epoch, message.payload.clone()));
                }
            }
        }
        Ok(kept.into_iter().map(|(sequence, (_, body))| (sequence, body)).collect())
    }

    /// Where the history of a settled task is removed, and the body of that request.
    pub fn history_removal(&self, sequence: u64) -> (String, Bytes) {
        let subject = format!("$JS.API.STREAM.PURGE.{}", self.subjects.history_stream());
        (subject, format!(r#"{{"filter":"{}"}}"#, self.subjects.histories_of(sequence)).into())
    }

    /// A dead letter by its sequence.
    pub async fn dead_letter(&self, sequence: u64) -> Result<Option<Stored>, StoreError> {
        self.look_among_dead(serde_json::json!({ "seq": sequence })).await
    }

    /// The first dead letter whose subject matches, at this sequence or after it.
    pub async fn dead_from(&self, filter: &str, sequence: u64) -> Result<Option<Stored>, StoreError> {
        self.look_among_dead(serde_json::json!({ "seq": sequence.max(1), "next_by_subj": filter })).await
    }

    /// The first dead letter of a subject that was stored at this time, since 1970, or after it.
    pub async fn dead_since(&self, subject: &str, time: Duration) -> Result<Option<Stored>, StoreError> {
        let time = humantime::format_rfc3339_nanos(std::time::UNIX_EPOCH + time).to_string();
        self.look_among_dead(serde_json::json!({ "start_time": time, "next_by_subj": subject })).await
    }

    /// The last dead letter of a subject at this sequence or before it: the broker finds it by its index, however
    /// many others lie between.
    pub async fn dead_up_to(&self, subject: &str, sequence: u64) -> Result<Option<Stored>, StoreError> {
        if sequence == 0 {
            return Ok(None);
        }
        self.look_among_dead(serde_json::json!({ "multi_last": [subject], "up_to_seq": sequence, "batch": 1 })).await
    }

    /// The subjects of dead letters and how many each has.
    pub async fn dead_subjects(&self) -> Result<Vec<(String, usize)>, StoreError> {
        self.subject_counts(self.subjects.dead_stream(), self.subjects.all_dead(), usize::MAX).await
    }

    /// The sequence of the last dead letter there has been.
    pub async fn last_dead(&self) -> Result<u64, StoreError> {
        let stream = self.jetstream.get_stream(self.subjects.dead_stream()).await;
        Ok(stream.map_err(refused("read the state of the stream of dead letters"))?.cached_info().state.last_sequence)
    }

    /// Removes a dead letter. That it is not there any more is fine: the answer says whether it was.
    pub async fn remove_dead(&self, sequence: u64) -> Result<bool, StoreError> {
        let what = || format!("remove dead letter {sequence}");
        match self.get(self.subjects.dead_stream()).await?.delete_message(sequence).await {
            Ok(removed) => Ok(removed),
            Err(error) if self.dead_letter(sequence).await?.is_some() => Err(refused(what())(error)),
            Err(_) => Ok(false),
        }
    }

    /// Removes all dead letters of a subject, or of all subjects, up to this sequence; answers how many.
    pub async fn purge_dead(&self, filter: &str, until: u64) -> Result<u64, StoreError> {
        let stream = self.get(self.subjects.dead_stream()).await?;
        let purged = stream.purge().filter(filter).sequence(until + 1).await;
        Ok(purged.map_err(refused("remove dead letters"))?.purged)
    }

    async fn look_among_dead(&self, question: serde_json::Value) -> Result<Option<Stored>, StoreError> {
        // No message has this sequence, and the broker calls such a question empty.
        if question.get("seq").is_some_and(|sequence| *sequence == 0) {
            return Ok(None);
        }
        let subject = format!("$JS.API.DIRECT.GET.{}", self.subjects.dead_stream());
        let answer = self.calls.note(Call::Read, self.nats.request(subject, question.to_string().into()).await);
        let answer = answer.map_err(refused("read a dead letter"))?;
        match answer.status {
            None => {
                let message = jetstream::message::StreamMessage::try_from(answer);
                message.map(|message| Some(message.into())).map_err(refused("read a dead letter"))
            }
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => {
                let said = format!("{status} {}", answer.description.unwrap_or_default());
                Err(refused("read a dead letter")(said))
            }
        }
    }

    fn found(
        &self,
        got: Result<jetstream::message::StreamMessage, stream::DirectGetError>,
    ) -> Result<Option<Stored>, StoreError> {
        let found = match got {
            Ok(message) => Ok(Some(message.into())),
            Err(e) if e.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(e) => Err(refused("read a stored message")(e)),
        };
        self.calls.note(Call::Read, found)
    }

    async fn tasks(&self) -> Result<stream::Stream<()>, StoreError> {
        self.get(self.subjects.tasks_stream()).await
    }

    async fn get(&self, name: String) -> Result<stream::Stream<()>, StoreError> {
        self.jetstream.get_stream_no_info(&name).await.map_err(refused(format!("reach stream `{name}`")))
    }
}

/// Error code of JetStream: the consumer is not there.
const CONSUMER_NOT_FOUND: u64 = 10014;

/// Error code of JetStream: the stream has no such message.
const NO_MESSAGE_FOUND: u64 = 10037;

/// Error code of JetStream: the subject has a message already, so a result is recorded.
const WRONG_LAST_SEQUENCE: u64 = 10071;

impl From<jetstream::message::StreamMessage> for Stored {
    fn from(message: jetstream::message::StreamMessage) -> Self {
        Self {
            sequence: message.sequence,
            subject: message.subject.to_string(),
            headers: message.headers,
            body: message.payload,
            stored: Duration::from_nanos(u64::try_from(message.time.unix_timestamp_nanos()).unwrap_or_default()),
        }
    }
}

/// What the broker said to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is stored.
    Stored,
    /// There was one before: it stays.
    Already,
    /// Nothing is known: it has to be tried again.
    Unknown,
}

impl Recorded {
    /// Reads the answer to a publish into a stream.
    pub fn parse(status: Option<StatusCode>, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct PubAck {
            #[serde(default)]
            seq: u64,
            error: Option<PubError>,
        }
        #[derive(Deserialize)]
        struct PubError {
            #[serde(default)]
            err_code: u64,
        }
        if status.is_some() {
            return Recorded::Unknown;
        }
        match serde_json::from_slice::<PubAck>(body) {
            Ok(PubAck { error: None, seq }) if seq > 0 => Recorded::Stored,
            Ok(PubAck { error: Some(error), .. }) if error.err_code == WRONG_LAST_SEQUENCE => Recorded::Already,
            _ => Recorded::Unknown,
        }
    }
}

/// Whether the server that leads a stream says that it has no such message.
pub fn says_not_found(answer: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<Problem>,
    }
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        err_code: u64,
    }
    let answer = serde_json::from_slice::<Answer>(answer).ok();
    answer.and_then(|answer| answer.error).is_some_and(|error| error.err_code == NO_MESSAGE_FOUND)
}

/// What the reply subject of a delivered message says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata<'a> {
    /// The consumer that delivered it.
    pub consumer: &'a str,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the stream stored it, since 1970.
    pub stored: Duration,
    /// How many more the consumer has to deliver.
    pub pending: u64,
}

impl<'a> Metadata<'a> {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`, or the
    /// longer form with the domain and the account before the stream.
    pub fn parse(ack: &'a str) -> Option<Self> {
        let mut tokens = ack.strip_prefix("$JS.ACK.")?.split('.');
        if ack.split('.').count() >= 11 {
            tokens.nth(1);
        }
        let consumer = tokens.nth(1)?;
        let sequence = tokens.nth(1)?.parse().ok()?;
        let stored = Duration::from_nanos(tokens.nth(1)?.parse().ok()?);
        let pending = tokens.next()?.parse().ok()?;
        Some(Self { consumer, sequence, stored, pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_ack_subject_are_read() {
        let expected = Metadata {
            consumer: "lane",
            sequence: 42,
            stored: Duration::from_nanos(1_700_000_000_000_000_001),
            pending: 7,
        };

        let short = "$JS.ACK.HIVE_TASKS.lane.3.42.41.1700000000000000001.7";
        let long = "$JS.ACK.hub.acchash.HIVE_TASKS.lane.3.42.41.1700000000000000001.7";
        assert_eq!(Metadata::parse(short), Some(expected));
        assert_eq!(Metadata::parse(long), Some(expected));
        assert_eq!(Metadata::parse(&format!("{long}.random")), Some(expected));
        assert_eq!(Metadata::parse("$JS.ACK.x"), None);
    }

    #[test]
    fn only_one_error_means_that_there_is_no_result() {
        let says = |body: &str| says_not_found(body.as_bytes());

        assert!(says(r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#));
        assert!(!says(r#"{"error":{"code":503,"err_code":10008,"description":"system temporarily unavailable"}}"#));
        assert!(!says(r#"{"message":{"subject":"hive.result.t","seq":3}}"#));
        assert!(!says(""));
    }

    #[test]
    fn only_an_answer_with_a_sequence_is_a_record() {
        let parse = |body: &str| Recorded::parse(None, body.as_bytes());

        assert_eq!(parse(r#"{"stream":"HIVE_RESULTS","seq":9}"#), Recorded::Stored);
        assert_eq!(
            parse(r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"}}"#),
            Recorded::Already
        );
        assert_eq!(parse(r#"{"error":{"code":503,"err_code":10077}}"#), Recorded::Unknown);
        assert_eq!(parse(""), Recorded::Unknown);
        assert_eq!(Recorded::parse(Some(StatusCode::NO_RESPONDERS), b""), Recorded::Unknown);
    }
}
