//! Nothing accepted is lost, whatever dies: every task has one result, and it is its own.

use bytes::Bytes;
use mesh_tests::mesh::PATIENCE;
use mesh_tests::{BUILTINS, Mesh, new_task, results, tasks};
use shared::TaskId;
use shared::client::NewTask;

const TASKS: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tasks_survive_the_death_of_an_agent() {
    let mesh = Mesh::start().await;
    let (sent, expected) = distinct_tasks(TASKS);

    let submitting = mesh.submit_in_background(sent);
    let before = mesh.until(results(TASKS as u64 / 2)).await;
    mesh.agent("ada").kill().await;
    submitting.await.unwrap();
    mesh.until(tasks(0)).await;

    assert!(before < TASKS as u64, "all was done before anything died");
    mesh.results().await.assert_echoed(&expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tasks_survive_the_death_of_the_leader() {
    let mesh = three_agents().coordinators(2).start().await;
    let (sent, expected) = distinct_tasks(TASKS);

    let submitting = mesh.submit_in_background(sent);
    let before = mesh.until(results(TASKS as u64 / 2)).await;
    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();
    submitting.await.unwrap();
    mesh.until(tasks(0)).await;

    assert!(before < TASKS as u64, "all was done before anything died");
    mesh.results().await.assert_echoed(&expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_and_restart_of_the_broker_loses_nothing() {
    let mut mesh = Mesh::start().await;
    let (sent, expected) = distinct_tasks(TASKS);

    let submitting = mesh.submit_in_background(sent);
    // Early, so that tasks are still being submitted.
    let before = mesh.until(results(TASKS as u64 / 20)).await;
    mesh.local().broker().kill9().await;
    mesh.local().broker_mut().restart().await.unwrap();
    submitting.await.unwrap();
    // What was out when the broker died may be out for as long as the broker waits for acknowledgements.
    mesh.within(2 * PATIENCE, tasks(0)).await;

    assert!(before < TASKS as u64, "all was done before anything died");
    mesh.results().await.assert_echoed(&expected);
}

fn three_agents() -> mesh_tests::Builder {
    ["ada", "bob", "cid"].into_iter().fold(Mesh::builder(), |mesh, id| mesh.agent(id, 4, BUILTINS))
}

/// So many tasks of 256 bytes, no two alike, and what must come back.
fn distinct_tasks(count: usize) -> (Vec<NewTask>, Vec<(TaskId, Bytes)>) {
    let tasks: Vec<NewTask> = (0..count).map(|i| new_task("echo", format!("{i:0256}"))).collect();
    let expected = tasks.iter().map(|task| (task.id.clone(), task.body.clone())).collect();
    (tasks, expected)
}
