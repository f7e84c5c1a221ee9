//! How often JetStream was asked for what, and how often that failed.

use std::sync::atomic::{AtomicU64, Ordering};

/// What JetStream is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To deliver tasks on a lane.
    Pull,
    /// Whether a task is settled already.
    LookUp,
    /// To store a result.
    Record,
    /// To store a dead letter.
    Bury,
    /// To take a task out, by its acknowledgement.
    Acknowledge,
    /// To take a message out by its sequence.
    Remove,
    /// To keep how attempts ended.
    Remember,
    /// To forget that.
    Forget,
    /// To make or remove a lane.
    Lane,
    /// For a stored message.
    Read,
    /// How much a stream holds.
    Count,
    /// To write the lease.
    Lease,
}

impl Call {
    /// Every one.
    pub const ALL: [Call; 12] = [
        Call::Pull,
        Call::LookUp,
        Call::Record,
        Call::Bury,
        Call::Acknowledge,
        Call::Remove,
        Call::Remember,
        Call::Forget,
        Call::Lane,
        Call::Read,
        Call::Count,
        Call::Lease,
    ];

    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Call::Pull => "pull",
            Call::LookUp => "look-up",
            Call::Record => "record",
            Call::Bury => "bury",
            Call::Acknowledge => "acknowledge",
            Call::Remove => "remove",
            Call::Remember => "remember",
            Call::Forget => "forget",
            Call::Lane => "lane",
            Call::Read => "read",
            Call::Count => "count",
            Call::Lease => "lease",
        }
    }
}

/// Counts them. What is on the hot path costs an addition.
#[derive(Debug, Default)]
pub struct Calls {
    ended: [AtomicU64; Call::ALL.len()],
    failed: [AtomicU64; Call::ALL.len()],
}

impl Calls {
    /// One was answered, or given up.
    pub(crate) fn ended(&self, call: Call) {
        self.ended[call as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// That was no answer that helps.
    pub(crate) fn failed(&self, call: Call) {
        self.failed[call as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one by what came of it, which is given back.
    pub(crate) fn note<T, E>(&self, call: Call, result: Result<T, E>) -> Result<T, E> {
        self.ended(call);
        if result.is_err() {
            self.failed(call);
        }
        result
    }

    /// How many of each have ended so far, and how many of these failed.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Call, u64, u64)> {
        let read = |counts: &[AtomicU64], call: Call| counts[call as usize].load(Ordering::Relaxed);
        Call::ALL.into_iter().map(move |call| (call, read(&self.ended, call), read(&self.failed, call)))
    }
}
