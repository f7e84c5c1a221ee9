//! The real nats-server, asked the same as the model, by the product's own calls where it has some.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::kv;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream;
use async_nats::{HeaderMap, Message, Request, RequestErrorKind, StatusCode, Subscriber};
use bytes::Bytes;
use coordinator::store::{self, Metadata, Recorded, Store};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use scheduler::Sequence;
use shared::subject::Subjects;
use shared::{Kind, MeshName, Priority};
use simulation::broker::Timing;
use simulation::event::Micros;
use simulation::message::{Ask, Garbage, LaneName, Record, Scope, Submission, span};

use crate::script::{Seen, State, Step, kind_name, lane_name};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long it may take until something that is due can be seen.
const SOON: Duration = Duration::from_millis(500);
/// How late an ask may be; what comes later may meet other timers than in the model.
const LATE: Duration = Duration::from_millis(120);

/// Why a script was not played to its end.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// This machine was too slow for it.
    Late,
    /// The server does something else than the model.
    Differs {
        /// At which step.
        step: usize,
        /// What is different.
        how: String,
    },
}

/// A mesh's streams on a real server, and one client.
pub(crate) struct Real {
    nats: async_nats::Client,
    store: Store,
    subjects: Subjects,
    timing: Timing,
    scale: u64,
    lease: kv::Store,
    pulls: Subscriber,
    asks: u64,
    /// Where a delivered message is acknowledged.
    acks: BTreeMap<(LaneName, u64), String>,
    lanes: BTreeMap<String, LaneName>,
    delivered: BTreeMap<LaneName, Vec<u64>>,
    ended: BTreeSet<u64>,
}

impl Real {
    /// New streams, under the name of a mesh that nobody else has.
    pub(crate) async fn new(nats: async_nats::Client, mesh: MeshName, timing: Timing, scale: u64) -> Self {
        let subjects = Subjects::new(mesh);
        let store = Store::new(nats.clone(), subjects.clone(), store::Config::default());
        for config in store.streams() {
            let holds_tasks = config.name == subjects.tasks_stream();
            let duplicate_window = if holds_tasks { span(timing.window) } else { config.duplicate_window };
            // Else the server keeps a gigabyte free for the events of each mesh.
            let max_bytes = -1;
            let config = stream::Config { duplicate_window, max_bytes, ..config };
            store.jetstream().create_stream(config).await.expect("a server makes streams");
        }
        let bucket = kv::Config {
            bucket: subjects.lease_bucket(),
            history: 1,
            limit_markers: Some(span(timing.marker)),
            ..Default::default()
        };
        let lease = store.jetstream().create_key_value(bucket).await.expect("a server makes buckets");
        let pulls = nats.subscribe(format!("pull.{}.*", subjects.mesh())).await.expect("it is connected");
        Self {
            nats,
            store,
            subjects,
            timing,
            scale,
            lease,
            pulls,
            asks: 0,
            acks: BTreeMap::new(),
            lanes: BTreeMap::new(),
            delivered: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    /// Removes its streams.
    pub(crate) async fn end(self) {
        for name in self.store.streams().map(|config| config.name) {
            let _ = self.store.jetstream().delete_stream(name).await;
        }
        let _ = self.store.jetstream().delete_key_value(self.subjects.lease_bucket()).await;
    }

    /// Plays a script, and compares with what the model did.
    pub(crate) async fn play(&mut self, script: &[Step]) -> Result<(), Stopped> {
        let began = Instant::now();
        let late = LATE * u32::try_from(self.scale).expect("it is small");
        for (place, step) in script.iter().enumerate() {
            let due = began + span(step.at);
            tokio::time::sleep_until(due.into()).await;
            let answer = match &step.ask {
                Some(ask) => self.ask(ask).await,
                None => Ok(None),
            };
            if due.elapsed() > late {
                return Err(Stopped::Late);
            }
            let differs = |error: anyhow::Error| Stopped::Differs { step: place, how: format!("{error:#}") };
            self.compare(step, answer.map_err(differs)?).await.map_err(|how| Stopped::Differs { step: place, how })?;
        }
        Ok(())
    }

    async fn compare(&mut self, step: &Step, answer: Option<String>) -> Result<(), String> {
        self.await_deliveries(&step.seen).await;
        let mut seen = Seen { answer, delivered: std::mem::take(&mut self.delivered) };
        let mut expected = step.seen.clone();
        if step.ask.is_none() {
            // In which order timers ran out during a pause may differ.
            for sequences in seen.delivered.values_mut().chain(expected.delivered.values_mut()) {
                sequences.sort_unstable();
            }
        }
        if seen != expected {
            return Err(format!("the server: {seen:?}\nthe model:  {expected:?}"));
        }
        match &step.state {
            Some(expected) => self.compare_state(expected).await,
            None => Ok(()),
        }
    }

    async fn compare_state(&mut self, expected: &State) -> Result<(), String> {
        let started = Instant::now();
        loop {
            self.hear();
            let state = self.state().await.map_err(|error| format!("{error:#}"))?;
            if state == *expected {
                return Ok(());
            }
            if started.elapsed() > SOON {
                return Err(format!("the server: {state:?}\nthe model:  {expected:?}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn state(&self) -> anyhow::Result<State> {
        let mut stream = self.store.jetstream().get_stream(self.subjects.tasks_stream()).await?;
        let info = stream.info().await?.state.clone();
        let mut lanes = BTreeMap::new();
        let mut consumers = stream.consumers();
        while let Some(consumer) = consumers.try_next().await? {
            let counts = (consumer.num_pending as usize, consumer.num_ack_pending, consumer.num_waiting);
            lanes.insert(self.lanes[&consumer.name], counts);
        }
        let State { messages, first, last, .. } =
            State { messages: info.messages, first: info.first_sequence, last: info.last_sequence, ..State::default() };
        Ok(State { messages, first, last, lanes, ended: self.ended.clone() })
    }

    /// Reads what has come on pulls.
    fn hear(&mut self) {
        while let Some(Some(message)) = self.pulls.next().now_or_never() {
            self.heard(&message);
        }
    }

    async fn await_deliveries(&mut self, expected: &Seen) {
        let started = Instant::now();
        let count = |delivered: &BTreeMap<LaneName, Vec<u64>>| delivered.values().map(Vec::len).sum::<usize>();
        self.hear();
        while count(&self.delivered) < count(&expected.delivered) {
            let Some(left) = SOON.checked_sub(started.elapsed()) else { return };
            match tokio::time::timeout(left, self.pulls.next()).await {
                Ok(Some(message)) => self.heard(&message),
                _ => return,
            }
        }
    }

    fn heard(&mut self, message: &Message) {
        let reply = message.reply.as_ref().filter(|_| message.status.is_none());
        match reply.and_then(|reply| Some((reply, Metadata::parse(reply)?))) {
            Some((reply, metadata)) => {
                let lane = self.lanes[metadata.consumer];
                self.delivered.entry(lane).or_default().push(metadata.sequence);
                self.acks.insert((lane, metadata.sequence), reply.to_string());
            }
            None => {
                // A delivered message keeps its subject; what is about the pull itself comes under the pull's.
                let number = message.subject.rsplit('.').next().and_then(|last| last.parse().ok());
                self.ended.insert(number.expect("we chose the subject"));
            }
        }
    }

    async fn ask(&mut self, ask: &Ask) -> anyhow::Result<Option<String>> {
        self.asks += 1;
        Ok(Some(match ask {
            Ask::Submit(submission) => self.submit(submission).await,
            Ask::Pull(lane, batch) => return self.pull(*lane, *batch).await,
            Ask::Ack(lane, sequence) => self.acknowledge(*lane, *sequence, "+ACK").await,
            Ask::Nak(lane, sequence, delay) => {
                let later = format!(r#"-NAK {{"delay":{}}}"#, span(*delay).as_nanos());
                self.acknowledge(*lane, *sequence, &later).await;
                return Ok(None);
            }
            Ask::Extend(lane, sequence) => {
                self.acknowledge(*lane, *sequence, "+WPI").await;
                return Ok(None);
            }
            Ask::Remove(sequence) => {
                let (subject, body) = self.store.removal(sequence.0);
                self.nats.request(subject, body).await?;
                "gone".to_owned()
            }
            Ask::LastSequence => format!("last {}", self.store.task_count().await?.1),
            Ask::ListLanes => self.list_lanes().await?,
            Ask::PutLane(name, kinds) => self.put_lane(*name, kinds).await?,
            Ask::DeleteLane(name) => {
                self.store.remove_lane(&lane_name(*name)).await.map_or("refused".to_owned(), |()| "ok".to_owned())
            }
            Ask::Record(record, _) => self.record(record).await,
            Ask::LookUp(id) => self.look_up(self.store.result_lookup(id)).await,
            Ask::ListResults => self.list_results().await?,
            Ask::Queued(sequence) => messages(self.store.queued(sequence.0).await?.as_ref()),
            Ask::QueuedById(id) => messages(self.store.queued_by_id(id).await?.as_ref()),
            Ask::ReadLease => self.read_lease().await?,
            Ask::WriteLease(holder, revision) => self.write_lease(*holder, *revision).await?,
            Ask::PurgeLease(revision) => self.purge_lease(*revision).await?,
            other => panic!("scripts do not ask {other:?}"),
        }))
    }

    async fn request(&self, subject: String, headers: HeaderMap, body: Bytes) -> Result<Message, String> {
        let request = Request::new().headers(headers).payload(body).timeout(Some(ANSWER));
        self.nats.send_request(subject, request).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => "nobody listens".to_owned(),
            _ => format!("no answer: {error}"),
        })
    }

    async fn submit(&self, submission: &Submission) -> String {
        let kind = Kind::new(kind_name(submission.kind)).expect("it is a good name");
        let subject = match (&submission.id_in_subject, submission.garbage) {
            (_, Garbage::Subject) => format!("{}.task.{kind}!", self.subjects.mesh()),
            (Some(id), _) => self.subjects.task(&kind, submission.priority, id),
            (None, _) => self.subjects.task_filters(&kind, submission.priority).swap_remove(0),
        };
        let mut headers = HeaderMap::new();
        if let Some(id) = &submission.message_id {
            headers.insert(async_nats::header::NATS_MESSAGE_ID, id.as_str());
        }
        if submission.expects_none {
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        }
        let answer = match self.request(subject, headers, Bytes::new()).await {
            Ok(answer) => answer,
            Err(said) => return said,
        };
        match Recorded::parse(answer.status, &answer.payload) {
            Recorded::Stored => {
                let ack: serde_json::Value = serde_json::from_slice(&answer.payload).expect("it is JSON");
                format!("stored {}", ack["seq"])
            }
            Recorded::Already => "there was one before".to_owned(),
            Recorded::Unknown => format!("refused: {:?}", answer.payload),
        }
    }

    async fn pull(&mut self, lane: LaneName, batch: usize) -> anyhow::Result<Option<String>> {
        let (subject, body) = self.store.pull(&lane_name(lane), batch, span(self.timing.pull_expires));
        let reply = format!("pull.{}.{}", self.subjects.mesh(), self.asks);
        self.nats.publish_with_reply(subject, reply, body).await?;
        // Whether somebody listens is said by the connection itself, before its next answer.
        self.nats.request("$JS.API.INFO", Bytes::new()).await?;
        while let Some(Some(message)) = self.pulls.next().now_or_never() {
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Ok(Some("nobody listens".to_owned()));
            }
            self.heard(&message);
        }
        Ok(None)
    }

    async fn acknowledge(&self, lane: LaneName, sequence: Sequence, how: &str) -> String {
        let Some(subject) = self.acks.get(&(lane, sequence.0)) else { return "it was never delivered".to_owned() };
        let answer = self.request(subject.clone(), HeaderMap::new(), how.to_owned().into()).await;
        answer.map_or_else(|said| said, |_| "gone".to_owned())
    }

    async fn list_lanes(&self) -> anyhow::Result<String> {
        let stream = self.store.jetstream().get_stream_no_info(self.subjects.tasks_stream()).await?;
        let mut names = stream.consumer_names().try_collect::<Vec<String>>().await?;
        names.sort();
        Ok(format!("lanes {names:?}"))
    }

    async fn put_lane(&mut self, name: LaneName, kinds: &[u8]) -> anyhow::Result<String> {
        let (Scope::Shared(priority) | Scope::Own(_, priority)) = name.scope;
        self.lanes.insert(lane_name(name), name);
        // As `Store::put_lane` has it, but for the time.
        let config = pull::Config {
            durable_name: Some(lane_name(name)),
            ack_policy: AckPolicy::Explicit,
            ack_wait: span(self.timing.ack_wait),
            max_ack_pending: -1,
            max_deliver: -1,
            filter_subjects: kinds.iter().flat_map(|kind| self.filters(*kind, priority)).collect(),
            ..Default::default()
        };
        let stream = self.store.jetstream().get_stream_no_info(self.subjects.tasks_stream()).await?;
        Ok(stream.create_consumer(config).await.map_or("refused", |_| "ok").to_owned())
    }

    fn filters(&self, kind: u8, priority: Priority) -> Vec<String> {
        self.subjects.task_filters(&Kind::new(kind_name(kind)).expect("it is a good name"), priority)
    }

    async fn record(&self, record: &Record) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        let answer = self.request(self.subjects.result(&record.id), headers, record.attempts.to_string().into()).await;
        match answer.map(|answer| Recorded::parse(answer.status, &answer.payload)) {
            // The model does not count results.
            Ok(Recorded::Stored) => "stored 1".to_owned(),
            Ok(Recorded::Already) => "there was one before".to_owned(),
            other => format!("{other:?}"),
        }
    }

    async fn look_up(&self, subject: String) -> String {
        let answer = self.request(subject, HeaderMap::new(), Bytes::new()).await;
        match answer {
            Ok(answer) if answer.status == Some(StatusCode::NOT_FOUND) => "result None".to_owned(),
            Ok(answer) => format!("result Some({})", String::from_utf8_lossy(&answer.payload)),
            Err(said) => said,
        }
    }

    async fn list_results(&self) -> anyhow::Result<String> {
        let counts =
            self.store.subject_counts(self.subjects.results_stream(), self.subjects.results(), usize::MAX).await?;
        let ids = counts.into_iter().map(|(subject, count)| {
            assert_eq!(count, 1, "{subject}");
            self.subjects.result_id(&subject).expect("it is a result").to_string()
        });
        let mut ids: Vec<String> = ids.collect();
        ids.sort();
        Ok(format!("results {ids:?}"))
    }

    async fn read_lease(&self) -> anyhow::Result<String> {
        let entry = self.lease.entry("leader").await?;
        let lease = entry.map(|entry| {
            let held = entry.operation == kv::Operation::Put;
            (entry.revision, held.then(|| String::from_utf8_lossy(&entry.value).parse::<u32>().expect("we wrote it")))
        });
        Ok(format!("lease {lease:?}"))
    }

    /// As the contender for the lease does it.
    async fn write_lease(&self, holder: u32, revision: u64) -> anyhow::Result<String> {
        let message = PublishMessage::build()
            .payload(holder.to_string().into())
            .expected_last_subject_sequence(revision)
            .ttl(span(self.timing.lease));
        let subject = format!("$KV.{}.leader", self.subjects.lease_bucket());
        let ack = self.store.jetstream().send_publish(subject, message).await?.await;
        Ok(ack.map_or("there was one before".to_owned(), |ack| format!("written {}", ack.sequence)))
    }

    async fn purge_lease(&self, revision: u64) -> anyhow::Result<String> {
        Ok(match self.lease.purge_expect_revision("leader", Some(revision)).await {
            Ok(()) => match self.lease.entry("leader").await? {
                Some(entry) => format!("written {}", entry.revision),
                None => "nothing is left".to_owned(),
            },
            Err(_) => "there was one before".to_owned(),
        })
    }
}

/// Time from the beginning of a script.
pub(crate) fn length(script: &[Step]) -> Micros {
    script.last().map_or(0, |step| step.at)
}

fn messages(found: Option<&store::Stored>) -> String {
    format!("messages {:?}", found.iter().map(|stored| stored.sequence).collect::<Vec<_>>())
}
