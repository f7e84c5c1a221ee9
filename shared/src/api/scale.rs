//! Pools of agents, as `scale.…` shows them: how many agents there are and are to be, what was done about it, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::AgentId;

/// A pool, as `scale.status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pool {
    /// What it is called.
    pub id: String,
    /// What it is at: `steady`, `growing`, `shrinking`, `backing-off`, `blind` or `paused`.
    pub phase: String,
    /// Whether anything is done. Otherwise it is only told what would be.
    pub acts: bool,
    /// Why nothing is done, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// How many agents are wished for; absent before the first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wished: Option<u32>,
    /// How many are there, those that leave not counted.
    pub present: u32,
    /// How many were ordered and are not there yet.
    pub starting: u32,
    /// How many were told to go and are there still.
    pub leaving: u32,
    /// How many there are at least.
    pub min_agents: u32,
    /// How many there are at most.
    pub max_agents: u32,
    /// What was measured at the last look.
    pub measured: Measured,
    /// The last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<Change>,
}

/// What was measured of a pool. What is absent was not known, and changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measured {
    /// Milliseconds since the last look; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Whether the link is suspected rather than the agents, as after a takeover: nothing is decided then.
    pub in_doubt: bool,
    /// Tasks that wait for an agent of the pool, those in the stream included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    /// Milliseconds that the oldest of them has waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// Milliseconds that all of them will run, put together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_ms: Option<u64>,
    /// 95 of 100 tasks that started of late, or wait still, have waited no longer than so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_p95_ms: Option<u64>,
    /// Slots of the agents that take work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// How many of them were taken since the look before, in the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<f64>,
    /// How many were taken of agents that take no more work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_of_leaving: Option<f64>,
    /// How busy the hosts are, 0.0 to 1.0: the mean of the busier of CPU and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_utilisation: Option<f64>,
    /// Attempts that ended, a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<f64>,
    /// Share of the attempts that ended of late which failed, 0.0 to 1.0; absent while too few have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<f64>,
}

/// A pool with everything that is known of it, as `scale.get` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Detail {
    /// How it is.
    #[serde(flatten)]
    pub pool: Pool,
    /// Agents of it that are there and stay.
    pub agents: Vec<AgentId>,
    /// Agents of it that were told to go.
    pub agents_leaving: Vec<AgentId>,
    /// What was done in this leader's reign, counted.
    pub statistics: Statistics,
    /// The settings, complete, under the names of the coordinator's configuration.
    pub settings: serde_json::Value,
}

/// What was done about a pool in this leader's reign, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Statistics {
    /// Changes that were ordered.
    pub ordered: u64,
    /// Those that have ended well.
    pub succeeded: u64,
    /// Those that ended in part.
    pub partly: u64,
    /// Those that came to nothing.
    pub failed: u64,
    /// Those that made the pool grow.
    pub growing: u64,
    /// Those that made it shrink.
    pub shrinking: u64,
    /// Those that replaced agents.
    pub replacing: u64,
    /// Share of those that have ended which ended well, 0.0 to 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<f64>,
    /// How often the direction has changed.
    pub flaps: u64,
    /// For how many milliseconds the pool was at what.
    pub time_in_ms: BTreeMap<String, u64>,
}

/// A change of how many agents a pool has, as `scale.history` and the events on `hive.event.scaling.…` tell it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// The pool.
    pub pool: String,
    /// Number of the order; absent if nothing was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
    /// When it was ordered, RFC 3339 in UTC.
    pub time: String,
    /// The rule that decided it: `queued-work`, `low-demand`, …
    pub rule: String,
    /// What the rule looked at, with its unit.
    pub metric: String,
    /// What that was.
    pub value: f64,
    /// What it was compared with.
    pub threshold: f64,
    /// How many agents were there, those that were leaving not counted.
    pub before: u32,
    /// How many were wished for.
    pub wished: u32,
    /// How many were there when it ended; absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u32>,
    /// What came of it: `underway`, `succeeded`, `partly`, `failed` or `planned`.
    pub outcome: String,
    /// Whether it has come about; absent while it is under way, or if it was only told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    /// Milliseconds until it had its effect, or until it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// What whoever was to do it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why a pool has as many agents as it has, as `scale.explain` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Explanation {
    /// The pool.
    pub pool: String,
    /// When it was looked at, RFC 3339 in UTC.
    pub time: String,
    /// In one sentence.
    pub summary: String,
    /// How many agents were wished for before the look.
    pub before: u32,
    /// How many it came to wish for.
    pub wished: u32,
    /// What each rule said, whether or not it changes anything.
    pub findings: Vec<Finding>,
    /// What the rules went by.
    pub measured: Measured,
    /// What would be done now if the pool were to do what it wishes.
    pub would: Would,
}

/// What one rule says of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// Which one.
    pub rule: String,
    /// What it looks at, with its unit.
    pub metric: String,
    /// What that is, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// What it is compared with.
    pub threshold: f64,
    /// How many agents it wants, if its condition is met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<u32>,
    /// Why it changes nothing, in words; absent if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// What would be done about a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Would {
    /// So many agents would be started.
    pub start: u32,
    /// These would be drained.
    pub drain: Vec<AgentId>,
}

/// What `scale.history` is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HistoryOf {
    /// The pool.
    pub id: String,
    /// At most so many changes, the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// What `scale.set` changes: exactly one of `settings` and `agents`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// The pool.
    pub id: String,
    /// A JSON merge patch of what `[pools.…]` of the configuration may hold, but for `actuator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<serde_json::Value>,
    /// So many agents there shall be, until a rule finds otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<u32>,
}

/// What is said of a pool after `scale.set`, `scale.pause` or `scale.resume`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Said {
    /// The pool.
    pub id: String,
    /// All that is said of it while the mesh runs, under the names of the coordinator's configuration.
    pub settings: serde_json::Value,
    /// How many agents were asked for, if that was it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<u32>,
}
