//! An agent of the mesh: it takes attempts from the coordinator, runs each by the handler of its kind, and tells
//! how it ended. It speaks core NATS on its own subjects only, as `docs/protocol.md` describes.
//!
//! [`session`] decides, and does no I/O; [`executor`] runs attempts; [`cli`] is the program `agent-worker`.
//! Whoever has handlers in Rust embeds an [`Agent`]:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use agent_worker::{Agent, Config, Task};
//!
//! let agent = Agent::builder(Default::default(), Config::default())
//!     .handler("shout", |task: Task| async move {
//!         Ok::<_, std::str::Utf8Error>(std::str::from_utf8(&task.body)?.to_uppercase())
//!     })
//!     .build()?;
//! agent.run().await?;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
mod beats;
mod cgroup;
pub mod cli;
pub mod config;
pub mod connection;
pub mod executor;
mod health;
mod logs;
mod metrics;
pub mod session;
mod usage;
pub mod watchdog;
pub mod wire;

pub use agent::{Agent, Stopper};
pub use config::Config;
pub use executor::Task;
