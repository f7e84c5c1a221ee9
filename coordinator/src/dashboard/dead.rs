//! Dead letters: what failed for good, why, and what is done about it.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use shared::api::{DeadFilter, DeadLetter};
use shared::{Kind, header};

use super::Dashboard;
use super::actions::{self, Button, Deed, EVERYTHING, buttons};
use super::asked::{Asked, name};
use super::frame::{Frame, Section};
use super::html::{self, Html};
use super::problem::{Problem, show};
use super::show::{self as words, Body};
use super::table::{Query, ROWS};

/// Which dead letters are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    kind: String,
    before: Option<u64>,
    done: String,
}

#[derive(Template)]
#[template(path = "dead.html")]
struct List {
    frame: Frame,
    kind: String,
    total: String,
    rows: Vec<Row>,
    next: Option<String>,
    buttons: Vec<Button>,
}

struct Row {
    id: u64,
    task: String,
    kind: String,
    outcome: Html,
    age: Html,
    attempts: String,
    agent: String,
    error: String,
}

pub(super) async fn list(
    State(dashboard): State<Dashboard>,
    Asked(filter): Asked<Filter>,
) -> Result<Response, Problem> {
    let kind = name::<Kind>(&filter.kind)?;
    let asked = DeadFilter { kind: kind.clone(), limit: Some(ROWS), before: filter.before };
    let page = dashboard.dead.list(&asked).await?;
    let buttons = match &kind {
        Some(kind) => buttons(&actions::for_queue(page.total, None), kind.as_str()),
        None if page.total > 0 => buttons(&[Deed::Replay, Deed::Discard], EVERYTHING),
        None => Vec::new(),
    };
    let address = Query::default().with("kind", filter.kind.trim());
    show(&List {
        frame: dashboard.frame(Section::Dead, "Dead letters").after(actions::done(&filter.done)),
        total: words::several(page.total, "dead letter", "dead letters"),
        rows: page.items.into_iter().map(row).collect(),
        next: page.next.map(|before| address.with("before", before.to_string()).on("/dead")),
        kind: filter.kind,
        buttons,
    })
}

fn row(letter: DeadLetter) -> Row {
    Row {
        id: letter.id,
        outcome: outcome(&letter),
        age: html::ago(letter.age_ms),
        attempts: words::count(letter.attempts.into()),
        agent: letter.agent.unwrap_or_default(),
        error: letter.error.unwrap_or_default(),
        task: letter.task,
        kind: letter.kind,
    }
}

fn outcome(letter: &DeadLetter) -> Html {
    html::badge("bad", letter.outcome.map_or("dead", |outcome| outcome.as_str()))
}

#[derive(Template)]
#[template(path = "dead-letter.html")]
struct One {
    frame: Frame,
    id: u64,
    task: String,
    kind: String,
    outcome: Html,
    age: Html,
    facts: Vec<(&'static str, String)>,
    error: String,
    history: Vec<String>,
    headers: Vec<(String, String)>,
    body: Body,
    buttons: Vec<Button>,
}

pub(super) async fn one(State(dashboard): State<Dashboard>, Path(id): Path<String>) -> Result<Response, Problem> {
    let selection = crate::dead::named(&id).map_err(Problem::bad_request)?;
    let found = dashboard.dead.get(&selection).await?;
    let letter = found.letter;
    // The body as it is: what is shown of it depends on whether it is text.
    let stored = dashboard.store.dead_letter(letter.id).await.map_err(|error| crate::node::unavailable(&error))?;
    let (history, headers): (Vec<_>, Vec<_>) = found
        .headers
        .into_iter()
        .flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)))
        .partition(|(name, _)| name == header::HISTORY);
    show(&One {
        frame: dashboard.frame(Section::Dead, format!("Dead letter {}", letter.id)),
        outcome: outcome(&letter),
        age: html::ago(letter.age_ms),
        facts: facts(&letter),
        history: history.into_iter().map(|(_, end)| end).collect(),
        headers,
        body: words::body(stored.as_ref().map(|stored| &stored.body[..]).unwrap_or_default()),
        buttons: buttons(&[Deed::Replay, Deed::Discard], &letter.id.to_string()),
        id: letter.id,
        error: letter.error.unwrap_or_else(|| "nothing is known of why".to_owned()),
        task: letter.task,
        kind: letter.kind,
    })
}

fn facts(letter: &DeadLetter) -> Vec<(&'static str, String)> {
    let known = [
        ("Attempts", Some(words::count(letter.attempts.into()))),
        ("Ran last on", letter.agent.clone()),
        ("Submitted under", letter.subject.clone()),
        ("Replay of task", letter.replay_of.clone()),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
