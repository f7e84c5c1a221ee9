//! What a task's attempts write while they run, and how far they are: `task.logs`.

use serde::{Deserialize, Serialize};

use super::TaskState;
use crate::names::TaskId;
use crate::task::Outcome;

/// Asks for what a task's last attempt has written: what is kept of it, or what came after one knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LogsRequest {
    /// Which task.
    pub id: String,
    /// The attempt whose log is known in part: `attempt` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How much of it is known: `next` of the answer before.
    #[serde(default)]
    pub after: u64,
    /// How long to wait for something new, such as `2s`; 3 s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
}

/// A part of a task's log, and how far the task is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskLog {
    /// Which task.
    pub task: TaskId,
    /// How far it is.
    pub state: TaskState,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The agent that has it, or ran it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The attempt that wrote this; 0 if none has begun.
    pub attempt: u32,
    /// What it wrote. Bytes that are no text are shown as `\u{fffd}`.
    pub text: String,
    /// How many bytes of the attempt's log come before what it writes next.
    pub next: u64,
    /// How many bytes are missing before the text: they are not kept any more, or were more than is told at a time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Whether nothing more will come.
    pub ended: bool,
    /// How far the attempt is, if its handler reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<TaskProgress>,
    /// Why there is no text, in words, if there is a reason but that nothing was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How far a running attempt is, as its handler reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskProgress {
    /// 0 to 1.
    pub fraction: f64,
    /// What it does, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Milliseconds since the coordinator heard of it.
    pub age_ms: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
