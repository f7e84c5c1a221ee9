//! How many agents a pool gets, in virtual time: load curves, actuators that fail and lie, rules one by one, and
//! properties that hold whatever is measured.
//!
//! `cargo test -p scheduler --test scaling pictures -- --ignored` draws each curve.

mod actuators;
mod curve;
mod curves;
mod leaders;
mod pictures;
mod properties;
mod rules;

use std::time::Duration;

use scheduler::scaling::world::{Actuator, Curve, Run, World};

/// Runs a curve whose agents come five seconds after they were ordered.
pub(crate) fn run(curve: &Curve) -> Run {
    World::new(curve, Actuator::Works(secs(5)), 1).run()
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
