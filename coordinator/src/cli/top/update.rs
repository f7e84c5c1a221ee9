//! What a key does: it changes what is shown, and may ask for something to be done.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Details, Mode, Model, Order};
use super::page::Page;

/// What the keys do, for the page of help.
pub(super) const KEYS: [(&str, &str); 13] = [
    ("Tab, →, l", "the next page; Shift-Tab, ←, h the one before; 1 to 8 that page"),
    ("↓, j", "the next row; ↑, k the one before"),
    ("PgDn, PgUp", "ten rows on, or back"),
    ("Home, g", "the first row; End, G the last"),
    ("Enter", "all about the row: of a task, why it waits or why its agent got it"),
    ("/", "show only rows with a text in them; Enter keeps it, Esc takes it back"),
    ("s", "order by the next column; S the other way round"),
    ("d", "drain the agent, after a question"),
    ("c", "cancel the task, after a question"),
    ("a", "acknowledge the alert, after a question"),
    ("Esc", "back"),
    ("?", "this help"),
    ("q, Ctrl-C", "quit"),
];

/// How far PgDn goes.
const FAR: isize = 10;

/// What is to be done besides showing something else.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// Fetch what this page shows, now.
    Look(Page),
    /// Fetch more about a row.
    Details(Page, String),
    /// Do what the user has said yes to.
    Carry(Order),
    /// End.
    Quit,
}

impl Model {
    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Effect> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(key.code, KeyCode::Char('c' | 'q')).then_some(Effect::Quit);
        }
        match &self.mode {
            Mode::Browsing => self.browse(key.code),
            Mode::Filtering => self.write_filter(key.code),
            Mode::Asking(order) => {
                let order = order.clone();
                self.answer(key.code, order)
            }
            Mode::Reading(_) => self.read(key.code),
            Mode::Helping => {
                self.mode = Mode::Browsing;
                (key.code == KeyCode::Char('q')).then_some(Effect::Quit)
            }
        }
    }

    fn browse(&mut self, key: KeyCode) -> Option<Effect> {
        match key {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => return self.turn_to(self.page.step(1)),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => return self.turn_to(self.page.step(-1)),
            KeyCode::Char(digit @ '1'..='8') => return self.turn_to(Page::ALL[digit as usize - '1' as usize]),
            KeyCode::Down | KeyCode::Char('j') => self.table_mut().go(1),
            KeyCode::Up | KeyCode::Char('k') => self.table_mut().go(-1),
            KeyCode::PageDown => self.table_mut().go(FAR),
            KeyCode::PageUp => self.table_mut().go(-FAR),
            KeyCode::Home | KeyCode::Char('g') => self.table_mut().go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.table_mut().go(isize::MAX),
            KeyCode::Char('/') if self.page != Page::Overview => self.mode = Mode::Filtering,
            KeyCode::Char('s') => self.order_by_next(),
            KeyCode::Char('S') => self.reverse(),
            KeyCode::Char('d') => {
                self.ask_to("drain", Page::Agents, ("agent", "drain"), "it leaves when it has finished");
            }
            KeyCode::Char('c') => self.ask_to("cancel", Page::Tasks, ("task", "cancel"), "it is stopped where it runs"),
            KeyCode::Char('a') => {
                self.ask_to(
                    "acknowledge",
                    Page::Alerts,
                    ("alert", "acknowledge"),
                    "it is not told again while it fires",
                );
            }
            KeyCode::Char('?') => self.mode = Mode::Helping,
            KeyCode::Esc => self.table_mut().filter.clear(),
            KeyCode::Enter => return self.open_details(),
            _ => {}
        }
        None
    }

    fn turn_to(&mut self, page: Page) -> Option<Effect> {
        self.page = page;
        Some(Effect::Look(page))
    }

    /// As they came, by the first column, by the second, and so on.
    fn order_by_next(&mut self) {
        let columns = self.page.columns().len();
        let table = self.table_mut();
        table.order = match table.order {
            None if columns > 0 => Some((0, false)),
            Some((column, _)) if column + 1 < columns => Some((column + 1, false)),
            _ => None,
        };
    }

    fn reverse(&mut self) {
        if let Some((_, is_reversed)) = &mut self.table_mut().order {
            *is_reversed = !*is_reversed;
        }
    }

    fn ask_to(&mut self, what: &str, page: Page, operation: (&'static str, &'static str), means: &str) {
        if self.page != page {
            return;
        }
        let Some(id) = self.table().current().map(|row| row.id.clone()) else { return };
        let question = format!("{what} {} {id}? {means}", operation.0);
        let (noun, verb) = operation;
        self.mode = Mode::Asking(Order { question, noun, verb, id });
    }

    fn open_details(&mut self) -> Option<Effect> {
        let (page, row) = (self.page, self.table().current()?);
        let (id, whole) = (row.id.clone(), row.whole.as_ref());
        let facts = whole.map(|whole| super::details::facts(page, whole));
        let is_asked_for = facts.is_none();
        if is_asked_for && page.details().is_none() {
            return None;
        }
        self.mode = Mode::Reading(Details { page, id: id.clone(), facts, scroll: 0 });
        is_asked_for.then_some(Effect::Details(page, id))
    }

    fn write_filter(&mut self, key: KeyCode) -> Option<Effect> {
        match key {
            KeyCode::Char(character) => self.table_mut().filter.push(character),
            KeyCode::Backspace => {
                self.table_mut().filter.pop();
            }
            KeyCode::Esc => {
                self.table_mut().filter.clear();
                self.mode = Mode::Browsing;
            }
            KeyCode::Enter => self.mode = Mode::Browsing,
            KeyCode::Down => self.table_mut().go(1),
            KeyCode::Up => self.table_mut().go(-1),
            _ => {}
        }
        None
    }

    /// Only a yes is one.
    fn answer(&mut self, key: KeyCode, order: Order) -> Option<Effect> {
        self.mode = Mode::Browsing;
        matches!(key, KeyCode::Char('y' | 'Y')).then_some(Effect::Carry(order))
    }

    fn read(&mut self, key: KeyCode) -> Option<Effect> {
        let Mode::Reading(details) = &mut self.mode else { return None };
        let scroll = &mut details.scroll;
        match key {
            KeyCode::Down | KeyCode::Char('j') => *scroll = scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => *scroll = scroll.saturating_sub(1),
            KeyCode::PageDown => *scroll = scroll.saturating_add(FAR as u16),
            KeyCode::PageUp => *scroll = scroll.saturating_sub(FAR as u16),
            KeyCode::Home | KeyCode::Char('g') => *scroll = 0,
            // What is read may change while it is.
            KeyCode::Char('r') => {
                return details.page.details().is_some().then(|| Effect::Details(details.page, details.id.clone()));
            }
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => self.mode = Mode::Browsing,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::super::model::News;
    use super::*;

    fn press(model: &mut Model, keys: &[KeyCode]) -> Vec<Effect> {
        keys.iter().filter_map(|key| model.press((*key).into())).collect()
    }

    fn typed(text: &str) -> Vec<KeyCode> {
        text.chars().map(KeyCode::Char).collect()
    }

    fn with_queues() -> Model {
        let queue =
            |kind: &str| json!({"kind": kind, "stored": 1, "waiting": 0, "running": 0, "agents": 1, "strategy": "x"});
        let mut model = Model::new();
        model.page = Page::Queues;
        let list = json!({"items": [queue("resize"), queue("train")]});
        model.take_in(News::Table(Page::Queues, Ok(list)), Instant::now());
        model
    }

    fn with_agents() -> Model {
        let mut model = Model::new();
        model.page = Page::Agents;
        let agent = json!({
            "id": "ada", "state": "healthy", "slots": 4, "running": 1, "queued": 0, "kinds": ["echo"], "labels": {},
            "host": "h", "version": "0.1.0", "incarnation": 1, "beat_age_ms": 5,
            "capacity": {"cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0, "network_bps": 0},
            "reserved": {"cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0, "network_bps": 0},
            "usage": {}, "succeeded": 0, "failed": 0
        });
        model.take_in(News::Table(Page::Agents, Ok(json!({ "items": [agent] }))), Instant::now());
        assert_eq!(model.table().failure, None);
        model
    }

    #[test]
    fn tab_turns_to_the_next_page_which_is_fetched_at_once() {
        let mut model = Model::new();

        assert_eq!(press(&mut model, &[KeyCode::Tab]), [Effect::Look(Page::Queues)]);
        assert_eq!(press(&mut model, &[KeyCode::BackTab]), [Effect::Look(Page::Overview)]);
        assert_eq!(press(&mut model, &typed("4")), [Effect::Look(Page::Tasks)]);
    }

    #[test]
    fn an_agent_is_drained_only_after_a_yes() {
        let mut model = with_agents();

        assert!(press(&mut model, &typed("dn")).is_empty());
        assert_eq!(model.mode, Mode::Browsing);
        let carried = press(&mut model, &typed("dy"));

        let [Effect::Carry(order)] = carried.as_slice() else { panic!("{carried:?}") };
        assert_eq!((order.noun, order.verb, order.id.as_str()), ("agent", "drain", "ada"));
        assert!(press(&mut with_queues(), &typed("dy")).is_empty(), "a queue cannot be drained");
    }

    #[test]
    fn what_is_typed_into_the_filter_is_no_order() {
        let mut model = with_queues();

        assert!(press(&mut model, &typed("/qr")).is_empty());
        press(&mut model, &[KeyCode::Backspace, KeyCode::Backspace]);
        press(&mut model, &typed("TRA"));
        press(&mut model, &[KeyCode::Enter]);

        assert_eq!(model.table().shown().len(), 1);
        press(&mut model, &[KeyCode::Esc]);
        assert_eq!(model.table().shown().len(), 2);
    }

    #[test]
    fn details_are_fetched_and_read_and_left() {
        let mut model = with_queues();

        let asked = press(&mut model, &[KeyCode::Down, KeyCode::Enter]);
        assert_eq!(asked, [Effect::Details(Page::Queues, "train".to_owned())]);
        model.take_in(
            News::Details(Page::Queues, "train".to_owned(), Ok(json!({"kind": "train", "settings": {"rate": "1/s"}}))),
            Instant::now(),
        );

        let Mode::Reading(details) = &model.mode else { panic!("{:?}", model.mode) };
        let facts = details.facts.clone().unwrap();
        assert!(facts.contains(&("settings.rate".to_owned(), "1/s".to_owned())), "{facts:?}");
        press(&mut model, &[KeyCode::Esc]);
        assert_eq!(model.mode, Mode::Browsing);
    }

    #[test]
    fn an_event_says_all_by_itself() {
        let mut model = Model::new();
        model.page = Page::Events;
        let event = json!({"time": "t", "topic": "alert", "what": "firing", "epoch": 1, "data": {"id": "hot"}});
        model.take_in(News::Event(Box::new(serde_json::from_value(event).unwrap())), Instant::now());

        assert!(press(&mut model, &[KeyCode::Enter]).is_empty());

        let Mode::Reading(details) = &model.mode else { panic!("{:?}", model.mode) };
        assert!(details.facts.as_ref().unwrap().contains(&("data.id".to_owned(), "hot".to_owned())));
    }

    #[test]
    fn columns_are_ordered_by_in_turn() {
        let mut model = with_queues();
        let mut orders = Vec::new();
        for _ in 0..=Page::Queues.columns().len() {
            press(&mut model, &typed("s"));
            orders.push(model.table().order);
        }

        assert_eq!((orders[0], orders[5], orders[6]), (Some((0, false)), Some((5, false)), None));
        press(&mut model, &typed("sS"));
        assert_eq!(model.table().order, Some((0, true)));
    }

    #[test]
    fn one_quits_from_anywhere() {
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for keys in ["", "/", "?", "d"] {
            let mut model = with_agents();
            press(&mut model, &typed(keys));
            assert_eq!(model.press(control_c), Some(Effect::Quit), "{keys}");
        }
        assert_eq!(press(&mut with_agents(), &typed("q")), [Effect::Quit]);
        assert!(press(&mut with_agents(), &typed("c")).is_empty(), "that is another key");
    }
}
