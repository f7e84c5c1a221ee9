//! Agents that a program of the operator's own starts and ends: for Nomad, systemd, a cloud, or whatever there is.
//!
//! The program is told by its environment what to do. It says by its exit code whether it has done it, and by its standard
//! error what went wrong.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::AgentId;

use super::program::{Call, Error};
use super::{Owner, Start, Surroundings};

/// Settings of `type = "command"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The program and its arguments. There is no shell.
    pub argv: Vec<String>,
    /// How long it may take. One that takes longer is killed, with all that it has started.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Variables of the coordinator's that it sees as well. Of the rest it sees those that programs need (`PATH`, `HOME`, …).
    pub env: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { argv: Vec::new(), timeout: Duration::from_secs(60), env: Vec::new() }
    }
}

impl Config {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.argv.first().is_none_or(String::is_empty) {
            problems
                .push("argv: name the program, and then its arguments: [\"/usr/local/bin/scale\", \"agents\"]".into());
        }
        if self.timeout.is_zero() {
            problems.push("timeout: it could do nothing: write 1s or more".into());
        }
        problems
    }
}

/// The program of one pool.
#[derive(Debug)]
pub(super) struct Program {
    owner: Owner,
    config: Config,
    nats_url: String,
}

impl Program {
    pub(super) fn new(owner: Owner, config: &Config, surroundings: &Surroundings) -> Self {
        Self { owner, config: config.clone(), nats_url: surroundings.connection.url_without_secrets() }
    }

    pub(super) async fn start(&self, start: &Start) -> Result<(), Error> {
        let call = self.call("start", start.count, start.wished);
        call.env("HIVE_ORDER", start.order.to_string()).run().await
    }

    pub(super) async fn leaving(&self, agents: &[AgentId], wished: u32) -> Result<(), Error> {
        self.about("leaving", agents, wished).run().await
    }

    pub(super) async fn remove(&self, agents: &[AgentId], wished: u32) -> Result<(), Error> {
        self.about("remove", agents, wished).run().await
    }

    fn about(&self, action: &str, agents: &[AgentId], wished: u32) -> Call {
        let names: Vec<&str> = agents.iter().map(AgentId::as_str).collect();
        self.call(action, agents.len() as u32, wished).env("HIVE_AGENTS", names.join(" "))
    }

    fn call(&self, action: &str, count: u32, wished: u32) -> Call {
        Call::new(self.config.argv.clone(), self.config.timeout)
            .pass(self.config.env.iter().map(String::as_str))
            .env("NATS_URL", &self.nats_url)
            .env("HIVE_MESH", self.owner.mesh.as_str())
            .env("HIVE_POOL", &self.owner.pool)
            .env("HIVE_ACTION", action)
            .env("HIVE_COUNT", count.to_string())
            .env("HIVE_WISHED", wished.to_string())
    }
}

#[cfg(test)]
mod tests {
    use shared::connect::Settings;

    use super::*;

    /// A program that writes its environment into a file.
    fn writing_to(file: &std::path::Path) -> Program {
        let script = format!("env | sort > {}; echo $# arguments >> {0}", file.display());
        let argv = ["/bin/sh", "-c", &script, "sh", "a b", "$(c)"].map(str::to_owned).to_vec();
        let owner = Owner { mesh: "hive".parse().unwrap(), pool: "workers".to_owned() };
        let connection = Settings { url: "nats://me:secret@broker".to_owned(), ..Settings::default() };
        let surroundings = Surroundings { connection, lifeline: None };
        Program::new(owner, &Config { argv, ..Config::default() }, &surroundings)
    }

    fn told(file: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(file).unwrap();
        let is_ours = |line: &&str| line.starts_with("HIVE_") && !line.starts_with("HIVE_LOG") || line.contains(' ');
        text.lines().filter(is_ours).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn the_program_is_told_by_its_environment_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("told");
        let program = writing_to(&file);

        program.start(&Start { order: 7, count: 2, wished: 5 }).await.unwrap();
        let (start, text) = (told(&file), std::fs::read_to_string(&file).unwrap());
        let agents = ["ada", "bob"].map(|id| AgentId::new(id).unwrap());
        program.leaving(&agents, 3).await.unwrap();
        let leaving = told(&file);

        let told = ["HIVE_ACTION=start", "HIVE_COUNT=2", "HIVE_MESH=hive", "HIVE_ORDER=7", "HIVE_POOL=workers"];
        // Arguments are not read by any shell.
        assert_eq!(start, [&told[..], &["HIVE_WISHED=5", "2 arguments"]].concat());
        let told =
            ["HIVE_ACTION=leaving", "HIVE_AGENTS=ada bob", "HIVE_COUNT=2", "HIVE_MESH=hive", "HIVE_POOL=workers"];
        assert_eq!(leaving, [&told[..], &["HIVE_WISHED=3", "2 arguments"]].concat());
        assert!(text.contains("NATS_URL=nats://broker") && !text.contains("secret"), "{text}");
        assert!(!text.contains("CARGO_"), "what it was not given is not there: {text}");
    }

    #[test]
    fn a_program_must_be_named() {
        assert_eq!(Config::default().problems().len(), 1);
        assert_eq!(
            Config { argv: vec!["scale".into()], timeout: Duration::ZERO, ..Config::default() }.problems().len(),
            1
        );
    }
}
