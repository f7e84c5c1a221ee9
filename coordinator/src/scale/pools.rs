//! The pools of this coordinator: those that its settings name, and while it leads what is known of each.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Map, Value};
use shared::Epoch;
use shared::api::Refusal;
use tracing::warn;

use super::led::Led;
use super::settings::Config;

/// The pools, as they are held by whoever brings them in line.
#[derive(Debug)]
pub struct Pools {
    /// What the coordinator's file says.
    file: BTreeMap<String, Config>,
    /// What is said while the mesh runs.
    said: BTreeMap<String, Map<String, Value>>,
    /// Both together.
    configured: BTreeMap<String, Config>,
    reign: Option<Reign>,
}

/// What only a leader has.
#[derive(Debug)]
pub(crate) struct Reign {
    pub(crate) epoch: Epoch,
    pub(crate) led: BTreeMap<String, Led>,
}

impl Pools {
    pub(crate) fn new(file: BTreeMap<String, Config>) -> Self {
        Self { configured: file.clone(), file, said: BTreeMap::new(), reign: None }
    }

    /// This is all that is said of a pool from now on.
    pub(crate) fn say(&mut self, name: String, said: Map<String, Value>) {
        self.said.insert(name, said);
        self.configured = self.put_together();
        self.go_by_settings();
    }

    /// What the file says of a pool; the defaults if it says nothing.
    pub(crate) fn in_file(&self, name: &str) -> Config {
        self.file.get(name).cloned().unwrap_or_default()
    }

    fn put_together(&self) -> BTreeMap<String, Config> {
        let mut pools = self.file.clone();
        for (name, said) in self.said.iter().filter(|(_, said)| !said.is_empty()) {
            match self.in_file(name).with_said(name, said) {
                Ok(config) => drop(pools.insert(name.clone(), config)),
                Err(problem) => {
                    warn!(pool = name, problem, "what is said of the pool does not go with the file: ignored");
                }
            }
        }
        pools
    }

    fn go_by_settings(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        reign.led.retain(|name, _| self.configured.contains_key(name));
        for (name, led) in &mut reign.led {
            led.go_by(self.configured[name].clone());
        }
    }

    /// The settings that hold.
    pub(crate) fn configured(&self) -> &BTreeMap<String, Config> {
        &self.configured
    }

    /// The epoch in which the pools are led, if they are.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.reign.as_ref().map(|reign| reign.epoch)
    }

    pub(crate) fn reign(&mut self) -> Option<&mut Reign> {
        self.reign.as_mut()
    }

    /// They are led in this epoch from now on, or not at all.
    pub(crate) fn begin(&mut self, epoch: Option<Epoch>) {
        self.reign = epoch.map(|epoch| Reign { epoch, led: BTreeMap::new() });
    }

    /// Pools that are to be led and are not yet.
    pub(crate) fn not_begun(&self) -> Vec<(String, Config)> {
        let Some(reign) = &self.reign else { return Vec::new() };
        let missing = self.configured.iter().filter(|(name, _)| !reign.led.contains_key(*name));
        missing.map(|(name, config)| (name.clone(), config.clone())).collect()
    }

    /// When the next pool is to be looked at, if one is led.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.reign.as_ref()?.led.values().map(Led::next_look).min()
    }

    /// All pools that are led.
    pub(crate) fn all_led(&self) -> Result<&BTreeMap<String, Led>, Refusal> {
        self.reign.as_ref().map(|reign| &reign.led).ok_or_else(not_leading)
    }

    /// A pool that is led.
    pub(crate) fn find(&self, name: &str) -> Result<&Led, Refusal> {
        let missing = || self.missing(name);
        self.all_led()?.get(name).ok_or_else(missing)
    }

    /// There shall be so many agents of a pool, until a rule finds otherwise.
    pub(crate) fn ask(&mut self, name: &str, agents: u32) -> Result<(), Refusal> {
        self.find(name)?;
        let config = &self.configured[name];
        if let Some(why) = config.held_by(name) {
            return Err(Refusal { error: format!("nothing is done about pool `{name}`: {why}"), code: 409 });
        }
        let (least, most) = (config.policy.min_agents, config.policy.max_agents);
        if !(least..=most).contains(&agents) {
            let error = format!(
                "pool `{name}` has {least} to {most} agents, not {agents}: set min-agents or max-agents for others"
            );
            return Err(Refusal { error, code: 400 });
        }
        if let Some(led) = self.reign.as_mut().and_then(|reign| reign.led.get_mut(name)) {
            led.ask(agents);
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Refusal {
        if self.configured.contains_key(name) {
            let error = format!("pool `{name}` has not been looked at yet: try again in a moment");
            return Refusal { error, code: 503 };
        }
        let names: Vec<&str> = self.configured.keys().map(String::as_str).collect();
        let others =
            if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
        let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        Refusal { error: format!("there is no pool `{shown}`: {others}"), code: 404 }
    }
}

fn not_leading() -> Refusal {
    Refusal { error: "this coordinator does not lead: the one that does knows the pools".to_owned(), code: 503 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_makes_changes_and_removes_pools() {
        let mut pools = Pools::new(BTreeMap::from([("workers".to_owned(), Config::default())]));

        say(&mut pools, "workers", json!({ "max-agents": 40 }));
        say(&mut pools, "others", json!({ "kinds": ["resize"] }));
        assert_eq!(pools.configured["workers"].policy.max_agents, 40);
        assert_eq!(pools.configured.len(), 2);

        say(&mut pools, "workers", json!({}));
        say(&mut pools, "others", json!({}));
        assert_eq!(pools.configured, pools.file);
    }

    #[test]
    fn what_does_not_go_with_the_file_is_ignored() {
        let mut pools = Pools::new(BTreeMap::from([("workers".to_owned(), Config::default())]));

        say(&mut pools, "workers", json!({ "max-agents": 1 }));

        assert_eq!(pools.configured, pools.file, "the file wants two at least");
    }

    #[test]
    fn who_does_not_lead_says_so() {
        let mut pools = Pools::new(BTreeMap::from([("workers".to_owned(), Config::default())]));
        assert_eq!(pools.find("workers").unwrap_err().code, 503);

        pools.begin(Some(Epoch(3)));

        assert_eq!((pools.find("workers").unwrap_err().code, pools.find("w\n").unwrap_err().code), (503, 404));
        assert!(pools.find("w\n").unwrap_err().error.contains("`w\\n`: there are workers"));
    }

    fn say(pools: &mut Pools, name: &str, said: Value) {
        let Value::Object(said) = said else { panic!("{said} is no table") };
        pools.say(name.to_owned(), said);
    }
}
