//! Queues: what waits and runs of each kind, and the settings that hold for one.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use scheduler::placement::Strategy;
use serde::Deserialize;
use serde_json::Value;
use shared::Kind;
use shared::api::{DeadFilter, Queue};

use super::Dashboard;
use super::actions::{self, Button, buttons};
use super::asked::{Asked, said};
use super::frame::{Frame, Section};
use super::html::{self, Html};
use super::problem::{Problem, show};
use super::show::{self as words, NOT_KNOWN};
use super::table::{Column, Pager, Query, ROWS, columns};

/// Settings that a kind may have, as they are named.
const SETTINGS: [&str; 14] = [
    "strategy",
    "max-running",
    "rate",
    "max-attempts",
    "timeout",
    "backoff",
    "retry-share",
    "cpu",
    "memory",
    "disk",
    "network",
    "resources",
    "prefer",
    "spread-over",
];

/// Which queues are shown, and in which order.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    text: String,
    sort: String,
    order: String,
    offset: usize,
}

#[derive(Template)]
#[template(path = "queues.html")]
struct List {
    frame: Frame,
    text: String,
    counted: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
    pager: Pager,
}

struct Row {
    name: String,
    stored: String,
    waiting: String,
    running: String,
    oldest: String,
    agents: Html,
    strategy: String,
}

/// What is known of one kind.
struct Known {
    queue: Queue,
    oldest: Option<Duration>,
}

pub(super) async fn list(
    State(dashboard): State<Dashboard>,
    Asked(filter): Asked<Filter>,
) -> Result<Response, Problem> {
    let look = |scheduler: &scheduler::Scheduler, now| (scheduler.queues(), scheduler.oldest_waiting(now));
    let (queues, oldest) = dashboard.handle.look(look).await?;
    let stored = dashboard.seen.lock().stored.clone();
    let mut known = known(queues, oldest, &stored.counts);
    if let Some(text) = said(&filter.text) {
        known.retain(|known| known.queue.kind.as_str().contains(text));
    }
    let is_descending = filter.order == "down";
    sort(&mut known, &filter.sort, is_descending);
    let total = known.len();
    let rows: Vec<Row> =
        known.into_iter().skip(filter.offset).take(ROWS).map(|known| row(&known, stored.at.is_some())).collect();
    let query = Query::default()
        .with("text", filter.text.trim())
        .with("sort", filter.sort.as_str())
        .with("order", filter.order.as_str());
    let heads = [
        ("Kind", "kind"),
        ("In the stream", "stored"),
        ("Waiting here", "waiting"),
        ("Running", "running"),
        ("Oldest waiting", "oldest"),
        ("Agents", "agents"),
        ("Strategy", ""),
    ];
    let sorted = if filter.sort.is_empty() { "kind" } else { &filter.sort };
    show(&List {
        frame: dashboard.frame(Section::Queues, "Queues").live(),
        counted: stored
            .at
            .map_or_else(|| "not counted yet".to_owned(), |at| format!("counted {} ago", words::span(at.elapsed()))),
        columns: columns("/queues", &query, sorted, is_descending, &heads),
        pager: Pager::new("/queues", &query, filter.offset, rows.len(), total),
        rows,
        text: filter.text,
    })
}

/// What the scheduler knows, and what the stream holds of kinds that nobody knows.
fn known(queues: Vec<Queue>, mut oldest: BTreeMap<Kind, Duration>, stored: &BTreeMap<Kind, u64>) -> Vec<Known> {
    let mut all: BTreeMap<Kind, Queue> = queues.into_iter().map(|queue| (queue.kind.clone(), queue)).collect();
    for (kind, count) in stored {
        let unknown = || Queue {
            kind: kind.clone(),
            stored: 0,
            waiting: 0,
            running: 0,
            agents: 0,
            strategy: String::new(),
            paused: false,
        };
        all.entry(kind.clone()).or_insert_with(unknown).stored = *count;
    }
    all.into_iter().map(|(kind, queue)| Known { queue, oldest: oldest.remove(&kind) }).collect()
}

fn sort(known: &mut [Known], by: &str, is_descending: bool) {
    // They come in the order of their names, and equals stay so.
    match by {
        "stored" => known.sort_by_key(|known| known.queue.stored),
        "waiting" => known.sort_by_key(|known| known.queue.waiting),
        "running" => known.sort_by_key(|known| known.queue.running),
        "oldest" => known.sort_by_key(|known| known.oldest),
        "agents" => known.sort_by_key(|known| known.queue.agents),
        _ => {}
    }
    if is_descending {
        known.reverse();
    }
}

fn row(known: &Known, is_counted: bool) -> Row {
    let queue = &known.queue;
    let is_stuck = queue.agents == 0 && (queue.stored > 0 || queue.waiting > 0);
    Row {
        name: queue.kind.to_string(),
        stored: if is_counted { words::count(queue.stored) } else { NOT_KNOWN.to_owned() },
        waiting: words::count(queue.waiting),
        running: words::count(queue.running),
        oldest: known.oldest.map(words::span).unwrap_or_default(),
        agents: if is_stuck { html::badge("bad", "no agent") } else { Html(words::count(queue.agents.into())) },
        strategy: queue.strategy.clone(),
    }
}

/// What is looked at of one queue.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Look {
    done: String,
}

#[derive(Template)]
#[template(path = "queue.html")]
struct One {
    frame: Frame,
    name: String,
    facts: Vec<(&'static str, Html)>,
    settings: Vec<(String, String)>,
    choices: Vec<&'static str>,
    strategies: String,
    buttons: Vec<Button>,
}

pub(super) async fn one(
    State(dashboard): State<Dashboard>,
    Path(kind): Path<String>,
    Asked(asked): Asked<Look>,
) -> Result<Response, Problem> {
    let kind: Kind = kind.parse().map_err(Problem::bad_request)?;
    let queue = crate::api::queue(dashboard.services.clone(), kind.clone()).await?;
    let oldest = dashboard.store.oldest_stored(&kind).await.map_err(|error| crate::node::unavailable(&error))?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest = oldest.map(|oldest| since_1970.saturating_sub(oldest.stored));
    let dead = DeadFilter { kind: Some(kind.clone()), limit: Some(1), before: None };
    let dead = dashboard.dead.list(&dead).await?.total;
    let stored = dashboard.seen.lock().stored.clone();
    let stored = stored.at.map(|_| stored.counts.get(&kind).copied().unwrap_or(0));
    let facts = vec![
        ("In the stream", Html(stored.map_or_else(|| "being counted".to_owned(), words::count))),
        ("Oldest of these", oldest.map_or_else(|| Html("none".to_owned()), |age| html::since(age.as_millis() as u64))),
        ("Fetched and waiting", Html(words::count(queue.queue.waiting))),
        ("Running", Html(words::count(queue.queue.running))),
        ("Agents", Html(format!(r#"<a href="/agents?kind={kind}">{}</a>"#, words::count(queue.queue.agents.into())))),
        ("Dead letters", Html(format!(r#"<a href="/dead?kind={kind}">{}</a>"#, words::count(dead)))),
    ];
    show(&One {
        frame: dashboard.frame(Section::Queues, format!("Queue {kind}")).live().after(actions::done(&asked.done)),
        facts,
        settings: settings(&queue.settings),
        choices: SETTINGS.into(),
        strategies: Strategy::ALL.map(Strategy::as_str).join(", "),
        buttons: buttons(&actions::for_queue(dead, Some(queue.queue.paused)), kind.as_str()),
        name: kind.to_string(),
    })
}

/// The settings that hold, as they are written.
fn settings(all: &Value) -> Vec<(String, String)> {
    let written = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    all.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), written(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(kind: &str, waiting: u64) -> Queue {
        let kind = kind.parse().unwrap();
        Queue { kind, stored: 0, waiting, running: 0, agents: 1, strategy: "weighted".to_owned(), paused: false }
    }

    #[test]
    fn a_kind_that_nobody_can_do_is_listed_by_what_is_stored_of_it() {
        let stored = [("train".parse().unwrap(), 3)].into();

        let known = known(vec![queue("echo", 1)], BTreeMap::new(), &stored);

        assert_eq!(
            known.iter().map(|k| (k.queue.kind.as_str(), k.queue.stored)).collect::<Vec<_>>(),
            [("echo", 0), ("train", 3)]
        );
        assert!(row(&known[1], true).agents.0.contains("no agent"));
    }

    #[test]
    fn queues_are_sorted_either_way() {
        let mut known = known(vec![queue("a", 1), queue("b", 7), queue("c", 3)], BTreeMap::new(), &BTreeMap::new());

        sort(&mut known, "waiting", true);

        assert_eq!(known.iter().map(|known| known.queue.kind.as_str()).collect::<Vec<_>>(), ["b", "c", "a"]);
    }
}
