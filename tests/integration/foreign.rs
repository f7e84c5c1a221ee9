//! Clients that know nothing of the mesh but its subjects.

use std::path::Path;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use mesh_tests::{Mesh, native, python, tasks};
use shared::TaskId;

const TASKS: usize = 10_000;
/// Tasks of a client that submits one and ends.
const FEW_TASKS: usize = 100;
/// How many of such clients run at once.
const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tasks_of_a_python_client_give_ten_thousand_results() {
    let mesh = Mesh::start().await;

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/publish.py");
    let Some(printed) = python::run(&script, &[&mesh.nats_url(), &TASKS.to_string()]).await else { return };
    mesh.until(tasks(0)).await;

    let accepted: Vec<(TaskId, Bytes)> = printed.lines().map(read_line).collect();
    assert_eq!(accepted.len(), TASKS);
    assert_eq!(mesh.count("RESULTS").await, Ok(TASKS as u64));
    mesh.results().await.assert_echoed(&accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_c_prints_what_came_of_its_tasks() {
    let directory = tempfile::tempdir().unwrap();
    let Some(client) = native::compiled(directory.path()).await else { return };

    assert_gets_its_results(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_the_shell_prints_what_came_of_its_tasks() {
    assert_gets_its_results(&native::example("shell/submit.sh")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_the_shell_fails_with_a_task_that_does() {
    let mesh = Mesh::start().await;
    let run = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(native::example("shell/submit.sh"));
        command.args(args).env("NATS_URL", mesh.nats_url()).env_remove("HIVE_MESH").env_remove("NATS_USER");
        command.output().await.unwrap()
    };

    let failed = run(&["fail", "no such file"]).await;
    // That is no subject of a task, so nobody responds.
    let refused = run(&["echo.sometime", "body"]).await;
    let used_wrongly = run(&[]).await;

    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("no such file"), "{failed:?}");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("503"), "{refused:?}");
    assert_eq!(used_wrongly.status.code(), Some(2), "{used_wrongly:?}");
}

/// Every task of the client is done, and it prints the right bytes.
async fn assert_gets_its_results(client: &Path) {
    let mesh = Mesh::start().await;
    let url = mesh.nats_url();

    let bodies: Vec<Vec<u8>> = (0..FEW_TASKS).map(body).collect();
    let submitted = stream::iter(&bodies).map(|body| native::submit(client, &url, "echo", body));
    let printed: Vec<Vec<u8>> = submitted.buffered(CLIENTS).collect().await;
    mesh.until(tasks(0)).await;

    assert!(printed == bodies, "it printed something else than its tasks gave");
    assert_eq!(mesh.count("RESULTS").await, Ok(FEW_TASKS as u64));
}

/// Nothing, one byte, all bytes, some thousands of them.
fn body(number: usize) -> Vec<u8> {
    let length = [0, 1, 256, 5000][number % 4];
    (0..length).map(|i| (i + number) as u8).collect()
}

/// A task without an id has its sequence for one.
fn read_line(line: &str) -> (TaskId, Bytes) {
    let (sequence, number) = line.split_once(' ').unwrap();
    let number: usize = number.parse().unwrap();
    (TaskId::new(sequence).unwrap(), format!("{number:0256}").into())
}
