//! Traces: what a collector gets to see of a task, and that it harms nobody when it is away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use mesh_tests::mesh::Builder;
use mesh_tests::program::{self, Output};
use mesh_tests::state::that;
use mesh_tests::{BUILTINS, Mesh, command_handler, new_task};
use serde_json::{Value, json};
use shared::{Outcome, TaskId};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A context as somebody else's program would send it.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The variables that send the traces of a program to a collector.
fn to(address: SocketAddr) -> [(&'static str, String); 3] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_one_trace_from_its_submission_into_the_environment_of_its_command() {
    let collector = Collector::start().await;
    let mesh = traced(&collector).agent("ada", 1, &command_handler("env", &["env"])).start().await;

    let submitted = cli(&mesh, collector.address, &["submit", "env", "--wait", "--json"]).await.succeeded();

    let id: TaskId = submitted.json()["id"].as_str().unwrap().parse().unwrap();
    let spans = mesh.until(collector.spans_of(&id, &["submit", "queue", "place", "run", "settle"])).await;
    let [submit, queue, place, run, settle] = ["submit", "queue", "place", "run", "settle"].map(|name| &spans[name][0]);
    assert_eq!(submit.parent, "");
    for span in [queue, place, settle] {
        assert_eq!(span.parent, submit.id, "{span:?}");
    }
    assert_eq!(run.parent, place.id);
    for span in [queue, place, run, settle] {
        assert_eq!(span.trace, submit.trace, "{span:?}");
        assert!(span.began <= span.ended, "{span:?}");
    }
    assert!(submit.began <= run.began && run.ended <= settle.ended);
    let services = [submit, place, run].map(|span| span.service.as_str());
    assert_eq!(services, ["hivemesh-client", "hivemesh-coordinator", "hivemesh-agent"]);
    assert_eq!((run.attribute("hive.agent"), run.attribute("hive.outcome")), ("ada", "succeeded"));
    assert_eq!(place.attribute("hive.strategy"), "least-connections");
    let environment = submitted.json()["body"].as_str().unwrap().to_owned();
    let seen = format!("TRACEPARENT=00-{}-{}-01", run.trace, run.id);
    assert!(environment.lines().any(|line| line == seen), "no {seen} in {environment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_somebody_elses_trace_belongs_to_it_and_its_state_is_carried_through() {
    let collector = Collector::start().await;
    let mesh = traced(&collector).agent("ada", 1, &command_handler("env", &["env"])).start().await;
    let task = new_task("env", "").header("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();

    let result = mesh.run_task(task.header("tracestate", "vendor=1").unwrap()).await;

    let spans = mesh.until(collector.spans_of(&result.id, &["queue", "place", "run", "settle"])).await;
    assert!(spans.values().flatten().all(|span| span.trace == TRACE), "{spans:?}");
    assert_eq!(spans["queue"][0].parent, "00f067aa0ba902b7");
    let environment = String::from_utf8_lossy(&result.body).into_owned();
    assert!(environment.contains("TRACESTATE=vendor=1\n"), "{environment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_a_trace_gets_one_of_its_own() {
    let collector = Collector::start().await;
    let mesh = traced(&collector).agent("ada", 1, BUILTINS).start().await;

    let result = mesh.run("echo", "hello").await;

    let spans = mesh.until(collector.spans_of(&result.id, &["queue", "place", "run", "settle"])).await;
    let [queue, place, run, settle] = ["queue", "place", "run", "settle"].map(|name| &spans[name][0]);
    assert_eq!(queue.parent, "");
    assert_eq!([&place.parent, &settle.parent], [&queue.id, &queue.id]);
    assert_eq!(run.parent, place.id);
    assert!([place, run, settle].iter().all(|span| span.trace == queue.trace), "{spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_stand_beside_each_other_and_each_follows_the_one_before() {
    let collector = Collector::start().await;
    let mesh = traced(&collector).agent("ada", 1, BUILTINS).start().await;
    let task = new_task("fail", "no luck").header("Hive-Max-Attempts", "2").unwrap();

    let result = mesh.run_task(task.header("Hive-Backoff", "10ms").unwrap()).await;

    let spans = mesh.until(collector.spans_of(&result.id, &["queue", "place", "place", "run", "run", "settle"])).await;
    let (places, runs) = (&spans["place"], &spans["run"]);
    let [first, second] = &places[..] else { panic!("{spans:?}") };
    assert_eq!((result.attempts, spans["queue"].len()), (2, 1));
    assert_eq!(first.parent, second.parent);
    assert_eq!((first.follows.as_deref(), second.follows.as_deref()), (None, Some(first.id.as_str())));
    assert_eq!([&runs[0].parent, &runs[1].parent], [&first.id, &second.id]);
    assert!(runs.iter().all(|run| run.error.as_deref() == Some("no luck")), "{runs:?}");
    assert_eq!(spans["settle"][0].attribute("hive.outcome"), "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_trace_that_is_not_sampled_nothing_is_sent() {
    let collector = Collector::start().await;
    let mesh = traced(&collector).agent("ada", 1, &command_handler("env", &["env"])).start().await;
    let unsampled = new_task("env", "").header("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-00")).unwrap();

    let result = mesh.run_task(unsampled).await;
    let after = mesh.run("env", "").await;
    mesh.until(collector.spans_of(&after.id, &["queue", "place", "run", "settle"])).await;

    assert!(collector.all_of(&result.id).is_empty());
    let environment = String::from_utf8_lossy(&result.body).into_owned();
    let seen = environment.lines().find_map(|line| line.strip_prefix("TRACEPARENT=")).unwrap();
    assert!(seen.starts_with(&format!("00-{TRACE}-")) && seen.ends_with("-00"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_spans_and_nothing_else() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mesh = with_variables(nobody).agent("ada", 4, BUILTINS).start().await;

    mesh.submit_all((0..500).map(|i| new_task("echo", i.to_string()))).await;
    mesh.until(mesh_tests::tasks(0)).await;
    let submitted = cli(&mesh, nobody, &["submit", "echo", "hello", "--wait"]).await.succeeded();

    let results = mesh.results().await;
    assert!(results.0.iter().all(|result| result.outcome == Outcome::Succeeded && result.attempts == 1));
    assert_eq!(submitted.stdout, "hello");
    assert!(submitted.stderr.contains("spans were not taken by the collector of traces"), "{submitted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_no_program_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::builder().agent("ada", 1, BUILTINS).start().await;
    let started = Instant::now();

    let submitted = cli(&mesh, silent.local_addr().unwrap(), &["call", "echo", "hello"]).await.succeeded();

    assert_eq!(submitted.stdout, "hello");
    // It waits 2 s for the last spans; a request would take 10.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_task_its_attempt_and_the_same_trace() {
    let mesh = Mesh::builder().env("HIVE_LOG", "coordinator=debug,agent_worker=debug").env("HIVE_LOG_FORMAT", "json");
    let mesh = mesh.agent("ada", 1, BUILTINS).start().await;
    let task = new_task("echo", "hello").header("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();

    let id = mesh.run_task(task).await.id;

    let said = |log: String, message: &str| {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let fields = lines.map(|line| line["fields"].clone());
        let found: Vec<Value> =
            fields.filter(|fields| fields["task"] == id.as_str() && fields["message"] == message).collect();
        if found.is_empty() { Err(format!("nobody said `{message}`")) } else { Ok(found[0].clone()) }
    };
    let coordinator = async |mesh: &Mesh| said(mesh.coordinator(0).log_tail(1000), "attempt ordered");
    let agent = async |mesh: &Mesh| said(mesh.agent("ada").log_tail(1000), "attempt ended");
    let ordered = mesh.until(that("that the coordinator says so", coordinator)).await;
    let ended = mesh.until(that("that the agent says so", agent)).await;
    for fields in [&ordered, &ended] {
        assert_eq!((&fields["trace_id"], &fields["span_id"]), (&TRACE.into(), &"00f067aa0ba902b7".into()), "{fields}");
        assert_eq!(fields["attempt"], 1, "{fields}");
    }
    assert_eq!(ended["outcome"], "succeeded");
}

/// A mesh whose programs send their traces to the collector.
fn traced(collector: &Collector) -> Builder {
    with_variables(collector.address)
}

fn with_variables(address: SocketAddr) -> Builder {
    to(address).iter().fold(Mesh::builder(), |mesh, (name, value)| mesh.env(name, value))
}

/// Runs `coordinator` as somebody who wants traces.
async fn cli(mesh: &Mesh, collector: SocketAddr, args: &[&str]) -> Output {
    let mut command = program::command(&[&["--nats", &mesh.nats_url()], args].concat());
    command.envs(to(collector)).env_remove("TRACEPARENT");
    program::finish(command).await
}

/// A span, as a collector sees it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
    follows: Option<String>,
    error: Option<String>,
    began: u64,
    ended: u64,
    attributes: BTreeMap<String, String>,
}

impl Seen {
    fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map(String::as_str).unwrap_or_default()
    }

    fn read(service: &str, span: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let nanos = |value: &Value| text(value).parse().unwrap();
        let error = text(&span["status"]["message"]);
        Self {
            service: service.to_owned(),
            name: text(&span["name"]),
            trace: text(&span["traceId"]),
            id: text(&span["spanId"]),
            parent: text(&span["parentSpanId"]),
            follows: span["links"][0]["spanId"].as_str().map(str::to_owned),
            error: (!error.is_empty()).then_some(error),
            began: nanos(&span["startTimeUnixNano"]),
            ended: nanos(&span["endTimeUnixNano"]),
            attributes: attributes(span),
        }
    }
}

fn attributes(of: &Value) -> BTreeMap<String, String> {
    let all = of["attributes"].as_array().cloned().unwrap_or_default();
    let value = |value: &Value| value.as_object().and_then(|value| value.values().next().cloned()).unwrap_or_default();
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    all.iter().map(|one| (text(one["key"].clone()), text(value(&one["value"])))).collect()
}

/// Takes spans by OTLP over HTTP, in JSON.
struct Collector {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Seen>>>::default());
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(take)).with_state(Arc::clone(&seen));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, seen, serving }
    }

    /// What was seen of a task, in the order in which it began.
    fn all_of(&self, id: &TaskId) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        let mut spans: Vec<Seen> =
            seen.iter().filter(|span| span.attribute("messaging.message.id") == id.as_str()).cloned().collect();
        spans.sort_by_key(|span| span.began);
        spans
    }

    /// Exactly these were seen of a task, by the operations in their names.
    fn spans_of(&self, id: &TaskId, wanted: &[&str]) -> impl mesh_tests::State<Reached = BTreeMap<String, Vec<Seen>>> {
        that("that the collector has all spans", async move |_: &Mesh| {
            let (mut spans, mut names) = (BTreeMap::<String, Vec<Seen>>::new(), Vec::new());
            for span in self.all_of(id) {
                let operation = span.name.split(' ').next().unwrap_or_default().to_owned();
                names.push(operation.clone());
                spans.entry(operation).or_default().push(span);
            }
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            names.sort_unstable();
            if names == wanted { Ok(spans) } else { Err(format!("{names:?}")) }
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(seen): State<Arc<Mutex<Vec<Seen>>>>, body: String) -> axum::Json<Value> {
    let body: Value = serde_json::from_str(&body).unwrap();
    let list = |of: &Value, name: &str| of[name].as_array().cloned().unwrap_or_default();
    for resource in list(&body, "resourceSpans") {
        let service = attributes(&resource["resource"]).remove("service.name").unwrap_or_default();
        let spans = list(&resource, "scopeSpans").into_iter().flat_map(|scope| list(&scope, "spans"));
        seen.lock().unwrap().extend(spans.map(|span| Seen::read(&service, &span)));
    }
    axum::Json(json!({}))
}
