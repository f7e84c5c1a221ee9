//! What the scheduler is told (facts, in the past tense), and what it orders.

use std::time::Duration;

use compact_str::CompactString;
use shared::message::{AttemptRef, Beat, Bye, Hello, Needed, Report};
use shared::task::AttemptOutcome;
use shared::{AgentId, Epoch, Incarnation, Kind, Outcome, Priority, TaskId, TaskOptions, Used};

use crate::Timestamp;
use crate::config::{AgentConfig, KindConfig, TenantConfig};
use crate::history::{End, History};

/// A task's sequence in the task stream: what identifies a delivered message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl std::fmt::Display for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// This coordinator leads from now on.
    LeadershipTaken(Epoch),
    /// It does not lead any more.
    LeadershipLost,
    /// The link to the broker was interrupted: silence until now says nothing about agents.
    LinkRestored,
    /// A message of ours to ourselves came back: the link to the broker and our own loop are well.
    CanaryHeard,
    /// The broker said that the agent's connection was closed.
    AgentDisconnected(AgentId),
    /// An agent registered.
    AgentHello(AgentId, Hello),
    /// An agent beat, or answered a probe.
    AgentBeat(AgentId, Beat),
    /// An agent said how busy its host is.
    AgentReport(AgentId, Report),
    /// An agent left.
    AgentBye(AgentId, Bye),
    /// The broker said that nobody listens on the agent's inbox.
    AgentUnreachable(AgentId),
    /// Somebody wants the agent to take no new work and leave.
    AgentDrained(AgentId),
    /// What leaders before have kept of tasks that are not settled: told once, soon after leadership was taken.
    HistoriesKnown(Vec<(Sequence, History)>),
    /// A task came from the stream.
    TaskDelivered(Delivery),
    /// A task came whose headers or subject cannot be read.
    TaskUnreadable(Unreadable),
    /// Somebody wants a task to end.
    TaskCancelled(Sequence),
    /// Somebody wants every task of a kind to end that is fetched and does not run.
    KindPurged(Kind),
    /// Somebody has changed what is said of an agent: it takes the place of what was said before, and ends a quarantine
    /// that it does not name.
    AgentConfigured(AgentId, AgentConfig),
    /// Somebody has changed settings of a kind, or of `default`: what is said goes before what the configuration says, and
    /// takes the place of what was said before.
    KindConfigured(String, KindConfig),
    /// Somebody has changed settings of a tenant, or of `default`, likewise.
    TenantConfigured(String, TenantConfig),
    /// An attempt ended.
    AttemptDone(AgentId, Done),
    /// The outcome of a task is recorded, or was before; its message need not be kept.
    TaskRecorded(Sequence),
    /// The message is gone from the stream: nothing is left of the task but its result.
    TaskRemoved(Sequence),
    /// A moment passed that [`crate::Scheduler::next_deadline`] named.
    DeadlineReached,
}

/// A task as it came from the stream.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Which message.
    pub sequence: Sequence,
    /// The task's id.
    pub id: TaskId,
    /// What is to be done.
    pub kind: Kind,
    /// How urgent it is.
    pub priority: Priority,
    /// When the broker accepted it.
    pub accepted: Timestamp,
    /// When it is not started any more.
    pub deadline: Option<Timestamp>,
    /// What its headers say.
    pub options: TaskOptions,
    /// Whether somebody has wanted it to end before it came.
    pub cancelled: bool,
}

/// A task that can never be run.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Which message.
    pub sequence: Sequence,
    /// The task's id, or one made from the sequence.
    pub id: TaskId,
    /// What is to be done, if that can be read.
    pub kind: Kind,
    /// When the broker accepted it.
    pub accepted: Timestamp,
    /// What is wrong, in words.
    pub reason: String,
}

/// How an attempt ended, as its agent says.
#[derive(Clone, Debug)]
pub struct Done {
    /// Which message.
    pub sequence: Sequence,
    /// Which attempt.
    pub attempt: AttemptRef,
    /// The process that ran it.
    pub incarnation: Incarnation,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it failed, in words.
    pub error: Option<CompactString>,
    /// How long it ran.
    pub run: Duration,
    /// What it used meanwhile.
    pub used: Used,
}

/// Something the coordinator must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send the task to the agent.
    Dispatch(Dispatch),
    /// Send it again: the same attempt, which does not seem to have come.
    Repeat(Dispatch),
    /// Tell an agent to stop an attempt.
    Cancel {
        /// Whom.
        agent: AgentId,
        /// What.
        attempt: AttemptRef,
        /// Why, in words.
        reason: &'static str,
    },
    /// Tell an agent that an attempt's end is recorded.
    Settled {
        /// Whom.
        agent: AgentId,
        /// What.
        attempt: AttemptRef,
    },
    /// Find out whether a task is settled whose attempt an agent reports, and say so to it if it is.
    CheckSettled {
        /// Whom.
        agent: AgentId,
        /// What.
        attempt: AttemptRef,
        /// Which message.
        sequence: Sequence,
    },
    /// Record how a task ended, then remove its message.
    Record(Settlement),
    /// Keep how the attempts of a task ended, for whoever leads next.
    Remember {
        /// Which message.
        sequence: Sequence,
        /// What takes the place of what was kept before.
        history: History,
    },
    /// The task is settled: what was kept of its attempts is not wanted any more.
    ForgetHistory(Sequence),
    /// A task with this id has just been settled: the message is a duplicate if its result was kept.
    SettleDuplicate(Sequence),
    /// Send a task back to the stream for so long: no agent that is there could ever run it, and it would only take
    /// up room here.
    Release {
        /// Which message.
        sequence: Sequence,
        /// When it may come again.
        delay: Duration,
    },
    /// Have what was sent back of this kind delivered again: an agent has come that may be able to run it.
    LookBack(Kind),
    /// Ask an agent whether it is there.
    Probe(AgentId),
    /// Greet an agent, or ask it to say hello.
    Welcome {
        /// Whom.
        agent: AgentId,
        /// Whether it is to say hello.
        hello_wanted: bool,
    },
    /// Tell an agent that its beat was heard; after all that the beat has led to.
    Heard {
        /// Whom.
        agent: AgentId,
        /// Which beat.
        sequence: u64,
    },
    /// Tell an agent to finish and leave.
    Drain(AgentId),
    /// Tell whoever listens.
    Tell(Notice),
}

/// An order to start an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// Which message.
    pub sequence: Sequence,
    /// The agent that shall run it.
    pub agent: AgentId,
    /// The process of the agent.
    pub incarnation: Incarnation,
    /// Which attempt.
    pub attempt: AttemptRef,
    /// Limit of its run, where the task or its kind names one.
    pub timeout: Option<Duration>,
    /// What is reserved for it.
    pub reserved: Needed,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// Which message.
    pub sequence: Sequence,
    /// The task's id.
    pub id: TaskId,
    /// What was to be done.
    pub kind: Kind,
    /// How it ended.
    pub outcome: Outcome,
    /// How often it was started.
    pub attempts: u32,
    /// The agent and the attempt whose output is the result.
    pub by: Option<(AgentId, AttemptRef)>,
    /// Why it failed, in words.
    pub error: Option<CompactString>,
    /// From acceptance to the last start.
    pub queued: Duration,
    /// How long the last attempt ran.
    pub run: Duration,
    /// Whether the task goes to the dead letters as well.
    pub dead_letter: bool,
    /// How earlier attempts ended: the evidence in its dead letter. Empty where it leaves none.
    pub history: Vec<End>,
}

/// Something an operator would mention.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// `agent`, `task` or `mesh`.
    pub topic: &'static str,
    /// What happened, in the past tense.
    pub what: &'static str,
    /// The agent it is about.
    pub agent: Option<AgentId>,
    /// The task it is about, with its kind and the number of the attempt.
    pub task: Option<(TaskId, Kind, u32)>,
    /// In words.
    pub detail: Option<String>,
}

impl Notice {
    pub(crate) fn agent(what: &'static str, agent: &AgentId) -> Self {
        Self { topic: "agent", what, agent: Some(agent.clone()), task: None, detail: None }
    }

    pub(crate) fn mesh(what: &'static str, detail: impl Into<String>) -> Self {
        Self { topic: "mesh", what, agent: None, task: None, detail: Some(detail.into()) }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// Orders, in the order they are to be carried out.
pub type Actions = Vec<Action>;
