//! Operations about tasks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use scheduler::Sequence;
use sha2::{Digest as _, Sha256};
use shared::api::ask::{ResultOf, TaskFilter, TaskRef};
use shared::api::list::{Limit, Page, Span};
use shared::api::submit::{self, Accepted, Batch, Batched, NotAccepted, Submission};
use shared::api::{Explanation, Refusal, Task, TaskState};
use shared::client::{NewTask, SubmitError, TaskResult, WaitError};
use shared::subject::TaskSubject;
use shared::{TaskId, TaskOptions};

use super::bad_request;
use super::services::Services;
use crate::node::{queued_task, settled_task, unavailable};
use crate::store::Stored;
use crate::submission::checked_header;

/// Longest wait for a result in one request.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Tasks on a page whose length nobody asked for.
const PAGE: usize = 100;

/// Most tasks in one batch, and how many of them are on their way to the broker at once.
const BATCH: usize = 1000;
const IN_FLIGHT: usize = 64;

/// How long a result may be on its way into its stream whose task is settled.
const RECORDING: Duration = Duration::from_secs(1);

/// How long one request looks through what is queued.
const LOOK_TIME: Duration = Duration::from_secs(2);

pub(super) async fn submit(services: Services, asked: Submission) -> Result<Accepted, Refusal> {
    let is_keyed = asked.idempotency_key.is_some();
    let task = new_task(asked, services.client.nats().max_payload())?;
    accept(&services, &task, is_keyed).await
}

pub(super) async fn batch(services: Services, asked: Batch) -> Result<Batched, Refusal> {
    if !(1..=BATCH).contains(&asked.items.len()) {
        return Err(bad_request(format!("a batch has 1 to {BATCH} tasks, and not {}", asked.items.len())));
    }
    let key = asked.idempotency_key.as_deref();
    let submit_one = |(index, mut one): (usize, Submission)| {
        if let Some(key) = key {
            one.idempotency_key.get_or_insert_with(|| format!("{key}/{index}"));
        }
        let services = services.clone();
        async move { (index, submit(services, one).await) }
    };
    let mut done = Batched::default();
    let mut submitted = stream::iter(asked.items.into_iter().enumerate()).map(submit_one).buffered(IN_FLIGHT);
    while let Some((index, accepted)) = submitted.next().await {
        match accepted {
            Ok(accepted) => done.items.push(accepted),
            Err(Refusal { error, code }) => done.refused.push(NotAccepted { index, error, code }),
        }
    }
    Ok(done)
}

/// Stores a task. One that is there already is no error if its id was made from a key.
pub(crate) async fn accept(services: &Services, task: &NewTask, is_keyed: bool) -> Result<Accepted, Refusal> {
    let (sequence, repeated) = match services.client.submit(task).await {
        Ok(sequence) => (Some(sequence), false),
        Err(SubmitError::Duplicate(_)) if is_keyed => {
            let queued = services.store.queued_by_id(&task.id).await.map_err(|error| unavailable(&error))?;
            (queued.map(|queued| queued.sequence), true)
        }
        Err(error) => return Err(not_submitted(&error)),
    };
    let sequence = sequence.filter(|sequence| *sequence > 0);
    Ok(Accepted { id: task.id.clone(), kind: task.kind.clone(), priority: task.priority, sequence, repeated })
}

/// The id of a task whose submitter gives a key: the key itself where it is one.
fn id_for_key(key: &str) -> TaskId {
    let hashed = || format!("key-{}", data_encoding::HEXLOWER.encode(&Sha256::digest(key)));
    TaskId::new(key).or_else(|_| TaskId::new(hashed())).expect("a hash in hexadecimal is a good id")
}

fn new_task(asked: Submission, max_payload: usize) -> Result<NewTask, Refusal> {
    let body = body(&asked)?;
    checked(asked, body, max_payload)
}

/// The task that is asked for with this body, checked as far as it can be before it is stored.
pub(crate) fn checked(asked: Submission, body: Bytes, max_payload: usize) -> Result<NewTask, Refusal> {
    let mut task = NewTask { priority: asked.priority, ..NewTask::new(asked.kind, body) };
    match (asked.id, asked.idempotency_key) {
        (Some(_), Some(_)) => return Err(bad_request("an `idempotency_key` makes the id: leave one of them out")),
        (Some(id), None) => task.id = id,
        (None, Some(key)) if !(1..=255).contains(&key.len()) => {
            return Err(bad_request("an idempotency key has 1 to 255 characters"));
        }
        (None, Some(key)) => task.id = id_for_key(&key),
        (None, None) => {}
    }
    let mut size = task.body.len();
    for (name, value) in &asked.headers {
        let (name, value) = checked_header(name, value).map_err(bad_request)?;
        if task.headers.get(name.as_str()).is_some() {
            return Err(bad_request(format!("header `{name}` is given twice")));
        }
        size += name.len() + value.len();
        task = task.header(&name, &value).map_err(|error| not_submitted(&error))?;
    }
    if max_payload > 0 && size > max_payload {
        return Err(not_submitted(&SubmitError::TooLarge { size, limit: max_payload }));
    }
    TaskOptions::parse(|name| task.headers.get(name).map(async_nats::HeaderValue::as_str)).map_err(bad_request)?;
    Ok(task)
}

fn body(asked: &Submission) -> Result<Bytes, Refusal> {
    match (&asked.body, &asked.body_base64, &asked.json) {
        (None, None, None) => Ok(Bytes::new()),
        (Some(text), None, None) => Ok(text.clone().into()),
        (None, Some(text), None) => {
            let decoded = data_encoding::BASE64.decode(text.as_bytes());
            decoded.map(Into::into).map_err(|error| bad_request(format!("`body_base64` is not base64: {error}")))
        }
        (None, None, Some(json)) => serde_json::to_vec(json).map(Into::into).map_err(bad_request),
        _ => Err(bad_request("a task has one body: give one of `body`, `body_base64` and `json`")),
    }
}

/// Why a task was not accepted, as in HTTP.
fn not_submitted(error: &SubmitError) -> Refusal {
    let code = match error {
        SubmitError::BadHeader { .. } => 400,
        SubmitError::TooLarge { .. } => 413,
        SubmitError::Duplicate(_) => 409,
        SubmitError::NoStream(_) | SubmitError::Store { .. } => 503,
    };
    Refusal { error: crate::chain(error), code }
}

pub(super) async fn get(services: Services, asked: TaskRef) -> Result<Task, Refusal> {
    services.handle.task(&services.store, asked.id).await
}

pub(super) async fn why(services: Services, asked: TaskRef) -> Result<Explanation, Refusal> {
    services.handle.why(&services.store, asked.id).await
}

pub(super) async fn cancel(services: Services, asked: TaskRef) -> Result<Task, Refusal> {
    services.handle.cancel(&services.store, asked.id).await
}

pub(super) async fn result(services: Services, asked: ResultOf) -> Result<submit::TaskResult, Refusal> {
    let result = services.result(&asked.id, asked.wait).await?;
    Ok(shown(&result))
}

impl Services {
    /// A task's result, waited for where that is wanted.
    pub(crate) async fn result(&self, id: &TaskId, wait: Option<Span>) -> Result<TaskResult, Refusal> {
        if let Some(result) = self.client.result(id).await.map_err(|error| not_read(&error))? {
            return Ok(result);
        }
        let state = self.task(id).await?.state;
        let wait = wait.map_or(Duration::ZERO, |wait| wait.0).min(LONGEST_WAIT);
        let wait = if state == TaskState::Settled { wait.max(RECORDING) } else { wait };
        if !wait.is_zero() {
            match self.client.wait(id, wait).await {
                Ok(result) => return Ok(result),
                Err(WaitError::Timeout { .. }) => {}
                Err(error) => return Err(not_read(&error)),
            }
        }
        Err(Refusal { error: format!("task `{id}` has no result yet: ask again, with a longer `wait`"), code: 409 })
    }
}

fn not_read(error: &WaitError) -> Refusal {
    Refusal { error: crate::chain(error), code: 503 }
}

/// A result as it is shown; a body that is not UTF-8 is given in base64.
pub(crate) fn shown(result: &TaskResult) -> submit::TaskResult {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let text = std::str::from_utf8(&result.body).ok();
    submit::TaskResult {
        id: result.id.clone(),
        kind: result.kind.clone(),
        outcome: result.outcome,
        attempts: result.attempts,
        agent: result.agent.clone(),
        error: result.error.clone(),
        queued_ms: millis(result.queued),
        run_ms: millis(result.run),
        body: text.map(str::to_owned),
        body_base64: text.is_none().then(|| data_encoding::BASE64.encode(&result.body)),
    }
}

pub(super) async fn list(services: Services, asked: TaskFilter) -> Result<Page<Task>, Refusal> {
    let at = position(asked.cursor.as_deref())?;
    let limit = asked.limit.map_or(PAGE, Limit::get);
    match asked.state {
        Some(TaskState::Queued) => queued(&services, &asked, at.unwrap_or(0), limit).await,
        Some(TaskState::Settled) => settled(&services, &asked, at.unwrap_or(u64::MAX), limit).await,
        _ => fetched(&services, asked, at.unwrap_or(0), limit).await,
    }
}

/// Where a page begins of what is listed by sequences.
pub(super) fn position(cursor: Option<&str>) -> Result<Option<u64>, Refusal> {
    let bad = |cursor: &str| bad_request(format!("`{}` is no `next` of this list", cursor.escape_debug()));
    cursor.map(|cursor| cursor.parse().map_err(|_| bad(cursor))).transpose()
}

fn is_old_enough(asked: &TaskFilter, age_ms: Option<u64>) -> bool {
    let age = Duration::from_millis(age_ms.unwrap_or_default());
    asked.older_than.is_none_or(|wanted| age >= wanted.0)
}

async fn fetched(services: &Services, asked: TaskFilter, after: u64, limit: usize) -> Result<Page<Task>, Refusal> {
    let look = move |scheduler: &scheduler::Scheduler, now| {
        let is_wanted = |task: &Task| {
            asked.kind.as_ref().is_none_or(|kind| *kind == task.kind)
                && asked.state.is_none_or(|state| state == task.state)
                && is_old_enough(&asked, task.age_ms)
        };
        let mut wanted = scheduler.tasks_after(Sequence(after), now).filter(|(_, task)| is_wanted(task));
        let page: Vec<(Sequence, Task)> = wanted.by_ref().take(limit).collect();
        let next = wanted.next().and(page.last()).map(|(sequence, _)| sequence.to_string());
        Page { items: page.into_iter().map(|(_, task)| task).collect(), next }
    };
    services.handle.look(look).await
}

/// What is in the stream and not fetched.
async fn queued(services: &Services, asked: &TaskFilter, after: u64, limit: usize) -> Result<Page<Task>, Refusal> {
    let (started, mut items, mut after) = (Instant::now(), Vec::new(), after);
    while started.elapsed() < LOOK_TIME {
        let found = services.store.queued_after(asked.kind.as_ref(), after).await;
        let (stored, horizon) = found.map_err(|error| unavailable(&error))?;
        for (sequence, task) in not_fetched(services, stored).await? {
            if is_old_enough(asked, task.age_ms) {
                items.push(task);
            }
            if items.len() == limit {
                return Ok(Page { items, next: Some(sequence.to_string()) });
            }
        }
        match horizon {
            Some(horizon) => after = horizon,
            None => return Ok(Page { items, next: None }),
        }
    }
    Ok(Page { items, next: Some(after.to_string()) })
}

async fn not_fetched(services: &Services, stored: Vec<Stored>) -> Result<Vec<(u64, Task)>, Refusal> {
    let sequences: Vec<u64> = stored.iter().map(|stored| stored.sequence).collect();
    let look = move |scheduler: &scheduler::Scheduler, _| {
        sequences.into_iter().map(|sequence| scheduler.has(Sequence(sequence))).collect::<Vec<bool>>()
    };
    let are_held = services.handle.look(look).await?;
    let shown = |stored: Stored| {
        let subject = TaskSubject::parse(services.subjects(), &stored.subject).ok()?;
        let named = || TaskId::new(stored.headers.get(shared::header::MSG_ID)?.as_str()).ok();
        let id = subject.id.or_else(named).unwrap_or_else(|| TaskId::from_sequence(stored.sequence));
        Some((stored.sequence, queued_task(&id, &stored)))
    };
    let not_held = stored.into_iter().zip(are_held).filter(|(_, is_held)| !is_held);
    Ok(not_held.filter_map(|(stored, _)| shown(stored)).collect())
}

/// What has a result that is kept, the newest first.
async fn settled(services: &Services, asked: &TaskFilter, before: u64, limit: usize) -> Result<Page<Task>, Refusal> {
    let subjects = services.subjects();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let take = |stored: Stored| {
        let task = settled_task(&subjects.result_id(&stored.subject)?, &stored);
        let age = since_1970.saturating_sub(stored.stored).as_millis() as u64;
        let is_wanted = asked.kind.as_ref().is_none_or(|kind| *kind == task.kind) && is_old_enough(asked, Some(age));
        is_wanted.then_some(task)
    };
    let (stream, filter) = (subjects.results_stream(), subjects.results());
    let found = services.store.newest(&stream, &filter, before, limit, take).await;
    let (items, next) = found.map_err(|error| unavailable(&error))?;
    Ok(Page { items, next: next.map(|next| next.to_string()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(text: &str) -> Result<NewTask, Refusal> {
        new_task(serde_json::from_str(text).unwrap(), 1000)
    }

    #[test]
    fn a_body_is_a_text_or_bytes_or_json() {
        let body = |text: &str| task(text).map(|task| task.body);

        assert_eq!(body(r#"{"kind": "echo"}"#).unwrap(), "");
        assert_eq!(body(r#"{"kind": "echo", "body": "hi"}"#).unwrap(), "hi");
        assert_eq!(body(r#"{"kind": "echo", "body_base64": "/w=="}"#).unwrap(), &b"\xff"[..]);
        assert_eq!(body(r#"{"kind": "echo", "json": {"a": [1, 2]}}"#).unwrap(), r#"{"a":[1,2]}"#);
        assert!(body(r#"{"kind": "echo", "body": "hi", "json": 1}"#).unwrap_err().error.contains("one body"));
        assert!(body(r#"{"kind": "echo", "body_base64": "?"}"#).unwrap_err().error.contains("not base64"));
    }

    #[test]
    fn a_key_is_the_id_or_is_hashed_into_one() {
        assert_eq!(id_for_key("order-1").as_str(), "order-1");
        assert_eq!(id_for_key("order 1"), id_for_key("order 1"));
        assert_ne!(id_for_key("order 1"), id_for_key("order 2"));
        assert!(id_for_key("order 1").as_str().starts_with("key-"));
        assert_eq!(task(r#"{"kind": "echo", "id": "a", "idempotency_key": "b"}"#).unwrap_err().code, 400);
    }

    #[test]
    fn a_task_is_checked_before_it_is_stored() {
        let refused = |text: &str| task(text).unwrap_err();

        assert!(refused(r#"{"kind": "echo", "headers": {"hive-timeout": "soon"}}"#).error.contains("Hive-Timeout"));
        let twice = r#"{"kind": "echo", "headers": {"hive-timeout": "1s", "Hive-Timeout": "2s"}}"#;
        assert!(refused(twice).error.contains("twice"));
        let long = format!(r#"{{"kind": "echo", "headers": {{"X": "{}"}}}}"#, "x".repeat(1000));
        assert_eq!(refused(&long).code, 413);
    }

    #[test]
    fn a_cursor_that_no_list_gave_is_refused() {
        assert_eq!(position(Some("17")), Ok(Some(17)));
        assert_eq!(position(None), Ok(None));
        assert!(position(Some("first")).unwrap_err().error.contains("`first`"));
    }
}
