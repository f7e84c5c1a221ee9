//! A mesh around the scheduler, as small as can be: agents that play their part, a broker that keeps messages and
//! results, and a clock that only moves when it is told to.

mod agent;
mod mesh;
mod task;

pub(crate) use agent::{Agent, agent};
pub(crate) use mesh::{Mesh, starts_by_agent};
pub(crate) use task::{TaskSpec, task};

use std::time::Duration;

/// As much silence as no agent survives: `lost-after`, and a tick to notice.
pub(crate) const LONGER_THAN_ANY_VERDICT: Duration = Duration::from_millis(2100);

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
