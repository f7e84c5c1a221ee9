//! The operations of the mesh: one table, from which all that can be asked of it is made.
//!
//! An operation is a noun and a verb, a request and an answer (types of [`shared::api`]), and a function. From the
//! table come the NATS micro service (`service`), REST and its roles (`crate::http`), the OpenAPI document
//! (`openapi`), and the list in `docs/api.md`. The command line asks for the same operations over NATS.
//!
//! To add one:
//! 1. Its request and its answer are types in a file of `shared/src/api/`, with serde's `Deserialize` and `Serialize`, a
//!    comment on each field, and `#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]`. A request has
//!    `#[serde(deny_unknown_fields)]`, and its fields that may be missing have `#[serde(default)]`.
//! 2. What it does is a function `async fn(…, Request) -> Result<Answer, Refusal>`.
//! 3. It gets an entry in `table.rs`; what its function works with is taken from [`Services`], or added there:
//!
//!    ```text
//!    Operation::new("scale", "status", |services: Services, asked: Listing| async move {
//!        scaling::status(&services.handle, &services.store, asked).await
//!    })
//!    .says("Lists the pools with what is wished for and what is there")
//!    .for_role(Role::Read)
//!    .at(Route::get("/v1/pools"))
//!    .refuses(&[404]),
//!    ```
//! 4. Its row is added to `docs/api.md` (a test prints it), and where guests of the NATS server may ask for it
//!    `shared/src/role.rs` says so.
//!
//! A path names fields of the request: `/v1/agents/{id}`. The other fields are the query, or with `reads_json` the
//! JSON in the request's body.

mod agents;
mod dead;
mod events;
mod forward;
mod openapi;
mod operation;
mod queues;
mod role;
mod schema;
mod service;
mod services;
mod table;
mod tasks;

use shared::Kind;
use shared::api::ask::QueueRef;
use shared::api::{QueueSettings, Refusal};

pub(crate) use forward::refusal_in;
pub(crate) use openapi::document;
pub(crate) use operation::{Body, Operation, Route};
pub use role::Role;
pub(crate) use schema::Written;
pub(crate) use service::start;
pub use services::Services;
pub(crate) use table::table;
pub(crate) use tasks::{LONGEST_WAIT, accept, checked, shown};

/// The operation of this name.
///
/// # Panics
/// If the table has none.
pub(crate) fn operation(noun: &str, verb: &str) -> &'static Operation {
    let found = table().iter().find(|operation| (operation.noun, operation.verb) == (noun, verb));
    found.expect("who asks for an operation names one of the table")
}

/// What waits and runs of a kind, and the settings that hold for it.
pub(crate) async fn queue(services: Services, kind: Kind) -> Result<QueueSettings, Refusal> {
    queues::get(services, QueueRef { id: kind }).await
}

/// What was asked for cannot be so.
pub(crate) fn bad_request(error: impl std::fmt::Display) -> Refusal {
    Refusal { error: error.to_string(), code: 400 }
}
