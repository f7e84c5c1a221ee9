//! How agents of a pool are started and ended.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shared::AgentId;
use shared::connect::Settings;

/// How agents of a pool are started and ended.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Config {
    /// Processes on the coordinator's host.
    Process(Process),
}

/// Agents that are processes on the coordinator's host.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Process {
    /// The agents' settings.
    pub config: PathBuf,
}

impl Config {
    /// Everything that is wrong with it, each with what to do instead.
    pub fn problems(&self, pool: &str) -> Vec<String> {
        let Config::Process(process) = self;
        let is_absent = process.config.as_os_str().is_empty();
        is_absent
            .then(|| format!("[pools.{pool}.actuator] config: name the file of the agents' settings"))
            .into_iter()
            .collect()
    }

    /// What kind of actuator it is.
    pub(crate) fn kind(&self) -> &'static str {
        let Config::Process(_) = self;
        "process"
    }
}

/// Agents that are to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) order: u64,
    pub(crate) count: u32,
    pub(crate) wished: u32,
}

/// What an actuator tells the agents it starts.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) connection: Settings,
}

impl Surroundings {
    /// For agents of the mesh that this coordinator is one of.
    pub(crate) fn new(connection: &Settings) -> Self {
        Self { connection: connection.clone() }
    }
}

/// Why agents were not started or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActuatorError {
    /// This coordinator has no such actuator.
    #[error("this coordinator cannot start agents of pool `{pool}` ({what}) on mesh `{mesh}`")]
    Missing { pool: String, what: String, mesh: String },
}

/// Starts and ends the agents of one pool.
#[derive(Debug)]
pub(crate) struct Actuator {
    pool: String,
    mesh: String,
}

impl Actuator {
    pub(crate) fn new(pool: &str, config: &Config, surroundings: &Surroundings) -> Result<Self, ActuatorError> {
        let Config::Process(_) = config;
        Ok(Self { pool: pool.to_owned(), mesh: surroundings.connection.mesh.to_string() })
    }

    /// Starts so many agents more; returns when they are on their way, not when they are there.
    pub(crate) async fn start(&self, start: &Start) -> Result<(), ActuatorError> {
        let Start { order, count, wished } = start;
        Err(self.missing(format!("order {order}: {count} to be {wished}")))
    }

    /// These agents have been told over NATS to finish and leave: whoever keeps a number is told the new one.
    pub(crate) async fn leaving(&self, agents: &[AgentId], wished: u32) -> Result<(), ActuatorError> {
        Err(self.missing(format!("{} to leave {wished}", agents.len())))
    }

    /// Ends agents now, whatever they do.
    pub(crate) async fn remove(&self, agents: &[AgentId], wished: u32) -> Result<(), ActuatorError> {
        Err(self.missing(format!("{} to be ended, to leave {wished}", agents.len())))
    }

    fn missing(&self, what: String) -> ActuatorError {
        ActuatorError::Missing { pool: self.pool.clone(), what, mesh: self.mesh.clone() }
    }
}
