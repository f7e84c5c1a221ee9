//! Slots do not wait for the network, and no agent runs more at once than it has resources for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_worker::wire::read_run;
use mesh_tests::{Mesh, new_task, tasks};
use shared::client::NewTask;
use shared::{Outcome, Resources};

const TASKS: usize = 1_000;
const AGENTS: [Offer; 2] = [offer("ada", 4, 0, 0), offer("bob", 4, 0, 0)];
const RUN_MS: u64 = 10;

/// What mixed tasks reserve of CPU and memory; before each, how many of a hundred reserve this or what stands above it.
/// Two are so large that not every slot of an agent can have one of them.
const SIZES: [(u32, &str, &str); 4] =
    [(60, "100m", "64Mi"), (80, "250m", "128Mi"), (90, "1", "64Mi"), (100, "100m", "512Mi")];
/// Beside any of what is large there is room for enough of what is small: slots are short, and nothing else.
const MIXED_AGENTS: [Offer; 3] =
    [offer("ada", 1, 1_250, 640), offer("bob", 2, 1_500, 768), offer("cid", 4, 2_750, 1_408)];
const SEED: u64 = 7;

/// The figure that is promised, for a machine that has nothing else to do.
#[ignore = "a measurement: run it alone, with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn slots_are_busy_95_percent_of_the_time() {
    let seen = measure(&AGENTS, (0..TASKS).map(|_| new_task("work", RUN_MS.to_string()))).await;

    assert_eq!(seen.runs.len(), TASKS);
    let end = seen.runs.iter().map(|run| run.ended).max().unwrap();
    assert_busy(&seen, &AGENTS, end);
}

/// The same where neither the tasks nor the agents are alike, for as long as there is a backlog.
#[ignore = "a measurement: run it alone, with --release"]
#[tokio::test(flavor = "multi_thread")]
async fn mixed_slots_are_busy_95_percent_of_the_time() {
    let seen = measure(&MIXED_AGENTS, mixed(2_000)).await;

    assert_eq!(seen.overfull, [""; 0]);
    assert_eq!(seen.runs.len(), 2_000);
    let last_start = seen.runs.iter().map(|run| run.started).max().unwrap();
    assert_busy(&seen, &MIXED_AGENTS, last_start);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_an_agent_never_reserves_more_than_it_offers() {
    let seen = measure(&MIXED_AGENTS, mixed(300)).await;

    assert_eq!(seen.overfull, [""; 0]);
    assert_eq!((seen.runs.len(), seen.succeeded_at_once), (300, 300));
}

/// An agent of a measurement.
#[derive(Clone, Copy)]
struct Offer {
    id: &'static str,
    slots: u32,
    /// Zero is not limited.
    capacity: Resources,
}

const fn offer(id: &'static str, slots: u32, cpu_millis: u64, memory_mib: u64) -> Offer {
    Offer { id, slots, capacity: Resources { cpu_millis, memory_bytes: memory_mib << 20, ..Resources::ZERO } }
}

/// What the handlers have seen.
#[derive(Default)]
struct Seen {
    runs: Vec<Run>,
    /// What the attempts reserve together that an agent runs.
    reserved: BTreeMap<&'static str, Resources>,
    /// When that was more than it offers.
    overfull: Vec<String>,
    /// Tasks that needed one attempt.
    succeeded_at_once: usize,
}

/// When an attempt ran.
struct Run {
    started: Instant,
    ended: Instant,
}

impl Seen {
    fn begin(&mut self, agent: &Offer, reserves: &Resources) {
        let reserved = self.reserved.entry(agent.id).or_default();
        *reserved = reserved.plus(reserves);
        if agent.capacity != Resources::ZERO && !reserved.fits(&agent.capacity) {
            self.overfull.push(format!("{} runs {reserved:?} of {:?}", agent.id, agent.capacity));
        }
    }

    fn end(&mut self, agent: &Offer, reserves: &Resources, started: Instant) {
        let reserved = self.reserved.entry(agent.id).or_default();
        *reserved = reserved.minus(reserves);
        self.runs.push(Run { started, ended: Instant::now() });
    }
}

/// Has these agents do tasks, each for as many milliseconds as its body says.
async fn measure(agents: &[Offer], load: impl IntoIterator<Item = NewTask>) -> Seen {
    let mut mesh = Mesh::builder().start().await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    for agent in agents {
        join(&mut mesh, *agent, &seen).await;
    }
    mesh.submit_all(load).await;
    mesh.until(tasks(0)).await;
    let results = mesh.results().await.0;
    let at_once = results.iter().filter(|result| result.outcome == Outcome::Succeeded && result.attempts == 1).count();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    Seen { succeeded_at_once: at_once, ..seen }
}

async fn join(mesh: &mut Mesh, agent: Offer, seen: &Arc<Mutex<Seen>>) {
    let seen = seen.clone();
    let work = move |task: agent_worker::Task| {
        let seen = seen.clone();
        async move {
            let started = Instant::now();
            let reserves = read_run(&task.headers).unwrap().reserved.resources;
            let run = Duration::from_millis(std::str::from_utf8(&task.body).unwrap().parse().unwrap());
            seen.lock().unwrap().begin(&agent, &reserves);
            tokio::time::sleep(run).await;
            seen.lock().unwrap().end(&agent, &reserves, started);
            Ok::<_, &str>("")
        }
    };
    let Offer { id, slots, capacity } = agent;
    let config = agent_worker::Config { slots, queue: slots, capacity, ..agent_worker::Config::default() };
    mesh.embed_with(id, config, |agent| agent.handler("work", work)).await;
}

/// Tasks of mixed length and size, the same ones each time.
fn mixed(count: usize) -> Vec<NewTask> {
    let mut random = fastrand::Rng::with_seed(SEED);
    (0..count).map(|_| mixed_task(&mut random)).collect()
}

fn mixed_task(random: &mut fastrand::Rng) -> NewTask {
    let drawn = random.u32(..100);
    let (_, cpu, memory) = SIZES.into_iter().find(|(below, ..)| drawn < *below).unwrap();
    let task = new_task("work", random.u64(2..=40).to_string());
    task.header("Hive-Cpu", cpu).unwrap().header("Hive-Memory", memory).unwrap()
}

/// Checks the share of the time from the first start to `end` that the slots spent in handlers.
fn assert_busy(seen: &Seen, agents: &[Offer], end: Instant) {
    let begin = seen.runs.iter().map(|run| run.started).min().unwrap();
    let slots: u32 = agents.iter().map(|agent| agent.slots).sum();
    let work: Duration = seen.runs.iter().map(|run| run.ended.min(end).saturating_duration_since(run.started)).sum();
    let busy = work.as_secs_f64() / ((end - begin).as_secs_f64() * f64::from(slots));
    println!("slots were busy {:.1} % of the time", busy * 100.0);
    assert!(busy >= 0.95, "slots were busy {:.1} % of the time", busy * 100.0);
}
