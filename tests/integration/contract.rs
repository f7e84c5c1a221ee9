//! The public contract, as a client sees it that has only NATS.

use std::sync::{Arc, Mutex};

use async_nats::{HeaderMap, Message};
use futures_util::StreamExt as _;
use mesh_tests::{BUILTINS, Mesh, command_handler, mesh, new_task, results, tasks};
use shared::client::TaskResult;
use shared::{Outcome, Priority};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_call_is_answered_with_the_result() {
    let mesh = Mesh::start().await;
    let nats = mesh.plain_client().await;

    let reply = nats.request("hive.call.echo", "hello".into()).await.unwrap();

    assert_eq!(reply.payload, "hello");
    assert_eq!(header(&reply, "Hive-Outcome"), "succeeded");
    assert_eq!(header(&reply, "Hive-Kind"), "echo");
    assert_eq!(header(&reply, "Hive-Attempts"), "1");
    assert!(["ada", "bob", "cid"].contains(&header(&reply, "Hive-Agent").as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_answered_with_its_error() {
    let mesh = Mesh::start().await;
    let nats = mesh.plain_client().await;

    let reply = nats.request_with_headers("hive.call.fail", once(), "no luck".into()).await.unwrap();

    assert_eq!(header(&reply, "Hive-Outcome"), "failed");
    assert_eq!(header(&reply, "Hive-Error"), "no luck");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_bad_header_is_answered_and_not_left_to_wait() {
    let mesh = Mesh::start().await;
    let nats = mesh.plain_client().await;
    let mut headers = HeaderMap::new();
    headers.insert("Hive-Timeout", "soon");

    let reply = nats.request_with_headers("hive.call.echo", headers, "hello".into()).await.unwrap();

    assert_eq!(header(&reply, "Hive-Outcome"), "dead");
    assert!(header(&reply, "Hive-Error").contains("Hive-Timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_result_goes_to_the_subject_that_was_named() {
    let mesh = Mesh::start().await;
    let mut copies = mesh.plain_client().await.subscribe("my.results").await.unwrap();
    mesh.client().nats().flush().await.unwrap();

    let result = mesh.run_task(new_task("echo", "hello").header("Hive-Reply-To", "my.results").unwrap()).await;

    let copy = next(&mut copies).await;
    assert_eq!((copy.payload.as_ref(), result.body.as_ref()), (&b"hello"[..], &b"hello"[..]));
    assert_eq!(header(&copy, "Hive-Task"), result.id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_result_is_sent_and_not_kept() {
    let mesh = Mesh::start().await;
    let nats = mesh.plain_client().await;
    let mut headers = HeaderMap::new();
    headers.insert("Hive-Result", "discard");

    let reply = nats.request_with_headers("hive.call.echo", headers, "hello".into()).await.unwrap();
    mesh.until(tasks(0)).await;

    assert_eq!(reply.payload, "hello");
    assert_eq!(mesh.count("RESULTS").await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_submitter_reach_a_handler_in_process() {
    let mut mesh = Mesh::builder().start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let work = move |task: agent_worker::Task| {
        let own = ["X-Mine", "traceparent", "Hive-Tenant"].map(|name| task.header(name).unwrap_or("").to_owned());
        noted.lock().unwrap().push((own, task.attempt, task.body.clone()));
        async { Ok::<_, &str>("done") }
    };
    mesh.embed("ada", 1, |agent| agent.handler("work", work)).await;

    let task = new_task("work", "body").header("X-Mine", "mine").unwrap();
    let task = task.header("traceparent", "00-1-2-01").unwrap().header("Hive-Tenant", "acme").unwrap();
    mesh.run_task(task).await;

    let expected = ["mine", "00-1-2-01", "acme"].map(str::to_owned);
    assert_eq!(*seen.lock().unwrap(), [(expected, 1, "body".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_submitter_reach_a_handler_behind_http() {
    let (url, request) =
        one_http_request("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone").await;
    let handler = format!("[[handler]]\nkind = \"post\"\nhttp = \"{url}/run\"\n");
    let mesh = Mesh::builder().agent("ada", 1, &handler).start().await;

    let task = new_task("post", "body").header("X-Mine", "mine").unwrap().header("traceparent", "00-1-2-01").unwrap();
    let result = mesh.run_task(task).await;

    let request = request.await.unwrap().to_lowercase();
    assert_eq!(result.body, "done");
    assert!(request.starts_with("post /run ") && request.ends_with("body"), "{request}");
    for line in ["x-mine: mine", "traceparent: 00-1-2-01", "hive-attempt: 1", &format!("hive-task: {}", result.id)] {
        assert!(request.contains(line), "no `{line}` in {request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_sees_its_task_and_nothing_that_was_not_named() {
    let mesh = Mesh::builder().agent("ada", 1, &command_handler("env", &["env"])).start().await;

    let result = mesh.run("env", "").await;

    let text = String::from_utf8_lossy(&result.body).into_owned();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["HIVE_AGENT", "HIVE_ATTEMPT", "HIVE_KIND", "HIVE_TASK", "PATH"]);
    assert!(text.contains(&format!("HIVE_TASK={}", result.id)) && text.contains("HIVE_AGENT=ada"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_urgent_overtakes_a_backlog_of_what_is_low() {
    let mesh = Mesh::builder().agent("ada", 1, BUILTINS).start().await;
    let prioritised = |body: &str, priority| {
        let mut task = new_task("sleep", body.to_owned());
        task.priority = priority;
        task
    };
    mesh.submit_all((0..500).map(|_| prioritised("10ms", Priority::Low))).await;
    let before = mesh.until(results(5)).await;

    let urgent = mesh.run_task(prioritised("11ms", Priority::Urgent)).await;

    // By its place in the stream, not by how many there are when a busy machine lets us look.
    let results = mesh.results().await.0;
    let place = results.iter().position(|result| result.id == urgent.id).unwrap() as u64;
    assert_eq!(urgent.outcome, Outcome::Succeeded);
    assert!(place < before + 60, "{} low tasks were done before it", place - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_may_carry_its_priority_and_its_id_in_the_subject_or_neither() {
    let mesh = Mesh::start().await;
    let nats = mesh.plain_client().await;
    let mut kept = nats.subscribe("hive.result.*").await.unwrap();
    let jetstream = async_nats::jetstream::new(nats);

    let mut ids = Vec::new();
    for subject in ["hive.task.echo", "hive.task.echo.high", "hive.task.echo.low.my-task"] {
        let ack = jetstream.publish(subject, subject.into()).await.unwrap().await.unwrap();
        ids.push(if subject.ends_with("my-task") { "my-task".to_owned() } else { ack.sequence.to_string() });
    }

    let mut seen = Vec::new();
    for _ in &ids {
        let result = next(&mut kept).await;
        seen.push(TaskResult::parse(result.headers.as_ref(), result.payload).unwrap().id.to_string());
    }
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_meshes_share_a_broker_and_do_not_meet() {
    let mesh = Mesh::start().await;
    let other = ["--mesh", "other"];

    let submitted = mesh.cli(&[&other[..], &["submit", "echo", "hi"]].concat()).await;

    assert_eq!(submitted.code, 3, "{submitted:?}");
    assert!(submitted.stderr.contains("mesh `other` has no task stream"), "{submitted:?}");
    assert_eq!(mesh.count("TASKS").await, Ok(0));
}

fn header(message: &Message, name: &str) -> String {
    let value = message.headers.as_ref().and_then(|headers| headers.get(name));
    value.unwrap_or_else(|| panic!("no header {name} in {message:?}")).to_string()
}

fn once() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Hive-Max-Attempts", "1");
    headers
}

async fn next(messages: &mut async_nats::Subscriber) -> Message {
    tokio::time::timeout(mesh::PATIENCE, messages.next()).await.expect("it comes").expect("the connection is open")
}

/// A service that answers one request; its address, and what it was sent.
async fn one_http_request(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let request = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"body") {
            assert_ne!(socket.read_buf(&mut heard).await.unwrap(), 0, "the client hung up");
        }
        socket.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&heard).into_owned()
    });
    (url, request)
}
