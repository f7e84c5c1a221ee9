//! Intakes: webhooks in, each of which turns signed requests into tasks.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{HookName, Kind, Priority, excerpt};

/// How the requests of an intake are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum IntakeScheme {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    #[default]
    Standard,
    /// As GitHub does: `X-Hub-Signature-256` over the body, `X-GitHub-Delivery`.
    Github,
    /// As Stripe does: a header with `t=<time>,v1=<hex>`, over the time and the body.
    Timestamped,
}

impl IntakeScheme {
    /// Every scheme.
    pub const ALL: [IntakeScheme; 3] = [IntakeScheme::Standard, IntakeScheme::Github, IntakeScheme::Timestamped];

    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            IntakeScheme::Standard => "standard",
            IntakeScheme::Github => "github",
            IntakeScheme::Timestamped => "timestamped",
        }
    }
}

/// Why a text is not a scheme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not how requests are signed: use standard, github or timestamped")]
pub struct BadScheme(String);

impl FromStr for IntakeScheme {
    type Err = BadScheme;
    fn from_str(text: &str) -> Result<Self, BadScheme> {
        IntakeScheme::ALL.into_iter().find(|scheme| scheme.as_str() == text).ok_or_else(|| BadScheme(excerpt(text)))
    }
}

/// An intake. Its requests come to `POST /v1/hooks/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Intake {
    /// Its name.
    pub id: HookName,
    /// Where its requests come.
    pub path: String,
    /// The kind of its tasks.
    pub kind: Kind,
    /// Their priority.
    pub priority: Priority,
    /// How its requests are signed.
    pub scheme: IntakeScheme,
    /// The header with the signature.
    pub signature_header: String,
    /// How far the time in a request may be from now; it says nothing for `github`.
    pub tolerance: String,
    /// What a task's id is made of.
    pub task_id: String,
    /// Headers of the request that become the task's.
    pub pass: Vec<String>,
    /// Headers that each task gets, such as `Hive-Timeout`.
    pub headers: BTreeMap<String, String>,
    /// The largest body, in bytes.
    pub max_bytes: u64,
    /// Whether requests are taken.
    pub enabled: bool,
    /// Until when the secret before this one is taken as well, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_secret_until: Option<String>,
}

/// Makes an intake, or changes what is said of one. What is left out stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IntakeChange {
    /// Its name.
    pub id: HookName,
    /// The kind of its tasks. A new intake needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Their priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// How its requests are signed: `standard`, `github` or `timestamped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<IntakeScheme>,
    /// The header with the signature, if it has another name than is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_header: Option<String>,
    /// How far the time in a request may be from now: `5m` unless something else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<String>,
    /// What a task's id is made of: text, `{intake}`, `{delivery}` (the id of the delivery, or the digest where there is
    /// none) and `{digest}` (of the body).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Headers of the request that become the task's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<Vec<String>>,
    /// Headers that each task gets, such as `Hive-Timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// The largest body, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Whether requests are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The secret that the sender signs with; otherwise one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Whether it gets a new secret that is made here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
    /// How long the old secret is taken as well when it gets a new one: `24h` unless something else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
}

impl IntakeChange {
    /// A change of nothing yet.
    pub fn of(id: HookName) -> Self {
        Self {
            id,
            kind: None,
            priority: None,
            scheme: None,
            signature_header: None,
            tolerance: None,
            task_id: None,
            pass: None,
            headers: None,
            max_bytes: None,
            enabled: None,
            secret: None,
            rotate: false,
            overlap: None,
        }
    }
}

/// An intake that was made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IntakeSaved {
    /// As it is now.
    pub intake: Intake,
    /// Its secret, if it got one that the mesh has made. It is shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Which intake is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IntakeRef {
    /// Its name.
    pub id: HookName,
}

/// What a request to an intake is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IntakeAccepted {
    /// The task's id.
    pub id: String,
    /// Whether a task of this id was queued or running already, so that nothing was submitted.
    pub repeated: bool,
}
