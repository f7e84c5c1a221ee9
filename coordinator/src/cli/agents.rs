//! `coordinator agents`: who does the work, and how they are doing.

use std::process::ExitCode;

use shared::api::{Agent, ById, List};
use shared::connect::Settings;
use shared::{AgentId, Countables, Kind, Resources};

use super::api::{self, Api};
use super::output::{self, Json};
use super::watch::{self, Watch};

/// Look at the agents, drain one, or give it no work for a while.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the agents.
    List(Watch),
    /// Show one agent.
    Get {
        /// The agent's id.
        id: AgentId,
    },
    /// Give an agent no new work; it leaves when what it runs has ended.
    Drain {
        /// The agent's id.
        id: AgentId,
    },
    /// Give an agent no new work until it is resumed; what it runs goes on, and it stays.
    Quarantine {
        /// The agent's id.
        id: AgentId,
    },
    /// Give an agent work again, whoever put it into quarantine.
    Resume {
        /// The agent's id.
        id: AgentId,
    },
}

/// Carries out the subcommand.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(watch) => list(watch, args.json, connection).await,
        Command::Get { id } => show("get", &id, args.json.json, connection).await,
        Command::Drain { id } => show("drain", &id, args.json.json, connection).await,
        Command::Quarantine { id } => show("quarantine", &id, args.json.json, connection).await,
        Command::Resume { id } => show("resume", &id, args.json.json, connection).await,
    }
}

async fn list(watch: Watch, json: Json, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    let ask = async || api.list("agent", &serde_json::json!({}), usize::MAX).await;
    watch::show(json, watch, ask, |answer| {
        let agents: List<Agent> = api::read("agent.list", answer)?;
        let header =
            ["ID", "STATE", "SLOTS", "RUNNING", "QUEUED", "SUCCEEDED", "FAILED", "CPU", "BEAT", "HOST", "KINDS"];
        Ok(output::table_text(header, agents.items.iter().map(row)))
    })
    .await
}

fn row(agent: &Agent) -> [String; 11] {
    [
        agent.id.to_string(),
        agent.state.to_string(),
        agent.slots.to_string(),
        agent.running.to_string(),
        agent.queued.to_string(),
        agent.succeeded.to_string(),
        agent.failed.to_string(),
        agent.usage.get("cpu").map(|busy| percent(*busy)).unwrap_or_default(),
        output::millis(agent.beat_age_ms),
        agent.host.clone(),
        kinds(agent),
    ]
}

/// The kinds in a few words: an agent may know a thousand.
fn kinds(agent: &Agent) -> String {
    const SHOWN: usize = 8;
    let mut text = agent.kinds.iter().take(SHOWN).map(Kind::as_str).collect::<Vec<_>>().join(" ");
    if agent.kinds.len() > SHOWN {
        text += &format!(" and {} more", agent.kinds.len() - SHOWN);
    }
    text
}

/// A fraction in percent.
pub(super) fn percent(fraction: f64) -> String {
    format!("{:.0}%", fraction * 100.0)
}

async fn show(verb: &str, id: &AgentId, as_json: bool, connection: &Settings) -> anyhow::Result<ExitCode> {
    let answer = Api::connect(connection).await?.ask("agent", verb, &ById { id: id.to_string() }).await?;
    if as_json {
        output::json(&answer)?;
    } else {
        output::facts(&facts(&api::read("agent", answer)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn facts(agent: &Agent) -> Vec<(&'static str, String)> {
    let labels = agent.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    let usage = agent.usage.iter().map(|(name, busy)| format!("{name} {}", percent(*busy))).collect::<Vec<_>>();
    vec![
        ("id", agent.id.to_string()),
        ("state", agent.state.to_string()),
        ("host", agent.host.clone()),
        ("version", agent.version.clone()),
        ("incarnation", agent.incarnation.to_string()),
        ("last beat", format!("{} ago", output::millis(agent.beat_age_ms))),
        ("slots", format!("{} of {} running, {} queued", agent.running, agent.slots, agent.queued)),
        ("attempts", format!("{} succeeded, {} failed", agent.succeeded, agent.failed)),
        ("capacity", resources(&agent.capacity, &agent.countables, "not limited")),
        ("reserved", resources(&agent.reserved, &agent.countables_reserved, "nothing")),
        ("enforcement", enforcement(&agent.enforcement)),
        ("usage", usage.join(", ")),
        ("labels", labels.join(", ")),
        ("kinds", agent.kinds.iter().map(Kind::as_str).collect::<Vec<_>>().join(" ")),
    ]
}

/// How it keeps commands from taking more than is reserved for them, and what that comes to.
fn enforcement(said: &str) -> String {
    match said {
        "cgroup" => "cgroup: the kernel limits memory, processes and CPU of a command".to_owned(),
        "watch" => "watch: the agent ends a command with too much memory or too many processes".to_owned(),
        "off" => "off: a command takes what it likes".to_owned(),
        "" => "not known".to_owned(),
        other => other.to_owned(),
    }
}

/// Amounts of resources, leaving out what is zero.
pub(super) fn resources(amounts: &Resources, countables: &Countables, none: &str) -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let known = [
        (amounts.cpu_millis, format!("{} cores", amounts.cpu_millis as f64 / 1000.0)),
        (amounts.memory_bytes, format!("{:.1} GiB memory", gib(amounts.memory_bytes))),
        (amounts.disk_bytes, format!("{:.1} GiB disk", gib(amounts.disk_bytes))),
        (amounts.network_bps, format!("{:.0} Mbps network", amounts.network_bps as f64 / 1e6)),
    ];
    let known = known.into_iter().filter(|(amount, _)| *amount > 0).map(|(_, text)| text);
    let counted = countables.iter().map(|(name, amount)| format!("{name}={amount}"));
    let shown: Vec<String> = known.chain(counted).collect();
    if shown.is_empty() { none.to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_that_are_not_limited_are_left_out() {
        let some = Resources { cpu_millis: 1500, memory_bytes: 1 << 30, ..Resources::default() };
        let gpus: Countables = "gpus=2".parse().unwrap();

        assert_eq!(resources(&some, &Countables::ZERO, "nothing"), "1.5 cores, 1.0 GiB memory");
        assert_eq!(resources(&some, &gpus, "nothing"), "1.5 cores, 1.0 GiB memory, gpus=2");
        assert_eq!(resources(&Resources::default(), &Countables::ZERO, "nothing"), "nothing");
    }
}
