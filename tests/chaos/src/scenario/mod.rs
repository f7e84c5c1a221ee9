//! One module for each class of fault.

use std::time::Duration;

use crate::figures::Row;
use crate::{Context, oracle};

mod agents;
mod blips;
mod broker;
mod cluster;
mod crash;
mod false_verdicts;
mod hang;
mod leader;
mod network;
mod poison;
mod two_leaders;

/// So long after the beginning of a reign verdicts are given, even if it took so long to begin that the leader doubts its
/// link.
const FIRST_VERDICT: Duration = Duration::from_secs(6);

/// A class of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Scenario {
    /// Agents are killed.
    Agents,
    /// Leaders are killed, and asked to end.
    Leader,
    /// The broker is killed and restarted.
    Broker,
    /// How soon the task of a crashed agent starts elsewhere.
    Crash,
    /// How soon the task of an agent starts elsewhere that hangs or is cut off.
    Hang,
    /// Agents that are only slow are not given up.
    FalseVerdicts,
    /// What runs is not restarted because of the broker or the leader.
    Blips,
    /// A leader wakes up after another has taken over.
    TwoLeaders,
    /// Tasks kill their agents.
    Poison,
    /// The network delays, loses and resets.
    Network,
    /// A cluster of brokers loses the leader of its stream.
    Cluster,
}

impl Scenario {
    /// All of them, in the order of the table.
    pub const ALL: [Scenario; 11] = [
        Scenario::Agents,
        Scenario::Leader,
        Scenario::Broker,
        Scenario::Crash,
        Scenario::Hang,
        Scenario::FalseVerdicts,
        Scenario::Blips,
        Scenario::TwoLeaders,
        Scenario::Poison,
        Scenario::Network,
        Scenario::Cluster,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Agents => "agents",
            Scenario::Leader => "leader",
            Scenario::Broker => "broker",
            Scenario::Crash => "crash",
            Scenario::Hang => "hang",
            Scenario::FalseVerdicts => "false-verdicts",
            Scenario::Blips => "blips",
            Scenario::TwoLeaders => "two-leaders",
            Scenario::Poison => "poison",
            Scenario::Network => "network",
            Scenario::Cluster => "cluster",
        }
    }

    /// What is to be run one after the other. Those that measure times are alone; of the others, which count, several
    /// run side by side.
    pub fn groups(chosen: &[Scenario]) -> Vec<Vec<Scenario>> {
        let (together, alone): (Vec<_>, Vec<_>) = chosen.iter().copied().partition(|scenario| scenario.only_counts());
        alone.into_iter().map(|scenario| vec![scenario]).chain(Some(together).filter(|all| !all.is_empty())).collect()
    }

    fn only_counts(self) -> bool {
        use Scenario::{Agents, Blips, Cluster, Network, Poison, TwoLeaders};
        matches!(self, Agents | Blips | Cluster | Network | Poison | TwoLeaders)
    }

    /// Does it; the rows say what was measured and whether the promises hold. An error means that it did not come to
    /// its end.
    pub async fn run(self, context: &Context) -> anyhow::Result<Vec<Row>> {
        match self {
            Scenario::Agents => agents::run(context).await,
            Scenario::Leader => leader::run(context).await,
            Scenario::Broker => broker::run(context).await,
            Scenario::Crash => crash::run(context).await,
            Scenario::Hang => hang::run(context).await,
            Scenario::FalseVerdicts => false_verdicts::run(context).await,
            Scenario::Blips => blips::run(context).await,
            Scenario::TwoLeaders => two_leaders::run(context).await,
            Scenario::Poison => poison::run(context).await,
            Scenario::Network => network::run(context).await,
            Scenario::Cluster => cluster::run(context).await,
        }
    }
}

impl std::fmt::Display for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Up to this long, evenly distributed.
fn up_to(random: &mut fastrand::Rng, limit: Duration) -> Duration {
    limit.mul_f64(random.f64())
}

/// Between these, so that each order of magnitude is as likely as another.
pub fn log_uniform(random: &mut fastrand::Rng, from: Duration, to: Duration) -> Duration {
    from.mul_f64((to.as_secs_f64() / from.as_secs_f64()).powf(random.f64()))
}

/// What several meshes side by side came to.
fn together<T>(parts: Vec<(Vec<T>, oracle::Verdict)>) -> (Vec<T>, oracle::Verdict) {
    let mut all = Vec::new();
    let mut sum = oracle::Verdict { settled: true, ..Default::default() };
    for (part, verdict) in parts {
        all.extend(part);
        sum.add(verdict);
    }
    (all, sum)
}
