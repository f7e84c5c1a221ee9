//! A pool of containers, that a coordinator outside makes larger and smaller through the Docker Engine.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mesh_tests::docker::run;
use mesh_tests::{Docker, new_task, program};
use shared::client::NewTask;
use shared::connect::{Patience, Settings};
use shared::{Client, TaskId, api};
use testcontainers::core::{IntoContainerPort as _, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::process::Child;

use crate::oracle::Oracle;

/// Tasks of the burst, and how long each runs: 150 s of work for one slot, 9 s for sixteen.
const BURST: usize = 3000;
const RUNS: &str = "50ms";
/// How long anything may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(180);
/// How often it is looked whether a state has come.
const LOOK: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_containers_grows_under_a_burst_and_shrinks_without_interrupting_anything() {
    let Some(_docker) = Docker::start().await else { return };
    let scene = Scene::start().await;
    scene.until("one agent", |agents| agents.len() == 1).await;

    let accepted = scene.burst().await;
    scene.until("four agents", |agents| agents.len() == 4).await;
    let most = scene.containers().await.len();
    Oracle(scene.client.clone()).judge(&accepted).await;
    scene.until("one agent again", |agents| agents.len() == 1).await;
    scene.until_containers_are(1).await;

    assert_eq!(most, 4, "the pool may have four");
    assert_eq!(scene.started_again().await, Vec::<String>::new(), "nothing was interrupted");
}

/// A mesh whose broker and agents are containers, and whose coordinator is not.
struct Scene {
    client: Client,
    pool: String,
    _coordinator: Child,
    _broker: ContainerAsync<GenericImage>,
    _files: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Self {
        let broker = GenericImage::new("hivemesh/nats-server", "latest")
            .with_exposed_port(4222.tcp())
            .with_wait_for(WaitFor::healthcheck())
            .with_cmd(["--jetstream", "--store_dir", "/data", "--http_port", "8222"])
            // Said, since its address in it is asked for below.
            .with_network("bridge")
            .start()
            .await
            .unwrap();
        let url = format!("nats://127.0.0.1:{}", broker.get_host_port_ipv4(4222.tcp()).await.unwrap());
        let inside = format!("nats://{}:4222", broker.get_bridge_ip_address().await.unwrap());
        // Other tests on this Engine have pools too.
        let pool = format!("workers-{}", std::process::id());
        let files = tempfile::tempdir().unwrap();
        let config = files.path().join("coordinator.toml");
        std::fs::write(&config, settings(&pool, &inside)).unwrap();
        let coordinator = coordinator(&url, &config);
        let settings = Settings { url, ..Settings::default() };
        let nats = settings.connect("oracle", Patience::Limited(Duration::from_secs(30))).await.unwrap();
        let client = Client::new(nats, settings.mesh);
        Self { client, pool, _coordinator: coordinator, _broker: broker, _files: files }
    }

    /// Submits all of it at once; the ids.
    async fn burst(&self) -> Vec<TaskId> {
        let tasks: Vec<NewTask> = (0..BURST).map(|_| new_task("sleep", RUNS)).collect();
        for some in tasks.chunks(200) {
            for stored in futures_util::future::join_all(some.iter().map(|task| self.client.submit(task))).await {
                stored.unwrap();
            }
        }
        tasks.into_iter().map(|task| task.id).collect()
    }

    /// Waits until this is so of the agents that are there.
    async fn until(&self, what: &str, is_so: impl Fn(&[api::Agent]) -> bool) {
        let started = Instant::now();
        loop {
            let seen = self.agents().await;
            if seen.as_ref().is_ok_and(|agents| is_so(agents)) {
                return;
            }
            assert!(started.elapsed() < LIMIT, "{what} has not come: {seen:?}\n{}", self.history().await);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn until_containers_are(&self, count: usize) {
        let started = Instant::now();
        while self.containers().await.len() != count {
            assert!(started.elapsed() < LIMIT, "there are {:?}", self.containers().await);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn agents(&self) -> Result<Vec<api::Agent>, String> {
        let answer = self.ask("agent", "list", serde_json::json!({})).await?;
        let list: api::List<api::Agent> = serde_json::from_value(answer).map_err(|error| error.to_string())?;
        let is_there = |agent: &api::Agent| agent.state == api::AgentState::Healthy;
        Ok(list.items.into_iter().filter(is_there).collect())
    }

    async fn history(&self) -> String {
        let answer = self.ask("scale", "history", serde_json::json!({ "id": self.pool })).await;
        answer.map_or_else(|error| error, |history| history.to_string())
    }

    async fn ask(&self, noun: &str, verb: &str, request: serde_json::Value) -> Result<serde_json::Value, String> {
        let (subject, body) = (self.client.subjects().api(noun, verb), request.to_string());
        let answer = self.client.nats().request(subject, body.into()).await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())
    }

    /// The containers of the pool, those that have ended among them.
    async fn containers(&self) -> Vec<String> {
        let filter = format!("label=hivemesh.pool={}", self.pool);
        let listed = run(&["docker", "ps", "--all", "--quiet", "--filter", &filter]).await;
        listed.split_whitespace().map(str::to_owned).collect()
    }

    /// Tasks that took more than one attempt.
    async fn started_again(&self) -> Vec<String> {
        let results = Oracle(self.client.clone()).all().await;
        results.into_iter().filter(|result| result.attempts != 1).map(|result| format!("{result:?}")).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What is dropped while a runtime works cannot wait for anything but by itself.
        let docker = |args: &[&str]| std::process::Command::new("docker").args(args).output();
        let filter = format!("label=hivemesh.pool={}", self.pool);
        let Ok(listed) = docker(&["ps", "--all", "--quiet", "--filter", &filter]) else { return };
        for id in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            if std::thread::panicking()
                && let Ok(logs) = docker(&["logs", "--tail", "20", id])
            {
                eprintln!("the log of {id}:\n{}", String::from_utf8_lossy(&logs.stderr));
            }
            let _ = docker(&["rm", "--force", id]);
        }
    }
}

/// Quick to grow and quick to shrink, as containers start within a second or two.
fn settings(pool: &str, nats_url: &str) -> String {
    format!(
        "[pools.{pool}]\nmin-agents = 1\nmax-agents = 4\nslots = 4\ninterval = \"500ms\"\nstale-after = \"5s\"\n\
         startup-time = \"2s\"\nstartup-timeout = \"60s\"\ntarget-wait = \"1s\"\nup-cooldown = \"1s\"\n\
         down-cooldown = \"5s\"\nflap-budget = 20\nlabels = \"pool={pool}\"\n\n\
         [pools.{pool}.actuator]\ntype = \"docker\"\nimage = \"hivemesh/agent-worker:latest\"\n\
         command = [\"--slots\", \"4\", \"--label\", \"pool={pool}\"]\nenv = {{ NATS_URL = \"{nats_url}\" }}\n"
    )
}

/// A coordinator that ends with the test.
fn coordinator(url: &str, config: &Path) -> Child {
    let config = config.display().to_string();
    let mut command = program::command(&["serve", "--nats", url, "--http", "127.0.0.1:0", "--config", &config]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
