//! A directory of users, a server that knows them, and meshes around it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coordinator::local::{AgentSpec, Broker, Launcher, LocalMesh, Options, broker};
use mesh_tests::program::Output;
use mesh_tests::{BUILTINS, mesh, program};
use serde_json::Value;
use shared::connect::Settings;

/// How often it is looked whether a state has come.
const LOOK: Duration = Duration::from_millis(20);

/// Users and settings, as `coordinator auth init` makes them.
pub(crate) struct Guard {
    dir: tempfile::TempDir,
    has_tls: bool,
    is_mutual: bool,
}

impl Guard {
    /// Users for a mesh with the agents `ada` and `bob`.
    pub(crate) async fn new(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("hivemesh-security-").tempdir().unwrap();
        let guard = Self { dir, has_tls: args.contains(&"--tls"), is_mutual: args.contains(&"--mutual") };
        guard.auth(&[&["init", "--agents", "ada,bob"], args].concat()).await.succeeded();
        guard
    }

    /// Runs `coordinator auth` on the directory.
    pub(crate) async fn auth(&self, args: &[&str]) -> Output {
        let out = self.path().display().to_string();
        program::run(&[&["auth"], args, &["--out", &out]].concat()).await
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("auth")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The seed of a user by its title, such as `agent-ada` or `reader`.
    pub(crate) fn seed(&self, title: &str) -> String {
        let file = self.file(&format!("seeds/{title}.nk"));
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().to_owned()
    }

    /// What a program has to know to be this user.
    pub(crate) fn env(&self, title: &str) -> Vec<(String, String)> {
        let file = |name: &str| self.file(name).display().to_string();
        let mut env = vec![("NATS_NKEY", file(&format!("seeds/{title}.nk")))];
        if self.has_tls {
            env.push(("NATS_CA", file("tls/ca.pem")));
        }
        if self.is_mutual {
            env.extend([("NATS_CERT", file("tls/client.pem")), ("NATS_KEY", file("tls/client.key"))]);
        }
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The same for a connection of our own.
    pub(crate) fn settings(&self, title: &str) -> Settings {
        let file = |is_used: bool, name: &str| is_used.then(|| self.file(name));
        Settings {
            nkey: Some(self.file(&format!("seeds/{title}.nk"))),
            tls_ca: file(self.has_tls, "tls/ca.pem"),
            tls_cert: file(self.is_mutual, "tls/client.pem"),
            tls_key: file(self.is_mutual, "tls/client.key"),
            ..Settings::default()
        }
    }

    /// A server that knows the users, and nothing else.
    pub(crate) async fn broker(&self) -> Broker {
        let mut options = broker::Options::new(mesh::nats_server().await, self.dir.path().join("broker"));
        options.config_file = Some(self.file("nats.conf"));
        Broker::start(&Launcher::new(program::exe()), options).await.unwrap()
    }

    /// A mesh whose coordinators and agents each have what is theirs.
    pub(crate) async fn mesh(&self, coordinators: usize, agents: &[&str]) -> GuardedMesh<'_> {
        let launcher = Launcher::new(program::exe());
        let mut options = Options::new(launcher, mesh::nats_server().await, self.dir.path().join("mesh"));
        options.broker.config_file = Some(self.file("nats.conf"));
        options.coordinators = coordinators;
        options.coordinator_env = self.env("coordinator");
        options.client = self.settings("operator");
        options.agents = agents.iter().map(|id| self.agent(id)).collect();
        let local = LocalMesh::start(options).await;
        let local = local.unwrap_or_else(|error| panic!("the mesh did not start: {}", coordinator::chain(&error)));
        if let Err(error) = local.until_ready(mesh::PATIENCE).await {
            panic!("the mesh is not ready: {error}");
        }
        let mesh = GuardedMesh { guard: self, local };
        // A coordinator is ready before it leads.
        mesh.leader().await;
        mesh
    }

    fn agent(&self, id: &str) -> AgentSpec {
        let mut spec = AgentSpec::new(id.parse().unwrap(), 4, BUILTINS);
        spec.env = self.env(&format!("agent-{id}"));
        spec
    }
}

/// A mesh under test. Dropping it ends it; if the test has failed, its logs are told.
pub(crate) struct GuardedMesh<'a> {
    guard: &'a Guard,
    pub(crate) local: LocalMesh,
}

impl GuardedMesh<'_> {
    /// Runs a command of `coordinator` as this user.
    pub(crate) async fn cli(&self, title: &str, args: &[&str]) -> Output {
        let url = self.local.nats_url();
        let mut command = program::command(&[&["--nats", &url], args].concat());
        command.envs(self.guard.env(title));
        program::finish(command).await
    }

    /// The same, where it must succeed and print JSON.
    pub(crate) async fn json(&self, title: &str, args: &[&str]) -> Value {
        self.cli(title, &[args, &["--json"]].concat()).await.succeeded().json()
    }

    /// Which of the coordinators leads.
    pub(crate) async fn leader(&self) -> usize {
        let started = Instant::now();
        loop {
            for (index, coordinator) in self.local.coordinators().iter().enumerate() {
                let Some(address) = coordinator.http().filter(|_| coordinator.process().is_running()) else { continue };
                let Ok(answer) = reqwest::get(format!("http://{address}/readyz")).await else { continue };
                if answer.text().await.is_ok_and(|said| said.starts_with("leading")) {
                    return index;
                }
            }
            assert!(started.elapsed() < mesh::PATIENCE, "no coordinator leads");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A task as the leader sees it.
    pub(crate) async fn task(&self, id: &str) -> Value {
        self.json("submitter", &["tasks", "get", id]).await
    }

    /// Waits until a task is in this state.
    pub(crate) async fn until_task(&self, id: &str, state: &str) {
        let what = format!("task {id} is {state}");
        self.until(&what, async || {
            let output = self.cli("submitter", &["tasks", "get", id, "--json"]).await;
            output.code == 0 && output.json()["state"] == state
        })
        .await;
    }

    /// Waits for a state.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let started = Instant::now();
        while !is_so().await {
            assert!(started.elapsed() < mesh::PATIENCE, "it has not come that {what}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All that its processes have written, each under its name.
    pub(crate) fn logs(&self) -> Vec<(String, String)> {
        let agents = self.local.agents().iter().map(coordinator::local::Agent::process);
        let coordinators = self.local.coordinators().iter().map(coordinator::local::Coordinator::process);
        let processes = agents.chain(coordinators).chain([self.local.broker().process()]);
        processes.map(|process| (process.name().to_owned(), read(process.log()))).collect()
    }

    /// Checks that nobody was refused anything.
    pub(crate) fn assert_nobody_was_refused(&self) {
        for (name, log) in self.logs().iter().filter(|(name, _)| name != "nats-server") {
            let refused: Vec<&str> = log.lines().filter(|line| line.contains("permissions violation")).collect();
            assert!(refused.is_empty(), "{name} was refused: {refused:#?}");
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

impl Drop for GuardedMesh<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, log) in self.logs() {
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {name}:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
            }
        }
    }
}
