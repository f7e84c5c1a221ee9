//! A mesh over several hosts: the broker on one, a coordinator on each of two, an agent on each of three, and on the
//! last a client, which is where this program's own thread is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::jetstream::stream::DirectGetErrorKind;
use chaos::client::Client;
use chaos::clock::Moment;
use chaos::task::Job;
use chaos::witness::{DIR_VARIABLE, Doer, Reader};
use chaos::world::{Deed, Fault};
use coordinator::local::{Launcher, Process, Program};
use shared::api::{self, AgentState};

use crate::network::{Host, Network, Way};

/// All hosts.
pub(crate) const HOSTS: [&str; 7] = ["broker", "north", "south", "ada", "bob", "cid", "client"];
/// Those with a coordinator.
pub(crate) const COORDINATORS: [&str; 2] = ["north", "south"];
/// Those with an agent, which is named like its host.
pub(crate) const AGENTS: [&str; 3] = ["ada", "bob", "cid"];
/// The one that this program is on.
pub(crate) const CLIENT: &str = "client";
/// Where each coordinator listens on its host.
const HTTP_PORT: u16 = 8080;
/// How often it is looked whether something has come.
const LOOK: Duration = Duration::from_millis(20);
/// How long a coordinator may take to answer.
const ANSWER: Duration = Duration::from_millis(300);
/// How long the mesh may take until it works.
const READY: Duration = Duration::from_secs(60);
/// How much of each log a failure tells.
const LOG_LINES: usize = 15;

/// The broker listens to all its host, and tells the mesh of closed connections.
const BROKER: &str = r#"
server_name: "hosts"
listen: "0.0.0.0:4222"
ping_interval: "10s"
ping_max: 2
system_account: SYS
no_auth_user: mesh
accounts {
  SYS { exports: [ { stream: "$SYS.ACCOUNT.MESH.DISCONNECT", accounts: [MESH] } ] }
  MESH {
    jetstream: enabled
    users: [ { user: mesh, password: mesh } ]
    imports: [ { stream: { account: SYS, subject: "$SYS.ACCOUNT.MESH.DISCONNECT" } } ]
  }
}
"#;

/// Attempts of the chaos agent's own kind of task, and nothing that could fail.
const AGENT: &str = "[agent]\nslots = 4\nqueue = 4\n[[handler]]\nkind = \"echo\"\nbuiltin = \"echo\"\n";

/// What the processes are made from.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The program `chaos`, which is coordinator and agent.
    pub(crate) chaos: PathBuf,
    /// The broker.
    pub(crate) nats_server: PathBuf,
}

/// A mesh over several hosts. Dropping it ends all its processes.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// A client that knows nothing but NATS.
    pub(crate) client: Client,
    /// What handlers did.
    pub(crate) witness: Reader,
    /// What was done to agents.
    pub(crate) faults: Vec<Fault>,
    broker: Process,
    coordinators: Vec<Process>,
    agents: Vec<Process>,
    http: reqwest::Client,
    /// Whether the files are kept: unless all has gone well.
    is_kept: bool,
    dir: tempfile::TempDir,
    network: Network,
}

impl Mesh {
    /// Starts a mesh on hosts of the names in [`HOSTS`], and waits until it does its work. The thread that calls it is on
    /// the client's host already.
    pub(crate) async fn start(network: Network, programs: &Programs) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("hivemesh-hosts-").tempdir()?;
        std::fs::create_dir(dir.path().join("witness"))?;
        let launcher = Launcher::new(&programs.chaos);
        let start = |host: &Host, path: &Path, args: &[&str]| {
            let program = Program {
                name: host.name().to_owned(),
                path: path.to_owned(),
                args: args.iter().map(Into::into).collect(),
                env: vec![(DIR_VARIABLE.to_owned(), dir.path().join("witness").display().to_string())],
                log: dir.path().join(format!("{}.log", host.name())),
            };
            launcher.spawn(host.program(program))
        };
        let file = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(file("nats.conf"), format!("{BROKER}\njetstream {{ store_dir: {:?} }}\n", file("store")))?;
        std::fs::write(file("agent.toml"), AGENT)?;
        let broker = start(network.host("broker"), &programs.nats_server, &["--config", &file("nats.conf")])?;
        let url = format!("nats://{}:4222", network.host("broker").address());
        let http = format!("0.0.0.0:{HTTP_PORT}");
        let serve = |name| {
            let args = ["serve", "--nats", url.as_str(), "--http", http.as_str(), "--insecure-http"];
            start(network.host(name), &programs.chaos, &args)
        };
        let coordinators = COORDINATORS.into_iter().map(serve).collect::<Result<Vec<_>, _>>()?;
        let config = file("agent.toml");
        let agent = |name| {
            let args = ["agent", "--nats", url.as_str(), "--id", name, "--config", config.as_str()];
            start(network.host(name), &programs.chaos, &args)
        };
        let agents = AGENTS.into_iter().map(agent).collect::<Result<Vec<_>, _>>()?;
        let witness = Reader::new(dir.path().join("witness"));
        let mesh = Self {
            client: Client::connect(&url).await?,
            witness,
            faults: Vec::new(),
            broker,
            coordinators,
            agents,
            // A connection from before a cut is of no use after it.
            http: reqwest::Client::builder().no_proxy().timeout(ANSWER).pool_max_idle_per_host(0).build()?,
            is_kept: true,
            dir,
            network,
        };
        mesh.until_whole("ready", READY).await.context("the mesh is not ready")?;
        Ok(mesh)
    }

    /// Cuts a host off. If it is an agent's, that is noted: it explains what is started again.
    pub(crate) fn cut(&mut self, host: &str, way: Way) -> anyhow::Result<()> {
        if let Some(place) = AGENTS.iter().position(|agent| *agent == host) {
            let to = Doer { agent: host.to_owned(), pid: self.agents[place].pid() };
            self.faults.push(Fault { at: Moment::now(), deed: Deed::Cut, to });
        }
        self.network.cut(self.network.host(host), way)
    }

    /// Undoes it.
    pub(crate) fn heal(&self, host: &str) -> anyhow::Result<()> {
        self.network.heal(self.network.host(host))
    }

    /// The host of the coordinator that leads, of a mesh that is whole.
    pub(crate) async fn leader(&self) -> anyhow::Result<&'static str> {
        let began = Instant::now();
        loop {
            match self.try_leader().await {
                Err(_) if began.elapsed() < READY => tokio::time::sleep(LOOK).await,
                leader => return leader,
            }
        }
    }

    /// Of two that say that they lead, the newer leader. It is an error if one does not answer.
    async fn try_leader(&self) -> anyhow::Result<&'static str> {
        let mut leaders = Vec::new();
        for host in COORDINATORS {
            leaders.extend(epoch(&self.get(host, "readyz").await?)?.map(|epoch| (epoch, host)));
        }
        let newest = leaders.into_iter().max().context("nobody leads")?;
        Ok(newest.1)
    }

    /// The host of the other coordinator.
    pub(crate) async fn standby(&self) -> anyhow::Result<&'static str> {
        let leader = self.leader().await?;
        COORDINATORS.into_iter().find(|host| *host != leader).context("there is one coordinator only")
    }

    /// Waits until the mesh is whole: every coordinator answers and one leads, which counts every agent as healthy, and a
    /// task that is submitted now, under this id, is done.
    pub(crate) async fn until_whole(&self, id: &str, limit: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let whole = async {
            self.client.submit(Job::new(id, Duration::ZERO)).await?;
            loop {
                match self.is_done(id).await {
                    Ok(true) => return anyhow::Ok(()),
                    Ok(false) | Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
        };
        let done = tokio::time::timeout(limit, whole);
        let healthy = async {
            loop {
                match self.all_are_healthy().await {
                    Ok(()) => return anyhow::Ok(()),
                    Err(error) if began.elapsed() > limit => return Err(error.context(format!("after {limit:?}"))),
                    Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
        };
        let (done, healthy) = tokio::join!(done, healthy);
        healthy?;
        done.with_context(|| format!("task {id} is not done after {limit:?}"))?
    }

    async fn all_are_healthy(&self) -> anyhow::Result<()> {
        let leader = self.try_leader().await?;
        let listed: api::List<api::Agent> = serde_json::from_str(&self.get(leader, "v1/agents").await?)?;
        let healthy = listed.items.iter().filter(|agent| agent.state == AgentState::Healthy);
        let healthy: BTreeSet<&str> = healthy.map(|agent| agent.id.as_str()).collect();
        ensure!(healthy == BTreeSet::from(AGENTS), "{leader} counts as healthy only {healthy:?}");
        Ok(())
    }

    async fn is_done(&self, id: &str) -> anyhow::Result<bool> {
        let results = self.client.jetstream().get_stream_no_info("HIVE_RESULTS").await?;
        match results.direct_get_last_for_subject(format!("hive.result.{id}")).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn get(&self, host: &str, path: &str) -> anyhow::Result<String> {
        let address = self.network.host(host).address();
        let answer = self.http.get(format!("http://{address}:{HTTP_PORT}/{path}")).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// All has gone well: its files need not be kept.
    pub(crate) fn forget(&mut self) {
        self.is_kept = false;
    }

    /// Keeps a file for whoever looks into a failure.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        Ok(std::fs::write(self.dir.path().join(name), content)?)
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.agents.iter().chain(&self.coordinators).chain([&self.broker])
    }
}

/// The epoch of which a coordinator says that it leads in it; `None` if it stands by.
fn epoch(said: &str) -> anyhow::Result<Option<u64>> {
    let said = said.trim();
    if said == "standing by" {
        return Ok(None);
    }
    let epoch = said.strip_prefix("leading in epoch ").with_context(|| format!("a coordinator says `{said}`"))?;
    Ok(Some(epoch.parse()?))
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.is_kept {
            self.dir.disable_cleanup(true);
            for process in self.processes() {
                eprintln!("--- {}:\n{}", process.name(), process.log_tail(LOG_LINES));
            }
            eprintln!("the files of the mesh are kept in {}", self.dir.path().display());
        }
        // Nobody writes into the directory any more when it is removed, nor is on a host.
        self.processes().for_each(Process::kill9);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.processes().any(Process::is_running) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
