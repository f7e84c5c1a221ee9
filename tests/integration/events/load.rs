//! What it costs that many follow the events and many webhooks are sent, while the mesh is at work.
//!
//! `cargo test --release -p mesh-tests --test integration -- --ignored --nocapture followed` prints the figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mesh_tests::sse::Frame;
use mesh_tests::state::that;
use mesh_tests::{BUILTINS, EventSource, Mesh, Receiver, new_task};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

/// Those who follow, and webhooks.
const READERS: usize = 1000;
const WEBHOOKS: usize = 100;

/// Tasks a second, and for how long.
const RATE: u64 = 5000;
const SPAN: Duration = Duration::from_secs(10);

/// Events a second meanwhile: as many as if one task in a hundred failed.
const EVENTS: u64 = 50;

/// The share of the rate without anybody that must be left.
const LEAST_SHARE: f64 = 0.9;

/// The most memory that the coordinator may take, in bytes.
const MOST_MEMORY: u64 = 512 << 20;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it takes a minute, and the machine for itself"]
async fn the_mesh_goes_on_at_its_rate_while_it_is_followed_by_many() {
    more_files();
    let config = "[webhooks]\nallow = [\"127.0.0.0/8\"]\n";
    let mesh = Mesh::builder().config(config).agent("ada", 64, BUILTINS).agent("bob", 64, BUILTINS).start().await;
    let receiver = Receiver::start().await;

    let alone = rate(&mesh, 0).await;
    let memory_alone = memory(&mesh);
    let counts = follow(&mesh).await;
    set_webhooks(&mesh, &receiver).await;
    let followed = rate(&mesh, 1).await;
    let memory_followed = memory(&mesh);
    let told = EVENTS * SPAN.as_secs();
    mesh.until(that("that all have got everything", async |_: &Mesh| {
        let got = counts.iter().map(|count| count.load(Ordering::Relaxed));
        let least = got.min().unwrap_or_default();
        let sent = receiver.received().len() as u64;
        let is_all = least >= told && sent >= told * WEBHOOKS as u64;
        if is_all { Ok(()) } else { Err(format!("the last has {least} of {told}; {sent} were sent")) }
    }))
    .await;
    let resumed = EventSource::open(&url(&mesh), Some(0)).await.take(2 * told as usize).await;

    println!("alone:    {alone:.0} tasks/s, coordinator {} MiB", memory_alone >> 20);
    println!(
        "followed: {followed:.0} tasks/s ({:.2}), coordinator {} MiB, by {READERS} readers and {WEBHOOKS} webhooks, \
         {EVENTS} events a second",
        followed / alone,
        memory_followed >> 20
    );
    assert!(resumed.iter().map(Frame::number).eq((0..told).chain(1_000_000..1_000_000 + told)));
    assert!(followed >= LEAST_SHARE * alone, "{followed:.0} of {alone:.0} tasks/s");
    assert!(memory_followed < MOST_MEMORY, "{memory_followed} bytes");
}

/// Submits tasks at the rate for the span, tells events meanwhile, and measures how many tasks a second are done.
async fn rate(mesh: &Mesh, run: u64) -> f64 {
    let before = mesh.count("RESULTS").await.unwrap();
    let total = RATE * SPAN.as_secs();
    let started = Instant::now();
    let working = async {
        submit(mesh, total, started).await;
        mesh.until(mesh_tests::results(before + total)).await;
        started.elapsed()
    };
    let (taken, ()) = tokio::join!(working, tell(mesh, run * 1_000_000));
    total as f64 / taken.as_secs_f64()
}

async fn submit(mesh: &Mesh, total: u64, started: Instant) {
    let slice = RATE / 20;
    for turn in 1..=u32::try_from(total / slice).unwrap() {
        mesh.submit_all((0..slice).map(|_| new_task("echo", "hello"))).await;
        tokio::time::sleep_until((started + Duration::from_millis(50) * turn).into()).await;
    }
}

async fn tell(mesh: &Mesh, from: u64) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(EVENTS).unwrap());
    for number in from..from + EVENTS * SPAN.as_secs() {
        ticks.tick().await;
        mesh.tell(number..number + 1).await;
    }
}

fn url(mesh: &Mesh) -> String {
    format!("{}/v1/events/stream?what=noted", mesh.http())
}

/// Lets many follow; how many events each has got.
async fn follow(mesh: &Mesh) -> Vec<Arc<AtomicU64>> {
    let readers = join_all((0..READERS).map(|_| async { EventSource::open(&url(mesh), None).await })).await;
    let count = |mut reader: EventSource| {
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            while reader.next().await.is_some() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        count
    };
    readers.into_iter().map(count).collect()
}

async fn set_webhooks(mesh: &Mesh, receiver: &Receiver) {
    for number in 0..WEBHOOKS {
        let hook = json!({ "id": format!("hook-{number}"), "url": receiver.url(), "filter": { "what": "noted" } });
        mesh.ask("hook", "set", hook).await.unwrap();
    }
}

/// The memory that the coordinator has, in bytes.
fn memory(mesh: &Mesh) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mesh.coordinator(0).pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A thousand connections are more than a process may have open unless it asks.
fn more_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}
