//! How many agents `coordinator dev` has: a number, or bounds within which the mesh decides.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;

/// More agents than this are no mesh to try things on.
const MOST: u16 = 100;

/// How many agents there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agents {
    /// So many.
    Fixed(u16),
    /// As many as the work takes.
    Within {
        /// At least so many.
        least: u16,
        /// At most so many.
        most: u16,
    },
}

impl FromStr for Agents {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("write a number of agents from 1 to {MOST}, or bounds such as 1-8");
        let number = |text: &str| text.parse().ok().filter(|number| *number <= MOST).ok_or_else(bad);
        match text.split_once('-') {
            None => Some(number(text)?).filter(|number| *number > 0).map(Self::Fixed).ok_or_else(bad),
            Some((least, most)) => {
                let (least, most) = (number(least)?, number(most)?);
                if least <= most && most > 0 { Ok(Self::Within { least, most }) } else { Err(bad()) }
            }
        }
    }
}

impl std::fmt::Display for Agents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Agents::Fixed(number) => write!(f, "{number}"),
            Agents::Within { least, most } => write!(f, "{least} to {most}"),
        }
    }
}

/// The coordinator's settings for a pool of processes with these bounds, whose agents have these settings and slots.
///
/// It looks every second, and gives up in half a minute what is not needed: agents on this host start at once. How busy
/// the host is says nothing here, since more agents would be on the same one.
pub(super) fn pool_settings(least: u16, most: u16, slots: u32, agents: &str, data: &Path) -> anyhow::Result<String> {
    let path = data.join("pool-agent.toml");
    let write =
        || fs::create_dir_all(data).and_then(|()| fs::write(&path, format!("[agent]\nslots = {slots}\n{agents}")));
    write().with_context(|| format!("failed to write `{}`", path.display()))?;
    let kinds: toml::Table = agents.parse().context("the settings of the agents are no TOML")?;
    let kinds = kinds.get("handler").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let kinds: Vec<toml::Value> = kinds.iter().filter_map(|handler| handler.get("kind").cloned()).collect();
    let shown = |path: &Path| toml::Value::from(path.display().to_string());
    let (kinds, path, logs) = (toml::Value::Array(kinds), shown(&path), shown(&data.join("agents")));
    Ok(format!(
        "[pools.dev]\nmin-agents = {least}\nmax-agents = {most}\nslots = {slots}\nkinds = {kinds}\n\
         interval = \"1s\"\nstale-after = \"10s\"\nstartup-time = \"1s\"\nstartup-timeout = \"30s\"\n\
         target-wait = \"2s\"\nmax-utilisation = 1.0\nup-cooldown = \"5s\"\ndown-cooldown = \"30s\"\n\n\
         [pools.dev.actuator]\ntype = \"process\"\nconfig = {path}\ndirectory = {logs}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_bounds_are_read() {
        assert_eq!("3".parse(), Ok(Agents::Fixed(3)));
        assert_eq!("1-8".parse(), Ok(Agents::Within { least: 1, most: 8 }));
        assert_eq!("0-8".parse(), Ok(Agents::Within { least: 0, most: 8 }));
        for bad in ["0", "101", "8-1", "0-0", "1-", "-3", "few"] {
            assert!(bad.parse::<Agents>().unwrap_err().contains("1-8"), "{bad}");
        }
    }

    #[test]
    fn the_pool_is_one_that_the_coordinator_takes() {
        let dir = tempfile::tempdir().unwrap();
        let agents = "[[handler]]\nkind = \"echo\"\nbuiltin = \"echo\"\n";

        let settings = pool_settings(0, 8, 4, agents, dir.path()).unwrap();

        let config: crate::config::Config = toml::from_str(&settings).unwrap();
        let policy = &config.pools["dev"].policy;
        assert_eq!(crate::scale::problems(&config.pools), Vec::<String>::new());
        assert_eq!((policy.min_agents, policy.max_agents, policy.kinds[0].as_str()), (0, 8, "echo"));
        assert!(fs::read_to_string(dir.path().join("pool-agent.toml")).unwrap().contains("slots = 4"));
    }
}
