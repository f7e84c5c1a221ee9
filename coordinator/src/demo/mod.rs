//! `coordinator dev --demo`: real work over the files of a directory, an agent killed half-way, and every
//! result compared with the same work done without the mesh.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use shared::{AgentId, Client, api};

use crate::local::LocalMesh;

mod files;
mod meter;
mod report;
mod run;
mod verify;
mod work;

use meter::Meter;
use report::Report;
pub use work::AGENT_CONFIG;

/// How long the mesh may take to say how many attempts it started again.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// What a message holds besides the body: the mesh's headers and the submitter's.
const HEADER_ALLOWANCE: usize = 4096;

/// Whether there is such a directory: better said before anything is started.
pub fn check(dir: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("failed to read the directory {}", dir.display()))?;
    anyhow::ensure!(entries.count() > 0, "there is nothing to do: {} is empty", dir.display());
    Ok(())
}

/// Runs the demo on a mesh that is ready, prints what came of it, and returns whether all of it is right.
pub async fn run(mesh: &LocalMesh, dir: &Path) -> anyhow::Result<bool> {
    let client = mesh.client().await?;
    let limit = client.nats().server_info().max_payload.saturating_sub(HEADER_ALLOWANCE);
    let selection =
        files::select(dir, limit).with_context(|| format!("failed to list the files of {}", dir.display()))?;
    if selection.files.is_empty() {
        anyhow::bail!("there is nothing to do: {selection}");
    }
    eprintln!("{selection}");

    let started = Instant::now();
    let tasks = work::tasks(&selection.files);
    let done = run::run(mesh, &client, &tasks).await?;
    let took = started.elapsed();

    let reassigned = reassigned(&client).await;
    let checks = verify::verify(&tasks, &done.results).await?;
    let report =
        Report { tasks: &tasks, results: &done.results, killed: done.killed.as_ref(), took, reassigned, checks };
    println!("{report}");
    Ok(report.is_right())
}

/// How many attempts the mesh says it started again because their agent was lost; `None` if it does not answer.
async fn reassigned(client: &Client) -> Option<u64> {
    let subject = client.subjects().api("mesh", "status");
    let answer = client.nats().request(subject, "{}".into());
    let answer = tokio::time::timeout(STATUS_LIMIT, answer).await.ok()?.ok()?;
    Some(serde_json::from_slice::<api::Mesh>(&answer.payload).ok()?.reassigned)
}

/// An agent that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Killed {
    agent: AgentId,
    /// How many attempts it held, as far as the mesh knew at that moment.
    held: u32,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "killed {} with SIGKILL while it held {}", self.agent, plural(u64::from(self.held), "attempt"))
    }
}

/// `1 task`, `2 tasks`.
fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
