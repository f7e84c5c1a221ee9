//! Submits the tasks, collects their results, and kills an agent half-way.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use shared::client::TaskResult;
use shared::{Client, TaskId};

use super::work::Task;
use super::{Killed, Meter};
use crate::local::LocalMesh;

/// How many tasks are on their way to the broker at once: the queue is full long before the work is done.
const SUBMITTED_AT_ONCE: usize = 64;
/// How many results are read from the stream at once.
const READ_AT_ONCE: usize = 32;
/// How long nothing may come before the stream is looked at for what was missed.
const QUIET: Duration = Duration::from_secs(2);
/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(45);

/// What came of the tasks.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The recorded results.
    pub(super) results: HashMap<TaskId, TaskResult>,
    /// The agent that was killed.
    pub(super) killed: Option<Killed>,
}

/// Runs the tasks until all have a result, or none has come for long.
pub(super) async fn run(mesh: &LocalMesh, client: &Client, tasks: &[Task<'_>]) -> anyhow::Result<Done> {
    let watched = client.watch().await?;
    // The server must know of the subscription before the first result can be published.
    client.nats().flush().await?;
    let mut collection = Collection::new(mesh, client, tasks);
    let all_came = {
        let (submitted, collected) = (submit(client, tasks), collection.collect(watched));
        tokio::pin!(submitted, collected);
        tokio::select! {
            result = &mut submitted => {
                result?;
                collected.await
            }
            // Nothing came for long, or all did before the last confirmation of a submission.
            all_came = &mut collected => all_came,
        }
    };
    collection.finish(all_came).await
}

async fn submit(client: &Client, tasks: &[Task<'_>]) -> anyhow::Result<()> {
    let submissions = tasks.iter().map(|task| async move {
        client.submit(&task.read().await?).await?;
        anyhow::Ok(())
    });
    stream::iter(submissions).buffer_unordered(SUBMITTED_AT_ONCE).try_collect().await
}

struct Collection<'a> {
    mesh: &'a LocalMesh,
    client: &'a Client,
    tasks: &'a [Task<'a>],
    meter: Meter,
    done: Done,
    last_change: Instant,
}

impl<'a> Collection<'a> {
    fn new(mesh: &'a LocalMesh, client: &'a Client, tasks: &'a [Task<'a>]) -> Self {
        let meter = Meter::new("working", tasks.len());
        Self { mesh, client, tasks, meter, done: Done::default(), last_change: Instant::now() }
    }

    /// Returns whether all results came.
    async fn collect(&mut self, mut watched: impl stream::Stream<Item = TaskResult> + Unpin) -> bool {
        while self.done.results.len() < self.tasks.len() {
            match tokio::time::timeout(QUIET, watched.next()).await {
                Ok(Some(result)) => self.add(result),
                Ok(None) => return false,
                // A copy may be lost on its way to us; the record is in the stream.
                Err(_) => self.look_for_missed().await,
            }
            if self.last_change.elapsed() > PATIENCE {
                return false;
            }
            self.kill_half_way().await;
        }
        true
    }

    fn add(&mut self, result: TaskResult) {
        if self.done.results.insert(result.id.clone(), result).is_none() {
            self.last_change = Instant::now();
            self.meter.set(self.done.results.len());
        }
    }

    async fn look_for_missed(&mut self) {
        let missing: Vec<TaskId> =
            self.tasks.iter().map(|t| t.id.clone()).filter(|id| !self.done.results.contains_key(id)).collect();
        for result in read(self.client, missing).await {
            self.add(result);
        }
    }

    async fn kill_half_way(&mut self) {
        let is_half = self.done.results.len() * 2 >= self.tasks.len();
        if !is_half || self.done.killed.is_some() || self.mesh.agents().len() < 2 {
            return;
        }
        let Some(victim) = self.busiest().await else { return };
        if let Some(agent) = self.mesh.agent(&victim.agent) {
            agent.process().kill9();
            self.meter.say(&format!("half-way: {victim}"));
            self.done.killed = Some(victim);
        }
    }

    /// The agent that holds most; any, if the mesh does not say.
    async fn busiest(&self) -> Option<Killed> {
        let listed = self.mesh.list_agents().await.unwrap_or_default();
        let held = listed.into_iter().map(|agent| Killed { held: agent.running + agent.queued, agent: agent.id });
        let any = || Some(Killed { agent: self.mesh.agents().first()?.id().clone(), held: 0 });
        held.max_by_key(|agent| agent.held).or_else(any)
    }

    /// Takes the results as they are recorded, which is what counts: a copy may be of one that was refused.
    async fn finish(mut self, all_came: bool) -> anyhow::Result<Done> {
        self.meter.set(self.done.results.len());
        if !all_came {
            self.meter.say(&format!("no result has come for {} s: not waiting any longer", PATIENCE.as_secs()));
        }
        let recorded = read(self.client, self.tasks.iter().map(|task| task.id.clone()).collect()).await;
        self.done.results = recorded.into_iter().map(|result| (result.id.clone(), result)).collect();
        self.meter.finish();
        Ok(self.done)
    }
}

/// Reads what is recorded of these tasks; what cannot be read now counts as missing.
async fn read(client: &Client, ids: Vec<TaskId>) -> Vec<TaskResult> {
    let reads = ids.into_iter().map(|id| async move { client.result(&id).await.ok().flatten() });
    stream::iter(reads).buffer_unordered(READ_AT_ONCE).filter_map(std::future::ready).collect().await
}
