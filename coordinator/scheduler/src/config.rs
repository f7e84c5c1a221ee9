//! What can be set about scheduling.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::task::Backoff;
use shared::{Kind, Resources, TaskOptions, quantity};

use crate::placement::Strategy;

/// Settings of the scheduler.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// When an agent counts as silent, and as lost.
    pub liveness: Liveness,
    /// Settings by kind; `default` holds for what a kind does not say itself.
    pub kinds: BTreeMap<String, KindConfig>,
}

/// When an agent counts as silent, and as lost.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Liveness {
    /// How often an agent says that it is alive.
    ///
    /// Shorter finds a dead agent sooner; longer costs the coordinator less per agent.
    #[serde(with = "humantime_serde")]
    pub beat_interval: Duration,
    /// How often an agent says how busy its host is.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// Silence after which an agent is probed and gets no new work.
    ///
    /// Shorter finds a dead agent sooner; longer keeps agents on a jittery network in work.
    #[serde(with = "humantime_serde")]
    pub suspect_after: Duration,
    /// Silence, probes unanswered too, after which its work starts elsewhere.
    ///
    /// Shorter restarts the work of a hung agent sooner; longer forgives longer pauses.
    #[serde(with = "humantime_serde")]
    pub lost_after: Duration,
    /// How long the broker must say that nobody listens on an agent's inbox before it counts as gone.
    ///
    /// It is the time a live agent is given to reconnect.
    #[serde(with = "humantime_serde")]
    pub gone_after: Duration,
    /// The same for an agent whose connection the broker has seen close.
    #[serde(with = "humantime_serde")]
    pub closed_after: Duration,
    /// How long after an agent was last heard the work of its handlers that run at most once starts elsewhere, at the
    /// earliest. An agent that is not answered ends such work 3 s before that.
    ///
    /// Shorter starts such work sooner after the loss of its agent or of the leader; longer lets it survive longer
    /// interruptions of the link.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// Share of the agents that must fall silent together for the link to be suspected and not the agents.
    pub storm_share: f64,
    /// How often an agent may be lost and return within a minute before it gets no work for a while.
    pub flap_limit: u32,
    /// How long it gets no work the first time; twice as long each further time, up to 20 times as long.
    #[serde(with = "humantime_serde")]
    pub quarantine: Duration,
    /// How long an agent that is gone is still shown.
    #[serde(with = "humantime_serde")]
    pub forget_after: Duration,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            beat_interval: Duration::from_millis(500),
            report_interval: Duration::from_secs(5),
            suspect_after: Duration::from_millis(750),
            lost_after: Duration::from_secs(2),
            gone_after: Duration::from_millis(250),
            closed_after: Duration::from_millis(100),
            hold: Duration::from_secs(6),
            storm_share: 0.3,
            flap_limit: 3,
            quarantine: Duration::from_secs(30),
            forget_after: Duration::from_secs(600),
        }
    }
}

/// Settings of a kind, as they are written. What is absent comes from `[kinds.default]`, and then from
/// [`KindSettings::default`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct KindConfig {
    /// How its tasks are placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// How often a task may be started because it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Limit of one attempt's run; the handler's own where it is absent.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How long to wait between attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// Share of the kind's running attempts, 0.0 to 1.0, that tasks which have failed before may take up while others
    /// wait that have not.
    ///
    /// Less keeps good work flowing when much of it fails; more repeats what failed sooner. Where nothing else waits
    /// there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_share: Option<f64>,
    /// CPU reserved for each attempt.
    #[serde(with = "quantity::cpu", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Memory reserved for each attempt.
    #[serde(with = "quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Disk reserved for each attempt.
    #[serde(with = "quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Bandwidth reserved for each attempt.
    #[serde(with = "quantity::bandwidth", skip_serializing_if = "Option::is_none")]
    pub network: Option<u64>,
}

/// Settings of a kind, complete.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KindSettings {
    /// How its tasks are placed.
    pub strategy: Strategy,
    /// How often a task may be started because it failed.
    pub max_attempts: u32,
    /// Limit of one attempt's run; the handler's own where there is none.
    pub timeout: Option<Duration>,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// Share of the running attempts for tasks that have failed before, while others wait.
    pub retry_share: f64,
    /// Reserved for each attempt.
    pub resources: Resources,
}

impl Default for KindSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy::LeastConnections,
            max_attempts: 3,
            timeout: None,
            backoff: Backoff::default(),
            // As in Finagle's retry budget.
            retry_share: 0.2,
            resources: Resources::ZERO,
        }
    }
}

impl Config {
    /// The settings that hold for a kind.
    pub fn kind(&self, kind: &Kind) -> KindSettings {
        let mut settings = KindSettings::default();
        for config in [self.kinds.get("default"), self.kinds.get(kind.as_str())].into_iter().flatten() {
            settings.apply(config);
        }
        settings
    }

    /// Everything that is wrong with the settings, each with what to do instead.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, kind) in &self.kinds {
            if name != "default"
                && let Err(error) = Kind::new(name)
            {
                problems.push(format!("[kinds.{name}]: {error}"));
            }
            if kind.retry_share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
                problems.push(format!("[kinds.{name}] retry-share: write a fraction from 0.0 to 1.0"));
            }
            if kind.max_attempts == Some(0) {
                problems.push(format!("[kinds.{name}] max-attempts: a task is started at least once: write 1 or more"));
            }
        }
        let Liveness { beat_interval, suspect_after, lost_after, .. } = self.liveness;
        if beat_interval < Duration::from_millis(50) {
            problems.push("[liveness] beat-interval: write 50ms or more".to_owned());
        }
        if suspect_after <= beat_interval {
            problems.push("[liveness] suspect-after must be longer than beat-interval".to_owned());
        }
        if !(0.0..=1.0).contains(&self.liveness.storm_share) {
            problems.push("[liveness] storm-share: write a fraction from 0.0 to 1.0".to_owned());
        }
        if lost_after <= suspect_after {
            problems.push("[liveness] lost-after must be longer than suspect-after".to_owned());
        }
        problems
    }
}

impl KindSettings {
    fn apply(&mut self, config: &KindConfig) {
        let resources = &mut self.resources;
        set(&mut self.strategy, config.strategy);
        set(&mut self.max_attempts, config.max_attempts);
        self.timeout = config.timeout.or(self.timeout);
        set(&mut self.backoff, config.backoff);
        set(&mut self.retry_share, config.retry_share);
        set(&mut resources.cpu_millis, config.cpu);
        set(&mut resources.memory_bytes, config.memory);
        set(&mut resources.disk_bytes, config.disk);
        set(&mut resources.network_bps, config.network);
    }

    /// What a task of the kind reserves, by its headers or else by these settings.
    pub(crate) fn resources_of(&self, options: &TaskOptions) -> Resources {
        Resources {
            cpu_millis: options.cpu_millis.unwrap_or(self.resources.cpu_millis),
            memory_bytes: options.memory_bytes.unwrap_or(self.resources.memory_bytes),
            disk_bytes: options.disk_bytes.unwrap_or(self.resources.disk_bytes),
            network_bps: options.network_bps.unwrap_or(self.resources.network_bps),
        }
    }
}

fn set<T: Copy>(to: &mut T, from: Option<T>) {
    if let Some(value) = from {
        *to = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_takes_what_it_does_not_say_from_default() {
        let mut config = Config::default();
        config.kinds.insert("default".into(), KindConfig { max_attempts: Some(5), cpu: Some(100), ..<_>::default() });
        config.kinds.insert("big".into(), KindConfig { cpu: Some(2000), ..<_>::default() });

        let settings = config.kind(&Kind::new("big").unwrap());

        assert_eq!((settings.max_attempts, settings.resources.cpu_millis), (5, 2000));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let mut config = Config::default();
        config.kinds.insert("a.b".into(), KindConfig { max_attempts: Some(0), ..<_>::default() });
        config.liveness.lost_after = Duration::ZERO;

        assert_eq!(config.problems().len(), 3);
    }
}
