//! Events over HTTP, as server-sent events.
//!
//! The id of an event is its sequence in the stream. So a browser that comes back says by `Last-Event-ID` where to go on,
//! whichever coordinator it reaches.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use shared::api::filter::{EventFilter, split_list};
use tokio::time::{Interval, MissedTickBehavior};

use super::{Follower, Hub, Item};
use crate::http::Problem;

/// How often somebody who follows hears from us when nothing happens, so that what lies between keeps the connection.
const BEAT: Duration = Duration::from_secs(15);

/// The most that one coordinator serves. Each takes a connection and a few kilobytes.
const MOST_FOLLOWERS: usize = 10_000;

/// How long a browser waits before it comes back, in milliseconds; each is told another, so that not all come at once.
const RETRY: std::ops::Range<u32> = 1000..4000;

/// Says where an event stream is to go on.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Serves the events, under both paths alike.
pub(crate) fn router(hub: Hub) -> Router {
    Router::new().route("/v1/events", get(follow)).route("/v1/events/stream", get(follow)).with_state(hub)
}

/// What the query may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    after: Option<u64>,
    topic: String,
    what: String,
    kind: String,
    agent: String,
    task: String,
}

impl Asked {
    /// What is asked for, and after which event. The header goes before the query: a browser that comes back sends the same
    /// query, and the header with it.
    fn read(uri: &Uri, headers: &HeaderMap) -> Result<(EventFilter, Option<u64>), String> {
        let Query(asked) = Query::<Self>::try_from_uri(uri).map_err(|error| error.body_text())?;
        let filter = EventFilter {
            topic: split_list(&asked.topic),
            what: split_list(&asked.what),
            kind: split_list(&asked.kind),
            agent: split_list(&asked.agent),
            task: split_list(&asked.task),
        };
        filter.check().map_err(|error| error.to_string())?;
        let last = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?").trim());
        let last = last.filter(|last| !last.is_empty()).map(str::parse::<u64>).transpose();
        let last = last.map_err(|_| "Last-Event-ID is not the sequence of an event: send a number, or nothing")?;
        Ok((filter, last.or(asked.after)))
    }
}

async fn follow(State(hub): State<Hub>, uri: Uri, headers: HeaderMap) -> Response {
    let (filter, after) = match Asked::read(&uri, &headers) {
        Ok(asked) => asked,
        Err(error) => return Problem::new(400, error).into_response(),
    };
    if hub.followers().await >= MOST_FOLLOWERS {
        return Problem::new(503, "too many follow the events already: ask another coordinator").into_response();
    }
    let follower = match hub.follow(filter, after).await {
        Ok(follower) => follower,
        Err(error) => {
            return Problem::new(503, crate::chain(&error)).into_response();
        }
    };
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // A proxy that gathers what it passes on would hold events back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(frames(follower))).into_response()
}

/// What goes over the connection, piece by piece. Nothing is made before the connection takes it.
fn frames(follower: Follower) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let retry = format!("retry: {}\n: follow\nid: {}\n\n", fastrand::u32(RETRY), follower.position());
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats.reset();
    let events = stream::unfold((follower, beats), |(mut follower, mut beats)| async move {
        let frame = next_frame(&mut follower, &mut beats).await;
        Some((Ok(frame), (follower, beats)))
    });
    stream::once(std::future::ready(Ok(Bytes::from(retry)))).chain(events)
}

async fn next_frame(follower: &mut Follower, beats: &mut Interval) -> Bytes {
    tokio::select! {
        biased;
        item = follower.next() => {
            beats.reset();
            match item {
                Item::Event(told) => told.frame.clone(),
                Item::Gap(gap) => {
                    let (id, data) = (gap.to, serde_json::json!(gap));
                    format!("event: gap\nid: {id}\ndata: {data}\n\n").into()
                }
            }
        }
        // An id without data is no event, but where to go on: what did not match need not be read again.
        _ = beats.tick() => format!(": beat\nid: {}\n\n", follower.position()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_query_says_what_is_meant_and_the_header_where_to_go_on() {
        let uri: Uri = "/v1/events/stream?topic=agent,task&what=lost&after=7".parse().unwrap();

        let (filter, after) = Asked::read(&uri, &HeaderMap::new()).unwrap();
        let (_, resumed) = Asked::read(&uri, &headers(LAST_EVENT_ID, "12")).unwrap();
        let (_, fresh) = Asked::read(&"/v1/events/stream".parse().unwrap(), &headers(LAST_EVENT_ID, "")).unwrap();

        assert_eq!((filter.topic, filter.what), (vec!["agent".to_owned(), "task".to_owned()], vec!["lost".to_owned()]));
        assert_eq!((after, resumed, fresh), (Some(7), Some(12), None));
    }

    #[test]
    fn what_cannot_be_asked_for_is_told() {
        let refuse = |query: &str, last: &str| {
            let uri = format!("/v1/events/stream?{query}").parse().unwrap();
            Asked::read(&uri, &headers(LAST_EVENT_ID, last)).unwrap_err()
        };

        assert!(refuse("topics=agent", "").contains("topics"));
        assert!(refuse("topic=agent.lost", "").contains("agent.lost"));
        assert!(refuse("after=yesterday", "").contains("after"));
        assert!(refuse("", "yesterday").contains("Last-Event-ID"));
    }
}
