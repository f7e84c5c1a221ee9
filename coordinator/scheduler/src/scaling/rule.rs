//! The rules by their names, what each looks at, and what it says at a moment.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a pool's number of agents changes, or could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// There are to be so many at least.
    Minimum,
    /// There may be so many at most.
    Maximum,
    /// What waits would wait too long: as many agents as get it done in time.
    QueuedWork,
    /// Slots are taken up, and tasks wait a little.
    BusySlots,
    /// Many tasks wait for each agent.
    QueueDepth,
    /// Tasks wait too long.
    Wait,
    /// Hosts are busy.
    BusyHosts,
    /// Less gets done while tasks wait.
    ThroughputDrop,
    /// Hosts are idle, little waits, and not for long.
    IdleHosts,
    /// Little waited for a while, and fewer slots are enough.
    LowDemand,
    /// Agents are missing that are wished for: they died, or did not come.
    Replacement,
    /// There are agents that are not wished for: what was started twice, say.
    Surplus,
    /// Somebody has said so.
    Asked,
}

impl Rule {
    /// Rules that make a pool grow when it works, in the order in which they are looked at.
    pub const GROWING: [Rule; 6] =
        [Rule::QueuedWork, Rule::BusySlots, Rule::QueueDepth, Rule::Wait, Rule::BusyHosts, Rule::ThroughputDrop];

    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Rule::Minimum => "minimum",
            Rule::Maximum => "maximum",
            Rule::QueuedWork => "queued-work",
            Rule::BusySlots => "busy-slots",
            Rule::QueueDepth => "queue-depth",
            Rule::Wait => "wait",
            Rule::BusyHosts => "busy-hosts",
            Rule::ThroughputDrop => "throughput-drop",
            Rule::IdleHosts => "idle-hosts",
            Rule::LowDemand => "low-demand",
            Rule::Replacement => "replacement",
            Rule::Surplus => "surplus",
            Rule::Asked => "asked",
        }
    }

    /// What it looks at.
    pub const fn metric(self) -> Metric {
        match self {
            Rule::Minimum | Rule::Maximum | Rule::Asked => Metric::WishedAgents,
            Rule::QueuedWork => Metric::ExpectedWait,
            Rule::BusySlots => Metric::SlotsTaken,
            Rule::QueueDepth => Metric::WaitingPerAgent,
            Rule::Wait => Metric::WaitP95,
            Rule::BusyHosts | Rule::IdleHosts => Metric::HostUtilisation,
            Rule::ThroughputDrop => Metric::Throughput,
            Rule::LowDemand => Metric::NeededAgents,
            Rule::Replacement | Rule::Surplus => Metric::PresentAgents,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Seconds that a task will wait, by what waits already and will until a new agent works.
    ExpectedWait,
    /// Share of the slots that is taken.
    SlotsTaken,
    /// Tasks that wait for each agent.
    WaitingPerAgent,
    /// Seconds that 95 of 100 tasks wait at most.
    WaitP95,
    /// Share of the hosts in use.
    HostUtilisation,
    /// Attempts ended, compared with two measurements before.
    Throughput,
    /// Agents that the load of the last while takes.
    NeededAgents,
    /// Agents that are there.
    PresentAgents,
    /// Agents that are to be there.
    WishedAgents,
}

impl Metric {
    /// How it is written, with its unit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Metric::ExpectedWait => "expected-wait-seconds",
            Metric::SlotsTaken => "slots-taken-share",
            Metric::WaitingPerAgent => "waiting-per-agent",
            Metric::WaitP95 => "wait-p95-seconds",
            Metric::HostUtilisation => "host-utilisation-share",
            Metric::Throughput => "throughput-of-before",
            Metric::NeededAgents => "needed-agents",
            Metric::PresentAgents => "present-agents",
            Metric::WishedAgents => "wished-agents",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What made a change, with the figures that it went by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// The rule.
    pub rule: Rule,
    /// What it looked at.
    pub metric: Metric,
    /// What that was.
    pub value: f64,
    /// What it was compared with.
    pub threshold: f64,
}

impl Cause {
    /// A rule found this, and compared it with that.
    pub fn new(rule: Rule, value: f64, threshold: f64) -> Self {
        Self { rule, metric: rule.metric(), value, threshold }
    }
}

/// What one rule says at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which one.
    pub rule: Rule,
    /// What it looks at.
    pub metric: Metric,
    /// What that is, if it is known.
    pub value: Option<f64>,
    /// What it is compared with.
    pub threshold: f64,
    /// How many agents it wants, if its condition is met.
    pub wants: Option<u32>,
    /// Why it changes nothing now; nothing if it does, or would if no other wanted more.
    pub waits_for: Option<WaitsFor>,
}

impl Finding {
    /// Whether it would change something.
    pub fn is_firing(&self) -> bool {
        self.wants.is_some() && self.waits_for.is_none()
    }

    /// The figures, for a change that follows from it.
    pub fn cause(&self) -> Cause {
        Cause { rule: self.rule, metric: self.metric, value: self.value.unwrap_or_default(), threshold: self.threshold }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ", self.rule, self.metric)?;
        match self.value {
            Some(value) => write!(f, "{value:.2}")?,
            None => f.write_str("unknown")?,
        }
        write!(f, " against {:.2}", self.threshold)?;
        if let Some(wants) = self.wants {
            write!(f, ", wants {wants}")?;
        }
        match &self.waits_for {
            Some(waits_for) => write!(f, ", waits for {waits_for}"),
            None => Ok(()),
        }
    }
}

/// What a rule waits for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitsFor {
    /// Its metric is on the other side of the threshold.
    Threshold,
    /// Something that it looks at was not measured, or too long ago.
    Signal,
    /// The link is in doubt.
    Certainty,
    /// It must see more: so many of so many measurements.
    Samples(usize, usize),
    /// Depth and waits go up and down too much.
    Stability,
    /// Agents that were asked for, and are not there yet.
    Starting(u32),
    /// Agents that were told to go, and are there still.
    Leaving(usize),
    /// The last change is too recent, by so much.
    Cooldown(#[serde(with = "humantime_serde")] Duration),
    /// The last change of this direction failed.
    Backoff(#[serde(with = "humantime_serde")] Duration),
    /// The direction has changed too often within the hour.
    FlapBudget,
    /// So few agents were too few for about this load.
    LessLoad,
    /// The load rises: what was enough will not be.
    LoadToStopRising,
    /// Too many attempts fail.
    FewerFailures,
    /// There are as many agents as there may be, or as few as there must be.
    Bounds,
    /// What tasks wait for now asks for more agents, not for fewer.
    ShorterQueue,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |span: &Duration| humantime::format_duration(Duration::from_secs(span.as_secs_f64().ceil() as u64));
        match self {
            WaitsFor::Threshold => f.write_str("its threshold"),
            WaitsFor::Signal => f.write_str("a signal that is not known"),
            WaitsFor::Certainty => f.write_str("the link to be beyond doubt"),
            WaitsFor::Samples(have, need) => write!(f, "measurements: {have} of {need}"),
            WaitsFor::Stability => f.write_str("depth and waits to be stable"),
            WaitsFor::Starting(count) => write!(f, "{count} agents that are starting"),
            WaitsFor::Leaving(count) => write!(f, "{count} agents that are leaving"),
            WaitsFor::Cooldown(left) => write!(f, "{} since the last change to pass", shown(left)),
            WaitsFor::Backoff(left) => write!(f, "{} since the last failure to pass", shown(left)),
            WaitsFor::FlapBudget => f.write_str("the flap budget of the hour"),
            WaitsFor::LessLoad => f.write_str("less load: so few were too few for this"),
            WaitsFor::LoadToStopRising => f.write_str("the load to stop rising"),
            WaitsFor::FewerFailures => f.write_str("fewer attempts to fail"),
            WaitsFor::Bounds => f.write_str("other bounds"),
            WaitsFor::ShorterQueue => f.write_str("less to wait"),
        }
    }
}
