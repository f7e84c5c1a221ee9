//! The overview: the mesh at a glance.

use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline, Wrap};
use shared::api::alerts::Severity;
use shared::api::{Mesh, ResourceUse, SlotUse, UnmetDemand};
use shared::{Resources, quantity};

use super::model::Model;
use super::page::Tone;
use super::view::Theme;
use crate::cli::output::{escape, millis};

/// How wide the names are.
const NAMES: usize = 11;
/// How high the picture of the rate is, where there is room.
const PICTURE: u16 = 4;
/// A bar of how much is taken.
const BAR: usize = 20;
/// So much that is unmet, and so many alerts, are named.
const NAMED: usize = 5;

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect) {
    let picture = if area.height > 16 { PICTURE } else { 0 };
    let [rate, facts] = Layout::vertical([Constraint::Length(picture), Constraint::Min(0)]).areas(area);
    let newest: Vec<u64> =
        model.rates.per_second.iter().rev().take(usize::from(rate.width)).map(|rate| (*rate * 1000.0) as u64).collect();
    // The newest stands at the right.
    let data: Vec<u64> = newest.into_iter().rev().collect();
    frame.render_widget(Sparkline::default().data(data).style(theme.of(Tone::Good)), rate);
    frame.render_widget(Paragraph::new(lines(model, theme)).wrap(Wrap { trim: false }), facts);
}

fn lines(model: &Model, theme: Theme) -> Vec<Line<'static>> {
    let Some(mesh) = &model.mesh else { return Vec::new() };
    let mut lines = vec![
        fact("rate", theme.of(Tone::Plain), rate(model)),
        fact("waiting", theme.of(Tone::Plain), waiting(mesh, model.oldest_ms)),
        fact("slots", theme.of(Tone::Plain), slots(mesh, model.resources.as_ref())),
        fact("agents", agents_style(mesh, theme), counts(&mesh.agents)),
        fact("settled", theme.of(Tone::Plain), counts(&mesh.settled)),
        fact("reassigned", theme.of(Tone::Plain), mesh.reassigned.to_string()),
        fact("coordinator", theme.of(Tone::Plain), coordinators(model, mesh)),
    ];
    if mesh.refused > 0 {
        let words = format!("{} times by the NATS server, for lack of permission", mesh.refused);
        lines.push(fact("refused", theme.of(Tone::Bad), words));
    }
    if let Some(resources) = &model.resources {
        lines.extend(used(resources).map(|(name, words)| fact(name, theme.of(Tone::Plain), words)));
        lines.extend(unmet(&resources.unmet).into_iter().map(|words| fact("unmet", theme.of(Tone::Bad), words)));
    }
    lines.extend(alerts(model, theme));
    lines
}

fn fact(name: &str, style: Style, words: impl AsRef<str>) -> Line<'static> {
    let name = Span::styled(format!("{name:NAMES$}  "), Style::new().add_modifier(Modifier::BOLD));
    Line::from(vec![name, Span::styled(escape(words.as_ref()), style)])
}

fn rate(model: &Model) -> String {
    let rates = &model.rates.per_second;
    let Some(newest) = rates.back() else { return "not known yet".to_owned() };
    let most = rates.iter().copied().fold(0.0, f64::max);
    format!("{newest:.1} tasks/s settled, {most:.1} at most of late")
}

fn waiting(mesh: &Mesh, oldest_ms: Option<u64>) -> String {
    match oldest_ms {
        Some(age) if mesh.waiting > 0 => {
            format!("{} fetched and not placed, the oldest for {}", mesh.waiting, millis(age))
        }
        _ => format!("{} fetched and not placed", mesh.waiting),
    }
}

fn slots(mesh: &Mesh, resources: Option<&ResourceUse>) -> String {
    let SlotUse { slots, taken, .. } = resources.map_or(
        SlotUse { slots: mesh.slots, taken: mesh.running.min(mesh.slots), taken_under_backlog: None },
        |resources| resources.slots,
    );
    if slots == 0 {
        return "no agent takes work".to_owned();
    }
    let share = taken as f64 / slots as f64;
    let full = ((share * BAR as f64).round() as usize).min(BAR);
    format!("{taken} of {slots} taken [{}{}] {:.0}%", "#".repeat(full), " ".repeat(BAR - full), share * 100.0)
}

fn agents_style(mesh: &Mesh, theme: Theme) -> Style {
    let of = |state: &str| mesh.agents.get(state).copied().unwrap_or(0);
    if of("unhealthy") + of("degraded") > 0 {
        theme.of(Tone::Doubtful)
    } else if of("healthy") == 0 {
        theme.of(Tone::Bad)
    } else {
        theme.of(Tone::Good)
    }
}

fn counts<N: std::fmt::Display>(counts: &BTreeMap<String, N>) -> String {
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

/// Who leads, and who stands by, as far as they say so.
fn coordinators(model: &Model, mesh: &Mesh) -> String {
    let standbys: Vec<&str> =
        model.coordinators.iter().filter(|one| !one.leading).map(|one| one.instance.as_str()).collect();
    let leads = format!("{} leads in epoch {}, version {}", mesh.instance, mesh.epoch, mesh.version);
    match (model.coordinators.is_empty(), standbys.is_empty()) {
        (true, _) => leads,
        (false, true) => format!("{leads}; nobody stands by"),
        (false, false) => format!("{leads}; {} stand by: {}", standbys.len(), standbys.join(", ")),
    }
}

/// What is used and reserved of each resource that is limited or measured.
fn used(resources: &ResourceUse) -> impl Iterator<Item = (&str, String)> {
    let told = resources.mesh.iter().filter(|of| of.capacity > 0 || of.used.is_some());
    told.map(|of| {
        let show = |amount: u64| {
            let is_counted = !Resources::NAMES.contains(&of.resource.as_str());
            if is_counted { amount.to_string() } else { quantity::show(&of.resource, amount) }
        };
        let used = of.used.map(|used| format!("{} used, ", show(used))).unwrap_or_default();
        let capacity = if of.capacity > 0 { format!(" of {}", show(of.capacity)) } else { String::new() };
        (of.resource.as_str(), format!("{used}{} reserved{capacity}", show(of.reserved)))
    })
}

fn unmet(demands: &[UnmetDemand]) -> Vec<String> {
    let named =
        demands.iter().take(NAMED).map(|demand| format!("{} of {}: {}", demand.tasks, demand.kind, demand.reason));
    let more = demands.len().saturating_sub(NAMED);
    named.chain((more > 0).then(|| format!("and {more} demands more"))).collect()
}

fn alerts(model: &Model, theme: Theme) -> Vec<Line<'static>> {
    let firing = model.firing().take(NAMED).map(|alert| {
        let tone = if alert.severity == Severity::Critical { Tone::Bad } else { Tone::Doubtful };
        let known = if alert.acknowledged.is_some() { " (known)" } else { "" };
        fact("alert", theme.of(tone), format!("{}: {}{known}", alert.severity, alert.summary))
    });
    let more = model.firing().count().saturating_sub(NAMED);
    let more = (more > 0).then(|| fact("alert", theme.of(Tone::Doubtful), format!("and {more} more")));
    firing.chain(more).collect()
}
