//! What is set about a pool: in the coordinator's file, and in front of that what is said while the mesh runs.

use std::collections::BTreeMap;

use scheduler::scaling::Policy;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::actuator;

/// What a pool's table holds beside its policy.
const PAUSED: &str = "paused";
const ACTUATOR: &str = "actuator";

/// The settings of a pool: `[pools.<name>]` and `[pools.<name>.actuator]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Config {
    /// How many agents there are to be.
    pub policy: Policy,
    /// Whether nothing is done for now, and only told what would be.
    pub paused: bool,
    /// Who starts and ends the agents. Without one it is only told what would be done.
    pub actuator: Option<actuator::Config>,
}

impl TryFrom<Map<String, Value>> for Config {
    type Error = String;

    fn try_from(mut table: Map<String, Value>) -> Result<Self, String> {
        let paused = match table.remove(PAUSED) {
            None => false,
            Some(said) => said.as_bool().ok_or_else(|| format!("{PAUSED}: write true or false, not {said}"))?,
        };
        let actuator = table.remove(ACTUATOR).map(serde_json::from_value).transpose();
        let actuator = actuator.map_err(|error| format!("{ACTUATOR}: {error}"))?;
        Ok(Self { policy: read_policy(table)?, paused, actuator })
    }
}

/// Reads a policy; what is wrong is told with the name of the setting.
fn read_policy(table: Map<String, Value>) -> Result<Policy, String> {
    let read = |table: Map<String, Value>| serde_json::from_value::<Policy>(table.into());
    read(table.clone()).map_err(|error| {
        let is_wrong = |(name, value)| {
            let alone = Map::from_iter([(String::clone(&name), value)]);
            Some(format!("{name}: {}", read(alone).err()?))
        };
        table.into_iter().find_map(is_wrong).unwrap_or_else(|| error.to_string())
    })
}

impl From<Config> for Map<String, Value> {
    fn from(config: Config) -> Self {
        let mut table = config.shown();
        table.remove(ACTUATOR);
        if let Some(actuator) = config.actuator {
            let actuator = serde_json::to_value(actuator).expect("the settings of an actuator are JSON");
            table.insert(ACTUATOR.to_owned(), actuator);
        }
        table
    }
}

impl Config {
    /// The settings as everybody may see them: of the actuator no more than its type, since it may name a secret.
    pub(crate) fn shown(&self) -> Map<String, Value> {
        let policy = serde_json::to_value(&self.policy).expect("a policy is JSON");
        let mut table = match policy {
            Value::Object(table) => table,
            _ => Map::new(),
        };
        table.insert(PAUSED.to_owned(), self.paused.into());
        if let Some(actuator) = &self.actuator {
            table.insert(ACTUATOR.to_owned(), serde_json::json!({ "type": actuator.kind() }));
        }
        table
    }

    /// These settings with what is said while the mesh runs in front of them, if that makes sense.
    ///
    /// Who starts agents is not said so: whoever may change a number may not choose what the coordinator runs.
    pub(crate) fn with_said(&self, name: &str, said: &Map<String, Value>) -> Result<Self, String> {
        if said.contains_key(ACTUATOR) {
            return Err(format!(
                "{ACTUATOR}: who starts agents is said in the coordinator's file alone, in [pools.{name}.actuator]"
            ));
        }
        let mut table = Map::from(Self { actuator: None, ..self.clone() });
        table.extend(said.clone());
        let config = Self { actuator: self.actuator.clone(), ..Self::try_from(table)? };
        match config.problems(name) {
            problems if problems.is_empty() => Ok(config),
            problems => Err(problems.join("; ")),
        }
    }

    /// The policy that is gone by: without an actuator nothing can be done.
    pub(crate) fn effective_policy(&self) -> Policy {
        Policy { enabled: self.policy.enabled && self.actuator.is_some(), ..self.policy.clone() }
    }

    /// Why nothing is done about the pool of this name, if that is so.
    pub(crate) fn held_by(&self, name: &str) -> Option<String> {
        if self.paused {
            Some(format!("it is paused: `coordinator scale resume {name}` lets it go on"))
        } else if !self.policy.enabled {
            Some("`enabled` is false: it is only told what would be done".to_owned())
        } else if self.actuator.is_none() {
            Some(format!("the leader's file has no [pools.{name}.actuator]: it is only told what would be done"))
        } else {
            None
        }
    }

    /// Everything that is wrong with the settings, each with what to do instead.
    fn problems(&self, name: &str) -> Vec<String> {
        let mut problems = self.policy.problems(name);
        if self.policy.min_agents == 0 && self.policy.kinds.is_empty() {
            problems.push(format!(
                "[pools.{name}] kinds: a pool that may be empty cannot tell what it is for by its agents: name them"
            ));
        }
        problems.extend(self.actuator.iter().flat_map(|actuator| actuator.problems(name)));
        problems
    }
}

/// Everything that is wrong with these pools, each with what to do instead.
pub fn problems(pools: &BTreeMap<String, Config>) -> Vec<String> {
    let own = pools.iter().flat_map(|(name, config)| config.problems(name));
    let pairs = pools.iter().enumerate().flat_map(|(i, one)| pools.iter().skip(i + 1).map(move |other| (one, other)));
    let twins = pairs.filter(|((_, one), (_, other))| are_the_same(&one.policy, &other.policy));
    let twins = twins.map(|((one, _), (other, _))| {
        format!(
            "[pools.{other}] labels: its agents would be those of [pools.{one}] too: tell them apart, as by \
             labels = \"pool={other}\""
        )
    });
    own.chain(twins).collect()
}

/// Whether an agent would be of both pools, as far as can be told before there is one.
fn are_the_same(one: &Policy, other: &Policy) -> bool {
    let any = one.kinds.is_empty() || other.kinds.is_empty();
    one.labels == other.labels && (any || one.kinds.iter().any(|kind| other.kinds.contains(kind)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_goes_before_the_file() {
        let file = Config { paused: true, ..read(json!({ "max-agents": 20, "target-wait": "9s" })).unwrap() };

        let config = file.with_said("workers", &table(json!({ "max-agents": 30, "paused": false }))).unwrap();

        assert_eq!((config.policy.max_agents, config.paused), (30, false));
        assert_eq!(config.policy.target_wait, file.policy.target_wait);
    }

    #[test]
    fn who_starts_agents_cannot_be_said_while_the_mesh_runs() {
        let said = table(json!({ "actuator": { "type": "command", "start": ["rm"] } }));

        let error = Config::default().with_said("workers", &said).unwrap_err();

        assert!(error.contains("in the coordinator's file alone"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_name() {
        let wrong = |value: Value| read(value).unwrap_err();

        assert!(wrong(json!({ "interval": 5 })).starts_with("interval: "), "{}", wrong(json!({ "interval": 5 })));
        assert!(wrong(json!({ "paused": "yes" })).starts_with("paused: "));
        assert!(wrong(json!({ "actuator": { "type": "magic" } })).starts_with("actuator: "));
        assert!(wrong(json!({ "max-agent": 5 })).contains("unknown field `max-agent`"));
    }

    #[test]
    fn a_pool_that_may_be_empty_names_its_kinds() {
        let empty = read(json!({ "min-agents": 0 })).unwrap();
        let named = read(json!({ "min-agents": 0, "kinds": ["resize"] })).unwrap();

        assert_eq!((empty.problems("p").len(), named.problems("p").len()), (1, 0));
    }

    #[test]
    fn pools_that_would_have_the_same_agents_are_told_apart() {
        let pools = |one: Value, other: Value| {
            let pools = [("a", one), ("b", other)];
            problems(&pools.map(|(name, value)| (name.to_owned(), read(value).unwrap())).into())
        };

        assert_eq!(pools(json!({}), json!({ "kinds": ["echo"] })).len(), 1);
        assert!(pools(json!({ "kinds": ["resize"] }), json!({ "kinds": ["echo"] })).is_empty());
        assert!(pools(json!({ "labels": "pool=a" }), json!({ "labels": "pool=b" })).is_empty());
    }

    fn read(value: Value) -> Result<Config, String> {
        Config::try_from(table(value))
    }

    fn table(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(table) => table,
            other => panic!("{other} is no table"),
        }
    }
}
