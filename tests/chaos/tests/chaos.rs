//! A scaled-down run of each scenario. What is asserted is what is promised, and times only where the promise is one.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use chaos::scenario::Scenario;
use chaos::{Context, Size};

async fn holds(scenario: Scenario) {
    let seed = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    println!("CHAOS_SEED={seed}");
    let nats_server = coordinator::local::obtain(None, |said| eprintln!("{said}")).await;
    let context = Context {
        exe: PathBuf::from(env!("CARGO_BIN_EXE_chaos")),
        nats_server: nats_server.expect("there is a nats-server to test with"),
        seed,
        size: Size::Small,
    };

    let began = Instant::now();
    let rows = scenario.run(&context).await;

    println!("{scenario}: {:.1} s", began.elapsed().as_secs_f64());
    let rows = rows.unwrap_or_else(|error| panic!("CHAOS_SEED={seed}: {scenario} did not come to its end: {error:?}"));
    for row in rows {
        println!("{row:#?}");
        assert!(row.holds(), "CHAOS_SEED={seed}: {row:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_the_deaths_of_agents() {
    holds(Scenario::Agents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_coordinator_soon_leads_when_the_leader_dies_or_leaves() {
    holds(Scenario::Leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_the_deaths_of_the_broker_and_soon_go_on() {
    holds(Scenario::Broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_of_a_crashed_agent_soon_starts_elsewhere() {
    holds(Scenario::Crash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_of_a_hung_agent_soon_starts_elsewhere_and_its_late_result_does_no_harm() {
    holds(Scenario::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_only_slow_is_not_given_up() {
    holds(Scenario::FalseVerdicts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_not_restarted_because_the_broker_or_the_leader_was_away() {
    holds(Scenario::Blips).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_obeys_an_old_leader_that_wakes_up() {
    holds(Scenario::TwoLeaders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_kills_agents_is_stopped_and_the_others_are_done() {
    holds(Scenario::Poison).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_a_bad_network() {
    holds(Scenario::Network).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_the_loss_of_a_broker_of_three() {
    holds(Scenario::Cluster).await;
}
