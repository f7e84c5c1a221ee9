use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use serde_json::{Value, json};

use super::super::model::{Failure, News};
use super::*;

const PLAIN: Theme = Theme { has_colours: false };
const COLOURFUL: Theme = Theme { has_colours: true };

#[test]
fn a_table_is_drawn() {
    assert_eq!(
        screen(&with_queues(), 70, 8),
        [
            "mesh hive  c1 leads in epoch 1",
            "< 2 of 8 >  Queues",
            "  KIND    STORED   WAITING   RUNNING   AGENTS   STRATEGY",
            "> resize  3        2         1         1        weighted",
            "  train   40       0         0         0        weighted",
            "",
            "",
            "Enter details  / filter  s sort  Tab next page  ? help  q quit",
        ]
    );
}

#[test]
fn a_narrow_terminal_shows_what_matters_most() {
    assert_eq!(
        screen(&with_queues(), 30, 6),
        [
            "mesh hive  c1 leads in epoch 1",
            "< 2 of 8 >  Queues",
            "  KIND    STORED   WAITING",
            "> resize  3        2",
            "  train   40       0",
            "Enter details  / filter  s sor",
        ]
    );
}

#[test]
fn a_wide_terminal_shows_all_pages() {
    let shown = screen(&with_queues(), 90, 6);

    assert_eq!(shown[1], " 1 Overview  2 Queues  3 Agents  4 Tasks  5 Dead  6 Scaling  7 Alerts  8 Events");
}

#[test]
fn the_order_is_shown_where_it_is_by() {
    let mut model = with_queues();
    press(&mut model, "ssS");

    assert_eq!(screen(&model, 70, 8)[2], "  KIND    STORED▼  WAITING   RUNNING   AGENTS   STRATEGY");
    assert!(screen(&model, 70, 8)[3].starts_with("> train"));
}

#[test]
fn the_row_that_one_is_at_is_on_the_screen_however_far_down() {
    let mut model = with_queues();
    let queue = |i: usize| queue(&format!("k{i:03}"), 1, 0, 0, 1);
    let many: Vec<Value> = (0..500).map(queue).collect();
    model.take_in(News::Table(Page::Queues, Ok(json!({ "items": many }))), Instant::now());

    model.press(KeyCode::End.into());

    assert!(screen(&model, 70, 8).iter().any(|line| line.starts_with("> k499")));
}

#[test]
fn it_is_said_that_the_mesh_does_not_answer_and_for_how_long() {
    let (mut model, now) = (with_queues(), Instant::now());
    let failure = Failure { is_down: true, error: "nobody is there".to_owned() };
    model.take_in(News::Status(Err(failure)), now);

    let shown = screen_at(&model, 70, 8, now + Duration::from_secs(5), PLAIN);

    assert_eq!(shown[0], "no answer for 5.0s, trying again: nobody is there");
    assert_eq!(shown[3], "> resize  3        2         1         1        weighted", "what was seen last stays");
}

#[test]
fn an_empty_page_says_why_it_is() {
    let mut model = Model::new();
    model.page = Page::Alerts;
    assert_eq!(screen(&model, 70, 5)[2], "asking the mesh…");

    model.take_in(News::Table(Page::Alerts, Ok(json!({ "items": [] }))), Instant::now());
    assert_eq!(screen(&model, 70, 5)[2], "nothing fires");

    let refused = Failure { is_down: false, error: "no such operation".to_owned() };
    model.take_in(News::Table(Page::Alerts, Err(refused)), Instant::now());
    assert_eq!(screen(&model, 70, 5)[2], "no such operation");

    let mut model = with_queues();
    press(&mut model, "/zzz");
    assert_eq!(screen(&model, 70, 5)[2], "no row has what the filter asks for; Esc takes it back");
    assert_eq!(screen(&model, 70, 5)[4], "/zzz_");
}

#[test]
fn what_is_asked_stands_at_the_foot() {
    let mut model = with_alerts();

    press(&mut model, "a");

    let foot = screen(&model, 90, 5).pop().unwrap();
    assert_eq!(foot, "acknowledge alert hot? it is not told again while it fires (y/n)");
}

#[test]
fn a_row_is_told_in_full() {
    let mut model = with_alerts();
    model.press(KeyCode::Enter.into());
    assert_eq!(screen(&model, 40, 7)[3], "│asking…                               │");

    let answer = json!({"id": "hot", "rule": "hot"});
    model.take_in(News::Details(Page::Alerts, "hot".to_owned(), Ok(answer)), Instant::now());

    let shown = screen(&model, 40, 7);
    assert!(shown[2].starts_with("┌ Alerts hot ─"), "{shown:?}");
    assert_eq!(
        (shown[3].as_str(), shown[4].as_str()),
        ("│id    hot                             │", "│rule  hot                             │")
    );
}

#[test]
fn the_mesh_is_shown_at_a_glance() {
    let (mut model, now) = (Model::new(), Instant::now());
    model.take_in(News::Status(Ok(status(100))), now);
    model.take_in(News::Status(Ok(status(125))), now + Duration::from_secs(2));
    model.take_in(News::Oldest(Ok(json!({"items": [{"age_ms": 192_000}]}))), now);
    let coordinator = |instance: &str, leading| {
        let coordinator = json!({"instance": instance, "leading": leading, "epoch": 1, "version": "0.1.0"});
        serde_json::from_value(coordinator).unwrap()
    };
    model.take_in(News::Coordinators(vec![coordinator("c1", true), coordinator("c2", false)]), now);
    let unmet = json!({"kind": "train", "cpu_millis": 0, "memory_bytes": 0, "disk_bytes": 0, "network_bps": 0,
                       "tasks": 3, "since_ms": 5, "reason": "no agent can do it"});
    let resources = json!({"slots": {"slots": 4, "taken": 3}, "mesh": [], "agents": [], "kinds": [], "unmet": [unmet]});
    model.take_in(News::Resources(Ok(resources)), now);
    model.take_in(News::Alerts(Ok(json!({ "items": [alert()] }))), now);

    let shown = screen(&model, 100, 16);

    assert_eq!(
        shown[2..12],
        [
            "rate         12.5 tasks/s settled, 12.5 at most of late",
            "waiting      7 fetched and not placed, the oldest for 3m12s",
            "slots        3 of 4 taken [###############     ] 75%",
            "agents       1 healthy, 1 offline",
            "settled      125 succeeded",
            "reassigned   0",
            "coordinator  c1 leads in epoch 1, version 0.1.0; 1 stand by: c2",
            "unmet        3 of train: no agent can do it",
            "alert        critical: it is too hot",
            "",
        ]
    );
}

#[test]
fn nothing_that_the_mesh_says_reaches_the_terminal_unescaped() {
    let mut model = with_alerts();
    let mut nasty = alert();
    for field in ["id", "rule", "summary"] {
        nasty[field] = "a\u{1b}[2J\u{202e}b\r\n\u{9b}c".into();
    }
    model.take_in(News::Table(Page::Alerts, Ok(json!({ "items": [nasty] }))), Instant::now());
    let failure = Failure { is_down: false, error: crate::cli::output::escape("x\u{1b}[2Jy") };
    model.take_in(News::Done("a\u{1b}[2J".to_owned(), Err(failure)), Instant::now());

    for keys in ["", "a", "/\u{1b}\u{202e}"] {
        press(&mut model, keys);
        let shown = screen(&model, 120, 10).join("\n");
        let steers = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!shown.contains(steers), "{shown:?}");
        assert!(shown.contains("\\u{1b}"), "{shown}");
        model.press(KeyCode::Esc.into());
    }
}

#[test]
fn without_colours_everything_is_said_in_words() {
    let coloured = |theme| {
        let terminal = drawn(&with_alerts(), 90, 8, Instant::now(), theme);
        terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };

    assert!(coloured(COLOURFUL));
    assert!(!coloured(PLAIN));
    assert!(screen(&with_alerts(), 90, 8)[3].contains("critical"));
}

#[test]
fn it_can_be_drawn_at_any_size() {
    for (width, height) in [(1, 1), (3, 2), (10, 4), (20, 3), (200, 60)] {
        for page in Page::ALL {
            for keys in ["", "?", "/x", "d", "c", "a", "\n"] {
                let mut model = with_alerts();
                model.page = page;
                press(&mut model, keys);
                drawn(&model, width, height, Instant::now(), COLOURFUL);
            }
        }
    }
}

fn with_queues() -> Model {
    let mut model = Model::new();
    model.page = Page::Queues;
    model.take_in(News::Status(Ok(status(0))), Instant::now());
    let list = json!({"items": [queue("resize", 3, 2, 1, 1), queue("train", 40, 0, 0, 0)]});
    model.take_in(News::Table(Page::Queues, Ok(list)), Instant::now());
    model
}

fn with_alerts() -> Model {
    let mut model = Model::new();
    model.page = Page::Alerts;
    model.take_in(News::Status(Ok(status(0))), Instant::now());
    model.take_in(News::Table(Page::Alerts, Ok(json!({ "items": [alert()] }))), Instant::now());
    model
}

fn status(succeeded: u64) -> Value {
    json!({"mesh": "hive", "instance": "c1", "leading": true, "epoch": 1, "version": "0.1.0",
           "agents": {"healthy": 1, "offline": 1}, "slots": 4, "running": 3, "waiting": 7,
           "settled": {"succeeded": succeeded}, "reassigned": 0})
}

fn queue(kind: &str, stored: u64, waiting: u64, running: u64, agents: u32) -> Value {
    json!({"kind": kind, "stored": stored, "waiting": waiting, "running": running, "agents": agents,
           "strategy": "weighted"})
}

fn alert() -> Value {
    json!({"id": "hot", "rule": "hot", "state": "firing", "severity": "critical", "value": 4.0, "threshold": 3.0,
           "summary": "it is too hot", "since": "2026-12-01T12:00:00.000Z", "since_ms": 5000})
}

fn press(model: &mut Model, keys: &str) {
    for key in keys.chars() {
        let code = if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) };
        model.press(code.into());
    }
}

/// The lines of the screen.
fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
    screen_at(model, width, height, Instant::now(), PLAIN)
}

fn screen_at(model: &Model, width: u16, height: u16, now: Instant, theme: Theme) -> Vec<String> {
    let terminal = drawn(model, width, height, now, theme);
    let cells = terminal.backend().buffer().content();
    let line = |cells: &[ratatui::buffer::Cell]| {
        cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned()
    };
    cells.chunks(usize::from(width)).map(line).collect()
}

fn drawn(model: &Model, width: u16, height: u16, now: Instant, theme: Theme) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, theme, now)).unwrap();
    terminal
}
