//! The web pages: what the mesh is doing, and what an operator does about it.
//!
//! They are made here, whole, by templates, and work without script; a small one of our own keeps them up to date. What
//! takes long to find out is found out by `sampler` beforehand. Nothing is changed by looking: `actions` is reached
//! by forms alone. Who may look and act is decided by whoever serves `router`.

mod actions;
mod agents;
mod asked;
mod assets;
mod chart;
mod dead;
mod events;
mod filled;
mod frame;
mod help;
mod html;
mod overview;
mod problem;
mod queues;
mod resources;
mod sampler;
mod samples;
mod scaling;
mod show;
pub mod sources;
mod table;
mod tasks;
mod visible;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::map_response_with_state;
use axum::routing::{get, post};
use shared::client::Client;
use tokio::sync::Notify;

use crate::api::Services;
use crate::dead::DeadLetters;
use crate::node::Handle;
use crate::roll_call;
use crate::store::Store;
pub(crate) use filled::Filled;
use samples::Shared;
use sources::Sources;

/// What the pages are made from.
#[derive(Clone, Debug)]
struct Dashboard {
    services: Services,
    handle: Handle,
    store: Store,
    client: Client,
    dead: DeadLetters,
    seen: Arc<Shared>,
    /// Wakes the sampler when somebody looks again after a while.
    looked: Arc<Notify>,
    sources: Arc<dyn Sources>,
}

/// Begins to sample, answers roll calls, and gives the pages; `http` is where they are going to be served.
pub(crate) fn router(services: Services, http: Option<SocketAddr>, sources: Arc<dyn Sources>) -> Router {
    let Services { handle, store, client, .. } = services.clone();
    let (nats, subjects) = (client.nats().clone(), client.subjects().clone());
    tokio::spawn(roll_call::answer(nats, subjects, handle.clone(), http));
    let dead = DeadLetters::new(store.clone(), client.clone());
    let (seen, looked) = (Arc::default(), Arc::default());
    let dashboard = Dashboard { services, handle, store, client, dead, seen, looked, sources };
    tokio::spawn(sampler::run(dashboard.clone()));
    pages(dashboard)
}

fn pages(dashboard: Dashboard) -> Router {
    Router::new()
        .route("/", get(overview::page))
        .route("/queues", get(queues::list))
        .route("/queues/{id}", get(queues::one))
        .route("/queues/{id}/set", post(actions::set))
        .route("/agents", get(agents::list))
        .route("/agents/{id}", get(agents::one))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::one))
        .route("/scaling", get(scaling::page))
        .route("/resources", get(resources::page))
        .route("/dead", get(dead::list))
        .route("/dead/{id}", get(dead::one))
        .route("/events", get(events::page))
        .route("/help", get(help::page))
        .merge(actions::routes())
        .route("/assets/{name}", get(assets::asset))
        .layer(map_response_with_state(dashboard.clone(), problem::finish))
        .with_state(dashboard)
}
