//! How it is shown: the model, drawn into a terminal of any size.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{
    Block, Cell, Clear, HighlightSpacing, Paragraph, Row as TableRow, Table as TableWidget, TableState, Wrap,
};

use super::model::{Details, Mode, Model, Table};
use super::overview;
use super::page::{Column, Page, Row, Tone};
use super::update::KEYS;
use crate::cli::output::{escape, span};

/// What stands in front of the row that one is at.
const CURSOR: &str = "> ";
/// A column is no wider than this if others need the room.
const WIDEST: usize = 28;
/// The last column is mostly a text, and can do with this.
const LAST: usize = 16;

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    /// Whether there are colours; without them everything is said by words and by emphasis.
    pub(super) has_colours: bool,
}

impl Theme {
    pub(super) fn of(self, tone: Tone) -> Style {
        let colour = |colour| if self.has_colours { Style::new().fg(colour) } else { Style::new() };
        match tone {
            Tone::Plain => Style::new(),
            Tone::Good => colour(Color::Green),
            Tone::Doubtful => colour(Color::Yellow),
            Tone::Bad => colour(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Quiet => Style::new().add_modifier(Modifier::DIM),
        }
    }
}

const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme, now: Instant) {
    let areas = [Constraint::Length(1), Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)];
    let [title, tabs, body, foot] = Layout::vertical(areas).areas(frame.area());
    frame.render_widget(head(model, theme, now), title);
    frame.render_widget(Paragraph::new(pages(model, tabs.width)), tabs);
    match &model.mode {
        Mode::Reading(details) => draw_details(frame, details, body),
        _ if model.page == Page::Overview => overview::draw(frame, model, theme, body),
        _ => draw_table(frame, model, theme, body),
    }
    if model.mode == Mode::Helping {
        draw_help(frame, body);
    }
    frame.render_widget(Paragraph::new(foot_line(model)), foot);
}

/// Who leads; or that nobody answers, and for how long.
fn head(model: &Model, theme: Theme, now: Instant) -> Paragraph<'_> {
    if let Some((since, error)) = &model.silence {
        let ago = span(now.saturating_duration_since(*since));
        let line = format!("no answer for {ago}, trying again: {error}");
        return Paragraph::new(line).style(theme.of(Tone::Bad));
    }
    let line = match &model.mesh {
        None => Line::from("asking the mesh…"),
        Some(mesh) => Line::from(vec![
            Span::styled(format!("mesh {}", mesh.mesh), STRONG),
            Span::raw(format!("  {} leads in epoch {}", mesh.instance, mesh.epoch)),
        ]),
    };
    Paragraph::new(line)
}

/// The titles of all pages, or where there is no room only that of the one that is shown.
fn pages(model: &Model, width: u16) -> Line<'static> {
    let style = |page: Page| if page == model.page { CHOSEN } else { Style::new() };
    let title = |page: Page| Span::styled(format!(" {} {} ", page.index() + 1, page.title()), style(page));
    let all = Line::from(Page::ALL.map(title).to_vec());
    if all.width() <= usize::from(width) {
        return all;
    }
    let place = format!("< {} of {} > ", model.page.index() + 1, Page::ALL.len());
    Line::from(vec![Span::raw(place), Span::styled(format!(" {} ", model.page.title()), CHOSEN)])
}

/// What is asked, what was done, or which keys there are.
fn foot_line(model: &Model) -> Line<'static> {
    match &model.mode {
        Mode::Filtering => Line::from(format!("/{}_", escape(&model.table().filter))),
        Mode::Asking(order) => Line::styled(format!("{} (y/n)", escape(&order.question)), STRONG),
        Mode::Reading(_) => Line::from("Esc back  ↓↑ scroll  r again"),
        Mode::Helping => Line::from("any key: back"),
        Mode::Browsing => match &model.notice {
            Some((_, notice)) => Line::styled(escape(notice), STRONG),
            None => Line::from(keys(model)),
        },
    }
}

fn keys(model: &Model) -> String {
    let table = model.table();
    let mut text = String::new();
    if !table.filter.is_empty() {
        text += &format!("filter {}  ", escape(&table.filter));
    }
    if model.page == Page::Events && model.events_left_out > 0 {
        text += &format!("{} left out  ", model.events_left_out);
    }
    let own = match model.page {
        Page::Overview => "",
        Page::Agents => "Enter details  d drain  / filter  s sort  ",
        Page::Tasks => "Enter why  c cancel  / filter  s sort  ",
        Page::Alerts => "Enter details  a acknowledge  / filter  s sort  ",
        Page::Queues | Page::Dead | Page::Scaling | Page::Events => "Enter details  / filter  s sort  ",
    };
    text + own + "Tab next page  ? help  q quit"
}

fn draw_table(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect) {
    let table = model.table();
    let shown = table.shown();
    if let Some(words) = why_empty(model.page, table, shown.len()) {
        return frame.render_widget(Paragraph::new(words).wrap(Wrap { trim: true }), area);
    }
    let room = usize::from(area.width).saturating_sub(CURSOR.len());
    let columns = fit(model.page.columns(), &shown, room);
    let header = columns.iter().map(|(place, _)| Cell::from(heading(model.page, table, *place)));
    let rows = shown.iter().map(|row| table_row(row, &columns, theme));
    let widths = columns.iter().map(|(_, width)| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
    let widget = TableWidget::new(rows, widths)
        .header(TableRow::new(header).style(STRONG))
        .column_spacing(2)
        .highlight_symbol(CURSOR)
        .highlight_spacing(HighlightSpacing::Always)
        .row_highlight_style(CHOSEN);
    let mut state = TableState::new().with_selected(Some(table.place(&shown)));
    frame.render_stateful_widget(widget, area, &mut state);
}

/// A column's name, and whether the rows are ordered by it.
fn heading(page: Page, table: &Table, place: usize) -> String {
    let name = page.columns()[place].name;
    match table.order {
        Some((column, is_reversed)) if column == place => format!("{name}{}", if is_reversed { "▼" } else { "▲" }),
        _ => name.to_owned(),
    }
}

fn table_row<'a>(row: &'a Row, columns: &[(usize, usize)], theme: Theme) -> TableRow<'a> {
    let cells =
        columns.iter().map(|(place, _)| Cell::from(row.cells.get(*place).map_or("", |cell| cell.text.as_str())));
    TableRow::new(cells).style(theme.of(row.tone))
}

/// Why there is no row, in words.
fn why_empty(page: Page, table: &Table, shown: usize) -> Option<String> {
    if let Some(failure) = &table.failure {
        let hint = match page {
            Page::Scaling | Page::Alerts if failure.is_down => " (the coordinator may be older than this program)",
            _ => "",
        };
        return Some(format!("{}{hint}", failure.error));
    }
    let words = match (table.is_known, table.rows.is_empty(), shown) {
        (false, _, _) => "asking the mesh…",
        (true, false, 0) => "no row has what the filter asks for; Esc takes it back",
        (true, false, _) => return None,
        (true, true, _) => match page {
            Page::Overview => return None,
            Page::Queues => "no kind is known: no agent can do one, and no task has named one",
            Page::Agents => "no agent has said hello",
            Page::Tasks => "the coordinator has no task in hand",
            Page::Dead => "there are no dead letters",
            Page::Scaling => "there are no pools: `[pools.NAME]` in the coordinator's settings makes one",
            Page::Alerts => "nothing fires",
            Page::Events => "nothing has happened since",
        },
    };
    Some(words.to_owned())
}

/// The columns that there is room for, each with its place and its width.
fn fit(columns: &[Column], rows: &[&Row], room: usize) -> Vec<(usize, usize)> {
    let needed = |place: usize| {
        let cells =
            rows.iter().filter_map(|row| row.cells.get(place)).map(|cell| Span::raw(cell.text.as_str()).width());
        // The sign of the order may stand behind the name.
        cells.chain([columns[place].name.len() + 1]).max().unwrap_or(0)
    };
    let mut fitted: Vec<(usize, usize)> = (0..columns.len()).map(|place| (place, needed(place).min(WIDEST))).collect();
    let taken = |fitted: &[(usize, usize)]| fitted.iter().map(|(_, width)| width + 2).sum::<usize>().saturating_sub(2);
    if let Some((place, width)) = fitted.last_mut() {
        *width = needed(*place).min(LAST);
    }
    while taken(&fitted) > room {
        let dropped = fitted.iter().enumerate().max_by_key(|(at, (place, _))| (columns[*place].rank, *at));
        match dropped.map(|(at, (place, _))| (at, columns[*place].rank)) {
            Some((at, 1..)) => {
                fitted.remove(at);
            }
            _ => break,
        }
    }
    // What is left goes to those that matter most.
    let mut spare = room.saturating_sub(taken(&fitted));
    fitted.sort_by_key(|(place, _)| columns[*place].rank);
    for (place, width) in &mut fitted {
        let more = needed(*place).saturating_sub(*width).min(spare);
        (*width, spare) = (*width + more, spare - more);
    }
    fitted.sort_unstable();
    fitted
}

fn draw_details(frame: &mut Frame<'_>, details: &Details, area: Rect) {
    let block = Block::bordered().title(format!(" {} {} ", details.page.title(), escape(&details.id)));
    let text = match &details.facts {
        None => Text::from("asking…"),
        Some(facts) if facts.is_empty() => Text::from("there is nothing more to say"),
        Some(facts) => {
            let width = facts.iter().map(|(name, _)| Span::raw(name).width()).max().unwrap_or(0).min(WIDEST);
            let line = |(name, value): &(String, String)| {
                Line::from(vec![Span::styled(format!("{name:width$}  "), STRONG), Span::raw(value.clone())])
            };
            Text::from(facts.iter().map(line).collect::<Vec<_>>())
        }
    };
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).scroll((details.scroll, 0)).block(block), area);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines = KEYS.map(|(key, does)| Line::from(vec![Span::styled(format!("{key:12}"), STRONG), Span::raw(does)]));
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" Keys ");
    frame.render_widget(Paragraph::new(lines.to_vec()).wrap(Wrap { trim: false }).block(block), area);
}

#[cfg(test)]
mod tests;
