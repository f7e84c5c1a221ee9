//! The only place that spells a subject.
//!
//! [`Subjects`] writes them for one mesh; [`TaskSubject`] and [`AgentSubject`] read them.

use std::fmt;

use crate::names::{AgentId, BadName, BadPriority, Epoch, Kind, MeshName, Priority, TaskId};

/// Writes the subjects and stream names of one mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subjects {
    mesh: MeshName,
}

impl Subjects {
    /// The subjects of the mesh of that name.
    pub fn new(mesh: MeshName) -> Self {
        Self { mesh }
    }

    /// The mesh whose subjects these are.
    pub fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    /// Where a task is submitted whose id stands in the subject.
    pub fn task(&self, kind: &Kind, priority: Priority, id: &TaskId) -> String {
        [self.mesh.as_str(), ".task.", kind.as_str(), ".", priority.as_str(), ".", id.as_str()].concat()
    }

    /// What the task stream takes: exactly the subjects of the contract, so that a wrong priority is
    /// refused when it is published.
    pub fn task_stream_filters(&self) -> Vec<String> {
        let mesh = &self.mesh;
        let with_priority =
            Priority::ALL.iter().flat_map(|p| [format!("{mesh}.task.*.{p}"), format!("{mesh}.task.*.{p}.*")]);
        std::iter::once(format!("{mesh}.task.*")).chain(with_priority).collect()
    }

    /// The subjects that carry tasks of one kind and priority.
    pub fn task_filters(&self, kind: &Kind, priority: Priority) -> Vec<String> {
        let mesh = &self.mesh;
        let mut filters = vec![format!("{mesh}.task.{kind}.{priority}"), format!("{mesh}.task.{kind}.{priority}.*")];
        if priority == Priority::Normal {
            filters.push(format!("{mesh}.task.{kind}"));
        }
        filters
    }

    /// Every subject that a task of this id may stand under while it is queued.
    pub fn tasks_with_id(&self, id: &TaskId) -> String {
        format!("{}.task.*.*.{id}", self.mesh)
    }

    /// The subjects of all tasks of one kind, whatever their priority.
    pub fn kind_filters(&self, kind: &Kind) -> [String; 2] {
        [format!("{}.task.{kind}", self.mesh), format!("{}.task.{kind}.>", self.mesh)]
    }

    /// Every task subject, for counting what is queued.
    pub fn all_tasks(&self) -> String {
        format!("{}.task.>", self.mesh)
    }

    /// The subjects of tasks without an id, of all kinds.
    pub fn task_filters_without_id(&self) -> Vec<String> {
        let mesh = &self.mesh;
        let with_priority = Priority::ALL.iter().map(|p| format!("{mesh}.task.*.{p}"));
        std::iter::once(format!("{mesh}.task.*")).chain(with_priority).collect()
    }

    /// Where a request submits a task and gets the result as its reply.
    pub fn call(&self, kind: &Kind) -> String {
        format!("{}.call.{kind}", self.mesh)
    }

    /// All calls.
    pub fn calls(&self) -> String {
        format!("{}.call.*", self.mesh)
    }

    /// The kind of a call, if this is the subject of one.
    pub fn call_kind(&self, subject: &str) -> Option<Result<Kind, BadName>> {
        Some(Kind::new(self.strip(subject, "call")?))
    }

    /// Where the result of a task is recorded.
    pub fn result(&self, id: &TaskId) -> String {
        [self.mesh.as_str(), ".result.", id.as_str()].concat()
    }

    /// All results.
    pub fn results(&self) -> String {
        format!("{}.result.*", self.mesh)
    }

    /// The task whose result this is, if this is the subject of one.
    pub fn result_id(&self, subject: &str) -> Option<TaskId> {
        TaskId::new(self.strip(subject, "result")?).ok()
    }

    /// Where dead tasks of a kind are kept.
    pub fn dead(&self, kind: &Kind) -> String {
        format!("{}.dead.{kind}", self.mesh)
    }

    /// Where a leader keeps how the attempts of the task of this sequence ended. Each has its own, so that an old one
    /// that does not know it was replaced does not take away what the new one has kept.
    pub fn history(&self, sequence: u64, epoch: Epoch) -> String {
        format!("{}.history.{sequence}.{epoch}", self.mesh)
    }

    /// All of these for one task.
    pub fn histories_of(&self, sequence: u64) -> String {
        format!("{}.history.{sequence}.*", self.mesh)
    }

    /// All of these.
    pub fn histories(&self) -> String {
        format!("{}.history.*.*", self.mesh)
    }

    /// The task's sequence and the epoch, if this is the subject of a history.
    pub fn history_key(&self, subject: &str) -> Option<(u64, Epoch)> {
        let rest = subject.strip_prefix(self.mesh.as_str())?.strip_prefix(".history.")?;
        let (sequence, epoch) = rest.split_once('.')?;
        Some((sequence.parse().ok()?, Epoch(epoch.parse().ok()?)))
    }

    /// All dead letters.
    pub fn all_dead(&self) -> String {
        format!("{}.dead.*", self.mesh)
    }

    /// Where an event is told: `topic` is `agent`, `task`, `scaling`, `alert` or `mesh`, `what` is past tense.
    pub fn event(&self, topic: &str, what: &str) -> String {
        format!("{}.event.{topic}.{what}", self.mesh)
    }

    /// All events.
    pub fn events(&self) -> String {
        format!("{}.event.*.*", self.mesh)
    }

    /// Where an agent says something.
    pub fn agent(&self, agent: &AgentId, verb: AgentVerb) -> String {
        [self.mesh.as_str(), ".agent.", agent.as_str(), ".", verb.as_str()].concat()
    }

    /// What all agents say with one verb.
    pub fn agents(&self, verb: AgentVerb) -> String {
        format!("{}.agent.*.{verb}", self.mesh)
    }

    /// All that agents say.
    pub fn all_agents(&self) -> String {
        format!("{}.agent.*.*", self.mesh)
    }

    /// Where an agent is told something.
    pub fn inbox(&self, agent: &AgentId, verb: InboxVerb) -> String {
        [self.mesh.as_str(), ".inbox.", agent.as_str(), ".", verb.as_str()].concat()
    }

    /// All that an agent is told.
    pub fn inbox_all(&self, agent: &AgentId) -> String {
        format!("{}.inbox.{agent}.*", self.mesh)
    }

    /// All that any agent is told.
    pub fn all_inboxes(&self) -> String {
        format!("{}.inbox.*.*", self.mesh)
    }

    /// Who is told something in an inbox, and what, if the verb is known.
    pub fn inbox_of<'a>(&self, subject: &'a str) -> Option<(&'a str, InboxVerb)> {
        let (agent, verb) = self.strip(subject, "inbox")?.split_once('.')?;
        Some((agent, InboxVerb::ALL.into_iter().find(|known| known.as_str() == verb)?))
    }

    /// What an agent is told, if this is its inbox and a known verb.
    pub fn inbox_verb(&self, agent: &AgentId, subject: &str) -> Option<InboxVerb> {
        let (to, verb) = self.inbox_of(subject)?;
        (to == agent.as_str()).then_some(verb)
    }

    /// An operation of the control service.
    pub fn api(&self, noun: &str, verb: &str) -> String {
        format!("{}.api.{noun}.{verb}", self.mesh)
    }

    /// The inbox of one coordinator process, by which the others see whether it is there.
    pub fn coordinator(&self, instance: &str) -> String {
        format!("{}.coordinator.{instance}.ping", self.mesh)
    }

    /// Where a leader says that it has given its lease back. (No instance has such a name: theirs have a dash.)
    pub fn resignations(&self) -> String {
        format!("{}.coordinator.resigned", self.mesh)
    }

    /// Where coordinators are asked who is there; each of them answers. (No instance has such a name either.)
    pub fn roll_call(&self) -> String {
        format!("{}.coordinator.present", self.mesh)
    }

    /// The stream that keeps tasks until they are settled.
    pub fn tasks_stream(&self) -> String {
        self.stream("TASKS")
    }

    /// The stream that keeps results.
    pub fn results_stream(&self) -> String {
        self.stream("RESULTS")
    }

    /// The stream that keeps events.
    pub fn events_stream(&self) -> String {
        self.stream("EVENTS")
    }

    /// The stream that keeps dead letters.
    pub fn dead_stream(&self) -> String {
        self.stream("DEAD")
    }

    /// The stream that keeps how attempts of unsettled tasks ended.
    pub fn history_stream(&self) -> String {
        self.stream("HISTORY")
    }

    /// The key-value bucket of the leader's lease.
    pub fn lease_bucket(&self) -> String {
        self.stream("LEASE")
    }

    /// The key-value bucket of what is said of kinds, tenants and pools while the mesh runs, and of how many agents are
    /// wished for.
    pub fn settings_bucket(&self) -> String {
        self.stream("SETTINGS")
    }

    /// The key-value bucket of webhooks and intakes.
    pub fn hooks_bucket(&self) -> String {
        self.stream("HOOKS")
    }

    fn stream(&self, what: &str) -> String {
        format!("{}_{what}", self.mesh.as_str().to_ascii_uppercase())
    }

    fn strip<'a>(&self, subject: &'a str, section: &str) -> Option<&'a str> {
        subject.strip_prefix(self.mesh.as_str())?.strip_prefix('.')?.strip_prefix(section)?.strip_prefix('.')
    }
}

/// What an agent says to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentVerb {
    /// Registers: who it is, what it can do, what it has.
    Hello,
    /// It is alive, and this is what it holds.
    Beat,
    /// How busy its host is.
    Report,
    /// An attempt has ended.
    Done,
    /// An attempt gets on, or has written to its log.
    Progress,
    /// It leaves.
    Bye,
}

impl AgentVerb {
    /// Every verb.
    pub const ALL: [AgentVerb; 6] =
        [AgentVerb::Hello, AgentVerb::Beat, AgentVerb::Report, AgentVerb::Done, AgentVerb::Progress, AgentVerb::Bye];

    /// Its token in a subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            AgentVerb::Hello => "hello",
            AgentVerb::Beat => "beat",
            AgentVerb::Report => "report",
            AgentVerb::Done => "done",
            AgentVerb::Progress => "progress",
            AgentVerb::Bye => "bye",
        }
    }
}

impl fmt::Display for AgentVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the coordinator says to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InboxVerb {
    /// It is registered (or asked to say hello again).
    Welcome,
    /// Start an attempt.
    Run,
    /// Stop an attempt.
    Cancel,
    /// Attempts whose outcome is recorded: their `done` need not be repeated.
    Settled,
    /// Take no new work; leave when what runs has ended.
    Drain,
    /// Answer, to show that it is alive.
    Ping,
    /// A beat that wanted an answer was heard.
    Heard,
    /// Tell what an attempt writes to its log.
    Follow,
}

impl InboxVerb {
    /// Every verb.
    pub const ALL: [InboxVerb; 8] = [
        InboxVerb::Welcome,
        InboxVerb::Run,
        InboxVerb::Cancel,
        InboxVerb::Settled,
        InboxVerb::Drain,
        InboxVerb::Ping,
        InboxVerb::Heard,
        InboxVerb::Follow,
    ];

    /// Its token in a subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            InboxVerb::Welcome => "welcome",
            InboxVerb::Run => "run",
            InboxVerb::Cancel => "cancel",
            InboxVerb::Settled => "settled",
            InboxVerb::Drain => "drain",
            InboxVerb::Ping => "ping",
            InboxVerb::Heard => "heard",
            InboxVerb::Follow => "follow",
        }
    }
}

impl fmt::Display for InboxVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A task's subject, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSubject {
    /// What is to be done.
    pub kind: Kind,
    /// How urgent it is; normal where the subject names none.
    pub priority: Priority,
    /// The id, where the subject has one.
    pub id: Option<TaskId>,
}

/// Why a subject is not a task's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTaskSubject {
    /// It does not begin like one, or has too many tokens.
    #[error("not a task subject: use <mesh>.task.<kind>[.<priority>[.<id>]]")]
    Shape,
    /// The kind or the id is not a name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The priority is not one.
    #[error(transparent)]
    Priority(#[from] BadPriority),
}

impl TaskSubject {
    /// Reads the subject of a task of the mesh.
    pub fn parse(subjects: &Subjects, subject: &str) -> Result<Self, BadTaskSubject> {
        let rest = subjects.strip(subject, "task").ok_or(BadTaskSubject::Shape)?;
        let mut tokens = rest.split('.');
        let kind = Kind::new(tokens.next().unwrap_or_default())?;
        let priority = tokens.next().map_or(Ok(Priority::Normal), str::parse)?;
        let id = tokens.next().map(TaskId::new).transpose()?;
        if tokens.next().is_some() { Err(BadTaskSubject::Shape) } else { Ok(Self { kind, priority, id }) }
    }
}

/// The subject of something an agent said, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSubject {
    /// Who says it. The broker's permissions vouch for it, the body does not.
    pub agent: AgentId,
    /// What is said.
    pub verb: AgentVerb,
}

impl AgentSubject {
    /// Reads the subject of something an agent of the mesh said.
    pub fn parse(subjects: &Subjects, subject: &str) -> Option<Self> {
        let (agent, verb) = subjects.strip(subject, "agent")?.split_once('.')?;
        let verb = AgentVerb::ALL.into_iter().find(|v| v.as_str() == verb)?;
        Some(Self { agent: AgentId::new(agent).ok()?, verb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_subject_is_read_as_it_is_written() {
        let subjects = Subjects::default();
        let (kind, id) = (Kind::new("resize").unwrap(), TaskId::new("t-1").unwrap());

        for priority in Priority::ALL {
            let parsed = TaskSubject::parse(&subjects, &subjects.task(&kind, priority, &id)).unwrap();
            assert_eq!(parsed, TaskSubject { kind: kind.clone(), priority, id: Some(id.clone()) });
        }
        let short = TaskSubject::parse(&subjects, "hive.task.resize").unwrap();
        assert_eq!((short.priority, short.id), (Priority::Normal, None));
    }

    #[test]
    fn what_is_not_a_task_subject_is_refused_with_its_reason() {
        let parse = |subject| TaskSubject::parse(&Subjects::default(), subject).unwrap_err();

        assert_eq!(parse("other.task.a"), BadTaskSubject::Shape);
        assert_eq!(parse("hive.task.a.low.id.more"), BadTaskSubject::Shape);
        assert!(matches!(parse("hive.task.a.soon"), BadTaskSubject::Priority(_)));
        assert!(matches!(parse("hive.task.ä"), BadTaskSubject::Name(_)));
    }

    #[test]
    fn an_agent_is_read_from_its_subject() {
        let subjects = Subjects::default();
        let agent = AgentId::new("ada").unwrap();

        for verb in AgentVerb::ALL {
            let parsed = AgentSubject::parse(&subjects, &subjects.agent(&agent, verb)).unwrap();
            assert_eq!(parsed, AgentSubject { agent: agent.clone(), verb });
        }
        assert_eq!(AgentSubject::parse(&subjects, "hive.agent.ada.sing"), None);
    }

    #[test]
    fn filters_of_two_kinds_or_priorities_never_overlap() {
        let subjects = Subjects::default();
        let kinds = ["a", "b"].map(|k| Kind::new(k).unwrap());
        let mut all: Vec<String> = kinds
            .iter()
            .flat_map(|kind| Priority::ALL.into_iter().flat_map(|p| subjects.task_filters(kind, p)))
            .collect();
        all.sort();
        let count = all.len();
        all.dedup();

        assert_eq!(all.len(), count);
        assert_eq!(count, 18);
    }
}
