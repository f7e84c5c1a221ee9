//! The pages: what each asks the mesh for, and how the answer becomes a table.
//!
//! Every text is escaped here: a name or an error may hold what would steer the terminal.

use serde_json::{Value, json};
use shared::api::alerts::{Alert, Severity};
use shared::api::{Agent, AgentState, DeadLetter, Event, List, Queue, Task, TaskState};

use crate::cli::output::{escape, millis};

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Page {
    Overview,
    Queues,
    Agents,
    Tasks,
    Dead,
    Scaling,
    Alerts,
    Events,
}

impl Page {
    pub(super) const ALL: [Page; 8] = [
        Page::Overview,
        Page::Queues,
        Page::Agents,
        Page::Tasks,
        Page::Dead,
        Page::Scaling,
        Page::Alerts,
        Page::Events,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Page::Overview => "Overview",
            Page::Queues => "Queues",
            Page::Agents => "Agents",
            Page::Tasks => "Tasks",
            Page::Dead => "Dead",
            Page::Scaling => "Scaling",
            Page::Alerts => "Alerts",
            Page::Events => "Events",
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// The page that comes so many after it.
    pub(super) fn step(self, by: isize) -> Self {
        let count = Self::ALL.len() as isize;
        Self::ALL[(self.index() as isize + by).rem_euclid(count) as usize]
    }

    /// The operation that its table is made of, with what is asked. The overview and the events have another source.
    pub(super) fn list(self) -> Option<(&'static str, &'static str, Value)> {
        Some(match self {
            Page::Overview | Page::Events => return None,
            Page::Queues => ("queue", "list", json!({})),
            Page::Agents => ("agent", "list", json!({})),
            Page::Tasks => ("task", "list", json!({})),
            Page::Dead => ("dead", "list", json!({})),
            Page::Scaling => ("scale", "status", json!({})),
            Page::Alerts => ("alert", "list", json!({})),
        })
    }

    /// The operation that tells more about one row.
    pub(super) const fn details(self) -> Option<(&'static str, &'static str)> {
        match self {
            Page::Overview | Page::Events => None,
            Page::Queues => Some(("queue", "get")),
            Page::Agents => Some(("agent", "get")),
            Page::Tasks => Some(("task", "why")),
            Page::Dead => Some(("dead", "get")),
            Page::Scaling => Some(("scale", "explain")),
            Page::Alerts => Some(("alert", "get")),
        }
    }

    /// Its columns.
    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Page::Overview => &[],
            Page::Queues => &QUEUES,
            Page::Agents => &AGENTS,
            Page::Tasks => &TASKS,
            Page::Dead => &DEAD,
            Page::Scaling => &SCALING,
            Page::Alerts => &ALERTS,
            Page::Events => &EVENTS,
        }
    }

    /// Its rows, made of the answer to [`Page::list`].
    pub(super) fn rows(self, answer: Value) -> Result<Vec<Row>, serde_json::Error> {
        Ok(match self {
            Page::Overview | Page::Events => Vec::new(),
            Page::Queues => rows(&serde_json::from_value::<List<Queue>>(answer)?.items, queue),
            Page::Agents => rows(&serde_json::from_value::<List<Agent>>(answer)?.items, agent),
            Page::Tasks => rows(&serde_json::from_value::<List<Task>>(answer)?.items, task),
            Page::Dead => rows(&serde_json::from_value::<List<DeadLetter>>(answer)?.items, dead),
            Page::Scaling => rows(&serde_json::from_value::<List<Value>>(answer)?.items, pool),
            Page::Alerts => rows(&serde_json::from_value::<List<Alert>>(answer)?.items, alert),
        })
    }
}

/// A column: what it is called, and when it is left out where there is no room: the highest rank first, and rank 0 never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) rank: u8,
}

const fn column(name: &'static str, rank: u8) -> Column {
    Column { name, rank }
}

const QUEUES: [Column; 6] = [
    column("KIND", 0),
    column("STORED", 0),
    column("WAITING", 0),
    column("RUNNING", 1),
    column("AGENTS", 2),
    column("STRATEGY", 3),
];

const AGENTS: [Column; 10] = [
    column("ID", 0),
    column("STATE", 0),
    column("SLOTS", 0),
    column("QUEUED", 5),
    column("CPU", 2),
    column("BEAT", 1),
    column("DONE", 4),
    column("FAILED", 3),
    column("HOST", 6),
    column("KINDS", 7),
];

const TASKS: [Column; 8] = [
    column("ID", 0),
    column("KIND", 1),
    column("PRIORITY", 5),
    column("STATE", 0),
    column("AGE", 0),
    column("TRIES", 4),
    column("AGENT", 3),
    column("REASON", 2),
];

const DEAD: [Column; 7] = [
    column("ID", 0),
    column("TASK", 1),
    column("KIND", 0),
    column("OUTCOME", 3),
    column("TRIES", 4),
    column("AGE", 0),
    column("ERROR", 2),
];

const SCALING: [Column; 8] = [
    column("POOL", 0),
    column("PHASE", 0),
    column("WISHED", 0),
    column("PRESENT", 0),
    column("STARTING", 2),
    column("LEAVING", 3),
    column("LIMITS", 4),
    column("LAST CHANGE", 1),
];

const ALERTS: [Column; 6] = [
    column("ALERT", 0),
    column("SEVERITY", 0),
    column("STATE", 1),
    column("SINCE", 0),
    column("KNOWN TO", 3),
    column("SUMMARY", 2),
];

const EVENTS: [Column; 4] = [column("TIME", 0), column("EVENT", 0), column("ABOUT", 1), column("DETAIL", 2)];

/// How a row is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
    Quiet,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// What it is about, as the operations name it.
    pub(super) id: String,
    pub(super) cells: Vec<Cell>,
    pub(super) tone: Tone,
    /// All that there is to say about it, where no operation tells more.
    pub(super) whole: Option<Value>,
}

/// A cell: what it shows, and the number that it is ordered by, if it is one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) number: Option<f64>,
}

impl Cell {
    /// In the order of cells: numbers before texts, and texts as people order them.
    pub(super) fn compare(&self, other: &Cell) -> std::cmp::Ordering {
        match (self.number, other.number) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => self.text.to_lowercase().cmp(&other.text.to_lowercase()),
        }
    }
}

fn text(text: impl AsRef<str>) -> Cell {
    Cell { text: escape(text.as_ref()), number: None }
}

fn number(number: impl Into<f64>) -> Cell {
    let number = number.into();
    Cell { text: number.to_string(), number: Some(number) }
}

fn count(count: u64) -> Cell {
    Cell { text: count.to_string(), number: Some(count as f64) }
}

fn span(ms: u64) -> Cell {
    Cell { text: millis(ms), number: Some(ms as f64) }
}

fn rows<T>(items: &[T], row: fn(&T) -> Row) -> Vec<Row> {
    items.iter().map(row).collect()
}

fn row(id: impl Into<String>, tone: Tone, cells: Vec<Cell>) -> Row {
    Row { id: id.into(), cells, tone, whole: None }
}

fn queue(queue: &Queue) -> Row {
    let tone = match queue {
        Queue { stored: 0, .. } => Tone::Quiet,
        Queue { agents: 0, .. } => Tone::Bad,
        _ => Tone::Plain,
    };
    let counts = [queue.stored, queue.waiting, queue.running, u64::from(queue.agents)].map(count);
    let cells = [text(&queue.kind)].into_iter().chain(counts).chain([text(&queue.strategy)]);
    row(queue.kind.as_str(), tone, cells.collect())
}

fn agent(agent: &Agent) -> Row {
    let tone = match agent.state {
        AgentState::Healthy => Tone::Good,
        AgentState::Starting | AgentState::Stopping => Tone::Plain,
        AgentState::Degraded | AgentState::Unhealthy => Tone::Doubtful,
        AgentState::Offline => Tone::Bad,
    };
    let kinds: Vec<&str> = agent.kinds.iter().take(8).map(shared::Kind::as_str).collect();
    let cpu = agent.usage.get("cpu").copied();
    let cells = vec![
        text(&agent.id),
        text(agent.state.as_str()),
        Cell { text: format!("{}/{}", agent.running, agent.slots), number: Some(f64::from(agent.running)) },
        number(agent.queued),
        Cell { text: cpu.map(|cpu| format!("{:.0}%", cpu * 100.0)).unwrap_or_default(), number: cpu },
        span(agent.beat_age_ms),
        count(agent.succeeded),
        count(agent.failed),
        text(&agent.host),
        text(kinds.join(" ")),
    ];
    row(agent.id.as_str(), tone, cells)
}

fn task(task: &Task) -> Row {
    let tone = match task.state {
        TaskState::Running => Tone::Good,
        TaskState::Waiting | TaskState::Queued => Tone::Plain,
        TaskState::Settled => Tone::Quiet,
    };
    let cells = vec![
        text(&task.id),
        text(&task.kind),
        text(task.priority.map(|priority| priority.to_string()).unwrap_or_default()),
        text(task.outcome.map_or_else(|| task.state.to_string(), |outcome| outcome.to_string())),
        task.age_ms.map_or_else(|| text(""), span),
        number(task.attempts),
        text(task.agent.as_deref().unwrap_or_default()),
        text(task.reason.as_deref().unwrap_or_default()),
    ];
    row(task.id.as_str(), tone, cells)
}

fn dead(letter: &DeadLetter) -> Row {
    let cells = vec![
        count(letter.id),
        text(&letter.task),
        text(&letter.kind),
        text(letter.outcome.map(|outcome| outcome.to_string()).unwrap_or_default()),
        number(letter.attempts),
        span(letter.age_ms),
        text(letter.error.as_deref().unwrap_or_default()),
    ];
    row(letter.id.to_string(), Tone::Plain, cells)
}

/// A pool, read without its type: a coordinator of another version may say more of it, or less.
fn pool(pool: &Value) -> Row {
    let said = |name: &str| pool[name].as_str().unwrap_or_default();
    let counted = |name: &str| pool[name].as_f64().map_or_else(|| text(""), number);
    let limits = format!("{}-{}", pool["min_agents"], pool["max_agents"]);
    let change = &pool["last_change"];
    let last = match (change["time"].as_str(), change["rule"].as_str()) {
        (Some(time), Some(rule)) => format!("{time} {rule} {}", change["outcome"].as_str().unwrap_or_default()),
        _ => String::new(),
    };
    let tone = match said("phase") {
        "steady" => Tone::Good,
        "backing-off" | "blind" => Tone::Bad,
        "paused" => Tone::Quiet,
        _ => Tone::Doubtful,
    };
    let mut cells = vec![text(said("id")), text(said("phase"))];
    cells.extend(["wished", "present", "starting", "leaving"].map(counted));
    cells.extend([text(limits), text(last)]);
    row(said("id"), tone, cells)
}

fn alert(alert: &Alert) -> Row {
    let is_quiet = alert.acknowledged.is_some() || !alert.silenced_by.is_empty();
    let tone = match alert.severity {
        _ if is_quiet => Tone::Quiet,
        Severity::Critical => Tone::Bad,
        Severity::Warning => Tone::Doubtful,
        Severity::Info => Tone::Plain,
    };
    let known = alert.acknowledged.as_ref().map(|known| known.by.as_str());
    let state = if alert.silenced_by.is_empty() { alert.state.as_str() } else { "silenced" };
    let cells = vec![
        text(&alert.id),
        text(alert.severity.as_str()),
        text(state),
        span(alert.since_ms),
        text(known.unwrap_or_default()),
        text(&alert.summary),
    ];
    row(alert.id.as_str(), tone, cells)
}

/// The row of an event; `number` tells it from others.
pub(super) fn event(number: u64, event: &Event) -> Row {
    let about = [("task", &event.task), ("kind", &event.kind), ("agent", &event.agent)];
    let about = about.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    let what = event.what.as_str();
    let tone = match what {
        "lost" | "dead" | "unmet" | "failed" | "firing" => Tone::Bad,
        "suspected" | "reassigned" | "quarantined" => Tone::Doubtful,
        _ => Tone::Plain,
    };
    let cells = vec![
        text(&event.time),
        text(format!("{}.{what}", event.topic)),
        text(about.collect::<Vec<_>>().join(" ")),
        text(event.detail.as_deref().unwrap_or_default()),
    ];
    Row { id: number.to_string(), cells, tone, whole: serde_json::to_value(event).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_mesh_says_cannot_steer_the_terminal() {
        let answer = json!({"items": [
            {"id": 1, "task": "t", "kind": "echo", "attempts": 3, "error": "a\u{1b}[2Jb\u{202e}c\nd", "time": "",
             "age_ms": 5, "body_bytes": 0}
        ]});

        let rows = Page::Dead.rows(answer).unwrap();

        assert_eq!(rows[0].cells[6].text, "a\\u{1b}[2Jb\\u{202e}c\\nd");
    }

    #[test]
    fn numbers_are_ordered_as_numbers() {
        let mut cells = [count(10), text("b"), count(9), text("A")];

        cells.sort_by(Cell::compare);

        assert_eq!(cells.map(|cell| cell.text), ["9", "10", "A", "b"]);
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let pools = Page::Scaling.rows(json!({"items": [{"id": "workers", "phase": "steady", "present": 3}]})).unwrap();
        let event_of = json!({"time": "", "topic": "mesh", "what": "led", "epoch": 1});
        let events = [event(1, &serde_json::from_value(event_of).unwrap())];

        assert_eq!(pools[0].cells.len(), SCALING.len());
        assert_eq!(events[0].cells.len(), EVENTS.len());
    }

    #[test]
    fn the_pages_are_a_circle() {
        assert_eq!(Page::Events.step(1), Page::Overview);
        assert_eq!(Page::Overview.step(-1), Page::Events);
    }
}
