//! The mesh's own messages between agents and coordinator.
//!
//! `run`, `done` and `progress` are not here: they carry the bytes of task, output or log untouched, and everything else in
//! headers.

use std::collections::BTreeMap;
use std::time::Duration;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::names::{AgentId, Epoch, Incarnation, Kind, TaskId};
use crate::needs::Labels;
use crate::quantity::{Countables, Resources};

/// An agent registers. It says so when it starts, when it has reconnected, and when it is asked to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The process.
    pub incarnation: Incarnation,
    /// Version of the agent's program.
    #[serde(default)]
    pub version: String,
    /// The host it runs on.
    #[serde(default)]
    pub host: String,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// How many more it takes in advance, so that its slots never wait for the network.
    #[serde(default)]
    pub queue: u32,
    /// What a task's `Hive-Needs` are compared with.
    #[serde(default)]
    pub labels: Labels,
    /// What it can do.
    pub kinds: Vec<Kind>,
    /// Those of them of which no attempt may run while another does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_most_once: Vec<Kind>,
    /// What it offers; a dimension of zero is not limited.
    #[serde(default)]
    pub capacity: Resources,
    /// What it offers of countable resources; there is none of what is not named.
    #[serde(default, skip_serializing_if = "Countables::is_empty")]
    pub resources: Countables,
    /// What an attempt of a kind needs by the handler's own settings, where they say something.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub needs: BTreeMap<Kind, Needed>,
    /// How the agent keeps a command from taking more than is reserved for it: `cgroup`, `watch` or `off`; empty if it
    /// does not say so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub enforcement: String,
    /// What it holds, as in a beat.
    #[serde(default)]
    pub holds: Vec<Held>,
    /// Whether it takes no new work.
    #[serde(default)]
    pub draining: bool,
}

/// What an attempt needs, or has reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Needed {
    /// Of what every host has; zero where nothing is said.
    #[serde(flatten)]
    pub resources: Resources,
    /// Of what is counted.
    #[serde(default, skip_serializing_if = "Countables::is_empty")]
    pub countable: Countables,
}

impl Needed {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.resources == Resources::ZERO && self.countable.is_empty()
    }

    /// The greater amount of everything.
    #[must_use]
    pub fn most(&self, other: &Needed) -> Needed {
        Needed { resources: self.resources.most(&other.resources), countable: self.countable.most(&other.countable) }
    }

    /// This, and `other` in each dimension of which this says nothing. The countable ones are one dimension.
    #[must_use]
    pub fn or(&self, other: &Needed) -> Needed {
        let countable = if self.countable.is_empty() { &other.countable } else { &self.countable };
        Needed { resources: self.resources.or(&other.resources), countable: countable.clone() }
    }
}

/// The coordinator answers a hello, or asks for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The leader's epoch; an agent refuses orders of an older one.
    pub epoch: Epoch,
    /// How often the agent shall beat.
    #[serde(with = "humantime_serde")]
    pub beat_interval: Duration,
    /// How often it shall report.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// Whether the coordinator does not know the agent and wants its hello.
    #[serde(default)]
    pub hello_wanted: bool,
    /// How long after it has heard the agent the leader gives no other agent what this one runs at most once; a
    /// leader that does not say so does not wait.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub hold: Option<Duration>,
}

/// An agent is alive, and this is what it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// The process.
    pub incarnation: Incarnation,
    /// Counts the beats of the process; an older one that comes late is ignored.
    pub sequence: u64,
    /// Attempts it has been given and whose end has not been confirmed by `settled`.
    #[serde(default)]
    pub holds: Vec<Held>,
    /// Whether it takes no new work.
    #[serde(default)]
    pub draining: bool,
    /// How late the agent's own loop ran since the last beat, in milliseconds.
    #[serde(default)]
    pub lag_ms: u64,
    /// Whether the agent wants to be told that this beat was heard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answer: bool,
}

/// A beat was heard that wanted an answer. What the agent is told before this one takes what the beat said into
/// account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The beat's.
    pub sequence: u64,
}

/// An attempt that an agent holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The task.
    pub task: TaskId,
    /// The task's sequence in the task stream.
    pub sequence: u64,
    /// The task's kind.
    pub kind: Kind,
    /// The attempt's number.
    pub attempt: u32,
    /// The epoch that ordered it.
    pub epoch: Epoch,
    /// How far it is.
    pub state: HeldState,
}

/// How far an attempt is that an agent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldState {
    /// It waits for a slot of the agent.
    Queued,
    /// It runs.
    Running,
    /// It has ended; the agent repeats its `done`.
    Done,
}

/// How busy an agent's host is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The process.
    pub incarnation: Incarnation,
    /// Share of the host's CPU in use, 0.0 to 1.0.
    pub cpu: f64,
    /// Share of its memory in use, 0.0 to 1.0.
    pub memory: f64,
    /// Share of the disk in use that the agent works on, 0.0 to 1.0.
    pub disk: f64,
    /// Share of its network capacity in use, 0.0 to 1.0; zero where the capacity is not known.
    pub network: f64,
    /// Bytes a second received and sent.
    #[serde(default)]
    pub network_bytes_per_second: f64,
    /// Memory of the agent's own process in bytes.
    #[serde(default)]
    pub agent_memory_bytes: u64,
}

/// An agent leaves; what it names goes back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bye {
    /// The process.
    pub incarnation: Incarnation,
    /// Attempts that it has not started and will not.
    #[serde(default)]
    pub returned: Vec<AttemptRef>,
}

/// Names an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttemptRef {
    /// The task.
    pub task: TaskId,
    /// The attempt's number.
    pub attempt: u32,
    /// The epoch that ordered it.
    pub epoch: Epoch,
}

/// Attempts whose end is recorded: their `done` need not be repeated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// Which ones.
    pub attempts: Vec<AttemptRef>,
}

/// An attempt is to stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cancel {
    /// Which one.
    #[serde(flatten)]
    pub attempt: AttemptRef,
    /// Why, in words.
    #[serde(default)]
    pub reason: CompactString,
}

/// An agent shall take no new work and leave when what runs has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// The leader's epoch.
    pub epoch: Epoch,
}

/// Somebody wants to see what an attempt writes to its log: what comes after `after` at once, and for a while what is
/// written from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The attempt's task.
    pub task: TaskId,
    /// The attempt's number; the agent's last of the task if 0.
    #[serde(default)]
    pub attempt: u32,
    /// How many bytes of that attempt's log are known.
    #[serde(default)]
    pub after: u64,
    /// How long what is written is told as it comes.
    #[serde(default, with = "humantime_serde")]
    pub lasting: Duration,
}

/// The answer to a ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// Who answers.
    pub agent: AgentId,
    /// What a beat would say now.
    pub beat: Beat,
}
