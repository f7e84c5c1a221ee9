//! `coordinator bench`: how fast the mesh is, and how that compares with what NATS alone can do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use shared::connect::Settings;
use shared::{AgentId, Kind};

use super::output;
use crate::bench::{self, LocalAgents, Plan, Processes, Report, Results, fleet};
use crate::local::{AgentSpec, Launcher, LocalMesh, Options, obtain};

/// How long a mesh of its own may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Measure how fast the mesh is, beside what NATS alone can do on the same broker.
///
/// The tasks go to the handler `echo`, and their results stay in the mesh's stream for as long as that keeps
/// them. The raw path runs on the same broker, in streams of its own that are deleted afterwards.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Start a broker, a coordinator and agents on this machine for the measurement.
    #[arg(long)]
    local: bool,
    /// Agents of the mesh that --local starts.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    agents: u32,
    /// Slots of each agent that --local starts.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    slots: u32,
    /// The nats-server that --local starts [default: one on PATH, or a copy that is obtained once].
    #[arg(long, env = "NATS_SERVER", value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Tasks of one round.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    tasks: u32,
    /// Size of a task's body in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    size: usize,
    /// Publishes that wait for the broker's confirmation at once.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: u32,
    /// Tasks a second while latency is measured.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Tasks of the latency measurements, all rounds together.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    latency_tasks: u32,
    /// How often everything is measured; the medians count.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The kind of the tasks; its handler must be `echo`.
    #[arg(long, default_value = "echo")]
    kind: Kind,
    /// Spread the tasks over so many kinds: with more than one they are called `echo-1`, `echo-2` and so on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kinds: u32,
    /// Kinds that the agents of --local can do besides.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "local")]
    known_kinds: u32,
    /// Tasks that stay queued meanwhile, of a kind that nobody can do.
    #[arg(long, value_name = "N", default_value_t = 0)]
    stuck: u32,
    /// Measure in turns with a plain mesh beside it, which knows one kind and has nothing else queued.
    #[arg(long, requires = "local")]
    beside_plain: bool,
    /// Whether results are recorded, or only sent to the client; the raw path does likewise.
    #[arg(long, value_enum, default_value_t)]
    results: Results,
    /// Submit so many tasks together in an atomic batch while throughput is measured. The raw path sends each by itself.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=500))]
    together: u32,
    /// Let the broker that --local starts have each message on the disk before it confirms it.
    #[arg(long, requires = "local")]
    sync_always: bool,
    /// Leave out the raw path, and with it the ratios.
    #[arg(long)]
    skip_raw: bool,
    /// Print a JSON document with every figure.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Fleet(FleetArgs),
}

/// Measure what a fleet of agents costs a coordinator: its CPU and memory while they beat, and while tasks pass.
///
/// It starts a broker and a coordinator on this machine. The agents speak the protocol as real ones do, all from this
/// process, and echo what they get at once.
#[derive(Debug, clap::Args)]
struct FleetArgs {
    /// How many agents.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    agents: u32,
    /// Slots of each.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    slots: u32,
    /// Tasks a second while tasks pass.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long they pass, and how long the fleet only beats before.
    #[arg(long, value_name = "SPAN", default_value = "20s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Size of a task's body in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    size: usize,
    /// The nats-server to start [default: one on PATH, or a copy that is obtained once].
    #[arg(long, env = "NATS_SERVER", value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Print a JSON document with every figure.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn plan(&self) -> anyhow::Result<Plan> {
        Ok(Plan {
            tasks: self.tasks as usize,
            size: self.size,
            in_flight: self.in_flight as usize,
            rate: self.rate,
            latency_tasks: self.latency_tasks as usize,
            rounds: self.rounds as usize,
            kinds: self.kinds()?,
            stuck: self.stuck as usize,
            results: self.results,
            together: self.together as usize,
            skip_raw: self.skip_raw,
            local: self.local.then_some(LocalAgents {
                agents: self.agents,
                slots: self.slots,
                known_kinds: self.known_kinds,
                sync_always: self.sync_always,
            }),
        })
    }

    fn kinds(&self) -> Result<Vec<Kind>, output::Usage> {
        if self.kinds == 1 {
            return Ok(vec![self.kind.clone()]);
        }
        let kinds = (1..=self.kinds).map(|number| Kind::new(format!("{}-{number}", self.kind)));
        kinds.collect::<Result<_, _>>().map_err(|error| output::Usage(format!("--kind is too long: {error}")))
    }
}

/// Measures and prints what was found.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    if let Some(Action::Fleet(args)) = &args.action {
        return measure_fleet(args).await;
    }
    let plan = args.plan()?;
    let report = if args.local {
        measure_local(&args, &plan).await?
    } else {
        bench::run(&plan, connection, None, &Processes::default()).await?
    };
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) -> anyhow::Result<()> {
    let machine = &report.machine;
    output::table(["", "MESH", "RAW PATH", "RATIO"], report.rows())?;
    eprintln!("medians of {} rounds, {} bytes a task", report.settings.rounds, report.settings.size);
    eprintln!("raw path: {}", report.raw_path);
    eprintln!("{} cores, {}, nats-server {}", machine.cores, machine.cpu, report.nats_server_version);
    Ok(())
}

async fn measure_fleet(args: &FleetArgs) -> anyhow::Result<ExitCode> {
    let plan = fleet::Plan {
        agents: args.agents as usize,
        slots: args.slots,
        rate: args.rate,
        duration: args.duration,
        size: args.size,
    };
    let report = in_a_directory(async |data| measure_a_fleet(args, &plan, data).await).await?;
    if args.json {
        output::json(&report)?;
    } else {
        output::facts(&report.facts())?;
        eprintln!("{} cores, {}", report.machine.cores, report.machine.cpu);
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure_a_fleet(args: &FleetArgs, plan: &fleet::Plan, data: &Path) -> anyhow::Result<fleet::Report> {
    let nats_server = obtain(args.nats_server.as_deref(), |said| eprintln!("{said}")).await?;
    let launcher = Launcher::current().context("failed to find our own executable")?;
    eprintln!("starting a broker and a coordinator, and {} agents that are not processes", plan.agents);
    let mesh = LocalMesh::start(Options::new(launcher, nats_server, data)).await?;
    mesh.until_ready(START_LIMIT).await?;
    let coordinator = mesh.coordinators().first().context("the mesh has no coordinator")?;
    let http = mesh.http_url().context("the coordinator does not say where it listens")?;
    let subject = fleet::Subject { pid: coordinator.process().pid(), http };
    let report = fleet::run(plan, &settings(&mesh), &subject).await;
    mesh.stop().await;
    report
}

/// Measures a mesh of its own, which ends with the measurement.
async fn measure_local(args: &Args, plan: &Plan) -> anyhow::Result<Report> {
    in_a_directory(async |data| measure_started(args, plan, data).await).await
}

/// Measures with a directory that is kept only if that fails.
async fn in_a_directory<T>(measure: impl AsyncFnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let data = tempfile::Builder::new().prefix("hivemesh-bench-").tempdir();
    let data = data.context("failed to make a directory for the mesh")?;
    let report = tokio::select! {
        report = measure(data.path()) => report,
        _ = tokio::signal::ctrl_c() => Err(bench::Interrupted.into()),
    };
    report.map_err(|error: anyhow::Error| {
        if error.is::<bench::Interrupted>() {
            error
        } else {
            error.context(format!("logs are in {}", data.keep().display()))
        }
    })
}

async fn measure_started(args: &Args, plan: &Plan, data: &Path) -> anyhow::Result<Report> {
    let known = (1..=args.known_kinds).map(|number| Kind::new(format!("known-{number}")));
    let known: Vec<Kind> = plan.kinds.iter().cloned().map(Ok).chain(known).collect::<Result<_, _>>()?;
    let mesh = start(args, &known, &data.join("mesh")).await?;
    let plain = match args.beside_plain {
        true => Some(start(args, &plan.kinds[..1], &data.join("plain")).await?),
        false => None,
    };
    let processes = Processes {
        brokers: vec![mesh.broker().pid()],
        coordinators: mesh.coordinators().iter().map(|coordinator| coordinator.process().pid()).collect(),
        agents: mesh.agents().iter().map(|agent| agent.process().pid()).collect(),
    };
    let plain_settings = plain.as_ref().map(settings);
    let report = bench::run(plan, &settings(&mesh), plain_settings.as_ref(), &processes).await;
    for mesh in plain.into_iter().chain([mesh]) {
        mesh.stop().await;
    }
    report
}

async fn start(args: &Args, kinds: &[Kind], data_dir: &Path) -> anyhow::Result<LocalMesh> {
    let nats_server = obtain(args.nats_server.as_deref(), |said| eprintln!("{said}")).await?;
    let launcher = Launcher::current().context("failed to find our own executable")?;
    let mut options = Options::new(launcher, nats_server, data_dir);
    options.broker.sync_always = args.sync_always;
    let config = agent_config(kinds);
    for number in 1..=args.agents {
        options.agents.push(AgentSpec::new(AgentId::new(format!("agent-{number}"))?, args.slots, &config));
    }
    let (agents, slots, count) = (args.agents, args.slots, kinds.len());
    eprintln!("starting a broker, a coordinator and {agents} agents of {slots} slots that can do {count} kinds");
    let mesh = LocalMesh::start(options).await?;
    mesh.until_ready(START_LIMIT).await?;
    Ok(mesh)
}

fn settings(mesh: &LocalMesh) -> Settings {
    Settings { url: mesh.nats_url(), mesh: mesh.name().clone(), ..Settings::default() }
}

/// Settings of an agent that echoes the kinds.
fn agent_config(kinds: &[Kind]) -> String {
    let handlers = kinds.iter().map(|kind| format!("[[handler]]\nkind = \"{kind}\"\nbuiltin = \"echo\"\n"));
    handlers.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Args {
        <Command as clap::Parser>::try_parse_from(["bench"].iter().chain(line)).unwrap().args
    }

    #[test]
    fn one_kind_keeps_its_name_and_several_are_numbered() {
        assert_eq!(parse(&[]).kinds().unwrap(), ["echo".parse().unwrap()]);
        assert_eq!(parse(&["--kinds", "2"]).kinds().unwrap(), ["echo-1".parse().unwrap(), "echo-2".parse().unwrap()]);
    }

    #[test]
    fn each_kind_has_a_handler() {
        let config: toml::Table = agent_config(&parse(&["--kinds", "3"]).kinds().unwrap()).parse().unwrap();

        assert_eq!(config["handler"].as_array().map(Vec::len), Some(3));
    }
}
