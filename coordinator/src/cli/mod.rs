//! The command line: one subcommand, one file.

pub mod agents;
pub mod alerts;
pub mod api;
pub mod auth;
pub mod bench;
pub mod call;
pub mod conformance;
pub mod dead;
pub mod dev;
pub mod dev_pool;
pub mod doctor;
pub mod events;
pub mod healthcheck;
pub mod hooks;
pub mod intakes;
mod logs;
pub mod output;
mod progress;
pub mod queues;
pub mod resources;
pub mod scale;
pub mod serve;
pub mod submit;
pub mod tasks;
pub mod top;
mod traced;
pub mod watch;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::connect::Settings;
use tracing_subscriber::EnvFilter;

/// Hivemesh: tasks from any NATS client, placed on the right agent, and none of them lost.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    connection: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Dev(dev::Args),
    Submit(submit::Args),
    Call(call::Args),
    Tasks(tasks::Args),
    Agents(agents::Args),
    Queues(queues::Args),
    Tenants(queues::TenantsArgs),
    Resources(resources::Args),
    Scale(scale::Args),
    Status(queues::StatusArgs),
    Dead(dead::Args),
    Alerts(alerts::Args),
    Events(events::Args),
    Hooks(hooks::Args),
    Intakes(intakes::Args),
    Top(top::Args),
    Doctor(doctor::Args),
    Conformance(conformance::Args),
    Auth(auth::Args),
    Healthcheck(healthcheck::Args),
    Bench(bench::Args),
    /// Runs an agent, as the program `agent-worker` does.
    #[command(hide = true)]
    Agent(agent_worker::cli::Args),
    /// Runs a program that ends when the one that started it does.
    #[command(hide = true)]
    Leash {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let Cli { connection, command } = Cli::parse();
    // Before anything else is started: the leash becomes the program.
    if let Command::Leash { command } = command {
        let error = crate::local::leash::exec(command);
        eprintln!("error: {}", crate::chain(&error));
        return ExitCode::from(127);
    }
    // The coordinator's loop and its connection hand everything to each other: on one thread that costs no wake-up.
    // (Measured: 0.85 of the raw path's rate against 0.76 with a thread a core.)
    let mut builder = match &command {
        Command::Serve(_) | Command::Agent(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::report(&anyhow::Error::new(error).context("failed to start the runtime")),
    };
    let outcome = runtime.block_on(run(command, &connection));
    shared::trace::finish();
    // What still runs in the background has nothing more to say.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| output::report(&error))
}

async fn run(command: Command, connection: &Settings) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(args, connection).await,
        Command::Dev(args) => log_warnings(dev::run(args)).await,
        Command::Submit(args) => ask(submit::run(args, connection), connection).await,
        Command::Call(args) => ask(call::run(args, connection), connection).await,
        Command::Tasks(args) => ask(tasks::run(args, connection), connection).await,
        Command::Agents(args) => ask(agents::run(args, connection), connection).await,
        Command::Queues(args) => ask(queues::run(args, connection), connection).await,
        Command::Tenants(args) => ask(queues::tenants(args, connection), connection).await,
        Command::Resources(args) => ask(resources::run(args, connection), connection).await,
        Command::Scale(args) => ask(scale::run(args, connection), connection).await,
        Command::Status(args) => ask(queues::status(args, connection), connection).await,
        Command::Dead(args) => ask(dead::run(args, connection), connection).await,
        Command::Alerts(args) => ask(alerts::run(args, connection), connection).await,
        Command::Events(args) => ask(events::run(args, connection), connection).await,
        Command::Hooks(args) => ask(hooks::run(args, connection), connection).await,
        Command::Intakes(args) => ask(intakes::run(args, connection), connection).await,
        Command::Top(args) => ask_logging("off", top::run(args, connection), connection).await,
        Command::Doctor(args) => log_errors(doctor::run(args, connection)).await,
        Command::Conformance(args) => log_errors(conformance::run(args, connection)).await,
        Command::Auth(args) => auth::run(args, connection),
        Command::Healthcheck(args) => healthcheck::run(args).await,
        Command::Bench(args) => log_warnings(bench::run(args, connection)).await,
        Command::Agent(args) => agent(args).await,
        Command::Leash { .. } => unreachable!("the leash is taken before the runtime starts"),
    }
}

/// Runs an agent in this program; it exits as `agent-worker` would.
async fn agent(mut args: agent_worker::cli::Args) -> anyhow::Result<ExitCode> {
    args.subcommand = vec!["agent".into()];
    match agent_worker::cli::run(args).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("agent-worker: {error:#}");
            Ok(agent_worker::cli::exit_code(&error))
        }
    }
}

/// Asks the mesh for something. What the server does not allow it never answers, so the refusal ends the command.
async fn ask(work: impl Future<Output = anyhow::Result<ExitCode>>, connection: &Settings) -> anyhow::Result<ExitCode> {
    // The refusal is the command's error, and need not be told twice.
    ask_logging("warn,permissions=off", work, connection).await
}

/// The same, for a command that logs less: what is drawn on shall not be written on.
async fn ask_logging(
    level: &str,
    work: impl Future<Output = anyhow::Result<ExitCode>>,
    connection: &Settings,
) -> anyhow::Result<ExitCode> {
    start_logging(level, wants_json());
    tokio::select! {
        biased;
        done = work => done,
        violation = connection.violations.first() => Err(violation.into()),
    }
}

/// A person at a prompt sees warnings only; `HIVE_LOG=debug` shows the rest.
async fn log_warnings<T>(work: impl Future<Output = T>) -> T {
    start_logging("warn", wants_json());
    work.await
}

/// What these find they tell themselves: a refusal, or the loss of a connection, that they provoked is no news.
async fn log_errors<T>(work: impl Future<Output = T>) -> T {
    start_logging("error", wants_json());
    work.await
}

/// Whether the log of a command is to be JSON, as `--log-format` says it of those that run for long.
fn wants_json() -> bool {
    std::env::var("HIVE_LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"))
}

/// Logs to standard error, by `HIVE_LOG` (`info`, `coordinator=debug`, …) or else the level given.
pub(crate) fn start_logging(default: &str, json: bool) {
    let filter = std::env::var("HIVE_LOG").ok().and_then(|filter| EnvFilter::try_new(filter).ok());
    let quiet = shared::connect::QUIET.parse().expect("it is a directive");
    let filter = filter.map(|filter| filter.add_directive(quiet));
    let filter = filter.unwrap_or_else(|| EnvFilter::new(format!("{default},async_nats=off")));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Somebody who uses this as a library may log already.
    let _ = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
}
