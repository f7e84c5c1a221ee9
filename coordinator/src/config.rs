//! The coordinator's settings: all components' in one file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{alerts, hooks, http, scale, store};

/// The settings of a coordinator, as its TOML file holds them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where the API listens, and whom it lets in.
    pub http: http::Config,
    /// The streams.
    pub streams: store::Config,
    /// How webhooks are sent, and where they may be.
    pub webhooks: hooks::Config,
    /// What Prometheus is told.
    pub metrics: crate::metrics::Config,
    /// When an agent counts as silent, and as lost.
    pub liveness: scheduler::Liveness,
    /// How agents are compared, and what may be promised of them.
    pub placement: scheduler::Placement,
    /// The most that one task may reserve.
    pub limits: scheduler::Limits,
    /// Settings by kind; `default` holds for what a kind does not say itself.
    pub kinds: BTreeMap<String, scheduler::KindConfig>,
    /// Settings by tenant; `default` holds for what a tenant does not say itself.
    pub tenants: BTreeMap<String, scheduler::TenantConfig>,
    /// Pools of agents whose number the mesh decides.
    pub pools: BTreeMap<String, scale::Config>,
    /// How alerts are looked at and told.
    pub alerting: alerts::Config,
    /// Rules that alerts go by: what is to be otherwise of those there are, and further ones.
    pub alerts: BTreeMap<String, alerts::RuleConfig>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the settings in `{path}`")]
    Read {
        /// The file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// It is not TOML of the shape expected.
    #[error("the settings in `{path}` cannot be used: {source}")]
    Parse {
        /// The file.
        path: String,
        /// Where, and what is wrong there.
        source: Box<toml::de::Error>,
    },
    /// Anybody could do everything.
    #[error(
        "the API would listen on {address} without tokens, where anybody who reaches it may do everything: make tokens with \
         `coordinator auth token`, or say --insecure-http where only those reach it whom you trust"
    )]
    Open {
        /// Where it would listen.
        address: std::net::SocketAddr,
    },
    /// It says something that cannot be.
    #[error("the settings in `{path}` cannot be used:\n  {}", problems.join("\n  "))]
    Invalid {
        /// The file.
        path: String,
        /// Everything that is wrong.
        problems: Vec<String>,
    },
}

impl Config {
    /// Reads a file; without one the defaults hold.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
        let config: Config =
            toml::from_str(&text).map_err(|e| ConfigError::Parse { path: shown.clone(), source: Box::new(e) })?;
        match config.problems() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(ConfigError::Invalid { path: shown, problems }),
        }
    }

    /// What the scheduler takes of it.
    pub fn scheduler(&self) -> scheduler::Config {
        scheduler::Config {
            liveness: self.liveness.clone(),
            placement: self.placement.clone(),
            limits: self.limits,
            kinds: self.kinds.clone(),
            tenants: self.tenants.clone(),
            ..scheduler::Config::default()
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.scheduler().problems();
        if !(1..=5).contains(&self.streams.replicas) {
            problems.push("[streams] replicas: write 1 to 5".to_owned());
        }
        problems.extend(self.http.problems());
        problems.extend(scale::problems(&self.pools));
        problems.extend(self.alerting.problems());
        problems.extend(alerts::problems(&self.alerts));
        problems.extend(self.webhooks.problems());
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_example_of_the_contract_is_read() {
        let config = load(
            "[kinds.default]\nstrategy = \"least-connections\"\nmax-attempts = 3\ntimeout = \"5m\"\n\n\
             [kinds.wordcount]\nstrategy = \"round-robin\"\nmemory = \"256Mi\"\n",
        )
        .unwrap();

        assert_eq!(config.kinds["wordcount"].memory, Some(256 << 20));
    }

    #[test]
    fn an_unknown_key_is_told_with_its_place() {
        let error = load("[kinds.default]\nstrategie = \"weighted\"\n").unwrap_err().to_string();

        assert!(error.contains("line 2") && error.contains("strategie"), "{error}");
    }

    #[test]
    fn a_pool_is_read_with_its_policy_and_who_starts_its_agents() {
        let config = load("[pools.workers]\nmax-agents = 40\ntarget-wait = \"30s\"\npaused = true\n").unwrap();
        let pool = &config.pools["workers"];
        assert_eq!((pool.policy.max_agents, pool.paused, &pool.actuator), (40, true, &None));

        let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again.pools["workers"], *pool, "it is written as it is read");
    }

    #[test]
    fn what_is_wrong_with_a_pool_is_told_with_its_place() {
        let unknown = load("[pools.workers]\nmax-agent = 40\n").unwrap_err().to_string();
        let wrong = load("[pools.workers]\ntarget-wait = 30\n").unwrap_err().to_string();
        let twins = load("[pools.a]\n[pools.b]\nkinds = [\"echo\"]\n").unwrap_err().to_string();

        assert!(unknown.contains("unknown field `max-agent`"), "{unknown}");
        assert!(wrong.contains("target-wait"), "{wrong}");
        assert!(twins.contains("[pools.b]") && twins.contains("labels"), "{twins}");
    }

    #[test]
    fn a_rule_for_alerts_is_read_and_what_is_wrong_with_one_is_told_with_its_place() {
        let config = load("[alerting]\ninterval = \"1s\"\n[alerts.oldest-task]\nabove = 60.0\n").unwrap();
        assert_eq!(config.alerts["oldest-task"].above, Some(60.0));

        let error = load("[alerts.deep]\nmetric = \"hive_queue_depth\"\n").unwrap_err().to_string();
        assert!(error.contains("[alerts.deep]") && error.contains("`above` or `below`"), "{error}");
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let error = load("[streams]\nreplicas = 9\n[liveness]\nbeat-interval = \"1ms\"\n").unwrap_err();

        let ConfigError::Invalid { problems, .. } = error else { panic!("{error}") };
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
