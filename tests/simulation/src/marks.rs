//! Rare states that a run has to reach: a fault that is never met proves nothing.

/// A rare state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A second coordinator leads while the first believes that it does.
    TwoLeaders,
    /// A leader learnt that it is none.
    SteppedDown,
    /// A coordinator held the lease and could not begin.
    CouldNotBegin,
    /// An agent refused an older epoch.
    OldEpochRefused,
    /// A task was declared lost with its agent and started again.
    Reassigned,
    /// An order was lost, however often it was repeated, and placed anew.
    Redispatched,
    /// An order was repeated.
    OrderRepeated,
    /// A failed task was tried again.
    Retried,
    /// A record was there already.
    RecordedBefore,
    /// A look-up found a result.
    FoundSettled,
    /// The next leader made up for a dead letter.
    LateDeadLetter,
    /// A task failed for good.
    Failed,
    /// A task was poison.
    Poison,
    /// A task's header could not be read.
    Unreadable,
    /// A message was no task.
    Foreign,
    /// A task expired.
    Expired,
    /// A task was cancelled while it waited.
    CancelledWaiting,
    /// A task was cancelled while it ran.
    CancelledRunning,
    /// A task was cancelled that the leader had not fetched.
    CancelledStored,
    /// An agent was told `settled` by a check.
    Confirmed,
    /// A duplicate was settled with its twin.
    DuplicateSettled,
    /// A kind got a lane of its own.
    OwnLane,
    /// A lane was made again.
    LaneVanished,
    /// Two leaders' lanes got into each other's way.
    LanesOverlapped,
    /// An unanswered question was put again.
    AskedAgain,
    /// A message came again.
    Redelivered,
    /// The broker had nobody to give a message to.
    NoResponders,
    /// An agent left in good order.
    Left,
    /// An agent rejected an attempt.
    Rejected,
    /// The agent took over a newer number for what it runs.
    TakenOver,
    /// An attempt succeeded after it was given up.
    LateSuccess,
    /// Results were refused by the broker.
    Refused,
    /// The broker saw a connection close and said so.
    Advisory,
    /// A lease was taken by evidence, not by its end.
    TakenByEvidence,
    /// A leader gave the lease back.
    GivenBack,
    /// A publish was stored and its answer lost.
    AnswerLost,
    /// Messages came late and all at once.
    Burst,
    /// A task was sent back to the stream for want of an agent.
    Released,
    /// An agent came that can do what was sent back.
    LookedBack,
    /// An agent that was not heard stopped what it runs at most once.
    OutOfTouch,
}

/// The rare states reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u64);

impl Mark {
    /// Every one.
    pub const ALL: [Mark; 40] = {
        use Mark::*;
        [
            TwoLeaders,
            SteppedDown,
            CouldNotBegin,
            OldEpochRefused,
            Reassigned,
            Redispatched,
            OrderRepeated,
            Retried,
            RecordedBefore,
            FoundSettled,
            LateDeadLetter,
            Failed,
            Poison,
            Unreadable,
            Foreign,
            Expired,
            CancelledWaiting,
            CancelledRunning,
            CancelledStored,
            Confirmed,
            DuplicateSettled,
            OwnLane,
            LaneVanished,
            LanesOverlapped,
            AskedAgain,
            Redelivered,
            NoResponders,
            Left,
            Rejected,
            TakenOver,
            LateSuccess,
            Refused,
            Advisory,
            TakenByEvidence,
            GivenBack,
            AnswerLost,
            Burst,
            Released,
            LookedBack,
            OutOfTouch,
        ]
    };
}

impl Marks {
    /// A state was reached.
    pub fn set(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u64;
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// How many were reached.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Those that were not reached.
    pub fn missing(self) -> Vec<Mark> {
        Mark::ALL.into_iter().filter(|mark| self.0 & (1 << *mark as u64) == 0).collect()
    }
}
