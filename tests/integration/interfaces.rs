//! HTTP and the command line.

use mesh_tests::state::that;
use mesh_tests::{Mesh, task, tasks};
use reqwest::{Response, StatusCode};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_are_told() {
    let mesh = Mesh::start().await;

    let health = get(&mesh, "/healthz").await;
    let ready = get(&mesh, "/readyz").await;

    assert_eq!(health.status(), StatusCode::OK);
    assert_eq!(ready.status(), StatusCode::OK);
    assert!(ready.text().await.unwrap().starts_with("leading in epoch "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_without_its_broker_is_not_ready() {
    let mut mesh = Mesh::start().await;

    mesh.local().broker().kill9().await;
    let not_ready = async |mesh: &Mesh| match get(mesh, "/readyz").await.status() {
        StatusCode::SERVICE_UNAVAILABLE => Ok(()),
        status => Err(status.to_string()),
    };
    mesh.until(that("that it is not ready", not_ready)).await;
    let health = get(&mesh, "/healthz").await.status();
    mesh.local().broker_mut().restart().await.unwrap();

    assert_eq!(health, StatusCode::OK);
    mesh.leader().await;
    assert_eq!(mesh.run("echo", "hello").await.body, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_listed_with_their_states() {
    let mesh = Mesh::start().await;

    let list = json(get(&mesh, "/v1/agents").await).await;

    let items = list["items"].as_array().unwrap();
    let ids: Vec<&str> = items.iter().filter_map(|agent| agent["id"].as_str()).collect();
    assert_eq!(ids.len(), 3, "{list}");
    for agent in items {
        assert_eq!(agent["state"], "healthy", "{agent}");
        assert_eq!((agent["slots"].as_u64(), agent["running"].as_u64()), (Some(4), Some(0)), "{agent}");
        assert_eq!(agent["kinds"], serde_json::json!(["echo", "fail", "sleep"]), "{agent}");
    }
    assert_eq!(json(get(&mesh, "/v1/agents/ada").await).await["id"], "ada");
    assert_eq!(get(&mesh, "/v1/agents/nobody").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_submitted_over_http_and_waited_for() {
    let mesh = Mesh::start().await;

    let answer = post(&mesh, "/v1/tasks/echo?wait=10s", "hello").await;

    assert_eq!(answer.status(), StatusCode::OK);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((header("hive-outcome"), header("hive-attempts")), ("succeeded".to_owned(), "1".to_owned()));
    assert_eq!(answer.text().await.unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_submitted_over_http_and_looked_up() {
    let mesh = Mesh::start().await;

    let accepted = post(&mesh, "/v1/tasks/echo?id=t1&priority=high", "hello").await;
    let status = accepted.status();
    let id = json(accepted).await["id"].as_str().unwrap().to_owned();
    mesh.until(task(&id.parse().unwrap()).settled()).await;
    let seen = json(get(&mesh, "/v1/tasks/t1").await).await;
    let body = get(&mesh, "/v1/tasks/t1?result=true").await.text().await.unwrap();

    assert_eq!((status, id.as_str(), body.as_str()), (StatusCode::ACCEPTED, "t1", "hello"));
    assert_eq!(
        (&seen["state"], &seen["outcome"], &seen["kind"]),
        (&"settled".into(), &"succeeded".into(), &"echo".into())
    );
    assert_eq!(get(&mesh, "/v1/tasks/nobody").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_task_are_given_over_http() {
    let mesh = Mesh::start().await;
    let request = reqwest::Client::new().post(format!("{}/v1/tasks/fail?wait=10s", mesh.http())).body("no luck");

    let answer = request.header("Hive-Max-Attempts", "1").send().await.unwrap();
    let refused = reqwest::Client::new().post(format!("{}/v1/tasks/echo", mesh.http()));
    let refused = refused.header("Hive-Timeout", "soon").send().await.unwrap();

    assert_eq!(answer.headers()["hive-outcome"], "failed");
    assert_eq!(answer.headers()["hive-error"], "no luck");
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(refused.text().await.unwrap().contains("Hive-Timeout"));
    assert_eq!(mesh.count("TASKS").await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_answers_over_http_too() {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 4, mesh_tests::BUILTINS).start().await;
    let leader = mesh.leader().await;
    let standby = format!("http://{}", mesh.http_address(1 - leader));

    let answer = reqwest::Client::new().post(format!("{standby}/v1/tasks/echo?wait=10s")).body("hello").send().await;
    let agents = json(reqwest::get(format!("{standby}/v1/agents")).await.unwrap()).await;

    assert_eq!(answer.unwrap().text().await.unwrap(), "hello");
    assert_eq!(agents["items"].as_array().unwrap().len(), 1, "{agents}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_submitted_and_called_from_a_shell() {
    let mesh = Mesh::start().await;

    let submitted = mesh.cli(&["submit", "echo", "hello", "--wait"]).await.succeeded();
    let called = mesh.cli(&["call", "echo", "hello", "--json"]).await.succeeded();
    let failed = mesh.cli(&["submit", "fail", "no luck", "--wait", "--max-attempts", "1"]).await;
    let impatient = mesh.cli(&["submit", "sleep", "10m", "--wait", "--wait-timeout", "200ms"]).await;

    assert_eq!(submitted.stdout, "hello");
    assert_eq!((&called.json()["body"], &called.json()["outcome"]), (&"hello".into(), &"succeeded".into()));
    assert_eq!(failed.code, 1);
    assert!(failed.stderr.contains("no luck"), "{failed:?}");
    assert_eq!(impatient.code, 4, "{impatient:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_are_submitted_and_waited_for_from_a_shell() {
    let mesh = Mesh::start().await;

    let many = mesh.cli(&["submit", "echo", "hello", "--count", "100", "--wait", "--json"]).await.succeeded();

    let lines: Vec<Value> = many.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 100);
    assert!(lines.iter().all(|line| line["body"] == "hello"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_agents_and_queues_are_looked_at_from_a_shell() {
    let mesh = Mesh::start().await;
    let id = mesh.submit("sleep", "10m").await;
    mesh.until(task(&id).running()).await;
    mesh.submit("resize", "").await;

    let got = mesh.cli(&["tasks", "get", id.as_str(), "--json"]).await.succeeded().json();
    let listed = mesh.cli(&["tasks", "list", "--json"]).await.succeeded().json();
    let agents = mesh.cli(&["agents", "list", "--json"]).await.succeeded().json();
    let queues = mesh.cli(&["queues", "list", "--json"]).await.succeeded().json();
    let table = mesh.cli(&["agents", "list"]).await.succeeded().stdout;

    assert_eq!((&got["id"], &got["state"]), (&id.as_str().into(), &"running".into()));
    assert_eq!(listed["items"][0]["id"], id.as_str());
    assert_eq!(agents["items"].as_array().unwrap().len(), 3);
    let resize = queues["items"].as_array().unwrap().iter().find(|queue| queue["kind"] == "resize").unwrap();
    assert_eq!((resize["stored"].as_u64(), resize["agents"].as_u64()), (Some(1), Some(0)), "{resize}");
    assert!(["ada", "bob", "cid", "healthy"].iter().all(|word| table.contains(word)), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_as_events() {
    let mesh = Mesh::start().await;
    let id = mesh.submit("sleep", "1s").await;
    let running = mesh.until(task(&id).running()).await;
    let lost = running.agent.unwrap();

    mesh.agent(&lost).kill().await;
    let result = mesh.wait(&id).await;
    mesh.until(tasks(0)).await;
    let events = mesh.cli(&["events", "--json"]).await.succeeded();

    let events: Vec<Value> = events.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |topic: &str, what: &str| events.iter().find(|e| e["topic"] == topic && e["what"] == what).cloned();
    assert_eq!(result.attempts, 2);
    assert_eq!(told("agent", "lost").unwrap()["agent"], lost.as_str(), "{events:?}");
    assert_eq!(told("task", "reassigned").unwrap()["task"], id.as_str(), "{events:?}");
    assert!(told("mesh", "led").is_some(), "{events:?}");
}

async fn get(mesh: &Mesh, path: &str) -> Response {
    reqwest::get(format!("{}{path}", mesh.http())).await.unwrap()
}

async fn post(mesh: &Mesh, path: &str, body: &'static str) -> Response {
    reqwest::Client::new().post(format!("{}{path}", mesh.http())).body(body).send().await.unwrap()
}

async fn json(answer: Response) -> Value {
    let text = answer.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}
