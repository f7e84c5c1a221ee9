//! `run` and `done` on the wire, as the golden files in `shared/tests/golden/` pin them, and an agent of another
//! make that knows nothing but the protocol.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_worker::session::{Done, Ended, Order};
use agent_worker::wire::{read_run, write_done};
use async_nats::HeaderMap;
use mesh_tests::fake::{Character, INCARNATION};
use mesh_tests::{FakeAgent, Mesh, agent, new_task, task, tasks};
use shared::client::NewTask;
use shared::message::Needed;
use shared::task::AttemptOutcome;
use shared::{Countables, Epoch, Incarnation, Outcome, Resources, TaskId, Used};

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_sends_run_with_the_golden_headers() {
    let mesh = Mesh::builder().start().await;
    let fake = FakeAgent::join(&mesh, "ada", Character::default()).await;
    let task = NewTask { id: TaskId::new("t-1").unwrap(), ..new_task("echo", "body") };
    let task = task.header("Hive-Timeout", "30s").unwrap().header("X-Mine", "mine").unwrap();
    let task = task.header("traceparent", "00-1-2-01").unwrap().header("Hive-Reply-To", "my.results").unwrap();

    mesh.run_task(task).await;

    let run = &fake.told("run")[0];
    assert_eq!(run.payload, "body");
    assert!(run.reply.is_some(), "nobody would tell the coordinator that the agent is gone");
    assert_eq!(lines(run.headers.as_ref().unwrap()), golden("run.headers"));
}

#[test]
fn an_agent_reads_the_golden_run() {
    let order = read_run(&headers("run.headers")).unwrap();

    assert_eq!(order, golden_order());
}

#[test]
fn an_agent_reads_what_the_golden_run_has_reserved() {
    let order = read_run(&headers("run-reserved.headers")).unwrap();

    let resources =
        Resources { cpu_millis: 500, memory_bytes: 256 << 20, disk_bytes: 1 << 30, network_bps: 10_000_000 };
    let countable = Countables::new([("gpus", 2), ("licences", 1)]).unwrap();
    assert_eq!(order, Order { reserved: Needed { resources, countable }, ..golden_order() });
}

#[test]
fn an_agent_writes_the_golden_done() {
    let order = Arc::new(Order { timeout: None, ..golden_order() });
    let run = Duration::from_millis(12);
    let (error, used) = (String::new(), Used::default());
    let succeeded = Ended { outcome: AttemptOutcome::Succeeded, output: "body".into(), error, run, used };
    let failed = Ended::without_output(AttemptOutcome::Failed, "no\r\nsuch file", run);
    let used = Used { cpu: Some(Duration::from_millis(210)), memory_peak: Some(50 << 20), io_bytes: Some(4096) };
    let measured = Ended { used, ..succeeded.clone() };

    let written = |ended| lines(&write_done(&Done { order: order.clone(), ended }));
    assert_eq!(written(succeeded), golden("done.headers"));
    assert_eq!(written(failed), golden("done-failed.headers"));
    assert_eq!(written(measured), golden("done-measured.headers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_make_that_speaks_json_does_its_work() {
    let mesh = Mesh::builder().start().await;
    let fake = FakeAgent::join(&mesh, "ada", Character::default()).await;

    mesh.submit_all((0..200).map(|i| new_task("echo", i.to_string()))).await;
    mesh.until(tasks(0)).await;
    mesh.until(agent("ada").holds(0)).await;

    let results = mesh.results().await;
    assert!(results.0.iter().all(|result| result.outcome == Outcome::Succeeded && result.attempts == 1));
    assert_eq!(fake.told("run").len(), 200);
    for verb in ["welcome", "settled"] {
        let told = fake.told(verb);
        assert!(!told.is_empty(), "it was told no `{verb}`");
        assert!(told.iter().all(|message| message.payload.starts_with(b"{")), "`{verb}` came in another encoding");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_vanishes_loses_its_work_to_another() {
    let mut mesh = Mesh::builder().start().await;
    let fake = FakeAgent::join(&mesh, "fake", Character { run: None, ..Character::default() }).await;
    let id = mesh.submit("echo", "hello").await;
    mesh.until(task(&id).running_on("fake")).await;
    mesh.add_agent("ada", 4, mesh_tests::BUILTINS);
    mesh.until(agent("ada").healthy()).await;

    drop(fake);
    let result = mesh.wait(&id).await;

    assert_eq!((result.agent.as_deref(), result.attempts), (Some("ada"), 2));
}

fn golden_order() -> Order {
    Order {
        task: "t-1".parse().unwrap(),
        sequence: 1,
        kind: "echo".parse().unwrap(),
        attempt: 1,
        epoch: Epoch(1),
        incarnation: Incarnation(INCARNATION),
        timeout: Some(Duration::from_secs(30)),
        reserved: Needed::default(),
    }
}

/// A golden file: the headers in alphabetical order, a line each.
fn golden(name: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tests/golden").join(name);
    std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

fn headers(name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in golden(name) {
        let (name, value) = line.split_once(": ").unwrap();
        headers.insert(name, value);
    }
    headers
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")));
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}
