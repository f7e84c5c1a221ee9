//! Whoever starts agents, and does not always.

use std::time::Duration;

use crate::secs;

/// How starts go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Actuator {
    /// Everybody comes, after so long.
    Works(Duration),
    /// Every other order is refused, by chance.
    RefusesHalf,
    /// Of those ordered every other one never comes, by chance.
    LosesHalf,
    /// Says yes and does nothing.
    Lies,
    /// Starts twice as many as were ordered.
    StartsTwice,
    /// Everybody comes, and dies five seconds later.
    Crashes,
}

impl Actuator {
    /// When those that were ordered come, if the order is not refused.
    pub(crate) fn start(self, count: u32, chance: &mut fastrand::Rng) -> Result<Vec<Duration>, String> {
        let all = |count: u32, after: Duration| vec![after; count as usize];
        match self {
            Actuator::Works(after) => Ok(all(count, after)),
            Actuator::RefusesHalf if chance.bool() => Err("no room".to_owned()),
            Actuator::RefusesHalf | Actuator::Crashes => Ok(all(count, secs(5))),
            Actuator::LosesHalf => Ok(all((0..count).filter(|_| chance.bool()).count() as u32, secs(5))),
            Actuator::Lies => Ok(Vec::new()),
            Actuator::StartsTwice => Ok(all(count * 2, secs(5))),
        }
    }

    /// How long agents live, if they don't live on.
    pub(crate) fn lifetime(self) -> Option<Duration> {
        matches!(self, Actuator::Crashes).then_some(secs(5))
    }
}
