//! Tasks and results as bytes: the body of a request is a task's, the body of an answer is a result's, and what else there
//! is to say stands in headers of the contract's names.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Query, RawPathParams, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use shared::api::Refusal;
use shared::api::list::Span;
use shared::api::submit::Submission;
use shared::client::{TaskResult, WaitError};
use shared::{Kind, Priority, TaskId};

use super::problem::Problem;
use super::rest::{bytes_of, json, text_of};
use crate::api::{LONGEST_WAIT, Services, accept, checked, operation};

/// Submitting a task as it is.
pub(super) fn router(services: &Services) -> Router {
    Router::new().route("/v1/tasks/{id}", post(submit)).with_state(services.clone())
}

/// How a task is submitted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    id: Option<TaskId>,
    priority: Priority,
    wait: Option<Span>,
}

async fn submit(
    State(services): State<Services>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let params = params.map_err(|error| Problem::bad_request(error.body_text()))?;
    let kind = Kind::new(named(&params)).map_err(Problem::bad_request)?;
    let (parts, body) = request.into_parts();
    let asked: Asked = query(&parts.uri)?;
    let max_payload = services.client.nats().max_payload();
    let body = bytes_of(body, max_payload.max(1 << 20)).await?;
    let key = parts.headers.get("idempotency-key").map(|key| text_of("Idempotency-Key", key)).transpose()?;
    let is_keyed = key.is_some();
    let submission = Submission {
        kind,
        id: asked.id,
        priority: asked.priority,
        headers: headers_of_task(&parts.headers)?,
        body: None,
        body_base64: None,
        json: None,
        idempotency_key: key,
    };
    let task = checked(submission, body, max_payload)?;
    let accepted = accept(&services, &task, is_keyed).await?;
    if let Some(Span(wait)) = asked.wait {
        match services.client.wait(&task.id, wait.min(LONGEST_WAIT)).await {
            Ok(result) => return show(result),
            // It is accepted all the same.
            Err(WaitError::Timeout { .. }) => {}
            Err(error) => return Err(Problem::new(503, crate::chain(&error))),
        }
    }
    let accepted = serde_json::to_vec(&accepted).map_err(|error| Problem::new(500, error.to_string()))?;
    Ok(json(202, accepted.into()))
}

/// Of the request's own headers only those that mean something to the mesh belong to the task.
fn headers_of_task(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Problem> {
    let is_of_task = |name: &str| name.starts_with("hive-") || name == "traceparent";
    let mut of_task = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| is_of_task(name.as_str())) {
        if of_task.insert(name.to_string(), text_of(name.as_str(), value)?).is_some() {
            return Err(Problem::bad_request(format!("header `{name}` is given twice")));
        }
    }
    Ok(of_task)
}

/// Whether a task's result is wanted, and waited for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    wait: Option<Span>,
    result: bool,
}

/// How far a task is, or its result as it is.
pub(super) async fn task(services: Services, params: &RawPathParams, request: Request) -> Result<Response, Problem> {
    let id = TaskId::new(named(params)).map_err(Problem::bad_request)?;
    let wanted: Wanted = query(request.uri())?;
    if wanted.result || wanted.wait.is_some() {
        let wait = Span(wanted.wait.map_or(Duration::ZERO, |wait| wait.0));
        return show(services.result(&id, Some(wait)).await?);
    }
    let answer = services.call(operation("task", "get"), serde_json::json!({ "id": id })).await;
    Ok(json(200, answer.map_err(Problem::from)?))
}

fn named(params: &RawPathParams) -> &str {
    params.iter().find(|(name, _)| *name == "id").map_or("", |(_, text)| text)
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    Query::try_from_uri(uri).map(|Query(asked)| asked).map_err(|error| Problem::bad_request(error.body_text()))
}

/// The result's body, with what is known of the task in headers of the contract's names.
fn show(result: TaskResult) -> Result<Response, Problem> {
    let clean = |text: &str| shared::header::clean(text, shared::header::MAX_ERROR_BYTES);
    let mut response = Response::builder()
        .status(StatusCode::OK)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(shared::header::TASK, result.id.as_str())
        .header(shared::header::KIND, clean(&result.kind))
        .header(shared::header::OUTCOME, result.outcome.as_str())
        .header(shared::header::ATTEMPTS, result.attempts)
        .header(shared::header::QUEUED_MS, result.queued.as_millis() as u64)
        .header(shared::header::RUN_MS, result.run.as_millis() as u64);
    if let Some(agent) = &result.agent {
        response = response.header(shared::header::AGENT, clean(agent));
    }
    if let Some(error) = &result.error {
        response = response.header(shared::header::ERROR, clean(error));
    }
    let shown = response.body(Body::from(result.body));
    shown.map_err(|error| Problem::from(Refusal { error: format!("the result cannot be shown: {error}"), code: 500 }))
}
