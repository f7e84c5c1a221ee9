//! The webhooks that are at work, while this coordinator leads.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::kv::{self, Operation};
use futures_util::StreamExt as _;
use shared::HookName;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use super::Hooks;
use super::book::{self, Definition};
use super::worker::Worker;

/// Pause after an error of the broker's.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends while this coordinator leads, for as long as the process runs.
pub(super) async fn run(hooks: Hooks) {
    let mut mesh = hooks.handle.watch();
    while mesh.wait_for(|mesh| mesh.leading).await.is_ok() {
        let mut stepping_down = mesh.clone();
        tokio::select! {
            // What is at work is dropped with it.
            _ = stepping_down.wait_for(|mesh| !mesh.leading) => debug!("webhooks are left to the next leader"),
            Err(error) = lead(&hooks) => {
                warn!(error = format!("{error:#}"), "webhooks are held up, trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Keeps a worker for each webhook that is enabled, as it is defined now.
async fn lead(hooks: &Hooks) -> anyhow::Result<()> {
    let bucket = hooks.bucket().await?;
    let mut workers = Workers { running: BTreeMap::new(), tasks: JoinSet::new() };
    let mut changes = bucket.watch_with_history(book::HOOK_KEYS).await?;
    loop {
        tokio::select! {
            change = changes.next() => {
                let Some(change) = change else { anyhow::bail!("the watch of webhooks has ended") };
                workers.follow(hooks, bucket, &change?);
            }
            // It is gone through so that those that have ended are not kept for ever.
            Some(ended) = workers.tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    anyhow::bail!("a webhook failed: {error}");
                }
            }
        }
    }
}

/// Webhooks at work. Dropping it ends them.
struct Workers {
    running: BTreeMap<HookName, (Definition, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Workers {
    /// Does what a change of the bucket asks for.
    fn follow(&mut self, hooks: &Hooks, bucket: &kv::Store, change: &kv::Entry) {
        let Some(name) = book::hook_of(&change.key) else { return };
        let definition = match change.operation {
            Operation::Put => match serde_json::from_slice::<Definition>(&change.value) {
                Ok(definition) => Some(definition),
                Err(error) => {
                    warn!(hook = %name, %error, "a webhook cannot be read, and sends nothing");
                    None
                }
            },
            Operation::Delete | Operation::Purge => None,
        };
        let wanted = definition.filter(|definition| definition.enabled);
        if self.running.get(&name).map(|(running, _)| running) == wanted.as_ref() {
            return;
        }
        if let Some((_, running)) = self.running.remove(&name) {
            running.abort();
        }
        if let Some(definition) = wanted {
            let worker = Worker::new(hooks.clone(), bucket.clone(), name.clone(), definition.clone());
            let task = self.tasks.spawn(worker.run());
            self.running.insert(name, (definition, task));
        }
    }
}
