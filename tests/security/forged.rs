//! What somebody tries who has the key of one user and wants to be another: nothing of it is accepted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::HeaderMap;
use futures_util::TryStreamExt as _;
use mesh_tests::mesh::PATIENCE;
use shared::Client;
use shared::connect::{Counters, Patience, Settings};

use crate::guard::{Guard, GuardedMesh};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_end_take_or_answer_anothers_task() {
    let guard = Guard::new(&[]).await;
    let mesh = guard.mesh(1, &["ada"]).await;
    mesh.cli("submitter", &["submit", "sleep", "10m", "--id", "victim"]).await.succeeded();
    mesh.until_task("victim", "running").await;
    let before = state(&mesh).await;

    let lanes = lanes(&guard, &mesh).await;
    assert!(!lanes.is_empty());
    for title in ["agent-bob", "submitter", "reader", "operator"] {
        let (user, counters) = connect(&guard, &mesh, title).await;
        let mut tried = 0;
        for lane in &lanes {
            for ack in ["+ACK", "-NAK", "+TERM"] {
                let subject = format!("$JS.ACK.HIVE_TASKS.{lane}.1.1.1.1.0");
                user.nats().publish(subject, ack.into()).await.unwrap();
                tried += 1;
            }
        }
        for (subject, headers, body) in forgeries() {
            user.nats().publish_with_headers(subject, headers, body.into()).await.unwrap();
            tried += 1;
        }
        let refused = || counters.violations.load(Ordering::Relaxed);
        mesh.until(&format!("{title} is refused all {tried} of it"), async || refused() == tried).await;
    }

    assert_eq!(state(&mesh).await, before);
    assert_eq!(mesh.cli("submitter", &["call", "echo", "hi"]).await.succeeded().stdout, "hi");
    mesh.cli("submitter", &["tasks", "cancel", "victim"]).await.succeeded();
    mesh.until_task("victim", "settled").await;
}

/// The server and the coordinator write their answers wherever a request wants them, by their own right.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_no_lever() {
    let guard = Guard::new(&[]).await;
    let mesh = guard.mesh(1, &["ada"]).await;
    // Its body would purge a stream, and drain an agent.
    mesh.cli("submitter", &["submit", "echo", "{}", "--id", "lever", "--wait"]).await.succeeded();
    mesh.cli("submitter", &["submit", "sleep", "10m", "--id", "victim"]).await.succeeded();
    mesh.until_task("victim", "running").await;
    let before = state(&mesh).await;

    let levers = [
        "$JS.API.STREAM.PURGE.HIVE_TASKS",
        "$JS.API.STREAM.DELETE.HIVE_TASKS",
        "$KV.HIVE_LEASE.leader",
        "$KV.HIVE_SETTINGS.kinds.sleep",
        "hive.result.victim",
        "hive.agent.ada.bye",
        "hive.inbox.ada.drain",
        "hive.dead.echo",
    ];
    for title in ["submitter", "reader"] {
        let (user, _) = connect(&guard, &mesh, title).await;
        for lever in levers {
            for asked in ["$JS.API.DIRECT.GET.HIVE_RESULTS.hive.result.lever", "hive.api.task.get"] {
                user.nats().publish_with_reply(asked, lever, r#"{"id":"lever"}"#.into()).await.unwrap();
                user.nats().publish_with_reply(asked, lever, "".into()).await.unwrap();
            }
        }
        // The server takes what comes on a connection in order.
        user.nats().request("hive.api.task.get", r#"{"id":"victim"}"#.into()).await.unwrap();
    }
    let (submitter, _) = connect(&guard, &mesh, "submitter").await;
    for (n, lever) in levers.iter().enumerate() {
        let id = format!("pulled-{n}");
        let subject = format!("hive.task.echo.normal.{id}");
        submitter.nats().publish_with_reply(subject, *lever, "{}".into()).await.unwrap();
        submitter.nats().publish_with_reply("hive.call.echo", *lever, "{}".into()).await.unwrap();
        if !lever.starts_with('$') {
            let mut headers = HeaderMap::new();
            headers.insert("Hive-Reply-To", *lever);
            let subject = format!("hive.task.echo.normal.header-{n}");
            submitter.nats().publish_with_headers(subject, headers, "{}".into()).await.unwrap();
            submitter.wait(&format!("header-{n}").parse().unwrap(), PATIENCE).await.unwrap();
        }
        submitter.wait(&id.parse().unwrap(), PATIENCE).await.unwrap();
    }

    assert_eq!(state(&mesh).await, before);
    let set = mesh.json("reader", &["queues", "get", "sleep"]).await;
    assert!(set["running"] == 1, "{set}");
    mesh.cli("submitter", &["tasks", "cancel", "victim"]).await.succeeded();
    mesh.until_task("victim", "settled").await;
    assert_eq!(mesh.task("victim").await["outcome"], "cancelled");
}

/// Everything by which a task, an agent or the mesh could be led astray.
fn forgeries() -> Vec<(&'static str, HeaderMap, &'static str)> {
    let mut done = HeaderMap::new();
    for (name, value) in [
        ("Hive-Task", "victim"),
        ("Hive-Sequence", "1"),
        ("Hive-Kind", "sleep"),
        ("Hive-Attempt", "1"),
        ("Hive-Epoch", "1"),
        ("Hive-Incarnation", "1"),
        ("Hive-Outcome", "succeeded"),
    ] {
        done.insert(name, value);
    }
    let mut json = HeaderMap::new();
    json.insert("Content-Type", "application/json");
    vec![
        ("hive.result.victim", done.clone(), "forged"),
        ("hive.agent.ada.done", done, "forged"),
        ("hive.agent.ada.bye", json.clone(), r#"{"incarnation":99999999999999,"returned":[]}"#),
        ("hive.agent.ada.hello", json.clone(), r#"{"incarnation":99999999999999,"slots":9,"kinds":["echo"]}"#),
        ("hive.agent.ada.beat", json.clone(), r#"{"incarnation":99999999999999,"sequence":1,"holds":[]}"#),
        ("hive.agent.eve.hello", json.clone(), r#"{"incarnation":1,"slots":9,"kinds":["echo"]}"#),
        ("hive.inbox.ada.cancel", json.clone(), r#"{"task":"victim","attempt":9,"epoch":99999999,"reason":"forged"}"#),
        ("hive.inbox.ada.drain", json, r#"{"epoch":99999999}"#),
        ("hive.dead.sleep", HeaderMap::new(), "forged"),
        ("$KV.HIVE_LEASE.leader", HeaderMap::new(), r#"{"instance":"eve"}"#),
        ("$KV.HIVE_SETTINGS.kinds.echo", HeaderMap::new(), r#"{"max-running":1}"#),
        ("$JS.API.STREAM.PURGE.HIVE_TASKS", HeaderMap::new(), "{}"),
        ("$JS.API.STREAM.DELETE.HIVE_TASKS", HeaderMap::new(), ""),
        ("$JS.API.STREAM.MSG.DELETE.HIVE_TASKS", HeaderMap::new(), r#"{"seq":1}"#),
    ]
}

/// All that a forgery could have changed: the task, the agents, who leads, dead letters.
async fn state(mesh: &GuardedMesh<'_>) -> serde_json::Value {
    let task = mesh.task("victim").await;
    let agents = mesh.json("operator", &["agents", "list"]).await;
    let of_agent = |agent: &serde_json::Value| {
        serde_json::json!([agent["id"], agent["state"], agent["incarnation"], agent["slots"]])
    };
    let agents: Vec<_> = agents["items"].as_array().unwrap().iter().map(of_agent).collect();
    let status = mesh.json("operator", &["status"]).await;
    let dead = mesh.json("operator", &["dead", "list"]).await;
    serde_json::json!({
        "task": [task["state"], task["attempts"], task["agent"]],
        "agents": agents,
        "leader": [status["instance"], status["epoch"]],
        "dead": dead["items"],
    })
}

async fn connect(guard: &Guard, mesh: &GuardedMesh<'_>, title: &str) -> (Client, Arc<Counters>) {
    let settings = Settings { url: mesh.local.nats_url(), ..guard.settings(title) };
    let (nats, counters) = settings.connect_counted(title, Patience::Limited(PATIENCE)).await.unwrap();
    (Client::new(nats, settings.mesh), counters)
}

async fn lanes(guard: &Guard, mesh: &GuardedMesh<'_>) -> Vec<String> {
    let (client, _) = connect(guard, mesh, "operator").await;
    let stream = client.jetstream().get_stream_no_info("HIVE_TASKS").await.unwrap();
    stream.consumer_names().try_collect().await.unwrap()
}
