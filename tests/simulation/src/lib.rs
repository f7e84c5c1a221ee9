//! The deterministic simulation: real schedulers and real agent sessions, on a virtual clock, with models of the
//! broker, the coordinator's shell and the network, under faults that a seed draws.
//!
//! [`run`] plays one seed to its end. It has two phases: first there are faults, and nothing bad may happen; then
//! they end, and within bounded time every accepted task must have exactly one outcome and nothing may be held.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod broker;
pub mod checks;
pub mod client;
pub mod clock;
pub mod context;
pub mod coordinator;
pub mod event;
pub mod faults;
pub mod marks;
pub mod message;
pub mod net;
pub mod options;
pub mod oracle;
pub mod plant;
pub mod soak;
pub mod world;

pub use options::Options;
pub use plant::Plant;
pub use world::{Report, World};

/// Plays one seed.
pub fn run(seed: u64, steps: u64, plant: Option<Plant>) -> Report {
    World::new(Options::draw(seed, steps, plant), false, false).run()
}

/// Plays one seed and keeps its last events, or prints all.
pub fn replay(seed: u64, steps: u64, plant: Option<Plant>, verbose: bool) -> Report {
    World::new(Options::draw(seed, steps, plant), true, verbose).run()
}

/// What there is to say about a seed that failed: what is wrong, what it drew, its last events, and how to see them
/// again.
pub fn explain(seed: u64, steps: u64, plant: Option<Plant>) -> String {
    let report = replay(seed, steps, plant, false);
    let options = Options::draw(seed, steps, plant);
    let planted = plant.map(|plant| format!(" --plant {plant}")).unwrap_or_default();
    format!(
        "{options}\n\nthe last events:\n{}\n\nseed {seed}, step {}, at {:.6} s: {}\nreplay: cargo run -p simulation \
         --release -- --seed {seed} --steps {steps}{planted} --verbose",
        report.log.join("\n"),
        report.steps,
        report.time as f64 / 1e6,
        report.violation.as_deref().unwrap_or("nothing is wrong"),
    )
}
