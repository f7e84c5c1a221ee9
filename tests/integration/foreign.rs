//! Clients that know nothing of the mesh but its subjects.

use std::path::Path;

use bytes::Bytes;
use mesh_tests::{Mesh, python, tasks};
use shared::TaskId;

const TASKS: usize = 10_000;

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

/// A task without an id has its sequence for one.
fn read_line(line: &str) -> (TaskId, Bytes) {
    let (sequence, number) = line.split_once(' ').unwrap();
    let number: usize = number.parse().unwrap();
    (TaskId::new(sequence).unwrap(), format!("{number:0256}").into())
}
