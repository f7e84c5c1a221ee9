//! Who gets what: each strategy by its own meaning of fair.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh_tests::fake::Character;
use mesh_tests::{BUILTINS, FakeAgent, Mesh, agent, new_task, state, task, tasks};

const TASKS: usize = 1_000;
const AGENTS: [&str; 4] = ["ada", "bob", "cid", "dan"];

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_gives_no_agent_more_than_twice_its_share() {
    assert_fair(&shares("round-robin").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn least_connections_gives_no_agent_more_than_twice_its_share() {
    assert_fair(&shares("least-connections").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_based_gives_no_agent_more_than_twice_its_share() {
    assert_fair(&shares("resource-based").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn capability_based_gives_no_agent_more_than_twice_its_share() {
    assert_fair(&shares("capability-based").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn weighted_gives_no_agent_more_than_twice_its_share() {
    assert_fair(&shares("weighted").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn weighted_gives_clearly_less_to_an_agent_that_fails_half_its_tasks() {
    let mut mesh = Mesh::builder().config(&strategy("weighted")).start().await;
    let mut runs = BTreeMap::new();
    for id in AGENTS {
        runs.insert(id, embed_worker(&mut mesh, id, id == "ada").await);
    }

    let patient = |i: usize| {
        let task = new_task("work", i.to_string()).header("Hive-Max-Attempts", "100").unwrap();
        task.header("Hive-Backoff", "1ms..10ms").unwrap()
    };
    mesh.submit_all((0..TASKS).map(patient)).await;
    mesh.until(tasks(0)).await;

    let runs: BTreeMap<&str, usize> = runs.iter().map(|(id, count)| (*id, count.load(Ordering::Relaxed))).collect();
    let others = (runs["bob"] + runs["cid"] + runs["dan"]) / 3;
    assert!(runs["ada"] > 0, "an agent that gets nothing can never show that it has recovered: {runs:?}");
    assert!(runs["ada"] * 4 < others * 3, "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_based_avoids_an_agent_whose_host_is_busy() {
    let mesh = Mesh::builder().config(&strategy("resource-based")).start().await;
    let run = Some(Duration::from_millis(2));
    let idle = Character { cpu: 0.2, run, ..Character::default() };
    let _ada = FakeAgent::join(&mesh, "ada", idle.clone()).await;
    let _bob = FakeAgent::join(&mesh, "bob", idle).await;
    let _busy = FakeAgent::join(&mesh, "busy", Character { cpu: 0.97, slots: 16, run, ..Character::default() }).await;

    mesh.submit_all((0..TASKS).map(|i| new_task("echo", i.to_string()))).await;
    mesh.until(tasks(0)).await;

    let shares = mesh.results().await.by_agent();
    assert!(!shares.contains_key("busy"), "{shares:?}");
    assert_eq!(shares.len(), 2, "{shares:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn capability_based_keeps_generalists_free_for_what_only_they_can_do() {
    let common = "[[handler]]\nkind = \"common\"\nbuiltin = \"sleep\"\n";
    let both = format!("{common}[[handler]]\nkind = \"rare\"\nbuiltin = \"echo\"\n");
    let mesh = Mesh::builder().config(&strategy("capability-based"));
    let mesh = mesh.agent("specialist", 4, common).agent("generalist", 4, &both).start().await;
    mesh.submit_all((0..40).map(|_| new_task("common", "3s"))).await;
    mesh.until(agent("generalist").holds(3)).await;

    let rare = mesh.run("rare", "").await;

    assert_eq!(rare.agent.as_deref(), Some("generalist"));
    assert!(rare.queued < Duration::from_secs(1), "{rare:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_only_where_its_needs_are_met() {
    let labelled = |labels: &str| format!("[agent]\nlabels = {{ {labels} }}\n{BUILTINS}");
    let mesh = Mesh::builder()
        .agent("ada", 4, &labelled("gpu = \"a100\", region = \"eu\""))
        .agent("bob", 4, &labelled("gpu = \"a100\", region = \"us\""))
        .agent("cid", 4, &labelled("region = \"eu\""))
        .start()
        .await;

    let picky = |i: usize| new_task("echo", i.to_string()).header("Hive-Needs", "gpu=a100, region!=us").unwrap();
    mesh.submit_all((0..200).map(picky)).await;
    mesh.until(tasks(0)).await;

    assert_eq!(mesh.results().await.by_agent(), BTreeMap::from([("ada".to_owned(), 200)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_agent_is_given_more_than_it_has_resources_for() {
    let config = format!("[agent]\nmemory = \"1Gi\"\n{BUILTINS}");
    let mesh = Mesh::builder().agent("ada", 8, &config).start().await;
    let hungry = |_| new_task("sleep", "300ms").header("Hive-Memory", "400Mi").unwrap();

    mesh.submit_all((0..6).map(hungry)).await;
    let too_hungry = new_task("sleep", "1ms").header("Hive-Memory", "2Gi").unwrap();
    mesh.submit_task(&too_hungry).await;
    let most = mesh.until(state::that("that the six are done", most_reserved())).await;

    assert!(most <= 1 << 30, "{most} bytes were reserved at once");
    mesh.until(task(&too_hungry.id).waiting()).await;
}

/// Watches how much is reserved until six results are there; gives the most that was seen.
fn most_reserved() -> impl AsyncFn(&Mesh) -> Result<u64, String> {
    let most = AtomicUsize::new(0);
    async move |mesh: &Mesh| {
        let agents = mesh.look_at_agents().await?;
        let reserved = usize::try_from(agents[0].reserved.memory_bytes).unwrap();
        most.fetch_max(reserved, Ordering::Relaxed);
        match mesh.count("RESULTS").await? {
            6 => Ok(most.load(Ordering::Relaxed) as u64),
            count => Err(format!("{count} results")),
        }
    }
}

/// Runs [`TASKS`] tasks on four agents that are alike, and counts who did them.
async fn shares(name: &str) -> BTreeMap<String, usize> {
    let mesh = Mesh::builder().config(&strategy(name));
    let mesh = AGENTS.into_iter().fold(mesh, |mesh, id| mesh.agent(id, 4, BUILTINS)).start().await;
    mesh.submit_all((0..TASKS).map(|_| new_task("sleep", "2ms"))).await;
    mesh.until(tasks(0)).await;
    mesh.results().await.by_agent()
}

fn assert_fair(shares: &BTreeMap<String, usize>) {
    assert_eq!(shares.values().sum::<usize>(), TASKS, "{shares:?}");
    assert!(shares.values().all(|count| *count <= 2 * TASKS / AGENTS.len()), "{shares:?}");
}

fn strategy(name: &str) -> String {
    format!("[kinds.default]\nstrategy = \"{name}\"\n")
}

/// An agent whose handler counts its runs, and fails every second of them if it is a bad one. A run is so long that
/// what a busy machine adds to it does not decide who is fast.
async fn embed_worker(mesh: &mut Mesh, id: &str, bad: bool) -> Arc<AtomicUsize> {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let work = move |_: agent_worker::Task| {
        let run = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if bad && run.is_multiple_of(2) { Err("every second one fails") } else { Ok("done") }
        }
    };
    mesh.embed(id, 4, |agent| agent.handler("work", work)).await;
    runs
}
