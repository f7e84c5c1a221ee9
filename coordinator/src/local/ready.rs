//! Waits until a local mesh does its work, and tells what is wrong when it does not.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use shared::api::{self, AgentState, List};

use super::member::{Agent, Coordinator};
use super::process::Process;
use super::{LOG_LINES, LocalMesh};

/// How long one question may take.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How often is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Why the mesh is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// One of its processes has ended.
    #[error("{name} ended ({status}); its log says:\n{log}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// No coordinator is ready.
    #[error("no coordinator is ready after {} s: {answer}; the log of {name} says:\n{log}", .waited.as_secs())]
    Coordinator {
        /// The first coordinator.
        name: String,
        /// How long was waited.
        waited: Duration,
        /// What it answered last.
        answer: String,
        /// The end of its log.
        log: String,
    },
    /// Some agents are not healthy.
    #[error("not all agents are healthy after {} s: {}", .waited.as_secs(), sick(.agents))]
    Agents {
        /// How long was waited.
        waited: Duration,
        /// Each of them with its state as the mesh sees it, and the end of its log.
        agents: Vec<(String, Option<AgentState>, String)>,
    },
}

fn sick(agents: &[(String, Option<AgentState>, String)]) -> String {
    let mut text = String::new();
    for (id, state, log) in agents {
        let state = state.map_or("unknown to the mesh", AgentState::as_str);
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{id} is {state}; its log says:\n{log}");
    }
    text
}

/// Why a coordinator did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None of them listens.
    #[error("no coordinator listens")]
    NobodyListens,
    /// The answer did not come.
    #[error("the coordinator did not answer")]
    Http(#[from] reqwest::Error),
    /// The answer cannot be read.
    #[error("the coordinator's answer cannot be read")]
    Answer(#[from] serde_json::Error),
}

pub(super) async fn until_ready(mesh: &LocalMesh, limit: Duration) -> Result<(), NotReady> {
    let started = Instant::now();
    if !mesh.coordinators().is_empty() {
        until_a_coordinator_is_ready(mesh, started, limit).await?;
        until_agents_are_healthy(mesh, started, limit).await?;
    }
    Ok(())
}

async fn until_a_coordinator_is_ready(mesh: &LocalMesh, started: Instant, limit: Duration) -> Result<(), NotReady> {
    loop {
        let answer = match any_ready(mesh).await {
            Ok(()) => return Ok(()),
            Err(answer) => answer,
        };
        let first = mesh.coordinators()[0].process();
        let running = mesh.coordinators().iter().any(|c| c.process().is_running());
        if !running && let Some(status) = first.exit_status() {
            return Err(ended(first, status));
        }
        if started.elapsed() > limit {
            let (name, log) = (first.name().to_owned(), first.log_tail(LOG_LINES));
            return Err(NotReady::Coordinator { name, waited: limit, answer, log });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn ended(process: &Process, status: ExitStatus) -> NotReady {
    NotReady::Ended { name: process.name().to_owned(), status, log: process.log_tail(LOG_LINES) }
}

/// Whether any coordinator answers `GET /readyz` by 200; otherwise what they answer.
async fn any_ready(mesh: &LocalMesh) -> Result<(), String> {
    let mut answers = Vec::new();
    for coordinator in mesh.coordinators() {
        let answer = match coordinator.http() {
            None => "does not listen yet".to_owned(),
            Some(address) => match http().get(format!("http://{address}/readyz")).send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => {
                    let status = response.status();
                    format!("{status} {}", response.text().await.unwrap_or_default().trim())
                }
                Err(error) => error.to_string(),
            },
        };
        answers.push(format!("{}: {answer}", coordinator.name()));
    }
    Err(answers.join(", "))
}

async fn until_agents_are_healthy(mesh: &LocalMesh, started: Instant, limit: Duration) -> Result<(), NotReady> {
    loop {
        let listed = list_agents(mesh).await.unwrap_or_default();
        let is_sick = |agent: &&Agent| agent.state_in(&listed) != Some(AgentState::Healthy);
        let sick: Vec<&Agent> = mesh.agents().iter().filter(|agent| !was_killed(agent)).filter(is_sick).collect();
        if sick.is_empty() {
            return Ok(());
        }
        if let Some((agent, status)) = sick.iter().find_map(|agent| Some((agent, agent.process().exit_status()?))) {
            return Err(ended(agent.process(), status));
        }
        if started.elapsed() > limit {
            let tell =
                |agent: &&Agent| (agent.id().to_string(), agent.state_in(&listed), agent.process().log_tail(LOG_LINES));
            return Err(NotReady::Agents { waited: limit, agents: sick.iter().map(tell).collect() });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Nobody waits for an agent that was killed on purpose; one that failed by itself ends in another way.
fn was_killed(agent: &Agent) -> bool {
    agent.process().exit_status().is_some_and(|status| status.signal() == Some(nix::libc::SIGKILL))
}

pub(super) async fn list_agents(mesh: &LocalMesh) -> Result<Vec<api::Agent>, AskError> {
    let mut failure = AskError::NobodyListens;
    let running = mesh.coordinators().iter().filter(|c| c.process().is_running());
    for address in running.filter_map(Coordinator::http) {
        match list_agents_at(address).await {
            Ok(agents) => return Ok(agents),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn list_agents_at(address: SocketAddr) -> Result<Vec<api::Agent>, AskError> {
    let response = http().get(format!("http://{address}/v1/agents")).send().await?.error_for_status()?;
    let list: List<api::Agent> = serde_json::from_slice(&response.bytes().await?)?;
    Ok(list.items)
}

/// A client for this machine, which no proxy stands before.
fn http() -> reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    let build = || reqwest::Client::builder().no_proxy().timeout(ASK_LIMIT).pool_max_idle_per_host(0).build();
    CLIENT.get_or_init(|| build().unwrap_or_default()).clone()
}
