//! What alerts need of the streams: how much is stored of each kind, and an event that is told once.

use std::collections::BTreeMap;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use shared::Kind;
use shared::subject::TaskSubject;

use super::{Store, StoreError, refused};

/// So many subjects are listed; each costs the broker and us about a hundred bytes.
const BEARABLE: u64 = 20_000;

impl Store {
    /// How many tasks of each kind the stream holds at least, whoever has them. Of more subjects than are bearable only those without
    /// an id are counted, and beside them the oldest task: where nobody can do a kind, it comes to be of that.
    pub(crate) async fn stored_at_least(&self) -> Result<BTreeMap<Kind, u64>, StoreError> {
        let stream = self.jetstream.get_stream(self.subjects.tasks_stream()).await;
        let state = stream.map_err(refused("read the state of the task stream"))?.cached_info().state.clone();
        let filters = match state.subjects_count {
            0 => Vec::new(),
            1..=BEARABLE => vec![self.subjects.all_tasks()],
            _ => self.subjects.task_filters_without_id(),
        };
        let mut stored: BTreeMap<Kind, u64> = BTreeMap::new();
        for filter in filters {
            let counts = self.subject_counts(self.subjects.tasks_stream(), filter, BEARABLE as usize).await?;
            for (subject, count) in counts {
                let Ok(task) = TaskSubject::parse(&self.subjects, &subject) else { continue };
                *stored.entry(task.kind).or_default() += count as u64;
            }
        }
        if state.subjects_count > BEARABLE
            && let Some(oldest) = self.found(self.tasks().await?.direct_get(state.first_sequence).await)?
            && let Ok(task) = TaskSubject::parse(&self.subjects, &oldest.subject)
        {
            stored.entry(task.kind).or_insert(1);
        }
        Ok(stored)
    }

    /// Stores an event, unless one of this id was stored within the last two minutes.
    pub(crate) async fn tell_once(&self, subject: String, id: &str, body: Bytes) -> Result<(), StoreError> {
        let message = PublishMessage::build().payload(body).message_id(id);
        let ack = self.jetstream.send_publish(subject, message).await.map_err(refused("send an event"))?;
        ack.await.map(drop).map_err(refused("store an event"))
    }
}
