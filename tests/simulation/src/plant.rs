//! Bugs that can be put into the modelled shell, broker and agents on purpose, to see that they are found.

use std::fmt;
use std::str::FromStr;

/// A bug put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The task's message is acknowledged before its result is recorded.
    AckBeforeRecord,
    /// A record overwrites the one before.
    RecordOverwrites,
    /// Agents are told `settled` before the record is answered.
    SettledBeforeRecord,
    /// A record that was not answered is taken for done.
    UnknownIsRecorded,
    /// Unanswered questions are not put again.
    NeverAskAgain,
    /// A new leader does not look up what was there before.
    NoLookUp,
    /// A new leader lists the results at once, although the one before may still record.
    ResultsListedAtOnce,
    /// A failed task's dead letter is forgotten.
    NoDeadLetter,
    /// A dead letter is not made up for by the next leader.
    NoLateDeadLetter,
    /// `CheckSettled` is ignored.
    NoCheckSettled,
    /// `SettleDuplicate` is ignored.
    NoSettleDuplicate,
    /// A new leader keeps the lanes of the one before, so nothing is delivered again.
    OldLanesStay,
    /// A lane that is gone is not made again.
    LaneNotMadeAgain,
    /// What comes again does not replace where it is acknowledged, and is given to the scheduler once more.
    RedeliveryForgetsEnvelope,
    /// An output is kept with the wrong task.
    OutputOfAnother,
    /// An output is kept with the record of another attempt of the same task that ended in the same turn.
    OutputOfLastDone,
    /// Where another leader's record was there before, it is not looked at whether that calls for a dead letter.
    OtherRecordNotLookedAt,
    /// The message of an attempt whose end an agent reports is not fetched, however long it takes to come.
    ReportedNotFetched,
    /// The agent obeys whoever speaks: orders carry the newest epoch it knows.
    EpochNotChecked,
    /// The agent takes orders meant for another process of its name.
    IncarnationNotChecked,
    /// The agent says `done` once and never again.
    DoneOnce,
    /// The agent's beats do not list what it holds.
    EmptyBeats,
    /// The agent does not tell that a handler ended that had been told to stop.
    SlotLeak,
    /// An agent starts a second handler for an attempt it is told of twice.
    StartsTwice,
    /// An agent that restarts keeps its incarnation.
    SameIncarnation,
    /// A coordinator that lost the lease goes on.
    NeverStepsDown,
    /// Two coordinators may write the lease at the same revision.
    LeaseWithoutCompare,
    /// A cancelled task's outcome is recorded as failed.
    WrongOutcome,
    /// What leaders before have kept of attempts is not read: failures and losses are counted anew.
    HistoriesForgotten,
    /// Who keeps the lanes does not know the epochs of others: an old leader's come back and block the new one's.
    KeeperKnowsNoEpochs,
    /// A message that is held is acknowledged where it was delivered last, be it a lane that its kind was moved from.
    AckedAtFormerLane,
    /// The coordinator tells agents that it waits with what runs at most once, and does not.
    HoldNotKept,
}

impl Plant {
    /// Those that take hundreds or thousands of seeds: left to the soak.
    pub const HARD: [Plant; 6] = [
        Plant::OutputOfLastDone,
        Plant::ReportedNotFetched,
        Plant::AckedAtFormerLane,
        Plant::OtherRecordNotLookedAt,
        Plant::ResultsListedAtOnce,
        Plant::HoldNotKept,
    ];

    /// Every one.
    pub const ALL: [Plant; 32] = [
        Plant::AckBeforeRecord,
        Plant::RecordOverwrites,
        Plant::SettledBeforeRecord,
        Plant::UnknownIsRecorded,
        Plant::NeverAskAgain,
        Plant::NoLookUp,
        Plant::ResultsListedAtOnce,
        Plant::NoDeadLetter,
        Plant::NoLateDeadLetter,
        Plant::NoCheckSettled,
        Plant::NoSettleDuplicate,
        Plant::OldLanesStay,
        Plant::LaneNotMadeAgain,
        Plant::RedeliveryForgetsEnvelope,
        Plant::OutputOfAnother,
        Plant::EpochNotChecked,
        Plant::IncarnationNotChecked,
        Plant::DoneOnce,
        Plant::EmptyBeats,
        Plant::SlotLeak,
        Plant::StartsTwice,
        Plant::SameIncarnation,
        Plant::NeverStepsDown,
        Plant::LeaseWithoutCompare,
        Plant::WrongOutcome,
        Plant::HistoriesForgotten,
        Plant::KeeperKnowsNoEpochs,
        Plant::AckedAtFormerLane,
        Plant::HoldNotKept,
        Plant::OutputOfLastDone,
        Plant::ReportedNotFetched,
        Plant::OtherRecordNotLookedAt,
    ];
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

impl FromStr for Plant {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Plant::ALL.into_iter().find(|plant| plant.to_string().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("`{text}` is no planted bug: one of {:?}", Plant::ALL))
    }
}
