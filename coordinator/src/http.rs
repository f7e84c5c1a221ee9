//! The HTTP side: health, agents, submitting tasks, resources, and dead letters.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::api::{
    Applied, Apply, DeadFilter, DeadLetterContent, DeadPage, DeadSelection, Discarded, List, Recommendation, Refusal,
    Replays, ResourceUse,
};
use shared::client::{Client, NewTask, SubmitError, TaskResult, WaitError};
use shared::{AgentId, Kind, Priority, TaskId};
use tokio::net::TcpListener;

use crate::dead::DeadLetters;
use crate::node::Handle;
use crate::recommend;
use crate::settings::{self, Scope};
use crate::store::Store;

/// Longest wait for a result in one request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct Server {
    /// The coordinator's loop.
    pub handle: Handle,
    /// The streams.
    pub store: Store,
    /// Submits tasks.
    pub client: Client,
}

impl Server {
    /// Serves until the process ends.
    pub async fn run(self, listener: TcpListener) -> std::io::Result<()> {
        let limit = self.client.nats().server_info().max_payload;
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/v1/status", get(status))
            .route("/v1/agents", get(agents))
            .route("/v1/agents/{id}", get(agent))
            .route("/v1/tasks/{kind_or_id}", post(submit).get(task))
            .route("/v1/tasks/{kind_or_id}/why", get(why))
            .route("/v1/queues/{kind}", get(queue).patch(set_queue))
            .route("/v1/tenants", get(tenants))
            .route("/v1/tenants/{name}", axum::routing::patch(set_tenant))
            .route("/v1/resources", get(resources))
            .route("/v1/recommendations", get(recommendations))
            .route("/v1/recommendations/{kind}", post(apply))
            .route("/v1/dead", get(dead_letters))
            .route("/v1/dead/{id}", get(dead_letter).delete(discard))
            .route("/v1/dead/{id}/replay", post(replay))
            .layer(axum::extract::DefaultBodyLimit::max(limit.max(1 << 20)))
            .with_state(self);
        axum::serve(listener, router).await
    }
}

/// An error as RFC 9457 problem details.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    detail: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Details<'a> {
            title: &'a str,
            status: u16,
            detail: &'a str,
        }
        let title = self.status.canonical_reason().unwrap_or("error");
        let details = Details { title, status: self.status.as_u16(), detail: &self.detail };
        let body = serde_json::to_vec(&details).unwrap_or_default();
        (self.status, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, detail: refusal.error }
    }
}

fn bad_request(error: impl std::fmt::Display) -> Problem {
    Problem { status: StatusCode::BAD_REQUEST, detail: error.to_string() }
}

/// The query of a request; one that cannot be read is told as problem details, like everything else.
struct Asked<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) =
            Query::from_request_parts(parts, state).await.map_err(|error| bad_request(error.body_text()))?;
        Ok(Self(asked))
    }
}

async fn readyz(State(server): State<Server>) -> Result<String, Problem> {
    let connected = server.client.nats().connection_state() == async_nats::connection::State::Connected;
    if !connected {
        let detail = "there is no connection to the NATS server".to_owned();
        return Err(Problem { status: StatusCode::SERVICE_UNAVAILABLE, detail });
    }
    let status = server.handle.status();
    Ok(if status.leading { format!("leading in epoch {}\n", status.epoch) } else { "standing by\n".to_owned() })
}

async fn status(State(server): State<Server>) -> axum::Json<shared::api::Mesh> {
    axum::Json(server.handle.status())
}

async fn agents(State(server): State<Server>) -> Result<axum::Json<List<shared::api::Agent>>, Problem> {
    Ok(axum::Json(List { items: server.handle.look(scheduler::Scheduler::agents).await? }))
}

async fn agent(
    State(server): State<Server>,
    Path(id): Path<String>,
) -> Result<axum::Json<shared::api::Agent>, Problem> {
    Ok(axum::Json(server.handle.agent(AgentId::new(id).map_err(bad_request)?).await?))
}

/// How a task is submitted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Submission {
    id: Option<String>,
    priority: Option<Priority>,
    wait: Option<String>,
}

async fn submit(
    State(server): State<Server>,
    Path(kind): Path<String>,
    Asked(submission): Asked<Submission>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut task = NewTask::new(Kind::new(kind).map_err(bad_request)?, body);
    if let Some(id) = submission.id {
        task.id = TaskId::new(id).map_err(bad_request)?;
    }
    task.priority = submission.priority.unwrap_or_default();
    for (name, value) in &headers {
        // Of the request's own headers only those that mean something to the mesh belong to the task.
        if name.as_str().starts_with("hive-") || name == "traceparent" {
            let value = value.to_str().map_err(|_| bad_request(format!("header `{name}` is not plain text")))?;
            task = task.header(&canonical(name.as_str()), value).map_err(|error| submit_problem(&error))?;
        }
    }
    shared::TaskOptions::parse(|name| task.headers.get(name).map(async_nats::HeaderValue::as_str))
        .map_err(bad_request)?;
    let wait = submission.wait.map(|wait| humantime::parse_duration(&wait)).transpose();
    let wait = wait.map_err(|e| bad_request(format!("wait: {e}: write `30s`")))?;
    server.client.submit(&task).await.map_err(|error| submit_problem(&error))?;
    match wait {
        None => {
            let accepted = serde_json::json!({ "id": task.id });
            Ok((StatusCode::ACCEPTED, axum::Json(accepted)).into_response())
        }
        Some(wait) => {
            let result = server.client.wait(&task.id, wait.min(LONGEST_WAIT)).await.map_err(wait_problem)?;
            Ok(show_result(result))
        }
    }
}

/// HTTP writes header names in small letters; NATS compares them as they are.
fn canonical(name: &str) -> String {
    if name == "traceparent" {
        return name.to_owned();
    }
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('-').filter(|word| !word.is_empty()).map(capital).collect::<Vec<_>>().join("-")
}

/// Whether a result is waited for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiting {
    wait: Option<String>,
    result: Option<bool>,
}

async fn task(
    State(server): State<Server>,
    Path(id): Path<String>,
    Asked(waiting): Asked<Waiting>,
) -> Result<Response, Problem> {
    let id = TaskId::new(id).map_err(bad_request)?;
    if waiting.wait.is_some() || waiting.result == Some(true) {
        let wait = humantime::parse_duration(waiting.wait.as_deref().unwrap_or("0s"));
        let wait = wait.map_err(|e| bad_request(format!("wait: {e}: write `30s`")))?;
        let result = server.client.wait(&id, wait.min(LONGEST_WAIT)).await.map_err(wait_problem)?;
        return Ok(show_result(result));
    }
    Ok(axum::Json(server.handle.task(&server.store, id).await?).into_response())
}

async fn why(
    State(server): State<Server>,
    Path(id): Path<String>,
) -> Result<axum::Json<shared::api::Explanation>, Problem> {
    Ok(axum::Json(server.handle.why(&server.store, TaskId::new(id).map_err(bad_request)?).await?))
}

async fn queue(
    State(server): State<Server>,
    Path(kind): Path<String>,
) -> Result<axum::Json<shared::api::QueueSettings>, Problem> {
    Ok(axum::Json(crate::api::queue(&server.handle, kind).await?))
}

async fn set_queue(
    State(server): State<Server>,
    Path(kind): Path<String>,
    body: Bytes,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    change(&server, Scope::Kind, &kind, &body).await
}

async fn tenants(State(server): State<Server>) -> Result<axum::Json<List<shared::api::Tenant>>, Problem> {
    Ok(axum::Json(List { items: server.handle.look(|scheduler, _| scheduler.tenants()).await? }))
}

async fn set_tenant(
    State(server): State<Server>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    change(&server, Scope::Tenant, &name, &body).await
}

async fn change(
    server: &Server,
    scope: Scope,
    name: &str,
    body: &[u8],
) -> Result<axum::Json<serde_json::Value>, Problem> {
    let patch = serde_json::from_slice(body).map_err(|e| bad_request(format!("the body is not JSON: {e}")))?;
    Ok(axum::Json(settings::change(&server.store, scope, name, patch).await?))
}

async fn resources(State(server): State<Server>) -> Result<axum::Json<ResourceUse>, Problem> {
    Ok(axum::Json(server.handle.look(scheduler::Scheduler::resource_use).await?))
}

async fn recommendations(State(server): State<Server>) -> Result<axum::Json<List<Recommendation>>, Problem> {
    Ok(axum::Json(List { items: server.handle.look(scheduler::Scheduler::recommendations).await? }))
}

/// Which recommendations for a kind are followed, and whether in earnest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Following {
    resource: Option<String>,
    dry_run: Option<bool>,
}

async fn apply(
    State(server): State<Server>,
    Path(kind): Path<String>,
    Asked(following): Asked<Following>,
) -> Result<axum::Json<Applied>, Problem> {
    let id = Kind::new(kind).map_err(bad_request)?;
    let asked = Apply { id, resource: following.resource, dry_run: following.dry_run == Some(true) };
    Ok(axum::Json(recommend::apply(&server.handle, &server.store, asked).await?))
}

impl Server {
    fn dead(&self) -> DeadLetters {
        DeadLetters::new(self.store.clone(), self.client.clone())
    }
}

async fn dead_letters(
    State(server): State<Server>,
    Asked(filter): Asked<DeadFilter>,
) -> Result<axum::Json<DeadPage>, Problem> {
    Ok(axum::Json(server.dead().list(&filter).await?))
}

async fn dead_letter(
    State(server): State<Server>,
    Path(id): Path<String>,
) -> Result<axum::Json<DeadLetterContent>, Problem> {
    Ok(axum::Json(server.dead().get(&one_dead(&id)?).await?))
}

async fn replay(State(server): State<Server>, Path(id): Path<String>) -> Result<axum::Json<Replays>, Problem> {
    Ok(axum::Json(server.dead().replay(&one_dead(&id)?).await?))
}

async fn discard(State(server): State<Server>, Path(id): Path<String>) -> Result<axum::Json<Discarded>, Problem> {
    Ok(axum::Json(server.dead().discard(&one_dead(&id)?).await?))
}

/// A dead letter is named by its number, or by the id of its task.
fn one_dead(id: &str) -> Result<DeadSelection, Problem> {
    crate::dead::named(id).map_err(bad_request)
}

/// The result's body, with what is known of the task in headers of the contract's names.
fn show_result(result: TaskResult) -> Response {
    let mut response = Response::builder()
        .status(StatusCode::OK)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header("X-Content-Type-Options", "nosniff")
        .header(shared::header::TASK, result.id.as_str())
        .header(shared::header::KIND, &result.kind)
        .header(shared::header::OUTCOME, result.outcome.as_str())
        .header(shared::header::ATTEMPTS, result.attempts)
        .header(shared::header::QUEUED_MS, result.queued.as_millis() as u64)
        .header(shared::header::RUN_MS, result.run.as_millis() as u64);
    if let Some(agent) = &result.agent {
        response = response.header(shared::header::AGENT, agent);
    }
    if let Some(error) = &result.error {
        response = response.header(shared::header::ERROR, error);
    }
    response.body(Body::from(result.body)).unwrap_or_else(|e| bad_request(e).into_response())
}

fn submit_problem(error: &SubmitError) -> Problem {
    let status = match error {
        SubmitError::BadHeader { .. } => StatusCode::BAD_REQUEST,
        SubmitError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        SubmitError::Duplicate(_) => StatusCode::CONFLICT,
        SubmitError::NoStream(_) | SubmitError::Store { .. } => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem { status, detail: crate::chain(error) }
}

fn wait_problem(error: WaitError) -> Problem {
    let status = match error {
        WaitError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        WaitError::Submit(error) => return submit_problem(&error),
        WaitError::Subscribe(_) | WaitError::Read(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem { status, detail: crate::chain(&error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_gets_its_name_back() {
        assert_eq!(canonical("hive-max-attempts"), "Hive-Max-Attempts");
        assert_eq!(canonical("traceparent"), "traceparent");
    }
}
