//! The right number of agents, for a reason that can be asked for.
//!
//! A [`Pool`] is told what is known of its agents and of what waits for them ([`Signals`]), and says whom to start and
//! whom to drain ([`Order`]). The [`Arbiter`] decides how many there should be; the [`Wish`] keeps that number across
//! leaders and brings what is there in line with it; the [`History`] tells what was done and what came of it. Who starts
//! processes, and how, is none of its business. The [`World`](world::World) is a pool in virtual time.

pub mod arbiter;
pub mod clairvoyant;
pub mod history;
pub mod policy;
mod pool;
mod rule;
pub mod signals;
pub mod victims;
mod wish;
pub mod world;

pub use arbiter::{Arbiter, Decision};
pub use history::{Event, History};
pub use policy::{Policy, Share};
pub use pool::Pool;
pub use rule::{Cause, Finding, Metric, Rule, WaitsFor};
pub use signals::Signals;
pub use wish::{Order, Standing, Wish};
