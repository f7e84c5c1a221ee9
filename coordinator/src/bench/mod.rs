//! Measures the whole path of a task, from the publish to its result at the client, beside the raw path.
//!
//! The raw path is what NATS alone takes for the same: JetStream publish, pull, forward over core NATS to a
//! worker and back, record the result, ack by request, with nobody deciding anything in between. Both run in
//! turns on one broker with one load, so their ratio holds even where the figures themselves do not.

pub mod fleet;
mod load;
mod machine;
mod process;
mod raw;
mod report;

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use shared::connect::{Patience, Settings};
use shared::{Client, Kind};
use tokio::signal::unix::{SignalKind, signal};

pub use load::{LatencyHistogram, Results};
pub use machine::Machine;
pub use process::Processes;
pub use report::{Cpu, Latency, LatencyRound, Report, Throughput};

use load::Load;
use raw::RawPath;

/// How long to wait for a server that does not answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two measurements, for acks that are still on their way.
const PAUSE: Duration = Duration::from_millis(300);
/// Tasks sent on each path before anything is measured.
const WARM_UP: usize = 1_000;

/// What is measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Plan {
    /// Tasks of one round.
    pub tasks: usize,
    /// Size of a body in bytes.
    pub size: usize,
    /// Publishes that wait for their confirmation at once.
    pub in_flight: usize,
    /// Tasks a second while latency is measured.
    pub rate: u32,
    /// Tasks of the latency measurements, all rounds together.
    pub latency_tasks: usize,
    /// How often everything is measured.
    pub rounds: usize,
    /// The kinds that the tasks are spread over; at least one.
    pub kinds: Vec<Kind>,
    /// Tasks that stay queued meanwhile, of a kind that nobody can do.
    pub stuck: usize,
    /// What becomes of the results.
    pub results: Results,
    /// How many tasks the mesh's client submits together; the raw path's always sends each by itself.
    pub together: usize,
    /// Whether the raw path is left out.
    pub skip_raw: bool,
    /// The mesh that was started for the measurement; absent if it was there already.
    pub local: Option<LocalAgents>,
}

/// Agents that were started for the measurement.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct LocalAgents {
    /// How many.
    pub agents: u32,
    /// Slots of each.
    pub slots: u32,
    /// Kinds that they can do besides those that are measured.
    pub known_kinds: u32,
    /// Whether the broker has each message on the disk before it confirms it.
    pub sync_always: bool,
}

/// Ctrl-C, or a request to end, came before the measurement was complete.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: nothing is reported")]
pub struct Interrupted;

/// What one path gave, round by round.
#[derive(Default)]
pub(crate) struct Figures {
    /// Tasks a second.
    pub(crate) rates: Vec<f64>,
    /// Latency in nanoseconds.
    pub(crate) latencies: Vec<LatencyHistogram>,
    /// Microseconds of CPU for each task, by whose they were; for each round of the throughput.
    pub(crate) cpu: Vec<Vec<(&'static str, f64)>>,
}

/// Measures the mesh that the connection leads to, in turns with a plain one (on which one kind is known and
/// nothing else is queued) if there is one. What it makes for the raw path is deleted again, whatever happens; the
/// results of the mesh's own path stay as long as its stream keeps them.
pub async fn run(
    plan: &Plan,
    connection: &Settings,
    plain: Option<&Settings>,
    processes: &Processes,
) -> anyhow::Result<Report> {
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let machine = Machine::here();
    let nats = connection.connect("bench client", Patience::Limited(CONNECT_PATIENCE)).await?;
    let client = Client::new(nats.clone(), connection.mesh.clone());
    let raw = if plan.skip_raw { None } else { Some(RawPath::start(&client, connection).await?) };
    let raw_client = raw.as_ref().map(|raw| Client::new(nats.clone(), raw.mesh().clone()));

    let plain_client = match plain {
        Some(plain) => {
            let nats = plain.connect("bench client", Patience::Limited(CONNECT_PATIENCE)).await?;
            Some(Client::new(nats, plain.mesh.clone()))
        }
        None => None,
    };

    let measured = tokio::select! {
        measured = measure(plan, processes, client, raw_client, plain_client) => measured,
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
    };

    if let Some(raw) = raw {
        raw.remove().await;
    }
    Ok(Report::new(plan, connection, &nats.server_info().version, machine, &measured?))
}

/// What all paths gave.
pub(crate) struct Measured {
    pub(crate) mesh: Figures,
    pub(crate) raw: Option<Figures>,
    pub(crate) plain: Option<Figures>,
}

async fn measure(
    plan: &Plan,
    processes: &Processes,
    mesh: Client,
    raw: Option<Client>,
    plain: Option<Client>,
) -> anyhow::Result<Measured> {
    let body = Bytes::from(vec![b'x'; plan.size]);
    let load =
        |client, kinds: &[Kind]| Load::new(client, kinds.to_vec(), body.clone(), plan.in_flight).results(plan.results);
    load(mesh.clone(), &[stuck_kind()]).publish_only(plan.stuck).await?;
    let mut mesh = Path::new("mesh", load(mesh, &plan.kinds).together(plan.together), processes.of_mesh());
    let mut raw = raw.map(|client| Path::new("raw path", load(client, &plan.kinds), processes.of_raw_path()));
    let mut plain = plain.map(|client| Path::new("plain mesh", load(client, &plan.kinds[..1]), Vec::new()));
    for path in raw.iter_mut().chain(&mut plain).chain([&mut mesh]) {
        path.warm_up(plan).await?;
    }
    for round in 1..=plan.rounds {
        for path in raw.iter_mut().chain(&mut plain).chain([&mut mesh]) {
            path.measure_throughput(plan, round).await?;
        }
    }
    for round in 1..=plan.rounds {
        for path in raw.iter_mut().chain([&mut mesh]) {
            path.measure_latency(plan, round).await?;
        }
    }
    let figures = |path: Path| path.figures;
    Ok(Measured { mesh: mesh.figures, raw: raw.map(figures), plain: plain.map(figures) })
}

/// A kind that no agent of a measurement can do.
fn stuck_kind() -> Kind {
    Kind::new("bench-nobody-does-this").expect("it is a good name")
}

/// One of the two paths, with what it gave so far.
struct Path {
    name: &'static str,
    load: Load,
    /// Whose CPU time is counted.
    parts: Vec<process::Part>,
    figures: Figures,
}

impl Path {
    fn new(name: &'static str, load: Load, parts: Vec<process::Part>) -> Self {
        Self { name, load, parts, figures: Figures::default() }
    }

    async fn warm_up(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let warmed = self.load.throughput(plan.tasks.min(WARM_UP)).await;
        let first = &plan.kinds[0];
        warmed.with_context(|| format!("the {} does not get tasks of kind `{first}` done", self.name))?;
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    async fn measure_throughput(&mut self, plan: &Plan, round: usize) -> anyhow::Result<()> {
        let before = self.parts.iter().map(process::Part::used).collect::<anyhow::Result<Vec<_>>>()?;
        let rate = self.load.throughput(plan.tasks).await?;
        // Acknowledgements are still on their way; they are part of the price.
        tokio::time::sleep(PAUSE).await;
        let mut cpu = Vec::new();
        for (part, before) in self.parts.iter().zip(before) {
            let used = part.used()?.saturating_sub(before);
            cpu.push((part.name, used.as_secs_f64() * 1e6 / plan.tasks.max(1) as f64));
        }
        self.figures.cpu.push(cpu);
        eprintln!("throughput, round {round} of {}: {} {rate:.0} tasks/s", plan.rounds, self.name);
        self.figures.rates.push(rate);
        Ok(())
    }

    async fn measure_latency(&mut self, plan: &Plan, round: usize) -> anyhow::Result<()> {
        let histogram = self.load.latency(plan.latency_tasks.div_ceil(plan.rounds), plan.rate).await?;
        let found = LatencyRound::from(&histogram);
        let (rounds, name) = (plan.rounds, self.name);
        eprintln!("latency, round {round} of {rounds}: {name} p50 {} ms, p99 {} ms", found.p50_ms, found.p99_ms);
        self.figures.latencies.push(histogram);
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
