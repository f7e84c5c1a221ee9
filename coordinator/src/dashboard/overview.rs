//! The mesh at a glance.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use shared::api::{AgentState, Queue, UnmetDemand};
use std::collections::BTreeMap;

use super::Dashboard;
use super::chart::{Chart, pieces};
use super::frame::{Frame, Section};
use super::html::{self, Html};
use super::problem::{Problem, show};
use super::samples::{Sample, Seen};
use super::show::{self as words, NOT_KNOWN};
use super::sources::AlertView;

/// How many kinds and unmet demands are shown here.
const KINDS: usize = 8;
const UNMET: usize = 5;
/// How many minutes the charts go back, and how many seconds are one point of them.
const MINUTES: f64 = 10.0;
const POINT: usize = 3;

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    figures: Vec<Figure>,
    rates: Html,
    waits: Html,
    alerts: Vec<Alert>,
    unmet: Vec<Unmet>,
    unmet_more: Option<String>,
    agents: Vec<(Html, String, String)>,
    kinds: Vec<Kind>,
    coordinators: Vec<Coordinator>,
    broker: Vec<(&'static str, String)>,
    broker_problem: Option<String>,
    streams: Vec<(String, String, String)>,
}

/// A number, with what it says.
struct Figure {
    name: &'static str,
    value: String,
    note: String,
    bar: Html,
}

struct Alert {
    badge: Html,
    name: String,
    summary: String,
    since: Html,
}

struct Unmet {
    kind: String,
    tasks: String,
    since: Html,
    reason: String,
}

struct Kind {
    name: String,
    stored: String,
    waiting: String,
    running: String,
    agents: String,
}

struct Coordinator {
    badge: Html,
    instance: String,
    version: String,
    address: String,
    is_this: bool,
}

pub(super) async fn page(State(dashboard): State<Dashboard>) -> Result<Response, Problem> {
    let look = |scheduler: &scheduler::Scheduler, now| (scheduler.unmet_page(UNMET, now), scheduler.queues());
    let (unmet, queues) = dashboard.handle.look(look).await?;
    let frame = dashboard.frame(Section::Overview, "Overview").live();
    let status = dashboard.handle.status();
    let server = dashboard.client.nats().server_info();
    let connects = dashboard.client.nats().statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    let seen = dashboard.seen.lock().clone();
    let broker = vec![
        ("Server", format!("{} {}", server.server_name, server.version)),
        ("Answers in", words::maybe_span(seen.broker.answered_in)),
        ("Connections lost", words::count(connects.saturating_sub(1))),
    ];
    show(&Page {
        figures: figures(&seen, status.reassigned),
        rates: rates(&seen),
        waits: waits(&seen),
        alerts: seen.alerts.iter().map(alert).collect(),
        unmet_more: (unmet.total > unmet.items.len())
            .then(|| format!("and {} more", words::count((unmet.total - unmet.items.len()) as u64))),
        unmet: unmet.items.iter().map(show_unmet).collect(),
        agents: agents(&status.agents),
        kinds: busiest(queues, &seen),
        coordinators: seen.coordinators.iter().map(|other| coordinator(other, &frame.instance)).collect(),
        broker,
        broker_problem: seen.broker.problem.clone(),
        streams: seen.broker.fills.iter().map(stream).collect(),
        frame,
    })
}

fn figures(seen: &Seen, reassigned: u64) -> Vec<Figure> {
    let pulse = &seen.pulse;
    let waits = seen.waits();
    let taken = (pulse.slots.slots > 0).then(|| pulse.slots.taken as f64 / pulse.slots.slots as f64);
    let failed: u64 = pulse.settled[1] + pulse.settled[4];
    let stored = seen.samples.back().and_then(|sample| sample.stored);
    let plain = |name, value: String, note: String| Figure { name, value, note, bar: Html::default() };
    let share = |name, share: Option<f64>, note: String| {
        let bar = share.map(|share| html::bar(share, &note)).unwrap_or_default();
        Figure { name, value: words::maybe_percent(share), note, bar }
    };
    vec![
        plain(
            "Tasks settled a second",
            seen.rate().map_or_else(|| NOT_KNOWN.to_owned(), words::rate),
            format!(
                "{} since it leads, {} of them failed or dead",
                words::count(pulse.settled.iter().sum()),
                words::count(failed)
            ),
        ),
        plain(
            "Wait for the first start",
            words::maybe_span(waits.quantile(0.5)),
            format!("half of the last minute's tasks; 95 of 100 within {}", words::maybe_span(waits.quantile(0.95))),
        ),
        share(
            "Slots taken",
            taken,
            format!("{} of {}", words::count(pulse.slots.taken), words::several(pulse.slots.slots, "slot", "slots")),
        ),
        share("Hosts' CPU in use", pulse.cpu, "mean of the agents that get work".to_owned()),
        share("Hosts' memory in use", pulse.memory, "mean of the agents that get work".to_owned()),
        plain(
            "Tasks in the stream",
            stored.map_or_else(|| NOT_KNOWN.to_owned(), words::count),
            format!("{} running, {} fetched and waiting", words::count(pulse.running), words::count(pulse.waiting)),
        ),
        plain(
            "Started again elsewhere",
            words::count(reassigned),
            "because their agent was lost, since it leads".to_owned(),
        ),
    ]
}

/// One value of the samples, three seconds to a point, the unknown left out.
fn line(seen: &Seen, value: impl Fn(&Sample) -> Option<f64>) -> Vec<Vec<(f64, f64)>> {
    let samples = Vec::from_iter(&seen.samples);
    let points = samples.chunks(POINT).map(|few| {
        let minute = -few[0].at.elapsed().as_secs_f64() / 60.0;
        let known: Vec<f64> = few.iter().filter_map(|sample| value(sample)).collect();
        (minute, (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64))
    });
    pieces(points.filter(|(minute, _)| *minute >= -MINUTES))
}

fn rates(seen: &Seen) -> Html {
    let words = format!(
        "Tasks settled a second over the last ten minutes, now {}, and those of them that failed",
        seen.rate().map_or_else(|| "not known".to_owned(), words::rate)
    );
    let lines = vec![line(seen, |sample| sample.settled), line(seen, |sample| sample.failed)];
    Chart { words, minutes: MINUTES, lines, is_counted: false }.draw()
}

fn waits(seen: &Seen) -> Html {
    let seconds = |wait: Option<std::time::Duration>| wait.map(|wait| wait.as_secs_f64());
    let lines = vec![line(seen, |sample| seconds(sample.wait_p50)), line(seen, |sample| seconds(sample.wait_p95))];
    let words =
        "Seconds that tasks waited for their first start over the last ten minutes: half of them, and 95 of 100";
    Chart { words: words.to_owned(), minutes: MINUTES, lines, is_counted: false }.draw()
}

fn alert(alert: &AlertView) -> Alert {
    let word = if alert.is_acknowledged {
        "acknowledged"
    } else if alert.is_critical {
        "critical"
    } else {
        "warning"
    };
    let class = if alert.is_critical && !alert.is_acknowledged { "bad" } else { "warn" };
    Alert {
        badge: html::badge(class, word),
        name: alert.name.clone(),
        summary: alert.summary.clone(),
        since: html::ago(alert.since_ms),
    }
}

fn show_unmet(demand: &UnmetDemand) -> Unmet {
    Unmet {
        kind: demand.kind.to_string(),
        tasks: words::several(demand.tasks, "task", "tasks"),
        since: html::since(demand.since_ms),
        reason: demand.reason.clone(),
    }
}

/// Each state with how many agents are so, and where they are listed.
fn agents(counts: &BTreeMap<String, u32>) -> Vec<(Html, String, String)> {
    let count = |state: AgentState| counts.get(state.as_str()).copied().unwrap_or(0);
    let there = AgentState::ALL.into_iter().filter(|state| count(*state) > 0);
    there
        .map(|state| (html::agent_state(state), words::count(count(state).into()), format!("/agents?state={state}")))
        .collect()
}

/// The kinds with the most to do.
fn busiest(queues: Vec<Queue>, seen: &Seen) -> Vec<Kind> {
    let mut kinds: BTreeMap<shared::Kind, (u64, u64, u64, u32)> =
        queues.into_iter().map(|q| (q.kind, (0, q.waiting, q.running, q.agents))).collect();
    for (kind, stored) in &seen.stored.counts {
        kinds.entry(kind.clone()).or_default().0 = *stored;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, (stored, waiting, running, _))| std::cmp::Reverse((*stored).max(waiting + running)));
    let show = |(kind, (stored, waiting, running, agents)): (shared::Kind, (u64, u64, u64, u32))| Kind {
        name: kind.to_string(),
        stored: if seen.stored.at.is_some() { words::count(stored) } else { NOT_KNOWN.to_owned() },
        waiting: words::count(waiting),
        running: words::count(running),
        agents: words::count(agents.into()),
    };
    kinds.into_iter().take(KINDS).map(show).collect()
}

fn coordinator(other: &crate::roll_call::Coordinator, this: &str) -> Coordinator {
    let badge = if other.leading {
        html::badge("good", &format!("leads in epoch {}", other.epoch))
    } else {
        html::badge("calm", "stands by")
    };
    Coordinator {
        badge,
        instance: other.instance.clone(),
        version: other.version.clone(),
        address: other.http.map(|address| address.to_string()).unwrap_or_default(),
        is_this: other.instance == this,
    }
}

fn stream(fill: &crate::store::Fill) -> (String, String, String) {
    let bytes = shared::quantity::show("memory", fill.bytes);
    (fill.stream.clone(), words::several(fill.messages, "message", "messages"), bytes)
}
