//! An id stands for one piece of work, however often it is submitted.

use std::path::Path;

use async_nats::HeaderMap;
use mesh_tests::{BUILTINS, Mesh, command_handler, new_task, task, tasks};
use shared::TaskId;
use shared::client::{NewTask, SubmitError};

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_queued_is_refused() {
    let mesh = Mesh::start().await;
    let waiting = named("resize", "t1");
    mesh.submit_task(&waiting).await;

    let error = mesh.client().submit(&waiting).await.unwrap_err();
    let typed = mesh.cli(&["submit", "resize", "--id", "t1"]).await;
    let posted = reqwest::Client::new().post(format!("{}/v1/tasks/resize?id=t1", mesh.http())).send().await.unwrap();

    assert!(matches!(error, SubmitError::Duplicate(id) if id == waiting.id));
    assert_eq!(typed.code, 1, "{typed:?}");
    assert!(typed.stderr.contains("`t1` is already queued"), "{typed:?}");
    assert_eq!(posted.status(), 409);
    assert_eq!(mesh.count("TASKS").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_runs_is_refused() {
    let mesh = Mesh::start().await;
    let mut running = named("sleep", "t1");
    running.body = "10m".into();
    mesh.submit_task(&running).await;
    mesh.until(task(&running.id).running()).await;

    let error = mesh.client().submit(&running).await.unwrap_err();

    assert!(matches!(error, SubmitError::Duplicate(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_settled_is_not_run_again_and_gives_the_kept_result() {
    let (mesh, notes) = mesh_that_notes().await;
    let first = mesh.run_task(named("note", "t1")).await;
    // Until its message is gone, too, it counts as queued.
    mesh.until(tasks(0)).await;

    let again = mesh.client().call(named("note", "t1"), mesh_tests::mesh::PATIENCE).await.unwrap();
    mesh.until(tasks(0)).await;

    assert_eq!(again.body, first.body);
    assert_eq!(lines(&notes), 1);
    assert_eq!(mesh.count("RESULTS").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_settled_is_known_to_the_next_leader() {
    let (mut mesh, notes) = mesh_that_notes().await;
    let first = mesh.run_task(named("note", "t1")).await;
    mesh.until(tasks(0)).await;
    mesh.local().restart_coordinator(0).await.unwrap();
    mesh.leader().await;

    let again = mesh.client().call(named("note", "t1"), mesh_tests::mesh::PATIENCE).await.unwrap();

    assert_eq!(again.body, first.body);
    assert_eq!(lines(&notes), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_under_another_priority_or_kind_is_still_the_same_task() {
    let (mesh, notes) = mesh_that_notes().await;
    mesh.run_task(named("note", "t1")).await;

    let mut urgent = named("note", "t1");
    urgent.priority = shared::Priority::Urgent;
    mesh.run_task(urgent).await;
    mesh.run_task(named("echo", "t1")).await;
    mesh.until(tasks(0)).await;

    assert_eq!(lines(&notes), 1);
    assert_eq!(mesh.count("RESULTS").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_repeated_under_its_id_gets_the_kept_result() {
    let (mesh, notes) = mesh_that_notes().await;
    let nats = mesh.plain_client().await;

    let first = nats.request_with_headers("hive.call.note", with_id("t1"), "".into()).await.unwrap();
    mesh.until(tasks(0)).await;
    let again = nats.request_with_headers("hive.call.note", with_id("t1"), "".into()).await.unwrap();

    assert_eq!(again.payload, first.payload);
    assert_eq!(lines(&notes), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_that_is_published_twice_is_run_once() {
    let (mesh, notes) = mesh_that_notes().await;
    let jetstream = async_nats::jetstream::new(mesh.plain_client().await);

    for _ in 0..2 {
        let sent = jetstream.publish_with_headers("hive.task.note", with_id("t1"), "".into()).await.unwrap();
        sent.await.unwrap();
        mesh.wait(&TaskId::new("t1").unwrap()).await;
    }
    mesh.until(tasks(0)).await;

    assert_eq!(lines(&notes), 1);
}

/// A mesh whose kind `note` appends a line to a file for each run, and gives something that no other run would.
async fn mesh_that_notes() -> (Mesh, tempfile::NamedTempFile) {
    let notes = tempfile::NamedTempFile::new().unwrap();
    let handler =
        command_handler("note", &["sh", "-c", "echo \"$HIVE_TASK\" >> \"$NOTES\"; cat /proc/sys/kernel/random/uuid"]);
    let config = format!("{handler}{BUILTINS}");
    let mesh = Mesh::builder().agent_with_notes("ada", 4, &config, notes.path()).start().await;
    (mesh, notes)
}

fn lines(file: impl AsRef<Path>) -> usize {
    std::fs::read_to_string(file).unwrap().lines().count()
}

fn named(kind: &str, id: &str) -> NewTask {
    NewTask { id: TaskId::new(id).unwrap(), ..new_task(kind, "") }
}

fn with_id(id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    headers
}
