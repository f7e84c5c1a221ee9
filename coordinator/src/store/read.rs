//! Reading what streams hold, many messages at a time: forward from a sequence, and from the newest back.

use std::ops::Range;
use std::time::{Duration, Instant};

use async_nats::StatusCode;
use async_nats::jetstream::message::StreamMessage;
use futures_util::StreamExt as _;
use shared::Kind;

use super::{Store, StoreError, Stored, refused};

/// Messages that are asked for at a time, and about how many bytes of them.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// How long the next message of a batch may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long one look goes on: whoever asks waits 5 s for the answer.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// Sequences that are looked at together, going back: at first, and at most.
const SPAN: u64 = 64;
const LONGEST_SPAN: u64 = 8192;

impl Store {
    /// The sequences of what a stream holds.
    pub async fn extent(&self, stream: &str) -> Result<Range<u64>, StoreError> {
        let found = self.jetstream.get_stream(stream).await;
        let found = found.map_err(refused(format!("read the state of stream `{stream}`")))?;
        let state = &found.cached_info().state;
        Ok(state.first_sequence..state.last_sequence + 1)
    }

    /// Messages of a stream whose subjects match, from this sequence on, in their order: at most so many, and fewer if they
    /// are large. None means that there are none.
    pub async fn read_from(
        &self,
        stream: &str,
        filter: &str,
        from: u64,
        count: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let what = || format!("read stream `{stream}`");
        let inbox = self.nats.new_inbox();
        let mut answers = self.nats.subscribe(inbox.clone()).await.map_err(refused(what()))?;
        let question = serde_json::json!({
            "seq": from.max(1), "next_by_subj": filter, "batch": count.clamp(1, BATCH), "max_bytes": BATCH_BYTES,
        });
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let asked = self.nats.publish_with_reply(subject, inbox, question.to_string().into()).await;
        asked.map_err(refused(what()))?;
        let mut messages = Vec::new();
        loop {
            let answer = tokio::time::timeout(PATIENCE, answers.next()).await.map_err(refused(what()))?;
            let answer = answer.ok_or_else(|| refused(what())("the connection was closed"))?;
            match answer.status {
                None => messages.push(StreamMessage::try_from(answer).map_err(refused(what()))?.into()),
                // That was all of the batch, or there was nothing.
                Some(status) if status == StatusCode::NOT_FOUND || status.as_u16() == 204 => return Ok(messages),
                Some(status) => {
                    let said = format!("{status} {}", answer.description.unwrap_or_default());
                    return Err(refused(what())(said));
                }
            }
        }
    }

    /// The newest messages of a stream before a sequence whose subjects match, as far as `take` takes them, the newest
    /// first; and the sequence before which there may be more.
    pub async fn newest<T>(
        &self,
        stream: &str,
        filter: &str,
        before: u64,
        limit: usize,
        take: impl Fn(Stored) -> Option<T>,
    ) -> Result<(Vec<T>, Option<u64>), StoreError> {
        let held = self.extent(stream).await?;
        let (started, mut found) = (Instant::now(), Vec::new());
        let (mut end, mut span) = (before.min(held.end), SPAN);
        while end > held.start && started.elapsed() < LOOK_TIME {
            let start = end.saturating_sub(span).max(held.start);
            for (sequence, item) in self.read_between(stream, filter, start..end, &take).await?.into_iter().rev() {
                if found.len() == limit {
                    return Ok((found, Some(end)));
                }
                end = sequence;
                found.push(item);
            }
            if found.len() == limit {
                break;
            }
            (end, span) = (start, (span * 2).min(LONGEST_SPAN));
        }
        Ok((found, (end > held.start).then_some(end)))
    }

    /// What is taken of the messages of a stream with these sequences, in their order.
    async fn read_between<T>(
        &self,
        stream: &str,
        filter: &str,
        sequences: Range<u64>,
        take: impl Fn(Stored) -> Option<T>,
    ) -> Result<Vec<(u64, T)>, StoreError> {
        let (mut taken, mut from) = (Vec::new(), sequences.start);
        while from < sequences.end {
            let left = usize::try_from(sequences.end - from).unwrap_or(BATCH);
            let messages = self.read_from(stream, filter, from, left).await?;
            let Some(last) = messages.last() else { break };
            from = last.sequence.saturating_add(1);
            let within = messages.into_iter().filter(|message| message.sequence < sequences.end);
            taken.extend(within.filter_map(|message| Some((message.sequence, take(message)?))));
        }
        Ok(taken)
    }

    /// Tasks in the stream after a sequence, of one kind or of all, in their order; and up to where all of them are among
    /// these, if there may be more beyond.
    pub async fn queued_after(
        &self,
        kind: Option<&Kind>,
        after: u64,
    ) -> Result<(Vec<Stored>, Option<u64>), StoreError> {
        let stream = self.subjects.tasks_stream();
        let filters = match kind {
            Some(kind) => self.subjects.kind_filters(kind).to_vec(),
            None => vec![self.subjects.all_tasks()],
        };
        let (mut tasks, mut horizon) = (Vec::<Stored>::new(), None::<u64>);
        for filter in filters {
            let some = self.read_from(&stream, &filter, after.saturating_add(1), BATCH).await?;
            // There may be more of these behind the last one.
            if let Some(last) = some.last() {
                horizon = Some(horizon.map_or(last.sequence, |known| known.min(last.sequence)));
            }
            tasks.extend(some);
        }
        tasks.retain(|task| horizon.is_none_or(|horizon| task.sequence <= horizon));
        tasks.sort_by_key(|task| task.sequence);
        Ok((tasks, horizon))
    }
}
