//! Decides which agent runs which task, when an agent counts as lost, and how many agents there should be.
//!
//! The scheduler does no I/O: it is told what happened and what time it is ([`Event`]), and says what the
//! coordinator must now do ([`Action`]). It has no clock, no connection and no unseeded randomness, so the same
//! events give the same actions on every run, and each of its decisions can be reached from a plain test.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attempts;
mod brake;
mod browse;
mod config;
mod efficiency;
mod event;
mod figures;
mod gauges;
mod history;
mod kinds;
mod lines;
mod liveness;
mod load;
mod pace;
mod performance;
mod pulse;
mod recommend;
mod registry;
mod retries;
mod scheduler;
mod shares;
mod tally;
mod tasks;
mod tenants;
mod time;
mod unmet;
mod usage;
mod view;
mod waits;
mod why;

#[doc(hidden)]
pub mod measure;
pub mod placement;
pub mod scaling;

pub use browse::{AgentQuery, AgentSort, Page, TaskQuery};
pub use config::{
    AgentConfig, Config, KindConfig, KindSettings, Limits, Liveness, Overcommit, Placement, ResourceWeights, STEP_DOWN,
    Said, TenantConfig,
};
pub use event::{Action, Actions, Delivery, Dispatch, Done, Event, Notice, Sequence, Settlement, Unreadable};
pub use figures::{Amounts, Figures, KindFigures};
pub use gauges::{Gauges, KindGauges};
pub use history::{End, History, HowEnded};
pub use load::{AgentLoad, KindLoad, PoolLoad, Waits};
pub use pace::Rate;
pub use pulse::Pulse;
pub use recommend::FEWEST as FEWEST_SAMPLES;
pub use scheduler::Scheduler;
pub use tally::Tally;
pub use time::Timestamp;
pub use view::QueueView;
pub use waits::Waits as StartWaits;
