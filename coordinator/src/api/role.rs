//! What somebody with a token may do over HTTP.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What somebody may do; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything and change nothing.
    Read,
    /// Submit tasks, and cancel them.
    Submit,
    /// Drain and quarantine agents, pause and purge queues, replay and discard dead letters.
    Operate,
    /// Change settings.
    Admin,
}

impl Role {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Submit => "submit",
            Role::Operate => "operate",
            Role::Admin => "admin",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
