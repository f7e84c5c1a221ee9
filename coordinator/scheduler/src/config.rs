//! What can be set about scheduling.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::message::Needed;
use shared::task::Backoff;
use shared::{Countables, Kind, Resources, quantity};

use crate::pace::Rate;
use crate::placement::{Packing, Strategy};

/// Settings of the scheduler.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// When an agent counts as silent, and as lost.
    pub liveness: Liveness,
    /// How agents are compared, and what may be promised of them.
    pub placement: Placement,
    /// The most that one task may reserve.
    pub limits: Limits,
    /// Settings by tenant; `default` holds for what a tenant does not say itself.
    pub tenants: BTreeMap<String, TenantConfig>,
    /// What has been said of kinds and tenants while the mesh runs: it goes before what those say.
    #[serde(skip)]
    pub said: Said,
    /// Settings by kind; `default` holds for what a kind does not say itself.
    pub kinds: BTreeMap<String, KindConfig>,
}

/// Settings that were said while the mesh runs, as they are written; by name.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Of kinds, and `default`.
    pub kinds: BTreeMap<String, KindConfig>,
    /// Of tenants, and `default`.
    pub tenants: BTreeMap<String, TenantConfig>,
    /// Of agents.
    pub agents: BTreeMap<String, AgentConfig>,
}

/// What is said of an agent while the mesh runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AgentConfig {
    /// Whether it gets no work until somebody says otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quarantined: bool,
}

/// How agents are compared.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Placement {
    /// What the resources weigh in `resource-based`.
    pub resource_weights: ResourceWeights,
    /// How much of each resource may be reserved for each unit that agents have.
    ///
    /// More fills agents whose attempts use less than they reserve; beyond what they use, they get in each other's way.
    pub overcommit: Overcommit,
    /// How long a task waits before it may go out of turn, once in 16 placements.
    ///
    /// Shorter lets urgent tasks wait a little more; longer lets the others.
    #[serde(with = "humantime_serde")]
    pub aged_after: Duration,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            resource_weights: ResourceWeights::default(),
            overcommit: Overcommit::default(),
            aged_after: Duration::from_secs(30),
        }
    }
}

/// How much of each resource may be reserved for each unit that agents have.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Overcommit {
    /// CPU.
    pub cpu: f64,
    /// Memory.
    pub memory: f64,
    /// Disk.
    pub disk: f64,
    /// Network.
    pub network: f64,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cpu: 1.0, memory: 1.0, disk: 1.0, network: 1.0 }
    }
}

impl Overcommit {
    fn as_array(self) -> [f64; 4] {
        [self.cpu, self.memory, self.disk, self.network]
    }

    /// What may be reserved of so much.
    pub(crate) fn of(self, capacity: Resources) -> Resources {
        let (capacity, ratios) = (capacity.dimensions(), self.as_array());
        Resources::from_dimensions(std::array::from_fn(|i| (capacity[i] as f64 * ratios[i]).round() as u64))
    }
}

/// The most that one task may reserve: one that asks for more is `dead` at once.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// CPU, in thousandths of a core.
    #[serde(with = "quantity::cpu")]
    pub cpu: Option<u64>,
    /// Memory.
    #[serde(with = "quantity::bytes")]
    pub memory: Option<u64>,
    /// Disk.
    #[serde(with = "quantity::bytes")]
    pub disk: Option<u64>,
    /// Bandwidth.
    #[serde(with = "quantity::bandwidth")]
    pub network: Option<u64>,
}

impl Default for Limits {
    /// The original framework's: 8 cores, 8 GiB, 10 GiB, 1 Gbps.
    fn default() -> Self {
        Self { cpu: Some(8000), memory: Some(8 << 30), disk: Some(10 << 30), network: Some(1_000_000_000) }
    }
}

impl Limits {
    pub(crate) fn as_array(&self) -> [Option<u64>; 4] {
        [self.cpu, self.memory, self.disk, self.network]
    }

    /// What is wrong with asking for this, in words, if anything is.
    pub(crate) fn exceeded(&self, resources: &Resources) -> Option<String> {
        let over = resources
            .dimensions()
            .into_iter()
            .zip(self.as_array())
            .zip(Resources::NAMES)
            .find_map(|((need, limit), name)| limit.filter(|limit| need > *limit).map(|limit| (need, limit, name)));
        let (need, limit, name) = over?;
        let shown = |amount| quantity::show(name, amount);
        Some(format!(
            "it asks for {name} {}: a task may reserve at most {} (`[limits] {name}` of the coordinator)",
            shown(need),
            shown(limit)
        ))
    }
}

/// Settings of a tenant, as they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TenantConfig {
    /// How much of a kind it gets compared with the others, while there is not enough for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// How many of its attempts may run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<usize>,
    /// How many of its tasks may start in a time: `100/s`, `30/m` or `1000/h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// Settings of a tenant, complete.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TenantSettings {
    pub(crate) weight: f64,
    pub(crate) max_running: Option<usize>,
    pub(crate) rate: Option<Rate>,
}

impl TenantSettings {
    pub(crate) fn of(name: &str, config: &Config) -> Self {
        let mut settings = Self { weight: 1.0, max_running: None, rate: None };
        for name in ["default", name] {
            for config in [config.tenants.get(name), config.said.tenants.get(name)].into_iter().flatten() {
                set(&mut settings.weight, config.weight);
                settings.max_running = config.max_running.or(settings.max_running);
                settings.rate = config.rate.or(settings.rate);
            }
        }
        settings
    }
}

/// What each resource weighs; only their proportions count.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ResourceWeights {
    /// CPU.
    pub cpu: f64,
    /// Memory.
    pub memory: f64,
    /// Disk.
    pub disk: f64,
    /// Network.
    pub network: f64,
}

impl Default for ResourceWeights {
    /// The original framework's.
    fn default() -> Self {
        Self { cpu: 0.4, memory: 0.3, disk: 0.2, network: 0.1 }
    }
}

impl ResourceWeights {
    pub(crate) fn as_array(self) -> [f64; 4] {
        [self.cpu, self.memory, self.disk, self.network]
    }
}

/// How long a leader leads on that cannot renew its lease, by its own clock; then it steps down.
///
/// Until then it may tell agents that it has heard them, which so go on with what they run at most once, though another
/// leads already. It outlasts an election among NATS servers (4 to 9 s, measured).
pub const STEP_DOWN: Duration = Duration::from_secs(12);

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
    /// Whether none of its tasks is fetched or started; what runs goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// How its tasks are placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Labels that an agent should rather have, with what each weighs against being specialised (1.0):
    /// `prefer = { ssd = 1.0, "region=eu" = 0.5 }`. For `capability-based`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer: Option<BTreeMap<String, f64>>,
    /// The label that `spread` spreads over; `zone` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_over: Option<String>,
    /// What `bin-pack` fills up: `slots` unless set, or `cpu`, `memory`, `disk` or `network`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack_by: Option<Packing>,
    /// How many of its attempts may run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<usize>,
    /// How many of its tasks may start in a time: `100/s`, `30/m` or `1000/h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
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
    /// Countable resources reserved for each attempt: `resources = { gpus = 1 }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Countables>,
}

/// Settings of a kind, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct KindSettings {
    /// Whether none of its tasks is fetched or started.
    pub paused: bool,
    /// How its tasks are placed.
    pub strategy: Strategy,
    /// Labels that an agent should rather have, with their weights.
    pub prefer: BTreeMap<String, f64>,
    /// The label that `spread` spreads over.
    pub spread_over: String,
    /// What `bin-pack` fills up.
    pub packing: Packing,
    /// How many of its attempts may run at once.
    pub max_running: Option<usize>,
    /// How many of its tasks may start in a time.
    pub rate: Option<Rate>,
    /// How often a task may be started because it failed.
    pub max_attempts: u32,
    /// Limit of one attempt's run; the handler's own where there is none.
    pub timeout: Option<Duration>,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// Share of the running attempts for tasks that have failed before, while others wait.
    pub retry_share: f64,
    /// Reserved for each attempt; where it says nothing, what the agents' own settings say is.
    pub reserved: Needed,
}

impl Default for KindSettings {
    fn default() -> Self {
        Self {
            paused: false,
            strategy: Strategy::LeastConnections,
            prefer: BTreeMap::new(),
            spread_over: "zone".to_owned(),
            packing: Packing::Slots,
            max_running: None,
            rate: None,
            max_attempts: 3,
            timeout: None,
            backoff: Backoff::default(),
            // As in Finagle's retry budget.
            retry_share: 0.2,
            reserved: Needed::default(),
        }
    }
}

impl Config {
    /// The settings that hold for a kind.
    pub fn kind(&self, kind: &Kind) -> KindSettings {
        let mut settings = KindSettings::default();
        for name in ["default", kind.as_str()] {
            for config in [self.kinds.get(name), self.said.kinds.get(name)].into_iter().flatten() {
                settings.apply(config);
            }
        }
        settings
    }

    /// Everything that is wrong with the settings, each with what to do instead.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, kind) in self.kinds.iter().chain(&self.said.kinds) {
            if name != "default"
                && let Err(error) = Kind::new(name)
            {
                problems.push(format!("[kinds.{name}]: {error}"));
            }
            if kind.retry_share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
                problems.push(format!("[kinds.{name}] retry-share: write a fraction from 0.0 to 1.0"));
            }
            if kind.prefer.iter().flatten().any(|(_, weight)| !(0.0..=1e6).contains(weight)) {
                problems.push(format!("[kinds.{name}] prefer: a weight is 0.0 or more"));
            }
            if kind.max_running == Some(0) {
                problems
                    .push(format!("[kinds.{name}] max-running: nothing would run: write 1 or more, or pause the kind"));
            }
            if kind.max_attempts == Some(0) {
                problems.push(format!("[kinds.{name}] max-attempts: a task is started at least once: write 1 or more"));
            }
        }
        for (name, tenant) in self.tenants.iter().chain(&self.said.tenants) {
            if tenant.weight.is_some_and(|weight| !(1e-3..=1e6).contains(&weight)) {
                problems.push(format!("[tenants.{name}] weight: write a number from 0.001 to 1000000"));
            }
            if tenant.max_running == Some(0) {
                problems.push(format!("[tenants.{name}] max-running: nothing would run: write 1 or more"));
            }
        }
        if self.placement.overcommit.as_array().iter().any(|ratio| !(0.01..=1000.0).contains(ratio)) {
            problems.push("[placement] overcommit: write numbers from 0.01 to 1000".to_owned());
        }
        let weights = self.placement.resource_weights.as_array();
        if weights.iter().any(|weight| !(0.0..=1e6).contains(weight)) || weights.iter().sum::<f64>() <= 0.0 {
            problems.push("[placement] resource-weights: write numbers of 0.0 or more, one of them above".to_owned());
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
        let Needed { resources, countable } = &mut self.reserved;
        set(&mut self.paused, config.paused);
        set(&mut self.strategy, config.strategy);
        set(&mut self.packing, config.pack_by);
        self.max_running = config.max_running.or(self.max_running);
        self.rate = config.rate.or(self.rate);
        self.prefer.extend(config.prefer.clone().unwrap_or_default());
        if let Some(label) = &config.spread_over {
            self.spread_over.clone_from(label);
        }
        set(&mut self.max_attempts, config.max_attempts);
        self.timeout = config.timeout.or(self.timeout);
        set(&mut self.backoff, config.backoff);
        set(&mut self.retry_share, config.retry_share);
        set(&mut resources.cpu_millis, config.cpu);
        set(&mut resources.memory_bytes, config.memory);
        set(&mut resources.disk_bytes, config.disk);
        set(&mut resources.network_bps, config.network);
        if let Some(countables) = &config.resources {
            countable.clone_from(countables);
        }
    }

    /// As they are written.
    pub(crate) fn written(&self) -> KindConfig {
        let amount = |amount: u64| Some(amount).filter(|amount| *amount > 0);
        KindConfig {
            paused: Some(self.paused).filter(|paused| *paused),
            strategy: Some(self.strategy),
            prefer: Some(self.prefer.clone()).filter(|prefer| !prefer.is_empty()),
            spread_over: Some(self.spread_over.clone()).filter(|_| self.strategy == Strategy::Spread),
            pack_by: Some(self.packing).filter(|_| self.strategy == Strategy::BinPack),
            max_running: self.max_running,
            rate: self.rate,
            max_attempts: Some(self.max_attempts),
            timeout: self.timeout,
            backoff: Some(self.backoff),
            retry_share: Some(self.retry_share),
            cpu: amount(self.reserved.resources.cpu_millis),
            memory: amount(self.reserved.resources.memory_bytes),
            disk: amount(self.reserved.resources.disk_bytes),
            network: amount(self.reserved.resources.network_bps),
            resources: Some(self.reserved.countable.clone()).filter(|countables| !countables.is_empty()),
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

        assert_eq!((settings.max_attempts, settings.reserved.resources.cpu_millis), (5, 2000));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let mut config = Config::default();
        config.kinds.insert("a.b".into(), KindConfig { max_attempts: Some(0), ..<_>::default() });
        config.liveness.lost_after = Duration::ZERO;

        assert_eq!(config.problems().len(), 3);
    }
}
