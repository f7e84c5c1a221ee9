//! What operations are asked.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TaskState;
use super::list::{Limit, Span};
use crate::names::{AgentId, Kind, TaskId, Word};

/// Nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Nothing {}

/// Names a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskRef {
    /// The task's id.
    pub id: TaskId,
}

/// Names an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentRef {
    /// The agent's id.
    pub id: AgentId,
}

/// Names a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QueueRef {
    /// The kind of its tasks.
    pub id: Kind,
}

/// Asks for a task's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResultOf {
    /// The task's id.
    pub id: TaskId,
    /// How long to wait for it, 60s at most; it is not waited for unless this says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
}

/// Which tasks are listed: those that the coordinator has fetched, the oldest first, unless a state says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskFilter {
    /// Only tasks of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Only tasks that are so far: `queued` are those in the stream that are not fetched, the oldest first; `settled` those
    /// whose results are kept, the newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// Only tasks that were accepted so long ago or longer; of those that are settled, whose results are so old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<Span>,
    /// At most so many: 1 to 1000, and 100 unless something else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Only what comes after this: the `next` of the page before, with the same `state`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Which events are listed, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventFilter {
    /// Only those of this topic, such as `agent`, `task`, `scaling` or `mesh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<Word>,
    /// Only those that say that this happened, such as `lost`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<Word>,
    /// Only those about this task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Only those about this agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Only those about tasks of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Only those that were told so long ago or less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Span>,
    /// At most so many: 1 to 1000, and 100 unless something else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Only what comes after this: the `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Changes settings of a kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QueueChange {
    /// The kind, or `default`.
    pub id: Kind,
    /// A JSON merge patch of what `[kinds.…]` may hold; `null` goes back to the configuration.
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Map<String, Value>"))]
    pub settings: Value,
}

/// Changes settings of a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TenantChange {
    /// The tenant, or `default`: 1 to 64 characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    pub id: String,
    /// A JSON merge patch of what `[tenants.…]` may hold; `null` goes back to the configuration.
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Map<String, Value>"))]
    pub settings: Value,
}

/// Ends all tasks of a kind that do not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Purge {
    /// The kind.
    pub id: Kind,
    /// Where to go on, as the answer before says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Where to end, as the answer before says it; without it, with the last task there is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What a purge has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Purged {
    /// How many tasks were ended; each leaves a result with the outcome `cancelled`.
    pub purged: u64,
    /// The request by which the rest is ended, if there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Purge>,
}
