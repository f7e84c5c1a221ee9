//! Resources: what is used of what is reserved of what there is, and what should be reserved instead.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use shared::api::{KindUse, Recommendation, ResourceAmounts, UnmetDemand, UseOfOne};

use super::Dashboard;
use super::actions::{self, Button, Deed, buttons};
use super::asked::Asked;
use super::frame::{Frame, Section};
use super::html::{self, Html, amount};
use super::problem::{Problem, show};
use super::show as words;
use crate::recommend::EVIDENCE;

/// What was done a moment ago.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Look {
    done: String,
}

#[derive(Template)]
#[template(path = "resources.html")]
struct Page {
    frame: Frame,
    slots: Html,
    slots_words: String,
    mesh: Vec<(String, Html, String)>,
    recommendations: Vec<Advice>,
    evidence: u64,
    kinds: Vec<Used>,
    unmet: Vec<Unmet>,
}

/// A recommendation, with what it is judged by.
struct Advice {
    about: String,
    path: String,
    resource: String,
    finding: Html,
    change: String,
    evidence: String,
    effect: String,
    guard: String,
    buttons: Vec<Button>,
}

struct Used {
    kind: String,
    resource: String,
    reserved: String,
    p50: String,
    p95: String,
    peak: String,
    efficiency: String,
    samples: String,
    out_of_memory: String,
}

struct Unmet {
    kind: String,
    asks: String,
    tasks: String,
    since: Html,
    reason: String,
}

pub(super) async fn page(State(dashboard): State<Dashboard>, Asked(asked): Asked<Look>) -> Result<Response, Problem> {
    let look = |scheduler: &scheduler::Scheduler, now| (scheduler.resource_use(now), scheduler.recommendations(now));
    let (used, recommendations) = dashboard.handle.look(look).await?;
    let share = used.slots.taken as f64 / used.slots.slots.max(1) as f64;
    let slots_words =
        format!("{} of {} taken", words::count(used.slots.taken), words::several(used.slots.slots, "slot", "slots"));
    let busy = used
        .slots
        .taken_under_backlog
        .map(|share| format!("; {} on average while tasks waited", words::percent(share)));
    show(&Page {
        frame: dashboard.frame(Section::Resources, "Resources").live_slowly().after(actions::done(&asked.done)),
        slots: html::bar(share, &slots_words),
        slots_words: slots_words + &busy.unwrap_or_default(),
        mesh: used.mesh.iter().map(amounts).collect(),
        recommendations: recommendations.into_iter().map(advice).collect(),
        evidence: EVIDENCE,
        kinds: used.kinds.iter().flat_map(|kind| kind.resources.iter().map(move |one| kind_use(kind, one))).collect(),
        unmet: used.unmet.into_iter().map(unmet).collect(),
    })
}

fn amounts(of: &ResourceAmounts) -> (String, Html, String) {
    (
        of.resource.clone(),
        html::resource_bar(&of.resource, of.used, of.reserved, of.capacity),
        html::resource_words(&of.resource, of.used, of.reserved, of.capacity),
    )
}

fn advice(about: Recommendation) -> Advice {
    let of_kind = about.kind.as_ref().map(|kind| (format!("kind {kind}"), format!("/queues/{kind}")));
    let of_agent = about.agent.as_ref().map(|agent| (format!("agent {agent}"), format!("/agents/{agent}")));
    let (name, path) = of_kind.or(of_agent).unwrap_or_default();
    let shown = |value| amount(&about.resource, value);
    // Of an agent it is a share of its host, in thousandths.
    let used = |value: u64| if about.agent.is_some() { words::percent(value as f64 / 1000.0) } else { shown(value) };
    let step = about.step.map(|step| format!("; the next step sets {}", shown(step)));
    let class = if about.finding == shared::api::Finding::UnderAllocated { "bad" } else { "warn" };
    let deeds: &[Deed] = if about.kind.is_some() && about.step.is_some() { &[Deed::Apply] } else { &[] };
    Advice {
        finding: html::badge(class, about.finding.as_str()),
        change: format!("{} → {}{}", shown(about.now), shown(about.suggested), step.unwrap_or_default()),
        evidence: format!(
            "half used no more than {}, 95 of 100 no more than {}, none more than {}; {} in {}",
            used(about.p50),
            used(about.p95),
            used(about.peak),
            words::several(about.samples, "sample", "samples"),
            words::millis(about.since_ms),
        ),
        buttons: buttons(deeds, about.kind.as_ref().map(shared::Kind::as_str).unwrap_or_default()),
        about: name,
        path,
        resource: about.resource,
        effect: about.effect,
        guard: about.guard.unwrap_or_default(),
    }
}

fn kind_use(kind: &KindUse, one: &UseOfOne) -> Used {
    let shown = |value| amount(&one.resource, value);
    Used {
        kind: kind.kind.to_string(),
        resource: one.resource.clone(),
        reserved: shown(one.reserved),
        p50: shown(one.p50),
        p95: shown(one.p95),
        peak: shown(one.peak),
        efficiency: words::maybe_percent(one.efficiency),
        samples: words::count(kind.samples),
        out_of_memory: words::count(kind.out_of_memory),
    }
}

fn unmet(demand: UnmetDemand) -> Unmet {
    let reserved = demand.reserved.resources.dimensions().into_iter().zip(shared::Resources::NAMES);
    let reserved =
        reserved.filter(|(asked, _)| *asked > 0).map(|(asked, name)| format!("{name} {}", amount(name, asked)));
    let countable = (!demand.reserved.countable.is_empty()).then(|| demand.reserved.countable.to_string());
    let needs = Some(demand.needs).filter(|needs| !needs.is_empty());
    Unmet {
        kind: demand.kind.to_string(),
        asks: needs.into_iter().chain(reserved).chain(countable).collect::<Vec<_>>().join(", "),
        tasks: words::count(demand.tasks),
        since: html::since(demand.since_ms),
        reason: demand.reason,
    }
}

#[cfg(test)]
mod tests {
    use shared::api::Finding;

    use super::*;

    #[test]
    fn advice_for_an_agent_is_given_in_shares_and_cannot_be_applied_here() {
        let about = Recommendation {
            kind: None,
            agent: Some("ada".parse().unwrap()),
            resource: "slots".to_owned(),
            finding: Finding::OverAllocated,
            now: 8,
            suggested: 6,
            p50: 300,
            p95: 420,
            peak: 500,
            samples: 20,
            since_ms: 60_000,
            effect: "…".to_owned(),
            step: None,
            guard: None,
        };

        let advice = advice(about);

        assert_eq!((advice.about.as_str(), advice.path.as_str()), ("agent ada", "/agents/ada"));
        assert_eq!(advice.change, "8 → 6");
        assert!(advice.evidence.contains("42 %"), "{}", advice.evidence);
        assert!(advice.buttons.is_empty());
    }
}
