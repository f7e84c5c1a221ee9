//! How many agents a pool gets, in virtual time: load curves, actuators that fail and lie, rules one by one, and
//! properties that hold whatever is measured.
//!
//! `cargo test -p scheduler --test scaling pictures -- --ignored` draws each curve.

mod actuator;
mod actuators;
mod curve;
mod curves;
mod leaders;
mod pictures;
mod properties;
mod rules;
mod run;
mod world;

use std::time::Duration;

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
