//! Webhooks: what happens is sent to URLs, and signed requests become tasks.

use std::time::SystemTime;

use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use mesh_tests::receiver::Received;
use mesh_tests::state::that;
use mesh_tests::{BUILTINS, Mesh, Receiver, State, results};
use reqwest::Response;
use serde_json::{Value, json};
use sha2::Sha256;
use shared::TaskId;
use standardwebhooks::Webhook;

/// A receiver of ours is on the loopback; what fails is tried again soon.
const CONFIG: &str = "[webhooks]\nallow = [\"127.0.0.1/32\"]\nbackoff = \"20ms\"\nlongest-backoff = \"200ms\"\n";

const GITHUB_SECRET: &str = "It's a Secret to Everybody";

#[tokio::test(flavor = "multi_thread")]
async fn events_go_in_order_and_all_of_them_though_half_the_attempts_fail() {
    let mesh = mesh("").await;
    let receiver = Receiver::answering(|before| match before % 2 {
        0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    let secret = set(&mesh, json!({ "id": "pager", "url": receiver.url(), "filter": { "what": "noted" } })).await;

    mesh.tell(0..50).await;
    mesh.until(taken(&receiver, 50)).await;

    assert!(receiver.taken().into_iter().eq(0..50), "{:?}", receiver.taken());
    let verifier = Webhook::new(&secret).unwrap();
    let mut ids: Vec<(u64, String)> = Vec::new();
    for request in receiver.received() {
        verifier.verify(&request.body, &request.headers).unwrap();
        ids.push((request.number().unwrap(), request.header("webhook-id").to_owned()));
    }
    ids.dedup();
    assert_eq!(ids.len(), 50, "an event has the same id each time: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_events_that_are_meant_are_sent() {
    let mesh = mesh("").await;
    let (all, few) = (Receiver::start().await, Receiver::start().await);
    set(&mesh, json!({ "id": "all", "url": all.url() })).await;
    set(&mesh, json!({ "id": "few", "url": few.url(), "filter": { "topic": "task", "task": ["t3", "t7"] } })).await;

    mesh.tell(0..10).await;
    mesh.until(taken(&all, 10)).await;
    mesh.until(taken(&few, 2)).await;

    assert_eq!(few.taken(), [3, 7]);
    assert_eq!(few.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_goes_on_where_the_last_one_left_off() {
    let mesh = Mesh::builder().coordinators(2).config(CONFIG).agent("ada", 4, BUILTINS).start().await;
    let receiver = Receiver::start().await;
    set(&mesh, json!({ "id": "pager", "url": receiver.url(), "filter": { "what": "noted" } })).await;
    mesh.tell(0..100).await;
    mesh.until(taken(&receiver, 20)).await;

    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();
    mesh.tell(100..200).await;
    mesh.until(taken(&receiver, 200)).await;

    assert!(receiver.taken().into_iter().eq(0..200), "{:?}", receiver.taken());
    let requests = receiver.received().len();
    assert!(requests <= 202, "what one leader has sent the next does not send again: {requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_sent_once_more_by_hand() {
    let mesh = mesh("").await;
    let receiver = Receiver::start().await;
    set(&mesh, json!({ "id": "pager", "url": receiver.url(), "filter": { "what": "noted" } })).await;
    mesh.tell(0..10).await;
    mesh.until(taken(&receiver, 10)).await;
    let sequence = |number: u64| event_sequence(&mesh, number);

    let one = mesh.ask("hook", "redeliver", json!({ "id": "pager", "event": sequence(4).await })).await.unwrap();
    let repeated = receiver.received().pop().unwrap();
    let from = sequence(7).await;
    mesh.ask("hook", "redeliver", json!({ "id": "pager", "from": from })).await.unwrap();
    mesh.until(requests(&receiver, 14)).await;

    assert_eq!((&one["attempt"]["status"], repeated.number()), (&204.into(), Some(4)));
    let first = receiver.received()[4].header("webhook-id").to_owned();
    assert_eq!(repeated.header("webhook-id"), first, "it can be told that it was sent before");
    let again: Vec<_> = receiver.received()[11..].iter().filter_map(Received::number).collect();
    assert_eq!(again, [7, 8, 9]);
    let missing = mesh.ask("hook", "redeliver", json!({ "id": "pager", "event": 1_000_000 })).await.unwrap_err();
    assert!(missing.contains("is not kept"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_nobody_takes_is_disabled_and_goes_on_when_it_is_enabled() {
    let mesh = mesh("disable-after = \"1s\"\n").await;
    let failing = Receiver::answering(|_| (StatusCode::BAD_GATEWAY, "no luck").into_response()).await;
    set(&mesh, json!({ "id": "pager", "url": failing.url(), "filter": { "what": "noted" } })).await;

    mesh.tell(0..3).await;
    let hook = mesh.until(hook_is("pager", "disabled")).await;

    assert!(hook["reason"].as_str().unwrap().contains("nothing was taken for 1s"), "{hook}");
    let error = hook["attempts"][0]["error"].as_str().unwrap();
    assert!(error.contains("502") && error.contains("no luck"), "{hook}");
    mesh.until(told("hook-disabled")).await;
    let taking = Receiver::start().await;
    set(&mesh, json!({ "id": "pager", "url": taking.url() })).await;
    mesh.ask("hook", "enable", json!({ "id": "pager" })).await.unwrap();
    mesh.until(taken(&taking, 3)).await;
    assert_eq!(taking.taken(), [0, 1, 2]);
    mesh.until(hook_is("pager", "healthy")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_whose_receiver_is_gone_for_good_is_disabled_at_once() {
    let mesh = mesh("").await;
    let receiver = Receiver::answering(|_| StatusCode::GONE.into_response()).await;
    set(&mesh, json!({ "id": "pager", "url": receiver.url(), "filter": { "what": "noted" } })).await;

    mesh.tell(0..3).await;
    mesh.until(hook_is("pager", "disabled")).await;

    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_to_be_left_alone_is() {
    let mesh = mesh("").await;
    let receiver = Receiver::answering(|before| match before {
        0 => (StatusCode::TOO_MANY_REQUESTS, [("Retry-After", "3600")]).into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    set(&mesh, json!({ "id": "pager", "url": receiver.url(), "filter": { "what": "noted" } })).await;

    // As long as the settings let it: an hour would be too much.
    mesh.tell(0..1).await;
    mesh.until(taken(&receiver, 1)).await;

    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_addresses_that_are_not_public() {
    let mesh = Mesh::start().await;
    let receiver = Receiver::start().await;
    let port = receiver.address().port();

    for host in ["127.0.0.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"] {
        let url = format!("http://{host}:{port}/");
        let refused = mesh.ask("hook", "set", json!({ "id": "spy", "url": url })).await.unwrap_err();
        assert!(refused.contains("public addresses"), "{url}: {refused}");
    }
    // What a name means is seen when it is sent there.
    set(&mesh, json!({ "id": "spy", "url": format!("http://localhost:{port}/") })).await;
    let attempt = mesh.ask("hook", "test", json!({ "id": "spy" })).await.unwrap();

    assert!(attempt["error"].as_str().unwrap().contains("loopback"), "{attempt}");
    assert_eq!(receiver.received().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let mesh = mesh("").await;
    let hidden = Receiver::start().await;
    let target = hidden.url();
    let redirecting =
        Receiver::answering(move |_| (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, target.clone())]).into_response());
    let redirecting = redirecting.await;
    set(&mesh, json!({ "id": "pager", "url": redirecting.url() })).await;

    let attempt = mesh.ask("hook", "test", json!({ "id": "pager" })).await.unwrap();

    assert!(attempt["error"].as_str().unwrap().contains("not followed"), "{attempt}");
    assert_eq!(hidden.received().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_verify_after_a_rotation() {
    let mesh = mesh("").await;
    let receiver = Receiver::start().await;
    let old = set(&mesh, json!({ "id": "pager", "url": receiver.url() })).await;

    let new = set(&mesh, json!({ "id": "pager", "rotate": true })).await;
    mesh.ask("hook", "test", json!({ "id": "pager" })).await.unwrap();

    assert_ne!(old, new);
    let request = receiver.received().pop().unwrap();
    for secret in [old, new] {
        Webhook::new(&secret).unwrap().verify(&request.body, &request.headers).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_set_looked_at_and_removed_at_a_prompt() {
    let mesh = mesh("").await;
    let receiver = Receiver::start().await;
    let url = receiver.url();

    let set = ["hooks", "set", "pager", "--url", &url, "--topic", "agent,task", "--header", "X-Key: hush"];
    let secret = mesh.cli(&set).await.succeeded().stdout;
    let tested = mesh.cli(&["hooks", "test", "pager"]).await.succeeded();
    let listed = mesh.cli(&["hooks", "list"]).await.succeeded().stdout;
    let shown = mesh.cli(&["hooks", "get", "pager", "--json"]).await.succeeded().stdout;
    mesh.cli(&["hooks", "delete", "pager"]).await.succeeded();
    let gone = mesh.cli(&["hooks", "get", "pager"]).await;

    assert!(secret.starts_with("whsec_"), "{secret}");
    assert!(tested.stderr.contains("it was taken"), "{tested:?}");
    assert_eq!(receiver.received()[0].header("x-key"), "hush");
    assert!(listed.contains("pager") && listed.contains("topic=agent,task"), "{listed}");
    assert!(!shown.contains("hush") && !shown.contains("whsec_"), "{shown}");
    assert!(gone.code == 1 && gone.stderr.contains("there is no webhook `pager`"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_becomes_a_task_and_comes_to_its_handler_as_it_was() {
    let mesh = Mesh::start().await;
    set_intake(&mesh, json!({ "id": "github", "kind": "echo", "scheme": "github", "secret": GITHUB_SECRET })).await;
    let body = b"{\"zen\": \"Keep it logically awesome.\"}\xff".to_vec();

    let accepted = post_github(&mesh, "github", &body, &github(&body), "d-1").await;
    let status = accepted.status();
    let id = read(accepted).await["id"].as_str().unwrap().to_owned();
    let result = mesh.wait(&TaskId::new(&id).unwrap()).await;

    assert_eq!((status, id.as_str()), (StatusCode::ACCEPTED, "github-d-1"));
    assert_eq!(result.body, body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_signed_well_is_refused_and_nothing_is_told() {
    let mesh = Mesh::start().await;
    set_intake(&mesh, json!({ "id": "github", "kind": "echo", "scheme": "github", "secret": GITHUB_SECRET })).await;
    set_intake(&mesh, json!({ "id": "off", "kind": "echo", "secret": GITHUB_SECRET, "scheme": "github" })).await;
    set_intake(&mesh, json!({ "id": "off", "enabled": false })).await;
    let good = github(b"hello");
    let good = good.as_str();

    let mut said = Vec::new();
    for (intake, body, signature) in
        [("github", "hello", "sha256=00"), ("github", "hallo", good), ("nobody", "hello", good), ("off", "hello", good)]
    {
        let refused = post_github(&mesh, intake, body.as_bytes(), signature, "d-1").await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{intake} {body} {signature}");
        said.push(refused.text().await.unwrap());
    }

    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(mesh.count("TASKS").await, Ok(0));
    assert_eq!(mesh.count("RESULTS").await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_is_one_task() {
    let mesh = Mesh::start().await;
    let body = "hello";
    let secret = set_intake(&mesh, json!({ "id": "shop", "kind": "echo" })).await;
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let post = async |sent: u64| {
        let signature = Webhook::new(&secret).unwrap().sign("msg_1", sent.cast_signed(), body.as_bytes()).unwrap();
        let request = reqwest::Client::new().post(format!("{}/v1/hooks/shop", mesh.http())).body(body);
        let request = request.header("webhook-id", "msg_1").header("webhook-timestamp", sent);
        request.header("webhook-signature", signature).send().await.unwrap()
    };

    let first = post(seconds).await;
    mesh.until(results(1)).await;
    let again = post(seconds + 1).await;
    mesh.until(mesh_tests::tasks(0)).await;
    let late = post(seconds - 3600).await;

    assert_eq!((first.status(), again.status()), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    assert_eq!(read(first).await["id"], read(again).await["id"]);
    assert_eq!(late.status(), StatusCode::UNAUTHORIZED);
    let results = mesh.results().await.0;
    assert_eq!((results.len(), results[0].attempts), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused() {
    let mesh = Mesh::start().await;
    let intake =
        json!({ "id": "github", "kind": "echo", "scheme": "github", "secret": GITHUB_SECRET, "max_bytes": 1000 });
    set_intake(&mesh, intake).await;

    let fits = vec![b'x'; 1000];
    let large = vec![b'x'; 1001];

    assert_eq!(post_github(&mesh, "github", &fits, &github(&fits), "d-1").await.status(), StatusCode::ACCEPTED);
    let refused = post_github(&mesh, "github", &large, &github(&large), "d-2").await;
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.text().await.unwrap().contains("1000 bytes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intake_is_set_looked_at_and_removed_at_a_prompt() {
    let mesh = Mesh::start().await;

    let set = mesh.cli(&["intakes", "set", "shop", "--kind", "echo", "--header", "Hive-Timeout: 10m"]).await;
    let secret = set.succeeded().stdout;
    let shown = mesh.cli(&["intakes", "get", "shop"]).await.succeeded().stdout;
    let listed = mesh.cli(&["intakes", "list", "--json"]).await.succeeded().json();
    let bad = mesh.cli(&["intakes", "set", "shop", "--header", "Hive-Timeout: soon"]).await;
    mesh.cli(&["intakes", "delete", "shop"]).await.succeeded();
    let gone = mesh.cli(&["intakes", "delete", "shop"]).await;

    assert!(secret.starts_with("whsec_"), "{secret}");
    assert!(shown.contains("/v1/hooks/shop") && shown.contains("Hive-Timeout: 10m"), "{shown}");
    assert_eq!(listed["items"][0]["scheme"], "standard");
    assert!(bad.code == 1 && bad.stderr.contains("Hive-Timeout"), "{bad:?}");
    assert!(gone.code == 1 && gone.stderr.contains("there is no intake `shop`"), "{gone:?}");
}

/// A mesh whose webhooks may be sent to the loopback, with these lines more about them.
async fn mesh(more: &str) -> Mesh {
    Mesh::builder().config(&format!("{CONFIG}{more}")).agent("ada", 4, BUILTINS).start().await
}

/// Sets a webhook; its secret, if one was made.
async fn set(mesh: &Mesh, hook: Value) -> String {
    let saved = mesh.ask("hook", "set", hook).await.unwrap();
    saved["secret"].as_str().unwrap_or_default().to_owned()
}

/// Sets an intake; its secret, if one was made.
async fn set_intake(mesh: &Mesh, intake: Value) -> String {
    let saved = mesh.ask("intake", "set", intake).await.unwrap();
    saved["secret"].as_str().unwrap_or_default().to_owned()
}

/// So many events were taken.
fn taken(receiver: &Receiver, count: usize) -> impl State<Reached = ()> {
    that(&format!("that {count} events are taken"), async move |_: &Mesh| {
        let taken = receiver.taken();
        if taken.len() >= count { Ok(()) } else { Err(format!("{taken:?}")) }
    })
}

/// So many requests came.
fn requests(receiver: &Receiver, count: usize) -> impl State<Reached = ()> {
    that(&format!("that {count} requests come"), async move |_: &Mesh| {
        let came = receiver.received().len();
        if came >= count { Ok(()) } else { Err(came.to_string()) }
    })
}

/// A webhook is in this state.
fn hook_is(id: &'static str, state: &'static str) -> impl State<Reached = Value> {
    that(&format!("that {id} is {state}"), async move |mesh: &Mesh| {
        let hook = mesh.ask("hook", "get", json!({ "id": id })).await?;
        if hook["state"] == state { Ok(hook) } else { Err(hook.to_string()) }
    })
}

/// An event of the mesh is told.
fn told(what: &'static str) -> impl State<Reached = ()> {
    that(&format!("that {what} is told"), async move |mesh: &Mesh| {
        let events = mesh.read_stream("EVENTS").await;
        let subject = format!("hive.event.mesh.{what}");
        if events.iter().any(|event| event.subject.as_str() == subject) { Ok(()) } else { Err("it is not".to_owned()) }
    })
}

/// The sequence of the event of this number in the stream.
async fn event_sequence(mesh: &Mesh, number: u64) -> u64 {
    let events = mesh.read_stream("EVENTS").await;
    let found = events.iter().find(|message| {
        let event: shared::api::Event = serde_json::from_slice(&message.payload).unwrap();
        event.what == "noted" && event.detail == Some(number.to_string())
    });
    found.unwrap().info().unwrap().stream_sequence
}

/// The signature that GitHub would send with a body.
fn github(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(GITHUB_SECRET.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
}

async fn post_github(mesh: &Mesh, intake: &str, body: &[u8], signature: &str, delivery: &str) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert("x-hub-signature-256", signature.parse().unwrap());
    headers.insert("x-github-delivery", delivery.parse().unwrap());
    headers.insert("x-github-event", "push".parse().unwrap());
    let request = reqwest::Client::new().post(format!("{}/v1/hooks/{intake}", mesh.http())).headers(headers);
    request.body(body.to_vec()).send().await.unwrap()
}

async fn read(answer: Response) -> Value {
    let text = answer.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}
