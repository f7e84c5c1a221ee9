//! One webhook at work: gives its events to the sender, one after the other, until each is taken.
//!
//! The broker gives out the next event when the one before is acknowledged, and the same one again if that stays out. So
//! events go in their order and each at least once, also over a change of leader.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use async_nats::jetstream::{AckKind, Message, kv};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::StreamExt as _;
use shared::HookName;
use shared::api::Event;
use tracing::{info, warn};

use super::Hooks;
use super::book::{self, Definition};
use super::record::Record;
use super::sender::{Attempt, Letter};
use crate::store::HOOK_ACK_WAIT;

/// Events that are asked for at once, and how the broker shows that it is still there.
const BATCH: usize = 64;
const EXPIRES: Duration = Duration::from_secs(60);
const HEARTBEAT: Duration = Duration::from_secs(20);

/// How often the broker is told that an event is still being tried.
const EXTENSION: Duration = Duration::from_secs(3);
const _: () = assert!(EXTENSION.as_millis() * 3 < HOOK_ACK_WAIT.as_millis());

/// How often it is kept at most how the webhook is doing.
const KEEPING: Duration = Duration::from_secs(1);

/// Pause after an error of the broker's.
const PAUSE: Duration = Duration::from_secs(1);

/// One webhook at work.
pub(super) struct Worker {
    hooks: Hooks,
    bucket: kv::Store,
    name: HookName,
    definition: Definition,
    record: Record,
    /// When [`Worker::record`] was changed, if it was not kept since.
    unkept_since: Option<Instant>,
    /// The last event that is done: the broker gives it out again if it has not heard so.
    done: u64,
}

/// What becomes of a webhook after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Disabled,
}

impl Worker {
    pub(super) fn new(hooks: Hooks, bucket: kv::Store, name: HookName, definition: Definition) -> Self {
        Self { hooks, bucket, name, definition, record: Record::default(), unkept_since: None, done: 0 }
    }

    /// Sends until it is disabled. It is dropped when this coordinator does not lead any more, or its definition changes.
    pub(super) async fn run(mut self) {
        loop {
            match self.work().await {
                Ok(()) => return,
                Err(error) => {
                    warn!(hook = %self.name, error = format!("{error:#}"), "a webhook is held up, trying again");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn work(&mut self) -> anyhow::Result<()> {
        let Definition { generation, from, .. } = self.definition;
        self.record = book::read(&self.bucket, &book::state_key(&self.name)).await?.unwrap_or_default();
        let filters = self.definition.subjects(self.hooks.store.subjects());
        let consumer = self.hooks.store.hook_consumer(&self.name, generation, filters, from).await?;
        self.hooks.store.remove_hook_consumers(&self.name, Some(generation)).await?;
        let pull = consumer.stream().max_messages_per_batch(BATCH).expires(EXPIRES).heartbeat(HEARTBEAT);
        let mut messages = pull.messages().await.context("failed to ask for events")?;
        loop {
            tokio::select! {
                message = messages.next() => {
                    let message = message.context("the broker gives out no more events")??;
                    if self.deliver(&message).await? == Next::Disabled {
                        return Ok(());
                    }
                }
                () = keeping_due(self.unkept_since) => self.keep().await?,
            }
        }
    }

    /// Sends an event until it is taken, or the webhook is disabled.
    async fn deliver(&mut self, message: &Message) -> anyhow::Result<Next> {
        let info = message.info().map_err(anyhow::Error::from_boxed)?;
        let sequence = info.stream_sequence;
        if sequence <= self.done || !self.wants(message) {
            return self.finish(message, sequence).await;
        }
        let stored = Duration::from_nanos(u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or_default());
        let letter = Letter::new(sequence, stored, message.payload.clone());
        let mut pauses = self.hooks.pauses().build();
        loop {
            let attempt = extended(message, self.hooks.sender.attempt(&self.definition, &letter)).await;
            let now = SystemTime::now();
            self.record.note(attempt.told.clone(), now, self.hooks.config.log);
            self.unkept_since.get_or_insert_with(Instant::now);
            if attempt.told.error.is_none() {
                return self.finish(message, sequence).await;
            }
            self.keep().await?;
            if let Some(reason) = self.why_disabled(&attempt, now) {
                self.disable(reason).await?;
                return Ok(Next::Disabled);
            }
            let pause = pauses.next().unwrap_or(self.hooks.config.longest_backoff);
            let pause = pause.min(self.hooks.config.longest_backoff).max(attempt.retry_after.unwrap_or_default());
            extended(message, tokio::time::sleep(pause)).await;
        }
    }

    fn wants(&self, message: &Message) -> bool {
        let event = serde_json::from_slice::<Event>(&message.payload);
        event.is_ok_and(|event| self.definition.filter.matches(&event))
    }

    async fn finish(&mut self, message: &Message, sequence: u64) -> anyhow::Result<Next> {
        message.ack().await.map_err(anyhow::Error::from_boxed)?;
        self.done = self.done.max(sequence);
        // Where one event follows the other, there is no other moment for it.
        if self.unkept_since.is_some_and(|since| since.elapsed() >= KEEPING) {
            self.keep().await?;
        }
        Ok(Next::GoOn)
    }

    async fn keep(&mut self) -> anyhow::Result<()> {
        book::keep_record(&self.bucket, &self.name, &self.record).await?;
        self.unkept_since = None;
        Ok(())
    }

    fn why_disabled(&self, attempt: &Attempt, now: SystemTime) -> Option<String> {
        let longest = self.hooks.config.disable_after;
        if attempt.gone {
            Some("the receiver says that it is gone for good (410)".to_owned())
        } else if self.record.failing_for(now) >= longest {
            let last = attempt.told.error.as_deref().unwrap_or_default();
            Some(format!("nothing was taken for {}; at last: {last}", humantime::format_duration(longest)))
        } else {
            None
        }
    }

    /// Lets it send nothing more, unless it was changed meanwhile: then it is another one. That is done in a task of its own:
    /// whoever sees the change drops this one.
    async fn disable(&self, reason: String) -> anyhow::Result<()> {
        let (hooks, bucket) = (self.hooks.clone(), self.bucket.clone());
        let (name, ours) = (self.name.clone(), self.definition.clone());
        let disabling = tokio::spawn(async move {
            let disabled = book::change(&bucket, book::hook_key(&name), |kept: Option<Definition>| {
                let kept = kept.ok_or_else(|| super::no_such_hook(&name))?;
                let is_ours = kept == ours;
                Ok(if is_ours { Definition { enabled: false, reason: Some(reason.clone()), ..kept } } else { kept })
            });
            if !disabled.await?.enabled {
                info!(hook = %name, reason, "webhook disabled");
                hooks.tell("hook-disabled", format!("webhook {name} sends nothing more: {reason}")).await;
            }
            anyhow::Ok(())
        });
        disabling.await?
    }
}

/// Waits until it is to be kept how a webhook is doing.
async fn keeping_due(unkept_since: Option<Instant>) {
    match unkept_since {
        Some(since) => tokio::time::sleep_until((since + KEEPING).into()).await,
        None => std::future::pending().await,
    }
}

/// Does something that takes long with an event; the broker is told meanwhile that it is not to be given out again.
async fn extended<T>(message: &Message, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(EXTENSION, &mut work).await {
            Ok(done) => return done,
            // If it cannot be told, the event comes twice.
            Err(_) => drop(message.ack_with(AckKind::Progress).await),
        }
    }
}

impl Hooks {
    /// How long to wait between attempts. Jitter adds up to as much again.
    pub(super) fn pauses(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(self.config.backoff)
            .with_max_delay(self.config.longest_backoff)
            .with_jitter()
            .without_max_times()
    }
}
