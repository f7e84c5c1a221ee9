//! An agent that is asked to leave finishes what runs, hands back the rest, and says goodbye.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mesh_tests::{BUILTINS, Mesh, agent, mesh, new_task, results, tasks};
use shared::Outcome;
use shared::api::AgentState;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_an_agent_and_charges_nobody() {
    let mut mesh = Mesh::builder().agent("ada", 2, BUILTINS).start().await;
    let mut goodbyes = mesh.plain_client().await.subscribe("hive.agent.ada.bye").await.unwrap();
    // Whatever counts as a failure would be the last attempt.
    let once = |_| new_task("sleep", "1500ms").header("Hive-Max-Attempts", "1").unwrap();
    mesh.submit_all((0..8).map(once)).await;
    mesh.until(agent("ada").holds(4)).await;
    mesh.add_agent("bob", 8, BUILTINS);
    mesh.until(agent("bob").holds(4)).await;

    mesh.agent("ada").terminate();
    mesh.until(agent("ada").is(AgentState::Stopping)).await;
    assert!(mesh.agent("ada").ended().await);
    let gone = Instant::now();
    mesh.until(agent("ada").offline()).await;

    let gone = gone.elapsed();
    mesh.until(tasks(0)).await;
    let results = mesh.results().await;
    assert!(gone < Duration::from_secs(1), "it was thought to be there for {gone:?}");
    assert!(results.0.iter().all(|result| result.outcome == Outcome::Succeeded), "{results:?}");
    assert_eq!(results.by_agent()["ada"], 2, "what ran is finished, what was queued is handed back");
    assert_eq!(results.by_agent()["bob"], 6);
    let bye = tokio::time::timeout(mesh::PATIENCE, goodbyes.next()).await.unwrap().unwrap();
    assert!(!bye.payload.is_empty());
    let agents = mesh.look_at_agents().await.unwrap();
    assert!(agents.iter().all(|agent| agent.failed == 0), "{agents:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_can_be_drained_by_the_command_line() {
    let mesh = Mesh::start().await;
    mesh.submit_all((0..12).map(|_| new_task("sleep", "1s"))).await;
    mesh.until(agent("ada").holds(4)).await;

    mesh.cli(&["agents", "drain", "ada"]).await.succeeded();
    assert!(mesh.agent("ada").ended().await);
    mesh.until(results(12)).await;

    let results = mesh.results().await;
    assert!(results.0.iter().all(|result| result.outcome == Outcome::Succeeded && result.attempts == 1), "{results:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_come_and_go_by_drains_lose_and_repeat_nothing() {
    let mut mesh = Mesh::start().await;
    let submitting = mesh.submit_in_background((0..2_000).map(|_| new_task("sleep", "5ms")).collect());
    mesh.until(results(300)).await;

    for id in ["ada", "bob", "cid"] {
        mesh.agent(id).terminate();
        assert!(mesh.agent(id).ended().await);
        mesh.local().restart_agent(&id.parse().unwrap()).await.unwrap();
        mesh.until(agent(id).healthy()).await;
    }
    submitting.await.unwrap();
    mesh.until(tasks(0)).await;

    let results = mesh.results().await;
    assert_eq!(results.0.len(), 2_000);
    assert!(results.0.iter().all(|result| result.outcome == Outcome::Succeeded), "something failed");
}
