//! Carries out what is ordered for one pool, in a task of its own: an actuator that is slow holds up nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::scaling::Order;
use shared::{AgentId, Epoch};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::actuator::{self, Actuator, Start, Surroundings};
use crate::node::Handle;

/// An order, for whoever carries it out.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) epoch: Epoch,
    pub(crate) order: Order,
    /// How long it may take, and be put off: what is not under way by then has failed.
    pub(crate) limit: Duration,
    pub(crate) given: Instant,
}

/// An order was not carried out.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) pool: String,
    pub(crate) epoch: Epoch,
    pub(crate) order: Order,
    pub(crate) error: String,
}

/// What all hands share.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) handle: Handle,
    pub(crate) surroundings: Arc<Surroundings>,
    /// The epoch in which this coordinator leads, if it does: what was ordered in another is not carried out any more.
    pub(crate) epoch: watch::Receiver<Option<Epoch>>,
    pub(crate) refused: mpsc::UnboundedSender<Refused>,
}

/// Reaches whoever carries out the orders for a pool.
#[derive(Debug)]
pub(crate) struct Hands {
    config: actuator::Config,
    jobs: mpsc::UnboundedSender<Job>,
}

impl Hands {
    /// Starts somebody who carries orders out by these settings, until this is dropped.
    pub(crate) fn start(pool: &str, config: &actuator::Config, reach: Reach) -> Self {
        let (jobs, received) = mpsc::unbounded_channel();
        let worker = Worker { pool: pool.to_owned(), config: config.clone(), reach, actuator: None };
        tokio::spawn(worker.run(received));
        Self { config: config.clone(), jobs }
    }

    /// Whether it goes by these settings.
    pub(crate) fn go_by(&self, config: &actuator::Config) -> bool {
        self.config == *config
    }

    /// Hands an order over.
    pub(crate) fn give(&self, job: Job) {
        // It takes orders for as long as it can be reached.
        let _ = self.jobs.send(job);
    }
}

struct Worker {
    pool: String,
    config: actuator::Config,
    reach: Reach,
    /// Made for the first order.
    actuator: Option<Actuator>,
}

impl Worker {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            if *self.reach.epoch.borrow() != Some(job.epoch) {
                continue;
            }
            if let Err(error) = self.carry_out(&job).await {
                warn!(pool = self.pool, order = ?job.order, error, "an order was not carried out");
                let Job { epoch, order, .. } = job;
                let _ = self.reach.refused.send(Refused { pool: self.pool.clone(), epoch, order, error });
            }
        }
    }

    async fn carry_out(&mut self, job: &Job) -> Result<(), String> {
        if let Order::Drain { agents, .. } = &job.order {
            self.drain(agents).await;
        }
        let is_start = matches!(job.order, Order::Start { .. });
        let left = job.limit.saturating_sub(job.given.elapsed());
        if is_start && left.is_zero() {
            return Err(format!("what was ordered before took longer than {:?}", job.limit));
        }
        let limit = if is_start { left } else { job.limit };
        let actuator = self.actuator()?;
        match tokio::time::timeout(limit, act(actuator, &job.order)).await {
            Ok(done) => done.map_err(|error| crate::chain(&error)),
            Err(_) => Err(format!("no answer within {limit:.0?}")),
        }
    }

    /// Tells agents to finish and leave. One that is gone need not be told.
    async fn drain(&self, agents: &[AgentId]) {
        for agent in agents {
            let _ = self.reach.handle.drain(agent.clone()).await;
        }
    }

    fn actuator(&mut self) -> Result<&Actuator, String> {
        if self.actuator.is_none() {
            let made = Actuator::new(&self.pool, &self.config, &self.reach.surroundings);
            self.actuator = Some(made.map_err(|error| crate::chain(&error))?);
        }
        self.actuator.as_ref().ok_or_else(|| "there is no actuator".to_owned())
    }
}

async fn act(actuator: &Actuator, order: &Order) -> Result<(), actuator::ActuatorError> {
    match order {
        Order::Start { order, count, wished } => {
            actuator.start(&Start { order: *order, count: *count, wished: *wished }).await
        }
        Order::Drain { agents, wished, .. } => actuator.leaving(agents, *wished).await,
        Order::Remove { agents, wished } => actuator.remove(agents, *wished).await,
    }
}
