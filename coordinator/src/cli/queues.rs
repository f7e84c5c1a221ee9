//! `coordinator queues` and `coordinator status`: what waits and runs, by kind and altogether.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use shared::Kind;
use shared::api::{List, Mesh, Queue, Tenant};
use shared::connect::Settings;

use super::api::{self, Api};
use super::output;

/// Look at what waits and runs of each kind.
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
    /// List what waits and runs of each kind.
    List,
    /// Show one kind with the settings that hold for it.
    Get {
        /// The kind.
        kind: Kind,
    },
    /// Change settings of a kind, or of `default`, while the mesh runs.
    ///
    /// They are those of `[kinds.…]` in the coordinator's configuration, hold at once, also for what waits, and are kept.
    #[command(after_help = SETTINGS)]
    Set {
        /// The kind, or `default`.
        kind: Kind,
        /// What is changed; `NAME=` goes back to the configuration.
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = assignment)]
        settings: Vec<(String, Value)>,
    },
}

const SETTINGS: &str = "Examples:\n  coordinator queues set wordcount strategy=weighted max-running=10\n  \
                        coordinator queues set wordcount rate=100/s memory=256Mi\n  \
                        coordinator queues set wordcount strategy=";

/// `NAME=VALUE`; a value that is JSON is taken as such, any other is a text, and none takes back what was said.
pub(super) fn assignment(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as strategy=weighted")?;
    let value = match value {
        "" => Value::Null,
        value => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
    };
    Ok((name.to_owned(), value))
}

/// Look at tenants, and change what they get.
#[derive(Debug, clap::Args)]
pub struct TenantsArgs {
    #[command(subcommand)]
    command: TenantCommand,
    /// Print a JSON document.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum TenantCommand {
    /// List the tenants that tasks have named.
    List,
    /// Change settings of a tenant, or of `default`, while the mesh runs: `weight`, `max-running`, `rate`.
    Set {
        /// The tenant, or `default`.
        name: String,
        /// What is changed; `NAME=` goes back to the configuration.
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = assignment)]
        settings: Vec<(String, Value)>,
    },
}

/// Show the mesh at a glance.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print a JSON document.
    #[arg(long)]
    json: bool,
}

/// Carries out the subcommand of `queues`.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    match args.command {
        Command::List => {
            let answer = api.ask("queue", "list", &json!({})).await?;
            if args.json {
                output::json(&answer)?;
            } else {
                let queues: List<Queue> = api::read("queue.list", answer)?;
                let header = ["KIND", "STORED", "WAITING", "RUNNING", "AGENTS", "STRATEGY"];
                output::table(header, queues.items.iter().map(row))?;
            }
        }
        Command::Get { kind } => {
            let answer = api.ask("queue", "get", &json!({ "id": kind })).await?;
            show_settings(&answer, args.json)?;
        }
        Command::Set { kind, settings } => {
            let settings: Map<String, Value> = settings.into_iter().collect();
            let answer = api.ask("queue", "set", &json!({ "id": kind, "settings": settings })).await?;
            show_settings(&answer, args.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Carries out the subcommand of `tenants`.
pub async fn tenants(args: TenantsArgs, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    match args.command {
        TenantCommand::List => {
            let answer = api.ask("tenant", "list", &json!({})).await?;
            if args.json {
                output::json(&answer)?;
            } else {
                let tenants: List<Tenant> = api::read("tenant.list", answer)?;
                output::table(["TENANT", "WEIGHT", "RUNNING", "MOST", "RATE"], tenants.items.iter().map(tenant_row))?;
            }
        }
        TenantCommand::Set { name, settings } => {
            let settings: Map<String, Value> = settings.into_iter().collect();
            let answer = api.ask("tenant", "set", &json!({ "id": name, "settings": settings })).await?;
            show_settings(&answer, args.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tenant_row(tenant: &Tenant) -> [String; 5] {
    let name = if tenant.name.is_empty() { "(none named)" } else { &tenant.name };
    [
        name.to_owned(),
        tenant.weight.to_string(),
        tenant.running.to_string(),
        tenant.max_running.map(|most| most.to_string()).unwrap_or_default(),
        tenant.rate.clone().unwrap_or_default(),
    ]
}

/// Shows an object as one fact a line, its `settings` among them.
fn show_settings(answer: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(answer);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let all = answer.as_object().into_iter().flatten();
    let flat = all.flat_map(|(name, value)| match value.as_object().filter(|_| name == "settings") {
        Some(settings) => settings.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        None => vec![(name.clone(), text(value))],
    });
    output::table(["SETTING", "VALUE"], flat.map(|(name, value)| [name, value]))?;
    Ok(())
}

fn row(queue: &Queue) -> [String; 6] {
    [
        queue.kind.to_string(),
        queue.stored.to_string(),
        queue.waiting.to_string(),
        queue.running.to_string(),
        queue.agents.to_string(),
        queue.strategy.clone(),
    ]
}

/// Shows the mesh at a glance.
pub async fn status(args: StatusArgs, connection: &Settings) -> anyhow::Result<ExitCode> {
    let answer = Api::connect(connection).await?.ask("mesh", "status", &json!({})).await?;
    if args.json {
        output::json(&answer)?;
    } else {
        output::facts(&facts(&api::read("mesh.status", answer)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(mesh: &Mesh) -> Vec<(&'static str, String)> {
    let role = if mesh.leading { "leads" } else { "stands by" };
    vec![
        ("mesh", mesh.mesh.clone()),
        ("coordinator", format!("{} {role}, epoch {}, version {}", mesh.instance, mesh.epoch, mesh.version)),
        ("agents", counts(&mesh.agents)),
        ("slots", format!("{} with agents that get work", mesh.slots)),
        ("running", mesh.running.to_string()),
        ("waiting", mesh.waiting.to_string()),
        ("settled", counts(&mesh.settled)),
        ("reassigned", mesh.reassigned.to_string()),
    ]
}

fn counts<N: Display>(counts: &BTreeMap<String, N>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}
