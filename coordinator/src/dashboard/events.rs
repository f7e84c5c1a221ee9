//! Events: what happened, and what happens while one looks.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use shared::api::Event;

use super::Dashboard;
use super::asked::{Asked, choice};
use super::frame::{Frame, Section};
use super::html::{self, Html};
use super::problem::{Problem, show};
use super::table::encoded;
use crate::store::Stored;

/// How many events are shown.
const SHOWN: usize = 100;
const TOPICS: [(&str, &str); 4] = [("agent", "agent"), ("task", "task"), ("scaling", "scaling"), ("mesh", "mesh")];

/// Which events are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    topic: String,
}

#[derive(Template)]
#[template(path = "events.html")]
struct Page {
    frame: Frame,
    topics: Vec<(&'static str, bool)>,
    topic: String,
    stream: String,
    rows: Vec<Row>,
}

struct Row {
    when: Html,
    what: String,
    agent: Option<(String, String)>,
    task: Option<(String, String)>,
    kind: String,
    detail: String,
}

pub(super) async fn page(
    State(dashboard): State<Dashboard>,
    Asked(filter): Asked<Filter>,
) -> Result<Response, Problem> {
    let topic = choice("topic of events", &filter.topic, &TOPICS)?;
    let events = dashboard.store.last_events(topic, SHOWN).await;
    let events = events.map_err(|error| crate::node::unavailable(&error))?;
    let stream = dashboard.sources.event_stream().unwrap_or_default().to_owned();
    let frame = dashboard.frame(Section::Events, "Events");
    show(&Page {
        frame: if stream.is_empty() { frame.live() } else { frame },
        topics: TOPICS.map(|(word, of)| (word, Some(of) == topic)).into(),
        topic: topic.unwrap_or_default().to_owned(),
        stream,
        rows: events.iter().filter_map(row).collect(),
    })
}

fn row(stored: &Stored) -> Option<Row> {
    let event: Event = serde_json::from_slice(&stored.body).ok()?;
    let link = |name: String| (encoded(&name), name);
    Some(Row {
        when: html::moment(stored.stored),
        what: format!("{} {}", event.topic, event.what),
        agent: event.agent.map(link),
        task: event.task.map(link),
        kind: event.kind.unwrap_or_default(),
        detail: event.detail.unwrap_or_default(),
    })
}
