//! Names and numbers that identify things in the mesh, each checked when it is made.

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// Why a text is not a name of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: use 1 to {limit} of A-Z a-z 0-9 - _")]
pub struct BadName {
    /// The text, escaped and cut to a length that fits a log line.
    pub text: String,
    /// What it should have been, with its article.
    pub what: &'static str,
    /// The longest name allowed, in bytes.
    pub limit: usize,
}

/// Declares a name: a text of `A-Z a-z 0-9 - _` within a length, so that it is one token of a subject.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $limit:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "CompactString", into = "CompactString")]
        pub struct $name(CompactString);

        impl $name {
            /// Longest name allowed, in bytes.
            pub const MAX_LEN: usize = $limit;

            /// Checks a text and takes it as a name.
            pub fn new(text: impl AsRef<str>) -> Result<Self, BadName> {
                let text = text.as_ref();
                if is_token(text, $limit) {
                    Ok(Self(CompactString::new(text)))
                } else {
                    Err(BadName { text: excerpt(text), what: $what, limit: $limit })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl TryFrom<CompactString> for $name {
            type Error = BadName;
            fn try_from(text: CompactString) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl From<$name> for CompactString {
            fn from(name: $name) -> CompactString {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// What a task needs done, and so which agents can do it.
    Kind, "a task kind", 64
);
name!(
    /// Identifies a task: the one its submitter chose, or its sequence in the task stream in decimal.
    TaskId, "a task id", 128
);
name!(
    /// Identifies an agent, across its restarts.
    AgentId, "an agent id", 64
);
name!(
    /// Names a mesh, so that several can share one NATS account. The first token of every subject.
    MeshName, "a mesh name", 32
);
name!(
    /// A word of an event's subject: what it is about, or what happened.
    Word, "a word of an event's subject", 64
);
name!(
    /// Names a webhook, or an intake.
    HookName, "a name of a webhook", 64
);

impl Default for MeshName {
    fn default() -> Self {
        Self(CompactString::const_new("hive"))
    }
}

impl TaskId {
    /// A new id, unique, and ordered by the time it was made (UUID version 7).
    pub fn generate() -> Self {
        Self(CompactString::new(uuid::Uuid::now_v7().as_hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())))
    }

    /// The id of a task that came without one: its sequence in the task stream.
    pub fn from_sequence(sequence: u64) -> Self {
        use compact_str::ToCompactString as _;
        Self(sequence.to_compact_string())
    }
}

fn is_token(text: &str, limit: usize) -> bool {
    (1..=limit).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The text as it may appear in an error: escaped, and at most 80 characters of it.
pub(crate) fn excerpt(text: &str) -> String {
    const LIMIT: usize = 80;
    let mut shown: String = text.chars().take(LIMIT).flat_map(char::escape_debug).collect();
    if text.chars().nth(LIMIT).is_some() {
        shown.push('…');
    }
    shown
}

/// How urgent a task is. Ordered: the most urgent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Priority {
    /// Before everything else.
    Urgent,
    /// Before what is normal.
    High,
    /// What a task gets that names none.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    /// Every priority, the most urgent first.
    pub const ALL: [Priority; 4] = [Priority::Urgent, Priority::High, Priority::Normal, Priority::Low];

    /// The token that names it in a subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            Priority::Urgent => "urgent",
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        }
    }
}

/// Why a text is not a priority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a priority: use urgent, high, normal or low")]
pub struct BadPriority(pub String);

impl FromStr for Priority {
    type Err = BadPriority;
    fn from_str(text: &str) -> Result<Self, BadPriority> {
        Priority::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| BadPriority(excerpt(text)))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Declares a number that orders things, with its own type so that two kinds of number are never mixed up.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number!(
    /// The reign of one leader: the revision of the lease it holds, so it only grows.
    Epoch
);
number!(
    /// One process of an agent: a restarted agent is a new one under its old id. It only grows for one id
    /// as long as its host's clock does: milliseconds since 1970 when the process began.
    Incarnation
);

impl Incarnation {
    /// The incarnation of a process that begins now.
    pub fn now() -> Self {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_token_of_a_subject() {
        for good in ["a", "resize", "A-Z_09", &"k".repeat(64)] {
            assert_eq!(Kind::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "*", ">", "a b", "ä", "a\n", &"k".repeat(65)] {
            assert!(Kind::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_error_shows_the_name_escaped_and_cut() {
        let error = Kind::new(format!("a\r\n{}", "x".repeat(500))).unwrap_err().to_string();

        assert!(error.starts_with("`a\\r\\nxxx"), "{error}");
        assert!(error.len() < 250, "{error}");
    }

    #[test]
    fn generated_ids_differ_and_sort_by_time() {
        let ids: Vec<_> = (0..100).map(|_| TaskId::generate()).collect();

        assert!(ids.is_sorted());
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
