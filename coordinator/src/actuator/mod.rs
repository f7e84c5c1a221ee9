//! How agents of a pool are started and ended.
//!
//! How many there are to be, and who is to go, is decided elsewhere. An actuator has it done by whoever runs programs: this
//! host ([`process`]), the Docker Engine ([`docker`]), Compose ([`compose`]), Kubernetes ([`kubernetes`]), a program
//! ([`command`]) or a service ([`http`]) of the operator's own. It says what was refused; whether agents really came is seen
//! by their beats, and by nothing that an actuator says.

pub mod command;
pub mod compose;
pub mod docker;
mod engine;
pub mod http;
pub mod kubernetes;
pub mod process;
mod program;
mod surroundings;

use serde::{Deserialize, Serialize};
use shared::{AgentId, MeshName};

pub(crate) use surroundings::{NoCredentials, Surroundings};

/// How agents of a pool are started and ended.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Config {
    /// Processes on the coordinator's host.
    Process(process::Config),
    /// Containers, by the Docker Engine.
    Docker(docker::Config),
    /// Containers of a service of a compose file.
    Compose(compose::Config),
    /// Whatever a program does.
    Command(command::Config),
    /// Whatever a service does.
    Http(http::Config),
    /// Pods of a Deployment or StatefulSet.
    Kubernetes(kubernetes::Config),
}

impl Config {
    /// Everything that is wrong with it, each with what to do instead.
    pub fn problems(&self, pool: &str) -> Vec<String> {
        let problems = match self {
            Config::Process(config) => config.problems(),
            Config::Docker(config) => config.problems(),
            Config::Compose(config) => config.problems(),
            Config::Command(config) => config.problems(),
            Config::Http(config) => config.problems(),
            Config::Kubernetes(config) => config.problems(),
        };
        problems.iter().map(|problem| format!("[pools.{pool}.actuator] {problem}")).collect()
    }

    /// What kind of actuator it is, as it is written.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Config::Process(_) => "process",
            Config::Docker(_) => "docker",
            Config::Compose(_) => "compose",
            Config::Command(_) => "command",
            Config::Http(_) => "http",
            Config::Kubernetes(_) => "kubernetes",
        }
    }
}

/// An order to start agents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Its number: where it can be told, what was started for the same number is not started again.
    pub(crate) order: u64,
    /// How many more.
    pub(crate) count: u32,
    /// How many there are to be with them.
    pub(crate) wished: u32,
}

/// Whose agents they are.
#[derive(Clone, Debug)]
struct Owner {
    mesh: MeshName,
    pool: String,
}

impl Owner {
    /// A name that no agent has had: the pool's, and something random.
    fn new_agent(&self) -> AgentId {
        const RANDOM: usize = "-01234567".len();
        let pool = &self.pool[..self.pool.len().min(AgentId::MAX_LEN - RANDOM)];
        let id = format!("{pool}-{:08x}", fastrand::u32(..));
        AgentId::new(id).expect("the name of a pool has the alphabet of an agent's")
    }
}

/// Why agents were not started or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActuatorError {
    /// By processes of this host.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// By the Docker Engine.
    #[error(transparent)]
    Docker(#[from] docker::Error),
    /// By Compose.
    #[error(transparent)]
    Compose(#[from] compose::Error),
    /// By a program.
    #[error(transparent)]
    Command(#[from] program::Error),
    /// By a service.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// By Kubernetes.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
}

/// Starts and ends the agents of one pool.
#[derive(Debug)]
pub(crate) struct Actuator(By);

#[derive(Debug)]
enum By {
    Process(process::Processes),
    Docker(docker::Containers),
    Compose(compose::Service),
    Command(command::Program),
    Http(http::Hook),
    Kubernetes(Box<kubernetes::Workload>),
}

impl Actuator {
    /// For a pool whose settings have no [problems](Config::problems).
    pub(crate) fn new(pool: &str, config: &Config, surroundings: &Surroundings) -> Result<Self, ActuatorError> {
        let owner = Owner { mesh: surroundings.connection.mesh.clone(), pool: pool.to_owned() };
        Ok(Self(match config {
            Config::Process(config) => By::Process(process::Processes::new(owner, config, surroundings)?),
            Config::Docker(config) => By::Docker(docker::Containers::new(owner, config, surroundings)?),
            Config::Compose(config) => By::Compose(compose::Service::new(config)),
            Config::Command(config) => By::Command(command::Program::new(owner, config, surroundings)),
            Config::Http(config) => By::Http(http::Hook::new(owner, config)?),
            Config::Kubernetes(config) => By::Kubernetes(Box::new(kubernetes::Workload::new(config))),
        }))
    }

    /// Starts so many agents more; returns when they are on their way, not when they are there.
    pub(crate) async fn start(&self, start: &Start) -> Result<(), ActuatorError> {
        match &self.0 {
            By::Process(processes) => processes.start(start).await?,
            By::Docker(containers) => containers.start(start).await?,
            By::Compose(service) => service.start(start).await?,
            By::Command(program) => program.start(start).await?,
            By::Http(hook) => hook.start(start).await?,
            By::Kubernetes(workload) => workload.start(start).await?,
        }
        Ok(())
    }

    /// These agents have been told over NATS to finish and leave: whoever keeps a number is told the new one, so that
    /// nobody brings them back.
    pub(crate) async fn leaving(&self, agents: &[AgentId], wished: u32) -> Result<(), ActuatorError> {
        match &self.0 {
            // Nobody brings them back: whoever has left has ended.
            By::Process(_) | By::Docker(_) => {}
            By::Compose(service) => service.leaving(agents).await?,
            By::Command(program) => program.leaving(agents, wished).await?,
            By::Http(hook) => hook.leaving(agents, wished).await?,
            By::Kubernetes(workload) => workload.leaving(agents, wished).await?,
        }
        Ok(())
    }

    /// Ends agents now, whatever they do. Of those that have left it takes away what is still there.
    pub(crate) async fn remove(&self, agents: &[AgentId], wished: u32) -> Result<(), ActuatorError> {
        match &self.0 {
            By::Process(processes) => processes.remove(agents).await?,
            By::Docker(containers) => containers.remove(agents).await?,
            By::Compose(service) => service.remove(agents).await?,
            By::Command(program) => program.remove(agents, wished).await?,
            By::Http(hook) => hook.remove(agents, wished).await?,
            By::Kubernetes(workload) => workload.remove(agents, wished).await?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_type_says_which_settings_there_are() {
        let all = [
            ("process", "slots = 2"),
            ("docker", "image = \"hivemesh/agent-worker\""),
            ("compose", "file = \"compose.yaml\"\nservice = \"agent\""),
            ("command", "argv = [\"scale\"]"),
            ("http", "url = \"https://example.org/scale\"\nsecret-file = \"secret\""),
            ("kubernetes", "name = \"agent\""),
        ];
        for (kind, settings) in all {
            let config = read(&format!("type = \"{kind}\"\n{settings}")).unwrap();

            assert_eq!((config.kind(), config.problems("workers")), (kind, Vec::new()));
            // As it is kept and shown.
            let json = serde_json::to_value(&config).unwrap();
            assert_eq!(json["type"], kind);
            assert_eq!(serde_json::from_value::<Config>(json).unwrap(), config);
            assert_eq!(read(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn a_setting_that_is_not_known_is_refused_whichever_type_it_is() {
        for kind in ["process", "docker", "compose", "command", "http", "kubernetes"] {
            let error = read(&format!("type = \"{kind}\"\nslotz = 4")).unwrap_err();

            assert!(error.contains("unknown field `slotz`"), "{kind}: {error}");
        }
        let error = read("type = \"nomad\"").unwrap_err();
        assert!(error.contains("unknown variant `nomad`") && error.contains("`kubernetes`"), "{error}");
    }

    #[test]
    fn problems_are_told_with_their_place() {
        let config = read("type = \"command\"\nargv = []").unwrap();

        let problems = config.problems("workers");

        assert!(problems[0].starts_with("[pools.workers.actuator] argv: "), "{problems:?}");
    }

    #[tokio::test]
    async fn orders_are_carried_out_beside_other_work() {
        let config = read("type = \"command\"\nargv = [\"/bin/sh\", \"-c\", \"test $HIVE_WISHED = 3\"]").unwrap();
        let surroundings = Surroundings::new(&shared::connect::Settings::default());
        let actuator = Actuator::new("workers", &config, &surroundings).unwrap();

        let work = tokio::spawn(async move {
            let agents = [AgentId::new("workers-1").unwrap()];
            let started = actuator.start(&Start { order: 1, count: 1, wished: 3 }).await.is_ok();
            (started, actuator.leaving(&agents, 2).await.is_ok(), actuator.remove(&agents, 3).await.is_ok())
        });

        assert_eq!(work.await.unwrap(), (true, false, true));
    }

    #[test]
    fn an_agents_name_begins_with_its_pools_and_fits() {
        let owner = |pool: &str| Owner { mesh: MeshName::default(), pool: pool.to_owned() };

        let id = owner("workers").new_agent();
        assert!(id.as_str().starts_with("workers-") && id.as_str().len() == "workers-".len() + 8, "{id}");
        assert_ne!(owner("workers").new_agent(), id);
        assert_eq!(owner(&"x".repeat(AgentId::MAX_LEN)).new_agent().as_str().len(), AgentId::MAX_LEN);
    }
}
