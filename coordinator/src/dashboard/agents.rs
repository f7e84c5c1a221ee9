//! Agents: who does the work, how they are doing, what each has.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use scheduler::{AgentQuery, AgentSort, TaskQuery};
use serde::Deserialize;
use shared::api::{Agent, AgentState, Task};
use shared::{AgentId, Kind};

use super::Dashboard;
use super::actions::{self, Button, buttons};
use super::asked::{Asked, choice, name};
use super::frame::{Frame, Section};
use super::html::{self, Html};
use super::problem::{Problem, show};
use super::show as words;
use super::table::{Column, Pager, Query, ROWS, columns};

/// Kinds of an agent that are shown in a list.
const KINDS: usize = 4;
/// Tasks of an agent that are shown.
const TASKS: usize = 100;

const SORTS: [(&str, AgentSort); 6] = [
    ("id", AgentSort::Id),
    ("state", AgentSort::State),
    ("load", AgentSort::Load),
    ("cpu", AgentSort::Cpu),
    ("failed", AgentSort::Failed),
    ("beat", AgentSort::Beat),
];

/// Which agents are shown, and in which order.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    state: String,
    kind: String,
    text: String,
    sort: String,
    order: String,
    offset: usize,
}

#[derive(Template)]
#[template(path = "agents.html")]
struct List {
    frame: Frame,
    text: String,
    kind: String,
    states: Vec<(&'static str, bool)>,
    columns: Vec<Column>,
    rows: Vec<Row>,
    pager: Pager,
}

struct Row {
    id: String,
    state: Html,
    slots: Html,
    running: String,
    cpu: String,
    memory: String,
    failed: String,
    beat: Html,
    host: String,
    kinds: String,
}

pub(super) async fn list(
    State(dashboard): State<Dashboard>,
    Asked(filter): Asked<Filter>,
) -> Result<Response, Problem> {
    let states = AgentState::ALL.map(|state| (state.as_str(), state));
    let state = choice("state of an agent", &filter.state, &states)?;
    let sort = choice("order of agents", &filter.sort, &SORTS)?.unwrap_or_default();
    let is_descending = filter.order == "down";
    let query = AgentQuery {
        state,
        kind: name::<Kind>(&filter.kind)?,
        text: filter.text.trim().to_owned(),
        sort,
        descending: is_descending,
        offset: filter.offset,
        limit: ROWS,
    };
    let page = dashboard.handle.look(move |scheduler, now| scheduler.agent_page(&query, now)).await?;
    let address = Query::default()
        .with("state", filter.state.trim())
        .with("kind", filter.kind.trim())
        .with("text", filter.text.trim())
        .with("sort", filter.sort.trim())
        .with("order", filter.order.trim());
    let sorted = SORTS.iter().find(|(_, by)| *by == sort).map_or("id", |(name, _)| *name);
    let heads = [
        ("Agent", "id"),
        ("State", "state"),
        ("Slots", "load"),
        ("Running", ""),
        ("CPU", "cpu"),
        ("Memory", ""),
        ("Failed", "failed"),
        ("Last beat", "beat"),
        ("Host", ""),
        ("Kinds", ""),
    ];
    show(&List {
        frame: dashboard.frame(Section::Agents, "Agents").live(),
        states: AgentState::ALL.map(|of| (of.as_str(), Some(of) == state)).into(),
        columns: columns("/agents", &address, sorted, is_descending, &heads),
        pager: Pager::new("/agents", &address, filter.offset, page.items.len(), page.total),
        rows: page.items.iter().map(row).collect(),
        text: filter.text,
        kind: filter.kind,
    })
}

fn row(agent: &Agent) -> Row {
    let busy = |name| agent.usage.get(name).copied();
    Row {
        id: agent.id.to_string(),
        state: html::agent_state(agent.state),
        slots: slots(agent),
        running: running(agent),
        cpu: words::maybe_percent(busy("cpu")),
        memory: words::maybe_percent(busy("memory")),
        failed: words::count(agent.failed),
        beat: html::ago(agent.beat_age_ms),
        host: agent.host.clone(),
        kinds: kinds(agent),
    }
}

fn slots(agent: &Agent) -> Html {
    let share = f64::from(agent.running) / f64::from(agent.slots.max(1));
    html::bar(share, &format!("{} of {} slots taken", agent.running, agent.slots))
}

fn running(agent: &Agent) -> String {
    let queued = if agent.queued > 0 { format!(" + {}", agent.queued) } else { String::new() };
    format!("{} of {}{queued}", agent.running, agent.slots)
}

fn kinds(agent: &Agent) -> String {
    let mut text = agent.kinds.iter().take(KINDS).map(Kind::as_str).collect::<Vec<_>>().join(", ");
    if agent.kinds.len() > KINDS {
        text += &format!(" and {} more", agent.kinds.len() - KINDS);
    }
    text
}

/// What is looked at of one agent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Look {
    done: String,
}

#[derive(Template)]
#[template(path = "agent.html")]
struct One {
    frame: Frame,
    id: String,
    state: Html,
    facts: Vec<(&'static str, String)>,
    beat: Html,
    started: Html,
    slots: Html,
    running: String,
    resources: Vec<(String, Html, String)>,
    labels: Vec<(String, String)>,
    kinds: Vec<String>,
    tasks: Vec<Holding>,
    tasks_total: String,
    buttons: Vec<Button>,
}

struct Holding {
    id: String,
    kind: String,
    attempts: String,
    queued: String,
    run: String,
}

pub(super) async fn one(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    Asked(asked): Asked<Look>,
) -> Result<Response, Problem> {
    let id: AgentId = id.parse().map_err(Problem::bad_request)?;
    let agent = dashboard.handle.agent(id.clone()).await?;
    let query = TaskQuery { agent: Some(id.clone()), limit: TASKS, ..TaskQuery::default() };
    let held = dashboard.handle.look(move |scheduler, now| scheduler.task_page(&query, now)).await?;
    show(&One {
        frame: dashboard.frame(Section::Agents, format!("Agent {id}")).live().after(actions::done(&asked.done)),
        state: html::agent_state(agent.state),
        facts: facts(&agent),
        beat: html::ago(agent.beat_age_ms),
        started: html::moment(std::time::Duration::from_millis(agent.incarnation.0)),
        slots: slots(&agent),
        running: running(&agent),
        resources: resources(&agent),
        labels: agent.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        kinds: agent.kinds.iter().map(ToString::to_string).collect(),
        tasks: held.items.iter().map(holding).collect(),
        tasks_total: words::several(held.total as u64, "attempt", "attempts"),
        buttons: buttons(actions::for_agent(agent.state), id.as_str()),
        id: id.to_string(),
    })
}

fn facts(agent: &Agent) -> Vec<(&'static str, String)> {
    let kept_for = agent.kept_for.as_ref().map(|task| format!("task {task}, which runs alone"));
    let enforcement = match agent.enforcement.as_str() {
        "" => "not known".to_owned(),
        "cgroup" => "by the kernel (cgroup)".to_owned(),
        "watch" => "by the agent (watch)".to_owned(),
        other => other.to_owned(),
    };
    vec![
        ("Host", agent.host.clone()),
        ("Version", agent.version.clone()),
        ("Attempts that succeeded", words::count(agent.succeeded)),
        ("Attempts that failed", words::count(agent.failed)),
        ("Limits are enforced", enforcement),
        ("Kept for", kept_for.unwrap_or_else(|| "nothing".to_owned())),
    ]
}

/// What it has of each resource: name, bar, words.
fn resources(agent: &Agent) -> Vec<(String, Html, String)> {
    let (capacity, reserved) = (agent.capacity.dimensions(), agent.reserved.dimensions());
    let named = shared::Resources::NAMES.iter().enumerate().map(|(i, name)| {
        let busy = agent.usage.get(*name).filter(|_| capacity[i] > 0);
        let used = busy.map(|busy| (busy * capacity[i] as f64).round() as u64);
        ((*name).to_owned(), used, reserved[i], capacity[i])
    });
    let counted = agent
        .countables
        .iter()
        .map(|(name, capacity)| (name.to_owned(), None, agent.countables_reserved.get(name), capacity));
    let show = |(name, used, reserved, capacity): (String, Option<u64>, u64, u64)| {
        let bar = html::resource_bar(&name, used, reserved, capacity);
        let words = html::resource_words(&name, used, reserved, capacity);
        (name, bar, words)
    };
    named.chain(counted).map(show).collect()
}

fn holding(task: &Task) -> Holding {
    Holding {
        id: task.id.to_string(),
        kind: task.kind.to_string(),
        attempts: words::count(task.attempts.into()),
        queued: task.queued_ms.map(words::millis).unwrap_or_default(),
        run: task.run_ms.map(words::millis).unwrap_or_default(),
    }
}
