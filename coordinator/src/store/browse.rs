//! Looks into streams for whoever wants to see them; nothing here is on a task's way.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use futures_util::{StreamExt as _, TryStreamExt as _};
use shared::Kind;
use shared::subject::TaskSubject;

use super::{Store, StoreError, Stored, refused};

/// How many of the newest events are looked through for those of one topic.
const EVENTS_LOOKED_THROUGH: u64 = 1000;

/// How long the next of several answers may take.
const NEXT_ANSWER: Duration = Duration::from_secs(2);

/// How much a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Its name.
    pub(crate) stream: String,
    /// Messages in it.
    pub(crate) messages: u64,
    /// Bytes that they take.
    pub(crate) bytes: u64,
}

impl Store {
    /// How much the streams hold that a person asks about: tasks, results, dead letters, events.
    pub(crate) async fn fills(&self) -> Result<Vec<Fill>, StoreError> {
        let names = [
            self.subjects.tasks_stream(),
            self.subjects.results_stream(),
            self.subjects.dead_stream(),
            self.subjects.events_stream(),
        ];
        let mut fills = Vec::new();
        for name in names {
            let stream = self.jetstream.get_stream(&name).await;
            let stream = stream.map_err(refused(format!("read the state of stream `{name}`")))?;
            let state = &stream.cached_info().state;
            fills.push(Fill { stream: name, messages: state.messages, bytes: state.bytes });
        }
        Ok(fills)
    }

    /// How many tasks of each kind the task stream holds, whoever has them. Goes through all subjects: not for every
    /// view.
    pub(crate) async fn stored_by_kind(&self) -> Result<BTreeMap<Kind, u64>, StoreError> {
        let stream = self.get(self.subjects.tasks_stream()).await?;
        let mut subjects =
            stream.info_with_subjects(self.subjects.all_tasks()).await.map_err(refused("count subjects"))?;
        let mut counts = BTreeMap::new();
        while let Some((subject, count)) = subjects.try_next().await.map_err(refused("count subjects"))? {
            if let Ok(TaskSubject { kind, .. }) = TaskSubject::parse(&self.subjects, &subject) {
                *counts.entry(kind).or_insert(0) += count as u64;
            }
        }
        Ok(counts)
    }

    /// The oldest task of a kind that is stored, whoever has it.
    pub(crate) async fn oldest_stored(&self, kind: &Kind) -> Result<Option<Stored>, StoreError> {
        let mut oldest: Option<Stored> = None;
        for filter in self.subjects.kind_filters(kind) {
            let question = serde_json::json!({ "seq": 1, "next_by_subj": filter, "batch": 1 });
            let found = self.look_up_several(self.subjects.tasks_stream(), question).await?.into_iter().next();
            if oldest.as_ref().is_none_or(|oldest| found.as_ref().is_some_and(|found| found.sequence < oldest.sequence))
            {
                oldest = found.or(oldest);
            }
        }
        Ok(oldest)
    }

    /// The newest events, the newest first: of one topic (as far as they are among the last thousand), or of all.
    pub(crate) async fn last_events(&self, topic: Option<&str>, most: usize) -> Result<Vec<Stored>, StoreError> {
        let stream = self.jetstream.get_stream(self.subjects.events_stream()).await;
        let state = stream.map_err(refused("read the state of the events"))?.cached_info().state.clone();
        if state.messages == 0 {
            return Ok(Vec::new());
        }
        let looked_through = topic.map_or(most as u64, |_| EVENTS_LOOKED_THROUGH);
        let from = (state.last_sequence + 1).saturating_sub(looked_through).max(state.first_sequence).max(1);
        let filter = topic.map_or_else(|| self.subjects.events(), |topic| self.subjects.event(topic, "*"));
        let question = serde_json::json!({ "seq": from, "next_by_subj": filter, "batch": looked_through });
        let mut events = self.look_up_several(self.subjects.events_stream(), question).await?;
        events.reverse();
        events.truncate(most);
        Ok(events)
    }

    /// Asks a stream for several messages at once: each comes by itself, and then a word that there are no more.
    async fn look_up_several(&self, stream: String, question: serde_json::Value) -> Result<Vec<Stored>, StoreError> {
        let what = || format!("read several messages of stream `{stream}`");
        let inbox = self.nats.new_inbox();
        let mut answers = self.nats.subscribe(inbox.clone()).await.map_err(refused(what()))?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let asked = self.nats.publish_with_reply(subject, inbox, question.to_string().into()).await;
        asked.map_err(refused(what()))?;
        let mut found = Vec::new();
        loop {
            let answer = tokio::time::timeout(NEXT_ANSWER, answers.next()).await.map_err(refused(what()))?;
            let Some(answer) = answer.filter(|answer| answer.status.is_none()) else { return Ok(found) };
            let message = StreamMessage::try_from(answer).map_err(refused(what()))?;
            found.push(message.into());
        }
    }
}
