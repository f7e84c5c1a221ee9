//! Tasks end in time: by their deadline, their timeout, their attempts, or because somebody says so.

use std::time::Duration;

use mesh_tests::program::processes_of;
use mesh_tests::state::{dead_letters, that};
use mesh_tests::{BUILTINS, Mesh, command_handler, new_task, task, tasks};
use shared::client::{NewTask, TaskResult};
use shared::{Outcome, TaskId};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_past_its_deadline_expires() {
    let mesh = Mesh::builder().agent("ada", 1, BUILTINS).start().await;
    // More than the agent takes in advance.
    mesh.submit_all((0..4).map(|_| new_task("sleep", "10m"))).await;

    let late = mesh.run_task(with(new_task("sleep", "1ms"), &[("Hive-Deadline", "500ms")])).await;

    assert_eq!((late.outcome, late.attempts), (Outcome::Expired, 0));
    mesh.until(tasks(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_comes_past_its_deadline_expires() {
    let mesh = Mesh::start().await;

    let late = mesh.run_task(with(new_task("echo", ""), &[("Hive-Deadline", "2020-01-01T00:00:00Z")])).await;

    assert_eq!((late.outcome, late.attempts), (Outcome::Expired, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_too_long_is_tried_again_and_fails_in_the_end() {
    let mesh = Mesh::builder().agent("ada", 4, &command_handler("nap", &["sleep", "600"])).start().await;
    let headers = [("Hive-Timeout", "200ms"), ("Hive-Max-Attempts", "3"), ("Hive-Backoff", "10ms")];
    let nap = with(new_task("nap", "body"), &headers);
    let id = nap.id.clone();

    let result = mesh.run_task(nap).await;
    mesh.until(dead_letters(1)).await;

    assert_eq!((result.outcome, result.attempts), (Outcome::Failed, 3));
    assert!(result.error.unwrap().contains("ran longer than 200ms"));
    let letter = &mesh.read_stream("DEAD").await[0];
    assert_eq!((letter.subject.as_str(), letter.payload.as_ref()), ("hive.dead.nap", &b"body"[..]));
    assert_eq!(letter.headers.as_ref().unwrap().get("Hive-Attempts").unwrap().as_str(), "3");
    assert_eq!(processes_of(&id), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_once_is_tried_again_and_succeeds() {
    let notes = tempfile::NamedTempFile::new().unwrap();
    let script = "echo x >> \"$NOTES\"; test \"$HIVE_ATTEMPT\" -gt 1 || { echo not yet >&2; exit 7; }; cat";
    let config = command_handler("flaky", &["sh", "-c", script]);
    let mesh = Mesh::builder().agent_with_notes("ada", 4, &config, notes.path()).start().await;

    let result = mesh.run_task(with(new_task("flaky", "body"), &[("Hive-Backoff", "10ms")])).await;

    assert_eq!((result.outcome, result.attempts), (Outcome::Succeeded, 2));
    assert_eq!(result.body, "body");
    assert_eq!(std::fs::read_to_string(&notes).unwrap().lines().count(), 2);
    mesh.until(tasks(0)).await;
    assert_eq!(mesh.count("DEAD").await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_tells_its_exit_code_and_its_last_words() {
    let config = command_handler("bad", &["sh", "-c", "echo the disk is full >&2; exit 7"]);
    let mesh = Mesh::builder().agent("ada", 4, &config).start().await;

    let result = mesh.run_task(with(new_task("bad", ""), &[("Hive-Max-Attempts", "1")])).await;

    assert_eq!(result.outcome, Outcome::Failed);
    assert_eq!(result.error.as_deref(), Some("exit code 7: the disk is full"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_takes_agents_down_is_dead_before_it_takes_them_all() {
    let config = format!("{}{BUILTINS}", command_handler("poison", &["sh", "-c", "kill -9 $PPID; sleep 600"]));
    let ids = ["ada", "bob", "cid", "dan"];
    let mesh = ids.into_iter().fold(Mesh::builder(), |mesh, id| mesh.agent(id, 2, &config)).start().await;

    let result = mesh.run("poison", "").await;

    assert_eq!(result.outcome, Outcome::Dead);
    assert!(result.error.as_ref().unwrap().contains("3 agents were lost"), "{result:?}");
    assert_eq!(mesh.run("echo", "still here").await.body, "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_task_can_be_cancelled() {
    let mesh = Mesh::start().await;
    let id = mesh.submit("resize", "").await;
    mesh.until(task(&id).queued()).await;

    let result = cancel(&mesh, &id).await;

    assert_eq!((result.outcome, result.attempts), (Outcome::Cancelled, 0));
    mesh.until(tasks(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_task_can_be_cancelled() {
    let mesh = Mesh::start().await;
    let picky = with(new_task("echo", ""), &[("Hive-Needs", "gpu")]);
    mesh.submit_task(&picky).await;
    mesh.until(task(&picky.id).waiting()).await;

    let result = cancel(&mesh, &picky.id).await;

    assert_eq!((result.outcome, result.attempts), (Outcome::Cancelled, 0));
    mesh.until(tasks(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_can_be_cancelled_and_leaves_no_process() {
    let script = "sleep 600 & sleep 600";
    let mesh = Mesh::builder().agent("ada", 4, &command_handler("nap", &["sh", "-c", script])).start().await;
    let id = mesh.submit("nap", "").await;
    mesh.until(that("that three processes run for it", async |_: &Mesh| match processes_of(&id).len() {
        3 => Ok(()),
        count => Err(format!("{count} of them")),
    }))
    .await;

    let result = cancel(&mesh, &id).await;

    assert_eq!((result.outcome, result.attempts), (Outcome::Cancelled, 1));
    assert_eq!(processes_of(&id), [""; 0]);
    mesh.until(tasks(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_nobody_knows_cannot_be_cancelled() {
    let mesh = Mesh::start().await;

    let output = mesh.cli(&["tasks", "cancel", "nobody"]).await;

    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("there is no task `nobody`"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_no_process_behind() {
    let mesh = Mesh::builder().agent("ada", 4, &command_handler("nap", &["sleep", "600"])).start().await;
    let id = mesh.submit("nap", "").await;
    let one_process = async |_: &Mesh| if processes_of(&id).len() == 1 { Ok(()) } else { Err(String::new()) };
    mesh.until(that("that its process runs", one_process)).await;

    mesh.agent("ada").kill().await;

    let none = async |_: &Mesh| if processes_of(&id).is_empty() { Ok(()) } else { Err(String::new()) };
    mesh.within(Duration::from_secs(2), that("that its process is gone", none)).await;
}

/// Cancels by the command line; what the task came to.
async fn cancel(mesh: &Mesh, id: &TaskId) -> TaskResult {
    mesh.cli(&["tasks", "cancel", id.as_str()]).await.succeeded();
    mesh.wait(id).await
}

fn with(task: NewTask, headers: &[(&str, &str)]) -> NewTask {
    headers.iter().fold(task, |task, (name, value)| task.header(name, value).unwrap())
}
