//! `compose/cluster.yaml` under load, while its containers die, are cut off and are restarted.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_tests::docker::{self, Container, Project, free_port};
use mesh_tests::{Docker, program};
use shared::connect::{Patience, Settings};
use shared::{Client, health};

use crate::oracle::{Oracle, Submitter};

const BROKERS: [&str; 3] = ["nats-1", "nats-2", "nats-3"];
const COORDINATORS: [&str; 2] = ["coordinator-1", "coordinator-2"];
/// From `up` to the first result, once the images are there; twenty seconds where nothing else keeps the machine busy.
const UP_LIMIT: Duration = Duration::from_secs(40);
/// How long the mesh may do no work after one fault: an election among the brokers, and a takeover on top.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(20 * 60);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_loses_nothing_while_its_containers_die_are_cut_off_and_are_restarted() {
    let Some(docker) = Docker::start().await else { return };
    let secrets = tempfile::tempdir().unwrap();
    let cluster = Cluster::new(&docker, secrets.path()).await;

    let all = async {
        let began = Instant::now();
        cluster.project.up(&["--scale", "agent=3"]).await;
        let submitter = Submitter(cluster.client("client").await);
        submitter.until_it_works(UP_LIMIT).await;
        println!("the cluster took {:?} from its command to the first result", began.elapsed());
        assert!(began.elapsed() < UP_LIMIT, "it took {:?}", began.elapsed());
        let scene = Scene { oracle: Oracle(cluster.client("coordinator").await), cluster: &cluster, submitter };
        let containers = cluster.containers().await;
        scene.every_container_is_well(&containers).await;
        scene.killed(&containers).await;
        scene.cut_off(&containers).await;
        scene.restarted_one_by_one(&containers).await;
    };
    tokio::time::timeout(LIMIT, all).await.expect("all of it ends in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lets_in_nobody_without_a_key_and_an_agent_does_only_what_agents_do() {
    let Some(docker) = Docker::start().await else { return };
    let secrets = tempfile::tempdir().unwrap();
    let cluster = Cluster::new(&docker, secrets.path()).await;
    cluster.project.up(&["--scale", "agent=1"]).await;
    Submitter(cluster.client("client").await).until_it_works(UP_LIMIT).await;

    let keyless = Settings { nkey: None, ..cluster.settings("client") };
    let stranger = Settings { tls_ca: None, ..cluster.settings("client") };
    let agent = cluster.client("agent").await;

    assert!(keyless.connect("a stranger", Patience::Limited(Duration::ZERO)).await.is_err());
    // Who does not know the authority does not trust the servers.
    assert!(stranger.connect("a stranger", Patience::Limited(Duration::ZERO)).await.is_err());
    for subject in ["$JS.API.INFO", "$JS.API.STREAM.DELETE.HIVE_TASKS", "hive.api.mesh.status"] {
        let answer = agent.nats().request(subject, "".into()).await;
        assert!(answer.is_err(), "an agent gets an answer on {subject}: {answer:?}");
    }
    let Settings { url, nkey, tls_ca, .. } = cluster.settings("client");
    let [nkey, ca] = [nkey, tls_ca].map(|file| file.unwrap().display().to_string());
    let output = program::run(&["--nats", &url, "--nkey", &nkey, "--tls-ca", &ca, "call", "echo", "hello"]).await;
    assert_eq!((output.code, output.stdout.trim()), (0, "hello"), "{output:?}");
}

/// The cluster with secrets and ports of its own.
struct Cluster<'a> {
    project: Project<'a>,
    secrets: PathBuf,
    url: String,
    apis: [SocketAddr; 2],
}

impl<'a> Cluster<'a> {
    async fn new(docker: &'a Docker, secrets: &Path) -> Self {
        let script = docker::root().join("compose/make-secrets");
        docker::run(&[&script.to_string_lossy(), &secrets.to_string_lossy()]).await;
        let (brokers, apis) = (BROKERS.map(|_| free_port()), COORDINATORS.map(|_| free_port()));
        let mut project = docker.project("cluster.yaml").env("HIVE_SECRETS", &secrets.to_string_lossy());
        for (index, port) in brokers.iter().enumerate() {
            project = project.env(&format!("HIVE_NATS_PORT_{}", index + 1), &port.to_string());
        }
        for (index, port) in apis.iter().enumerate() {
            project = project.env(&format!("HIVE_API_PORT_{}", index + 1), &port.to_string());
        }
        let url = brokers.map(|port| format!("tls://127.0.0.1:{port}")).join(",");
        let apis = apis.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self { project, secrets: secrets.to_owned(), url, apis }
    }

    /// How somebody of this role connects.
    fn settings(&self, role: &str) -> Settings {
        let file = |name| Some(self.secrets.join(role).join(name));
        Settings { url: self.url.clone(), nkey: file("nkey"), tls_ca: file("ca.crt"), ..Settings::default() }
    }

    async fn client(&self, role: &str) -> Client {
        let settings = self.settings(role);
        let nats = settings.connect(role, Patience::Limited(UP_LIMIT)).await;
        Client::new(nats.unwrap_or_else(|error| panic!("{}", coordinator::chain(&error))), settings.mesh)
    }

    async fn containers(&self) -> Vec<Container> {
        let mut containers = Vec::new();
        for service in BROKERS.iter().chain(&COORDINATORS).chain(&["agent"]) {
            containers.extend(self.project.containers(service).await);
        }
        containers
    }
}

/// A cluster that works, who loads it, and who counts.
struct Scene<'a> {
    cluster: &'a Cluster<'a>,
    submitter: Submitter,
    oracle: Oracle,
}

impl Scene<'_> {
    async fn every_container_is_well(&self, containers: &[Container]) {
        assert_eq!(containers.len(), BROKERS.len() + COORDINATORS.len() + 3);
        for container in containers {
            container.until("healthy").await;
        }
    }

    /// An agent, the coordinator that leads, and the broker that leads the stream of tasks, one after the other.
    async fn killed(&self, containers: &[Container]) {
        let load = self.submitter.load();
        for role in [Role::Agent, Role::Coordinator, Role::Broker] {
            let victim = self.one(role, containers).await;
            victim.kill().await;
            self.submitter.until_it_works(RECOVERY_LIMIT).await;
            victim.start().await;
            victim.until("healthy").await;
        }
        self.judge("killed", load.stop().await).await;
    }

    async fn cut_off(&self, containers: &[Container]) {
        let load = self.submitter.load();
        for role in [Role::Agent, Role::Coordinator, Role::Broker] {
            let victim = self.one(role, containers).await;
            victim.cut_off().await;
            self.submitter.until_it_works(RECOVERY_LIMIT).await;
            // Until it has noticed by itself: then it is whole again only if it really is.
            victim.until("unhealthy").await;
            victim.bring_back().await;
            victim.until("healthy").await;
        }
        self.judge("cut off", load.stop().await).await;
    }

    async fn restarted_one_by_one(&self, containers: &[Container]) {
        let load = self.submitter.load();
        for container in containers {
            container.restart().await;
            container.until("healthy").await;
        }
        self.submitter.until_it_works(RECOVERY_LIMIT).await;
        self.judge("restarted", load.stop().await).await;
    }

    async fn judge(&self, what: &str, accepted: Vec<shared::TaskId>) {
        let pause = self.oracle.judge(&accepted).await;
        println!("{what}: {} accepted, none lost; nothing was recorded for {pause:?} at the longest", accepted.len());
    }

    /// The container of a role that it hurts most to lose.
    async fn one(&self, role: Role, containers: &[Container]) -> Container {
        let started = Instant::now();
        loop {
            let service = match role {
                Role::Agent => Ok("agent".to_owned()),
                Role::Coordinator => self.leading_coordinator().await,
                Role::Broker => self.oracle.leader_of_tasks().await,
            };
            match service {
                Ok(service) => {
                    return containers.iter().find(|container| container.service() == service).unwrap().clone();
                }
                Err(problem) => assert!(started.elapsed() < RECOVERY_LIMIT, "no {role:?} leads: {problem}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn leading_coordinator(&self) -> Result<String, String> {
        for (service, api) in COORDINATORS.iter().zip(self.cluster.apis) {
            if health::ask(api, "/readyz").await.is_ok_and(|said| said.starts_with("leading")) {
                return Ok((*service).to_owned());
            }
        }
        Err("neither says so".to_owned())
    }
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Agent,
    Coordinator,
    Broker,
}
