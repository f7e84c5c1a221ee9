//! Slots do not wait for the network.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mesh_tests::{Mesh, new_task, tasks};

const TASKS: usize = 1_000;
const AGENTS: [&str; 2] = ["ada", "bob"];
const SLOTS: u32 = 4;
const RUN: Duration = Duration::from_millis(10);

/// The figure that is promised, for a machine that has nothing else to do.
#[ignore = "a measurement: run it alone, with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn slots_are_busy_95_percent_of_the_time() {
    let busy = measure().await;

    println!("slots were busy {:.1} % of the time", busy * 100.0);
    assert!(busy >= 0.95, "slots were busy {:.1} % of the time", busy * 100.0);
}

/// The share of the time from the first start to the last end that the slots spent in handlers.
async fn measure() -> f64 {
    let mut mesh = Mesh::builder().start().await;
    let runs = Arc::new(Mutex::new(Vec::new()));
    mesh.submit_all((0..TASKS).map(|i| new_task("work", i.to_string()))).await;
    for id in AGENTS {
        let noted = runs.clone();
        let work = move |_: agent_worker::Task| {
            let noted = noted.clone();
            async move {
                let started = Instant::now();
                tokio::time::sleep(RUN).await;
                noted.lock().unwrap().push((started, Instant::now()));
                Ok::<_, &str>("")
            }
        };
        mesh.embed(id, SLOTS, |agent| agent.handler("work", work)).await;
    }
    mesh.until(tasks(0)).await;
    let runs = runs.lock().unwrap();
    assert_eq!(runs.len(), TASKS);
    let wall = runs.iter().map(|run| run.1).max().unwrap() - runs.iter().map(|run| run.0).min().unwrap();
    let work: Duration = runs.iter().map(|(start, end)| *end - *start).sum();
    work.as_secs_f64() / (wall.as_secs_f64() * f64::from(SLOTS) * AGENTS.len() as f64)
}
