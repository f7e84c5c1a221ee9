//! Webhooks, out and in.
//!
//! Out: what happens on the mesh is sent to URLs. The leader has a `worker` for each webhook, which gets its events by
//! a durable consumer and gives them to the `sender` until each is taken; the next leader goes on where it left off. In:
//! an `intake` turns signed requests into tasks, at whichever coordinator they arrive. What is kept of both is in the
//! `book`.
//!
//! Sending has a thread of its own, so that it takes nothing from the coordinator's loop.

mod address;
mod book;
mod config;
mod intake;
mod intakes;
mod leader;
mod operations;
mod record;
mod scheme;
mod secret;
mod sender;
mod template;
mod worker;

use std::sync::Arc;
use std::time::SystemTime;

use async_nats::jetstream::kv;
use shared::api::{Event, Refusal};
use shared::{Client, HookName};
use tokio::sync::OnceCell;
use tracing::{debug, warn};

pub use config::Config;
pub(crate) use intake::router;
pub(crate) use intakes::{delete_intake, get_intake, list_intakes, set_intake};
pub(crate) use operations::{delete, enable, get, list, redeliver, set, test};

use crate::node::Handle;
use crate::store::Store;
use sender::Sender;

/// Webhooks, out and in. A clone is the same.
#[derive(Clone, Debug)]
pub struct Hooks {
    handle: Handle,
    store: Store,
    client: Client,
    sender: Sender,
    config: Arc<Config>,
    bucket: Arc<OnceCell<kv::Store>>,
}

impl Hooks {
    /// The webhooks of a mesh.
    pub fn new(handle: Handle, store: Store, client: Client, config: Config) -> anyhow::Result<Self> {
        let sender = Sender::new(&config)?;
        Ok(Self { handle, store, client, sender, config: Arc::new(config), bucket: Arc::default() })
    }

    /// Sends what is to be sent while this coordinator leads, for as long as the process runs, from a thread of its own.
    pub fn start(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let hooks = self.clone();
        std::thread::Builder::new().name("webhooks".to_owned()).spawn(move || {
            // It ends with the coordinator's loop.
            runtime.block_on(leader::run(hooks));
            debug!("webhooks are left to others");
        })?;
        Ok(())
    }

    /// The bucket of webhooks and intakes.
    async fn bucket(&self) -> Result<&kv::Store, Refusal> {
        let bucket = self.bucket.get_or_try_init(|| self.store.hooks_bucket()).await;
        bucket.map_err(|error| crate::node::unavailable(&error))
    }

    /// Tells something about webhooks as an event of the mesh.
    async fn tell(&self, what: &str, detail: String) {
        let event = Event {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            topic: "mesh".to_owned(),
            what: what.to_owned(),
            epoch: self.handle.status().epoch,
            agent: None,
            task: None,
            kind: None,
            attempt: None,
            detail: Some(detail),
            data: None,
        };
        if let Err(error) = self.store.tell(&event).await {
            warn!(error = %crate::chain(&error), what, "an event about webhooks could not be told");
        }
    }
}

fn bad(problem: impl Into<String>) -> Refusal {
    Refusal { error: problem.into(), code: 400 }
}

fn no_such_hook(hook: &HookName) -> Refusal {
    Refusal { error: format!("there is no webhook `{hook}`"), code: 404 }
}

fn no_such_intake(intake: &HookName) -> Refusal {
    Refusal { error: format!("there is no intake `{intake}`"), code: 404 }
}
