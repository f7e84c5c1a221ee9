//! What is shown, and nothing of how: the state of `coordinator top`. It does no I/O, and is told what time it is.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::Value;
use shared::api::alerts::{Alert, AlertState};
use shared::api::{Event, List, Mesh, ResourceUse};

use super::page::{self, Page, Row};
use crate::roll_call::Coordinator;

/// So many events are remembered.
const EVENTS: usize = 1000;
/// So many rates are remembered for the picture.
const RATES: usize = 240;
/// How long it is shown what became of something that was asked for.
const NOTICE: Duration = Duration::from_secs(6);

/// What has come from the mesh.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// The mesh at a glance.
    Status(Result<Value, Failure>),
    /// What is used of what there is.
    Resources(Result<Value, Failure>),
    /// What fires, for the overview.
    Alerts(Result<Value, Failure>),
    /// The task that has waited longest, of those that are fetched.
    Oldest(Result<Value, Failure>),
    /// The coordinators that have answered.
    Coordinators(Vec<Coordinator>),
    /// A page's table.
    Table(Page, Result<Value, Failure>),
    /// More about one row.
    Details(Page, String, Result<Value, Failure>),
    /// What became of an order.
    Done(String, Result<(), Failure>),
    /// Something has happened.
    Event(Box<Event>),
    /// So many events were left out, because they came faster than they could be shown.
    EventsLeftOut(u64),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Whether the mesh did not answer at all.
    pub(super) is_down: bool,
    pub(super) error: String,
}

/// What the keys do now.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    /// Walk through a table.
    Browsing,
    /// Write the filter.
    Filtering,
    /// Answer a question.
    Asking(Order),
    /// Read about one row.
    Reading(Details),
    /// Read what the keys do.
    Helping,
}

/// Something to be done once the user has said yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) question: String,
    pub(super) noun: &'static str,
    pub(super) verb: &'static str,
    pub(super) id: String,
}

/// All there is to say about one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Details {
    pub(super) page: Page,
    pub(super) id: String,
    /// Names and values; nothing while the answer is awaited.
    pub(super) facts: Option<Vec<(String, String)>>,
    pub(super) scroll: u16,
}

/// What the user has made of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// The rows as they came.
    pub(super) rows: Vec<Row>,
    /// Why there are none, if that is so.
    pub(super) failure: Option<Failure>,
    /// Whether anything has come yet.
    pub(super) is_known: bool,
    /// Only rows with this in one of their cells.
    pub(super) filter: String,
    /// By which column they are ordered, and whether the other way round; as they came if by none.
    pub(super) order: Option<(usize, bool)>,
    /// The row that the user is at.
    pub(super) selected: Option<String>,
}

impl Table {
    /// The rows that are shown, in their order.
    pub(super) fn shown(&self) -> Vec<&Row> {
        let wanted = self.filter.to_lowercase();
        let has = |row: &&Row| row.cells.iter().any(|cell| cell.text.to_lowercase().contains(&wanted));
        let mut rows: Vec<&Row> = self.rows.iter().filter(has).collect();
        if let Some((column, is_reversed)) = self.order {
            rows.sort_by(|a, b| match (a.cells.get(column), b.cells.get(column)) {
                (Some(a), Some(b)) if is_reversed => b.compare(a),
                (Some(a), Some(b)) => a.compare(b),
                _ => std::cmp::Ordering::Equal,
            });
        }
        rows
    }

    /// The place of the row that the user is at, among those shown.
    pub(super) fn place(&self, shown: &[&Row]) -> usize {
        let selected = self.selected.as_deref();
        shown.iter().position(|row| Some(row.id.as_str()) == selected).unwrap_or(0)
    }

    /// Goes so many rows down.
    pub(super) fn go(&mut self, by: isize) {
        let shown = self.shown();
        let last = shown.len().saturating_sub(1);
        let place = self.place(&shown).saturating_add_signed(by).min(last);
        self.selected = shown.get(place).map(|row| row.id.clone());
    }

    /// The row that the user is at.
    pub(super) fn current(&self) -> Option<&Row> {
        let shown = self.shown();
        shown.get(self.place(&shown)).copied()
    }
}

/// How fast tasks are settled, by what was counted at two looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    last: Option<(Instant, String, u64)>,
    pub(super) per_second: VecDeque<f64>,
}

impl Rates {
    fn take_in(&mut self, mesh: &Mesh, now: Instant) {
        let settled: u64 = mesh.settled.values().sum();
        // Each leader counts anew.
        let leader = format!("{} {}", mesh.instance, mesh.epoch);
        if let Some((at, before, count)) = &self.last
            && *before == leader
            && now > *at
        {
            let span = now.duration_since(*at).as_secs_f64();
            self.per_second.push_back(settled.saturating_sub(*count) as f64 / span);
            self.per_second.drain(..self.per_second.len().saturating_sub(RATES));
        }
        self.last = Some((now, leader, settled));
    }
}

/// Everything that is shown.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) page: Page,
    pub(super) mode: Mode,
    pub(super) tables: BTreeMap<Page, Table>,
    pub(super) mesh: Option<Mesh>,
    pub(super) resources: Option<ResourceUse>,
    pub(super) alerts: Option<Vec<Alert>>,
    /// How long the oldest task that is fetched has waited.
    pub(super) oldest_ms: Option<u64>,
    pub(super) coordinators: Vec<Coordinator>,
    pub(super) rates: Rates,
    /// Since when the mesh does not answer, and what is said of that.
    pub(super) silence: Option<(Instant, String)>,
    pub(super) notice: Option<(Instant, String)>,
    events_seen: u64,
    pub(super) events_left_out: u64,
}

impl Model {
    pub(super) fn new() -> Self {
        let table = |page: Page| {
            // What happened last is what one wants to see.
            let order = (page == Page::Events).then_some((0, true));
            (page, Table { order, is_known: page == Page::Events, ..Table::default() })
        };
        Self {
            page: Page::Overview,
            mode: Mode::Browsing,
            tables: Page::ALL.into_iter().map(table).collect(),
            mesh: None,
            resources: None,
            alerts: None,
            oldest_ms: None,
            coordinators: Vec::new(),
            rates: Rates::default(),
            silence: None,
            notice: None,
            events_seen: 0,
            events_left_out: 0,
        }
    }

    pub(super) fn table(&self) -> &Table {
        &self.tables[&self.page]
    }

    pub(super) fn table_mut(&mut self) -> &mut Table {
        self.tables.entry(self.page).or_default()
    }

    /// Time has passed.
    pub(super) fn pass(&mut self, now: Instant) {
        if self.notice.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) > NOTICE) {
            self.notice = None;
        }
    }

    /// Takes in what has come from the mesh.
    pub(super) fn take_in(&mut self, news: News, now: Instant) {
        match news {
            News::Status(Ok(answer)) => match serde_json::from_value::<Mesh>(answer) {
                Ok(mesh) => {
                    self.rates.take_in(&mesh, now);
                    self.mesh = Some(mesh);
                    self.silence = None;
                }
                Err(error) => self.is_silent(format!("the mesh's status cannot be read: {error}"), now),
            },
            News::Status(Err(failure)) => self.is_silent(failure.error, now),
            News::Resources(answer) => self.resources = known(answer),
            News::Alerts(answer) => self.alerts = known::<List<Alert>>(answer).map(|list| list.items),
            News::Oldest(answer) => self.oldest_ms = known(answer).and_then(|answer| oldest(&answer)),
            News::Coordinators(coordinators) => self.coordinators = coordinators,
            News::Table(page, answer) => self.take_in_table(page, answer),
            News::Details(page, id, answer) => self.take_in_details(page, &id, answer),
            News::Done(what, Ok(())) => self.notice = Some((now, what)),
            News::Done(what, Err(failure)) => self.notice = Some((now, format!("{what}: {}", failure.error))),
            News::Event(event) => self.take_in_event(&event),
            News::EventsLeftOut(count) => self.events_left_out += count,
        }
    }

    fn is_silent(&mut self, error: String, now: Instant) {
        let since = self.silence.as_ref().map_or(now, |(since, _)| *since);
        self.silence = Some((since, error));
    }

    fn take_in_table(&mut self, page: Page, answer: Result<Value, Failure>) {
        let table = self.tables.entry(page).or_default();
        match answer.and_then(|answer| page.rows(answer).map_err(|error| unreadable(&error))) {
            Ok(rows) => (table.rows, table.failure) = (rows, None),
            // What was seen last stays, and it is said elsewhere that nothing is heard.
            Err(failure) if failure.is_down && table.is_known => {}
            Err(failure) => (table.rows, table.failure) = (Vec::new(), Some(failure)),
        }
        table.is_known = true;
    }

    fn take_in_details(&mut self, page: Page, id: &str, answer: Result<Value, Failure>) {
        let Mode::Reading(details) = &mut self.mode else { return };
        if details.page == page && details.id == id {
            details.facts = Some(match answer {
                Ok(answer) => super::details::facts(page, &answer),
                Err(failure) => vec![("error".to_owned(), failure.error)],
            });
        }
    }

    fn take_in_event(&mut self, event: &Event) {
        self.events_seen += 1;
        let row = page::event(self.events_seen, event);
        let rows = &mut self.tables.entry(Page::Events).or_default().rows;
        rows.push(row);
        // Seldom, so that it costs little.
        if rows.len() > EVENTS + EVENTS / 4 {
            rows.drain(..rows.len() - EVENTS);
        }
    }

    /// The alerts that fire and that nothing keeps quiet.
    pub(super) fn firing(&self) -> impl Iterator<Item = &Alert> {
        let alerts = self.alerts.iter().flatten();
        alerts.filter(|alert| alert.state == AlertState::Firing && alert.silenced_by.is_empty())
    }
}

fn known<T: serde::de::DeserializeOwned>(answer: Result<Value, Failure>) -> Option<T> {
    serde_json::from_value(answer.ok()?).ok()
}

fn oldest(answer: &Value) -> Option<u64> {
    answer["items"].as_array()?.iter().filter_map(|task| task["age_ms"].as_u64()).max()
}

fn unreadable(error: &serde_json::Error) -> Failure {
    let error = format!("the answer cannot be read: is the coordinator of another version? {error}");
    Failure { is_down: false, error }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(ids: &[&str]) -> Result<Value, Failure> {
        let queue = |id: &&str| json!({"kind": id, "stored": id.len(), "waiting": 0, "running": 0, "agents": 1, "strategy": "weighted"});
        Ok(json!({ "items": ids.iter().map(queue).collect::<Vec<_>>() }))
    }

    fn with_queues(ids: &[&str]) -> Model {
        let mut model = Model::new();
        model.page = Page::Queues;
        model.take_in(News::Table(Page::Queues, answer(ids)), Instant::now());
        model
    }

    fn ids(model: &Model) -> Vec<&str> {
        model.table().shown().into_iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn the_row_that_one_is_at_stays_the_same_when_others_come_and_go() {
        let mut model = with_queues(&["a", "b", "c"]);
        model.table_mut().go(1);
        assert_eq!(model.table().current().unwrap().id, "b");

        model.take_in(News::Table(Page::Queues, answer(&["aa", "ab", "b"])), Instant::now());
        assert_eq!(model.table().current().unwrap().id, "b");

        model.take_in(News::Table(Page::Queues, answer(&["aa", "ab"])), Instant::now());
        assert_eq!(model.table().current().unwrap().id, "aa", "it is gone");
    }

    #[test]
    fn one_goes_no_further_than_the_last_row() {
        let mut model = with_queues(&["a", "b"]);

        model.table_mut().go(10);
        assert_eq!(model.table().current().unwrap().id, "b");
        model.table_mut().go(-10);
        assert_eq!(model.table().current().unwrap().id, "a");
        assert!(with_queues(&[]).table().current().is_none());
    }

    #[test]
    fn rows_are_filtered_and_ordered() {
        let mut model = with_queues(&["bb", "A", "ccc"]);

        model.table_mut().order = Some((0, false));
        assert_eq!(ids(&model), ["A", "bb", "ccc"]);
        model.table_mut().order = Some((1, true));
        assert_eq!(ids(&model), ["ccc", "bb", "A"]);
        model.table_mut().filter = "B".to_owned();
        assert_eq!(ids(&model), ["bb"]);
    }

    #[test]
    fn what_was_seen_last_stays_while_the_mesh_is_silent() {
        let mut model = with_queues(&["a"]);
        let down = Failure { is_down: true, error: "nobody".to_owned() };
        let now = Instant::now();

        model.take_in(News::Status(Err(down.clone())), now);
        model.take_in(News::Table(Page::Queues, Err(down.clone())), now);
        model.take_in(News::Status(Err(down)), now + Duration::from_secs(5));

        assert_eq!(ids(&model), ["a"]);
        assert_eq!(model.silence, Some((now, "nobody".to_owned())), "since the first time");
        model.take_in(News::Status(Ok(status(1, 0))), now);
        assert_eq!(model.silence, None);
    }

    #[test]
    fn the_rate_is_that_of_one_leader() {
        let (mut model, now) = (Model::new(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);

        model.take_in(News::Status(Ok(status(1, 100))), now);
        model.take_in(News::Status(Ok(status(1, 120))), later(2));
        model.take_in(News::Status(Ok(status(2, 5))), later(3));
        model.take_in(News::Status(Ok(status(2, 9))), later(4));

        assert_eq!(model.rates.per_second, [10.0, 4.0]);
    }

    #[test]
    fn of_events_the_newest_are_kept() {
        let mut model = Model::new();
        model.page = Page::Events;
        for i in 0..2000 {
            let event = json!({"time": format!("{i:04}"), "topic": "mesh", "what": "led", "epoch": 1});
            model.take_in(News::Event(Box::new(serde_json::from_value(event).unwrap())), Instant::now());
        }

        let rows = model.table().shown();
        assert!((EVENTS..=EVENTS + EVENTS / 4).contains(&rows.len()));
        assert_eq!(rows[0].cells[0].text, "1999");
    }

    #[test]
    fn a_notice_goes_by_itself() {
        let (mut model, now) = (Model::new(), Instant::now());
        model.take_in(News::Done("agent ada drains".to_owned(), Ok(())), now);

        model.pass(now + Duration::from_secs(5));
        assert!(model.notice.is_some());
        model.pass(now + Duration::from_secs(7));
        assert!(model.notice.is_none());
    }

    fn status(epoch: u64, settled: u64) -> Value {
        json!({"mesh": "hive", "instance": "c1", "leading": true, "epoch": epoch, "version": "0.1.0", "agents": {},
               "slots": 4, "running": 0, "waiting": 0, "settled": {"succeeded": settled}, "reassigned": 0})
    }
}
