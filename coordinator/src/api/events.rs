//! Operations about events: what the stream keeps of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shared::api::ask::EventFilter;
use shared::api::list::{Limit, Page};
use shared::api::{Event, Refusal};
use shared::names::Word;

use super::services::Services;
use crate::node::unavailable;
use crate::store::Stored;

/// Events on a page whose length nobody asked for.
const PAGE: usize = 100;

pub(super) async fn list(services: Services, asked: EventFilter) -> Result<Page<Event>, Refusal> {
    let before = super::tasks::position(asked.cursor.as_deref())?.unwrap_or(u64::MAX);
    let limit = asked.limit.map_or(PAGE, Limit::get);
    let filter = services.subjects().event(token(asked.topic.as_ref()), token(asked.what.as_ref()));
    let stream = services.subjects().events_stream();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest = asked.since.map_or(Duration::ZERO, |span| since_1970.saturating_sub(span.0));
    let is_over = AtomicBool::new(false);
    let take = |stored: Stored| {
        let is_old = stored.stored < oldest;
        is_over.fetch_or(is_old, Ordering::Relaxed);
        if is_old { None } else { read(&asked, &stored) }
    };
    let (items, next) =
        services.store.newest(&stream, &filter, before, limit, take).await.map_err(|error| unavailable(&error))?;
    // Before one that is too old there are only older ones.
    let next = next.filter(|_| !is_over.load(Ordering::Relaxed) || items.len() == limit);
    Ok(Page { items, next: next.map(|next| next.to_string()) })
}

fn token(word: Option<&Word>) -> &str {
    word.map_or("*", Word::as_str)
}

/// The event in a message, if it is one that is asked for.
fn read(asked: &EventFilter, stored: &Stored) -> Option<Event> {
    let event: Event = serde_json::from_slice(&stored.body).ok()?;
    let about = |asked: Option<&str>, named: Option<&str>| asked.is_none() || asked == named;
    let is_wanted = about(asked.task.as_ref().map(AsRef::as_ref), event.task.as_deref())
        && about(asked.agent.as_ref().map(AsRef::as_ref), event.agent.as_deref())
        && about(asked.kind.as_ref().map(AsRef::as_ref), event.kind.as_deref());
    is_wanted.then_some(event)
}
