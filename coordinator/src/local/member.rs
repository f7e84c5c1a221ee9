//! The members of a local mesh: coordinators and agents, each a process of this program.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use shared::api::{self, AgentState};
use shared::{AgentId, Incarnation, MeshName};

use super::process::{Launcher, Process, Program, SpawnError};

/// An agent to be started.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// Who it is.
    pub id: AgentId,
    /// How many attempts it runs at once; what its settings say if `None`.
    pub slots: Option<u32>,
    /// Its settings, in TOML.
    pub config: String,
    /// Variables that it sees besides ours.
    pub env: Vec<(String, String)>,
    /// Where it finds the broker, if that is not where the others do: through a proxy, for one.
    pub nats_url: Option<String>,
}

impl AgentSpec {
    /// An agent with the given slots and settings.
    pub fn new(id: AgentId, slots: u32, config: impl Into<String>) -> Self {
        Self { id, slots: Some(slots), config: config.into(), env: Vec::new(), nats_url: None }
    }

    /// The settings with the slots in them.
    fn config_with_slots(&self) -> Result<String, MemberError> {
        let Some(slots) = self.slots else { return Ok(self.config.clone()) };
        let bad = |source| MemberError::Config { name: self.id.to_string(), source: Box::new(source) };
        let mut config: toml::Table = self.config.parse().map_err(bad)?;
        let agent = config.entry("agent").or_insert_with(|| toml::Table::new().into());
        if let Some(agent) = agent.as_table_mut() {
            agent.insert("slots".to_owned(), i64::from(slots).into());
        }
        Ok(config.to_string())
    }
}

/// Why a member was not started.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Its settings are no TOML.
    #[error("the settings of {name} cannot be read")]
    Config {
        /// The member.
        name: String,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// Its files cannot be written.
    #[error("failed to write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It was not started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// Where the members of a mesh live: what they are started from, and in which directory.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) launcher: Launcher,
    pub(super) data_dir: PathBuf,
    pub(super) nats_url: String,
    pub(super) mesh: MeshName,
    pub(super) coordinator_env: Vec<(String, String)>,
}

impl Home {
    fn write(&self, name: &str, content: &str) -> Result<PathBuf, MemberError> {
        let path = self.data_dir.join(name);
        match fs::create_dir_all(&self.data_dir).and_then(|()| fs::write(&path, content)) {
            Ok(()) => Ok(path),
            Err(source) => Err(MemberError::Write { path, source }),
        }
    }

    /// Starts `<exe> <subcommand> --nats URL --mesh NAME <args>`.
    fn spawn(
        &self,
        name: &str,
        subcommand: &str,
        nats_url: Option<&str>,
        args: Vec<OsString>,
        env: &[(String, String)],
    ) -> Result<Process, SpawnError> {
        let nats_url = nats_url.unwrap_or(&self.nats_url);
        let connection = [subcommand, "--nats", nats_url, "--mesh", self.mesh.as_str()];
        self.launcher.spawn(Program {
            name: name.to_owned(),
            path: self.launcher.exe().to_owned(),
            args: connection.into_iter().map(OsString::from).chain(args).collect(),
            env: env.to_vec(),
            log: self.data_dir.join(format!("{name}.log")),
        })
    }
}

/// An agent of a local mesh.
#[derive(Debug)]
pub struct Agent {
    spec: AgentSpec,
    /// Older than its process; what the mesh knows of an earlier one is older still.
    not_before: Incarnation,
    process: Process,
}

impl Agent {
    pub(super) fn start(home: &Home, spec: AgentSpec) -> Result<Self, MemberError> {
        let config = home.write(&format!("{}.toml", spec.id), &spec.config_with_slots()?)?;
        let args =
            vec!["--id".into(), spec.id.as_str().into(), "--config".into(), config.into(), "--exit-with-parent".into()];
        let not_before = Incarnation::now();
        let process = home.spawn(spec.id.as_str(), "agent", spec.nats_url.as_deref(), args, &spec.env)?;
        Ok(Self { spec, not_before, process })
    }

    /// Who it is.
    pub fn id(&self) -> &AgentId {
        &self.spec.id
    }

    /// Its state in a list of the mesh's agents, if its present process is in there.
    pub(super) fn state_in(&self, listed: &[api::Agent]) -> Option<AgentState> {
        let it = listed.iter().find(|agent| agent.id == self.spec.id && agent.incarnation >= self.not_before);
        it.map(|agent| agent.state)
    }

    /// What it was started from.
    pub fn spec(&self) -> &AgentSpec {
        &self.spec
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// A coordinator of a local mesh.
#[derive(Debug)]
pub struct Coordinator {
    name: String,
    address_file: PathBuf,
    process: Process,
}

impl Coordinator {
    /// Starts one that listens on the given address; port 0 lets it choose one.
    pub(super) fn start(
        home: &Home,
        name: &str,
        nats_url: Option<&str>,
        http: SocketAddr,
        config: Option<&str>,
    ) -> Result<Self, MemberError> {
        let address_file = home.data_dir.join(format!("{name}.address"));
        // What an earlier one wrote must not be taken for this one's.
        let _ = fs::remove_file(&address_file);
        let mut args: Vec<OsString> =
            vec!["--http".into(), http.to_string().into(), "--http-address-file".into(), (&address_file).into()];
        if let Some(config) = config {
            args.extend(["--config".into(), home.write(&format!("{name}.toml"), config)?.into()]);
        }
        let process = home.spawn(name, "serve", nats_url, args, &home.coordinator_env)?;
        Ok(Self { name: name.to_owned(), address_file, process })
    }

    /// How it is called: `coordinator-1`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where it answers over HTTP; `None` until it listens.
    pub fn http(&self) -> Option<SocketAddr> {
        address(&self.address_file)
    }
}

fn address(file: &Path) -> Option<SocketAddr> {
    let text = fs::read_to_string(file).ok()?;
    text.trim().trim_start_matches("http://").trim_end_matches('/').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(config: &str) -> AgentSpec {
        AgentSpec::new(AgentId::new("ada").unwrap(), 7, config)
    }

    #[test]
    fn slots_are_put_into_the_settings() {
        let config =
            "[agent]\nslots = 2\nlabels = { region = \"eu\" }\n[[handler]]\nkind = \"echo\"\nbuiltin = \"echo\"\n";

        let merged: toml::Table = spec(config).config_with_slots().unwrap().parse().unwrap();

        assert_eq!(merged["agent"]["slots"].as_integer(), Some(7));
        assert_eq!(merged["agent"]["labels"]["region"].as_str(), Some("eu"));
        assert_eq!(merged["handler"][0]["kind"].as_str(), Some("echo"));
        assert!(spec("").config_with_slots().unwrap().contains("slots = 7"));
    }

    #[test]
    fn settings_that_are_no_toml_are_an_error() {
        assert!(matches!(spec("[agent").config_with_slots(), Err(MemberError::Config { .. })));
    }

    #[test]
    fn the_address_is_read_with_or_without_a_scheme() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("address");
        assert_eq!(address(&file), None);

        for text in ["127.0.0.1:8080", "http://127.0.0.1:8080\n", "http://127.0.0.1:8080/"] {
            fs::write(&file, text).unwrap();
            assert_eq!(address(&file), Some(SocketAddr::from(([127, 0, 0, 1], 8080))));
        }
    }
}
