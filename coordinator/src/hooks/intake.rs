//! Webhooks in: a signed request becomes a task.

use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use shared::api::intakes::IntakeAccepted;
use shared::client::{NewTask, SubmitError};
use shared::{HookName, TaskId};
use tracing::debug;

use super::intakes::IntakeDefinition;
use super::{Hooks, book, template};
use crate::http::Problem;

/// Takes requests to intakes: `POST /v1/hooks/{name}`. The signature says whether a request is good; nothing else is asked
/// for.
pub(crate) fn router(hooks: Hooks) -> Router {
    let routes = Router::new().route("/v1/hooks/{name}", post(receive));
    // Each intake has a limit of its own.
    routes.layer(DefaultBodyLimit::disable()).with_state(hooks)
}

async fn receive(State(hooks): State<Hooks>, Path(name): Path<String>, headers: HeaderMap, body: Body) -> Response {
    let accepted = match HookName::new(&name) {
        Ok(name) => accept(&hooks, &name, &headers, body).await,
        Err(_) => Err(Refused::Unverified),
    };
    match accepted {
        Ok(accepted) => (StatusCode::ACCEPTED, axum::Json(accepted)).into_response(),
        Err(refused) => {
            debug!(intake = name.escape_debug().to_string(), ?refused, "a request to an intake is refused");
            refused.into_response()
        }
    }
}

/// Why a request becomes no task.
#[derive(Debug)]
enum Refused {
    /// There is no such intake, or it is disabled, or the request is not signed well: which it is, nobody is told.
    Unverified,
    /// The body is too large.
    TooLarge { limit: u64 },
    /// The body broke off.
    Broken,
    /// It is good, and cannot be submitted.
    Submit(SubmitError),
    /// What is kept of intakes cannot be read.
    Unavailable(String),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let problem = match self {
            Refused::Unverified => Problem::new(401, "the request is not signed as it should be"),
            Refused::TooLarge { limit } => Problem::new(413, format!("this intake takes {limit} bytes at most")),
            Refused::Broken => Problem::new(400, "the body broke off"),
            Refused::Submit(error @ SubmitError::TooLarge { .. }) => Problem::new(413, error.to_string()),
            Refused::Submit(error) => Problem::new(503, crate::chain(&error)),
            Refused::Unavailable(error) => Problem::new(503, error),
        };
        problem.into_response()
    }
}

async fn accept(hooks: &Hooks, name: &HookName, headers: &HeaderMap, body: Body) -> Result<IntakeAccepted, Refused> {
    let unavailable = |refusal: shared::api::Refusal| Refused::Unavailable(refusal.error);
    let bucket = hooks.bucket().await.map_err(unavailable)?;
    let definition: Option<IntakeDefinition> =
        book::read(bucket, &book::intake_key(name)).await.map_err(unavailable)?;
    let definition = definition.filter(|definition| definition.enabled).ok_or(Refused::Unverified)?;
    let body = read(headers, body, definition.max_bytes).await?;
    let signed = definition.verifier().verify(headers, &body, SystemTime::now()).ok_or(Refused::Unverified)?;
    let id = template::fill(&definition.task_id, name, signed.delivery.as_deref(), &body);
    // The template was checked when it was set.
    let id = TaskId::new(id).map_err(|error| Refused::Unavailable(error.to_string()))?;
    let task = task(&definition, id, headers, body);
    match hooks.client.submit(&task).await {
        Ok(_) => Ok(IntakeAccepted { id: task.id.to_string(), repeated: false }),
        Err(SubmitError::Duplicate(id)) => Ok(IntakeAccepted { id: id.to_string(), repeated: true }),
        Err(error) => Err(Refused::Submit(error)),
    }
}

/// Reads a body up to a limit; one that says that it is larger is not read at all.
async fn read(headers: &HeaderMap, body: Body, limit: u64) -> Result<Bytes, Refused> {
    let says = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if says.is_some_and(|length| length > limit) {
        return Err(Refused::TooLarge { limit });
    }
    let read = axum::body::to_bytes(body, usize::try_from(limit).unwrap_or(usize::MAX)).await;
    // Only a body that does not say its length can be found too large here.
    read.map_err(|_| if says.is_some() { Refused::Broken } else { Refused::TooLarge { limit } })
}

/// The task: the body as it came, the headers that are given to each, and those that are passed on.
fn task(definition: &IntakeDefinition, id: TaskId, headers: &HeaderMap, body: Bytes) -> NewTask {
    let mut task = NewTask::new(definition.kind.clone(), body);
    task.id = id;
    task.priority = definition.priority;
    let passed = definition.pass.iter().filter_map(|name| Some((name.as_str(), headers.get(name)?.to_str().ok()?)));
    let given = definition.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // What is given comes last: it goes before what the sender says.
    for (name, value) in passed.chain(given) {
        // A value that cannot be sent is left out; those that are given were checked when they were set.
        if let Ok(with) = task.clone().header(name, value) {
            task = with;
        }
    }
    task
}
