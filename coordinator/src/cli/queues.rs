//! `coordinator queues` and `coordinator status`: what waits and runs, by kind and altogether.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use shared::Kind;
use shared::api::ask::{Purge, Purged};
use shared::api::{List, Mesh, Queue, Tenant};
use shared::connect::Settings;

use super::api::{self, Api};
use super::output::{self, Json};
use super::watch::{self, Watch};

/// Look at what waits and runs of each kind.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what waits and runs of each kind.
    List(Watch),
    /// Show one kind with the settings that hold for it.
    Get {
        /// The kind.
        kind: Kind,
    },
    /// Pause a kind: nothing of it is fetched or started, and what runs goes on. It is kept, whoever leads.
    Pause {
        /// The kind.
        kind: Kind,
    },
    /// Resume a kind that is paused.
    Resume {
        /// The kind.
        kind: Kind,
    },
    /// End every task of a kind that does not run: each is recorded as cancelled.
    Purge {
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
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Subcommand)]
enum TenantCommand {
    /// List the tenants that tasks have named.
    List(Watch),
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
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    watch: Watch,
}

/// Carries out the subcommand of `queues`.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    match args.command {
        Command::List(watch) => {
            let header = ["KIND", "STORED", "WAITING", "RUNNING", "AGENTS", "STRATEGY", "PAUSED"];
            return list(&api, "queue", watch, args.json, header, row).await;
        }
        Command::Get { kind } => {
            let answer = api.ask("queue", "get", &json!({ "id": kind })).await?;
            show_settings(&answer, args.json.json)?;
        }
        Command::Pause { kind } => {
            show_settings(&api.ask("queue", "pause", &json!({ "id": kind })).await?, args.json.json)?;
        }
        Command::Resume { kind } => {
            show_settings(&api.ask("queue", "resume", &json!({ "id": kind })).await?, args.json.json)?;
        }
        Command::Purge { kind } => purge(&api, kind, args.json.json).await?,
        Command::Set { kind, settings } => set(&api, "queue", kind.as_str(), settings, args.json.json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Carries out the subcommand of `tenants`.
pub async fn tenants(args: TenantsArgs, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    match args.command {
        TenantCommand::List(watch) => {
            let header = ["TENANT", "WEIGHT", "RUNNING", "MOST", "RATE"];
            return list(&api, "tenant", watch, args.json, header, tenant_row).await;
        }
        TenantCommand::Set { name, settings } => set(&api, "tenant", &name, settings, args.json.json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows all there are of a noun, a row each.
async fn list<T: DeserializeOwned, const N: usize>(
    api: &Api,
    noun: &str,
    watch: Watch,
    json: Json,
    header: [&str; N],
    row: fn(&T) -> [String; N],
) -> anyhow::Result<ExitCode> {
    watch::show(
        json,
        watch,
        async || api.list(noun, &json!({}), usize::MAX).await,
        |answer| {
            let list: List<T> = api::read(&format!("{noun}.list"), answer)?;
            Ok(output::table_text(header, list.items.iter().map(row)))
        },
    )
    .await
}

/// Ends all that does not run of a kind, request by request.
async fn purge(api: &Api, kind: Kind, as_json: bool) -> anyhow::Result<()> {
    let mut done = Purged { purged: 0, next: Some(Purge { id: kind, after: None, until: None }) };
    while let Some(request) = done.next {
        let answer: Purged = api::read("queue.purge", api.ask("queue", "purge", &request).await?)?;
        done = Purged { purged: done.purged + answer.purged, next: answer.next };
    }
    if as_json {
        return output::json(&done);
    }
    eprintln!("{} purged", done.purged);
    Ok(())
}

/// Changes settings of one of a noun, and shows all that is said of it then.
async fn set(api: &Api, noun: &str, id: &str, settings: Vec<(String, Value)>, as_json: bool) -> anyhow::Result<()> {
    let settings: Map<String, Value> = settings.into_iter().collect();
    let answer = api.ask(noun, "set", &json!({ "id": id, "settings": settings })).await?;
    show_settings(&answer, as_json)
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

/// Shows an object as one fact a line, its `settings` last.
pub(super) fn show_settings(answer: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(answer);
    }
    Ok(output::table(["SETTING", "VALUE"], facts_and_settings(answer))?)
}

/// What an object says; what its `settings` say too is told there, and so once.
fn facts_and_settings(answer: &Value) -> Vec<[String; 2]> {
    let settings = answer.get("settings").and_then(Value::as_object);
    let is_said_there = |name: &str| settings.is_some_and(|settings| settings.contains_key(name));
    let is_fact = |name: &str| name != "settings" && !is_said_there(name);
    let facts = answer.as_object().into_iter().flatten().filter(|(name, _)| is_fact(name.as_str()));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    facts.chain(settings.into_iter().flatten()).map(|(name, value)| [name.clone(), text(value)]).collect()
}

fn row(queue: &Queue) -> [String; 7] {
    [
        queue.kind.to_string(),
        queue.stored.to_string(),
        queue.waiting.to_string(),
        queue.running.to_string(),
        queue.agents.to_string(),
        queue.strategy.clone(),
        if queue.paused { "yes".to_owned() } else { String::new() },
    ]
}

/// Shows the mesh at a glance.
pub async fn status(args: StatusArgs, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    watch::show(
        args.json,
        args.watch,
        async || api.ask("mesh", "status", &json!({})).await,
        |answer| Ok(output::facts_text(&facts(&api::read("mesh.status", answer)?))),
    )
    .await
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
        ("refused", format!("{} times by the NATS server, for lack of permission", mesh.refused)),
    ]
}

fn counts<N: Display>(counts: &BTreeMap<String, N>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_queue_and_its_settings_both_say_is_shown_once() {
        let queue = json!({
            "kind": "resize", "strategy": "weighted", "waiting": 3,
            "settings": { "memory": 1024, "strategy": "weighted" },
        });

        let shown = facts_and_settings(&queue);

        let expected = [["kind", "resize"], ["waiting", "3"], ["memory", "1024"], ["strategy", "weighted"]];
        assert_eq!(shown, expected.map(|row| row.map(str::to_owned)));
    }

    #[test]
    fn what_was_said_is_shown_without_anything_around_it() {
        assert_eq!(facts_and_settings(&json!({ "rate": "1/s" })), [["rate".to_owned(), "1/s".to_owned()]]);
    }
}
