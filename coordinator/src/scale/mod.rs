//! Sees to it that there are as many agents as there should be.
//!
//! How many that is, and why, is decided in [`scheduler::scaling`]. Here it is measured what that goes by (`census`,
//! `signals`), kept what is wished for (`wishes`), carried out what is ordered (`hands`, over [`crate::actuator`]), and
//! told what came of it (`telling`). The `manager` is the loop, at work while this coordinator leads. [`Pools`] is
//! what it holds, and what can be asked for (`asked`).

mod asked;
mod census;
mod hands;
mod led;
mod manager;
mod pools;
mod settings;
mod shown;
mod signals;
mod telling;
pub(crate) mod wishes;

pub(crate) use asked::{explain, get, history, pause, resume, set, status};
pub(crate) use manager::{Manager, Parts};
pub use pools::Pools;
pub use settings::{Config, problems};

/// Something to be looked up among the pools, or to be done to them.
pub(crate) type Ask = Box<dyn FnOnce(&mut Pools) + Send>;
