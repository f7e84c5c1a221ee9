//! What the integration tests stand on: whole meshes of real processes around a real nats-server, each with
//! its own ports and its own directory, so that any number of tests run side by side.
//!
//! ```no_run
//! # async fn example() {
//! use mesh_tests::{Mesh, agent, task};
//!
//! let mesh = Mesh::start().await;
//! let id = mesh.submit("sleep", "1s").await;
//! let first = mesh.until(task(&id).running()).await.agent.expect("an agent runs it");
//! mesh.agent(&first).kill().await;
//! let result = mesh.until(task(&id).settled()).await;
//! assert_eq!(result.attempts, 2);
//! # }
//! ```
//!
//! [`Mesh`] is the mesh, [`state`] what a test can wait for, [`FakeAgent`] an agent of another make,
//! [`EventSource`] somebody who follows the events, [`Receiver`] one who gets webhooks,
//! [`python`] and [`native`] clients of other makes, [`disk`] a disk whose power can be cut and [`power`] what comes of
//! that, [`prometheus`] what reads metrics, [`docker`] a mesh in containers, [`terminal`] a terminal with a program on it.
//! Support code panics where a test could only unwrap.

pub mod disk;
pub mod docker;
pub mod fake;
pub mod mesh;
pub mod native;
pub mod power;
pub mod program;
pub mod prometheus;
pub mod python;
pub mod receiver;
pub mod sse;
pub mod state;
pub mod terminal;

pub use docker::Docker;
pub use fake::FakeAgent;
pub use mesh::{Builder, Mesh, Results, new_task};
pub use program::Output;
pub use receiver::Receiver;
pub use sse::EventSource;
pub use state::{State, agent, queue, results, task, tasks};

/// The builtin handlers, as an agent's settings name them.
pub const BUILTINS: &str = r#"
[[handler]]
kind = "echo"
builtin = "echo"

[[handler]]
kind = "sleep"
builtin = "sleep"

[[handler]]
kind = "fail"
builtin = "fail"
"#;

/// The settings of an agent that handles a kind by a command, besides what else it does.
pub fn command_handler(kind: &str, argv: &[&str]) -> String {
    format!("[[handler]]\nkind = \"{kind}\"\ncommand = {argv:?}\nenv = [\"PATH\", \"NOTES\"]\n")
}
