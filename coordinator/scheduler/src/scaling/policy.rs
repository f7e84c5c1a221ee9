//! What can be set about a pool: whose agents they are, how many there may be, and what makes it grow and shrink.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::needs::{Labels, Needs};
use shared::task::Backoff;
use shared::{AgentId, Kind};

/// A part of a whole, 0.0 to 1.0. (The original compared percentages with fractions, and so wished to grow for ever.)
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

/// Why a number is not a share.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a share: write a fraction from 0.0 to 1.0, as 0.8 for 80 %")]
pub struct BadShare(f64);

impl Share {
    /// Nothing of it.
    pub const ZERO: Share = Share(0.0);

    /// Checks a number and takes it as a share.
    pub fn new(share: f64) -> Result<Self, BadShare> {
        if (0.0..=1.0).contains(&share) { Ok(Self(share)) } else { Err(BadShare(share)) }
    }

    /// A part of a whole that may be nothing; what is more than the whole is all of it.
    pub fn of(part: f64, whole: f64) -> Self {
        if whole > 0.0 { Self((part / whole).clamp(0.0, 1.0)) } else { Self::ZERO }
    }

    /// The fraction.
    pub fn get(self) -> f64 {
        self.0
    }

    /// What is left of the whole.
    pub fn rest(self) -> f64 {
        1.0 - self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = BadShare;
    fn try_from(share: f64) -> Result<Self, BadShare> {
        Self::new(share)
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> f64 {
        share.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is done about an agent that has not left when its time to drain is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overdue {
    /// It is waited for: nothing that runs is interrupted.
    #[default]
    Wait,
    /// It is ended, and what it runs starts elsewhere.
    End,
}

/// Settings of a pool. Numbers without a source in their comment are the original framework's.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// Whether anything is done. Otherwise it is only told what would be.
    pub enabled: bool,
    /// Kinds of which an agent of the pool can do at least one; any if none is named.
    pub kinds: Vec<Kind>,
    /// Labels that the agents of the pool have: `pool=workers`.
    pub labels: Needs,
    /// How many agents there are at least. With 0 the pool goes down to none when nothing was done for `down-cooldown`.
    pub min_agents: u32,
    /// How many agents there are at most.
    pub max_agents: u32,
    /// How many slots an agent of the pool has, for as long as none is there to be asked.
    pub slots: u32,
    /// How often it is decided.
    ///
    /// Shorter reacts sooner; longer sees more between two looks. (The original: 2 min.)
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How old a measurement may be. An older one is as good as none.
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// How long a new agent takes until it works, for as long as none has shown it.
    #[serde(with = "humantime_serde")]
    pub startup_time: Duration,
    /// How long it may take; then its start has failed.
    #[serde(with = "humantime_serde")]
    pub startup_timeout: Duration,
    /// How long a task should wait at most, 95 of 100 times: the pool is as large as that takes.
    ///
    /// Shorter costs more agents in a burst. One that is shorter than `startup-time` can't be kept in a burst.
    #[serde(with = "humantime_serde")]
    pub target_wait: Duration,
    /// Tasks waiting for each agent from which one more is wanted. (The original counted the whole queue.)
    pub queue_depth: u32,
    /// Share of the slots that should be taken.
    ///
    /// More costs fewer agents; less leaves more room for what comes unexpectedly. (Ours.)
    pub target_busy: Share,
    /// How busy hosts may be.
    pub max_utilisation: Share,
    /// How busy hosts must be for all of them to be worth their keep.
    pub min_utilisation: Share,
    /// How much of the throughput may be lost while tasks wait.
    pub throughput_drop: Share,
    /// Share of attempts that fail from which more agents would only fail more. (Ours.)
    pub max_failures: Share,
    /// How much the load must have fallen before a number that was too few is tried again. (Ours.)
    ///
    /// More keeps a noisy load from going to and fro; less gives agents up sooner.
    pub hysteresis: Share,
    /// How many agents more, by rules that know no number.
    pub up_step: u32,
    /// How many agents fewer, by rules that know no number.
    pub down_step: u32,
    /// How many times as many agents there may be by one decision, and 4 more in any case. (Ours.)
    pub growth_limit: f64,
    /// Share of the agents that may go by one decision. (Ours.)
    pub shrink_limit: Share,
    /// How long after a change no step up is taken. What the queued work asks for doesn't wait. (Ours.)
    #[serde(with = "humantime_serde")]
    pub up_cooldown: Duration,
    /// How long after a change nothing shrinks, and for how long what is left must have been enough.
    ///
    /// Shorter pays less for agents after a burst; longer has them at hand for the next.
    #[serde(with = "humantime_serde")]
    pub down_cooldown: Duration,
    /// How often within an hour the direction may change, and how often starts may come to nothing. (Ours.)
    pub flap_budget: u32,
    /// How long to wait after a change that failed. (Ours.)
    pub backoff: Backoff,
    /// How long an agent has to finish what it runs when it is to go.
    #[serde(with = "humantime_serde")]
    pub drain_deadline: Duration,
    /// What is done about one that has not left then.
    pub overdue: Overdue,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            kinds: Vec::new(),
            labels: Needs::default(),
            min_agents: 2,
            max_agents: 10,
            slots: 4,
            interval: Duration::from_secs(5),
            stale_after: Duration::from_secs(20),
            startup_time: Duration::from_secs(5),
            startup_timeout: Duration::from_secs(60),
            target_wait: Duration::from_secs(5),
            queue_depth: 100,
            target_busy: Share(0.9),
            max_utilisation: Share(0.8),
            min_utilisation: Share(0.3),
            throughput_drop: Share(0.2),
            max_failures: Share(0.5),
            hysteresis: Share(0.2),
            up_step: 1,
            down_step: 1,
            growth_limit: 20.0,
            shrink_limit: Share(0.5),
            up_cooldown: Duration::from_secs(30),
            down_cooldown: Duration::from_secs(300),
            flap_budget: 6,
            backoff: Backoff { first: Duration::from_secs(10), limit: Duration::from_secs(600) },
            drain_deadline: Duration::from_secs(300),
            overdue: Overdue::Wait,
        }
    }
}

impl Policy {
    /// Whether an agent is one of the pool's.
    pub fn owns(&self, can_do: impl Fn(&Kind) -> bool, labels: &Labels) -> bool {
        let does_one = self.kinds.is_empty() || self.kinds.iter().any(can_do);
        does_one && self.labels.are_met_by(labels)
    }

    /// A number of agents that the pool may have: the nearest.
    pub fn bounded(&self, agents: u32) -> u32 {
        agents.max(self.min_agents).min(self.max_agents)
    }

    /// Everything that is wrong with the settings of the pool of this name, each with what to do instead.
    pub fn problems(&self, name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |is_wrong: bool, what: &str| {
            if is_wrong {
                problems.push(format!("[pools.{name}] {what}"));
            }
        };
        check(AgentId::new(name).is_err(), "is no name: use 1 to 64 of A-Z a-z 0-9 - _");
        check(self.max_agents == 0, "max-agents: there would never be an agent: write 1 or more");
        check(self.min_agents > self.max_agents, "min-agents must not be more than max-agents");
        check(self.slots == 0, "slots: an agent has at least one: write 1 or more");
        check(self.interval < Duration::from_millis(100), "interval: write 100ms or more");
        check(self.stale_after < self.interval * 2, "stale-after must be twice the interval or more");
        check(self.startup_timeout <= self.startup_time, "startup-timeout must be longer than startup-time");
        check(self.startup_timeout <= self.interval, "startup-timeout must be longer than interval");
        check(self.target_wait < Duration::from_millis(10), "target-wait: write 10ms or more");
        check(self.queue_depth == 0, "queue-depth: every task would be too many: write 1 or more");
        let busy = self.target_busy.get();
        check(!(0.1..=0.95).contains(&busy), "target-busy: write a fraction from 0.1 to 0.95");
        check(self.max_utilisation <= self.min_utilisation, "max-utilisation must be more than min-utilisation");
        check(self.throughput_drop.get() <= 0.0, "throughput-drop: any noise would be a drop: write more than 0.0");
        check(self.hysteresis.get() >= 1.0, "hysteresis: nothing would ever shrink: write less than 1.0");
        check(self.up_step == 0 || self.down_step == 0, "up-step and down-step: write 1 or more");
        check(!(1.0..=1000.0).contains(&self.growth_limit), "growth-limit: write a factor from 1.0 to 1000");
        check(self.shrink_limit.get() <= 0.0, "shrink-limit: nothing would ever shrink: write more than 0.0");
        check(self.down_cooldown < self.up_cooldown, "down-cooldown must not be shorter than up-cooldown");
        check(self.down_cooldown < self.interval * 3, "down-cooldown must be three times the interval or more");
        check(self.flap_budget < 2, "flap-budget: it takes 2 to shrink and grow again: write 2 or more");
        check(self.backoff.first.is_zero(), "backoff: starts that fail would follow each other at once");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problems() {
        assert_eq!(Policy::default().problems("workers"), Vec::<String>::new());
    }

    #[test]
    fn a_percentage_is_not_a_share() {
        assert_eq!(Share::try_from(80.0), Err(BadShare(80.0)));
        assert!(Share::try_from(f64::NAN).is_err());
        assert_eq!(Share::try_from(0.8).map(Share::get), Ok(0.8));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let policy = Policy { min_agents: 20, flap_budget: 1, interval: Duration::ZERO, ..Policy::default() };

        assert_eq!(policy.problems("a.b").len(), 4, "{:?}", policy.problems("a.b"));
    }

    #[test]
    fn a_pool_owns_who_has_its_labels_and_does_one_of_its_kinds() {
        let kind = |name| Kind::new(name).unwrap();
        let labels = |pool: &str| Labels::from([("pool".to_owned(), pool.to_owned())]);
        let policy = Policy { kinds: vec![kind("resize")], labels: "pool=big".parse().unwrap(), ..Policy::default() };

        let both = |asked: &Kind| [kind("count"), kind("resize")].contains(asked);

        assert!(policy.owns(both, &labels("big")));
        assert!(!policy.owns(|asked| *asked == kind("count"), &labels("big")));
        assert!(!policy.owns(both, &labels("small")));
    }
}
