//! The broker and the agent's process, where the agent is started by us.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use shared::connect::Settings;
use shared::{AgentId, MeshName};

use crate::local::{Broker, Launcher, Process, Program, broker, obtain};

/// How long an agent may take to end when nothing is asked of it any more.
const GRACE: Duration = Duration::from_secs(3);
/// How much of its log goes into what is found.
const LOG_LINES: usize = 5;

/// The broker and the agent.
#[derive(Debug)]
pub(super) struct Host {
    // Dropped in this order: the broker outlives the agent.
    agent: Option<Process>,
    broker: Broker,
    launcher: Launcher,
    command: Vec<OsString>,
    env: Vec<(String, String)>,
    log: PathBuf,
}

impl Host {
    /// Starts a broker for an agent that a command starts, which finds in its environment where it is to go.
    pub(super) async fn start(
        command: Vec<OsString>,
        agent: Option<&AgentId>,
        nats_server: Option<&Path>,
        dir: &Path,
    ) -> anyhow::Result<(Self, Settings)> {
        let nats_server = obtain(nats_server, |said| eprintln!("{said}")).await?;
        let launcher = Launcher::current().context("failed to find this program's own executable")?;
        let broker = Broker::start(&launcher, broker::Options::new(nats_server, dir.join("broker"))).await?;
        let mesh = MeshName::new("conformance").expect("it is a good name");
        let settings = Settings { url: broker.url(), mesh, ..Settings::default() };
        let id = agent.map_or("conformance", AgentId::as_str);
        let env = [("NATS_URL", settings.url.as_str()), ("HIVE_MESH", settings.mesh.as_str()), ("HIVE_AGENT", id)];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let host = Self { agent: None, broker, launcher, command, env, log: dir.join("agent.log") };
        Ok((host, settings))
    }

    /// Starts the agent, as a new process. One that still runs is killed first.
    pub(super) async fn start_agent(&mut self) -> anyhow::Result<()> {
        self.kill_agent().await;
        let (path, args) = self.command.split_first().context("there is no command that starts an agent")?;
        let program = Program {
            name: "the agent".to_owned(),
            path: path.into(),
            args: args.to_vec(),
            env: self.env.clone(),
            log: self.log.clone(),
        };
        self.agent = Some(self.launcher.spawn(program)?);
        Ok(())
    }

    /// Kills the agent's process, if it runs, and waits until it is gone.
    pub(super) async fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill9();
            agent.wait().await;
        }
    }

    /// Sends SIGTERM to the agent.
    pub(super) fn ask_agent_to_end(&self) {
        if let Some(agent) = &self.agent {
            agent.ask_to_end();
        }
    }

    /// Whether the agent's process runs.
    pub(super) fn agent_runs(&self) -> bool {
        self.agent.as_ref().is_some_and(Process::is_running)
    }

    /// How the agent's process ended, if it did by itself.
    pub(super) fn agent_exit(&self) -> Option<ExitStatus> {
        self.agent.as_ref()?.exit_status()
    }

    /// How the agent's process ends, if it does within this time.
    pub(super) async fn agent_exit_within(&self, limit: Duration) -> Option<ExitStatus> {
        let agent = self.agent.as_ref()?;
        tokio::time::timeout(limit, agent.wait()).await.ok()
    }

    /// The end of the agent's log, on one line.
    pub(super) fn agent_said(&self) -> String {
        let tail = self.agent.as_ref().map(|agent| agent.log_tail(LOG_LINES)).unwrap_or_default();
        tail.lines().map(str::trim).collect::<Vec<_>>().join(" | ")
    }

    /// Kills the broker, and waits until it is gone.
    pub(super) async fn kill_broker(&self) {
        self.broker.kill9().await;
    }

    /// Starts the broker again on its port.
    pub(super) async fn restart_broker(&mut self) -> anyhow::Result<()> {
        self.broker.restart().await.context("the NATS server did not start again")
    }

    /// Ends both.
    pub(super) async fn stop(self) {
        if let Some(agent) = &self.agent {
            agent.terminate(GRACE).await;
        }
        self.broker.stop().await;
    }
}
