//! Webhooks: what happens on the mesh is sent to URLs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::filter::EventFilter;
use crate::names::HookName;

/// How a webhook is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum HookState {
    /// Its last attempt was taken, or there was none yet.
    Healthy,
    /// Its last attempt was not taken, and the event is sent again.
    Failing,
    /// Nothing is sent.
    Disabled,
}

impl HookState {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            HookState::Healthy => "healthy",
            HookState::Failing => "failing",
            HookState::Disabled => "disabled",
        }
    }
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hook {
    /// Its name.
    pub id: HookName,
    /// Where events are sent.
    pub url: String,
    /// Which events are sent.
    pub filter: EventFilter,
    /// The names of the headers that are sent along; their values are not shown.
    pub headers: Vec<String>,
    /// How it is doing.
    pub state: HookState,
    /// Why it is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when nothing was taken, RFC 3339, while it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<String>,
    /// Attempts that failed since the last one that was taken.
    pub failures: u64,
    /// Events that were taken.
    pub delivered: u64,
    /// Events that wait to be sent, as far as their subjects tell; absent if the broker does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// Until when the secret before this one is signed with as well, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_secret_until: Option<String>,
    /// Its last attempts, the newest first. Only `hook.get` shows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<HookAttempt>,
}

/// An attempt to send an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HookAttempt {
    /// When it began, RFC 3339.
    pub time: String,
    /// The header `webhook-id`: the same each time that an event is sent.
    pub webhook_id: String,
    /// The event's sequence in the stream of events; absent for a test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<u64>,
    /// The status of the answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Why it was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Makes a webhook, or changes what is said of one. What is left out stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HookChange {
    /// Its name.
    pub id: HookName,
    /// Where events are sent: `http` or `https`. A new webhook needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Which events are sent; all of them unless something else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<EventFilter>,
    /// Headers that are sent along, such as `Authorization`; they replace those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// A secret of one's own, `whsec_` and 24 to 64 bytes in base64; otherwise one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Whether it gets a new secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
    /// How long the old secret is signed with as well when it gets a new one: `24h` unless something else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
}

impl HookChange {
    /// A change of nothing yet.
    pub fn of(id: HookName) -> Self {
        Self { id, url: None, filter: None, headers: None, secret: None, rotate: false, overlap: None }
    }
}

/// A webhook that was made or changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HookSaved {
    /// As it is now.
    pub hook: Hook,
    /// Its secret, if it got one that the mesh has made. It is shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Which webhook is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HookRef {
    /// Its name.
    pub id: HookName,
}

/// Lets a webhook send, or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HookEnable {
    /// Its name.
    pub id: HookName,
    /// Whether it sends.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Whether what waits for it is left out.
    #[serde(default)]
    pub skip: bool,
}

fn yes() -> bool {
    true
}

/// Sends events once more: one, or all from a moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HookRedelivery {
    /// The webhook.
    pub id: HookName,
    /// The sequence of one event; it is sent at once, whatever waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<u64>,
    /// All events from this sequence on, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// All events since then, in their order: RFC 3339, or so long ago, such as `2h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// What is sent once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HookRedelivered {
    /// The attempt that was made, if it was one event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<HookAttempt>,
    /// The sequence from which events are sent, if it is several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

/// A webhook or an intake that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HookDeleted {
    /// Its name.
    pub deleted: HookName,
}
