//! A mesh of real processes that things are done to, and the log of what was done.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coordinator::local::{AgentSpec, Broker, Launcher, LocalMesh, Options, Process, broker};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shared::AgentId;

use crate::client::Client;
use crate::clock::Moment;
use crate::proxy::Proxy;
use crate::task::POISON;
use crate::witness::{DIR_VARIABLE, Doer, Reader};
use crate::{Context, cluster};

/// How long a mesh may take until it works.
const READY: Duration = Duration::from_secs(120);
/// How often it is looked whether something has come.
const LOOK: Duration = Duration::from_millis(20);

/// What a mesh is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many agents there are at first.
    pub agents: usize,
    /// Attempts that each runs at once.
    pub slots: u32,
    /// Attempts that each takes in advance.
    pub queue: u32,
    /// How many coordinators there are.
    pub coordinators: usize,
    /// Their settings, in TOML.
    pub config: String,
    /// Whether the broker tells the mesh of closed connections.
    pub exports_disconnects: bool,
    /// Who reaches the broker through a proxy each.
    pub proxied: Proxied,
    /// Brokers: one, or a cluster of three.
    pub brokers: usize,
}

/// Who reaches the broker through a proxy each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// Nobody.
    Nobody,
    /// Agents.
    Agents,
    /// Coordinators.
    Coordinators,
    /// Both.
    Everybody,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            agents: 4,
            slots: 4,
            queue: 4,
            coordinators: 1,
            config: String::new(),
            exports_disconnects: true,
            proxied: Proxied::Nobody,
            brokers: 1,
        }
    }
}

/// What was done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// SIGKILL.
    Killed,
    /// SIGSTOP.
    Paused,
    /// Its link was cut.
    Cut,
}

/// Something that was done.
#[derive(Clone, Debug)]
pub struct Fault {
    /// When.
    pub at: Moment,
    /// What.
    pub deed: Deed,
    /// To which process of which agent.
    pub to: Doer,
}

/// A mesh, and all that belongs to it. Dropping it ends all its processes.
#[derive(Debug)]
pub struct World {
    /// Its processes.
    pub local: LocalMesh,
    /// The servers of its cluster beside the one that [`LocalMesh`] has.
    pub others: Vec<Broker>,
    /// A client that knows nothing but NATS, and is behind no proxy.
    pub client: Client,
    /// What handlers did.
    pub witness: Reader,
    /// What was done to agents.
    pub faults: Vec<Fault>,
    /// Whether the oracle has seen it to its end; if not, its files are kept.
    pub is_judged: bool,
    /// Whether no task may be started again at all; if one was, the files are kept as well.
    pub none_may_restart: bool,
    /// Proxies of coordinators, in their order.
    pub coordinator_proxies: Vec<Proxy>,
    agent_proxies: std::collections::BTreeMap<AgentId, Proxy>,
    http: reqwest::Client,
    setup: Setup,
    exe: PathBuf,
    agents_made: usize,
    dir: tempfile::TempDir,
}

impl World {
    /// Starts a mesh, and waits until it does its work.
    pub async fn start(context: &Context, setup: Setup) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("hivemesh-chaos-").tempdir()?;
        std::fs::create_dir(dir.path().join("witness"))?;
        let mut options = Options::new(Launcher::new(&context.exe), &context.nats_server, dir.path());
        options.broker.exports_disconnects = setup.exports_disconnects;
        options.coordinator_config = Some(setup.config.clone()).filter(|config| !config.is_empty());
        options.coordinators = 0;
        let others = if setup.brokers > 1 { cluster::start_others(&mut options, setup.brokers).await? } else { None };
        let (local, others) = match others {
            None => (LocalMesh::start(options).await?, Vec::new()),
            Some(starting) => {
                let (local, others) = tokio::join!(LocalMesh::start(options), starting);
                (local?, others?)
            }
        };
        let client = Client::connect(&local.nats_url()).await?;
        let witness = Reader::new(dir.path().join("witness"));
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(300)).build()?;
        let mut world = Self {
            local,
            others,
            client,
            witness,
            faults: Vec::new(),
            is_judged: false,
            none_may_restart: false,
            coordinator_proxies: Vec::new(),
            agent_proxies: Default::default(),
            http,
            exe: context.exe.clone(),
            setup,
            agents_made: 0,
            dir,
        };
        world.populate().await?;
        Ok(world)
    }

    async fn populate(&mut self) -> anyhow::Result<()> {
        if matches!(self.setup.proxied, Proxied::Coordinators | Proxied::Everybody) {
            for _ in 0..self.setup.coordinators {
                self.coordinator_proxies.push(Proxy::start(self.local.broker().port()).await?);
            }
            let urls = self.coordinator_proxies.iter().map(Proxy::url).collect();
            self.local.set_coordinator_urls(urls);
        }
        for _ in 0..self.setup.coordinators {
            self.local.add_coordinator()?;
        }
        for _ in 0..self.setup.agents {
            self.add_agent().await?;
        }
        self.local.until_ready(READY).await.context("the mesh is not ready")?;
        self.leader_within(READY).await?;
        Ok(())
    }

    /// Starts one more agent, under a new name, which is returned.
    pub async fn add_agent(&mut self) -> anyhow::Result<AgentId> {
        self.agents_made += 1;
        let id: AgentId = format!("a{}", self.agents_made).parse()?;
        let Setup { slots, queue, .. } = self.setup;
        let exe = self.exe.display().to_string();
        let config = format!(
            "[agent]\nqueue = {queue}\n[[handler]]\nkind = \"{POISON}\"\ncommand = [{exe:?}, \"{POISON}\"]\n\
             env = [\"{DIR_VARIABLE}\"]\n"
        );
        let mut spec = AgentSpec::new(id.clone(), slots, config);
        spec.env.push((DIR_VARIABLE.to_owned(), self.dir.path().join("witness").display().to_string()));
        if matches!(self.setup.proxied, Proxied::Agents | Proxied::Everybody) {
            let proxy = Proxy::start(self.local.broker().port()).await?;
            spec.nats_url = Some(proxy.url());
            self.agent_proxies.insert(id.clone(), proxy);
        }
        self.local.add_agent(spec)?;
        Ok(id)
    }

    /// The agents whose processes run.
    pub fn living(&self) -> Vec<AgentId> {
        let agents = self.local.agents().iter();
        agents.filter(|agent| agent.process().is_running()).map(|agent| agent.id().clone()).collect()
    }

    /// The process of an agent.
    pub fn process(&self, id: &AgentId) -> anyhow::Result<&Process> {
        Ok(self.local.agent(id).with_context(|| format!("there is no agent {id}"))?.process())
    }

    /// The proxy of an agent.
    pub fn proxy(&self, id: &AgentId) -> anyhow::Result<&Proxy> {
        self.agent_proxies.get(id).with_context(|| format!("agent {id} has no proxy"))
    }

    /// All proxies.
    pub fn proxies(&self) -> Vec<&Proxy> {
        self.agent_proxies.values().chain(&self.coordinator_proxies).collect()
    }

    /// Ends an agent by SIGKILL; the moment just before is returned. It stays in the list.
    pub async fn kill_agent(&mut self, id: &AgentId) -> anyhow::Result<Moment> {
        let at = self.note(Deed::Killed, id)?;
        let process = self.process(id)?;
        process.kill9();
        process.wait().await;
        Ok(at)
    }

    /// Halts an agent by SIGSTOP; the moment just before is returned.
    pub fn pause_agent(&mut self, id: &AgentId) -> anyhow::Result<Moment> {
        let at = self.note(Deed::Paused, id)?;
        self.process(id)?.pause();
        Ok(at)
    }

    /// Notes that something is done to an agent now.
    pub fn note(&mut self, deed: Deed, id: &AgentId) -> anyhow::Result<Moment> {
        let to = Doer { agent: id.to_string(), pid: self.process(id)?.pid() };
        let at = Moment::now();
        self.faults.push(Fault { at, deed, to });
        Ok(at)
    }

    /// Asks an agent to end, waits for it, and forgets it.
    pub async fn remove_agent(&mut self, id: &AgentId) -> anyhow::Result<()> {
        self.process(id)?.resume();
        self.local.remove_agent(id).await?;
        self.agent_proxies.remove(id);
        Ok(())
    }

    /// What a coordinator says of itself: `leading`, `standing by`, or nothing.
    pub async fn says(&self, index: usize) -> String {
        let coordinator = &self.local.coordinators()[index];
        let Some(address) = coordinator.http().filter(|_| coordinator.process().is_running()) else {
            return String::new();
        };
        match self.http.get(format!("http://{address}/readyz")).send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Which coordinator says that it leads.
    pub async fn leader(&self) -> Option<usize> {
        for index in 0..self.local.coordinators().len() {
            if self.says(index).await.starts_with("leading") {
                return Some(index);
            }
        }
        None
    }

    /// Waits for one that leads.
    pub async fn leader_within(&self, limit: Duration) -> anyhow::Result<usize> {
        let started = Instant::now();
        loop {
            if let Some(leader) = self.leader().await {
                return Ok(leader);
            }
            ensure!(started.elapsed() < limit, "no coordinator leads for {limit:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a coordinator answers and does not lead, or leads.
    pub async fn until_it_answers(&self, index: usize, limit: Duration) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            let said = self.says(index).await;
            if said.starts_with("leading") || said.starts_with("standing by") {
                return Ok(said);
            }
            ensure!(started.elapsed() < limit, "coordinator {index} does not answer for {limit:?}: `{said}`");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The epoch in which a coordinator says that it leads.
    pub async fn epoch_of(&self, index: usize) -> Option<u64> {
        self.says(index).await.trim().strip_prefix("leading in epoch ")?.parse().ok()
    }

    /// How many starts there were so far that were not their task's first.
    pub fn extra_starts(&mut self) -> anyhow::Result<usize> {
        self.witness.read()?;
        let starts = self.witness.notes().iter().filter(|note| note.deed == crate::witness::Deed::Start);
        let tasks: std::collections::HashSet<&str> = starts.clone().map(|note| note.task.as_str()).collect();
        Ok(starts.count() - tasks.len())
    }

    /// A coordinator's process.
    pub fn coordinator(&self, index: usize) -> &Process {
        self.local.coordinators()[index].process()
    }

    /// Waits until the mesh counts every agent whose process runs as healthy.
    pub async fn until_healthy(&self, limit: Duration) -> anyhow::Result<()> {
        self.local.until_ready(limit).await.context("the mesh has not recovered")
    }

    /// Waits until everything is settled, or the limit is over: see [`Client::settle`].
    pub async fn settle(&self, limit: Duration) -> bool {
        self.client.settle(limit).await
    }

    /// Waits for a start of a task by its attempt's number or a later one: by whom, and when.
    pub async fn until_started(
        &mut self,
        task: &str,
        attempt: u32,
        limit: Duration,
    ) -> anyhow::Result<crate::witness::Note> {
        use crate::witness::Deed::Start;
        let started = Instant::now();
        // Starts of this task may have been read already, while another was waited for.
        let mut from = self.witness.notes().len().saturating_sub(4096);
        loop {
            self.witness.read()?;
            let notes = self.witness.notes();
            let is_it =
                |note: &&crate::witness::Note| note.deed == Start && note.task == task && note.attempt >= attempt;
            if let Some(note) = notes[from..].iter().find(is_it) {
                return Ok(note.clone());
            }
            from = notes.len();
            ensure!(started.elapsed() < limit, "attempt {attempt} of {task} has not started after {limit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps its files, for whoever looks into a failure.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
        eprintln!("the files of the mesh are kept in {}", self.dir.path().display());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.is_judged {
            self.keep();
        }
        let local = &self.local;
        let agents = local.agents().iter().map(coordinator::local::Agent::process);
        let coordinators = local.coordinators().iter().map(coordinator::local::Coordinator::process);
        let brokers = self.others.iter().map(Broker::process).chain([local.broker().process()]);
        let all: Vec<&Process> = agents.chain(coordinators).chain(brokers).collect();
        // Nobody writes into the directory any more when it is removed.
        all.iter().for_each(|process| process.kill9());
        let deadline = Instant::now() + Duration::from_secs(5);
        while all.iter().any(|process| process.is_running()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Sends a signal to a process of ours that is not yet reaped.
pub fn signal(process: &Process, signal: Signal) {
    if process.is_running() {
        let _ = nix::sys::signal::kill(Pid::from_raw(process.pid().cast_signed()), signal);
    }
}

/// A server of a cluster that is being started.
pub(crate) type Starting = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<Vec<Broker>>> + Send>>;

/// A broker's options beside others of a cluster.
pub(crate) fn beside(options: &broker::Options, dir: PathBuf) -> broker::Options {
    let mut other = broker::Options::new(&options.binary, dir);
    other.exports_disconnects = options.exports_disconnects;
    other
}
