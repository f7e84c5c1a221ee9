//! The program `chaos`: the soak, and with its hidden subcommands all the programs of a mesh.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use chaos::figures::{self, Part};
use chaos::scenario::Scenario;
use chaos::{Context, Size, agent, burner};
use clap::{Parser, Subcommand};

/// The allocator of the mesh's own programs, which this is a stand-in for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "chaos", about = "Kills, pauses and cuts off whole meshes, and counts what was promised")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios with the full figures, and writes a table.
    Soak(Soak),
    /// Lists the scenarios.
    List,
    #[command(hide = true)]
    Agent(Box<agent_worker::cli::Args>),
    #[command(hide = true)]
    Poison,
    #[command(hide = true)]
    Burn,
}

#[derive(Debug, clap::Args)]
struct Soak {
    /// Only these scenarios; what was kept of the others goes into the table.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<Scenario>,
    /// What is drawn from [default: the time].
    #[arg(long, env = "CHAOS_SEED")]
    seed: Option<u64>,
    /// Times the full figures.
    #[arg(long, default_value_t = 1.0, value_name = "F")]
    scale: f64,
    /// File that the table is written to; it is printed as well.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Directory that keeps the figures of each scenario.
    #[arg(long, default_value = "target/chaos", value_name = "DIR")]
    parts: PathBuf,
    /// Run no scenario, and write the table of what was kept.
    #[arg(long)]
    report_only: bool,
    /// The nats-server [default: the one that the tests take].
    #[arg(long, env = "NATS_SERVER", value_name = "FILE")]
    nats_server: Option<PathBuf>,
}

fn main() -> ExitCode {
    // A local mesh starts all its members from one program.
    if let Some("serve" | "leash") = std::env::args().nth(1).as_deref() {
        return coordinator::cli::main();
    }
    let outcome = match Cli::parse().command {
        Command::Soak(args) => run(&mut tokio::runtime::Builder::new_multi_thread(), soak(args)),
        Command::Agent(args) => run(&mut tokio::runtime::Builder::new_current_thread(), async {
            agent::run(*args).await.map(|()| ExitCode::SUCCESS)
        }),
        Command::List => {
            Scenario::ALL.into_iter().for_each(|scenario| println!("{scenario}"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Poison => Ok(agent::poison()),
        Command::Burn => burner::burn(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(
    runtime: &mut tokio::runtime::Builder,
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    runtime.enable_all().build().context("failed to start the runtime")?.block_on(work)
}

async fn soak(args: Soak) -> anyhow::Result<ExitCode> {
    let nats_server = coordinator::local::obtain(args.nats_server.as_deref(), |said| eprintln!("{said}")).await?;
    let context = Context {
        exe: std::env::current_exe()?,
        nats_server,
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
        size: Size::Full(args.scale),
    };
    eprintln!("seed {}", context.seed);
    let mut failed = false;
    let chosen = if args.only.is_empty() { Scenario::ALL.to_vec() } else { args.only };
    if !args.report_only {
        for group in Scenario::groups(&chosen) {
            failed |= !run_group(&context, &group, &args.parts, args.scale).await?;
        }
    }
    let parts: Vec<Part> = Scenario::ALL.iter().filter_map(|s| Part::load(&args.parts, s.name())).collect();
    let version = tokio::process::Command::new(&context.nats_server).arg("--version").output().await?;
    let table = figures::table(&parts, String::from_utf8_lossy(&version.stdout).trim());
    println!("{table}");
    if let Some(path) = args.report {
        std::fs::write(&path, table).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs scenarios side by side; whether all their promises hold is returned.
async fn run_group(context: &Context, group: &[Scenario], dir: &std::path::Path, scale: f64) -> anyhow::Result<bool> {
    let runs = group.iter().map(|scenario| async move {
        let began = std::time::Instant::now();
        eprintln!("[{scenario}] begins");
        let rows = scenario.run(context).await.with_context(|| format!("scenario {scenario}"));
        let rows = rows
            .unwrap_or_else(|error| vec![figures::Row::new("it runs to its end", 1).must(false, format!("{error:#}"))]);
        let part = Part {
            scenario: scenario.name().to_owned(),
            seed: context.seed,
            scale,
            date: figures::date(),
            commit: figures::commit(),
            seconds: began.elapsed().as_secs(),
            rows,
        };
        part.rows.iter().for_each(|row| eprintln!("[{scenario}] {row:?}"));
        part.save(dir)?;
        anyhow::Ok(part.rows.iter().all(figures::Row::holds))
    });
    let held = futures_util::future::join_all(runs).await;
    Ok(held.into_iter().collect::<anyhow::Result<Vec<bool>>>()?.into_iter().all(|held| held))
}
