//! A pool while this coordinator leads: it is looked at, and what is to be done is kept before it is done.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use scheduler::scaling::signals::{Agent, Measured};
use scheduler::scaling::{Order, Pool, Signals, Standing, Wish};
use scheduler::{PoolLoad, Timestamp};
use shared::{Epoch, Kind};
use tracing::warn;

use super::census::Counts;
use super::settings::Config;
use super::signals::Gauge;
use super::telling::{Teller, Told, show_change};
use super::wishes::{Kept, WishError};

/// A pool that is looked at and brought in line.
#[derive(Debug)]
pub(crate) struct Led {
    pool: Pool,
    config: Config,
    epoch: Epoch,
    kept: Kept,
    gauge: Gauge,
    signals: Signals,
    told: Told,
    /// The moment of the last look, on the scheduler's clock and on ours.
    seen: Option<(Timestamp, Instant)>,
    next_look: Instant,
    /// Kinds that the pool was for at the last look.
    kinds: BTreeSet<Kind>,
    /// What need not be kept to be done, and could not be ordered last time.
    put_off: Vec<Order>,
}

impl Led {
    /// A pool that goes on with what was wished for before.
    pub(crate) fn new(name: &str, config: Config, kept: Kept, wish: Wish, epoch: Epoch) -> Self {
        let pool = Pool::new(name, config.effective_policy(), wish, fastrand::u64(..));
        let mut told = Told::default();
        // What is under way was told by whoever ordered it.
        told.news(pool.history());
        let mut led = Self {
            pool,
            config: Config::default(),
            epoch,
            kept,
            gauge: Gauge::default(),
            signals: Signals::default(),
            told,
            seen: None,
            next_look: Instant::now(),
            kinds: BTreeSet::new(),
            put_off: Vec::new(),
        };
        led.go_by(config);
        led
    }

    /// These settings hold from now on.
    pub(crate) fn go_by(&mut self, config: Config) {
        if self.config == config {
            return;
        }
        self.pool.set_policy(config.effective_policy());
        match (config.paused, self.pool.is_paused()) {
            (true, false) => self.pool.pause(),
            (false, true) => self.pool.resume(),
            _ => {}
        }
        self.kinds.extend(config.policy.kinds.iter().cloned());
        self.config = config;
        self.next_look = Instant::now();
    }

    /// There shall be so many agents, until a rule finds otherwise.
    pub(crate) fn ask(&mut self, agents: u32) {
        self.pool.ask(agents);
        self.next_look = Instant::now();
    }

    /// When it is to be looked at next.
    pub(crate) fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Kinds whose tasks are to be counted for it.
    pub(crate) fn kinds(&self) -> &BTreeSet<Kind> {
        &self.kinds
    }

    /// Looks at the pool, and keeps what it wishes for: what is returned is then to be done.
    pub(crate) async fn look(
        &mut self,
        load: &PoolLoad,
        stored: Option<&Counts>,
        bucket: &kv::Store,
        teller: &Teller,
    ) -> Result<Vec<Order>, WishError> {
        let now = load.at;
        let stored = stored.map(|counts| Measured::new(counts, now - counts.taken.elapsed()));
        self.signals = self.gauge.read(load, stored, self.pool.policy());
        self.seen = Some((now, Instant::now()));
        self.next_look = Instant::now() + self.pool.policy().interval;
        self.kinds = load.kinds.iter().map(|kind| kind.kind.clone()).chain(self.config.policy.kinds.clone()).collect();
        let mut orders = std::mem::take(&mut self.put_off);
        orders.extend(self.pool.evaluate(&self.signals, now));
        match self.kept.keep(bucket, self.pool.wish()).await {
            Ok(()) => {}
            Err(replaced @ WishError::Replaced(_)) => return Err(replaced),
            Err(error) => {
                warn!(pool = self.pool.name(), error = crate::chain(&error), "nothing is done about the pool");
                self.give_up(std::mem::take(&mut orders), &error.to_string(), now);
            }
        }
        self.tell(teller).await;
        Ok(orders)
    }

    /// What is not kept is not done.
    fn give_up(&mut self, orders: Vec<Order>, error: &str, now: Timestamp) {
        for order in orders {
            match order {
                Order::Start { order, .. } | Order::Drain { order, .. } => {
                    self.pool.refused(order, error.to_owned(), &self.signals, now);
                }
                Order::Remove { .. } => self.put_off.push(order),
            }
        }
    }

    /// Whoever was to carry out an order could not.
    pub(crate) async fn refused(&mut self, order: u64, error: String, teller: &Teller) {
        let now = self.now();
        self.pool.refused(order, error, &self.signals, now);
        self.tell(teller).await;
    }

    async fn tell(&mut self, teller: &Teller) {
        for event in self.told.news(self.pool.history()) {
            teller.change(self.epoch, show_change(self.pool.name(), &event)).await;
        }
    }

    /// How long an order may take.
    pub(crate) fn limit(&self) -> Duration {
        self.config.policy.startup_timeout
    }

    /// The present moment on the scheduler's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.seen.map_or(Timestamp::default(), |(at, then)| at + then.elapsed())
    }

    /// How long ago it was looked at last.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.seen.map(|(_, then)| then.elapsed())
    }

    /// The pool.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Its settings.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What was measured at the last look.
    pub(crate) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Its agents at the last look.
    pub(crate) fn agents(&self) -> &[Agent] {
        self.signals.agents.as_ref().map(|agents| agents.value.as_slice()).unwrap_or_default()
    }

    /// How things stood at the last look.
    pub(crate) fn standing(&self) -> Standing {
        self.pool.standing(&self.signals, self.now())
    }
}
