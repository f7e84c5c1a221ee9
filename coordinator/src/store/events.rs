//! The stream of events: read in its order by one reader, looked up by many, and by webhooks through consumers of their
//! own; and the bucket in which webhooks are kept.

use std::time::Duration;

use async_nats::StatusCode;
use async_nats::jetstream::consumer::pull::{self, Ordered, OrderedConfig};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::kv;
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use shared::HookName;
use shared::api::Event;

use super::{Store, StoreError, Stored, refused};

/// How long the next message of a batch may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an event that was given to a webhook may stay unacknowledged. It is extended while the event is tried; this
/// is how long the next leader waits for what the one before was about to send.
pub(crate) const HOOK_ACK_WAIT: Duration = Duration::from_secs(10);

/// Which events the stream keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The sequence of the oldest; one after the last if it keeps none.
    pub(crate) first: u64,
    /// The sequence of the newest that there has been.
    pub(crate) last: u64,
}

impl Store {
    /// Which events the stream keeps, as the server says that leads it.
    pub(crate) async fn events_extent(&self) -> Result<Extent, StoreError> {
        let stream = self.jetstream.get_stream(self.subjects.events_stream()).await;
        let stream = stream.map_err(refused("read the state of the stream of events"))?;
        let state = &stream.cached_info().state;
        let first = if state.messages == 0 { state.last_sequence + 1 } else { state.first_sequence };
        Ok(Extent { first, last: state.last_sequence })
    }

    /// Every event from this sequence on, in its order, and then those to come.
    pub(crate) async fn events_from(&self, sequence: u64) -> Result<Ordered, StoreError> {
        let what = || "read the stream of events";
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
            ..Default::default()
        };
        let stream = self.get(self.subjects.events_stream()).await?;
        let consumer = stream.create_consumer(config).await.map_err(refused(what()))?;
        consumer.messages().await.map_err(refused(what()))
    }

    /// Events from this sequence on, in their order, at most so many: looked up, without a consumer.
    pub(crate) async fn events_at(&self, sequence: u64, count: usize) -> Result<Vec<Stored>, StoreError> {
        let what = || "look up events";
        let inbox = self.nats.new_inbox();
        let mut answers = self.nats.subscribe(inbox.clone()).await.map_err(refused(what()))?;
        let subject = format!("$JS.API.DIRECT.GET.{}", self.subjects.events_stream());
        let question =
            serde_json::json!({ "seq": sequence.max(1), "next_by_subj": self.subjects.events(), "batch": count });
        let asked = self.nats.publish_with_reply(subject, inbox, question.to_string().into()).await;
        asked.map_err(refused(what()))?;
        let mut events = Vec::new();
        loop {
            let answer = tokio::time::timeout(PATIENCE, answers.next()).await.map_err(refused(what()))?;
            let answer = answer.ok_or_else(|| refused(what())("the connection was closed"))?;
            match answer.status {
                None => events.push(StreamMessage::try_from(answer).map_err(refused(what()))?.into()),
                // That was all of the batch, or there was nothing.
                Some(status) if [204, 404].contains(&status.as_u16()) => return Ok(events),
                Some(status) => {
                    let said = format!("{status} {}", answer.description.unwrap_or_default());
                    return Err(refused(what())(said));
                }
            }
        }
    }

    /// One event, if the stream keeps it.
    pub(crate) async fn event(&self, sequence: u64) -> Result<Option<Stored>, StoreError> {
        self.found(self.get(self.subjects.events_stream()).await?.direct_get(sequence).await)
    }

    /// The sequence of the first event that was stored at this time, since 1970, or after it; if there is none, that of
    /// the next event to come.
    pub(crate) async fn event_since(&self, time: Duration) -> Result<u64, StoreError> {
        let what = || "look up events by their time";
        let time = humantime::format_rfc3339_nanos(std::time::UNIX_EPOCH + time).to_string();
        let subject = format!("$JS.API.DIRECT.GET.{}", self.subjects.events_stream());
        let question = serde_json::json!({ "start_time": time, "next_by_subj": self.subjects.events() });
        let answer = self.nats.request(subject, question.to_string().into()).await.map_err(refused(what()))?;
        match answer.status {
            None => Ok(StreamMessage::try_from(answer).map_err(refused(what()))?.sequence),
            Some(StatusCode::NOT_FOUND) => Ok(self.events_extent().await?.last + 1),
            Some(status) => Err(refused(what())(format!("{status} {}", answer.description.unwrap_or_default()))),
        }
    }

    /// Tells what happened, and waits until that is stored.
    pub(crate) async fn tell(&self, event: &Event) -> Result<(), StoreError> {
        let body: Bytes = serde_json::to_vec(event).map_err(refused("write an event as JSON"))?.into();
        let subject = self.subjects.event(&event.topic, &event.what);
        let sent = self.jetstream.publish(subject, body).await.map_err(refused("tell an event"))?;
        sent.await.map(drop).map_err(refused("tell an event"))
    }

    /// The consumer by which a webhook gets its events, one at a time, from this sequence on; made if it is not there.
    ///
    /// The next event comes when the one before is acknowledged, whichever leader has it. So none overtakes another.
    pub(crate) async fn hook_consumer(
        &self,
        hook: &HookName,
        generation: u64,
        filters: Vec<String>,
        from: u64,
    ) -> Result<Consumer<pull::Config>, StoreError> {
        let name = consumer_name(hook, generation);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some(format!("webhook {hook}")),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::Explicit,
            ack_wait: HOOK_ACK_WAIT,
            max_ack_pending: 1,
            max_deliver: -1,
            filter_subjects: filters,
            num_replicas: self.config.replicas,
            ..Default::default()
        };
        let stream = self.get(self.subjects.events_stream()).await?;
        stream.create_consumer(config).await.map_err(refused(format!("create consumer `{name}`")))
    }

    /// How many events wait for a webhook, as far as their subjects tell; nothing if its consumer is not there.
    pub(crate) async fn hook_pending(&self, hook: &HookName, generation: u64) -> Option<u64> {
        let stream = self.get(self.subjects.events_stream()).await.ok()?;
        let info = stream.consumer_info(consumer_name(hook, generation)).await.ok()?;
        Some(info.num_pending + info.num_ack_pending as u64)
    }

    /// Removes the consumers of a webhook but the one of this generation.
    pub(crate) async fn remove_hook_consumers(&self, hook: &HookName, but: Option<u64>) -> Result<(), StoreError> {
        let stream = self.get(self.subjects.events_stream()).await?;
        let names: Vec<String> = stream
            .consumer_names()
            .try_collect()
            .await
            .map_err(refused("list the consumers of the stream of events"))?;
        for name in names {
            let generation = hook_generation(&name, hook);
            if generation.is_some() && generation != but {
                // That somebody else has removed it is fine.
                let _ = stream.delete_consumer(&name).await;
            }
        }
        Ok(())
    }

    /// The bucket of webhooks and intakes.
    pub(crate) async fn hooks_bucket(&self) -> Result<kv::Store, StoreError> {
        let bucket = self.subjects.hooks_bucket();
        if let Ok(store) = self.jetstream.get_key_value(&bucket).await {
            return Ok(store);
        }
        let config = kv::Config {
            bucket: bucket.clone(),
            description: "webhooks and intakes, with their secrets".to_owned(),
            history: 1,
            num_replicas: self.config.replicas,
            ..Default::default()
        };
        self.jetstream.create_key_value(config).await.map_err(refused(format!("create bucket `{bucket}`")))
    }
}

fn consumer_name(hook: &HookName, generation: u64) -> String {
    format!("hook-{hook}-{generation}")
}

/// The generation in the name of a consumer, if it is one of this webhook.
fn hook_generation(name: &str, hook: &HookName) -> Option<u64> {
    let (rest, generation) = name.rsplit_once('-')?;
    if rest.strip_prefix("hook-")? == hook.as_str() { generation.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consumers_of_one_webhook_are_not_taken_for_anothers() {
        let (short, long) = (HookName::new("a").unwrap(), HookName::new("a-1").unwrap());

        assert_eq!(hook_generation(&consumer_name(&short, 7), &short), Some(7));
        assert_eq!(hook_generation(&consumer_name(&long, 7), &short), None);
        assert_eq!(hook_generation(&consumer_name(&short, 7), &long), None);
        assert_eq!(hook_generation("reader", &short), None);
    }
}
