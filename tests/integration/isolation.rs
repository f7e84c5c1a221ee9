//! What cannot be done, or is slow, does not hold up what can.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use mesh_tests::{BUILTINS, Mesh, new_task, results, state, tasks};
use shared::client::NewTask;

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_nobody_can_do_waits_and_holds_up_nobody() {
    let mut mesh = Mesh::start().await;
    mesh.submit_all((0..5_000).map(|i| new_task("resize", i.to_string()))).await;

    mesh.submit_all((0..500).map(|i| new_task("echo", i.to_string()))).await;
    mesh.until(tasks(5_000)).await;
    mesh.add_agent("dan", 4, "[[handler]]\nkind = \"resize\"\nbuiltin = \"echo\"\n");
    mesh.until(tasks(0)).await;

    let results = mesh.results().await;
    assert!(results.0[..500].iter().all(|result| result.kind == "echo"), "something was held up");
    assert_eq!(results.of_kind("resize").0.len(), 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_slow_does_not_hold_up_those_that_share_its_agents_lane() {
    let slow = "[[handler]]\nkind = \"slow\"\nbuiltin = \"sleep\"\n";
    let mesh = Mesh::builder().agent("ada", 1, slow).agent("bob", 4, BUILTINS).start().await;
    mesh.submit_all((0..1_000).map(|_| new_task("slow", "10m"))).await;

    let started = Instant::now();
    mesh.submit_all((0..500).map(|i| new_task("echo", i.to_string()))).await;
    mesh.until(results(500)).await;

    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    mesh.until(tasks(1_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_kinds_thirty_busy_ones_all_get_done_beside_a_stuck_one() {
    let kinds = many_kinds(200);
    let stuck = "[[handler]]\nkind = \"stuck\"\nbuiltin = \"sleep\"\n";
    let mesh = Mesh::builder().agent("ada", 4, &kinds).agent("bob", 4, &kinds).agent("cid", 1, stuck).start().await;
    mesh.submit_all((0..1_000).map(|_| new_task("stuck", "10m"))).await;

    let busy = |i: usize| new_task(&format!("kind-{}", i % 30), i.to_string());
    let sent: Vec<NewTask> = (0..3_000).map(busy).collect();
    let expected: Vec<_> = sent.iter().map(|task| (task.id.clone(), task.body.clone())).collect();
    mesh.submit_all(sent).await;
    mesh.until(tasks(1_000)).await;

    mesh.results().await.assert_echoed(&expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_need_what_no_agent_has_do_not_hold_up_the_rest_of_their_kind() {
    let mesh = Mesh::start().await;
    let picky = |i: usize| new_task("echo", i.to_string()).header("Hive-Needs", "gpu=a100").unwrap();
    mesh.submit_all((0..5_000).map(picky)).await;

    mesh.submit_all((0..100).map(|i| new_task("echo", i.to_string()))).await;
    mesh.until(tasks(5_000)).await;

    assert_eq!(mesh.count("RESULTS").await, Ok(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_says_why() {
    let mesh = Mesh::start().await;
    let picky = new_task("echo", "").header("Hive-Needs", "gpu=a100").unwrap();
    mesh.submit_task(&picky).await;
    let unknown = mesh.submit("resize", "").await;

    let waits = mesh.until(state::task(&picky.id).waiting()).await;
    let queued = mesh.until(state::task(&unknown).queued()).await;

    assert!(waits.reason.as_ref().is_some_and(|reason| reason.contains("gpu=a100")), "{waits:?}");
    assert!(queued.reason.as_ref().is_some_and(|reason| reason.contains("kind")), "{queued:?}");
}

/// The settings of an agent that echoes tasks of so many kinds.
fn many_kinds(count: usize) -> String {
    (0..count).fold(String::new(), |mut settings, i| {
        writeln!(settings, "[[handler]]\nkind = \"kind-{i}\"\nbuiltin = \"echo\"\n").unwrap();
        settings
    })
}
