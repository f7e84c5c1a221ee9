//! What the pages show of parts that are not theirs: pools, alerts, live events. Whoever has these fills in what is
//! declared here; without them the pages say how one gets them.

use futures_util::future::BoxFuture;
use shared::api::Refusal;

/// Where the pages get what is not the scheduler's or the streams'.
pub trait Sources: std::fmt::Debug + Send + Sync {
    /// The pools of agents whose number the mesh decides, by name.
    fn pools(&self) -> BoxFuture<'_, Result<Vec<PoolView>, Refusal>>;
    /// Alerts that have fired and not resolved, the gravest first.
    fn alerts(&self) -> BoxFuture<'_, Result<Vec<AlertView>, Refusal>>;
    /// The path at which events are streamed as they happen (server-sent events with an event in JSON each); without
    /// one the page of events looks again and again.
    fn event_stream(&self) -> Option<&str>;
}

/// A pool of agents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolView {
    /// What it is called.
    pub name: String,
    /// What its agents can do, and their labels, in words.
    pub agents: String,
    /// What it is at: `steady`, `growing`, …
    pub phase: String,
    /// How many agents are wished for, if anything is yet.
    pub wished: Option<u32>,
    /// How many are there.
    pub present: u32,
    /// How many were ordered and are not there yet.
    pub starting: u32,
    /// The fewest and the most that there may be.
    pub bounds: (u32, u32),
    /// What starts and ends them, in words.
    pub actuator: String,
    /// What each rule said when it was last looked at.
    pub findings: Vec<FindingView>,
    /// What was changed, the oldest first.
    pub changes: Vec<ChangeView>,
}

/// What one rule says of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FindingView {
    /// Which rule.
    pub rule: String,
    /// What it looks at, with its unit.
    pub metric: String,
    /// What that is, if it is known.
    pub value: Option<f64>,
    /// What it is compared with.
    pub threshold: f64,
    /// How many agents it wants.
    pub wants: Option<u32>,
    /// Why it changes nothing now, in words.
    pub waits_for: Option<String>,
}

/// A change of a pool's number of agents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChangeView {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Why, in words: rule, metric, value, threshold.
    pub cause: String,
    /// How many agents were there.
    pub before: u32,
    /// How many were wished for.
    pub wished: u32,
    /// How many were there when it ended.
    pub after: Option<u32>,
    /// What came of it: `underway`, `succeeded`, `partly`, `failed`, `planned`.
    pub outcome: String,
    /// How long it took, in milliseconds.
    pub took_ms: Option<u64>,
    /// What went wrong, in words.
    pub error: Option<String>,
}

/// An alert that has fired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertView {
    /// Which rule.
    pub name: String,
    /// Whether somebody must act at once.
    pub is_critical: bool,
    /// Milliseconds since it fired.
    pub since_ms: u64,
    /// What is the matter, in words.
    pub summary: String,
    /// Whether somebody has said that they know.
    pub is_acknowledged: bool,
}
