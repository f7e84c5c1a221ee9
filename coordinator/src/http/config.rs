//! Settings of the API: where it listens, and whom it lets in.

use std::net::SocketAddr;
use std::path::PathBuf;

use scheduler::Rate;
use serde::{Deserialize, Serialize};

use crate::api::Role;

/// Where the API listens, and whom it lets in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Address and port; port 0 takes a free one. Any but those of this host (loopback) needs tokens.
    pub address: SocketAddr,
    /// Names that the API may be asked by, besides addresses and `localhost`: a request for another name is refused, since
    /// it may come from a page of somebody else's (DNS rebinding).
    pub hosts: Vec<String>,
    /// Certificates of the server in PEM, its own first. With them the API is there over HTTPS only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// The key that belongs to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// How much one client may ask for, `100/s` for one; a second's worth of it at once. Unless this says so there is no
    /// limit on loopback, and `100/s` elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Who may ask for what. Without any, everybody who reaches the API may do everything.
    pub tokens: Vec<Token>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            hosts: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            rate: None,
            tokens: Vec::new(),
        }
    }
}

/// A token that is let in. The token itself is kept by whoever has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Token {
    /// Whose it is.
    pub name: String,
    /// What it lets do.
    pub role: Role,
    /// The SHA-256 of the token, in hexadecimal.
    pub sha256: TokenHash,
}

/// The SHA-256 of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash(pub [u8; 32]);

impl TryFrom<String> for TokenHash {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let decoded = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let hash = decoded.and_then(|bytes| bytes.try_into().ok()).map(Self);
        hash.ok_or_else(|| "`sha256` is not 64 hexadecimal digits: `coordinator auth token` writes the line".to_owned())
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> String {
        data_encoding::HEXLOWER.encode(&hash.0)
    }
}

impl Config {
    /// Everything that is wrong with it.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            problems.push("[http] tls-certificate and tls-key: give both of them, or none".to_owned());
        }
        if self.hosts.iter().any(|host| host.is_empty() || host.contains([':', '/', '*'])) {
            problems.push("[http] hosts: write names such as `hive.example.org`, without a port".to_owned());
        }
        for (number, token) in self.tokens.iter().enumerate() {
            if token.name.is_empty() {
                problems.push("[[http.tokens]] name: say whose it is".to_owned());
            }
            if self.tokens[..number].iter().any(|other| other.name == token.name) {
                problems.push(format!("[[http.tokens]] name: `{}` is there twice", token.name));
            }
        }
        problems
    }

    /// Whether anybody who reaches the API may do everything, from beyond this host.
    pub(crate) fn is_open_to_others(&self) -> bool {
        !self.address.ip().is_loopback() && self.tokens.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn read(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn tokens_are_written_as_they_are_read() {
        let text = format!("[[tokens]]\nname = \"ci\"\nrole = \"submit\"\nsha256 = \"{HASH}\"\n");

        let config = read(&text).unwrap();

        assert_eq!((config.tokens[0].name.as_str(), config.tokens[0].role), ("ci", Role::Submit));
        assert!(toml::to_string(&config).unwrap().contains(HASH));
        assert!(read(&text.replace(HASH, "secret")).unwrap_err().contains("64 hexadecimal digits"));
        assert!(read(&text.replace("submit", "root")).unwrap_err().contains("unknown variant `root`"));
    }

    #[test]
    fn every_problem_is_told() {
        let token = format!("[[tokens]]\nname = \"ci\"\nrole = \"read\"\nsha256 = \"{HASH}\"\n");
        let config = read(&format!("hosts = [\"a:80\"]\ntls-key = \"k\"\n{token}{token}")).unwrap();

        assert_eq!(config.problems().len(), 3, "{:?}", config.problems());
        assert_eq!(read("").unwrap().problems(), [""; 0]);
    }

    #[test]
    fn only_loopback_is_open_without_tokens() {
        assert!(!read("").unwrap().is_open_to_others());
        assert!(read("address = \"0.0.0.0:8080\"").unwrap().is_open_to_others());
        let token = format!("[[tokens]]\nname = \"ci\"\nrole = \"read\"\nsha256 = \"{HASH}\"\n");
        assert!(!read(&format!("address = \"0.0.0.0:8080\"\n{token}")).unwrap().is_open_to_others());
    }
}
