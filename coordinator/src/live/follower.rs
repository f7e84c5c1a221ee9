//! Somebody who follows the events: from the ring, and from the stream while it is behind the ring.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use shared::api::filter::EventFilter;
use tokio::sync::watch;
use tracing::warn;

use super::hub::{Hub, Shared};
use super::{Look, Told};
use crate::store::StoreError;

/// Events that are taken at a time.
const PAGE: usize = 128;

/// How long to wait before events are looked up again that should be there, and how often. A server that has a copy of
/// the stream may lag behind the one that leads it.
const PAUSE: Duration = Duration::from_millis(200);
const TRIES: u32 = 25;

/// What somebody gets who follows.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// An event that is meant.
    Event(Arc<Told>),
    /// Events that nobody can have any more.
    Gap(Gap),
}

/// Events that the stream does not keep any more, whatever they were about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    /// The first of them.
    pub(crate) from: u64,
    /// The last of them.
    pub(crate) to: u64,
}

/// Somebody who follows the events.
#[derive(Debug)]
pub(crate) struct Follower {
    hub: Hub,
    shared: Arc<Shared>,
    newest: watch::Receiver<u64>,
    filter: EventFilter,
    cursor: Cursor,
    ready: VecDeque<Item>,
}

/// How far somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    /// It has everything up to this sequence,
    position: u64,
    /// in this life of the stream.
    life: u64,
}

impl Cursor {
    /// Goes on to an event. What is between is not kept.
    fn advance(&mut self, sequence: u64) -> Option<Gap> {
        let expected = self.position + 1;
        self.position = sequence;
        (sequence > expected).then(|| Gap { from: expected, to: sequence - 1 })
    }
}

impl Follower {
    pub(super) fn new(
        hub: Hub,
        shared: Arc<Shared>,
        newest: watch::Receiver<u64>,
        filter: EventFilter,
        position: u64,
        life: u64,
    ) -> Self {
        Self { hub, shared, newest, filter, cursor: Cursor { position, life }, ready: VecDeque::new() }
    }

    /// The sequence up to which it has got everything that is meant.
    pub(crate) fn position(&self) -> u64 {
        self.cursor.position
    }

    /// The next event, or gap; waits for it. What is given up half-way is not lost.
    pub(crate) async fn next(&mut self) -> Item {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return item;
            }
            // Seen before it is looked, so that nothing can come between.
            self.newest.mark_unchanged();
            let look = self.shared.ring().after(self.cursor.position, self.cursor.life, PAGE);
            match look {
                Look::Found(events) => self.take(events),
                Look::Behind { until } => self.catch_up(until).await,
                Look::Anew { life, first } => self.begin_anew(life, first),
                // It changes for as long as we have what is shared.
                Look::UpToDate => {
                    let _ = self.newest.changed().await;
                }
            }
        }
    }

    /// The stream is another one, in which the position means nothing: it is told as a gap up to what there is.
    pub(super) fn begin_anew(&mut self, life: u64, first: u64) {
        let last_lost = first.saturating_sub(1);
        self.cursor = Cursor { position: last_lost, life };
        self.ready.push_back(Item::Gap(Gap { from: 1, to: last_lost }));
    }

    fn take(&mut self, events: Vec<Arc<Told>>) {
        for told in events {
            self.ready.extend(self.cursor.advance(told.sequence).map(Item::Gap));
            if told.event.as_ref().is_some_and(|event| self.filter.matches(event)) {
                self.ready.push_back(Item::Event(told));
            }
        }
    }

    /// Gets events that only the stream has, up to this sequence.
    async fn catch_up(&mut self, until: u64) {
        for _ in 0..TRIES {
            match self.missed(until).await {
                Ok(Some(events)) if events.is_empty() => break,
                Ok(Some(events)) => return self.take(events),
                Ok(None) => {}
                Err(error) => warn!(error = %crate::chain(&error), "missed events cannot be looked up, trying again"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.ready.push_back(Item::Gap(Gap { from: self.cursor.position + 1, to: until }));
        self.cursor.position = until;
    }

    /// The next events of the stream up to this sequence: none if it keeps none of them any more, and nothing if it does,
    /// and they did not come.
    async fn missed(&self, until: u64) -> Result<Option<Vec<Arc<Told>>>, StoreError> {
        let mut events = self.hub.look_up(self.cursor.position + 1, PAGE).await?;
        if events.is_empty() && self.hub.oldest().await? <= until {
            return Ok(None);
        }
        events.retain(|told| told.sequence <= until);
        Ok(Some(events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_two_events_is_a_gap() {
        let mut cursor = Cursor { position: 4, life: 0 };

        assert_eq!(cursor.advance(5), None);
        assert_eq!(cursor.advance(9), Some(Gap { from: 6, to: 8 }));
        assert_eq!(cursor.position, 9);
    }
}
