//! What the streams hold, as it is measured: how much of it, how many copies, and what is queued of each kind.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::StatusCode;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{self, PersistenceMode, StorageType};
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream as futures};
use shared::subject::TaskSubject;
use shared::{Kind, Priority};

use super::{Call, Store, StoreError, Stored, refused};

/// So many subjects are listed; of more, each kind is counted by itself.
const LISTED: u64 = 20_000;
/// Questions that are on their way to the broker at a time.
const AT_A_TIME: usize = 16;

/// A stream, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// What it is for: `tasks`, `results`, `events`, `dead`, `history` or `lease`.
    pub(crate) stream: &'static str,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Bytes that it may hold, if that is limited.
    pub(crate) most_bytes: Option<u64>,
    /// How many messages it has ever taken: the sequence of the last.
    pub(crate) taken: u64,
    /// How many subjects it holds messages of.
    pub(crate) subjects: u64,
    pub(crate) copies: u64,
    /// Copies that lag behind or are gone.
    pub(crate) stale_copies: u64,
    /// Whether what it has taken is in a file before that is confirmed.
    pub(crate) is_on_disk: bool,
}

/// Tasks of one kind in the stream, whoever has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queued {
    /// By priority.
    pub(crate) stored: [u64; 4],
    /// When the oldest was stored, since 1970; looked up only of kinds that nobody can do.
    pub(crate) oldest: Option<Duration>,
}

/// What is queued of each kind, and how many tasks could not be told apart by their kinds.
pub(crate) type Queues = (BTreeMap<Kind, Queued>, u64);

impl Store {
    /// The streams and the bucket of the lease.
    pub(crate) async fn contents(&self) -> Result<Vec<Contents>, StoreError> {
        let named = [
            ("tasks", self.subjects.tasks_stream()),
            ("results", self.subjects.results_stream()),
            ("events", self.subjects.events_stream()),
            ("dead", self.subjects.dead_stream()),
            ("history", self.subjects.history_stream()),
            ("lease", format!("KV_{}", self.subjects.lease_bucket())),
        ];
        let look = |(what, name): (&'static str, String)| async move {
            let found = self.calls.note(Call::Count, self.jetstream.get_stream(&name).await);
            let found = found.map_err(refused(format!("read the state of stream `{name}`")))?;
            Ok(Contents::read(what, found.cached_info()))
        };
        join_all(named.map(look)).await.into_iter().collect()
    }

    /// What is queued of each kind, `messages` and `subjects` being how many the task stream has. Kinds that are known must
    /// be named, for when there are too many subjects to list. Of those that nobody can do, so many at most, the age is
    /// looked up as well.
    pub(crate) async fn queues(
        &self,
        messages: u64,
        subjects: u64,
        known: Vec<Kind>,
        unserved: impl Fn(&Kind) -> bool,
        most_unserved: usize,
    ) -> Result<Queues, StoreError> {
        let mut queues = if subjects <= LISTED { self.list_queues().await? } else { self.count_queues(known).await? };
        let counted: u64 = queues.values().flat_map(|queued| queued.stored).sum();
        let unserved: Vec<Kind> = queues.keys().filter(|kind| unserved(kind)).take(most_unserved).cloned().collect();
        for kind in unserved {
            let oldest = self.oldest_queued(&kind).await?;
            queues.entry(kind).or_default().oldest = oldest;
        }
        let apart = if subjects <= LISTED { 0 } else { messages.saturating_sub(counted) };
        Ok((queues, apart))
    }

    async fn list_queues(&self) -> Result<BTreeMap<Kind, Queued>, StoreError> {
        let (stream, filter) = (self.subjects.tasks_stream(), self.subjects.all_tasks());
        let mut queues: BTreeMap<Kind, Queued> = BTreeMap::new();
        for (subject, count) in self.subject_counts(stream, filter, usize::MAX).await? {
            // What is no task's is found and settled elsewhere.
            let Ok(TaskSubject { kind, priority, .. }) = TaskSubject::parse(&self.subjects, &subject) else { continue };
            queues.entry(kind).or_default().stored[priority as usize] += count as u64;
        }
        Ok(queues)
    }

    async fn count_queues(&self, kinds: Vec<Kind>) -> Result<BTreeMap<Kind, Queued>, StoreError> {
        let questions = kinds.into_iter().flat_map(|kind| {
            let filters =
                |priority| self.subjects.task_filters(&kind, priority).into_iter().map(move |f| (priority, f));
            Priority::ALL.into_iter().flat_map(filters).map(|(p, f)| (kind.clone(), p, f)).collect::<Vec<_>>()
        });
        let ask = |(kind, priority, filter): (Kind, Priority, String)| async move {
            (kind, priority, self.first_queued(&filter).await)
        };
        let mut answers = futures::iter(questions).map(ask).buffer_unordered(AT_A_TIME);
        let mut queues: BTreeMap<Kind, Queued> = BTreeMap::new();
        while let Some((kind, priority, first)) = answers.next().await {
            if let Some((count, _)) = first? {
                queues.entry(kind).or_default().stored[priority as usize] += count;
            }
        }
        Ok(queues)
    }

    async fn oldest_queued(&self, kind: &Kind) -> Result<Option<Duration>, StoreError> {
        let mut oldest: Option<Duration> = None;
        for filter in Priority::ALL.into_iter().flat_map(|priority| self.subjects.task_filters(kind, priority)) {
            if let Some((_, stored)) = self.first_queued(&filter).await? {
                oldest = Some(oldest.map_or(stored, |oldest| oldest.min(stored)));
            }
        }
        Ok(oldest)
    }

    /// How many tasks are queued whose subjects match, and when the first was stored, since 1970. The broker counts them
    /// by its index, 100,000 in about 30 ms.
    async fn first_queued(&self, filter: &str) -> Result<Option<(u64, Duration)>, StoreError> {
        let what = || format!("count what is queued under `{filter}`");
        let subject = format!("$JS.API.DIRECT.GET.{}", self.subjects.tasks_stream());
        let question = serde_json::json!({ "seq": 1, "next_by_subj": filter, "batch": 1 });
        let answer = self.calls.note(Call::Count, self.nats.request(subject, question.to_string().into()).await);
        let answer = answer.map_err(refused(what()))?;
        match answer.status {
            None => {}
            Some(StatusCode::NOT_FOUND) => return Ok(None),
            Some(status) => return Err(refused(what())(status.to_string())),
        }
        let pending = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Num-Pending"));
        let after: u64 = pending.and_then(|pending| pending.as_str().parse().ok()).unwrap_or(0);
        let first: Stored = StreamMessage::try_from(answer).map_err(refused(what()))?.into();
        Ok(Some((after + 1, first.stored)))
    }
}

impl Contents {
    fn read(stream: &'static str, info: &stream::Info) -> Self {
        let (config, state) = (&info.config, &info.state);
        let copies = info.cluster.as_ref().map(|cluster| cluster.replicas.as_slice()).unwrap_or_default();
        Self {
            stream,
            messages: state.messages,
            bytes: state.bytes,
            most_bytes: u64::try_from(config.max_bytes).ok().filter(|most| *most > 0),
            taken: state.last_sequence,
            subjects: state.subjects_count,
            copies: config.num_replicas.max(1) as u64,
            stale_copies: copies.iter().filter(|copy| !copy.current || copy.offline).count() as u64,
            is_on_disk: config.storage == StorageType::File && config.persist_mode != Some(PersistenceMode::Async),
        }
    }
}
