//! The agents of the scenarios: the real agent with a handler in its own process that bears witness.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent_worker::agent::Builder;
use agent_worker::config::File;
use agent_worker::{Agent, Task, cli};
use anyhow::Context as _;
use async_nats::header::HeaderValue;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::task;
use crate::witness::{DIR_VARIABLE, Deed, Doer, Writer};

/// No attempt of ours takes longer.
const LIMIT: Duration = Duration::from_secs(3600);

/// Runs an agent until it has left; its arguments are those of `agent-worker`.
pub async fn run(args: cli::Args) -> anyhow::Result<()> {
    let path = args.config.context("an agent of a scenario has settings")?;
    let id = args.id.context("an agent of a scenario has a name")?;
    let config = File::read(&path)?.check(&path)?;
    let dir = witness_dir()?;
    let doer = Doer { agent: id.to_string(), pid: std::process::id() };
    // For the handler that kills us: it may be started by somebody between us and it.
    std::fs::write(dir.join(format!("{id}-pid")), doer.pid.to_string()).context("the witness cannot be written")?;
    let writer = Arc::new(Writer::open(&dir, &doer).context("the witness cannot be written")?);
    let builder = Agent::builder(args.connection, config).id(id);
    with_handler(builder, writer).build()?.run().await?;
    Ok(())
}

fn with_handler(builder: Builder, writer: Arc<Writer>) -> Builder {
    builder.handler_within(LIMIT, task::KIND, move |task: Task| {
        let writer = writer.clone();
        async move {
            let epoch = epoch(&task);
            writer.note(Deed::Start, task.id.as_str(), task.attempt, epoch);
            let done = task::work(&task.body, task.attempt).await;
            writer.note(Deed::End, task.id.as_str(), task.attempt, epoch);
            done
        }
    })
}

fn epoch(task: &Task) -> u64 {
    task.headers.get("Hive-Epoch").map(HeaderValue::as_str).and_then(|epoch| epoch.parse().ok()).unwrap_or(0)
}

fn witness_dir() -> anyhow::Result<PathBuf> {
    std::env::var_os(DIR_VARIABLE).map(PathBuf::from).with_context(|| format!("{DIR_VARIABLE} is not set"))
}

/// The command of a poison task: bears witness, then takes its agent down.
pub fn poison() -> ExitCode {
    match try_poison() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_poison() -> anyhow::Result<()> {
    let variable = |name| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (dir, agent) = (witness_dir()?, variable("HIVE_AGENT")?);
    let pid: u32 = std::fs::read_to_string(dir.join(format!("{agent}-pid")))?.parse()?;
    let writer = Writer::open(&dir, &Doer { agent, pid })?;
    writer.note(Deed::Start, &variable("HIVE_TASK")?, variable("HIVE_ATTEMPT")?.parse()?, 0);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
    // Whoever is killed takes a moment to be gone; we must not end well before.
    std::thread::sleep(Duration::from_secs(5));
    Ok(())
}
