//! The coordinator: takes tasks from the stream, places them on agents, records their outcomes.
//!
//! [`node`] is the loop around the scheduler, [`store`] the only part that touches JetStream, [`lease`] decides who
//! leads, [`auth`] makes the users of a NATS server. [`api`] and [`http`] answer questions, [`dead`] those about dead
//! letters, `logs` those about what tasks write; `live` tells events as they happen, [`hooks`] sends them to URLs and turns
//! requests into tasks; [`scale`] sees to it that there are as many agents as there should be, and [`actuator`] starts and
//! ends them; [`metrics`] tells Prometheus, [`alerts`] says what is not as it should be; [`cli`] is the command line,
//! [`local`] runs whole meshes on one machine for `dev`, `bench` and the tests, and `conformance` checks agents of any make;
//! [`dashboard`] makes the web pages.

pub mod actuator;
pub mod alerts;
pub mod api;
pub mod auth;
pub mod bench;
pub mod cli;
pub mod config;
mod conformance;
pub mod dashboard;
pub mod dead;
pub mod demo;
pub mod hooks;
pub mod http;
pub mod lease;
mod live;
pub mod local;
mod logs;
pub mod metrics;
mod monitor;
pub mod node;
mod recommend;
mod roll_call;
pub mod scale;
mod settings;
pub mod store;
mod submission;

/// An error with its causes in one line, for a log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
