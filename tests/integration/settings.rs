//! What is said of kinds and tenants while the mesh runs holds at once, and is kept.

use futures_util::future::join_all;
use mesh_tests::state::that;
use mesh_tests::{BUILTINS, Mesh, State, new_task, queue, results};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use shared::TaskId;
use shared::api::{List, Tenant};
use shared::client::NewTask;

/// Tasks of both tenants together: no more than the coordinator keeps at hand, so that it can choose among all of them.
const BACKLOG: usize = 120;
/// Those of them that are done before a weight is changed.
const BEFORE: usize = 10;
/// Those that are with the agent when it is changed, or in the order in which they were to go.
const UNDER_WAY: usize = 4;
/// Those that are looked at afterwards.
const AFTER: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn how_many_of_a_kind_run_at_once_is_changed_while_it_runs() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;
    set(&mesh, "max-running", 1).await;
    mesh.submit_all(long_tasks(6)).await;
    mesh.until(queue("sleep").has(1, 5)).await;

    set(&mesh, "max-running", 3).await;

    mesh.until(queue("sleep").has(3, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_placed_by_another_strategy_as_soon_as_that_is_said() {
    let config = "[kinds.sleep]\nstrategy = \"least-connections\"\nmax-running = 2\n";
    let mesh = Mesh::builder().config(config).agent("ada", 4, BUILTINS).agent("bob", 4, BUILTINS).start().await;
    mesh.submit_all(long_tasks(6)).await;
    mesh.until(queue("sleep").has(2, 4)).await;
    assert_eq!(held(&mesh).await, [1, 1]);

    set(&mesh, "strategy", "bin-pack").await;
    set(&mesh, "max-running", 5).await;
    mesh.until(queue("sleep").has(5, 1)).await;

    let mut held = held(&mesh).await;
    held.sort_unstable();
    assert_eq!(held, [1, 4], "one agent is filled before the other gets more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_goes_before_the_configuration_until_it_is_taken_back() {
    let config = "[kinds.sleep]\nmax-running = 2\n";
    let mesh = Mesh::builder().config(config).agent("ada", 4, BUILTINS).start().await;
    set(&mesh, "max-running", 1).await;
    mesh.submit_all(long_tasks(4)).await;
    mesh.until(queue("sleep").has(1, 3)).await;

    change(&mesh, "queue", "sleep", &json!({ "max-running": null })).await.unwrap();

    mesh.until(queue("sleep").has(2, 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_at_the_same_time_none_gets_lost() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;
    let said = json!({ "max-running": 7, "max-attempts": 5, "retry-share": 0.5, "rate": "9/s", "timeout": "9s", "strategy": "weighted" });
    let changes = said.as_object().unwrap().iter().map(|(name, value)| json!({ name: value }));
    let changes: Vec<Value> = changes.collect();

    let changed = join_all(changes.iter().map(|settings| change(&mesh, "queue", "sleep", settings))).await;

    assert!(changed.iter().all(Result::is_ok), "{changed:?}");
    for (name, value) in said.as_object().unwrap() {
        mesh.until(goes_by(name, value)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_outlives_the_leader() {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 4, BUILTINS).start().await;
    set(&mesh, "max-running", 1).await;
    mesh.submit_all(long_tasks(3)).await;
    mesh.until(queue("sleep").has(1, 2)).await;

    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();

    assert_one_of_three_runs(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_outlives_the_only_coordinator() {
    let mut mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;
    set(&mesh, "max-running", 1).await;
    mesh.submit_all(long_tasks(3)).await;
    mesh.until(queue("sleep").has(1, 2)).await;

    mesh.coordinator(0).kill9();
    mesh.local().restart_coordinator(0).await.unwrap();

    assert_one_of_three_runs(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_setting_is_refused_in_words_and_changes_nothing() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;
    set(&mesh, "max-running", 2).await;
    let before = mesh.look_at_queue("sleep").await.unwrap().settings;

    for (settings, why) in [
        (json!({ "strategie": "weighted" }), "unknown field `strategie`"),
        (json!({ "strategy": "best" }), "unknown variant `best`"),
        (json!({ "max-running": 0 }), "write 1 or more"),
        (json!({ "max-attempts": 7, "rate": "fast" }), "write `100/s`"),
        (json!("weighted"), "a JSON object"),
    ] {
        let refused = change(&mesh, "queue", "sleep", &settings).await.unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    let over_http = patch(&mesh, "/v1/queues/sleep", &json!({ "strategy": "best" })).await;
    let at_a_prompt = mesh.cli(&["queues", "set", "sleep", "strategy=best"]).await;

    assert_eq!(over_http.status(), StatusCode::BAD_REQUEST);
    assert!(over_http.text().await.unwrap().contains("unknown variant `best`"));
    assert_eq!(at_a_prompt.code, 1, "{at_a_prompt:?}");
    assert!(at_a_prompt.stderr.contains("unknown variant `best`"), "{at_a_prompt:?}");
    // Settings come in the order in which they were kept: after this one, none of those before can come.
    set(&mesh, "max-running", 3).await;
    let mut expected = before;
    expected["max-running"] = json!(3);
    assert_eq!(mesh.look_at_queue("sleep").await.unwrap().settings, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_weight_of_a_tenant_holds_for_what_waits_already() {
    let share = share_of_acme_after(async |mesh: &Mesh| {
        change(mesh, "tenant", "acme", &json!({ "weight": 9 })).await.unwrap();
    })
    .await;

    assert!(share >= 0.7, "nine times the weight got {share:.2} of what was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_weight_of_a_tenant_is_changed_over_http() {
    let share = share_of_acme_after(async |mesh: &Mesh| {
        let answer = patch(mesh, "/v1/tenants/acme", &json!({ "weight": 9 })).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.text().await.unwrap(), r#"{"weight":9}"#);
    })
    .await;

    assert!(share >= 0.7, "nine times the weight got {share:.2} of what was done");
}

/// The share of one of two tenants in what is done next, after this has given it a weight of nine.
async fn share_of_acme_after(change: impl AsyncFnOnce(&Mesh)) -> f64 {
    let mesh = Mesh::builder().agent("ada", 2, BUILTINS).start().await;
    mesh.submit_all((0..BACKLOG).map(task_of_a_tenant)).await;
    mesh.until(results(BEFORE as u64)).await;

    change(&mesh).await;
    mesh.until(weighs("acme", 9.0)).await;
    let next = mesh.count("RESULTS").await.unwrap() as usize + UNDER_WAY;
    mesh.until(results((next + AFTER) as u64)).await;

    let done = mesh.results().await.0;
    let of_acme = done[next..next + AFTER].iter().filter(|result| result.id.as_str().starts_with("acme")).count();
    of_acme as f64 / AFTER as f64
}

/// Tasks of two tenants by turns, each with an id that says whose it is.
fn task_of_a_tenant(number: usize) -> NewTask {
    let tenant = ["acme", "zeta"][number % 2];
    let id = TaskId::new(format!("{tenant}-{number}")).unwrap();
    NewTask { id, ..new_task("sleep", "50ms") }.header("Hive-Tenant", tenant).unwrap()
}

fn weighs(tenant: &str, weight: f64) -> impl State<Reached = ()> {
    that("that the tenant has another weight", async move |mesh: &Mesh| {
        let answer = mesh.ask("tenant", "list", json!({})).await?;
        let tenants: List<Tenant> = serde_json::from_value(answer).map_err(|error| error.to_string())?;
        let found = tenants.items.iter().find(|item| item.name == tenant).map(|item| item.weight);
        if found == Some(weight) { Ok(()) } else { Err(format!("{tenants:?}")) }
    })
}

/// Checks that whoever leads now lets one of three tasks run, as it was said before, and has begun to place.
async fn assert_one_of_three_runs(mesh: &Mesh) {
    mesh.leader().await;
    assert_eq!(mesh.run("echo", "hello").await.body, "hello");
    mesh.until(queue("sleep").has(1, 2)).await;
    mesh.until(goes_by("max-running", &json!(1))).await;
}

fn long_tasks(count: usize) -> impl Iterator<Item = NewTask> {
    (0..count).map(|_| new_task("sleep", "10m"))
}

/// How many attempts each agent has, by the agents' ids.
async fn held(mesh: &Mesh) -> Vec<u32> {
    mesh.look_at_agents().await.unwrap().iter().map(|agent| agent.running + agent.queued).collect()
}

/// Says something of the kind `sleep`, and waits until it holds.
async fn set(mesh: &Mesh, name: &str, value: impl Into<Value>) {
    let value = value.into();
    change(mesh, "queue", "sleep", &json!({ name: value })).await.unwrap();
    mesh.until(goes_by(name, &value)).await;
}

async fn change(mesh: &Mesh, noun: &str, id: &str, settings: &Value) -> Result<Value, String> {
    mesh.ask(noun, "set", json!({ "id": id, "settings": settings })).await
}

/// This setting holds for the kind `sleep`.
fn goes_by(name: &str, value: &Value) -> impl State<Reached = ()> {
    that(&format!("that `{name}` is {value}"), async move |mesh: &Mesh| {
        let settings = mesh.look_at_queue("sleep").await?.settings;
        if settings[name] == *value { Ok(()) } else { Err(settings.to_string()) }
    })
}

async fn patch(mesh: &Mesh, path: &str, change: &Value) -> Response {
    let request = reqwest::Client::new().patch(format!("{}{path}", mesh.http())).body(change.to_string());
    request.send().await.unwrap()
}
