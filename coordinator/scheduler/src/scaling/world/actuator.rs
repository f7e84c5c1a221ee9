//! Whoever starts agents, and does not always.

use std::time::Duration;

/// How long agents take to come, unless it is said; and how long those live that crash.
const MOMENT: Duration = Duration::from_secs(5);

/// How starts go.
#[derive(Clone, Copy, Debug)]
pub enum Actuator {
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
    pub(super) fn start(self, count: u32, chance: &mut fastrand::Rng) -> Result<Vec<Duration>, String> {
        let all = |count: u32, after: Duration| vec![after; count as usize];
        match self {
            Actuator::Works(after) => Ok(all(count, after)),
            Actuator::RefusesHalf if chance.bool() => Err("no room".to_owned()),
            Actuator::RefusesHalf | Actuator::Crashes => Ok(all(count, MOMENT)),
            Actuator::LosesHalf => Ok(all((0..count).filter(|_| chance.bool()).count() as u32, MOMENT)),
            Actuator::Lies => Ok(Vec::new()),
            Actuator::StartsTwice => Ok(all(count * 2, MOMENT)),
        }
    }

    /// How long agents live, if they don't live on.
    pub(super) fn lifetime(self) -> Option<Duration> {
        matches!(self, Actuator::Crashes).then_some(MOMENT)
    }
}
