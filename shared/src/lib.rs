//! The wire contract of the mesh: what names look like, which subject carries what, which headers mean
//! what, and how the mesh's own messages are encoded.
//!
//! Everything here is checked on the way in, so that the rest of the mesh never meets a bad name. With the feature
//! `nats` (on by default) there is also [`connect`], which knows the settings a long-lived NATS connection needs,
//! [`Client`], a small client for submitting tasks and waiting for their results, and [`health`], which asks a program
//! whether it is well. With the feature `trace` there is `trace`, which sends spans to a collector, with `metrics` what a
//! program tells Prometheus.

pub mod api;
pub mod codec;
pub mod header;
pub mod message;
pub mod names;
pub mod needs;
pub mod quantity;
pub mod role;
#[cfg(feature = "schema")]
mod schema;
pub mod subject;
pub mod task;

#[cfg(feature = "metrics")]
pub mod metrics;

#[cfg(feature = "nats")]
pub mod client;
#[cfg(feature = "nats")]
pub mod connect;
#[cfg(feature = "nats")]
pub mod health;
#[cfg(feature = "nats")]
pub mod supervisor;
#[cfg(feature = "trace")]
pub mod trace;

#[cfg(feature = "nats")]
pub use client::Client;
pub use names::{AgentId, Epoch, HookName, Incarnation, Kind, MeshName, Priority, TaskId};
pub use quantity::{Countables, Resources, Used};
pub use role::Role;
pub use task::{Outcome, TaskOptions};
