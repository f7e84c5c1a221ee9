//! Why a task is where it is: the same answer over NATS, over HTTP and at a prompt, and a true one. When what it names is
//! removed, the task goes on.

use mesh_tests::{BUILTINS, Mesh, new_task, task};
use serde_json::{Value, json};
use shared::TaskId;
use shared::api::Explanation;
use shared::client::NewTask;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_labels_nobody_has_says_so_until_somebody_comes_who_has_them() {
    let mut mesh = Mesh::builder().agent("ada", 4, BUILTINS).agent("bob", 4, BUILTINS).start().await;
    let picky = with("Hive-Needs", "gpu=a100");
    mesh.submit_task(&picky).await;
    mesh.until(task(&picky.id).waiting()).await;

    let why = why(&mesh, &picky.id).await;

    assert_eq!(removed(&why), [("labels", 2)]);
    assert_eq!(why.agents, 2);
    assert!(why.filters[0].detail.contains("`gpu=a100`"), "{why:?}");
    let nearest = why.nearest.unwrap();
    assert!(["ada", "bob"].contains(&nearest.agent.as_str()), "{nearest:?}");
    assert_eq!(nearest.filter, "labels");
    mesh.add_agent("cid", 4, &offering("labels = { gpu = \"a100\" }"));
    mesh.until(task(&picky.id).running_on("cid")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_too_big_for_everybody_says_so_until_somebody_comes_who_is_larger() {
    let mesh = Mesh::builder().agent("ada", 4, &offering("memory = \"1Gi\""));
    let mut mesh = mesh.agent("bob", 4, &offering("memory = \"2Gi\"")).start().await;
    let big = with("Hive-Memory", "3Gi");
    mesh.submit_task(&big).await;
    mesh.until(task(&big.id).waiting()).await;

    let why = why(&mesh, &big.id).await;

    assert_eq!(removed(&why), [("size", 2)]);
    let nearest = why.nearest.unwrap();
    assert_eq!((nearest.agent.as_str(), nearest.filter.as_str()), ("bob", "size"), "it lacks the least");
    assert!(nearest.detail.contains("2 GiB"), "{nearest:?}");
    mesh.add_agent("cid", 4, &offering("memory = \"4Gi\""));
    mesh.until(task(&big.id).running_on("cid")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_a_limit_holds_names_the_limit_until_there_is_room_below_it() {
    let config = "[kinds.sleep]\nmax-running = 1\n";
    let mesh = Mesh::builder().config(config).agent("ada", 4, BUILTINS).start().await;
    let first = mesh.submit("sleep", "10m").await;
    mesh.until(task(&first).running()).await;
    let second = mesh.submit("sleep", "10m").await;
    mesh.until(task(&second).waiting()).await;

    let why = why(&mesh, &second).await;

    assert_eq!(removed(&why), [("", 0); 0], "the agent has free slots");
    let limit = why.limit.unwrap();
    assert!(limit.contains("`sleep`") && limit.contains("`max-running` of the kind"), "{limit}");
    assert_eq!(why.summary, limit);
    mesh.cli(&["tasks", "cancel", first.as_str()]).await.succeeded();
    mesh.until(task(&second).running()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_says_why_its_agent_was_chosen_and_who_would_have_been_next() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).agent("bob", 4, BUILTINS).start().await;
    let id = mesh.submit("sleep", "10m").await;
    let agent = mesh.until(task(&id).running()).await.agent.unwrap();

    let why = why(&mesh, &id).await;

    let chosen = why.chosen.unwrap();
    assert_eq!((chosen.agent.as_str(), chosen.strategy.as_str()), (agent.as_str(), "least-connections"));
    assert!(chosen.had_free_slot, "{chosen:?}");
    let runner_up = chosen.runner_up.unwrap();
    assert!(["ada", "bob"].contains(&runner_up.agent.as_str()), "{runner_up:?}");
    assert_ne!(runner_up.agent, agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_why_a_task_waits_that_is_not_there() {
    let mesh = Mesh::builder().start().await;

    let by_nats = mesh.ask("task", "why", json!({ "id": "nobody" })).await.unwrap_err();
    let over_http = reqwest::get(format!("{}/v1/tasks/nobody/why", mesh.http())).await.unwrap();
    let at_a_prompt = mesh.cli(&["tasks", "why", "nobody"]).await;

    assert!(by_nats.contains("there is no task `nobody`"), "{by_nats}");
    assert_eq!(over_http.status(), reqwest::StatusCode::NOT_FOUND);
    assert_eq!(at_a_prompt.code, 1, "{at_a_prompt:?}");
}

/// Why the task is where it is, after checking that everybody is told the same.
async fn why(mesh: &Mesh, id: &TaskId) -> Explanation {
    // A leader that has just begun says that, and nothing else, until it places.
    mesh.run("echo", "").await;
    let by_nats = mesh.ask("task", "why", json!({ "id": id })).await.unwrap();
    let over_http = reqwest::get(format!("{}/v1/tasks/{id}/why", mesh.http())).await.unwrap().text().await.unwrap();
    let over_http: Value = serde_json::from_str(&over_http).unwrap();
    let at_a_prompt = mesh.cli(&["tasks", "why", id.as_str(), "--json"]).await.succeeded().json();
    assert_eq!(timeless(over_http), timeless(by_nats.clone()));
    assert_eq!(timeless(at_a_prompt), timeless(by_nats.clone()));
    serde_json::from_value(by_nats).unwrap()
}

/// An explanation without what changes from one moment to the next.
fn timeless(mut why: Value) -> Value {
    why.as_object_mut().unwrap().remove("starts_in_ms");
    why
}

/// The filters that removed agents, and how many each did.
fn removed(why: &Explanation) -> Vec<(&str, u32)> {
    why.filters.iter().map(|step| (step.filter.as_str(), step.removed)).collect()
}

/// A long task with a header.
fn with(header: &str, value: &str) -> NewTask {
    new_task("sleep", "10m").header(header, value).unwrap()
}

/// The settings of an agent that offers this.
fn offering(what: &str) -> String {
    format!("[agent]\n{what}\n{BUILTINS}")
}
