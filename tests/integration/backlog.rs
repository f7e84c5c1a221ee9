//! What nobody can do waits, however much of it there is, and holds nothing else up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mesh_tests::state::that;
use mesh_tests::{Mesh, State, agent, new_task, results};
use shared::TaskId;
use shared::api;
use shared::client::NewTask;

/// How many tasks are measured, unless [`COUNT`] says otherwise.
const BACKLOG: usize = 1_000_000;
/// The variable that makes it fewer, for a trial.
const COUNT: &str = "HIVE_BACKLOG";
const BODY: &[u8] = &[b'x'; 256];
const AGENTS: [&str; 2] = ["ada", "bob"];
const SLOTS: u32 = 32;
const ECHO: &str = "[[handler]]\nkind = \"work\"\nbuiltin = \"echo\"\n";

/// How much of the rate without the impossible half the possible half must reach.
const LEAST_RATIO: f64 = 0.8;
/// How much memory the coordinator may ever have had.
const MOST_MEMORY: u64 = 300_000_000;
/// How long half a million tasks may take.
const LIMIT: Duration = Duration::from_secs(1_800);

/// What a few of a backlog show already.
const FEW: usize = 4_000;

#[tokio::test(flavor = "multi_thread")]
async fn all_that_somebody_can_do_is_done_while_the_rest_waits() {
    let mut mesh = Mesh::builder().start().await;
    let (backlog, impossible) = half_impossible_by_id();
    mesh.submit_all(backlog).await;

    mesh.add_agent("ada", SLOTS, ECHO);
    mesh.until(results((FEW - impossible.len()) as u64)).await;

    let done = mesh.results().await.0;
    assert_eq!(done.len(), FEW - impossible.len());
    assert!(done.iter().all(|result| !impossible.contains(&result.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_could_do_is_done_once_somebody_can() {
    let mut mesh = Mesh::builder().start().await;
    let (backlog, impossible) = half_impossible_by_id();
    mesh.submit_all(backlog).await;
    mesh.add_agent("ada", SLOTS, ECHO);
    mesh.until(results((FEW - impossible.len()) as u64)).await;

    mesh.add_agent("bob", SLOTS, &format!("[agent]\nlabels = {{ nowhere = \"1\" }}\n{ECHO}"));
    mesh.until(results(FEW as u64)).await;

    let done = mesh.results().await.0;
    assert_eq!(done.len(), FEW);
    let by_bob = done.iter().filter(|result| result.agent.as_deref() == Some("bob"));
    let by_bob: BTreeSet<TaskId> = by_bob.map(|result| result.id.clone()).collect();
    assert!(by_bob.is_superset(&impossible));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_do_holds_nothing_up_though_no_two_ask_for_the_same() {
    let mut mesh = Mesh::builder().start().await;
    let impossible = |number: usize| possible().header("Hive-Needs", &format!("host=h{number}")).unwrap();
    mesh.submit_all((0..FEW / 2).map(impossible)).await;
    mesh.submit_all((0..FEW / 2).map(|_| possible())).await;

    mesh.add_agent("ada", SLOTS, ECHO);

    mesh.until(results(FEW as u64 / 2)).await;
}

/// The figures that are promised, for a machine that has nothing else to do.
#[ignore = "a measurement: run it alone, with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn a_million_queued_half_of_them_impossible() {
    let half = std::env::var(COUNT).map_or(BACKLOG, |count| count.parse().unwrap()) / 2;
    let mut mesh = Mesh::builder().start().await;

    let alone = drain(&mut mesh, (0..half).map(|_| possible()), half as u64).await;
    println!("{half} possible tasks alone: {alone:.0} a second");
    let beside = drain(&mut mesh, half_impossible(2 * half), half as u64).await;
    println!("beside as many impossible ones: {beside:.0} a second");
    let (ratio, memory) = (beside / alone, peak_memory(mesh.coordinator(0).pid()));
    println!("ratio: {ratio:.2}; the coordinator had {} MB at most", memory / 1_000_000);

    assert!(ratio >= LEAST_RATIO, "{ratio:.2} of the rate");
    assert!(memory < MOST_MEMORY, "{memory} bytes");
}

/// Queues these tasks while nobody can do their kind, then lets agents come, and leave when so many are done. How many
/// that was a second, from the first that is seen to be done.
async fn drain(mesh: &mut Mesh, backlog: impl Iterator<Item = NewTask>, possible: u64) -> f64 {
    let before = done(mesh).await.unwrap();
    let queueing = Instant::now();
    mesh.submit_all(backlog).await;
    println!("queued within {:.1} s", queueing.elapsed().as_secs_f64());
    for id in AGENTS {
        mesh.add_agent(id, SLOTS, ECHO);
    }
    let at_first = mesh.within(LIMIT, done_at_least(before + 1)).await;
    let started = Instant::now();
    let at_last = mesh.within(LIMIT, done_at_least(before + possible)).await;
    let took = started.elapsed();
    for id in AGENTS {
        mesh.local().remove_agent(&id.parse().unwrap()).await.unwrap();
        mesh.until(agent(id).offline()).await;
    }
    (at_last - at_first) as f64 / took.as_secs_f64()
}

/// So many tasks have succeeded under the leader; it comes to how many have.
fn done_at_least(count: u64) -> impl State<Reached = u64> {
    that(&format!("that {count} tasks have succeeded"), async move |mesh: &Mesh| {
        let done = done(mesh).await?;
        if done >= count { Ok(done) } else { Err(format!("{done} have")) }
    })
}

async fn done(mesh: &Mesh) -> Result<u64, String> {
    let answer = mesh.ask("mesh", "status", serde_json::json!({})).await?;
    let status: api::Mesh = serde_json::from_value(answer).map_err(|error| error.to_string())?;
    Ok(status.settled.get("succeeded").copied().unwrap_or_default())
}

/// The most memory that a process ever had, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    peak.parse::<u64>().unwrap() * 1024
}

/// So many tasks of which every second can only be done where nobody is.
fn half_impossible(count: usize) -> impl Iterator<Item = NewTask> {
    (0..count).map(|number| if number.is_multiple_of(2) { possible() } else { impossible() })
}

/// A few of them, and which of these are impossible.
fn half_impossible_by_id() -> (Vec<NewTask>, BTreeSet<TaskId>) {
    let all: Vec<NewTask> = half_impossible(FEW).collect();
    let impossible = all.iter().skip(1).step_by(2).map(|task| task.id.clone()).collect();
    (all, impossible)
}

fn possible() -> NewTask {
    new_task("work", BODY)
}

fn impossible() -> NewTask {
    possible().header("Hive-Needs", "nowhere=1").unwrap()
}
