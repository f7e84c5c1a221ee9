//! The one reader of the stream, and those who follow it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::Message;
use futures_util::{FutureExt as _, StreamExt as _};
use shared::api::filter::EventFilter;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use super::{Follower, Ring, Told};
use crate::store::{Store, StoreError};

/// Events before the first to come that it begins with: who comes back after a restart of this coordinator finds here
/// what it has missed, and need not look it up by itself.
const BEFORE: u64 = 1024;

/// How long it goes on without readers.
const LINGER: Duration = Duration::from_secs(30);
/// How often it looks whether there are any, and whether the stream is still the same.
const LOOK: Duration = Duration::from_secs(5);
/// Pause after an error of the stream.
const PAUSE: Duration = Duration::from_secs(1);

/// The more read, the longer events are gathered before they are told: so much a reader, at most so long. A reader costs
/// a wake-up and a write each time.
const GATHERED_FOR_EACH: Duration = Duration::from_micros(200);
const GATHERED_AT_MOST: Duration = Duration::from_millis(500);

/// Readers behind the ring that look events up at the same time.
const LOOK_UPS: usize = 8;

/// Tells events to those who follow. A clone tells the same.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    store: Store,
    current: Arc<tokio::sync::Mutex<Option<Arc<Shared>>>>,
    look_ups: Arc<Semaphore>,
}

/// What the reader of the stream shares with those who follow.
#[derive(Debug)]
pub(super) struct Shared {
    ring: Mutex<Ring>,
    /// The last event of the stream when it began: who follows from now on has seen all up to there.
    began_after: u64,
    /// The newest event; those who follow wait for it to change.
    newest: watch::Sender<u64>,
}

impl Shared {
    fn new(from: u64, began_after: u64) -> Self {
        Self { ring: Mutex::new(Ring::new(from)), began_after, newest: watch::Sender::new(began_after) }
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// Nothing is read before somebody follows.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, current: Arc::default(), look_ups: Arc::new(Semaphore::new(LOOK_UPS)) }
    }

    /// How many follow now.
    pub(crate) async fn followers(&self) -> usize {
        self.current.lock().await.as_ref().map_or(0, |shared| shared.newest.receiver_count())
    }

    /// Follows the events that are meant: those after this sequence, or those to come from now on.
    pub(crate) async fn follow(&self, filter: EventFilter, after: Option<u64>) -> Result<Follower, StoreError> {
        let (shared, newest) = self.join().await?;
        let tip = shared.began_after.max(shared.ring().next() - 1);
        let life = shared.ring().life();
        let mut follower = Follower::new(self.clone(), shared, newest, filter, after.unwrap_or(tip), life);
        // Another coordinator may be a moment ahead of us, but nobody is ahead of the stream.
        if let Some(after) = after.filter(|after| *after > tip) {
            let extent = self.store.events_extent().await?;
            if after > extent.last {
                follower.begin_anew(life, extent.first);
            }
        }
        Ok(follower)
    }

    /// What the stream's reader shares, and a receiver that keeps it at work.
    async fn join(&self) -> Result<(Arc<Shared>, watch::Receiver<u64>), StoreError> {
        let mut current = self.current.lock().await;
        if let Some(shared) = &*current {
            return Ok((shared.clone(), shared.newest.subscribe()));
        }
        let extent = self.store.events_extent().await?;
        let from = extent.first.max((extent.last + 1).saturating_sub(BEFORE)).max(1);
        let shared = Arc::new(Shared::new(from, extent.last));
        let newest = shared.newest.subscribe();
        *current = Some(shared.clone());
        debug!(from, "the events are read");
        tokio::spawn(self.clone().read(shared.clone()));
        Ok((shared, newest))
    }

    /// Reads the stream for as long as somebody follows.
    async fn read(self, shared: Arc<Shared>) {
        loop {
            match self.read_on(&shared).await {
                Ok(()) => {
                    let mut current = self.current.lock().await;
                    // Who joins meanwhile waits for the lock, or was counted.
                    if shared.newest.receiver_count() == 0 {
                        *current = None;
                        debug!("nobody follows the events any more");
                        return;
                    }
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "the events cannot be read, trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads on from where the ring ends, until nobody has followed for a while.
    async fn read_on(&self, shared: &Shared) -> anyhow::Result<()> {
        let extent = self.store.events_extent().await?;
        if extent.last + 1 < shared.ring().next() {
            shared.ring().begin_anew(extent.first);
            shared.newest.send_replace(extent.first.saturating_sub(1));
        }
        let from = shared.ring().next();
        let mut messages = self.store.events_from(from).await?;
        let mut looks = tokio::time::interval(LOOK);
        let mut followed_at = Instant::now();
        loop {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { anyhow::bail!("the stream of events has ended") };
                    take(shared, &message?);
                    while let Some(Some(message)) = messages.next().now_or_never() {
                        take(shared, &message?);
                    }
                    shared.newest.send_replace(shared.ring().next() - 1);
                    gather(shared.newest.receiver_count()).await;
                }
                _ = looks.tick() => {
                    if shared.newest.receiver_count() > 0 {
                        followed_at = Instant::now();
                    } else if followed_at.elapsed() >= LINGER {
                        return Ok(());
                    }
                    let extent = self.store.events_extent().await?;
                    anyhow::ensure!(extent.last + 1 >= shared.ring().next(), "the stream of events was made anew");
                }
            }
        }
    }

    /// Events from this sequence on that the ring does not have any more.
    pub(super) async fn look_up(&self, sequence: u64, count: usize) -> Result<Vec<Arc<Told>>, StoreError> {
        let _permit = self.look_ups.acquire().await;
        let stored = self.store.events_at(sequence, count).await?;
        Ok(stored.iter().map(|stored| Arc::new(Told::new(stored.sequence, &stored.body))).collect())
    }

    /// The sequence of the oldest event that the stream keeps.
    pub(super) async fn oldest(&self) -> Result<u64, StoreError> {
        Ok(self.store.events_extent().await?.first)
    }
}

fn take(shared: &Shared, message: &Message) {
    // Every message of a stream says its sequence.
    let Ok(info) = message.info() else { return };
    let told = Told::new(info.stream_sequence, &message.payload);
    shared.ring().push(told);
}

/// Lets events come together before the next are told.
async fn gather(readers: usize) {
    let readers = u32::try_from(readers).unwrap_or(u32::MAX);
    let pause = GATHERED_FOR_EACH.saturating_mul(readers).min(GATHERED_AT_MOST);
    // A timer is not more exact than that.
    if pause >= Duration::from_millis(1) {
        tokio::time::sleep(pause).await;
    }
}
