//! Agents that are containers of a service of a compose file.
//!
//! Compose makes more of them (`up --scale`), since it alone knows what its file says. It cannot be told whom to end, so
//! that is asked of the Engine, for exactly the containers of the agents that are to go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::AgentId;
use tokio::sync::OnceCell;
use tracing::{info, warn};

use super::Start;
use super::engine::{self, Container, Engine};
use super::program::{self, Call};

/// By these labels Compose finds its containers, whichever version it is of.
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
/// Of a container that somebody has run by hand it is `True`.
const ONE_OFF: &str = "com.docker.compose.oneoff";
/// Both ways to call it.
const COMPOSES: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
/// How long it may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(15);
/// A container is called so unless its file says something else, and an agent within is called after it.
const HOST_NAME_LENGTH: usize = 12;

/// Settings of `type = "compose"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The compose file.
    pub file: PathBuf,
    /// Which of its services the agents are.
    pub service: String,
    /// The project's name: that of the file's directory if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Variables that the file has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How Compose is called: `["docker", "compose"]`, or `["docker-compose"]` where there is no such thing, if it is not
    /// said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub program: Vec<String>,
    /// How long Compose may take.
    #[serde(default = "two_minutes", with = "humantime_serde")]
    pub timeout: Duration,
    /// Where the Engine listens: `unix:///var/run/docker.sock`, or what `DOCKER_HOST` says, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

fn two_minutes() -> Duration {
    Duration::from_secs(120)
}

impl Config {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = engine::problem_with_host(self.host.as_deref()).into_iter().collect();
        let mut check = |is_wrong: bool, what: &str| {
            if is_wrong {
                problems.push(what.to_owned());
            }
        };
        check(self.file.as_os_str().is_empty(), "file: name the compose file");
        check(self.service.is_empty(), "service: name the service of the file that the agents are");
        check(self.service.starts_with('-'), "service: no service begins with `-`");
        check(self.timeout.is_zero(), "timeout: it could do nothing: write 10s or more");
        let is_named = self.project.as_ref().is_none_or(|project| is_project(project));
        check(!is_named, "project: use a-z 0-9 - _, beginning with a letter or a digit");
        problems
    }

    /// As Compose makes it of the file's directory.
    fn project(&self) -> String {
        let directory = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        let directory = directory.parent().and_then(|parent| parent.file_name()).unwrap_or_default();
        let name = directory.to_string_lossy().to_lowercase();
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
        self.project.clone().unwrap_or_else(|| name.trim_start_matches(['-', '_']).to_owned())
    }
}

fn is_project(name: &str) -> bool {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    name.chars().all(is_good) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Why agents were not started or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// By the Engine.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// By Compose.
    #[error(transparent)]
    Compose(#[from] program::Error),
    /// There is no Compose.
    #[error(
        "there is neither `docker compose` nor `docker-compose` here: install one, or say how it is called in `program`"
    )]
    NoCompose,
}

/// The service of one pool.
#[derive(Debug)]
pub(super) struct Service {
    config: Config,
    project: String,
    engine: Engine,
    compose: OnceCell<Vec<String>>,
    /// Containers of agents that were told to go and may be there still.
    leaving: Mutex<Vec<String>>,
}

impl Service {
    pub(super) fn new(config: &Config) -> Self {
        let compose = if config.program.is_empty() { None } else { Some(config.program.clone()) };
        Self {
            config: config.clone(),
            project: config.project(),
            engine: Engine::new(config.host.as_deref()),
            compose: OnceCell::new_with(compose),
            leaving: Mutex::new(Vec::new()),
        }
    }

    /// To carry an order out twice starts nobody twice: Compose is told how many there are to be.
    pub(super) async fn start(&self, start: &Start) -> Result<(), Error> {
        let there = self.clear_away(self.containers().await?).await?;
        let leaving = self.known_to_leave();
        let leaving = there.iter().filter(|container| leaving.contains(&container.id)).count();
        // Whoever leaves is still counted by Compose, and not by who wishes.
        let wanted = start.wished as usize + leaving;
        info!(
            service = self.config.service,
            project = self.project,
            there = there.len(),
            wanted,
            "scaling the service"
        );
        if there.len() >= wanted { Ok(()) } else { self.scale(wanted).await }
    }

    /// Whoever has left is not started again, whatever the file says.
    pub(super) async fn leaving(&self, agents: &[AgentId]) -> Result<(), Error> {
        let there = self.containers().await?;
        for agent in agents {
            match there.iter().find(|container| is_of(container, agent)) {
                Some(container) => {
                    self.engine.keep_down(&container.id).await?;
                    self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(container.id.clone());
                }
                None => warn!(%agent, service = self.config.service, "no container of the service is this agent's"),
            }
        }
        Ok(())
    }

    pub(super) async fn remove(&self, agents: &[AgentId]) -> Result<(), Error> {
        let there = self.containers().await?;
        let is_meant = |container: &&Container| agents.iter().any(|agent| is_of(container, agent));
        for container in there.iter().filter(is_meant) {
            self.engine.remove(&container.id).await?;
            self.forget(&container.id);
        }
        Ok(())
    }

    /// Takes away who has left: Compose would start it again. Returns the rest.
    async fn clear_away(&self, there: Vec<Container>) -> Result<Vec<Container>, Error> {
        let leaving = self.known_to_leave();
        let (gone, rest): (Vec<_>, Vec<_>) =
            there.into_iter().partition(|container| container.has_ended && leaving.contains(&container.id));
        for container in gone {
            self.engine.remove(&container.id).await?;
            self.forget(&container.id);
        }
        Ok(rest)
    }

    async fn scale(&self, containers: usize) -> Result<(), Error> {
        let Config { file, service, env, timeout, .. } = &self.config;
        let mut argv = self.compose().await?.clone();
        let file = file.to_string_lossy();
        argv.extend(["--file", &file, "--project-name", &self.project].map(str::to_owned));
        argv.extend(["up", "--detach", "--no-recreate", "--no-deps", "--scale"].map(str::to_owned));
        argv.extend([format!("{service}={containers}"), service.clone()]);
        let call = self.call(argv, *timeout);
        env.iter().fold(call, |call, (name, value)| call.env(name, value)).run().await?;
        Ok(())
    }

    /// It must mean the same Engine as we.
    fn call(&self, argv: Vec<String>, timeout: Duration) -> Call {
        let of_docker = ["DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"];
        Call::new(argv, timeout).pass(of_docker).env("DOCKER_HOST", self.engine.host())
    }

    async fn compose(&self) -> Result<&Vec<String>, Error> {
        self.compose.get_or_try_init(|| self.find_compose()).await
    }

    async fn find_compose(&self) -> Result<Vec<String>, Error> {
        for words in COMPOSES {
            let argv: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let asked = [argv.clone(), vec!["version".to_owned()]].concat();
            if self.call(asked, VERSION_TIMEOUT).run().await.is_ok() {
                return Ok(argv);
            }
        }
        Err(Error::NoCompose)
    }

    async fn containers(&self) -> Result<Vec<Container>, Error> {
        let labels = [(PROJECT, self.project.as_str()), (SERVICE, &self.config.service), (ONE_OFF, "False")];
        Ok(self.engine.containers(&labels).await?)
    }

    fn known_to_leave(&self) -> Vec<String> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self, id: &str) {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).retain(|leaving| leaving != id);
    }
}

/// An agent that is not told its name takes its host's, which is the beginning of the container's id, and something random.
fn is_of(container: &Container, agent: &AgentId) -> bool {
    let host = container.id.get(..HOST_NAME_LENGTH).unwrap_or(&container.id);
    let rest = agent.as_str().strip_prefix(host);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::engine::tests::FakeEngine;
    use super::*;

    const A: &str = "aaaaaaaaaaaa1111";
    const B: &str = "bbbbbbbbbbbb2222";

    /// A service whose Compose only writes down how it was called.
    async fn service(fake: &FakeEngine, dir: &Path) -> Service {
        let compose = dir.join("compose.sh");
        let script = format!("echo \"$DOCKER_HOST $TAG $*\" >> {}\n", dir.join("calls").display());
        std::fs::write(&compose, script).unwrap();
        Service::new(&Config {
            file: "mesh/compose.yaml".into(),
            service: "agent".to_owned(),
            project: None,
            env: BTreeMap::from([("TAG".to_owned(), "9".to_owned())]),
            program: vec!["/bin/sh".to_owned(), compose.display().to_string()],
            timeout: two_minutes(),
            host: Some(fake.listen().await),
        })
    }

    fn calls(dir: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(dir.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn agent(container: &str) -> AgentId {
        AgentId::new(format!("{}-0a1b2c", &container[..HOST_NAME_LENGTH])).unwrap()
    }

    #[tokio::test]
    async fn compose_is_told_how_many_there_are_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeEngine::with(&[(A, json!({}), "running", 1)]);
        let service = service(&fake, dir.path()).await;

        service.start(&Start { order: 1, count: 2, wished: 3 }).await.unwrap();
        // There is one already.
        service.start(&Start { order: 2, count: 1, wished: 1 }).await.unwrap();

        let called =
            "--file mesh/compose.yaml --project-name mesh up --detach --no-recreate --no-deps --scale agent=3 agent";
        assert_eq!(calls(dir.path()), [format!("{} 9 {called}", service.engine.host())]);
    }

    #[tokio::test]
    async fn whoever_leaves_is_not_started_again_and_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeEngine::with(&[(A, json!({}), "running", 1), (B, json!({}), "running", 1)]);
        let service = service(&fake, dir.path()).await;

        service.leaving(&[agent(B)]).await.unwrap();
        service.start(&Start { order: 1, count: 1, wished: 2 }).await.unwrap();

        let (path, body) = &fake.changes()[0];
        assert_eq!(path, &format!("POST /containers/{B}/update"));
        assert_eq!(body["RestartPolicy"]["Name"], "no");
        assert!(calls(dir.path())[0].ends_with("agent=3 agent"), "two besides the one that leaves");
    }

    #[tokio::test]
    async fn exactly_the_containers_of_those_who_are_named_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeEngine::with(&[(A, json!({}), "running", 1), (B, json!({}), "exited", 1)]);
        let service = service(&fake, dir.path()).await;

        service.remove(&[agent(B), AgentId::new("another").unwrap()]).await.unwrap();

        let changes = fake.changes();
        assert!(changes.len() == 1 && changes[0].0.starts_with(&format!("DELETE /containers/{B}?")), "{changes:?}");
    }

    #[tokio::test]
    async fn whoever_has_left_is_taken_away_before_compose_could_start_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeEngine::with(&[(A, json!({}), "running", 1), (B, json!({}), "exited", 1)]);
        let service = service(&fake, dir.path()).await;
        service.leaving(&[agent(B)]).await.unwrap();
        fake.changes();

        service.start(&Start { order: 1, count: 1, wished: 2 }).await.unwrap();

        assert!(fake.changes()[0].0.starts_with(&format!("DELETE /containers/{B}?")));
        assert!(calls(dir.path())[0].ends_with("agent=2 agent"));
    }

    #[test]
    fn a_project_is_called_after_its_directory_as_compose_does() {
        let config = |file: &str, project: Option<&str>| Config {
            file: file.into(),
            service: "agent".to_owned(),
            project: project.map(str::to_owned),
            env: BTreeMap::new(),
            program: Vec::new(),
            timeout: two_minutes(),
            host: None,
        };

        assert_eq!(config("/srv/_My.Mesh-2/compose.yaml", None).project(), "mymesh-2");
        assert_eq!(config("/srv/mesh/compose.yaml", Some("other")).project(), "other");
        assert_eq!(config("/srv/mesh/compose.yaml", Some("Other")).problems().len(), 1);
        assert!(config("/srv/mesh/compose.yaml", Some("other")).problems().is_empty());
    }
}
