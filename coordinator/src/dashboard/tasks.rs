//! Tasks: those that the coordinator has in hand, and any one by its id, wherever it is.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use scheduler::{End, HowEnded, TaskQuery};
use serde::Deserialize;
use shared::api::{Chosen, Explanation, FilterStep, Task, TaskState};
use shared::{AgentId, Kind, Outcome, TaskId};

use super::Dashboard;
use super::actions::{self, Button, buttons};
use super::asked::{Asked, choice, name, said};
use super::frame::{Frame, Section};
use super::html::{self, Html};
use super::problem::{Problem, show};
use super::show::{self as words, Body};
use super::table::{Pager, Query, ROWS, encoded};
use crate::store::Stored;

/// States that a task in hand can have.
const STATES: [(&str, TaskState); 3] =
    [("waiting", TaskState::Waiting), ("running", TaskState::Running), ("settled", TaskState::Settled)];
/// Headers of a task that are shown, and characters of each.
const HEADERS: usize = 40;
const HEADER: usize = 1024;

/// Which tasks are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    /// One, wherever it is.
    id: String,
    state: String,
    kind: String,
    agent: String,
    text: String,
    offset: usize,
}

#[derive(Template)]
#[template(path = "tasks.html")]
struct List {
    frame: Frame,
    text: String,
    kind: String,
    agent: String,
    states: Vec<(&'static str, bool)>,
    rows: Vec<Row>,
    pager: Pager,
}

struct Row {
    id: String,
    kind: String,
    priority: String,
    state: Html,
    age: Html,
    attempts: String,
    agent: Option<(String, String)>,
    reason: String,
}

pub(super) async fn list(
    State(dashboard): State<Dashboard>,
    Asked(filter): Asked<Filter>,
) -> Result<Response, Problem> {
    if let Some(id) = said(&filter.id) {
        return Ok(Redirect::to(&format!("/tasks/{}", encoded(id))).into_response());
    }
    let state = choice("state of a task in hand", &filter.state, &STATES)?;
    let query = TaskQuery {
        state,
        kind: name::<Kind>(&filter.kind)?,
        agent: name::<AgentId>(&filter.agent)?,
        text: filter.text.trim().to_owned(),
        offset: filter.offset,
        limit: ROWS,
    };
    let page = dashboard.handle.look(move |scheduler, now| scheduler.task_page(&query, now)).await?;
    let address = Query::default()
        .with("state", filter.state.trim())
        .with("kind", filter.kind.trim())
        .with("agent", filter.agent.trim())
        .with("text", filter.text.trim());
    show(&List {
        frame: dashboard.frame(Section::Tasks, "Tasks").live(),
        states: STATES.map(|(word, of)| (word, Some(of) == state)).into(),
        pager: Pager::new("/tasks", &address, filter.offset, page.items.len(), page.total),
        rows: page.items.into_iter().map(row).collect(),
        text: filter.text,
        kind: filter.kind,
        agent: filter.agent,
    })
}

fn row(task: Task) -> Row {
    Row {
        id: task.id.to_string(),
        kind: task.kind.to_string(),
        priority: task.priority.map(|priority| priority.to_string()).unwrap_or_default(),
        state: html::task_state(task.state, task.outcome),
        age: task.age_ms.map(html::since).unwrap_or_default(),
        attempts: words::count(task.attempts.into()),
        agent: task.agent.map(|agent| (encoded(&agent), agent)),
        reason: task.reason.unwrap_or_default(),
    }
}

/// What is looked at of one task.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Look {
    done: String,
}

#[derive(Template)]
#[template(path = "task.html")]
struct One {
    frame: Frame,
    id: String,
    kind: String,
    state: Html,
    agent: Option<(String, String)>,
    facts: Vec<(&'static str, String)>,
    error: Option<String>,
    why: String,
    why_facts: Vec<(&'static str, String)>,
    filters: Vec<FilterStep>,
    ends: Vec<Ended>,
    submitted: Option<Message>,
    result: Option<Message>,
    dead_letter: Option<String>,
    buttons: Vec<Button>,
}

/// An attempt that did not end well.
struct Ended {
    attempt: String,
    how: Html,
    agent: String,
    when: Html,
    reason: String,
}

/// A message of a stream.
struct Message {
    when: Html,
    headers: Vec<(String, String)>,
    body: Body,
}

pub(super) async fn one(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    Asked(asked): Asked<Look>,
) -> Result<Response, Problem> {
    let id: TaskId = id.parse().map_err(Problem::bad_request)?;
    let Dashboard { handle, store, .. } = &dashboard;
    let task = handle.task(store, id.clone()).await?;
    let why = handle.why(store, id.clone()).await.unwrap_or_default();
    let wanted = id.clone();
    let ends = handle.look(move |scheduler, _| scheduler.ends_of(&wanted)).await?;
    let (submitted, result) = match task.state {
        TaskState::Settled => (None, store.result(&id).await),
        _ => (store.queued_by_id(&id).await.unwrap_or_default(), Ok(None)),
    };
    let result = result.map_err(|error| crate::node::unavailable(&error))?;
    let is_buried = matches!(task.outcome, Some(Outcome::Failed | Outcome::Dead));
    let frame = dashboard.frame(Section::Tasks, format!("Task {id}")).after(actions::done(&asked.done));
    show(&One {
        frame: if task.state == TaskState::Settled { frame } else { frame.live() },
        kind: task.kind.to_string(),
        state: html::task_state(task.state, task.outcome),
        agent: task.agent.clone().map(|agent| (encoded(&agent), agent)),
        facts: facts(&task),
        error: task.reason.clone().filter(|_| task.outcome.is_some()),
        why_facts: why_facts(&why),
        filters: why.filters,
        why: why.summary,
        ends: ends.iter().map(ended).collect(),
        submitted: submitted.as_ref().map(message),
        result: result.as_ref().map(message),
        dead_letter: is_buried.then(|| format!("/dead/{id}")),
        buttons: buttons(actions::for_task(task.state), id.as_str()),
        id: id.to_string(),
    })
}

fn facts(task: &Task) -> Vec<(&'static str, String)> {
    let alone = "it was with agents when they were lost, so it runs alone".to_owned();
    let known = [
        ("Priority", task.priority.map(|priority| priority.to_string())),
        ("Attempts", Some(words::count(task.attempts.into()))),
        ("Accepted", task.age_ms.map(|age| format!("{} ago", words::millis(age)))),
        ("Waited for its start", task.queued_ms.map(words::millis)),
        ("Ran for", task.run_ms.map(words::millis)),
        ("Alone", task.alone.then_some(alone)),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn why_facts(why: &Explanation) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    facts.extend(why.nearest.iter().map(|near| ("Nearest agent", format!("{} {}", near.agent, near.detail))));
    facts.extend(why.limit.iter().map(|limit| ("Limit", limit.clone())));
    facts.extend(why.ahead.iter().map(|ahead| {
        let (same, other) = (words::count(ahead.in_line), words::count(ahead.in_other_lines));
        ("Ahead of it", format!("{same} that ask for the same, {other} of its kind that ask for something else"))
    }));
    facts.extend(why.starts_in_ms.map(|ms| ("Starts in about", words::millis(ms))));
    facts.extend(why.chosen.iter().flat_map(chosen));
    facts
}

fn chosen(chosen: &Chosen) -> Vec<(&'static str, String)> {
    let slot = if chosen.had_free_slot { "a free slot" } else { "room in its queue" };
    let mut facts = vec![
        ("Agent chosen", format!("{}, which had {slot}", chosen.agent)),
        ("Chosen by", format!("{}: {}", chosen.strategy, chosen.score_means)),
        ("Score", format!("{:.3}", chosen.score)),
    ];
    facts.extend(chosen.runner_up.iter().map(|next| ("Next best", format!("{} with {:.3}", next.agent, next.score))));
    facts
}

fn ended(end: &End) -> Ended {
    Ended {
        attempt: words::count(end.attempt.into()),
        how: match end.how {
            HowEnded::Failed => html::badge("bad", "failed"),
            HowEnded::Lost => html::badge("warn", "agent lost"),
        },
        agent: end.agent.to_string(),
        when: html::moment(std::time::Duration::from_millis(end.at_ms)),
        reason: end.reason.to_string(),
    }
}

fn message(stored: &Stored) -> Message {
    let pairs = stored.headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| (name.to_owned(), value.as_str().chars().take(HEADER).collect::<String>()))
    });
    Message {
        when: html::moment(stored.stored),
        headers: pairs.take(HEADERS).collect(),
        body: words::body(&stored.body),
    }
}
