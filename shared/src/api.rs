//! What the control service is asked and answers: the same shapes over NATS (`hive.api.<noun>.<verb>`), REST and
//! `--json`.
//!
//! Requests and answers are JSON. An error over NATS has no body and the headers `Nats-Service-Error` and
//! `Nats-Service-Error-Code` of NATS micro services; over HTTP it is RFC 9457 problem details. With the feature `schema`
//! each type describes itself as a JSON Schema.

pub mod ask;
pub mod list;
pub mod submit;

pub mod logs;

pub mod scale;

pub mod alerts;

pub mod filter;
pub mod hooks;
pub mod intakes;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::Needed;
use crate::names::{AgentId, Epoch, Incarnation, Kind, Priority, TaskId};
use crate::needs::Labels;
use crate::quantity::{Countables, Resources};

/// A list: the same envelope everywhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct List<T> {
    /// The things listed.
    pub items: Vec<T>,
}

/// How an agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It has said hello and not beaten yet.
    Starting,
    /// It beats, and gets work.
    Healthy,
    /// It beats, but was lost and came back again and again, so it gets no work for a while.
    Degraded,
    /// It is silent and being probed; it keeps its work and gets none.
    Unhealthy,
    /// It is gone; its work starts elsewhere.
    Offline,
    /// It finishes what it has and gets no new work.
    Stopping,
}

impl AgentState {
    /// Every state.
    pub const ALL: [AgentState; 6] = [
        AgentState::Starting,
        AgentState::Healthy,
        AgentState::Degraded,
        AgentState::Unhealthy,
        AgentState::Offline,
        AgentState::Stopping,
    ];

    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            AgentState::Starting => "starting",
            AgentState::Healthy => "healthy",
            AgentState::Degraded => "degraded",
            AgentState::Unhealthy => "unhealthy",
            AgentState::Offline => "offline",
            AgentState::Stopping => "stopping",
        }
    }
}

impl std::fmt::Display for AgentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// An agent, as `agent.list` and `GET /v1/agents` show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Agent {
    /// Who it is.
    pub id: AgentId,
    /// How it is doing.
    pub state: AgentState,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// How many of its attempts are in a slot.
    pub running: u32,
    /// How many more it has been given in advance.
    pub queued: u32,
    /// What it can do.
    pub kinds: Vec<Kind>,
    /// What `Hive-Needs` are compared with.
    pub labels: Labels,
    /// The host it runs on.
    pub host: String,
    /// Version of its program.
    pub version: String,
    /// Its process.
    pub incarnation: Incarnation,
    /// Milliseconds since its last beat.
    pub beat_age_ms: u64,
    /// What it offers; zero is not limited.
    pub capacity: Resources,
    /// What its attempts have reserved.
    pub reserved: Resources,
    /// What it offers of countable resources.
    #[serde(default, skip_serializing_if = "Countables::is_empty")]
    pub countables: Countables,
    /// What its attempts have reserved of them.
    #[serde(default, skip_serializing_if = "Countables::is_empty")]
    pub countables_reserved: Countables,
    /// How it keeps commands from taking more than is reserved for them: `cgroup`, `watch` or `off`; empty if it does not
    /// say so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub enforcement: String,
    /// How busy its host is, by resource, 0.0 to 1.0; empty before its first report.
    pub usage: BTreeMap<String, f64>,
    /// Attempts that it has ended well since it registered with this leader.
    pub succeeded: u64,
    /// Attempts that failed on it since.
    pub failed: u64,
    /// The task that it is emptied for, or runs and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_for: Option<TaskId>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// In the stream; the coordinator has not fetched it yet.
    Queued,
    /// Fetched; it waits for an agent or for its next attempt.
    Waiting,
    /// An agent has it.
    Running,
    /// Its outcome is recorded.
    Settled,
}

impl TaskState {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            TaskState::Queued => "queued",
            TaskState::Waiting => "waiting",
            TaskState::Running => "running",
            TaskState::Settled => "settled",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A task, as `task.get` and `task.list` show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Task {
    /// Which one.
    pub id: TaskId,
    /// What is to be done.
    pub kind: Kind,
    /// How urgent it is; unknown once it is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// How far it is.
    pub state: TaskState,
    /// How often it has been started.
    pub attempts: u32,
    /// The agent that has it, or ran it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Milliseconds since it was accepted; unknown once it is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<crate::Outcome>,
    /// Why it waits or how it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it runs alone on its agent, because it was there when others were lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// Milliseconds from acceptance to the last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<u64>,
    /// Milliseconds that the last attempt ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<u64>,
    /// How far its attempt is, if its handler reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<logs::TaskProgress>,
}

/// Why a task is where it is, as `task.why` shows it: worked out by the code that places tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Explanation {
    /// In one sentence.
    pub summary: String,
    /// Agents that can do its kind, gone ones included.
    pub agents: u32,
    /// What kept it from them, in the order in which it is asked; who is kept by nothing is not counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterStep>,
    /// The agent that comes nearest to being able to take it, and what it lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearMiss>,
    /// A limit of its kind or tenant that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// What goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<Ahead>,
    /// Milliseconds until it may start, as far as can be told from what goes before it and how long that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_in_ms: Option<u64>,
    /// Why its agent was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
}

/// A filter, and the agents that it kept a task from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FilterStep {
    /// Which one: `state`, `labels`, `size`, `pressure`, `busy`, `ejected`, `kept`, `empty`, `slots`, `generalist`,
    /// `share` or `reserved`.
    pub filter: String,
    /// How many agents it removed that had passed those before it.
    pub removed: u32,
    /// What they lack, in words.
    pub detail: String,
}

/// An agent that nearly could take a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NearMiss {
    /// Which one.
    pub agent: AgentId,
    /// The filter that removed it.
    pub filter: String,
    /// What it lacks, in words.
    pub detail: String,
}

/// What goes before a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ahead {
    /// Tasks that ask for the same, and came before it or are more urgent.
    pub in_line: u64,
    /// Tasks of its kind that ask for something else, or are for others, and are tried before it.
    pub in_other_lines: u64,
}

/// Why an agent got a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Chosen {
    /// The agent.
    pub agent: String,
    /// What it was chosen by: a strategy.
    pub strategy: String,
    /// What that made of it.
    pub score: f64,
    /// What the score means.
    pub score_means: String,
    /// The next best agent, if another could have had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<RunnerUp>,
    /// Whether it had a free slot, and not only room in its queue.
    pub had_free_slot: bool,
}

/// The agent that would have got a task otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunnerUp {
    /// The agent.
    pub agent: String,
    /// What the strategy made of it.
    pub score: f64,
}

/// What waits and runs of one kind, as `queue.list` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Queue {
    /// The kind.
    pub kind: Kind,
    /// Tasks of it in the stream, whoever has them.
    pub stored: u64,
    /// Those of them that the coordinator has fetched and not placed.
    pub waiting: u64,
    /// Those that an agent has.
    pub running: u64,
    /// Agents that can do it and are not offline.
    pub agents: u32,
    /// How its tasks are placed.
    pub strategy: String,
    /// Whether none of its tasks is fetched or started; what runs goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// What waits and runs of one kind, and the settings that hold for it, as `queue.get` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QueueSettings {
    /// What waits and runs of it; `stored` is not looked up.
    #[serde(flatten)]
    pub queue: Queue,
    /// The settings, under the names of the coordinator's configuration.
    pub settings: serde_json::Value,
}

/// What is used of what is reserved of what there is, as `resource.list` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResourceUse {
    /// Slots of the agents that get work, and how many of them are taken.
    pub slots: SlotUse,
    /// Each resource on all these agents together.
    pub mesh: Vec<ResourceAmounts>,
    /// The same, agent by agent.
    pub agents: Vec<AgentUse>,
    /// What attempts of each kind have used, where that was measured.
    pub kinds: Vec<KindUse>,
    /// What waits for an agent that is not there: no present one could ever run it.
    pub unmet: Vec<UnmetDemand>,
}

/// Slots, and how many are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SlotUse {
    /// How many there are.
    pub slots: u64,
    /// How many have an attempt in them.
    pub taken: u64,
    /// Mean share that had one, 0.0 to 1.0, over the last few minutes in which tasks waited that an agent could have
    /// run; absent if there was no such time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_under_backlog: Option<f64>,
}

/// A resource: how much there is, is reserved and is used, each in the unit of [`crate::Resources`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResourceAmounts {
    /// `cpu`, `memory`, `disk`, `network`, or the name of a countable one.
    pub resource: String,
    /// How much there is; zero where it is not limited.
    pub capacity: u64,
    /// How much is reserved for attempts.
    pub reserved: u64,
    /// How much is used on the hosts, by whomever, as their agents reported last; absent where nothing is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
}

/// What is used of what is reserved of what an agent has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentUse {
    /// The agent.
    pub agent: AgentId,
    /// Its slots.
    pub slots: u32,
    /// Those that have an attempt in them.
    pub taken: u32,
    /// Its resources.
    pub resources: Vec<ResourceAmounts>,
}

/// What attempts of a kind have used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KindUse {
    /// The kind.
    pub kind: Kind,
    /// Attempts that were measured.
    pub samples: u64,
    /// Milliseconds since the first of them.
    pub since_ms: u64,
    /// Those of them that were ended for the memory they took.
    pub out_of_memory: u64,
    /// CPU and memory of one attempt.
    pub resources: Vec<UseOfOne>,
}

/// What one attempt uses of a resource, over all that were measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UseOfOne {
    /// `cpu` (the mean while an attempt runs) or `memory` (the most it had at a time).
    pub resource: String,
    /// What a task of the kind reserves that says nothing itself.
    pub reserved: u64,
    /// Half of the attempts used no more than this.
    pub p50: u64,
    /// 95 of 100 used no more than this.
    pub p95: u64,
    /// None used more.
    pub peak: u64,
    /// What was used of what was reserved, in resource-seconds; absent if nothing was reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<f64>,
}

/// Tasks that no present agent could ever run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UnmetDemand {
    /// Their kind.
    pub kind: Kind,
    /// What they need of labels, as `Hive-Needs` is written; empty if nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub needs: String,
    /// What they reserve.
    #[serde(flatten)]
    pub reserved: Needed,
    /// How many there are that the coordinator has seen.
    pub tasks: u64,
    /// Milliseconds since the first of them could not be placed.
    pub since_ms: u64,
    /// Why nobody can run them, in words.
    pub reason: String,
}

/// Which way an allocation is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Less is reserved or offered than is used.
    UnderAllocated,
    /// More is reserved or offered than is used.
    OverAllocated,
}

impl Finding {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Finding::UnderAllocated => "under-allocated",
            Finding::OverAllocated => "over-allocated",
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A suggestion with its evidence, as `resource.recommend` shows it: to reserve more or less for a kind, or to offer more
/// or fewer slots on an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Recommendation {
    /// The kind it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The agent it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// `cpu` or `memory` of a kind; `slots` of an agent.
    pub resource: String,
    /// Which way it is wrong.
    pub finding: Finding,
    /// What is reserved or offered now.
    pub now: u64,
    /// What should be.
    pub suggested: u64,
    /// What was used: half of the samples were no more than this. Of an agent it is the share of the resource that its full
    /// slots left least of, in thousandths.
    pub p50: u64,
    /// 95 of 100 were no more than this.
    pub p95: u64,
    /// None was more.
    pub peak: u64,
    /// How many samples there are.
    pub samples: u64,
    /// Milliseconds since the first of them.
    pub since_ms: u64,
    /// What it would save or prevent, in words.
    pub effect: String,
    /// What `resource.apply` would set now; absent where it can set nothing. It goes towards the suggestion by a bounded
    /// step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// What bounds that step, or keeps it from being taken, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
}

/// What `resource.apply` has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Applied {
    /// The kind.
    pub kind: Kind,
    /// The recommendations that were followed; `step` is what was set.
    pub followed: Vec<Recommendation>,
    /// All that is said of the kind while the mesh runs, under the names of the coordinator's configuration.
    pub settings: serde_json::Value,
}

/// What `resource.apply` is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The kind.
    pub id: Kind,
    /// Only this resource, `cpu` or `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Whether nothing is changed, and only told what would be.
    #[serde(default)]
    pub dry_run: bool,
}

/// Somebody whom work is for, as `tenant.list` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tenant {
    /// Its name; empty for tasks that name none.
    pub name: String,
    /// What it gets of a kind compared with others.
    pub weight: f64,
    /// Its attempts that run.
    pub running: u64,
    /// How many of them may at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u64>,
    /// How many of its tasks may start in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
}

/// The mesh at a glance, as `mesh.status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Mesh {
    /// Name of the mesh.
    pub mesh: String,
    /// The coordinator that answers.
    pub instance: String,
    /// Whether it leads.
    pub leading: bool,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// Version of the coordinator's program.
    pub version: String,
    /// Agents by state.
    pub agents: BTreeMap<String, u32>,
    /// Slots of the agents that get work.
    pub slots: u64,
    /// Attempts that agents have.
    pub running: u64,
    /// Tasks fetched and not placed.
    pub waiting: u64,
    /// Tasks settled by this leader, by outcome.
    pub settled: BTreeMap<String, u64>,
    /// Attempts started again because their agent was lost.
    pub reassigned: u64,
    /// How often the NATS server has refused the coordinator something for lack of permission.
    #[serde(default)]
    pub refused: u64,
}

/// A dead letter, as `dead.list` shows it: a task that failed for good or could not be run at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeadLetter {
    /// Its sequence in the stream of dead letters.
    pub id: u64,
    /// The task's id.
    pub task: String,
    /// What was to be done.
    pub kind: String,
    /// How the task ended: `failed` or `dead`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<crate::Outcome>,
    /// How often it was started.
    pub attempts: u32,
    /// The agent that ran it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The subject it was submitted under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The task whose dead letter was replayed as this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// When it was buried, RFC 3339 in UTC.
    pub time: String,
    /// Milliseconds since.
    pub age_ms: u64,
    /// Length of its body.
    pub body_bytes: u64,
}

/// Which dead letters `dead.list` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DeadFilter {
    /// Only those of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those older than the one with this id: the `next` of the page before.
    #[serde(
        rename = "cursor",
        alias = "before",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "number_or_digits"
    )]
    pub before: Option<u64>,
}

/// A page of dead letters, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeadPage {
    /// The dead letters.
    pub items: Vec<DeadLetter>,
    /// How many there are of what was asked for, on all pages.
    pub total: u64,
    /// The `cursor` of the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A dead letter with what was submitted, as `dead.get` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeadLetterContent {
    /// What is known of it.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// Its headers, the submitter's and the mesh's, without the broker's own.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Whether headers or body are too long to be shown whole.
    pub truncated: bool,
}

/// Which dead letters are got, replayed or discarded: exactly one of `id`, `task`, `kind` and `all`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DeadSelection {
    /// The one with this id; a number, or its digits as a text.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "number_or_digits")]
    pub id: Option<u64>,
    /// The one of this task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// All of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// All.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Of several, only those newer than the one with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Of several, only those up to the one with this id; without it, those there are now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Of several, at most so many are replayed by one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

fn number_or_digits<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Number(u64),
        Digits(String),
    }
    match Option::<Given>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Given::Number(number)) => Ok(Some(number)),
        Some(Given::Digits(digits)) => digits.parse().map(Some).map_err(|_| {
            serde::de::Error::custom(
                "the id of a dead letter is its sequence, a number; a task's id is given as `task`",
            )
        }),
    }
}

/// What `dead.replay` has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Replays {
    /// What was submitted again; its dead letters are gone.
    pub items: Vec<Replay>,
    /// What was not; its dead letters stay.
    pub refused: Vec<ReplayRefusal>,
    /// The request by which the rest is replayed, if there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<DeadSelection>,
}

/// A dead letter that was replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Replay {
    /// The dead letter's id.
    pub id: u64,
    /// The task that it was of.
    pub task: String,
    /// The task that it is now.
    pub new_task: TaskId,
    /// Whether an earlier replay had submitted it already, so that now only the dead letter was removed.
    pub repeated: bool,
}

/// A dead letter that was not replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReplayRefusal {
    /// The dead letter's id.
    pub id: u64,
    /// The task that it is of.
    pub task: String,
    /// Why not, and what to do instead.
    pub error: String,
}

/// What `dead.discard` has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Discarded {
    /// How many dead letters were removed.
    pub discarded: u64,
}

/// Asks about one thing: `{"id": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ById {
    /// Which one.
    pub id: String,
}

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{error}")]
pub struct Refusal {
    /// What, where, and what to do instead.
    pub error: String,
    /// As in HTTP: 404 not found, 409 conflict, 503 no leader.
    pub code: u16,
}

/// What an event says, in stream `HIVE_EVENTS` under `hive.event.<topic>.<what>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// `agent`, `task`, `scaling`, `alert` or `mesh`.
    pub topic: String,
    /// What happened: `lost`, `reassigned`, …
    pub what: String,
    /// The epoch of the leader that tells it.
    pub epoch: Epoch,
    /// The agent it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The task it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The task's kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The attempt's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What there is to it beside that, by the topic: with `scaling` a [`scale::Change`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_dead_letter_is_a_number_or_its_digits() {
        let id = |text: &str| serde_json::from_str::<DeadSelection>(text).map(|s| s.id).map_err(|e| e.to_string());

        assert_eq!(id(r#"{"id": 17}"#), Ok(Some(17)));
        assert_eq!(id(r#"{"id": "17"}"#), Ok(Some(17)));
        assert_eq!(id(r#"{"all": true}"#), Ok(None));
        assert!(id(r#"{"id": "order-1"}"#).unwrap_err().contains("`task`"));
        assert!(id(r#"{"ids": [1]}"#).is_err());
    }
}
