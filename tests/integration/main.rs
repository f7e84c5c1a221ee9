//! The mesh as its users meet it: real processes around a real nats-server. One module, one theme.

#![allow(clippy::unwrap_used)]

mod alerts;
mod at_most_once;
mod backlog;
mod bad_input;
mod bad_surroundings;
mod busy;
mod contract;
mod dashboard;
mod deploy;
mod doctor;
mod drain;
mod events;
mod foreign;
mod guarded_http;
mod healthcheck;
mod identity;
mod interfaces;
mod isolation;
mod limits;
mod logs;
mod losses;
mod metrics;
mod operations;
mod orphans;
mod placement;
mod power_cut;
mod resources;
mod scaling;
mod settings;
mod supervisor;
mod takeover;
mod top;
mod traces;
mod webhooks;
mod why;
mod wire;
