//! Tasks as they are submitted in JSON, and their results.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names::{Kind, Priority, TaskId};
use crate::task::Outcome;

/// A task to be submitted. Its body is one of `body`, `body_base64` and `json`, or empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Submission {
    /// What is to be done.
    pub kind: Kind,
    /// Its id; a new one unless this says so. An id that is queued or running is refused, and one whose result is kept is
    /// not run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// Headers: `Hive-Timeout`, `Hive-Needs` and the others of the mesh, `traceparent`, and any for the handler.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Its body, as a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Its body in base64 (RFC 4648, section 4, with padding).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Its body as JSON, which is sent as it is, without spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Makes a repetition of the request harmless: the task's id is made from it, and where there is such a task already,
    /// that is the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 255)))]
    pub idempotency_key: Option<String>,
}

/// Tasks to be submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Batch {
    /// The tasks: 1 to 1000.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 1000)))]
    pub items: Vec<Submission>,
    /// The same for all of them: the key of each is made from it and from its place in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 255)))]
    pub idempotency_key: Option<String>,
}

/// A task that the mesh has accepted: it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Accepted {
    /// The task's id.
    pub id: TaskId,
    /// What is to be done.
    pub kind: Kind,
    /// How urgent it is.
    pub priority: Priority,
    /// Its sequence in the task stream; absent if it is not there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Whether it was there already, from an earlier request with the same key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

/// What became of tasks that were submitted together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Batched {
    /// Those that were accepted, in their order.
    pub items: Vec<Accepted>,
    /// Those that were not.
    pub refused: Vec<NotAccepted>,
}

/// A task of several that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NotAccepted {
    /// Its place in the list, counted from 0.
    pub index: usize,
    /// Why not, and what to do instead.
    pub error: String,
    /// As in HTTP.
    pub code: u16,
}

/// A task's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskResult {
    /// The task.
    pub id: TaskId,
    /// What was to be done.
    pub kind: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How often it was started.
    pub attempts: u32,
    /// The agent that ran it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Milliseconds from acceptance to the last start.
    pub queued_ms: u64,
    /// Milliseconds that the last attempt ran.
    pub run_ms: u64,
    /// The handler's output, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The handler's output in base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}
