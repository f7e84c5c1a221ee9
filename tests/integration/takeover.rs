//! Another coordinator takes over, and what runs goes on.

use std::time::{Duration, Instant};

use mesh_tests::state::that;
use mesh_tests::{BUILTINS, Mesh, State, command_handler, mesh, new_task, task, tasks};
use nix::sys::signal::Signal;
use shared::Outcome;

/// How long a task may take that is submitted when the leader goes.
const TAKEOVER: Duration = Duration::from_secs(2);
/// Fewer than there are slots, and enough for a restart to go elsewhere.
const LONG_TASKS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_end_hands_over() {
    let took = takeover_by(Signal::SIGTERM).await;

    assert!(took < TAKEOVER, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_crashes_is_replaced() {
    let took = takeover_by(Signal::SIGKILL).await;

    assert!(took < TAKEOVER, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_is_replaced_and_does_no_harm_when_it_wakes() {
    let mesh = two_coordinators().await;
    let old = mesh.leader().await;
    let (old_epoch, already_done) = (epoch(&mesh).await, mesh.count("RESULTS").await.unwrap());

    mesh.coordinator(old).pause();
    assert_eq!(mesh.run("echo", "hello").await.body, "hello");
    mesh.coordinator(old).resume();
    mesh.submit_all((0..500).map(|i| new_task("echo", i.to_string()))).await;
    mesh.until(tasks(0)).await;

    assert!(epoch(&mesh).await > old_epoch);
    let results = mesh.results().await;
    assert_eq!(results.0.len() as u64, already_done + 501);
    assert!(results.0.iter().all(|result| result.attempts == 1), "something was started twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_when_the_leader_crashes_is_adopted_and_not_restarted() {
    let (mesh, notes) = mesh_with_long_tasks().await;
    mesh.submit_all((0..LONG_TASKS).map(|_| new_task("long", "body"))).await;
    mesh.until(started(&notes)).await;

    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();
    mesh.until(tasks(0)).await;

    assert_each_ran_once(&mesh, &notes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_when_the_only_coordinator_restarts_is_adopted_and_not_restarted() {
    let (mut mesh, notes) = mesh_with_long_tasks().await;
    mesh.coordinator(1).kill9();
    mesh.leader().await;
    mesh.submit_all((0..LONG_TASKS).map(|_| new_task("long", "body"))).await;
    mesh.until(started(&notes)).await;

    mesh.coordinator(0).kill9();
    mesh.local().restart_coordinator(0).await.unwrap();
    mesh.until(tasks(0)).await;

    assert_each_ran_once(&mesh, &notes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_well_though_its_agent_and_the_leader_die_together() {
    let (mesh, notes) = mesh_with_long_tasks().await;
    let long = mesh.submit("long", "body").await;
    let agent = mesh.until(task(&long).running()).await.agent.unwrap();
    let has_begun = async |_: &Mesh| if runs(&notes) == 1 { Ok(()) } else { Err("it has not".to_owned()) };
    mesh.until(that("that the program has begun", has_begun)).await;

    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();
    mesh.agent(&agent).kill().await;
    let result = mesh.wait(&long).await;

    assert_eq!((result.outcome, result.body.as_ref()), (Outcome::Succeeded, &b"body"[..]));
    assert_ne!(result.agent, Some(agent));
    assert_eq!(runs(&notes), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_stays_cancelled_across_a_takeover() {
    let mesh = two_coordinators().await;
    let waiting = mesh.submit("resize", "").await;
    let leader = mesh.leader().await;

    mesh.coordinator(leader).kill9();
    mesh.leader().await;
    mesh.cli(&["tasks", "cancel", waiting.as_str()]).await.succeeded();

    assert_eq!(mesh.wait(&waiting).await.outcome, Outcome::Cancelled);
    mesh.until(tasks(0)).await;
}

/// Ends the leader in this way and submits a task at once; how long that one takes.
async fn takeover_by(end: Signal) -> Duration {
    let mesh = two_coordinators().await;
    let leader = mesh.leader().await;
    mesh::signal(mesh.coordinator(leader), end);
    let started = Instant::now();
    let result = mesh.run("echo", "hello").await;
    let took = started.elapsed();
    mesh.coordinator(leader).wait().await;
    assert_eq!(result.body, "hello");
    assert_ne!(mesh.leader().await, leader);
    println!("took {took:?}");
    took
}

async fn two_coordinators() -> Mesh {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 4, BUILTINS).agent("bob", 4, BUILTINS).start().await;
    assert_eq!(mesh.run("echo", "").await.outcome, Outcome::Succeeded);
    mesh
}

/// Two coordinators, and two agents whose kind `long` takes three seconds and notes each run.
async fn mesh_with_long_tasks() -> (Mesh, tempfile::NamedTempFile) {
    let notes = tempfile::NamedTempFile::new().unwrap();
    let long = command_handler("long", &["sh", "-c", "echo run >> \"$NOTES\"; sleep 3; cat"]);
    let mesh = Mesh::builder().coordinators(2);
    let mesh = mesh.agent_with_notes("ada", 4, &long, notes.path()).agent_with_notes("bob", 4, &long, notes.path());
    (mesh.start().await, notes)
}

/// How often a command has noted that it runs.
fn runs(notes: &tempfile::NamedTempFile) -> usize {
    std::fs::read_to_string(notes).unwrap().lines().count()
}

/// All of the long tasks have been started.
fn started(notes: &tempfile::NamedTempFile) -> impl State<Reached = ()> {
    that("that all run", async move |_: &Mesh| match runs(notes) {
        LONG_TASKS => Ok(()),
        count => Err(format!("{count} do")),
    })
}

async fn assert_each_ran_once(mesh: &Mesh, notes: &tempfile::NamedTempFile) {
    let results = mesh.results().await;
    assert_eq!(results.0.len(), LONG_TASKS);
    for result in &results.0 {
        assert_eq!((result.outcome, result.attempts), (Outcome::Succeeded, 1), "{result:?}");
        assert_eq!(result.body, "body");
    }
    assert_eq!(runs(notes), LONG_TASKS, "something was started again");
}

async fn epoch(mesh: &Mesh) -> u64 {
    let status = mesh.ask("mesh", "status", serde_json::json!({})).await.unwrap();
    status["epoch"].as_u64().unwrap()
}
