//! What is known of a pool at a moment, each with the moment it was measured at.
//!
//! Whoever measures leaves out what cannot be measured now. A signal that is absent or too old makes nothing grow, and
//! nothing shrink either.

use std::collections::BTreeSet;
use std::time::Duration;

use shared::api::AgentState;
use shared::{AgentId, Kind};

use super::policy::{Policy, Share};
use crate::Timestamp;

/// Something that was measured, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured<T> {
    /// What it is.
    pub value: T,
    /// When it was so.
    pub at: Timestamp,
}

impl<T> Measured<T> {
    /// It is so at this moment.
    pub fn new(value: T, at: Timestamp) -> Self {
        Self { value, at }
    }

    /// What it is, if that was measured recently enough.
    pub fn fresh(&self, policy: &Policy, now: Timestamp) -> Option<&T> {
        (now.since(self.at) <= policy.stale_after).then_some(&self.value)
    }
}

/// What is known of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signals {
    /// Its agents, those that are gone but not forgotten among them.
    pub agents: Option<Measured<Vec<Agent>>>,
    /// What waits for one of them.
    pub backlog: Option<Measured<Backlog>>,
    /// How long tasks waited that started of late or wait still: 95 of 100 no longer than that.
    pub wait_p95: Option<Measured<Duration>>,
    /// What of their slots is taken.
    pub slots: Option<Measured<Slots>>,
    /// How busy their hosts are: the mean, over agents, of the busiest of CPU and memory.
    pub utilisation: Option<Measured<Share>>,
    /// Attempts that have ended, a second, since the measurement before.
    pub throughput: Option<Measured<f64>>,
    /// How many of the attempts that ended of late failed, if enough did to tell.
    pub failures: Option<Measured<Share>>,
    /// Whether the link is suspected rather than the agents, as after a takeover: nothing is decided then.
    pub in_doubt: bool,
}

/// An agent of the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Who it is.
    pub id: AgentId,
    /// How it is doing.
    pub state: AgentState,
    /// When this process of it was first heard.
    pub registered: Timestamp,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// How many it has.
    pub running: u32,
    /// How long until the last of these has ended, as far as can be told from others of their kinds.
    pub remaining: Duration,
    /// What it can do.
    pub kinds: BTreeSet<Kind>,
    /// Whether it has, or is the only one for, something that cannot be elsewhere.
    pub pinned: bool,
}

impl Agent {
    /// Whether it is there and has beaten, whatever work it gets.
    pub fn is_present(&self) -> bool {
        !matches!(self.state, AgentState::Offline | AgentState::Starting)
    }
}

/// What waits for an agent of the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backlog {
    /// How many tasks, those in the stream included, those that run not.
    pub depth: u64,
    /// How long the oldest has waited.
    pub oldest: Duration,
    /// How long they will run, put together: each counts as others of its kind have run.
    pub work: Duration,
}

/// Slots of the agents.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slots {
    /// How many those have that take work.
    pub total: u32,
    /// How many of these are taken: the mean since the measurement before.
    pub taken: f64,
    /// How many are taken of agents that take no more work, which is to be done elsewhere soon: likewise.
    pub leaving: f64,
}
