//! Agents that are containers, made by the Docker Engine from an image.
//!
//! Labels say whose they are, so that any coordinator finds them: `hivemesh.mesh`, `hivemesh.pool`, `hivemesh.agent`, and
//! `hivemesh.order` for the order that they were made by.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{ContainerCreateBody, HostConfig};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use shared::AgentId;
use shared::quantity;
use tracing::info;

use super::engine::{self, Container, Engine};
use super::{NoCredentials, Owner, Start, Surroundings};

const MESH: &str = "hivemesh.mesh";
const POOL: &str = "hivemesh.pool";
const AGENT: &str = "hivemesh.agent";
const ORDER: &str = "hivemesh.order";

/// An order that is carried out twice is so within this time; later its number may be another's, who began to count anew.
const SAME_ORDER: Duration = Duration::from_secs(3600);
/// So many containers of agents that ended by themselves are kept, for their logs to be read.
const KEPT: usize = 3;
/// So many are made at a time.
const AT_ONCE: usize = 4;

/// Settings of `type = "docker"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The image, which the Engine must have.
    pub image: String,
    /// Arguments of the agent: `["--slots", "4", "--label", "pool=workers"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Variables of the agent. `NATS_URL` and `HIVE_MESH` are the coordinator's, unless they are said here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The network that the containers are in; the Engine's own default if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// What of the Engine's host they see: `/etc/hivemesh/agent.toml:/etc/hivemesh/agent.toml:ro`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// How many cores each may use; as many as there are if it is not said.
    #[serde(default, with = "quantity::cpu", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// How much memory each may use; as much as there is if it is not said.
    #[serde(default, with = "quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Whether they may write where nothing is mounted. What is in `/tmp` is in memory otherwise.
    #[serde(default)]
    pub writable: bool,
    /// Where the Engine listens: `unix:///var/run/docker.sock`, or what `DOCKER_HOST` says, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Config {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = engine::problem_with_host(self.host.as_deref()).into_iter().collect();
        if self.image.is_empty() {
            problems.push("image: name the image of the agents, as \"hivemesh/agent-worker:latest\"".into());
        }
        for mount in self.mounts.iter().filter(|mount| mount.split(':').count() < 2) {
            problems.push(format!("mounts: `{mount}` has no place in the container: write /here:/there:ro"));
        }
        for (name, amount) in [("cpu", self.cpu), ("memory", self.memory)] {
            if amount == Some(0) {
                problems.push(format!("{name}: an agent could do nothing with 0: write more, or leave it out"));
            }
        }
        if self.env.contains_key("HIVE_AGENT") {
            problems.push("env: HIVE_AGENT is each agent's own name, and cannot be said for all of them".into());
        }
        problems
    }
}

/// Why agents were not started or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// By the Engine.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// They would look for the NATS server in themselves.
    #[error("{url} is the container itself, within a container: say in `env` how agents reach it, as NATS_URL")]
    Loopback {
        /// The address of the NATS server.
        url: String,
    },
    /// They would not be let in.
    #[error(transparent)]
    NoCredentials(#[from] NoCredentials),
}

/// The containers of one pool.
#[derive(Debug)]
pub(super) struct Containers {
    owner: Owner,
    config: Config,
    env: BTreeMap<String, String>,
    engine: Engine,
}

impl Containers {
    pub(super) fn new(owner: Owner, config: &Config, surroundings: &Surroundings) -> Result<Self, Error> {
        let env = surroundings.variables(&config.env)?;
        let shares_the_host = config.network.as_deref() == Some("host");
        match env.get("NATS_URL").filter(|url| !shares_the_host && is_loopback(url)) {
            Some(url) => Err(Error::Loopback { url: url.clone() }),
            None => Ok(Self { owner, config: config.clone(), env, engine: Engine::new(config.host.as_deref()) }),
        }
    }

    pub(super) async fn start(&self, start: &Start) -> Result<(), Error> {
        let there = self.containers().await?;
        self.clear_away(&there).await?;
        let missing = start.count.saturating_sub(begun_by(&there, start.order, now()));
        let agents: Vec<AgentId> = (0..missing).map(|_| self.owner.new_agent()).collect();
        info!(pool = self.owner.pool, host = self.engine.host(), order = start.order, missing, "starting containers");
        // Whoever can be started is, though another cannot.
        let mut outcome = Ok(());
        for some in agents.chunks(AT_ONCE) {
            let made = join_all(some.iter().map(|agent| self.make(agent, start.order))).await;
            outcome = made.into_iter().fold(outcome, Result::and);
        }
        outcome
    }

    pub(super) async fn remove(&self, agents: &[AgentId]) -> Result<(), Error> {
        let there = self.containers().await?;
        let is_meant = |container: &&Container| {
            container.label(AGENT).is_some_and(|id| agents.iter().any(|agent| agent.as_str() == id))
        };
        for container in there.iter().filter(is_meant) {
            self.engine.remove(&container.id).await?;
        }
        Ok(())
    }

    async fn containers(&self) -> Result<Vec<Container>, Error> {
        let Owner { mesh, pool } = &self.owner;
        Ok(self.engine.containers(&[(MESH, mesh.as_str()), (POOL, pool)]).await?)
    }

    /// Of those that ended without having been told to, the newest are kept for a while.
    async fn clear_away(&self, there: &[Container]) -> Result<(), Error> {
        let mut ended: Vec<&Container> = there.iter().filter(|container| container.has_ended).collect();
        ended.sort_by_key(|container| std::cmp::Reverse(container.created));
        for container in ended.iter().skip(KEPT) {
            self.engine.remove(&container.id).await?;
        }
        Ok(())
    }

    async fn make(&self, agent: &AgentId, order: u64) -> Result<(), Error> {
        // A name of the Engine begins with a letter, which a mesh's need not.
        let name = format!("hivemesh-{}-{agent}", self.owner.mesh);
        Ok(self.engine.run(&name, self.container(agent, order)).await?)
    }

    fn container(&self, agent: &AgentId, order: u64) -> ContainerCreateBody {
        let Config { image, command, network, mounts, cpu, memory, writable, .. } = &self.config;
        let own = ("HIVE_AGENT".to_owned(), agent.to_string());
        let env = self.env.iter().chain([(&own.0, &own.1)]).map(|(name, value)| format!("{name}={value}"));
        let labels = [
            (MESH, self.owner.mesh.to_string()),
            (POOL, self.owner.pool.clone()),
            (AGENT, agent.to_string()),
            (ORDER, order.to_string()),
        ];
        ContainerCreateBody {
            image: Some(image.clone()),
            cmd: Some(command.clone()).filter(|command| !command.is_empty()),
            env: Some(env.collect()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            host_config: Some(HostConfig {
                network_mode: network.clone(),
                binds: Some(mounts.clone()).filter(|mounts| !mounts.is_empty()),
                nano_cpus: cpu.map(|millis| millis.saturating_mul(1_000_000).cast_signed()),
                memory: memory.map(u64::cast_signed),
                readonly_rootfs: Some(!writable),
                tmpfs: (!writable).then(|| HashMap::from([("/tmp".to_owned(), String::new())])),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

/// How many run already for the same order.
fn begun_by(containers: &[Container], order: u64, now: i64) -> u32 {
    let order = order.to_string();
    let is_recent = |container: &Container| now.abs_diff(container.created) < SAME_ORDER.as_secs();
    let begun = containers.iter().filter(|container| !container.has_ended && is_recent(container));
    begun.filter(|container| container.label(ORDER) == Some(&order)).count() as u32
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed()
}

fn is_loopback(urls: &str) -> bool {
    urls.split(',').all(|url| {
        let host = url.split_once("://").map_or(url, |(_, rest)| rest);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        ["127.", "localhost", "[::1]"].iter().any(|loopback| host.starts_with(loopback))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared::connect::Settings;

    use super::super::engine::tests::FakeEngine;
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(&format!("image = \"hivemesh/agent-worker:latest\"\n{text}")).unwrap()
    }

    fn containers(config: &Config) -> Result<Containers, Error> {
        let connection = Settings { url: "nats://broker:4222".to_owned(), ..Settings::default() };
        let owner = Owner { mesh: "hive".parse().unwrap(), pool: "workers".to_owned() };
        Containers::new(owner, config, &Surroundings { connection, lifeline: None })
    }

    async fn on(fake: &FakeEngine, text: &str) -> Containers {
        let config = Config { host: Some(fake.listen().await), ..config(text) };
        containers(&config).unwrap()
    }

    fn labels(agent: &str, order: u64) -> Value {
        json!({ AGENT: agent, ORDER: order.to_string() })
    }

    #[tokio::test]
    async fn a_container_says_whose_it_is_and_is_contained() {
        let fake = FakeEngine::default();
        let settings = "command = [\"--slots\", \"4\"]\nnetwork = \"mesh\"\nmounts = [\"/a:/b:ro\"]\ncpu = \"1500m\"\n\
                        memory = \"256Mi\"\nenv = { A = \"b\" }";

        on(&fake, settings).await.start(&Start { order: 7, count: 1, wished: 3 }).await.unwrap();

        let changes = fake.changes();
        let [(create, body), (start, _)] = &changes[..] else { panic!("{changes:?}") };
        let agent = body["Labels"][AGENT].as_str().unwrap();
        assert!(agent.starts_with("workers-"), "{agent}");
        assert!(create.starts_with(&format!("POST /containers/create?name=hivemesh-hive-{agent}&")), "{create}");
        assert_eq!(start, "POST /containers/new-1/start");
        assert_eq!(body["Labels"], json!({ MESH: "hive", POOL: "workers", AGENT: agent, ORDER: "7" }));
        assert_eq!((&body["Image"], &body["Cmd"]), (&json!("hivemesh/agent-worker:latest"), &json!(["--slots", "4"])));
        let mut env = body["Env"].as_array().unwrap().iter().map(|said| said.as_str().unwrap()).collect::<Vec<_>>();
        env.sort_unstable();
        let own = format!("HIVE_AGENT={agent}");
        assert_eq!(env, ["A=b", own.as_str(), "HIVE_MESH=hive", "NATS_URL=nats://broker:4222"]);
        let host = &body["HostConfig"];
        assert_eq!((&host["NetworkMode"], &host["Binds"]), (&json!("mesh"), &json!(["/a:/b:ro"])));
        assert_eq!((&host["NanoCpus"], &host["Memory"]), (&json!(1_500_000_000_u64), &json!(256 << 20)));
        assert_eq!((&host["ReadonlyRootfs"], &host["CapDrop"]), (&json!(true), &json!(["ALL"])));
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges:true"]));
    }

    #[tokio::test]
    async fn an_order_that_is_carried_out_twice_does_not_start_twice() {
        let old = now() - 7200;
        let fake = FakeEngine::with(&[
            ("a", labels("workers-a", 7), "running", now()),
            ("b", labels("workers-b", 6), "running", now()),
            ("c", labels("workers-c", 7), "exited", now()),
            ("d", labels("workers-d", 7), "running", old),
        ]);

        on(&fake, "").await.start(&Start { order: 7, count: 3, wished: 5 }).await.unwrap();

        let changes = fake.changes();
        let made = changes.iter().filter(|(path, _)| path.starts_with("POST /containers/create"));
        assert_eq!(made.count(), 2, "{changes:?}");
    }

    #[tokio::test]
    async fn exactly_those_that_are_named_are_removed() {
        let fake = FakeEngine::with(&[
            ("a", labels("workers-a", 1), "running", 1),
            ("b", labels("workers-b", 1), "running", 1),
            ("c", labels("workers-c", 1), "exited", 1),
        ]);
        let agents = ["workers-a", "workers-c", "workers-gone"].map(|id| AgentId::new(id).unwrap());

        on(&fake, "").await.remove(&agents).await.unwrap();

        let removed: Vec<String> = fake.changes().into_iter().map(|(path, _)| path).collect();
        assert_eq!(removed.len(), 2, "{removed:?}");
        for (path, id) in removed.iter().zip(["a", "c"]) {
            assert!(path.starts_with(&format!("DELETE /containers/{id}?")) && path.contains("force=true"), "{path}");
        }
    }

    #[tokio::test]
    async fn of_those_that_ended_by_themselves_a_few_are_kept() {
        let all: Vec<_> = (1..=5).map(|n| (["", "a", "b", "c", "d", "e"][n], json!({}), "exited", n as i64)).collect();
        let fake = FakeEngine::with(&all);

        on(&fake, "").await.start(&Start { order: 1, count: 0, wished: 0 }).await.unwrap();

        let removed: Vec<String> = fake.changes().into_iter().map(|(path, _)| path).collect();
        assert!(removed.len() == 2 && removed[0].contains("/b?") && removed[1].contains("/a?"), "{removed:?}");
    }

    #[tokio::test]
    async fn an_image_that_is_not_there_is_told() {
        let fake = FakeEngine::default();
        fake.refuse("/containers/create", 404);

        let error = on(&fake, "").await.start(&Start { order: 1, count: 2, wished: 2 }).await.unwrap_err();

        let text = error.to_string();
        assert!(text.contains("has no image `hivemesh/agent-worker:latest`") && text.contains("docker pull"), "{text}");
    }

    #[tokio::test]
    async fn a_container_that_cannot_be_started_is_taken_away() {
        let fake = FakeEngine::default();
        fake.refuse("/containers/new-1/start", 500);

        let error = on(&fake, "").await.start(&Start { order: 1, count: 1, wished: 1 }).await.unwrap_err();

        assert!(crate::chain(&error).ends_with("no room"), "{}", crate::chain(&error));
        assert!(fake.changes().last().unwrap().0.starts_with("DELETE /containers/new-1?"));
    }

    #[test]
    fn agents_are_not_told_to_look_for_the_server_in_themselves() {
        let to = |url: &str, more: &str| containers(&config(&format!("env = {{ NATS_URL = \"{url}\" }}\n{more}")));

        assert!(matches!(to("nats://127.0.0.1:4222", ""), Err(Error::Loopback { .. })));
        assert!(matches!(to("nats://me:x@localhost", ""), Err(Error::Loopback { .. })));
        assert!(to("nats://127.0.0.1:4222", "network = \"host\"").is_ok());
        assert!(to("nats://127.0.0.1:4222,nats://broker", "").is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_told_at_once() {
        let bad = config("mounts = [\"/a\"]\ncpu = \"0\"\nhost = \"docker.sock\"\nenv = { HIVE_AGENT = \"ada\" }");

        assert_eq!(bad.problems().len(), 4, "{:?}", bad.problems());
    }
}
