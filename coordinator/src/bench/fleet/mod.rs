//! Measures what a fleet of agents costs a coordinator: while it only beats, and while tasks pass.
//!
//! The agents are speakers of one process (`speaker`) with a thread of their own, so that a machine of two cores can
//! have ten thousand of them. They are as quick as agents can be; what is measured is the coordinator.

mod assignment;
mod speaker;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde::Serialize;
use shared::api::{AgentState, Mesh};
use shared::connect::{Patience, Settings};
use shared::{Client, Kind};
use tokio::sync::oneshot;

use super::load::Load;
use super::process::Measured;
use super::report::LatencyRound;
use super::{CONNECT_PATIENCE, Machine};
use assignment::Assignments;
use speaker::{Counts, Fleet};

/// How long all agents may take to be healthy.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long the fleet is left alone after that, before anything is measured.
const SETTLE: Duration = Duration::from_secs(3);

/// What is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// How many agents there are.
    pub agents: usize,
    /// Slots of each.
    pub slots: u32,
    /// Tasks a second while tasks pass.
    pub rate: u32,
    /// How long they pass; and how long the fleet only beats.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// Size of a task's body in bytes.
    pub size: usize,
}

/// The coordinator that is measured.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its process.
    pub pid: u32,
    /// Where it answers over HTTP, as `http://127.0.0.1:8080`.
    pub http: String,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for.
    pub settings: Plan,
    /// Memory of the coordinator without any agent, in bytes.
    pub bytes_without_agents: u64,
    /// What it has more with the fleet, for each agent.
    pub bytes_per_agent: u64,
    /// From the first hello until all agents were healthy.
    pub seconds_until_healthy: f64,
    /// While the fleet only beats.
    pub beating: Span,
    /// While tasks pass.
    pub working: Span,
    /// From a task's publish to its result at the client, while tasks pass.
    pub latency: LatencyRound,
    /// From a task's delivery to the coordinator to its order, while tasks pass.
    pub assignment: Option<assignment::Latency>,
    /// Version of the NATS server.
    pub nats_server_version: String,
    /// The machine.
    pub machine: Machine,
}

/// A span of time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Span {
    /// How much of one core the coordinator used; 2.0 are two.
    pub coordinator_cores: f64,
    /// Memory of the coordinator at its end, in bytes.
    pub coordinator_bytes: u64,
    /// Beats a second.
    pub beats_per_second: f64,
    /// Starts of attempts a second.
    pub starts_per_second: f64,
}

impl Report {
    /// What is measured, and the figure, for people.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let span = |span: &Span| {
            let Span { coordinator_cores, coordinator_bytes, beats_per_second, starts_per_second } = span;
            let memory = mib(*coordinator_bytes);
            format!(
                "{coordinator_cores:.3} cores, {memory}, {beats_per_second:.0} beats/s, {starts_per_second:.0} starts/s"
            )
        };
        let LatencyRound { p50_ms, p99_ms, max_ms, tasks } = &self.latency;
        let assignment = self.assignment.as_ref().map_or("not told".to_owned(), ToString::to_string);
        vec![
            ("agents", format!("{} of {} slots", self.settings.agents, self.settings.slots)),
            ("all healthy after", format!("{:.2} s", self.seconds_until_healthy)),
            ("coordinator alone", mib(self.bytes_without_agents)),
            ("more for each agent", format!("{:.1} KiB", self.bytes_per_agent as f64 / 1024.0)),
            ("while they beat", span(&self.beating)),
            ("while tasks pass", span(&self.working)),
            ("publish to result", format!("p50 {p50_ms} ms, p99 {p99_ms} ms, max {max_ms} ms of {tasks}")),
            ("delivered to ordered", assignment),
        ]
    }
}

/// Measures a fleet on a mesh that has no other agents.
pub async fn run(plan: &Plan, connection: &Settings, subject: &Subject) -> anyhow::Result<Report> {
    let kind = Kind::new("fleet-echo").expect("it is a good name");
    let machine = Machine::here();
    let nats = connection.connect("bench client", Patience::Limited(CONNECT_PATIENCE)).await?;
    let version = nats.server_info().version;
    let client = Client::new(nats, connection.mesh.clone());
    let (process, assignments) = (Measured::new(subject.pid), Assignments::of(&subject.http));
    let bytes_without_agents = process.resident_bytes()?;

    let began = Instant::now();
    let speaking = Speaking::start(plan, connection, &kind, &client)?;
    until_healthy(&client, plan.agents, &speaking).await?;
    let seconds_until_healthy = began.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;

    let watch = Watch::start(process, &speaking.counts)?;
    tokio::time::sleep(plan.duration).await;
    let beating = watch.end()?;

    let mut load = Load::new(client, vec![kind], Bytes::from(vec![b'x'; plan.size]), 1);
    load.latency(plan.rate as usize, plan.rate).await?;
    let before = assignments.read().await?;
    let watch = Watch::start(process, &speaking.counts)?;
    let tasks = (f64::from(plan.rate) * plan.duration.as_secs_f64()).ceil() as usize;
    let latency = load.latency(tasks.max(1), plan.rate).await?;
    let working = watch.end()?;
    let assignment = assignments.read().await?.zip(before).map(|(after, before)| after.since(&before));
    speaking.end().await?;

    let more = beating.coordinator_bytes.saturating_sub(bytes_without_agents);
    Ok(Report {
        bytes_without_agents,
        bytes_per_agent: more / plan.agents.max(1) as u64,
        seconds_until_healthy,
        beating,
        working,
        latency: (&latency).into(),
        assignment,
        settings: plan.clone(),
        nats_server_version: version,
        machine,
    })
}

/// The fleet, on a thread of its own.
struct Speaking {
    counts: std::sync::Arc<Counts>,
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

impl Speaking {
    fn start(plan: &Plan, connection: &Settings, kind: &Kind, client: &Client) -> anyhow::Result<Self> {
        let (settings, subjects, kind) = (connection.clone(), client.subjects().clone(), kind.clone());
        let (agents, slots) = (plan.agents, plan.slots);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (told, telling) = std::sync::mpsc::channel();
        let (end, asked_to_end) = oneshot::channel();
        let (say, ended) = oneshot::channel();
        std::thread::Builder::new().name("fleet".to_owned()).spawn(move || {
            let work = async move {
                let nats = settings.connect("bench fleet", Patience::Limited(CONNECT_PATIENCE)).await?;
                let fleet = Fleet::new(nats, subjects, agents, slots, &kind);
                let _ = told.send(fleet.counts());
                fleet.run(asked_to_end).await
            };
            // Who waits for it may have given up.
            let _ = say.send(runtime.block_on(work));
        })?;
        match telling.recv_timeout(CONNECT_PATIENCE * 2) {
            Ok(counts) => Ok(Self { counts, end, ended }),
            Err(_) => bail!("the fleet did not get a connection to the NATS server"),
        }
    }

    async fn end(self) -> anyhow::Result<()> {
        let _ = self.end.send(());
        self.ended.await.context("the fleet has ended without a word")?
    }
}

async fn until_healthy(client: &Client, agents: usize, speaking: &Speaking) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let healthy = healthy(client).await.unwrap_or_default();
        if healthy >= agents {
            return Ok(());
        }
        if began.elapsed() > READY_LIMIT {
            let welcomed = speaking.counts.welcomed.load(Ordering::Relaxed);
            bail!("{healthy} of {agents} agents are healthy after {READY_LIMIT:?}; {welcomed} were welcomed");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn healthy(client: &Client) -> anyhow::Result<usize> {
    let subject = client.subjects().api("mesh", "status");
    let answer = client.nats().request(subject, Bytes::new()).await?;
    let status: Mesh = serde_json::from_slice(&answer.payload)?;
    Ok(status.agents.get(AgentState::Healthy.as_str()).copied().unwrap_or(0) as usize)
}

/// What goes on during a span of time.
struct Watch<'a> {
    process: Measured,
    mark: super::process::Mark,
    counts: &'a Counts,
    began: (Instant, u64, u64),
}

impl<'a> Watch<'a> {
    fn start(process: Measured, counts: &'a Counts) -> anyhow::Result<Self> {
        Ok(Self { process, mark: process.mark()?, counts, began: Self::look(counts) })
    }

    fn look(counts: &Counts) -> (Instant, u64, u64) {
        (Instant::now(), counts.beats.load(Ordering::Relaxed), counts.starts.load(Ordering::Relaxed))
    }

    fn end(self) -> anyhow::Result<Span> {
        let (now, beats, starts) = Self::look(self.counts);
        let seconds = now.duration_since(self.began.0).as_secs_f64().max(f64::EPSILON);
        Ok(Span {
            coordinator_cores: self.process.mark()?.cores_since(self.mark),
            coordinator_bytes: self.process.resident_bytes()?,
            beats_per_second: (beats - self.began.1) as f64 / seconds,
            starts_per_second: (starts - self.began.2) as f64 / seconds,
        })
    }
}
