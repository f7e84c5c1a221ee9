//! `coordinator queues` and `coordinator status`: what waits and runs, by kind and altogether.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;

use serde_json::json;
use shared::api::{List, Mesh, Queue};
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
    let Command::List = args.command;
    let answer = Api::connect(connection).await?.ask("queue", "list", &json!({})).await?;
    if args.json {
        output::json(&answer)?;
    } else {
        let queues: List<Queue> = api::read("queue.list", answer)?;
        output::table(["KIND", "STORED", "WAITING", "RUNNING", "AGENTS", "STRATEGY"], queues.items.iter().map(row))?;
    }
    Ok(ExitCode::SUCCESS)
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
