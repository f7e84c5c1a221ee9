//! Events as they happen: nothing is lost between two connections, whoever leads.

use mesh_tests::sse::Frame;
use mesh_tests::state::that;
use mesh_tests::{BUILTINS, EventSource, Mesh, new_task, task};
use reqwest::StatusCode;

mod load;

/// More than a coordinator keeps at hand.
const MANY: u64 = 6000;

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_they_happen_and_only_those_that_are_meant() {
    let mesh = Mesh::start().await;
    let mut dead = EventSource::open(&stream(&mesh, "?topic=task&what=dead&kind=fail"), None).await;
    let mut by_accept = EventSource::open(&format!("{}/v1/events?topic=task", mesh.http()), None).await;
    mesh.tell(0..1).await;

    let failing = new_task("fail", "no luck").header("Hive-Max-Attempts", "1").unwrap();
    let result = mesh.run_task(failing).await;

    let event = dead.next().await.unwrap();
    assert_eq!((&event.data["task"], &event.data["detail"]), (&result.id.as_str().into(), &"no luck".into()));
    assert_eq!(by_accept.next().await.unwrap().number(), 0);
    assert_eq!(by_accept.next().await.unwrap(), event);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_comes_back_misses_nothing() {
    let mesh = Mesh::start().await;
    let url = stream(&mesh, "?what=noted");
    let mut reader = EventSource::open(&url, None).await;
    mesh.tell(0..20).await;
    let first = reader.take(10).await;

    let last_id = reader.last_id();
    drop(reader);
    mesh.tell(20..40).await;
    let rest = EventSource::open(&url, last_id).await.take(30).await;

    let numbers: Vec<u64> = first.iter().chain(&rest).map(Frame::number).collect();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_misses_nothing_when_the_leader_dies() {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 4, BUILTINS).start().await;
    let leader = mesh.leader().await;
    let url = |index: usize| format!("http://{}/v1/events/stream?what=noted", mesh.http_address(index));
    let mut reader = EventSource::open(&url(leader), None).await;
    let mut numbers = Vec::new();

    mesh.tell(0..100).await;
    numbers.extend(reader.take(50).await.iter().map(Frame::number));
    mesh.coordinator(leader).kill9();
    mesh.tell(100..200).await;
    while let Some(frame) = reader.next().await {
        numbers.push(frame.number());
    }
    let mut reader = EventSource::open(&url(1 - leader), reader.last_id()).await;
    mesh.tell(200..300).await;
    while numbers.last() != Some(&299) {
        numbers.push(reader.next().await.unwrap().number());
    }

    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_far_behind_catches_up_from_the_stream() {
    let mesh = Mesh::start().await;
    // Somebody is ahead of it already.
    let mut ahead = EventSource::open(&stream(&mesh, "?what=noted"), None).await;
    mesh.tell(0..MANY).await;

    let behind = EventSource::open(&stream(&mesh, ""), Some(0)).await.take(MANY as usize).await;
    let noted = ahead.take(MANY as usize).await;

    let ids: Vec<u64> = behind.iter().map(|frame| frame.id).collect();
    assert_eq!(ids, (1..=MANY).collect::<Vec<_>>());
    assert!(noted.iter().map(Frame::number).eq(0..MANY));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_does_not_keep_any_more_is_told_as_a_gap() {
    let mesh = Mesh::start().await;
    mesh.tell(0..50).await;
    let events = mesh.client().jetstream().get_stream("HIVE_EVENTS").await.unwrap();
    events.purge().sequence(20).await.unwrap();

    let mut reader = EventSource::open(&stream(&mesh, ""), Some(5)).await;
    let (gap, next) = (reader.next().await.unwrap(), reader.next().await.unwrap());

    assert_eq!(gap.name, "gap");
    assert_eq!((&gap.data["from"], &gap.data["to"]), (&6.into(), &19.into()));
    assert_eq!((gap.id, next.id), (19, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_from_another_stream_is_told_so_and_goes_on() {
    let mesh = Mesh::start().await;
    let ahead_of_all = 1_000_000;

    let mut reader = EventSource::open(&stream(&mesh, ""), Some(ahead_of_all)).await;
    let (gap, next) = (reader.next().await.unwrap(), reader.next().await.unwrap());

    assert_eq!((gap.name.as_str(), next.id), ("gap", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_tells_them_too() {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 4, BUILTINS).start().await;
    let standby = mesh.http_address(1 - mesh.leader().await);
    let mut reader = EventSource::open(&format!("http://{standby}/v1/events/stream?what=noted"), None).await;

    mesh.tell(0..5).await;

    assert!(reader.take(5).await.iter().map(Frame::number).eq(0..5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    let mesh = Mesh::start().await;
    let _lazy = EventSource::open(&stream(&mesh, ""), Some(0)).await;
    let mut keen = EventSource::open(&stream(&mesh, "?what=noted"), None).await;

    mesh.tell(0..20_000).await;
    let id = mesh.submit("echo", "hello").await;

    assert!(keen.take(20_000).await.iter().map(Frame::number).eq(0..20_000));
    mesh.until(task(&id).settled()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_are_read_again_when_the_broker_is_back() {
    let mut mesh = Mesh::start().await;
    let mut reader = EventSource::open(&stream(&mesh, "?what=noted"), None).await;
    mesh.tell(0..5).await;
    assert!(reader.take(5).await.iter().map(Frame::number).eq(0..5));

    mesh.local().broker().kill9().await;
    mesh.local().broker_mut().restart().await.unwrap();
    let is_back = async |mesh: &Mesh| mesh.count("EVENTS").await.map(drop);
    mesh.until(that("that the broker is back", is_back)).await;
    mesh.tell(5..10).await;

    assert!(reader.take(5).await.iter().map(Frame::number).eq(5..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_for_is_told() {
    let mesh = Mesh::start().await;

    for (query, why) in [("?topics=agent", "topics"), ("?topic=a.b", "a.b"), ("?after=soon", "after")] {
        let answer = reqwest::get(stream(&mesh, query)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{query}");
        let said = answer.text().await.unwrap();
        assert!(said.contains(why), "{query}: {said}");
    }
}

fn stream(mesh: &Mesh, query: &str) -> String {
    format!("{}/v1/events/stream{query}", mesh.http())
}
