//! Counts from outside of the mesh what was accepted and what has come of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::{StreamExt as _, future::join_all};
use mesh_tests::new_task;
use shared::client::{NewTask, SubmitError, TaskResult};
use shared::{Client, Outcome, TaskId};
use tokio::task::JoinHandle;

/// Between two tasks of a load.
const PACE: Duration = Duration::from_millis(50);
/// How long a client goes on that is not told that its task is accepted: an election takes up to nine seconds.
const SUBMIT_PATIENCE: Duration = Duration::from_secs(60);
/// How long everything may take to be settled once nothing is wrong any more.
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether something has come.
const LOOK: Duration = Duration::from_millis(200);
/// How long a stream may be silent while it is read.
const SILENCE: Duration = Duration::from_secs(10);

/// Somebody who submits, and goes on until it is accepted.
#[derive(Clone, Debug)]
pub(crate) struct Submitter(pub(crate) Client);

impl Submitter {
    /// Submits one after the other until it is stopped, every other one with some work to do.
    pub(crate) fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let submitting = tokio::spawn(submit_until(self.clone(), stop.clone()));
        Load { stop, submitting }
    }

    /// Submits until it is accepted.
    async fn submit(self, task: NewTask) -> TaskId {
        let started = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            match self.0.submit(&task).await {
                Ok(_) => return task.id,
                // An earlier try was stored, and its confirmation lost.
                Err(SubmitError::Duplicate(id)) if tries > 1 => return id,
                Err(error) => {
                    assert!(started.elapsed() < SUBMIT_PATIENCE, "not accepted: {}", coordinator::chain(&error));
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Waits until the mesh does work.
    pub(crate) async fn until_it_works(&self, limit: Duration) {
        let started = Instant::now();
        let mut problem = "nothing was tried".to_owned();
        while started.elapsed() < limit {
            match self.0.call(new_task("echo", "hello"), Duration::from_secs(10)).await {
                Ok(result) if result.outcome == Outcome::Succeeded => return,
                Ok(result) => problem = format!("{result:?}"),
                Err(error) => problem = coordinator::chain(&error),
            }
            tokio::time::sleep(LOOK).await;
        }
        panic!("the mesh does no work after {limit:?}: {problem}");
    }
}

async fn submit_until(submitter: Submitter, stop: Arc<AtomicBool>) -> Vec<TaskId> {
    let mut tick = tokio::time::interval(PACE);
    let mut submissions = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let task = if submissions.len() % 2 == 0 { new_task("sleep", "100ms") } else { new_task("echo", "hello") };
        submissions.push(tokio::spawn(submitter.clone().submit(task)));
    }
    join_all(submissions).await.into_iter().map(|accepted| accepted.expect("a submission fails only loudly")).collect()
}

/// A load on a mesh.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    submitting: JoinHandle<Vec<TaskId>>,
}

impl Load {
    /// Submits no more. What was accepted, which is everything that was submitted.
    pub(crate) async fn stop(self) -> Vec<TaskId> {
        self.stop.store(true, Ordering::Relaxed);
        self.submitting.await.unwrap()
    }
}

/// Who may read the streams.
#[derive(Debug)]
pub(crate) struct Oracle(pub(crate) Client);

impl Oracle {
    /// Checks that each task that was accepted has exactly one result, which is a success, and tells the longest time
    /// in between in which nothing was recorded.
    pub(crate) async fn judge(&self, accepted: &[TaskId]) -> Duration {
        self.until_settled().await;
        let mut results = self.results().await;
        let mut recorded = Vec::new();
        for id in accepted {
            let of_task = results.remove(id).unwrap_or_default();
            let [(at, result)] = &of_task[..] else { panic!("{id} was accepted and has {} results", of_task.len()) };
            assert_eq!(result.outcome, Outcome::Succeeded, "{result:?}");
            recorded.push(*at);
        }
        recorded.sort_unstable();
        recorded.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// All results.
    pub(crate) async fn all(&self) -> Vec<TaskResult> {
        self.results().await.into_values().flatten().map(|(_, result)| result).collect()
    }

    async fn until_settled(&self) {
        let started = Instant::now();
        loop {
            let tasks = self.stream("TASKS").await.map(|stream| stream.cached_info().state.messages);
            if tasks == Ok(0) {
                return;
            }
            assert!(started.elapsed() < SETTLE_PATIENCE, "not everything is settled: {tasks:?} are in the stream");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All results by their task, with the time since 1970 when each was recorded.
    async fn results(&self) -> BTreeMap<TaskId, Vec<(Duration, TaskResult)>> {
        let started = Instant::now();
        loop {
            match self.read_results().await {
                Ok(results) => return results,
                Err(problem) => assert!(started.elapsed() < SETTLE_PATIENCE, "the results cannot be read: {problem}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn read_results(&self) -> Result<BTreeMap<TaskId, Vec<(Duration, TaskResult)>>, String> {
        let consumer = self.stream("RESULTS").await?.create_consumer(OrderedConfig::default()).await;
        let consumer = consumer.map_err(|error| error.to_string())?;
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
        let mut results: BTreeMap<TaskId, Vec<_>> = BTreeMap::new();
        while left > 0 {
            let next = tokio::time::timeout(SILENCE, messages.next()).await;
            let message = next.map_err(|_| "silence")?.ok_or("it ended early")?.map_err(|error| error.to_string())?;
            let info = message.info().unwrap();
            left = info.pending;
            let at = Duration::from_nanos(u64::try_from(info.published.unix_timestamp_nanos()).unwrap());
            let result = TaskResult::parse(message.headers.as_ref(), message.payload.clone()).unwrap();
            results.entry(result.id.clone()).or_default().push((at, result));
        }
        Ok(results)
    }

    /// The name of the server that leads the stream of tasks.
    pub(crate) async fn leader_of_tasks(&self) -> Result<String, String> {
        let cluster = self.stream("TASKS").await?.cached_info().cluster.clone();
        cluster.and_then(|cluster| cluster.leader).ok_or_else(|| "nobody leads it".to_owned())
    }

    async fn stream(&self, name: &str) -> Result<jetstream::stream::Stream, String> {
        self.0.jetstream().get_stream(format!("HIVE_{name}")).await.map_err(|error| error.to_string())
    }
}
