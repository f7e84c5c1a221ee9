//! The operations of the mesh: through REST, over NATS and at a prompt each gives the same answer.

use std::collections::BTreeSet;
use std::path::Path;

use mesh_tests::state::that;
use mesh_tests::{BUILTINS, Mesh, agent, new_task, python, queue, results, task, tasks};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use shared::Outcome;
use shared::client::NewTask;

/// What speaks to the API by its document: see `fuzz.py`.
const SCHEMATHESIS: [&str; 1] = ["schemathesis==4.32.5"];

/// What passes with time, or is another's each time.
const PASSING: [&str; 14] = [
    "age_ms",
    "beat_age_ms",
    "since_ms",
    "starts_in_ms",
    "run_ms",
    "queued_ms",
    "time",
    "usage",
    "used",
    "incarnation",
    "sequence",
    "samples",
    "capacity",
    "next",
];

/// An operation as it is asked for at each door. `{door}` stands for the door, where each needs something of its own.
struct Case {
    name: &'static str,
    method: Method,
    path: &'static str,
    body: Option<Value>,
    request: Value,
    /// Nothing where a command line has no such thing, or shows it otherwise.
    command: Option<&'static [&'static str]>,
    /// Beside what passes with time.
    ignored: &'static [&'static str],
}

fn case(name: &'static str, place: &'static str, request: Value, command: &'static [&'static str]) -> Case {
    let (method, path) = place.split_once(' ').unwrap();
    let command = (!command.is_empty()).then_some(command);
    Case { name, method: method.parse().unwrap(), path, body: None, request, command, ignored: &[] }
}

impl Case {
    fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    fn ignoring(self, ignored: &'static [&'static str]) -> Self {
        Self { ignored, ..self }
    }
}

/// What passes with each look at a pool.
const LOOKS: &[&str] = &["measured", "statistics", "findings", "summary", "time", "phase", "wished", "before", "would"];

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What has nothing to do here, and so is refused in the same words at each door.
const REFUSED: [&str; 9] = [
    "resource.apply",
    "alert.get",
    "alert.acknowledge",
    "alert.unsilence",
    "hook.test",
    "hook.redeliver",
    "hook.enable",
    "hook.delete",
    "intake.delete",
];

fn cases() -> Vec<Case> {
    let none = || json!({});
    vec![
        case("mesh.status", "GET /v1/status", none(), &["status"]),
        case("event.list", "GET /v1/events/past?topic=mesh&limit=5", json!({"topic": "mesh", "limit": 5}), &[]),
        case("agent.list", "GET /v1/agents", none(), &["agents", "list"]),
        case("agent.get", "GET /v1/agents/ada", json!({"id": "ada"}), &["agents", "get", "ada"]),
        case(
            "agent.quarantine",
            "POST /v1/agents/bob/quarantine",
            json!({"id": "bob"}),
            &["agents", "quarantine", "bob"],
        ),
        case("agent.resume", "POST /v1/agents/bob/resume", json!({"id": "bob"}), &["agents", "resume", "bob"]),
        case("queue.list", "GET /v1/queues", none(), &["queues", "list"]),
        case("queue.get", "GET /v1/queues/sleep", json!({"id": "sleep"}), &["queues", "get", "sleep"]),
        case(
            "queue.set",
            "PATCH /v1/queues/spare",
            json!({"id": "spare", "settings": {"max-running": 7, "strategy": "weighted"}}),
            &["queues", "set", "spare", "max-running=7", "strategy=weighted"],
        )
        .body(json!({"max-running": 7, "strategy": "weighted"})),
        case("queue.pause", "POST /v1/queues/spare/pause", json!({"id": "spare"}), &["queues", "pause", "spare"]),
        case("queue.resume", "POST /v1/queues/spare/resume", json!({"id": "spare"}), &["queues", "resume", "spare"]),
        case("queue.purge", "POST /v1/queues/spare/purge", json!({"id": "spare"}), &["queues", "purge", "spare"]),
        case("tenant.list", "GET /v1/tenants", none(), &["tenants", "list"]),
        case(
            "tenant.set",
            "PATCH /v1/tenants/acme",
            json!({"id": "acme", "settings": {"weight": 3}}),
            &["tenants", "set", "acme", "weight=3"],
        )
        .body(json!({"weight": 3})),
        case("resource.list", "GET /v1/resources", none(), &["resources", "list"]),
        case("resource.recommend", "GET /v1/recommendations", none(), &["resources", "recommend"]),
        case(
            "task.submit",
            "POST /v1/tasks",
            json!({"kind": "later", "id": "submitted-{door}", "body": "hi"}),
            &["submit", "later", "hi", "--id", "submitted-{door}"],
        )
        .body(json!({"kind": "later", "id": "submitted-{door}", "body": "hi"})),
        case("task.batch", "POST /v1/batches", json!({"items": [{"kind": "later", "id": "batched-{door}"}]}), &[])
            .body(json!({"items": [{"kind": "later", "id": "batched-{door}"}]})),
        case("task.list", "GET /v1/tasks?kind=sleep", json!({"kind": "sleep"}), &["tasks", "list", "--kind", "sleep"]),
        case("task.get", "GET /v1/tasks/done", json!({"id": "done"}), &["tasks", "get", "done"]),
        case("task.result", "GET /v1/tasks/done/result", json!({"id": "done"}), &["tasks", "result", "done"]),
        case("task.why", "GET /v1/tasks/long/why", json!({"id": "long"}), &["tasks", "why", "long"]),
        case(
            "task.cancel",
            "POST /v1/tasks/submitted-{door}/cancel",
            json!({"id": "submitted-{door}"}),
            &["tasks", "cancel", "submitted-{door}"],
        )
        // Its outcome may be recorded already, or not.
        .ignoring(&["outcome", "reason", "priority"]),
        // At a prompt the text itself is shown.
        case("task.logs", "GET /v1/tasks/done/logs", json!({"id": "done"}), &[]),
        case("scale.status", "GET /v1/pools", none(), &["scale", "status"]).ignoring(LOOKS),
        case("scale.get", "GET /v1/pools/spare", json!({"id": "spare"}), &["scale", "status", "spare"]).ignoring(LOOKS),
        case(
            "scale.history",
            "GET /v1/pools/spare/history?limit=50",
            json!({"id": "spare", "limit": 50}),
            &["scale", "history", "spare"],
        ),
        case("scale.explain", "GET /v1/pools/spare/why", json!({"id": "spare"}), &["scale", "explain", "spare"])
            .ignoring(LOOKS),
        case(
            "scale.set",
            "POST /v1/pools/spare",
            json!({"id": "spare", "settings": {"max-agents": 7}}),
            &["scale", "set", "spare", "max-agents=7"],
        )
        .body(json!({"settings": {"max-agents": 7}})),
        case("scale.pause", "POST /v1/pools/spare/pause", json!({"id": "spare"}), &["scale", "pause", "spare"]),
        case("scale.resume", "POST /v1/pools/spare/resume", json!({"id": "spare"}), &["scale", "resume", "spare"]),
        case("alert.list", "GET /v1/alerts", none(), &["alerts", "list"]).ignoring(&["value"]),
        case("alert.rules", "GET /v1/alert-rules", none(), &["alerts", "rules"]),
        case(
            "alert.silence",
            "POST /v1/silences",
            json!({"matchers": ["rule=agents-lost"], "for": "1h", "by": "somebody"}),
            &[],
        )
        .body(json!({"matchers": ["rule=agents-lost"], "for": "1h", "by": "somebody"}))
        .ignoring(&["id", "until", "ends_in_ms"]),
        case("alert.silences", "GET /v1/silences", none(), &["alerts", "silences"]).ignoring(&["ends_in_ms"]),
        case(
            "hook.set",
            "POST /v1/webhooks/pager",
            json!({"id": "pager", "url": "https://example.org/hook", "filter": {"topic": "alert"}, "secret": SECRET}),
            &[],
        )
        .body(json!({"url": "https://example.org/hook", "filter": {"topic": "alert"}, "secret": SECRET}))
        .ignoring(&["pending", "old_secret_until"]),
        case("hook.list", "GET /v1/webhooks", none(), &["hooks", "list"]).ignoring(&["pending"]),
        case("hook.get", "GET /v1/webhooks/pager", json!({"id": "pager"}), &["hooks", "get", "pager"])
            .ignoring(&["pending"]),
        case("intake.set", "POST /v1/intakes/shop", json!({"id": "shop", "kind": "order", "secret": SECRET}), &[])
            .body(json!({"kind": "order", "secret": SECRET}))
            .ignoring(&["old_secret_until"]),
        case("intake.list", "GET /v1/intakes", none(), &["intakes", "list"]),
        case("intake.get", "GET /v1/intakes/shop", json!({"id": "shop"}), &["intakes", "get", "shop"]),
        case("dead.list", "GET /v1/dead", none(), &["dead", "list"]),
        case("dead.get", "GET /v1/dead/dead-rest", json!({"task": "dead-rest"}), &["dead", "show", "dead-rest"]),
        case("dead.replay", "POST /v1/dead/dead-{door}/replay", json!({"task": "dead-{door}"}), &[])
            .ignoring(&["id", "new_task"]),
        case(
            "dead.discard",
            "DELETE /v1/dead/gone-{door}",
            json!({"task": "gone-{door}"}),
            &["dead", "discard", "gone-{door}"],
        ),
        case(
            "agent.drain",
            "POST /v1/agents/drained-{door}/drain",
            json!({"id": "drained-{door}"}),
            &["agents", "drain", "drained-{door}"],
        )
        // It may have gone already.
        .ignoring(&["state"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_gives_the_same_answer_at_every_door() {
    let mesh = mesh_with_something_of_everything().await;
    let cases = cases();

    for case in &cases {
        let over_http = case.over_http(&mesh).await;
        let by_nats = case.by_nats(&mesh).await;
        assert_eq!(over_http, by_nats, "{}: REST and NATS", case.name);
        if let Some(at_a_prompt) = case.at_a_prompt(&mesh).await {
            assert_eq!(at_a_prompt, over_http, "{}: the command line and REST", case.name);
        }
    }

    let tried: BTreeSet<String> = cases.iter().map(|case| case.name).chain(REFUSED).map(str::to_owned).collect();
    assert_eq!(tried, operations(&mesh).await, "an operation without a case");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_refuses_in_the_same_words() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;

    for (case, status) in [
        (case("agent.get", "GET /v1/agents/eve", json!({"id": "eve"}), &["agents", "get", "eve"]), 404),
        (case("task.get", "GET /v1/tasks/none", json!({"id": "none"}), &["tasks", "get", "none"]), 404),
        (case("task.result", "GET /v1/tasks/none/result", json!({"id": "none"}), &["tasks", "result", "none"]), 404),
        (case("dead.get", "GET /v1/dead/99", json!({"id": 99}), &["dead", "show", "99"]), 404),
        (
            case(
                "resource.apply",
                "POST /v1/recommendations/echo",
                json!({"id": "echo"}),
                &["resources", "apply", "echo"],
            ),
            409,
        ),
        (case("alert.get", "GET /v1/alerts/none", json!({"id": "none"}), &["alerts", "get", "none"]), 404),
        (
            case(
                "alert.acknowledge",
                "POST /v1/alerts/none/acknowledge",
                json!({"id": "none", "by": "me"}),
                &["alerts", "ack", "none"],
            )
            .body(json!({"by": "me"})),
            404,
        ),
        (case("alert.unsilence", "DELETE /v1/silences/s9", json!({"id": "s9"}), &["alerts", "unsilence", "s9"]), 404),
        (case("hook.test", "POST /v1/webhooks/none/test", json!({"id": "none"}), &["hooks", "test", "none"]), 404),
        (
            case(
                "hook.redeliver",
                "POST /v1/webhooks/none/redeliver",
                json!({"id": "none", "event": 1}),
                &["hooks", "redeliver", "none", "--event", "1"],
            )
            .body(json!({"event": 1})),
            404,
        ),
        (
            case(
                "hook.enable",
                "POST /v1/webhooks/none/enable",
                json!({"id": "none", "enabled": true}),
                &["hooks", "enable", "none"],
            )
            .body(json!({"enabled": true})),
            404,
        ),
        (case("hook.delete", "DELETE /v1/webhooks/none", json!({"id": "none"}), &["hooks", "delete", "none"]), 404),
        (case("intake.delete", "DELETE /v1/intakes/none", json!({"id": "none"}), &["intakes", "delete", "none"]), 404),
        (
            case(
                "queue.set",
                "PATCH /v1/queues/echo",
                json!({"id": "echo", "settings": {"strategy": "best"}}),
                &["queues", "set", "echo", "strategy=best"],
            )
            .body(json!({"strategy": "best"})),
            400,
        ),
    ] {
        let answer = case.request(&mesh, "rest").send().await.unwrap();
        let (code, kind) = (answer.status().as_u16(), answer.headers()["content-type"].clone());
        let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let by_nats = case.ask(&mesh, "nats").await.unwrap_err();
        let at_a_prompt = case.run(&mesh, "cli").await.unwrap();

        assert_eq!((code, problem["status"].as_u64()), (status, Some(u64::from(status))), "{}: {problem}", case.name);
        assert_eq!(kind, "application/problem+json");
        assert_eq!(problem["detail"], by_nats.as_str(), "{}", case.name);
        assert_eq!(at_a_prompt.code, 1, "{}: {at_a_prompt:?}", case.name);
        assert!(at_a_prompt.stderr.contains(&by_nats), "{}: {by_nats} is not in {at_a_prompt:?}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_answers_as_the_leader_does() {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 4, BUILTINS).start().await;
    let id = mesh.submit("sleep", "10m").await;
    mesh.until(task(&id).running()).await;
    let leader = mesh.leader().await;
    let urls = [leader, 1 - leader].map(|index| format!("http://{}", mesh.http_address(index)));

    for path in ["/v1/agents", "/v1/agents/ada", "/v1/queues/sleep", "/v1/tasks", "/v1/dead", "/v1/status"] {
        let mut answers = Vec::new();
        for url in &urls {
            let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{url}{path}");
            answers.push(timeless(serde_json::from_str(&answer.text().await.unwrap()).unwrap(), &["instance"]));
        }
        assert_eq!(answers[0], answers[1], "{path}");
    }
    let cancelled = reqwest::Client::new().post(format!("{}/v1/tasks/{id}/cancel", urls[1])).send().await.unwrap();

    assert_eq!(cancelled.status(), StatusCode::OK);
    assert_eq!(mesh.wait(&id).await.outcome, Outcome::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_kind_waits_whoever_leads_and_goes_on_when_it_is_resumed() {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 4, BUILTINS).start().await;
    let paused = mesh.cli(&["queues", "pause", "echo", "--json"]).await.succeeded().json();
    let id = mesh.submit("echo", "hi").await;
    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();
    mesh.leader().await;
    // What is not paused is placed by the new leader.
    assert_eq!(mesh.run("sleep", "1ms").await.outcome, Outcome::Succeeded);

    let waits = mesh.until(task(&id).queued()).await;
    let resumed = mesh.cli(&["queues", "resume", "echo", "--json"]).await.succeeded().json();

    assert_eq!((&paused["paused"], &paused["settings"]["paused"]), (&true.into(), &true.into()), "{paused}");
    assert_eq!(waits.attempts, 0);
    assert!(resumed.get("paused").is_none(), "{resumed}");
    assert_eq!(mesh.wait(&id).await.body, "hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_records_what_waits_as_cancelled_and_leaves_what_runs() {
    let mesh = Mesh::builder().agent("ada", 1, BUILTINS).start().await;
    let running = mesh.submit("sleep", "10m").await;
    mesh.until(task(&running).running()).await;
    mesh.submit_all((0..400).map(|_| new_task("sleep", "10m"))).await;
    mesh.until(that("that some of them are fetched", async |mesh: &Mesh| {
        let queue = mesh.look_at_queue("sleep").await?.queue;
        if queue.waiting > 0 { Ok(()) } else { Err(format!("{queue:?}")) }
    }))
    .await;

    let purged = mesh.cli(&["queues", "purge", "sleep", "--json"]).await.succeeded().json()["purged"].as_u64().unwrap();

    mesh.until(tasks(401 - purged)).await;
    mesh.until(results(purged)).await;
    assert!(purged >= 398, "{purged} of those that did not run were ended");
    let results = mesh.results().await.0;
    assert!(results.iter().all(|result| result.outcome == Outcome::Cancelled && result.attempts == 0), "{results:?}");
    assert_eq!(mesh.look_at_task(&running).await.unwrap().state, shared::api::TaskState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_ends_what_nobody_can_do() {
    let mesh = Mesh::builder().agent("ada", 1, BUILTINS).start().await;
    mesh.submit_all((0..300).map(|_| new_task("orphan", ""))).await;
    let plain = mesh.plain_client().await;
    plain.publish("hive.task.orphan", "".into()).await.unwrap();
    plain.flush().await.unwrap();
    mesh.until(tasks(301)).await;

    let purged = mesh.cli(&["queues", "purge", "orphan", "--json"]).await.succeeded().json();

    assert_eq!(purged, json!({"purged": 301}));
    mesh.until(tasks(0)).await;
    assert_eq!(mesh.results().await.of_kind("orphan").0.len(), 301);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_quarantine_gets_nothing_until_it_is_resumed() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).agent("bob", 4, BUILTINS).start().await;

    mesh.cli(&["agents", "quarantine", "ada"]).await.succeeded();
    mesh.submit_all((0..4).map(|_| new_task("sleep", "10m"))).await;

    mesh.until(agent("bob").holds(4)).await;
    assert_eq!(mesh.until(agent("ada").holds(0)).await.state, shared::api::AgentState::Degraded);
    let resumed = mesh.cli(&["agents", "resume", "ada", "--json"]).await.succeeded().json();
    assert_eq!(resumed["state"], "healthy");
    mesh.submit_all((0..4).map(|_| new_task("sleep", "10m"))).await;
    mesh.until(agent("ada").holds(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_by_state_page_by_page() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;
    for number in 0..7 {
        mesh.submit_task(&named("later", &format!("queued-{number}"))).await;
        assert_eq!(mesh.run_task(named("echo", &format!("settled-{number}"))).await.outcome, Outcome::Succeeded);
    }

    let queued = pages(&mesh, "/v1/tasks?state=queued&limit=3").await;
    let settled = pages(&mesh, "/v1/tasks?state=settled&kind=echo&limit=3").await;
    let young = pages(&mesh, "/v1/tasks?state=queued&older_than=1h").await;

    let ids = |prefix: &str, numbers: &mut dyn Iterator<Item = u32>| -> Vec<String> {
        numbers.map(|number| format!("{prefix}-{number}")).collect()
    };
    assert_eq!(queued, ids("queued", &mut (0..7)), "the oldest first");
    assert_eq!(settled, ids("settled", &mut (0..7).rev()), "the newest first");
    assert_eq!(young, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_with_its_key_submits_one_task() {
    let mesh = Mesh::builder().start().await;
    let post = async |key: &str| {
        let request = reqwest::Client::new().post(format!("{}/v1/tasks/later", mesh.http())).body("hi");
        let answer = request.header("Idempotency-Key", key).send().await.unwrap();
        (answer.status(), serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };

    let (first, again, other) = (post("order 17").await, post("order 17").await, post("order 18").await);

    assert_eq!([first.0, again.0, other.0], [StatusCode::ACCEPTED; 3]);
    assert_eq!(first.1["id"], again.1["id"]);
    assert_eq!(again.1["repeated"], true, "{}", again.1);
    assert_ne!(first.1["id"], other.1["id"]);
    assert_eq!(mesh.count("TASKS").await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_tells_of_each_task_what_became_of_it() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;
    let items = json!([
        {"kind": "echo", "id": "one", "json": {"a": 1}},
        {"kind": "echo", "headers": {"Hive-Timeout": "soon"}},
        {"kind": "echo", "id": "three", "body_base64": "/w=="},
    ]);

    let batched = mesh.ask("task", "batch", json!({ "items": items })).await.unwrap();

    let ids: Vec<&Value> = batched["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, ["one", "three"]);
    assert_eq!((&batched["refused"][0]["index"], &batched["refused"][0]["code"]), (&1.into(), &400.into()));
    assert_eq!(mesh.wait(&"one".parse().unwrap()).await.body, r#"{"a":1}"#);
    assert_eq!(mesh.wait(&"three".parse().unwrap()).await.body, &b"\xff"[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_not_there_yet_is_waited_for_and_no_longer_than_is_wanted() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;
    mesh.submit_task(&NewTask { id: "long".parse().unwrap(), ..new_task("sleep", "10m") }).await;
    let get = async |path: &str| reqwest::get(format!("{}{path}", mesh.http())).await.unwrap();

    let early = get("/v1/tasks/long/result?wait=50ms").await;
    let early_raw = get("/v1/tasks/long?wait=50ms").await;
    let posted = reqwest::Client::new().post(format!("{}/v1/tasks/sleep?id=next&wait=50ms", mesh.http())).body("10m");
    let posted = posted.send().await.unwrap();
    let waiting = async { get("/v1/tasks/long/result?wait=30s").await.text().await.unwrap() };
    let (result, _) = tokio::join!(waiting, mesh.cli(&["tasks", "cancel", "long"]));

    assert_eq!([early.status(), early_raw.status()], [StatusCode::CONFLICT; 2]);
    assert_eq!(posted.status(), StatusCode::ACCEPTED);
    assert_eq!(serde_json::from_str::<Value>(&result).unwrap()["outcome"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_describes_itself_fully() {
    let mesh = Mesh::builder().start().await;

    let info = mesh.client().nats().request("$SRV.INFO.hive-api", "".into()).await.unwrap();

    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    let endpoints = info["endpoints"].as_array().unwrap();
    let of = |endpoint: &Value| endpoint["name"].as_str().unwrap().replacen('-', ".", 1);
    assert_eq!(endpoints.iter().map(of).collect::<BTreeSet<_>>(), operations(&mesh).await);
    for endpoint in endpoints {
        let metadata = &endpoint["metadata"];
        for said in ["summary", "role", "rest", "request_schema", "response_schema"] {
            assert!(metadata[said].as_str().is_some_and(|said| !said.is_empty()), "{said} of {endpoint}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_the_answer_is_in_the_document() {
    assert_documented(15).await;
}

/// 20,000 requests take minutes.
#[ignore = "takes minutes: cargo test -p mesh-tests --test integration 20_000 -- --ignored"]
#[tokio::test(flavor = "multi_thread")]
async fn of_20_000_requests_each_answer_is_in_the_document() {
    let requests = assert_documented(700).await;

    assert!(requests >= 20_000, "only {requests} requests");
}

/// Has a mesh asked for so many things an operation; how many that were altogether.
async fn assert_documented(examples: usize) -> u64 {
    let mesh = mesh_with_something_of_everything().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fuzz.py");

    let Some(said) = python::run_with(&SCHEMATHESIS, &script, &[&mesh.http(), &examples.to_string()]).await else {
        return u64::MAX;
    };

    let requests = said.lines().find_map(|line| line.strip_prefix("requests: ")?.parse().ok());
    let requests: u64 = requests.unwrap_or_else(|| panic!("it does not say how many there were: {said}"));
    assert!(requests > 100, "{said}");
    requests
}

/// A mesh with tasks in every state, dead letters, a tenant, and agents that have nothing to do.
async fn mesh_with_something_of_everything() -> Mesh {
    const IDLE: &str = "[[handler]]\nkind = \"idle\"\nbuiltin = \"echo\"\n";
    // A pool that nobody starts agents for: it is only told what would be done.
    let pool = "[pools.spare]\nkinds = [\"spare\"]\n";
    let mesh = Mesh::builder().config(pool).agent("ada", 4, BUILTINS).agent("bob", 1, IDLE);
    let doors = ["rest", "nats", "cli"];
    let mesh = doors.iter().fold(mesh, |mesh, door| mesh.agent(&format!("drained-{door}"), 1, IDLE)).start().await;
    mesh.run_task(named("echo", "done").header("Hive-Tenant", "acme").unwrap()).await;
    for id in doors.iter().flat_map(|door| [format!("dead-{door}"), format!("gone-{door}")]) {
        mesh.run_task(named("fail", &id).header("Hive-Max-Attempts", "1").unwrap()).await;
    }
    let long = NewTask { id: "long".parse().unwrap(), ..new_task("sleep", "10m") };
    mesh.submit_task(&long).await;
    mesh.until(task(&long.id).running()).await;
    mesh.until(queue("sleep").has(1, 0)).await;
    // What was settled is out of the stream.
    mesh.until(tasks(1)).await;
    mesh
}

fn named(kind: &str, id: &str) -> NewTask {
    NewTask { id: id.parse().unwrap(), ..new_task(kind, "") }
}

/// The ids of all tasks that a list has, page by page.
async fn pages(mesh: &Mesh, path: &str) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = reqwest::get(format!("{}{path}{cursor}", mesh.http())).await.unwrap().text().await.unwrap();
        let page: Value = serde_json::from_str(&answer).unwrap();
        ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { return ids };
        cursor = format!("&cursor={next}");
    }
}

/// The names of all operations, as the document has them.
async fn operations(mesh: &Mesh) -> BTreeSet<String> {
    let answer = reqwest::get(format!("{}/openapi.json", mesh.http())).await.unwrap().text().await.unwrap();
    let document: Value = serde_json::from_str(&answer).unwrap();
    let items = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let ids = items.map(|operation| operation["operationId"].as_str().unwrap().to_owned());
    // An operation with two places has a number behind its name at the second, and health is none.
    ids.filter(|id| id.split('.').count() == 2).collect()
}

impl Case {
    fn request(&self, mesh: &Mesh, door: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{}", mesh.http(), self.path.replace("{door}", door));
        let request = reqwest::Client::new().request(self.method.clone(), url);
        match &self.body {
            Some(body) => request.header("content-type", "application/json").body(for_door(body, door).to_string()),
            None => request,
        }
    }

    async fn over_http(&self, mesh: &Mesh) -> Value {
        let answer = self.request(mesh, "rest").send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{}: {status} {text}", self.name);
        self.normal(serde_json::from_str(&text).unwrap(), "rest")
    }

    async fn by_nats(&self, mesh: &Mesh) -> Value {
        let answer = self.ask(mesh, "nats").await;
        self.normal(answer.unwrap_or_else(|error| panic!("{}: {error}", self.name)), "nats")
    }

    async fn at_a_prompt(&self, mesh: &Mesh) -> Option<Value> {
        let output = self.run(mesh, "cli").await?;
        Some(self.normal(output.succeeded().json(), "cli"))
    }

    async fn ask(&self, mesh: &Mesh, door: &str) -> Result<Value, String> {
        let (noun, verb) = self.name.split_once('.').unwrap();
        mesh.ask(noun, verb, for_door(&self.request, door)).await
    }

    async fn run(&self, mesh: &Mesh, door: &str) -> Option<mesh_tests::Output> {
        let args: Vec<String> = self.command?.iter().map(|arg| arg.replace("{door}", door)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--json"]).collect();
        Some(mesh.cli(&args).await)
    }

    /// An answer without what passes with time, and without the name of the door where there is one.
    fn normal(&self, answer: Value, door: &str) -> Value {
        let answer = timeless(answer, self.ignored);
        let is_of_a_door = self.path.contains("{door}") || self.request.to_string().contains("{door}");
        if !is_of_a_door {
            return answer;
        }
        serde_json::from_str(&answer.to_string().replace(&format!("-{door}"), "-door")).unwrap()
    }
}

fn for_door(value: &Value, door: &str) -> Value {
    serde_json::from_str(&value.to_string().replace("{door}", door)).unwrap()
}

fn timeless(value: Value, ignored: &[&str]) -> Value {
    match value {
        Value::Object(fields) => {
            let is_kept = |name: &str| !PASSING.contains(&name) && !ignored.contains(&name);
            let fields = fields.into_iter().filter(|(name, _)| is_kept(name));
            fields.map(|(name, value)| (name, timeless(value, ignored))).collect()
        }
        Value::Array(items) => items.into_iter().map(|item| timeless(item, ignored)).collect(),
        other => other,
    }
}
