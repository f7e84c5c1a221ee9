//! What a coordinator tells Prometheus, at `/metrics`: OpenMetrics where that is asked for, and else the older text.
//!
//! The loop counts in plain numbers; what can be read from the scheduler's state or from the broker is read when somebody
//! looks. What is about the mesh is told by the leader alone; what is about this process, by each.

mod broker;
mod counts;
mod families;
mod mesh;
mod scaling;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State as Connection;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use shared::connect::Counters;
use shared::metrics::{Exposition, Format, add_process};

pub(crate) use counts::Counts;
pub use scaling::{Direction, Effect, Scaling};

use crate::node::Handle;
use crate::store::Store;
use broker::Broker;

/// How long the loop may take to answer; without it, what is about the process is told all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be told of the broker beside what the mesh's own connection shows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Addresses of the NATS servers' monitoring (their setting `http`), such as `http://127.0.0.1:8222`.
    ///
    /// Only there it is seen whether they sync each message before they confirm it (`hive_broker_durable`).
    pub monitor: Vec<String>,
}

/// What a coordinator tells of itself and the mesh. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    handle: Handle,
    store: Store,
    nats: async_nats::Client,
    counters: Arc<Counters>,
    broker: Broker,
    scaling: Scaling,
}

impl Metrics {
    /// The metrics of the coordinator whose loop, streams and connection these are.
    pub fn new(
        handle: Handle,
        store: Store,
        nats: async_nats::Client,
        counters: Arc<Counters>,
        config: Config,
    ) -> Self {
        let broker = Broker::new(store.clone(), config.monitor);
        Self(Arc::new(Inner { handle, store, nats, counters, broker, scaling: Scaling::default() }))
    }

    /// Where the scaling manager tells of its pools.
    pub fn scaling(&self) -> &Scaling {
        &self.0.scaling
    }

    /// Everything there is to tell now, as OpenMetrics.
    pub async fn exposition(&self) -> String {
        self.collect().await.write(Format::OpenMetrics)
    }

    async fn collect(&self) -> Exposition {
        let Inner { handle, broker, scaling, .. } = &*self.0;
        let mut samples = Exposition::default();
        add_process(&mut samples);
        samples.add(&families::BUILD, &["coordinator", env!("CARGO_PKG_VERSION")], 1_u64);
        self.add_connection(&mut samples);
        let asked = Instant::now();
        let Ok(Ok(reading)) = tokio::time::timeout(PATIENCE, handle.read()).await else { return samples };
        samples.add(&families::LOOP_ANSWER, &[], asked.elapsed().as_secs_f64());
        mesh::add_counts(&reading.counts, &reading.figures, &mut samples);
        samples.add(&families::LEADING, &[], reading.lease.is_some());
        let (Some(epoch), Some(lease)) = (reading.figures.epoch, reading.lease) else { return samples };
        samples.add(&families::EPOCH, &[], epoch.0);
        samples.add(&families::LEASE_LEFT, &[], lease.as_secs_f64());
        let seen = broker.look(&reading.figures).await;
        mesh::add_mesh(&reading, &seen, &mut samples);
        scaling.add(&mut samples);
        samples
    }

    fn add_connection(&self, samples: &mut Exposition) {
        let Inner { store, nats, counters, .. } = &*self.0;
        for (call, ended, failed) in store.calls().counts() {
            samples.add(&families::JETSTREAM_CALLS, &[call.as_str()], ended);
            samples.add(&families::JETSTREAM_FAILURES, &[call.as_str()], failed);
        }
        samples.add(&families::NATS_CONNECTED, &[], nats.connection_state() == Connection::Connected);
        for (family, counter) in [
            (&families::NATS_DISCONNECTS, &counters.disconnects),
            (&families::NATS_VIOLATIONS, &counters.violations),
            (&families::NATS_ERRORS, &counters.server_errors),
            (&families::NATS_SLOW, &counters.slow_consumers),
        ] {
            samples.add(family, &[], counter.load(Ordering::Relaxed));
        }
        let statistics = nats.statistics();
        for (family, counter) in [
            (&families::NATS_CONNECTS, &statistics.connects),
            (&families::NATS_MESSAGES_IN, &statistics.in_messages),
            (&families::NATS_MESSAGES_OUT, &statistics.out_messages),
            (&families::NATS_BYTES_IN, &statistics.in_bytes),
            (&families::NATS_BYTES_OUT, &statistics.out_bytes),
        ] {
            samples.add(family, &[], counter.load(Ordering::Relaxed));
        }
    }
}

/// Answers scrapes at `/metrics`.
pub(crate) fn router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(metrics)
}

async fn scrape(State(metrics): State<Metrics>, headers: HeaderMap) -> Response {
    let format = Format::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let text = metrics.collect().await.write(format);
    ([(CONTENT_TYPE, format.content_type())], text).into_response()
}
