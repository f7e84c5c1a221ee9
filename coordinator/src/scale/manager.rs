//! The loop that brings pools in line: it waits for the next look, for somebody who asks, and for orders that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use scheduler::PoolLoad;
use scheduler::scaling::{Order, Policy};
use shared::Epoch;
use shared::subject::Subjects;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::census::Census;
use super::hands::{Hands, Job, Reach, Refused};
use super::led::Led;
use super::settings::Config;
use super::telling::Teller;
use super::wishes::{Kept, WishError};
use super::{Ask, Pools, shown};
use crate::actuator::Surroundings;
use crate::metrics::Scaling;
use crate::node::Handle;
use crate::store::Store;

/// How often it is looked whether this coordinator leads, and a pool is begun with that could not be before.
const IDLE: Duration = Duration::from_millis(500);

/// It is never looked more often than this.
const SOON: Duration = Duration::from_millis(50);

/// What a manager is made of.
pub(crate) struct Parts {
    /// The coordinator's loop.
    pub(crate) handle: Handle,
    /// The connection.
    pub(crate) nats: async_nats::Client,
    /// The subjects of the mesh.
    pub(crate) subjects: Subjects,
    /// The streams.
    pub(crate) store: Store,
    /// The pools that the coordinator's file names.
    pub(crate) pools: BTreeMap<String, Config>,
    /// What agents that are started are told.
    pub(crate) surroundings: Surroundings,
    /// What Prometheus is told of pools.
    pub(crate) metrics: Scaling,
    /// What somebody asks, by the coordinator's loop.
    pub(crate) asks: mpsc::UnboundedReceiver<Ask>,
}

/// Brings the pools in line while this coordinator leads.
pub(crate) struct Manager {
    handle: Handle,
    store: Store,
    subjects: Subjects,
    teller: Teller,
    pools: Pools,
    census: Census,
    /// Where wishes are kept, once it was reached.
    bucket: Option<kv::Store>,
    hands: BTreeMap<String, Hands>,
    reach: Reach,
    epoch: watch::Sender<Option<Epoch>>,
    refused: mpsc::UnboundedReceiver<Refused>,
    asks: mpsc::UnboundedReceiver<Ask>,
    /// When it was looked last.
    looked: Instant,
}

impl Manager {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { handle, nats, subjects, store, pools, surroundings, metrics, asks } = parts;
        let (epoch, of_hands) = watch::channel(None);
        let (refuse, refused) = mpsc::unbounded_channel();
        let surroundings = Arc::new(surroundings);
        Self {
            reach: Reach { handle: handle.clone(), surroundings, epoch: of_hands, refused: refuse },
            handle,
            store,
            teller: Teller { nats, subjects: subjects.clone(), metrics },
            subjects,
            pools: Pools::new(pools),
            census: Census::default(),
            bucket: None,
            hands: BTreeMap::new(),
            epoch,
            refused,
            asks,
            looked: Instant::now(),
        }
    }

    /// Works until the coordinator's loop has ended.
    pub(crate) async fn run(mut self) {
        loop {
            let next = self.next_look();
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => ask(&mut self.pools),
                    None => return,
                },
                Some(refused) = self.refused.recv() => self.heed(refused).await,
                () = tokio::time::sleep_until(next.into()) => self.look().await,
            }
        }
    }

    /// When it is to be looked next: without pools too, whether this coordinator leads.
    fn next_look(&self) -> Instant {
        let (soon, idle) = (self.looked + SOON, self.looked + IDLE);
        self.pools.next_look().map_or(idle, |next| next.clamp(soon, idle))
    }

    async fn look(&mut self) {
        self.looked = Instant::now();
        self.follow_leadership();
        if let Err(error) = self.try_to_look().await {
            let is_replaced = matches!(error.downcast_ref::<WishError>(), Some(WishError::Replaced(_)));
            warn!(error = format!("{error:#}"), "the pools are not looked at");
            if is_replaced {
                self.lead(None);
            }
        }
    }

    /// Begins to lead the pools when this coordinator leads, and ends with it.
    fn follow_leadership(&mut self) {
        let status = self.handle.status();
        let epoch = Some(status.epoch).filter(|_| status.leading);
        if self.pools.epoch() != epoch {
            self.lead(epoch);
        }
    }

    fn lead(&mut self, epoch: Option<Epoch>) {
        self.pools.configured().keys().for_each(|name| self.teller.metrics.forget(name));
        self.pools.begin(epoch);
        self.epoch.send_replace(epoch);
    }

    async fn try_to_look(&mut self) -> anyhow::Result<()> {
        let Some(epoch) = self.pools.epoch() else { return Ok(()) };
        self.begin_with_pools(epoch).await?;
        let due = self.due();
        if due.is_empty() {
            return Ok(());
        }
        let kinds = self.kinds_of(&due);
        self.census.take(&self.store, &self.subjects, &kinds).await;
        let (names, policies): (Vec<String>, Vec<Policy>) = due.into_iter().unzip();
        let look = self.handle.look(move |scheduler, now| {
            policies.iter().map(|policy| scheduler.pool_load(policy, now)).collect::<Vec<PoolLoad>>()
        });
        for (name, load) in names.iter().zip(look.await?) {
            if load.epoch != Some(epoch) {
                // It does not lead any more, and is told so soon.
                return Ok(());
            }
            self.look_at(name, &load).await?;
            if let Ok(led) = self.pools.find(name) {
                let pool = shown::pool(led);
                self.teller.metrics.sizes(name, pool.wished.unwrap_or(0), pool.present, pool.starting);
            }
        }
        Ok(())
    }

    /// Takes over what was wished for before.
    async fn begin_with_pools(&mut self, epoch: Epoch) -> anyhow::Result<()> {
        for (name, config) in self.pools.not_begun() {
            let bucket = self.bucket().await?;
            let (kept, wish) = Kept::take_over(&bucket, &name, epoch).await?;
            info!(pool = name, wished = wish.agents(), %epoch, "the pool is led");
            let led = Led::new(&name, config, kept, wish, epoch);
            if let Some(reign) = self.pools.reign() {
                reign.led.insert(name, led);
            }
        }
        Ok(())
    }

    async fn bucket(&mut self) -> anyhow::Result<kv::Store> {
        if let Some(bucket) = &self.bucket {
            return Ok(bucket.clone());
        }
        let bucket = self.store.settings_bucket().await?;
        Ok(self.bucket.insert(bucket).clone())
    }

    /// The pools that are to be looked at now.
    fn due(&mut self) -> Vec<(String, Policy)> {
        let now = self.looked;
        let Some(reign) = self.pools.reign() else { return Vec::new() };
        let due = reign.led.iter().filter(|(_, led)| led.next_look() <= now);
        due.map(|(name, led)| (name.clone(), led.config().policy.clone())).collect()
    }

    fn kinds_of(&self, due: &[(String, Policy)]) -> BTreeSet<shared::Kind> {
        let led = due.iter().filter_map(|(name, _)| self.pools.find(name).ok());
        led.flat_map(|led| led.kinds().iter().cloned()).collect()
    }

    async fn look_at(&mut self, name: &str, load: &PoolLoad) -> anyhow::Result<()> {
        let bucket = self.bucket().await?;
        let Some(reign) = self.pools.reign() else { return Ok(()) };
        let Some(led) = reign.led.get_mut(name) else { return Ok(()) };
        let orders = led.look(load, self.census.latest(), &bucket, &self.teller).await?;
        let (epoch, limit, actuator) = (reign.epoch, led.limit(), led.config().actuator.clone());
        let Some(actuator) = actuator else { return Ok(()) };
        let hands = self.hands.get(name).filter(|hands| hands.go_by(&actuator));
        if hands.is_none() && !orders.is_empty() {
            self.hands.insert(name.to_owned(), Hands::start(name, &actuator, self.reach.clone()));
        }
        if let Some(hands) = self.hands.get(name) {
            let job = |order: Order| Job { epoch, order, limit, given: Instant::now() };
            orders.into_iter().map(job).for_each(|job| hands.give(job));
        }
        Ok(())
    }

    /// An order could not be carried out.
    async fn heed(&mut self, refused: Refused) {
        let Refused { pool, epoch, order, error } = refused;
        if self.pools.epoch() != Some(epoch) {
            return;
        }
        match order {
            Order::Start { order, .. } | Order::Drain { order, .. } => {
                if let Some(led) = self.pools.reign().and_then(|reign| reign.led.get_mut(&pool)) {
                    led.refused(order, error, &self.teller).await;
                }
            }
            Order::Remove { agents, .. } => self.teller.left_behind(epoch, &pool, &agents, &error).await,
        }
    }
}
