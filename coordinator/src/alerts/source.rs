//! Where samples come from: what the leader and the broker say, under the names that `/metrics` has for it; and for any
//! other metric the exposition itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use scheduler::{Gauges, Scheduler};
use shared::api::Refusal;
use shared::{Kind, Outcome};

use super::sample::{self, Sample};
use crate::node::{Handle, unavailable};
use crate::store::Store;

/// Gives what `/metrics` shows.
pub(crate) type Exposition = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// What is known without an exposition: a look at these costs a fraction of one where there are many kinds. Two of them,
/// `hive_agents_missing` and `hive_unmet_tasks`, are for alerts alone.
const KNOWN: [&str; 10] = [
    "hive_agents",
    "hive_agents_missing",
    "hive_slots",
    "hive_slots_taken",
    "hive_unmet_tasks",
    "hive_queue_oldest_age_seconds",
    "hive_tasks_settled_total",
    "hive_dead_letters_total",
    "hive_scaling_wished_agents",
    "hive_scaling_present_agents",
];

/// Looking at the streams may take up so much of the time that passes.
const SHARE: u32 = 50;

/// Where samples come from.
pub(crate) struct Source {
    handle: Handle,
    store: Store,
    exposition: Option<Exposition>,
    streams: Streams,
    next_look: Instant,
}

/// What the streams hold.
#[derive(Default)]
struct Streams {
    stored: BTreeMap<Kind, u64>,
    dead_ever: u64,
}

/// Reads metrics out of an exposition. With many kinds it is long, and the coordinator's loop, which has the thread that
/// this is called on, shall not wait for it to be made and read.
async fn read(exposition: Exposition, metrics: BTreeSet<String>) -> Vec<Sample> {
    let runtime = tokio::runtime::Handle::current();
    let reading = tokio::task::spawn_blocking(move || sample::parse(&runtime.block_on(exposition()), &metrics));
    reading.await.unwrap_or_default()
}

impl Source {
    /// Samples of this coordinator and its broker; without an exposition there are no others.
    pub(crate) fn new(handle: Handle, store: Store, exposition: Option<Exposition>) -> Self {
        Self { handle, store, exposition, streams: Streams::default(), next_look: Instant::now() }
    }

    /// The samples of these metrics now.
    pub(crate) async fn samples(&mut self, metrics: &BTreeSet<String>) -> Result<Vec<Sample>, Refusal> {
        self.look_at_streams().await?;
        let gauges = self.handle.look(Scheduler::gauges).await?;
        let mut samples = self.known(&gauges);
        samples.extend(self.pools().await);
        samples.retain(|sample| metrics.contains(&sample.name));
        let others: BTreeSet<String> = metrics.iter().filter(|name| !KNOWN.contains(&name.as_str())).cloned().collect();
        if let Some(exposition) = &self.exposition
            && !others.is_empty()
        {
            samples.extend(read(exposition.clone(), others).await);
        }
        Ok(samples)
    }

    /// The pools that get what they wish for, and have wished for something. A dry run is short of agents by intent.
    async fn pools(&self) -> Vec<Sample> {
        let pools = crate::scale::status(&self.handle).await.unwrap_or_default().items;
        let acting = pools.iter().filter(|pool| pool.acts).filter_map(|pool| Some((pool, pool.wished?)));
        let samples = acting.flat_map(|(pool, wished)| {
            let of = |name: &str, agents: u32| Sample::new(name, &[("pool", pool.id.as_str())], f64::from(agents));
            [of("hive_scaling_wished_agents", wished), of("hive_scaling_present_agents", pool.present)]
        });
        samples.collect()
    }

    /// What the streams hold changes slowly compared with what it may cost to count.
    async fn look_at_streams(&mut self) -> Result<(), Refusal> {
        let began = Instant::now();
        if began < self.next_look {
            return Ok(());
        }
        let stored = self.store.stored_at_least().await.map_err(|error| unavailable(&error))?;
        let dead_ever = self.store.last_dead().await.map_err(|error| unavailable(&error))?;
        self.streams = Streams { stored, dead_ever };
        self.next_look = Instant::now() + began.elapsed().min(Duration::from_secs(2)) * SHARE;
        Ok(())
    }

    fn known(&self, gauges: &Gauges) -> Vec<Sample> {
        let mut samples = vec![
            Sample::new("hive_agents_missing", &[], gauges.agents_lost as f64),
            Sample::new("hive_slots", &[], gauges.slots as f64),
            Sample::new("hive_slots_taken", &[], gauges.slots_taken as f64),
            Sample::new("hive_dead_letters_total", &[], self.streams.dead_ever as f64),
        ];
        let agents = gauges.agents.iter();
        samples.extend(agents.map(|(state, n)| Sample::new("hive_agents", &[("state", state.as_str())], *n as f64)));
        for kind in &gauges.kinds {
            let name = kind.kind.as_str();
            if let Some(oldest) = kind.oldest_waiting {
                samples.push(Sample::new("hive_queue_oldest_age_seconds", &[("kind", name)], oldest.as_secs_f64()));
            }
            let settled = Outcome::ALL.iter().zip(kind.settled).map(|(outcome, count)| {
                let labels = [("kind", name), ("outcome", outcome.as_str())];
                Sample::new("hive_tasks_settled_total", &labels, count as f64)
            });
            samples.extend(settled);
        }
        let unmet = self.unmet(gauges).into_iter();
        samples.extend(unmet.map(|(kind, n)| Sample::new("hive_unmet_tasks", &[("kind", kind.as_str())], n as f64)));
        samples
    }

    /// Tasks that no agent could ever run: those that the scheduler has tried to place, and all of a kind that nobody can
    /// do, which it does not fetch.
    fn unmet(&self, gauges: &Gauges) -> BTreeMap<Kind, u64> {
        let agents: BTreeMap<&Kind, u64> = gauges.kinds.iter().map(|kind| (&kind.kind, kind.agents)).collect();
        let mut unmet: BTreeMap<Kind, u64> = BTreeMap::new();
        for kind in gauges.kinds.iter().filter(|kind| kind.unmet > 0) {
            unmet.insert(kind.kind.clone(), kind.unmet);
        }
        for (kind, stored) in &self.streams.stored {
            if *stored > 0 && agents.get(kind).copied().unwrap_or(0) == 0 {
                let tasks = unmet.entry(kind.clone()).or_default();
                *tasks = (*tasks).max(*stored);
            }
        }
        unmet
    }
}
