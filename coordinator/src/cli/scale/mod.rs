//! `coordinator scale`: how many agents there are and are to be, what was done about it, and why.

mod picture;
pub mod record;
mod recording;
mod report;
pub mod simulate;

use std::process::ExitCode;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use shared::AgentId;
use shared::api::List;
use shared::api::scale::{Change, Detail, Explanation, Finding, Measured, Pool, Statistics, Would};
use shared::connect::Settings;

use super::agents::percent;
use super::api::{self, Api};
use super::output;
use super::queues::{assignment, show_settings};

/// Look at pools of agents, whose number the mesh decides, and change what holds for them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print a JSON document.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Record(record::Args),
    Simulate(simulate::Args),
    /// List the pools, or show one of them with everything that is known of it.
    Status {
        /// The pool.
        pool: Option<String>,
    },
    /// List what was done about a pool since the present leader leads; `coordinator events --topic scaling` lists more.
    History {
        /// The pool.
        pool: String,
        /// At most so many changes, the newest.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show why a pool has as many agents as it has: what each rule says, and what it waits for.
    Explain {
        /// The pool.
        pool: String,
    },
    /// Change settings of a pool while the mesh runs, or say how many agents it shall have.
    ///
    /// They are those of `[pools.…]` in the coordinator's configuration but for `actuator`, hold at once, and are kept.
    #[command(after_help = SETTINGS)]
    Set {
        /// The pool.
        pool: String,
        /// What is changed; `NAME=` goes back to the configuration.
        #[arg(value_name = "NAME=VALUE", value_parser = assignment, required_unless_present = "agents")]
        settings: Vec<(String, Value)>,
        /// So many agents there shall be, until a rule finds otherwise.
        #[arg(long, value_name = "N", conflicts_with = "settings")]
        agents: Option<u32>,
    },
    /// Let a pool be as it is; what would be done is still told.
    Pause {
        /// The pool.
        pool: String,
    },
    /// Let a pool that was paused go on.
    Resume {
        /// The pool.
        pool: String,
    },
}

const SETTINGS: &str = "Examples:\n  coordinator scale set workers max-agents=40 target-wait=30s\n  \
                        coordinator scale set workers --agents 12\n  \
                        coordinator scale set workers enabled=false\n  \
                        coordinator scale set workers max-agents=";

/// Carries out the subcommand.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let as_json = args.json;
    // A replay asks nobody, and a record goes on until it is ended.
    let command = match args.command {
        Command::Record(args) => return record::run(args, connection).await,
        Command::Simulate(args) => return simulate::run(&args),
        command => command,
    };
    let api = Api::connect(connection).await?;
    match command {
        Command::Record(_) | Command::Simulate(_) => unreachable!("they have been carried out"),
        Command::Status { pool: None } => show(&api, "status", &json!({}), as_json, show_pools).await?,
        Command::Status { pool: Some(id) } => show(&api, "get", &json!({ "id": id }), as_json, show_detail).await?,
        Command::History { pool, limit } => {
            show(&api, "history", &json!({ "id": pool, "limit": limit }), as_json, show_history).await?;
        }
        Command::Explain { pool } => show(&api, "explain", &json!({ "id": pool }), as_json, show_explanation).await?,
        Command::Set { pool, settings, agents } => {
            let change = match agents {
                Some(agents) => json!({ "id": pool, "agents": agents }),
                None => json!({ "id": pool, "settings": settings.into_iter().collect::<Map<_, _>>() }),
            };
            said(&api, "set", &change, as_json).await?;
        }
        Command::Pause { pool } => said(&api, "pause", &json!({ "id": pool }), as_json).await?,
        Command::Resume { pool } => said(&api, "resume", &json!({ "id": pool }), as_json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for something, and shows it as a document or for people.
async fn show<T: DeserializeOwned>(
    api: &Api,
    verb: &str,
    request: &Value,
    as_json: bool,
    for_people: fn(&T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let answer = api.ask("scale", verb, request).await?;
    if as_json {
        return output::json(&answer);
    }
    for_people(&api::read(&format!("scale.{verb}"), answer)?)
}

/// Changes something, and shows all that is said of the pool then.
async fn said(api: &Api, verb: &str, request: &Value, as_json: bool) -> anyhow::Result<()> {
    show_settings(&api.ask("scale", verb, request).await?, as_json)
}

fn show_pools(pools: &List<Pool>) -> anyhow::Result<()> {
    if pools.items.is_empty() {
        eprintln!("there are no pools: [pools.NAME] in the coordinator's configuration makes one");
        return Ok(());
    }
    let header =
        ["POOL", "PHASE", "WISHED", "PRESENT", "STARTING", "LEAVING", "BOUNDS", "WAITING", "WAIT P95", "SLOTS", "LAST"];
    Ok(output::table(header, pools.items.iter().map(pool_row))?)
}

fn pool_row(pool: &Pool) -> [String; 11] {
    let phase = if pool.acts { pool.phase.clone() } else { format!("{} (dry run)", pool.phase) };
    [
        pool.id.clone(),
        phase,
        pool.wished.map(|wished| wished.to_string()).unwrap_or_default(),
        pool.present.to_string(),
        pool.starting.to_string(),
        pool.leaving.to_string(),
        format!("{}-{}", pool.min_agents, pool.max_agents),
        pool.measured.waiting.map(|waiting| waiting.to_string()).unwrap_or_default(),
        pool.measured.wait_p95_ms.map(output::millis).unwrap_or_default(),
        slots(&pool.measured),
        pool.last_change.as_ref().map(last).unwrap_or_default(),
    ]
}

fn slots(measured: &Measured) -> String {
    let taken = measured.taken.zip(measured.slots).filter(|(_, slots)| *slots > 0);
    taken.map(|(taken, slots)| format!("{taken:.1} of {slots}")).unwrap_or_default()
}

fn last(change: &Change) -> String {
    format!("{} {}: {}", movement(change), change.outcome, change.rule)
}

/// From how many to how many.
fn movement(change: &Change) -> String {
    match change.after {
        Some(after) if after != change.wished => format!("{} > {} ({after})", change.before, change.wished),
        _ => format!("{} > {}", change.before, change.wished),
    }
}

fn show_detail(detail: &Detail) -> anyhow::Result<()> {
    let Detail { pool, agents, agents_leaving, statistics, settings } = detail;
    let [_, phase, wished, ..] = pool_row(pool);
    let mut facts = vec![("pool", pool.id.clone()), ("phase", phase)];
    facts.extend(pool.held_by.iter().map(|why| ("nothing is done", why.clone())));
    facts.extend([
        ("wished", format!("{wished}, of {} to {}", pool.min_agents, pool.max_agents)),
        ("present", format!("{}: {}", pool.present, names(agents))),
        ("starting", pool.starting.to_string()),
        ("leaving", format!("{}: {}", pool.leaving, names(agents_leaving))),
    ]);
    facts.extend(measurements(&pool.measured));
    facts.extend(counts(statistics));
    facts.extend(pool.last_change.iter().map(|change| ("last change", format!("{}, {}", last(change), change.time))));
    output::facts(&facts)?;
    output::line("")?;
    show_settings(settings, false)
}

fn names(agents: &[AgentId]) -> String {
    if agents.is_empty() {
        "none".to_owned()
    } else {
        agents.iter().map(AgentId::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn measurements(measured: &Measured) -> Vec<(&'static str, String)> {
    let unknown = || "unknown".to_owned();
    let share = |share: Option<f64>| share.map_or_else(unknown, percent);
    let waiting = measured.waiting.map_or_else(unknown, |waiting| {
        let oldest = measured.oldest_ms.map(output::millis).unwrap_or_default();
        let work = measured.work_ms.map(output::millis).unwrap_or_default();
        format!("{waiting} tasks, the oldest for {oldest}, with {work} of work")
    });
    let slots = Some(slots(measured)).filter(|slots| !slots.is_empty()).unwrap_or_else(unknown);
    let age = measured.age_ms.map_or_else(|| "never".to_owned(), |age| format!("{} ago", output::millis(age)));
    let doubt = if measured.in_doubt { "; the link is in doubt, so nothing is decided" } else { "" };
    vec![
        ("looked at", format!("{age}{doubt}")),
        ("waiting", waiting),
        ("wait p95", measured.wait_p95_ms.map_or_else(unknown, output::millis)),
        ("slots taken", slots),
        ("hosts used", share(measured.host_utilisation)),
        ("throughput", measured.throughput.map_or_else(unknown, |rate| format!("{rate:.1}/s"))),
        ("failures", share(measured.failures)),
    ]
}

fn counts(counts: &Statistics) -> Vec<(&'static str, String)> {
    let Statistics { ordered, succeeded, partly, failed, growing, shrinking, replacing, flaps, .. } = counts;
    let rate = counts.success_rate.map(|rate| format!(" ({})", percent(rate))).unwrap_or_default();
    let times = counts.time_in_ms.iter().map(|(phase, millis)| format!("{phase} {}", output::millis(*millis)));
    vec![
        ("changes", format!("{ordered}: {growing} up, {shrinking} down, {replacing} replacements; {flaps} reversals")),
        ("ended", format!("{succeeded} well{rate}, {partly} in part, {failed} badly")),
        ("time", times.collect::<Vec<_>>().join(", ")),
    ]
}

fn show_history(changes: &List<Change>) -> anyhow::Result<()> {
    let header = ["TIME", "AGENTS", "OUTCOME", "TOOK", "RULE", "METRIC", "VALUE", "THRESHOLD", "ERROR"];
    Ok(output::table(header, changes.items.iter().map(change_row))?)
}

fn change_row(change: &Change) -> [String; 9] {
    [
        change.time.clone(),
        movement(change),
        change.outcome.clone(),
        change.took_ms.map(output::millis).unwrap_or_default(),
        change.rule.clone(),
        change.metric.clone(),
        format!("{:.2}", change.value),
        format!("{:.2}", change.threshold),
        change.error.clone().unwrap_or_default(),
    ]
}

fn show_explanation(why: &Explanation) -> anyhow::Result<()> {
    let facts = [
        ("pool", why.pool.clone()),
        ("why", why.summary.clone()),
        ("would", would(&why.would)),
        ("at", why.time.clone()),
    ];
    output::facts(&facts)?;
    output::line("")?;
    let header = ["RULE", "METRIC", "VALUE", "THRESHOLD", "WANTS", "WAITS FOR"];
    Ok(output::table(header, why.findings.iter().map(finding_row))?)
}

fn would(would: &Would) -> String {
    match (would.start, would.drain.as_slice()) {
        (0, []) => "change nothing".to_owned(),
        (0, drain) => format!("drain {}", names(drain)),
        (start, _) => format!("start {start} agents"),
    }
}

fn finding_row(finding: &Finding) -> [String; 6] {
    [
        finding.rule.clone(),
        finding.metric.clone(),
        finding.value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.2}")),
        format!("{:.2}", finding.threshold),
        finding.wants.map(|wants| wants.to_string()).unwrap_or_default(),
        finding.waits_for.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Result<Command, clap::Error> {
        Cli::try_parse_from(["scale"].iter().chain(line)).map(|cli| cli.args.command)
    }

    #[test]
    fn either_settings_are_changed_or_a_number_is_named() {
        assert!(matches!(parse(&["set", "workers", "max-agents=4"]), Ok(Command::Set { agents: None, .. })));
        assert!(matches!(parse(&["set", "workers", "--agents", "4"]), Ok(Command::Set { agents: Some(4), .. })));
        assert!(parse(&["set", "workers"]).is_err());
        assert!(parse(&["set", "workers", "max-agents=4", "--agents", "4"]).is_err());
    }

    #[test]
    fn a_change_that_came_out_otherwise_says_how() {
        let change = |after| Change { before: 2, wished: 6, after, ..Change::default() };

        assert_eq!(movement(&change(None)), "2 > 6");
        assert_eq!(movement(&change(Some(6))), "2 > 6");
        assert_eq!(movement(&change(Some(4))), "2 > 6 (4)");
    }

    #[test]
    fn what_would_be_done_is_said() {
        let would = |start, drain: &[&str]| {
            would(&Would { start, drain: drain.iter().map(|id| id.parse().unwrap()).collect() })
        };

        assert_eq!(would(0, &[]), "change nothing");
        assert_eq!(would(3, &[]), "start 3 agents");
        assert_eq!(would(0, &["ada", "bob"]), "drain ada, bob");
    }
}
