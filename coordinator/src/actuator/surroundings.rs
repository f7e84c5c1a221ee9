//! What agents that are started are told: where the mesh is, and nothing that is the coordinator's alone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use shared::connect::Settings;

use crate::local::LIFELINE_VARIABLE;

/// What programs that are started see of our own environment. The rest, secrets above all, is none of their business.
const INHERITED: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "HIVE_LOG",
    "RUST_LOG",
    "SSL_CERT_FILE",
];
/// By these an agent says who it is to the NATS server.
const CREDENTIALS: [&str; 4] = ["NATS_CREDS", "NATS_NKEY", "NATS_USER", "NATS_CERT"];

/// Agents would be told where the NATS server is, and not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the NATS server asks who one is, and what this coordinator says is not for agents: name the agents' own credentials \
     in `env`, as NATS_NKEY, NATS_CREDS or NATS_USER"
)]
pub(crate) struct NoCredentials;

/// What an actuator tells the agents it starts.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// How this coordinator is connected.
    pub(crate) connection: Settings,
    /// A file that is locked for as long as there is to be a mesh, where somebody sees to that.
    pub(super) lifeline: Option<PathBuf>,
}

impl Surroundings {
    /// For agents of the mesh that this coordinator is one of.
    pub(crate) fn new(connection: &Settings) -> Self {
        let lifeline = std::env::var_os(LIFELINE_VARIABLE).map(PathBuf::from);
        Self { connection: connection.clone(), lifeline }
    }

    /// The variables that an agent finds the mesh by, and those of its pool in front of them.
    ///
    /// Never the coordinator's own credentials: with them an agent could do whatever a coordinator can.
    pub(super) fn variables(&self, own: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, NoCredentials> {
        let connection = &self.connection;
        let mut variables = BTreeMap::from([
            ("NATS_URL".to_owned(), connection.url_without_secrets()),
            ("HIVE_MESH".to_owned(), connection.mesh.to_string()),
        ]);
        variables.extend(own.clone());
        let named = own.keys().any(|name| CREDENTIALS.contains(&name.as_str()));
        let in_address = own.get("NATS_URL").is_some_and(|url| url.contains('@'));
        if self.is_asked_who_it_is() && !named && !in_address { Err(NoCredentials) } else { Ok(variables) }
    }

    fn is_asked_who_it_is(&self) -> bool {
        let Settings { url, creds, nkey, user, tls_cert, .. } = &self.connection;
        let files = [creds, nkey, tls_cert].iter().any(|file| file.is_some());
        files || user.is_some() || *url != self.connection.url_without_secrets()
    }
}

/// What of our own environment a program sees that we start.
pub(super) fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    INHERITED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(connection: Settings) -> Surroundings {
        Surroundings { connection, lifeline: None }
    }

    fn own(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_agent_is_told_where_the_mesh_is() {
        let connection = Settings { url: "nats://broker:4222".to_owned(), ..Settings::default() };

        let variables = surroundings(connection).variables(&own(&[("HIVE_MESH", "other"), ("A", "b")])).unwrap();

        assert_eq!(variables, own(&[("NATS_URL", "nats://broker:4222"), ("HIVE_MESH", "other"), ("A", "b")]));
    }

    #[test]
    fn the_coordinators_credentials_are_not_handed_on() {
        let with_key = Settings { nkey: Some("coordinator.nk".into()), ..Settings::default() };
        let in_address = Settings { url: "nats://me:secret@broker".to_owned(), ..Settings::default() };

        for connection in [with_key, in_address] {
            let surroundings = surroundings(connection);

            assert_eq!(surroundings.variables(&own(&[])), Err(NoCredentials));
            let variables = surroundings.variables(&own(&[("NATS_NKEY", "agent.nk")])).unwrap();
            assert_eq!(variables["NATS_NKEY"], "agent.nk");
            assert!(!variables["NATS_URL"].contains("secret"), "{variables:?}");
        }
    }
}
