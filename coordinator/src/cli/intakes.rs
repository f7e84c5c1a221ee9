//! `coordinator intakes`: webhooks in, each of which turns signed requests into tasks.

use std::process::ExitCode;

use serde_json::json;
use shared::api::List;
use shared::api::intakes::{Intake, IntakeChange, IntakeRef, IntakeSaved, IntakeScheme};
use shared::connect::Settings;
use shared::{HookName, Kind, Priority};

use super::api::{self, Api};
use super::hooks::{Secret, done, header, show_secret};
use super::output;

/// Look at intakes, each of which turns signed requests to the coordinator into tasks, and change them.
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
    /// List intakes.
    List,
    /// Show an intake.
    Get {
        /// Its name.
        id: HookName,
    },
    /// Make an intake, or change one: what is not said stays. A secret that is made goes to stdout, this once.
    #[command(after_help = EXAMPLES)]
    Set(Box<Set>),
    /// Remove an intake: its requests are refused from then on.
    Delete {
        /// Its name.
        id: HookName,
    },
}

const EXAMPLES: &str = "\
Examples:
  coordinator intakes set github --kind build --scheme github --secret-file secret.txt
  coordinator intakes set shop --kind order --scheme timestamped --signature-header Stripe-Signature
  coordinator intakes set github --header 'Hive-Timeout: 10m' --pass X-GitHub-Event";

#[derive(Debug, clap::Args)]
struct Set {
    /// Its name; its requests come to /v1/hooks/ID.
    id: HookName,
    /// The kind of its tasks.
    #[arg(long)]
    kind: Option<Kind>,
    /// Their priority.
    #[arg(long)]
    priority: Option<Priority>,
    /// How its requests are signed: standard, github or timestamped.
    #[arg(long)]
    scheme: Option<IntakeScheme>,
    /// The header with the signature, if it has another name than is usual.
    #[arg(long, value_name = "NAME")]
    signature_header: Option<String>,
    /// How far the time in a request may be from now.
    #[arg(long, value_name = "DURATION")]
    tolerance: Option<String>,
    /// What a task's id is made of: text, {intake}, {delivery}, {digest}.
    #[arg(long, value_name = "TEMPLATE")]
    task_id: Option<String>,
    /// Headers of a request that become the task's; they replace those before.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pass: Vec<String>,
    /// A header that each task gets, such as `Hive-Timeout: 10m`; all together replace those before.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The largest body, in bytes.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Whether requests are taken.
    #[arg(long)]
    enabled: Option<bool>,
    #[command(flatten)]
    secret: Secret,
}

/// Carries out the subcommand.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    match args.command {
        Command::List => list(&api, args.json).await?,
        Command::Get { id } => get(&api, id, args.json).await?,
        Command::Set(said) => set(&api, *said, args.json).await?,
        Command::Delete { id } => {
            let answer = api.ask("intake", "delete", &IntakeRef { id }).await?;
            done(&answer, args.json, "removed")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(api: &Api, as_json: bool) -> anyhow::Result<()> {
    let answer = api.ask("intake", "list", &json!({})).await?;
    if as_json {
        return output::json(&answer);
    }
    let intakes: List<Intake> = api::read("intake.list", answer)?;
    Ok(output::table(["INTAKE", "ENABLED", "KIND", "PRIORITY", "SCHEME", "PATH"], intakes.items.iter().map(row))?)
}

fn row(intake: &Intake) -> [String; 6] {
    [
        intake.id.to_string(),
        intake.enabled.to_string(),
        intake.kind.to_string(),
        intake.priority.to_string(),
        intake.scheme.as_str().to_owned(),
        intake.path.clone(),
    ]
}

async fn get(api: &Api, id: HookName, as_json: bool) -> anyhow::Result<()> {
    let answer = api.ask("intake", "get", &IntakeRef { id }).await?;
    if as_json {
        return output::json(&answer);
    }
    Ok(output::facts(&facts(&api::read("intake.get", answer)?))?)
}

fn facts(intake: &Intake) -> Vec<(&'static str, String)> {
    let headers: Vec<String> = intake.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let known = [
        ("intake", Some(intake.id.to_string())),
        ("path", Some(intake.path.clone())),
        ("enabled", Some(intake.enabled.to_string())),
        ("kind", Some(intake.kind.to_string())),
        ("priority", Some(intake.priority.to_string())),
        ("scheme", Some(intake.scheme.as_str().to_owned())),
        ("signature header", Some(intake.signature_header.clone())),
        ("tolerance", Some(intake.tolerance.clone())),
        ("task id", Some(intake.task_id.clone())),
        ("passed on", Some(intake.pass.join(", ")).filter(|names| !names.is_empty())),
        ("headers", Some(headers.join(", ")).filter(|headers| !headers.is_empty())),
        ("most bytes", Some(intake.max_bytes.to_string())),
        ("old secret until", intake.old_secret_until.clone()),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

async fn set(api: &Api, said: Set, as_json: bool) -> anyhow::Result<()> {
    let change = IntakeChange {
        kind: said.kind,
        priority: said.priority,
        scheme: said.scheme,
        signature_header: said.signature_header,
        tolerance: said.tolerance,
        task_id: said.task_id,
        pass: (!said.pass.is_empty()).then_some(said.pass),
        headers: (!said.header.is_empty()).then(|| said.header.into_iter().collect()),
        max_bytes: said.max_bytes,
        enabled: said.enabled,
        secret: said.secret.read()?,
        rotate: said.secret.rotate,
        overlap: said.secret.overlap,
        ..IntakeChange::of(said.id)
    };
    let answer = api.ask("intake", "set", &change).await?;
    if as_json {
        return output::json(&answer);
    }
    let saved: IntakeSaved = api::read("intake.set", answer)?;
    show_secret(saved.secret.as_deref(), saved.intake.id.as_str())
}
