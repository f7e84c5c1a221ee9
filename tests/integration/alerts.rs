//! What is not as it should be is told once, whoever leads; and what somebody said about it holds.

use mesh_tests::state::that;
use mesh_tests::{Mesh, State};
use serde_json::{Value, json};
use shared::api::Event;

/// Looks often, and takes nothing for passing.
const CONFIG: &str = "[alerting]\ninterval = \"100ms\"\ntakeover-grace = \"3s\"\n\
                      [alerts.no-capable-agent]\nfor = \"0s\"\nkeep-firing-for = \"200ms\"\n";

const RESIZE: &str = "[[handler]]\nkind = \"resize\"\nbuiltin = \"echo\"\n";

const ALERT: &str = "no-capable-agent:resize";

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_nobody_can_do_fires_and_resolves() {
    let mut mesh = Mesh::builder().config(CONFIG).start().await;
    let id = mesh.submit("resize", "body").await;

    let alert = mesh.until(fires()).await;
    mesh.until(told(&["firing"])).await;
    mesh.add_agent("ada", 2, RESIZE);
    mesh.until(told(&["firing", "resolved"])).await;

    assert_eq!((&alert["severity"], &alert["labels"]), (&"critical".into(), &json!({"kind": "resize"})));
    assert_eq!(alert["summary"], "1 tasks of kind resize wait that no agent could ever run");
    assert_eq!(mesh.wait(&id).await.body, "body");
    let events = alert_events(&mesh).await;
    assert_eq!(events[0].kind.as_deref(), Some("resize"));
    assert_eq!(events[1].data.as_ref().unwrap()["state"], "resolved");
    assert_eq!(ask(&mesh, "list", json!({})).await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_leader_does_not_tell_again_what_fires() {
    let mut mesh = Mesh::builder().config(CONFIG).coordinators(2).start().await;
    mesh.submit("resize", "").await;
    mesh.until(told(&["firing"])).await;

    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();
    mesh.until(fires()).await;
    mesh.until(looked_at()).await;
    mesh.add_agent("ada", 2, RESIZE);
    mesh.until(told(&["firing", "resolved"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_about_alerts_outlives_the_leader() {
    let mut mesh = Mesh::builder().config(CONFIG).coordinators(2).start().await;
    let asked = json!({"matchers": ["kind=resize"], "for": "1h", "by": "ada", "comment": "known"});
    let silence = ask(&mesh, "silence", asked).await;
    mesh.submit("resize", "").await;
    let quiet = mesh.until(fires()).await;
    assert_eq!(quiet["silenced_by"], json!([silence["id"]]));

    change_leader(&mut mesh).await;
    assert_eq!(mesh.until(fires()).await["silenced_by"], json!([silence["id"]]));
    mesh.until(looked_at()).await;
    mesh.until(told(&["silenced"])).await;

    let ended = mesh.cli(&["alerts", "unsilence", silence["id"].as_str().unwrap()]).await.succeeded();
    assert_eq!(ended.stdout.trim(), silence["id"]);
    mesh.until(told(&["silenced", "unsilenced", "firing"])).await;
    mesh.cli(&["alerts", "ack", ALERT, "--by", "bob", "--comment", "on it"]).await.succeeded();
    change_leader(&mut mesh).await;

    let known = mesh.until(fires()).await;
    assert_eq!((&known["acknowledged"]["by"], &known["acknowledged"]["comment"]), (&"bob".into(), &"on it".into()));
    mesh.until(looked_at()).await;
    mesh.until(told(&["silenced", "unsilenced", "firing", "acknowledged"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_looked_at_from_a_shell() {
    let mesh = Mesh::builder().config(CONFIG).start().await;
    mesh.submit("resize", "").await;
    mesh.until(fires()).await;

    let listed = mesh.cli(&["alerts", "list", "--json"]).await.succeeded().json();
    let table = mesh.cli(&["alerts", "list"]).await.succeeded().stdout;
    let rules = mesh.cli(&["alerts", "rules"]).await.succeeded().stdout;
    let silenced = mesh.cli(&["alerts", "silence", "rule=no-*", "--for", "30m"]).await.succeeded();
    let silences = mesh.cli(&["alerts", "silences"]).await.succeeded().stdout;
    let open = mesh.cli(&["alerts", "list", "--open"]).await.succeeded();
    let bad = mesh.cli(&["alerts", "silence", "kind"]).await;
    let unknown = mesh.cli(&["alerts", "ack", "nothing"]).await;

    assert_eq!(listed["items"][0]["id"], ALERT);
    assert!(table.contains(ALERT) && table.contains("critical"), "{table}");
    assert!(
        rules.contains("oldest-task") && rules.contains("max hive_queue_oldest_age_seconds by kind > 10m"),
        "{rules}"
    );
    assert!(silences.contains(silenced.stdout.trim()) && silences.contains("rule=no-*"), "{silences}");
    assert_eq!((open.stdout.as_str(), open.stderr.trim()), ("", "there are no such alerts"));
    assert!(bad.code == 1 && bad.stderr.contains("is not a condition on a label"), "{bad:?}");
    assert!(unknown.code == 1 && unknown.stderr.contains("alert.list"), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_cannot_be_is_told_with_its_place_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("coordinator.toml");
    std::fs::write(&file, "[alerts.deep]\nmetric = \"hive_queue_depth\"\n").unwrap();

    let refused = mesh_tests::program::run(&["serve", "--config", file.to_str().unwrap(), "--print-config"]).await;

    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("[alerts.deep] above"), "{refused:?}");
}

/// Kills who leads, and starts it again to stand by.
async fn change_leader(mesh: &mut Mesh) {
    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();
    mesh.until(that("that another leads", async move |mesh: &Mesh| match mesh.leader().await {
        now if now != leader => Ok(()),
        _ => Err("the same".to_owned()),
    }))
    .await;
    mesh.local().restart_coordinator(leader).await.unwrap();
}

async fn ask(mesh: &Mesh, verb: &str, asked: Value) -> Value {
    mesh.ask("alert", verb, asked).await.unwrap()
}

/// The alert fires; what it comes to is how it is shown.
fn fires() -> impl State<Reached = Value> {
    that("that nobody can do `resize`", async |mesh: &Mesh| {
        let list = mesh.ask("alert", "list", json!({ "state": "firing" })).await?;
        let found = list["items"].as_array().into_iter().flatten().find(|alert| alert["id"] == ALERT).cloned();
        found.ok_or_else(|| list.to_string())
    })
}

/// The leader has looked at the rules, and found the tasks that wait.
fn looked_at() -> impl State<Reached = ()> {
    that("that the leader has looked", async |mesh: &Mesh| {
        let list = mesh.ask("alert", "rules", json!({})).await?;
        let mut rules = list["items"].as_array().into_iter().flatten();
        let has_looked = rules.any(|rule| rule["id"] == "no-capable-agent" && rule["series"] == 1);
        if has_looked { Ok(()) } else { Err(list.to_string()) }
    })
}

/// Exactly this was told about alerts.
fn told(whats: &[&str]) -> impl State<Reached = ()> {
    let whats: Vec<String> = whats.iter().map(|what| (*what).to_owned()).collect();
    that("that it is told", async move |mesh: &Mesh| {
        let told: Vec<String> = alert_events(mesh).await.into_iter().map(|event| event.what).collect();
        if told == whats { Ok(()) } else { Err(format!("{told:?}")) }
    })
}

async fn alert_events(mesh: &Mesh) -> Vec<Event> {
    let events = mesh.read_stream("EVENTS").await;
    let events = events.iter().map(|message| serde_json::from_slice::<Event>(&message.payload).unwrap());
    events.filter(|event| event.topic == "alert").collect()
}
