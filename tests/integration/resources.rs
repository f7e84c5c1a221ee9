//! What agents offer, what a command may take of it, and what it has used.

use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt as _;
use mesh_tests::state::that;
use mesh_tests::{BUILTINS, Mesh, State, agent, command_handler, new_task, queue, task, tasks};
use reqwest::{Response, StatusCode};
use scheduler::KindConfig;
use serde_json::{Value, json};
use shared::api::{Applied, Event, Finding, List, Recommendation, ResourceUse, Task, UnmetDemand};
use shared::client::NewTask;
use shared::codec::Format;
use shared::message::Hello;
use shared::{Outcome, TaskId};

/// Takes 200 MiB and keeps them, which no command here may.
const HOG: &str = "@x = map { q(x) x (1048576 + @ARGV) } 1..200; sleep 600";
/// Takes 20 MiB for as many seconds as its task's body says.
const MODEST: &str = "$nap = <STDIN>; @x = map { q(x) x (1048576 + @ARGV) } 1..20; select(undef, undef, undef, $nap)";
/// Takes a fifth of a second of CPU.
const BUSY: &str = "1 while (times)[0] < 0.2";
/// What the kind reserves that takes little: far more than that.
const GIB: u64 = 1 << 30;
/// So many attempts are evidence enough to recommend something by.
const ENOUGH: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_what_it_offers_and_what_its_handlers_need() {
    let mut mesh = Mesh::builder().start().await;
    let mut said = listen(&mesh, "hive.agent.ada.hello").await;
    let of_the_agent = "[agent]\ncpu = \"1500m\"\nmemory = \"3Gi\"\nresources = { gpus = 2, licences = 1 }\n";
    let of_a_handler = "memory = \"64Mi\"\nresources = { gpus = 1 }\n";

    mesh.add_agent("ada", 2, &format!("{of_the_agent}{BUILTINS}{}{of_a_handler}", command_handler("train", &["cat"])));

    let hello: Hello = Format::MessagePack.decode(&said.next().await.unwrap().payload).unwrap();
    assert_eq!((hello.capacity.cpu_millis, hello.capacity.memory_bytes), (1500, 3 << 30));
    assert_eq!(hello.resources.to_string(), "gpus=2, licences=1");
    let [(kind, needed)] = Vec::from_iter(&hello.needs)[..] else { panic!("{hello:?}") };
    assert_eq!((kind.as_str(), needed.resources.memory_bytes, needed.countable.get("gpus")), ("train", 64 << 20, 1));
    assert!(["cgroup", "watch"].contains(&hello.enforcement.as_str()), "{hello:?}");
    mesh.until(agent("ada").healthy()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_more_memory_than_its_handler_says_is_ended_and_its_neighbours_go_on() {
    let notes = tempfile::tempdir().unwrap();
    let over = notes.path().join("over");
    let neighbour = format!("while ! test -e {}; do sleep 0.02; done; cat", over.display());
    let config = [
        command_handler("neighbour", &["sh", "-c", &neighbour]),
        format!("{}memory = \"64Mi\"\n", command_handler("hog", &["perl", "-e", HOG])),
    ];
    let mesh = Mesh::builder().agent("ada", 4, &config.concat()).start().await;
    let neighbours: Vec<NewTask> = ["a", "b", "c"].map(|body| new_task("neighbour", body)).into();
    mesh.submit_all(neighbours.clone()).await;
    for neighbour in &neighbours {
        mesh.until(task(&neighbour.id).running()).await;
    }

    let result = mesh.run_task(once(new_task("hog", ""))).await;
    std::fs::write(over, "").unwrap();

    let error = result.error.unwrap();
    assert_eq!((result.outcome, result.attempts), (Outcome::Failed, 1), "{error}");
    assert!(error.starts_with("out of memory: ") && error.contains("the limit is 64.0 MiB"), "{error}");
    for neighbour in neighbours {
        let result = mesh.wait(&neighbour.id).await;
        assert_eq!((result.outcome, result.attempts, result.body), (Outcome::Succeeded, 1, neighbour.body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_says_that_it_needs_is_what_it_may_take_wherever_its_processes_go() {
    let script = format!("setsid -f perl -e '{HOG}'; exec sleep 600");
    let mesh = Mesh::builder().agent("ada", 4, &command_handler("hog", &["sh", "-c", &script])).start().await;

    let result = mesh.run_task(once(new_task("hog", "")).header("Hive-Memory", "100Mi").unwrap()).await;

    let error = result.error.unwrap();
    assert!(error.starts_with("out of memory: ") && error.contains("the limit is 100.0 MiB"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_more_processes_than_it_may_have_is_ended() {
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; wait; wait";
    let config = format!("{}processes = 6\n", command_handler("many", &["sh", "-c", script]));
    let mesh = Mesh::builder().agent("ada", 4, &config).start().await;

    let result = mesh.run_task(once(new_task("many", ""))).await;

    assert!(result.error.as_ref().unwrap().starts_with("too many processes: "), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn done_says_what_a_command_has_used() {
    let script = "@x = map { q(x) x (1048576 + @ARGV) } 1..50; 1 while (times)[0] < 0.2";
    let config = format!("{BUILTINS}{}", command_handler("work", &["perl", "-e", script]));
    let mesh = Mesh::builder().agent("ada", 4, &config).start().await;
    let mut said = listen(&mesh, "hive.agent.ada.done").await;

    mesh.run("work", "").await;
    let work = said.next().await.unwrap().headers.unwrap();
    mesh.run("echo", "").await;
    let echo = of_kind("echo", &mut said).await;

    let used = |name: &str| work.get(name).unwrap().as_str().parse::<u64>().unwrap();
    assert!((200..5_000).contains(&used("Hive-Cpu-Ms")), "{work:?}");
    assert!((50 << 20..100 << 20).contains(&used("Hive-Memory-Peak")), "{work:?}");
    used("Hive-Io-Bytes");
    assert!(["Hive-Cpu-Ms", "Hive-Memory-Peak", "Hive-Io-Bytes"].iter().all(|name| echo.get(*name).is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_agent_is_given_more_tasks_at_once_than_it_has_countable_resources_for() {
    let mesh = Mesh::builder().agent("ada", 4, &with_gpus(2)).start().await;
    mesh.submit_all((0..5).map(|_| counted("gpus=1"))).await;

    mesh.until(queue("sleep").has(2, 3)).await;

    let ada = mesh.until(agent("ada").holds(2)).await;
    assert_eq!((ada.countables.get("gpus"), ada.countables_reserved.get("gpus")), (2, 2), "{ada:?}");
    assert_eq!(mesh.run("echo", "in a free slot").await.body, "in a free slot");
    cancel(&mesh, &any_that_runs(&mesh).await).await;
    mesh.until(queue("sleep").has(2, 2)).await;
    let ada = mesh.until(agent("ada").holds(2)).await;
    assert_eq!(ada.countables_reserved.get("gpus"), 2, "{ada:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_enough_of_is_told_and_runs_once_somebody_has() {
    let mut mesh = Mesh::builder().agent("ada", 4, &with_gpus(2)).start().await;
    let greedy = counted("gpus=3");
    mesh.submit_task(&greedy).await;
    mesh.until(task(&greedy.id).waiting()).await;

    let unmet = mesh.until(unmet_demands(1)).await.remove(0);
    let event = mesh.until(told("task", "unmet")).await;

    assert_eq!((unmet.kind.as_str(), unmet.tasks, unmet.reserved.countable.get("gpus")), ("sleep", 1, 3));
    assert!(unmet.reason.contains("gpus"), "{unmet:?}");
    assert_eq!(event.task.as_deref(), Some(greedy.id.as_str()), "{event:?}");
    assert_eq!(event.detail, Some(unmet.reason));
    mesh.add_agent("bob", 4, &with_gpus(4));
    mesh.until(task(&greedy.id).running_on("bob")).await;
    mesh.until(unmet_demands(0)).await;
    mesh.until(told("task", "met")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_says_that_it_needs_is_reserved_for_each_task_that_says_nothing_itself() {
    let config = format!("{}memory = \"64Mi\"\n", command_handler("nap", &["sleep", "600"]));
    let mesh = Mesh::builder().agent("ada", 4, &config).start().await;
    mesh.submit_all((0..2).map(|_| new_task("nap", ""))).await;
    let ada = mesh.until(agent("ada").holds(2)).await;
    assert_eq!(ada.reserved.memory_bytes, (64 + 64) << 20, "{ada:?}");

    mesh.submit_task(&new_task("nap", "").header("Hive-Memory", "100Mi").unwrap()).await;

    let ada = mesh.until(agent("ada").holds(3)).await;
    assert_eq!(ada.reserved.memory_bytes, (64 + 64 + 100) << 20, "{ada:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_reserves_far_more_memory_than_it_takes_is_found() {
    let (mesh, found) = kind_with_evidence("memory", "1Gi", MODEST).await;

    assert_eq!((found.finding, found.now), (Finding::OverAllocated, GIB), "{found:?}");
    assert!((20 << 20..GIB / 2).contains(&found.peak) && found.p50 <= found.p95 && found.p95 <= found.peak);
    assert!((found.peak..GIB / 2).contains(&found.suggested), "{found:?}");
    assert_eq!(found.step, Some(GIB / 2), "no more than half is taken away at once: {found:?}");
    let shown = resource_use(&mesh).await.unwrap();
    let work = shown.kinds.iter().find(|kind| kind.kind.as_str() == "work").unwrap();
    assert_eq!((work.samples, work.out_of_memory), (ENOUGH as u64, 0), "{work:?}");
    let memory = work.resources.iter().find(|used| used.resource == "memory").unwrap();
    assert_eq!((memory.reserved, memory.peak), (GIB, found.peak), "{memory:?}");
    assert!(memory.efficiency.unwrap() < 0.5, "{memory:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_would_be_reserved_and_changes_nothing() {
    let (mesh, found) = kind_with_evidence("memory", "1Gi", MODEST).await;

    let answer = post(&mesh, "/v1/recommendations/work?resource=memory&dry_run=true").await;

    assert_eq!(answer.status(), StatusCode::OK);
    let applied: Applied = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!((applied.kind.as_str(), followed(&applied)), ("work", vec![("memory", found.step)]));
    assert_eq!(reserved_for_one(&mesh).await, GIB);
    assert_eq!(memory_of("work", &mesh).await, Ok(Some(GIB)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recommended_is_reserved_once_it_is_applied() {
    let (mesh, found) = kind_with_evidence("memory", "1Gi", MODEST).await;
    assert_eq!(reserved_for_one(&mesh).await, GIB);

    let applied = mesh.ask("resource", "apply", json!({ "id": "work", "resource": "memory" })).await.unwrap();
    let applied: Applied = serde_json::from_value(applied).unwrap();

    assert_eq!(followed(&applied), [("memory", found.step)]);
    let step = found.step.unwrap();
    assert!(step >= found.now / 2 && step < found.now, "{found:?}");
    mesh.until(that("that the kind goes by it", async |mesh: &Mesh| {
        let memory = memory_of("work", mesh).await?;
        if memory == Some(step) { Ok(()) } else { Err(format!("{memory:?}")) }
    }))
    .await;
    assert_eq!(reserved_for_one(&mesh).await, step);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_takes_more_cpu_than_it_reserves_is_found() {
    let (_mesh, found) = kind_with_evidence("cpu", "50m", BUSY).await;

    assert_eq!((found.finding, found.now), (Finding::UnderAllocated, 50), "{found:?}");
    assert!(found.p95 > 50 && found.suggested > 50 && found.samples >= 20, "{found:?}");
    assert!(found.step.is_some_and(|step| (51..=200).contains(&step)), "no more than four times as much: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_of_a_kind_of_which_nothing_is_known() {
    let config = "[kinds.echo]\nmemory = \"1Gi\"\n";
    let mesh = Mesh::builder().config(config).agent("ada", 4, BUILTINS).start().await;

    let by_nats = mesh.ask("resource", "apply", json!({ "id": "echo" })).await.unwrap_err();
    let over_http = post(&mesh, "/v1/recommendations/echo").await;

    assert_eq!(over_http.status(), StatusCode::CONFLICT);
    let problem: Value = serde_json::from_str(&over_http.text().await.unwrap()).unwrap();
    assert_eq!(problem["detail"], by_nats);
    assert!(by_nats.contains("`echo`"), "{by_nats}");
    assert_eq!(memory_of("echo", &mesh).await, Ok(Some(GIB)));
}

/// A mesh in which enough tasks of the kind `work` have run by this program to judge what each reserves of a resource,
/// and that judgement.
async fn kind_with_evidence(resource: &'static str, reserved: &str, program: &str) -> (Mesh, Recommendation) {
    let reserves = format!("[kinds.work]\n{resource} = \"{reserved}\"\n");
    // Control groups would not let it take more CPU than it reserves.
    let offers = "[agent]\ncpu = \"8\"\nmemory = \"8Gi\"\nlimits = \"watch\"\n";
    let agent = format!("{offers}{}", command_handler("work", &["perl", "-e", program]));
    let mesh = Mesh::builder().config(&reserves).agent("ada", 4, &agent).start().await;
    mesh.submit_all((0..ENOUGH).map(|_| new_task("work", "0.05"))).await;
    mesh.until(tasks(0)).await;
    assert!(mesh.results().await.0.iter().all(|result| result.outcome == Outcome::Succeeded && result.attempts == 1));
    let found = mesh.until(recommended("work", resource)).await;
    (mesh, found)
}

/// Something is recommended of what a kind reserves of a resource.
fn recommended(kind: &'static str, resource: &'static str) -> impl State<Reached = Recommendation> {
    that("that something is recommended", async move |mesh: &Mesh| {
        let answer = mesh.ask("resource", "recommend", json!({})).await?;
        let all: List<Recommendation> = serde_json::from_value(answer).map_err(|error| error.to_string())?;
        let of_kind = |found: &&Recommendation| found.kind.as_ref().is_some_and(|named| named.as_str() == kind);
        let found = all.items.iter().filter(of_kind).find(|found| found.resource == resource).cloned();
        found.ok_or_else(|| format!("{all:?}"))
    })
}

/// The resources that were set, and to how much.
fn followed(applied: &Applied) -> Vec<(&str, Option<u64>)> {
    applied.followed.iter().map(|found| (found.resource.as_str(), found.step)).collect()
}

/// How much memory a task of the kind reserves by its settings.
async fn memory_of(kind: &str, mesh: &Mesh) -> Result<Option<u64>, String> {
    let settings = mesh.look_at_queue(kind).await?.settings;
    let settings: KindConfig = serde_json::from_value(settings).map_err(|error| error.to_string())?;
    Ok(settings.memory)
}

/// How much memory is reserved for a task of the kind `work` that comes now.
async fn reserved_for_one(mesh: &Mesh) -> u64 {
    let id = mesh.submit("work", "600").await;
    mesh.until(task(&id).running()).await;
    let ada = mesh.until(agent("ada").holds(1)).await;
    cancel(mesh, &id).await;
    mesh.until(agent("ada").holds(0)).await;
    ada.reserved.memory_bytes
}

async fn resource_use(mesh: &Mesh) -> Result<ResourceUse, String> {
    let answer = mesh.ask("resource", "list", json!({})).await?;
    serde_json::from_value(answer).map_err(|error| error.to_string())
}

/// So many demands are shown that nobody can meet.
fn unmet_demands(count: usize) -> impl State<Reached = Vec<UnmetDemand>> {
    that(&format!("that {count} demands are unmet"), async move |mesh: &Mesh| {
        let unmet = resource_use(mesh).await?.unmet;
        if unmet.len() == count { Ok(unmet) } else { Err(format!("{unmet:?}")) }
    })
}

/// This has been told.
fn told(topic: &'static str, what: &'static str) -> impl State<Reached = Event> {
    that("that the event is told", async move |mesh: &Mesh| {
        let events = mesh.read_stream("EVENTS").await;
        let mut events = events.iter().filter_map(|event| serde_json::from_slice::<Event>(&event.payload).ok());
        let found = events.find(|event| event.topic == topic && event.what == what);
        found.ok_or_else(|| format!("nobody has told `{topic}.{what}`"))
    })
}

/// A task of the kind `sleep` that somebody has started.
async fn any_that_runs(mesh: &Mesh) -> TaskId {
    let answer = mesh.ask("task", "list", json!({ "kind": "sleep", "state": "running" })).await.unwrap();
    let running: List<Task> = serde_json::from_value(answer).unwrap();
    running.items[0].id.clone()
}

async fn cancel(mesh: &Mesh, id: &TaskId) {
    mesh.cli(&["tasks", "cancel", id.as_str()]).await.succeeded();
}

/// A long task that needs this of what is counted.
fn counted(resources: &str) -> NewTask {
    new_task("sleep", "10m").header("Hive-Resources", resources).unwrap()
}

/// The settings of an agent with so many of a resource that is counted.
fn with_gpus(count: u32) -> String {
    format!("[agent]\nresources = {{ gpus = {count} }}\n{BUILTINS}")
}

async fn post(mesh: &Mesh, path: &str) -> Response {
    reqwest::Client::new().post(format!("{}{path}", mesh.http())).send().await.unwrap()
}

async fn listen(mesh: &Mesh, subject: &'static str) -> Subscriber {
    let client = mesh.plain_client().await;
    let said = client.subscribe(subject).await.unwrap();
    client.flush().await.unwrap();
    said
}

/// A `done` may be said again.
async fn of_kind(kind: &str, said: &mut Subscriber) -> HeaderMap {
    loop {
        let Message { headers, .. } = said.next().await.unwrap();
        if let Some(headers) = headers.filter(|headers| headers.get("Hive-Kind").is_some_and(|is| is.as_str() == kind))
        {
            return headers;
        }
    }
}

fn once(task: NewTask) -> NewTask {
    task.header("Hive-Max-Attempts", "1").unwrap()
}
