//! A task's log as server-sent events: `GET /v1/tasks/{id}/logs/stream`.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream;
use serde::Deserialize;
use shared::Client;
use shared::api::logs::{LogsRequest, TaskLog};
use shared::api::{Refusal, TaskState};

use crate::node::Handle;
use crate::store::Store;

/// How often a task that does not run is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long nobody may answer, while another coordinator takes over, before the reader is told.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it takes to read logs.
#[derive(Clone, Debug)]
struct Sources {
    handle: Handle,
    store: Store,
    client: Client,
}

/// The log of a task, as it is written.
///
/// Each event `log` is what [`super::read`] answers; its id is `<attempt>:<next>`, by which a reader that comes back with
/// `Last-Event-ID` goes on where it was. The last event is `end`, with the same, or `error` with what went wrong.
pub(crate) fn router(handle: Handle, store: Store, client: Client) -> Router {
    let sources = Sources { handle, store, client };
    Router::new().route("/v1/tasks/{id}/logs/stream", get(follow)).with_state(sources)
}

/// Where to begin.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Place {
    attempt: Option<u32>,
    after: u64,
}

async fn follow(
    State(sources): State<Sources>,
    Path(id): Path<String>,
    from: Result<Query<Place>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let Query(from) = match from {
        Ok(from) => from,
        Err(error) => return problem(&Refusal { error: error.body_text(), code: 400 }),
    };
    let (attempt, after) = place_of(&headers).unwrap_or((from.attempt, from.after));
    let asked = LogsRequest { id, attempt, after, wait: None };
    // A task that is not there is told by the status.
    let first = match super::read(&sources.handle, &sources.store, &sources.client, asked.clone()).await {
        Ok(first) => first,
        Err(refusal) => return problem(&refusal),
    };
    let follower = Follower { sources, asked, first: Some(first), shown: None, failing_since: None, is_over: false };
    let events = stream::unfold(follower, |mut follower: Follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// The place that a reader names which comes back.
fn place_of(headers: &HeaderMap) -> Option<(Option<u32>, u64)> {
    let (attempt, next) = headers.get("last-event-id")?.to_str().ok()?.split_once(':')?;
    Some((Some(attempt.parse().ok()?), next.parse().ok()?))
}

fn problem(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let title = status.canonical_reason().unwrap_or("error");
    let details = serde_json::json!({ "title": title, "status": status.as_u16(), "detail": refusal.error });
    (status, [(CONTENT_TYPE, "application/problem+json")], details.to_string()).into_response()
}

/// One reader.
struct Follower {
    sources: Sources,
    asked: LogsRequest,
    first: Option<TaskLog>,
    /// What of the task was shown last, besides its text.
    shown: Option<(TaskState, u32, Option<u64>)>,
    failing_since: Option<Instant>,
    is_over: bool,
}

impl Follower {
    /// The next event, when there is one; `None` when all is told.
    async fn next(&mut self) -> Option<Event> {
        while !self.is_over {
            let log = match self.first.take() {
                Some(first) => Ok(first),
                None => self.read().await,
            };
            match log {
                Ok(log) => {
                    if let Some(event) = self.tell(log).await {
                        return Some(event);
                    }
                }
                Err(refusal) => {
                    let since = *self.failing_since.get_or_insert_with(Instant::now);
                    if refusal.code != 503 || since.elapsed() > PATIENCE {
                        self.is_over = true;
                        return Some(Event::default().event("error").data(refusal.error.escape_debug().to_string()));
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        None
    }

    async fn read(&self) -> Result<TaskLog, Refusal> {
        let Sources { handle, store, client } = &self.sources;
        super::read(handle, store, client, LogsRequest { wait: Some("3s".to_owned()), ..self.asked.clone() }).await
    }

    async fn tell(&mut self, log: TaskLog) -> Option<Event> {
        self.failing_since = None;
        (self.asked.attempt, self.asked.after) = (Some(log.attempt), log.next);
        self.is_over = log.ended;
        let shown = (log.state, log.attempt, log.progress.as_ref().map(|progress| progress.fraction.to_bits()));
        let is_news = self.shown.replace(shown) != Some(shown) || !log.text.is_empty() || log.ended;
        if !is_news {
            // Who waits for an attempt to begin is not held up by asking for its log.
            if log.state != TaskState::Running || log.note.is_some() {
                tokio::time::sleep(LOOK).await;
            }
            return None;
        }
        let event = Event::default().event(if log.ended { "end" } else { "log" });
        event.id(format!("{}:{}", log.attempt, log.next)).json_data(&log).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_comes_back_goes_on_where_it_was() {
        let place = |id: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", id.parse().unwrap());
            place_of(&headers)
        };

        assert_eq!(place("2:1024"), Some((Some(2), 1024)));
        assert_eq!(place("1024"), None);
        assert_eq!(place("two:4"), None);
    }
}
