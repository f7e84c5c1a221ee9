//! `coordinator resources`: what is reserved and used of what there is, and what should be reserved instead.

use std::process::ExitCode;

use serde_json::json;
use shared::api::{
    AgentUse, Applied, Apply, KindUse, List, Recommendation, ResourceAmounts, ResourceUse, SlotUse, UnmetDemand,
    UseOfOne,
};
use shared::connect::Settings;
use shared::{Kind, Resources, quantity};

use super::agents;
use super::api::{self, Api};
use super::output::{self, Json};
use super::watch::{self, Text, Watch};
use crate::recommend::{self, EVIDENCE};

/// Look at what is used of what is reserved, and follow what is recommended.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what is reserved and used: altogether, by agent and by kind, and what waits for more than there is.
    List(Watch),
    /// List what should be reserved for a kind or offered by an agent instead, with the evidence.
    Recommend(Watch),
    /// Reserve for a kind what is recommended, by one step, while the mesh runs.
    ///
    /// It holds at once, also for what waits, and is kept; `coordinator queues set KIND cpu= memory=` goes back to the
    /// configuration.
    Apply {
        /// The kind.
        kind: Kind,
        /// Only this resource.
        #[arg(long, value_parser = recommend::RESOURCES)]
        resource: Option<String>,
        /// Change nothing, and only tell what would be changed.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Carries out the subcommand.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    match args.command {
        Command::List(watch) => {
            let ask = async || api.ask("resource", "list", &json!({})).await;
            watch::show(args.json, watch, ask, |answer| Ok(sections(&api::read("resource.list", answer)?))).await
        }
        Command::Recommend(watch) => {
            let ask = async || api.ask("resource", "recommend", &json!({})).await;
            watch::show(args.json, watch, ask, |answer| Ok(recommendations(&api::read("resource.recommend", answer)?)))
                .await
        }
        Command::Apply { kind, resource, dry_run } => {
            apply(&api, &Apply { id: kind, resource, dry_run }, args.json.json).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn sections(all: &ResourceUse) -> String {
    let agents = all.agents.iter().flat_map(agent_rows).collect();
    let kinds = all.kinds.iter().flat_map(kind_rows).collect();
    let of_kinds = ["KIND", "RESOURCE", "RESERVED", "P50", "P95", "PEAK", "EFFICIENCY", "SAMPLES", "SINCE"];
    let sections = [
        Some(output::facts_text(&[("slots", slots(all.slots))])),
        section(["RESOURCE", "USED", "RESERVED", "CAPACITY"], all.mesh.iter().map(amounts_row).collect()),
        section(["AGENT", "RESOURCE", "USED", "RESERVED", "CAPACITY"], agents),
        section(of_kinds, kinds),
        section(["UNMET", "NEEDS", "RESERVES", "TASKS", "SINCE", "REASON"], all.unmet.iter().map(unmet_row).collect()),
    ];
    sections.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

/// A table, unless it is empty.
fn section<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> Option<String> {
    if rows.is_empty() { None } else { Some(output::table_text(header, rows)) }
}

fn slots(of: SlotUse) -> String {
    let mut text = format!("{} of {} taken", of.taken, of.slots);
    if let Some(share) = of.taken_under_backlog {
        text += &format!("; {} on average while tasks waited", agents::percent(share));
    }
    text
}

fn amounts_row(of: &ResourceAmounts) -> [String; 4] {
    let shown = |amount| show(&of.resource, amount);
    let capacity =
        if of.capacity == 0 && !is_countable(&of.resource) { "not limited".to_owned() } else { shown(of.capacity) };
    [of.resource.clone(), of.used.map(shown).unwrap_or_default(), shown(of.reserved), capacity]
}

/// An agent's slots and resources, a row each.
fn agent_rows(of: &AgentUse) -> Vec<[String; 5]> {
    let slots = ["slots".to_owned(), String::new(), of.taken.to_string(), of.slots.to_string()];
    let rows = std::iter::once(slots).chain(of.resources.iter().map(amounts_row));
    rows.map(|[resource, used, reserved, capacity]| [of.agent.to_string(), resource, used, reserved, capacity])
        .collect()
}

fn kind_rows(of: &KindUse) -> Vec<[String; 9]> {
    of.resources.iter().map(|one| kind_row(of, one)).collect()
}

fn kind_row(of: &KindUse, one: &UseOfOne) -> [String; 9] {
    let shown = |amount| show(&one.resource, amount);
    [
        of.kind.to_string(),
        one.resource.clone(),
        shown(one.reserved),
        shown(one.p50),
        shown(one.p95),
        shown(one.peak),
        one.efficiency.map(agents::percent).unwrap_or_default(),
        of.samples.to_string(),
        output::millis(of.since_ms),
    ]
}

fn unmet_row(demand: &UnmetDemand) -> [String; 6] {
    [
        demand.kind.to_string(),
        demand.needs.clone(),
        agents::resources(&demand.reserved.resources, &demand.reserved.countable, "nothing"),
        demand.tasks.to_string(),
        output::millis(demand.since_ms),
        demand.reason.clone(),
    ]
}

fn recommendations(all: &List<Recommendation>) -> Text {
    if all.items.is_empty() {
        let note = format!("there is no recommendation; one for a kind takes {EVIDENCE} measured attempts of it");
        return Text::new(String::new(), Some(note));
    }
    let header =
        ["ABOUT", "RESOURCE", "FINDING", "NOW", "SUGGESTED", "P50", "P95", "PEAK", "SAMPLES", "SINCE", "EFFECT"];
    output::table_text(header, all.items.iter().map(recommendation_row)).into()
}

fn recommendation_row(of: &Recommendation) -> [String; 11] {
    [
        about(of),
        of.resource.clone(),
        of.finding.to_string(),
        show(&of.resource, of.now),
        show(&of.resource, of.suggested),
        evidence(of, of.p50),
        evidence(of, of.p95),
        evidence(of, of.peak),
        of.samples.to_string(),
        output::millis(of.since_ms),
        of.effect.clone(),
    ]
}

fn about(of: &Recommendation) -> String {
    let kind = of.kind.as_ref().map(|kind| format!("kind {kind}"));
    kind.or_else(|| of.agent.as_ref().map(|agent| format!("agent {agent}"))).unwrap_or_default()
}

/// What was used: of a kind an amount of its resource, of an agent a share of what its host has.
fn evidence(of: &Recommendation, used: u64) -> String {
    if of.agent.is_some() { agents::percent(used as f64 / 1000.0) } else { show(&of.resource, used) }
}

async fn apply(api: &Api, asked: &Apply, as_json: bool) -> anyhow::Result<()> {
    let answer = api.ask("resource", "apply", asked).await?;
    if as_json {
        return output::json(&answer);
    }
    let applied: Applied = api::read("resource.apply", answer)?;
    for followed in &applied.followed {
        output::line(&output::escape(&change(&applied.kind, followed, asked.dry_run)))?;
    }
    Ok(())
}

/// What is changed by one recommendation, in a line.
fn change(kind: &Kind, followed: &Recommendation, dry_run: bool) -> String {
    let (resource, now) = (&followed.resource, followed.now);
    let (from, to) = (show(resource, now), show(resource, followed.step.unwrap_or(now)));
    let dry = if dry_run { " (dry run)" } else { "" };
    let guard = followed.guard.as_ref().map(|guard| format!("; {guard}")).unwrap_or_default();
    format!("{kind} {resource}: {from} -> {to}{dry}{guard}")
}

/// An amount with its unit, or the plain number of what is counted.
fn show(resource: &str, amount: u64) -> String {
    if is_countable(resource) { amount.to_string() } else { quantity::show(resource, amount) }
}

/// Whether it is counted in pieces, as slots are too.
fn is_countable(resource: &str) -> bool {
    !Resources::NAMES.contains(&resource)
}

#[cfg(test)]
mod tests {
    use shared::api::Finding;

    use super::*;

    #[test]
    fn amounts_have_their_unit_and_what_is_counted_has_none() {
        let memory = ResourceAmounts { resource: "memory".to_owned(), capacity: 0, reserved: 3 << 29, used: None };
        let gpus = ResourceAmounts { resource: "gpus".to_owned(), capacity: 2, reserved: 0, used: Some(1) };

        assert_eq!(amounts_row(&memory), ["memory", "", "1.5 GiB", "not limited"]);
        assert_eq!(amounts_row(&gpus), ["gpus", "1", "0", "2"]);
    }

    #[test]
    fn an_agent_shows_its_slots_first() {
        let resources = vec![ResourceAmounts { resource: "cpu".to_owned(), capacity: 4000, reserved: 500, used: None }];

        let rows = agent_rows(&AgentUse { agent: "ada".parse().unwrap(), slots: 4, taken: 3, resources });

        assert_eq!(rows, [["ada", "slots", "", "3", "4"], ["ada", "cpu", "", "500m cores", "4 cores"]]);
    }

    #[test]
    fn the_evidence_for_slots_is_a_share_of_the_host() {
        let agent = Some("ada".parse().unwrap());
        let slots = Recommendation { kind: None, agent, resource: "slots".to_owned(), now: 8, p95: 420, ..memory() };

        let (of_slots, of_memory) = (recommendation_row(&slots), recommendation_row(&memory()));

        assert_eq!([&of_slots[0], &of_slots[3], &of_slots[6]], ["agent ada", "8", "42%"]);
        assert_eq!([&of_memory[0], &of_memory[3], &of_memory[6]], ["kind resize", "1 GiB", "200 MiB"]);
    }

    #[test]
    fn a_change_tells_how_far_it_goes_and_why_no_further() {
        let bounded = Recommendation { guard: Some("by half at most".to_owned()), ..memory() };
        let kind: Kind = "resize".parse().unwrap();

        assert_eq!(change(&kind, &memory(), false), "resize memory: 1 GiB -> 512 MiB");
        assert_eq!(change(&kind, &bounded, true), "resize memory: 1 GiB -> 512 MiB (dry run); by half at most");
    }

    fn memory() -> Recommendation {
        Recommendation {
            kind: Some("resize".parse().unwrap()),
            agent: None,
            resource: "memory".to_owned(),
            finding: Finding::OverAllocated,
            now: 1 << 30,
            suggested: 256 << 20,
            p50: 150 << 20,
            p95: 200 << 20,
            peak: 210 << 20,
            samples: 20,
            since_ms: 60_000,
            effect: String::new(),
            step: Some(512 << 20),
            guard: None,
        }
    }
}
