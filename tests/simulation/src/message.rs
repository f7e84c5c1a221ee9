//! What goes over the wires, without the bytes: subjects are enums, and a reply subject is a [`Reply`].

use std::rc::Rc;
use std::time::Duration;

use agent_worker::session::Order;
use compact_str::CompactString;
use scheduler::{Done, History, Sequence};
use shared::message::{Beat, Bye, Cancel, Drain, Heard, Hello, Report, Settled, Welcome};
use shared::{Outcome, Priority, TaskId, TaskOptions};

use crate::event::{LinkId, Micros};

/// Names a process among all that ever were.
pub type Instance = u32;

/// Which start of a handler an output came from.
pub type Output = Option<u32>;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Over which connection.
    pub link: LinkId,
    /// To which process: another one at the same place listens elsewhere.
    pub instance: Instance,
    /// What it is about.
    pub token: Token,
}

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A pull on a lane.
    Pull(LaneName, u64),
    /// Whether a task is settled.
    LookUp(Sequence),
    /// The record of a result.
    Record(Sequence),
    /// The record of how attempts ended, up to the one of this number.
    Remember(Sequence, u32),
    /// The record of a dead letter.
    Bury(Sequence),
    /// An acknowledgement.
    Ack(Sequence),
    /// A removal by sequence.
    Remove(Sequence),
    /// An order to an agent.
    Run(u8),
    /// Whether an agent is there.
    Probe(u8),
    /// A message to oneself.
    Canary,
    /// A request of a helper of the process.
    Call(u64),
    /// A client's submission.
    Submission(u32),
    /// A client's cancellation.
    Cancellation(u32),
}

/// What a lane delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All kinds that have no lane of their own, of one priority.
    Shared(Priority),
    /// One kind of one priority.
    Own(u8, Priority),
}

/// The name of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneName {
    /// Of which leader.
    pub epoch: u64,
    /// What it delivers.
    pub scope: Scope,
    /// Which one of these.
    pub generation: u64,
}

/// A message to the broker.
#[derive(Clone, Debug)]
pub enum Up {
    /// An agent says something on its own subjects.
    Says(u8, Rc<Said>),
    /// Something for the inbox of an agent.
    Tell(u8, Told, Option<Reply>),
    /// An answer.
    Answer(Reply, Answer),
    /// A question to a coordinator, whether it is there.
    LookAfter(Instance, Reply),
    /// A request to whoever leads: end this task.
    CancelTask(TaskId, Reply),
    /// A request to whoever leads: let this agent leave.
    DrainAgent(u8),
    /// A request to JetStream.
    Ask(Ask, Option<Reply>),
    /// A copy of a result, for the submitter.
    Copy(Rc<Record>),
}

/// A message from the broker.
#[derive(Clone, Debug)]
pub enum Down {
    /// For an agent.
    Told(Told, Option<Reply>),
    /// From an agent, for coordinators.
    Says(u8, Rc<Said>),
    /// The broker saw the connection of an agent close.
    Disconnected(u8),
    /// An answer.
    Answer(Token, Answer),
    /// A task, from a lane.
    Delivery(LaneName, Rc<Stored>),
    /// A question whether a coordinator is there.
    LookAfter(Reply),
    /// A request to cancel.
    CancelTask(TaskId, Reply),
    /// A request to let an agent leave.
    DrainAgent(u8),
    /// A copy of a result.
    Copy(Rc<Record>),
}

/// What agents say.
#[derive(Clone, Debug)]
pub enum Said {
    /// It registers.
    Hello(Hello),
    /// It is alive.
    Beat(Beat),
    /// So busy is its host.
    Report(Report),
    /// An attempt ended.
    Done(Done, Output),
    /// It leaves.
    Bye(Bye),
}

/// What agents are told.
#[derive(Clone, Debug)]
pub enum Told {
    /// Start an attempt of the task with this place among all.
    Run(Order, usize),
    /// A greeting.
    Welcome(Welcome),
    /// Stop an attempt.
    Cancel(Cancel),
    /// Forget attempts.
    Settled(Settled),
    /// Leave.
    Drain(Drain),
    /// A beat was heard.
    Heard(Heard),
    /// Answer.
    Ping,
}

/// A request to JetStream.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Store a task.
    Submit(Rc<Submission>),
    /// Deliver tasks.
    Pull(LaneName, usize),
    /// Is there a result?
    LookUp(TaskId),
    /// Store a result; the flag: only if there is none.
    Record(Rc<Record>, bool),
    /// Store a dead letter.
    Bury(Rc<Letter>),
    /// A task is done with.
    Ack(LaneName, Sequence),
    /// A task is to be delivered again after so long.
    Nak(LaneName, Sequence, Micros),
    /// A task is still being worked on.
    Extend(LaneName, Sequence),
    /// Remove a task.
    Remove(Sequence),
    /// What is the last sequence of the task stream?
    LastSequence,
    /// Which lanes are there?
    ListLanes,
    /// Make a lane for these kinds, or change it.
    PutLane(LaneName, Vec<u8>),
    /// Remove a lane.
    DeleteLane(LaneName),
    /// Keep how the attempts of a task ended, by the word of the leader of this epoch.
    Remember(Sequence, u64, History),
    /// That is not wanted any more.
    ForgetHistory(Sequence),
    /// How did attempts end?
    ListHistories,
    /// Which tasks have results?
    ListResults,
    /// Is this message there?
    Queued(Sequence),
    /// Is there a message of this task?
    QueuedById(TaskId),
    /// Messages that are no task.
    ListForeign,
    /// Who has the lease?
    ReadLease,
    /// Take or renew the lease, if it is at this revision.
    WriteLease(Instance, u64),
    /// Give it back, if it is at this revision.
    PurgeLease(u64),
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Nobody listens.
    NoResponders,
    /// A pull has ended.
    PullEnded,
    /// A message is stored, with this sequence.
    Stored(u64),
    /// There was one before.
    Already,
    /// The broker would not.
    Refused,
    /// The result asked for.
    Result(Option<Rc<Record>>),
    /// An acknowledgement or a removal is done.
    Gone,
    /// What an agent answers to a ping.
    Pong(Rc<Beat>),
    /// One's own message came back.
    Canary,
    /// A coordinator is there.
    Present,
    /// The last sequence.
    Last(u64),
    /// Lanes.
    Lanes(Vec<LaneName>),
    /// Done.
    Ok,
    /// Tasks with results, and the last sequence of the task stream.
    Results(Vec<TaskId>, u64),
    /// How attempts ended.
    Histories(Vec<(Sequence, History)>),
    /// Messages.
    Messages(Vec<Rc<Stored>>),
    /// The lease: its revision, and who holds it.
    Lease(Option<(u64, Option<Instance>)>),
    /// The lease is written, with this revision.
    Written(u64),
}

/// What a client publishes.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The task's place among all, if its id is known before it is stored.
    pub task: usize,
    /// Its id stands in the subject.
    pub id_in_subject: Option<TaskId>,
    /// It is refused if a message of the same subject is there.
    pub expects_none: bool,
    /// The `Nats-Msg-Id`.
    pub message_id: Option<TaskId>,
    /// The kind in the subject.
    pub kind: u8,
    /// The priority in the subject.
    pub priority: Priority,
    /// What the headers say.
    pub options: TaskOptions,
    /// What is wrong with it.
    pub garbage: Garbage,
    /// The client's number for it.
    pub number: u32,
}

/// What is wrong with a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// Nothing.
    No,
    /// A header cannot be read.
    Header,
    /// The subject names no kind.
    Subject,
}

/// A message in the task stream.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence.
    pub sequence: Sequence,
    /// What was published.
    pub submission: Rc<Submission>,
    /// The task's place among all.
    pub task: usize,
    /// The task's id.
    pub id: TaskId,
    /// When.
    pub at: Micros,
}

/// A result.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Of which task.
    pub id: TaskId,
    /// By which message.
    pub sequence: Sequence,
    /// How it ended.
    pub outcome: Outcome,
    /// How often it was started.
    pub attempts: u32,
    /// The output.
    pub output: Output,
    /// Whether an attempt ended it.
    pub by_attempt: bool,
    /// Why it failed.
    pub error: Option<CompactString>,
    /// Who decided it.
    pub decided_by: Instance,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The message.
    pub sequence: Sequence,
    /// The task.
    pub id: TaskId,
    /// What became of it.
    pub outcome: Outcome,
    /// The body: the task's place among all.
    pub body: usize,
}

/// Readable spans.
pub fn span(micros: Micros) -> Duration {
    Duration::from_micros(micros)
}
