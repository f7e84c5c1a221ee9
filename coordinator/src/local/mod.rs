//! A whole mesh on this machine: a nats-server, coordinators and agents, each a process of its own, all of
//! which end when we do.
//!
//! `coordinator dev` and `bench --local` run on it, and the integration tests kill, pause and restart its
//! parts.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use coordinator::local::{AgentSpec, Launcher, LocalMesh, Options, obtain};
//!
//! let nats_server = obtain(None, |said| eprintln!("{said}")).await?;
//! let mut options = Options::new(Launcher::current()?, nats_server, "/tmp/mesh");
//! let config = "[[handler]]\nkind = \"echo\"\nbuiltin = \"echo\"\n";
//! options.agents.push(AgentSpec::new("ada".parse()?, 4, config));
//! let mut mesh = LocalMesh::start(options).await?;
//! mesh.until_ready(std::time::Duration::from_secs(30)).await?;
//!
//! let ada = "ada".parse()?;
//! mesh.kill_agent(&ada).await?;
//! mesh.restart_agent(&ada).await?;
//! mesh.stop().await;
//! # Ok(())
//! # }
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use shared::connect::{ConnectError, Patience, Settings};
use shared::{AgentId, Client, MeshName};

pub mod broker;
pub mod leash;
mod lifeline;
mod member;
mod obtain;
mod process;
mod ready;

pub use broker::Broker;
pub(crate) use lifeline::{LIFELINE_VARIABLE, Lifeline, is_cut};
pub use member::{Agent, AgentSpec, Coordinator, MemberError};
pub use obtain::{BadVersion, CommandError, MINIMUM, ObtainError, PINNED, Tried, UnusableError, Version, obtain};
pub use process::{Launcher, Process, Program, SpawnError};
pub use ready::{AskError, NotReady};

/// How long an agent may take to finish what it runs.
const AGENT_GRACE: Duration = Duration::from_secs(10);
/// How long a coordinator may take to end.
const COORDINATOR_GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether agents have left that are no children of ours.
const LOOK: Duration = Duration::from_millis(50);
/// How much of a log goes into an error.
const LOG_LINES: usize = 20;

/// What a mesh is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Starts the processes, and is what coordinators and agents are processes of.
    pub launcher: Launcher,
    /// Holds all files: settings, logs, streams.
    pub data_dir: PathBuf,
    /// The nats-server.
    pub broker: broker::Options,
    /// Name of the mesh.
    pub mesh: MeshName,
    /// How many coordinators there are: one leads, the others stand by.
    pub coordinators: usize,
    /// Where coordinators and agents find the broker, if that is not where our own listens: the servers of a
    /// cluster, for one.
    pub nats_url: Option<String>,
    /// The same for single coordinators, in their order.
    pub coordinator_urls: Vec<String>,
    /// Settings of the coordinators, in TOML.
    pub coordinator_config: Option<String>,
    /// Variables that the coordinators see besides ours: who they are to the broker, for one.
    pub coordinator_env: Vec<(String, String)>,
    /// How our own client connects, but for the address.
    pub client: Settings,
    /// Where the first coordinator answers over HTTP; port 0 for a free one. The others take free ones.
    pub http: SocketAddr,
    /// The agents.
    pub agents: Vec<AgentSpec>,
}

impl Options {
    /// A broker and a coordinator on free ports, and no agents.
    pub fn new(launcher: Launcher, nats_server: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            launcher,
            broker: broker::Options::new(nats_server, data_dir.join("broker")),
            data_dir,
            mesh: MeshName::default(),
            coordinators: 1,
            nats_url: None,
            coordinator_urls: Vec::new(),
            coordinator_config: None,
            coordinator_env: Vec::new(),
            client: Settings::default(),
            http: free_port(),
            agents: Vec::new(),
        }
    }
}

fn free_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Why the mesh did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The broker.
    #[error("the broker did not start")]
    Broker(#[from] broker::StartError),
    /// A coordinator or an agent.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// What ends with it would not know.
    #[error("failed to lock a file in `{}`", data_dir.display())]
    Lifeline {
        /// The directory.
        data_dir: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
}

/// Why there is nothing to kill or to start again.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no such agent.
    #[error("there is no agent `{0}` in this mesh")]
    Unknown(AgentId),
    /// It was not started.
    #[error(transparent)]
    Member(#[from] MemberError),
}

/// A mesh on this machine. Dropping it ends all its processes.
#[derive(Debug)]
pub struct LocalMesh {
    options: Options,
    /// Held until it is stopped, for agents that its coordinators start.
    lifeline: Mutex<Option<Lifeline>>,
    // Dropped in this order: the broker outlives those who need it.
    agents: Vec<Agent>,
    coordinators: Vec<Coordinator>,
    broker: Broker,
}

impl LocalMesh {
    /// Starts the processes. They find each other by themselves: see [`Self::until_ready`].
    pub async fn start(mut options: Options) -> Result<Self, StartError> {
        let data_dir = options.data_dir.clone();
        let lifeline = Lifeline::tie(&data_dir.join("lifeline"));
        let lifeline = lifeline.map_err(|source| StartError::Lifeline { data_dir, source })?;
        let path = lifeline.path().to_string_lossy().into_owned();
        options.coordinator_env.push((LIFELINE_VARIABLE.to_owned(), path));
        let broker = Broker::start(&options.launcher, options.broker.clone()).await?;
        let agents = std::mem::take(&mut options.agents);
        let coordinators = options.coordinators;
        let lifeline = Mutex::new(Some(lifeline));
        let mut mesh = Self { options, lifeline, agents: Vec::new(), coordinators: Vec::new(), broker };
        for _ in 0..coordinators {
            mesh.add_coordinator()?;
        }
        for agent in agents {
            mesh.add_agent(agent)?;
        }
        Ok(mesh)
    }

    fn home(&self) -> member::Home {
        member::Home {
            launcher: self.options.launcher.clone(),
            data_dir: self.options.data_dir.clone(),
            nats_url: self.nats_url(),
            mesh: self.options.mesh.clone(),
            coordinator_env: self.options.coordinator_env.clone(),
        }
    }

    /// Waits until a coordinator is ready and every agent that was not killed is healthy.
    pub async fn until_ready(&self, limit: Duration) -> Result<(), NotReady> {
        ready::until_ready(self, limit).await
    }

    /// Where the broker listens, or the brokers.
    pub fn nats_url(&self) -> String {
        self.options.nats_url.clone().unwrap_or_else(|| self.broker.url())
    }

    /// Where its files are.
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// Its name.
    pub fn name(&self) -> &MeshName {
        &self.options.mesh
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The broker, to restart it.
    pub fn broker_mut(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// The coordinators, in the order they were added.
    pub fn coordinators(&self) -> &[Coordinator] {
        &self.coordinators
    }

    /// The agents, in the order they were added.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// An agent.
    pub fn agent(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.iter().find(|agent| agent.id() == id)
    }

    /// A client of the mesh, connected.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        let (url, mesh) = (self.nats_url(), self.options.mesh.clone());
        let settings = Settings { url, mesh, ..self.options.client.clone() };
        let nats = settings.connect("local mesh client", Patience::Limited(Duration::from_secs(10))).await?;
        Ok(Client::new(nats, settings.mesh))
    }

    /// The address of a coordinator that runs and listens, as `http://127.0.0.1:8080`.
    pub fn http_url(&self) -> Option<String> {
        let running = self.coordinators.iter().filter(|c| c.process().is_running());
        running.filter_map(Coordinator::http).map(|address| format!("http://{address}")).next()
    }

    /// The agents as the mesh sees them (`GET /v1/agents`).
    pub async fn list_agents(&self) -> Result<Vec<shared::api::Agent>, AskError> {
        ready::list_agents(self).await
    }

    /// Starts one more agent.
    pub fn add_agent(&mut self, spec: AgentSpec) -> Result<(), MemberError> {
        let agent = Agent::start(&self.home(), spec)?;
        self.agents.push(agent);
        Ok(())
    }

    /// Ends an agent by SIGKILL and waits until it is gone. It stays in the list and can be restarted.
    pub async fn kill_agent(&self, id: &AgentId) -> Result<(), AgentError> {
        let agent = self.agent(id).ok_or_else(|| AgentError::Unknown(id.clone()))?;
        agent.process().kill9();
        agent.process().wait().await;
        Ok(())
    }

    /// Starts an agent again, as a new process; one that still runs is asked to end first.
    pub async fn restart_agent(&mut self, id: &AgentId) -> Result<(), AgentError> {
        let place = self.agents.iter().position(|agent| agent.id() == id);
        let place = place.ok_or_else(|| AgentError::Unknown(id.clone()))?;
        self.agents[place].process().terminate(AGENT_GRACE).await;
        let spec = self.agents[place].spec().clone();
        self.agents[place] = Agent::start(&self.home(), spec)?;
        Ok(())
    }

    /// Lets an agent finish what it runs, ends it, and takes it out of the list.
    pub async fn remove_agent(&mut self, id: &AgentId) -> Result<(), AgentError> {
        let place = self.agents.iter().position(|agent| agent.id() == id);
        let place = place.ok_or_else(|| AgentError::Unknown(id.clone()))?;
        self.agents.remove(place).process().terminate(AGENT_GRACE).await;
        Ok(())
    }

    /// Where coordinators that are started from now on find the broker, in their order; the others find it where
    /// everybody does.
    pub fn set_coordinator_urls(&mut self, urls: Vec<String>) {
        self.options.coordinator_urls = urls;
    }

    /// Starts one more coordinator: the first leads, any other stands by.
    pub fn add_coordinator(&mut self) -> Result<(), MemberError> {
        let number = self.coordinators.len() + 1;
        let url = self.options.coordinator_urls.get(number - 1).map(String::as_str);
        let http = if number == 1 { self.options.http } else { free_port() };
        let config = self.options.coordinator_config.as_deref();
        let coordinator = Coordinator::start(&self.home(), &format!("coordinator-{number}"), url, http, config)?;
        self.coordinators.push(coordinator);
        Ok(())
    }

    /// Ends a coordinator by SIGKILL and waits until it is gone. It stays in the list and can be restarted.
    ///
    /// # Panics
    /// If there is no coordinator of that index.
    pub async fn kill_coordinator(&self, index: usize) {
        let process = self.coordinators[index].process();
        process.kill9();
        process.wait().await;
    }

    /// Starts a coordinator again, on the address it had; one that still runs is asked to end first.
    ///
    /// # Panics
    /// If there is no coordinator of that index.
    pub async fn restart_coordinator(&mut self, index: usize) -> Result<(), MemberError> {
        let old = &self.coordinators[index];
        old.process().terminate(COORDINATOR_GRACE).await;
        let http = old.http().unwrap_or_else(free_port);
        let config = self.options.coordinator_config.as_deref();
        let url = self.options.coordinator_urls.get(index).map(String::as_str);
        self.coordinators[index] = Coordinator::start(&self.home(), old.name(), url, http, config)?;
        Ok(())
    }

    fn processes(&self) -> impl Iterator<Item = (Role, &Process)> {
        let agents = self.agents.iter().map(|agent| (Role::Agent, agent.process()));
        let coordinators = self.coordinators.iter().map(|c| (Role::Coordinator, c.process()));
        agents.chain(coordinators).chain([(Role::Broker, self.broker.process())])
    }

    /// The ends of the processes that run now, as they come.
    pub fn exits(&self) -> Exits {
        let running = self.processes().filter(|(_, process)| process.is_running());
        let ends = running.map(|(role, process)| {
            let (name, log, ended) = (process.name().to_owned(), process.own_log().clone(), process.wait());
            let end = async move {
                let status = ended.await;
                Exit { role, name, status, said: log.tail(LOG_LINES), log: log.path }
            };
            end.boxed()
        });
        Exits(ends.collect())
    }

    /// Ends all in order: agents finish what they run, then the coordinators, then the broker.
    /// Returns the names of those that had to be killed.
    pub async fn stop(&self) -> Vec<String> {
        let mut killed = Vec::new();
        self.lifeline.lock().unwrap_or_else(PoisonError::into_inner).take();
        let agents = self.agents.iter().map(|agent| end(agent.process(), AGENT_GRACE));
        killed.extend(join_all(agents).await.into_iter().flatten());
        self.until_others_left().await;
        let coordinators = self.coordinators.iter().map(|c| end(c.process(), COORDINATOR_GRACE));
        killed.extend(join_all(coordinators).await.into_iter().flatten());
        if !self.broker.stop().await {
            killed.push(self.broker.process().name().to_owned());
        }
        killed
    }

    /// Agents that coordinators have started leave by themselves when the lifeline is cut, and need a coordinator for that.
    async fn until_others_left(&self) {
        let deadline = Instant::now() + AGENT_GRACE;
        while crate::actuator::process::run_in(&self.options.data_dir) && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Returns its name if it had to be killed.
async fn end(process: &Process, grace: Duration) -> Option<String> {
    (!process.terminate(grace).await).then(|| process.name().to_owned())
}

/// What a process is to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs tasks.
    Agent,
    /// Places them.
    Coordinator,
    /// Holds them.
    Broker,
}

/// A process has ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// What it was to the mesh.
    pub role: Role,
    /// How it was called.
    pub name: String,
    /// The file with its output.
    pub log: PathBuf,
    /// How it ended.
    pub status: ExitStatus,
    /// The end of its log.
    pub said: String,
}

/// The ends of processes, as they come: see [`LocalMesh::exits`].
#[derive(Debug)]
pub struct Exits(FuturesUnordered<BoxFuture<'static, Exit>>);

impl Exits {
    /// The next one; waits for ever when all have ended.
    pub async fn next(&mut self) -> Exit {
        match self.0.next().await {
            Some(exit) => exit,
            None => std::future::pending().await,
        }
    }
}
