//! Scaling: pools of agents, how many are wished for and there, why, and how that went.

use std::time::{SystemTime, UNIX_EPOCH};

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::Dashboard;
use super::chart::Chart;
use super::frame::{Frame, Section};
use super::html::{self, Html};
use super::problem::{Problem, show};
use super::show::{self as words, NOT_KNOWN};
use super::sources::{ChangeView, FindingView, PoolView};

/// Changes of a pool that are listed.
const CHANGES: usize = 20;
/// How many minutes its chart goes back at least.
const MINUTES: f64 = 60.0;

#[derive(Template)]
#[template(path = "scaling.html")]
struct Page {
    frame: Frame,
    pools: Vec<Pool>,
}

struct Pool {
    name: String,
    phase: Html,
    agents: String,
    facts: Vec<(&'static str, String)>,
    chart: Html,
    findings: Vec<Finding>,
    changes: Vec<Change>,
}

struct Finding {
    rule: String,
    metric: String,
    value: String,
    threshold: String,
    says: String,
}

struct Change {
    when: Html,
    cause: String,
    agents: String,
    outcome: Html,
    took: String,
    error: String,
}

pub(super) async fn page(State(dashboard): State<Dashboard>) -> Result<Response, Problem> {
    let pools = dashboard.sources.pools().await?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    show(&Page {
        frame: dashboard.frame(Section::Scaling, "Scaling").live(),
        pools: pools.into_iter().map(|pool| show_pool(pool, now_ms)).collect(),
    })
}

fn show_pool(pool: PoolView, now_ms: u64) -> Pool {
    let class = match pool.phase.as_str() {
        "steady" => "good",
        "growing" | "shrinking" => "busy",
        "backing-off" | "blind" => "bad",
        _ => "off",
    };
    Pool {
        phase: html::badge(class, &pool.phase),
        facts: vec![
            ("Wished for", pool.wished.map_or_else(|| NOT_KNOWN.to_owned(), |wished| words::count(wished.into()))),
            ("Present", words::count(pool.present.into())),
            ("Starting", words::count(pool.starting.into())),
            ("Bounds", format!("{} to {}", pool.bounds.0, pool.bounds.1)),
            ("Started and ended by", pool.actuator.clone()),
        ],
        chart: chart(&pool, now_ms),
        findings: pool.findings.iter().map(finding).collect(),
        changes: pool.changes.iter().rev().take(CHANGES).map(change).collect(),
        name: pool.name,
        agents: pool.agents,
    }
}

fn finding(finding: &FindingView) -> Finding {
    let says = match (&finding.waits_for, finding.wants) {
        (Some(waits_for), Some(wants)) => format!("wants {wants}, waits for {waits_for}"),
        (Some(waits_for), None) => format!("waits for {waits_for}"),
        (None, Some(wants)) => format!("wants {wants}"),
        (None, None) => "nothing to change".to_owned(),
    };
    Finding {
        rule: finding.rule.clone(),
        metric: finding.metric.clone(),
        value: finding.value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.2}")),
        threshold: format!("{:.2}", finding.threshold),
        says,
    }
}

fn change(change: &ChangeView) -> Change {
    let class = match change.outcome.as_str() {
        "succeeded" => "good",
        "underway" => "busy",
        "partly" => "warn",
        "failed" => "bad",
        _ => "off",
    };
    let after = change.after.map(|after| format!(", came to {after}")).unwrap_or_default();
    Change {
        when: html::moment(std::time::Duration::from_millis(change.at_ms)),
        cause: change.cause.clone(),
        agents: format!("{} → {}{after}", change.before, change.wished),
        outcome: html::badge(class, &change.outcome),
        took: change.took_ms.map(words::millis).unwrap_or_default(),
        error: change.error.clone().unwrap_or_default(),
    }
}

/// How many agents there were and were wished for: what is known at each change, held until the next.
fn chart(pool: &PoolView, now_ms: u64) -> Html {
    let minute = |at_ms: u64| -(now_ms.saturating_sub(at_ms) as f64) / 60_000.0;
    let (mut present, mut wished) = (Vec::new(), Vec::new());
    for change in &pool.changes {
        let at = minute(change.at_ms);
        present.extend(present.last().map(|(_, before)| (at, *before)));
        present.push((at, f64::from(change.before)));
        wished.extend(wished.last().map(|(_, before)| (at, *before)));
        wished.push((at, f64::from(change.wished)));
        if let (Some(after), Some(took)) = (change.after, change.took_ms) {
            present.push((minute(change.at_ms + took), f64::from(after)));
        }
    }
    present.push((0.0, f64::from(pool.present)));
    wished.extend(pool.wished.map(|wished| (0.0, f64::from(wished))));
    let minutes = pool.changes.first().map_or(MINUTES, |first| MINUTES.max(-minute(first.at_ms)));
    let words = format!("Agents of pool {} that were there, and that were wished for", pool.name);
    let lines =
        [present, wished].into_iter().map(|line| if line.len() > 1 { vec![line] } else { Vec::new() }).collect();
    Chart { words, minutes, lines, is_counted: true }.draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> PoolView {
        let change = ChangeView {
            at_ms: 1_000_000,
            cause: "queued-work: expected-wait-seconds 12.00 against 5.00".to_owned(),
            before: 2,
            wished: 6,
            after: Some(5),
            outcome: "partly".to_owned(),
            took_ms: Some(61_000),
            error: Some("<no room>".to_owned()),
        };
        let finding = FindingView {
            rule: "wait".to_owned(),
            wants: Some(7),
            waits_for: Some("its threshold".to_owned()),
            ..FindingView::default()
        };
        PoolView {
            name: "web".to_owned(),
            present: 5,
            wished: Some(6),
            findings: vec![finding],
            changes: vec![change],
            ..PoolView::default()
        }
    }

    #[test]
    fn a_pool_shows_what_each_rule_says_and_what_came_of_each_change() {
        let shown = show_pool(pool(), 1_200_000);

        assert_eq!(shown.findings[0].says, "wants 7, waits for its threshold");
        assert_eq!(
            (shown.findings[0].value.as_str(), shown.changes[0].agents.as_str()),
            ("unknown", "2 → 6, came to 5")
        );
        assert_eq!(shown.changes[0].took, "1 min 01 s");
        assert!(shown.chart.0.matches("<polyline").count() >= 2, "{}", shown.chart);
    }

    #[test]
    fn a_pool_that_never_changed_has_no_line_to_draw() {
        let quiet = PoolView { changes: Vec::new(), ..pool() };

        assert!(show_pool(quiet, 1_200_000).chart.0.contains("Nothing to draw yet"));
    }
}
