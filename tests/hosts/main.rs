//! A mesh over several hosts, which are cut off from each other and healed: [`network`] makes the hosts on this machine,
//! [`mesh`] a mesh of real processes on them, and here is what is done to it.
//!
//! What was promised is counted by the oracle of `tests/chaos`, of which this is a test: accepted by the broker, done by
//! handlers, recorded once.

mod mesh;
mod network;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chaos::client::Pace;
use chaos::figures::{self, Limits, Part, Row};
use chaos::oracle::Evidence;
use chaos::scenario::log_uniform;
use chaos::task::Job;

use mesh::{AGENTS, CLIENT, HOSTS, Mesh, Programs};
use network::{Network, Way};

/// How soon after a cut has ended the mesh is whole.
const WHOLE: Limits = Limits { max: Some(Duration::from_secs(5)), ..Limits::NONE };
/// What is not whole by then never will be.
const LIMIT: Duration = Duration::from_secs(60);
/// Everything is settled by then, when all cuts have ended: the broker delivers again after half a minute.
const SETTLED: Duration = Duration::from_secs(120);
/// The shortest cut. Many end before anybody has noticed.
const SHORTEST: Duration = Duration::from_millis(300);
/// Tasks a second, and how long each takes.
const RATE: f64 = 40.0;
const TAKES: Duration = Duration::from_millis(50);

/// What is cut off.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// An agent, each in turn.
    Agent,
    /// The coordinator that leads.
    Leader,
    /// The client that submits, and that looks.
    Client,
    /// The coordinator that stands by.
    Standby,
}

/// In turn with the ways, of which there are three: so after twelve cuts each has been cut off in each way.
const VICTIMS: [Victim; 4] = [Victim::Agent, Victim::Leader, Victim::Client, Victim::Standby];
const WAYS: [Way; 3] = [Way::Both, Way::In, Way::Out];

/// Cuts to be made.
#[derive(Clone, Copy, Debug)]
struct Plan {
    cuts: usize,
    /// The longest of them.
    longest: Duration,
    limits: Limits,
    seed: u64,
}

#[test]
fn nothing_is_lost_by_cuts_between_hosts_and_the_mesh_is_soon_whole_again() {
    let plan = Plan { cuts: 6, longest: Duration::from_secs(4), limits: WHOLE.generous(), seed: seed() };

    let Some(row) = carry_out(plan) else { return };

    println!("{row:#?}");
    assert!(row.holds(), "HOSTS_SEED={}: {row:#?}", plan.seed);
}

/// Takes a quarter of an hour:
/// `cargo test --release -p chaos --test hosts a_hundred_cuts_between_hosts -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: takes a quarter of an hour, and a machine that does nothing else"]
fn a_hundred_cuts_between_hosts() {
    let plan = Plan { cuts: 100, longest: Duration::from_secs(10), limits: WHOLE, seed: seed() };
    let began = Instant::now();

    let Some(row) = carry_out(plan) else { return };

    let holds = row.holds();
    let part = Part {
        scenario: "hosts".to_owned(),
        seed: plan.seed,
        scale: 1.0,
        date: figures::date(),
        commit: figures::commit(),
        seconds: began.elapsed().as_secs(),
        rows: vec![row],
    };
    println!("{}", figures::table(&[part], "seven hosts, each a network namespace"));
    assert!(holds, "HOSTS_SEED={}", plan.seed);
}

fn seed() -> u64 {
    let seed = std::env::var("HOSTS_SEED").ok().and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| fastrand::u64(..1 << 32))
}

/// Makes hosts and a mesh, and the cuts; `None` if there can be no hosts here.
fn carry_out(plan: Plan) -> Option<Row> {
    println!("HOSTS_SEED={}", plan.seed);
    let network = Network::of_or_skip(&HOSTS)?;
    // From a host of ours nothing could be fetched.
    let nats_server = runtime().block_on(coordinator::local::obtain(None, |said| eprintln!("{said}")));
    let programs = Programs {
        chaos: PathBuf::from(env!("CARGO_BIN_EXE_chaos")),
        nats_server: nats_server.expect("there is a nats-server to test with"),
    };
    let client = network.host(CLIENT).clone();
    let row = network::on(&client, || runtime().block_on(cut_and_heal(plan, network, &programs)));
    Some(row.unwrap_or_else(|error| panic!("HOSTS_SEED={}: it did not come to its end: {error:?}", plan.seed)))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

async fn cut_and_heal(plan: Plan, network: Network, programs: &Programs) -> anyhow::Result<Row> {
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let mut mesh = Mesh::start(network, programs).await?;
    let load = mesh.client.load(Pace::steady(RATE, 2000), |number| Job::new(format!("t{number}"), TAKES));
    let (mut spans, mut slowest) = (Vec::new(), (Duration::ZERO, String::new()));
    for number in 0..plan.cuts {
        let (victim, way) = (VICTIMS[number % VICTIMS.len()], WAYS[number % WAYS.len()]);
        let host = match victim {
            Victim::Agent => AGENTS[number / VICTIMS.len() % AGENTS.len()],
            Victim::Leader => mesh.leader().await?,
            Victim::Client => CLIENT,
            Victim::Standby => mesh.standby().await?,
        };
        let lasts = log_uniform(&mut random, SHORTEST, plan.longest);
        mesh.cut(host, way)?;
        tokio::time::sleep(lasts).await;
        mesh.heal(host)?;
        let healed = Instant::now();
        mesh.until_whole(&format!("probe{number}"), LIMIT).await?;
        let told =
            format!("{victim:?} ({host}) cut off for {lasts:.1?}, {way:?}: whole after {:.1?}", healed.elapsed());
        println!("{told}");
        spans.push(healed.elapsed());
        slowest = slowest.max((healed.elapsed(), told));
        // The next cut comes at any phase of whatever beats.
        tokio::time::sleep(Duration::from_secs(1).mul_f64(random.f64())).await;
    }
    load.stop().await?;
    let settled = mesh.client.settle(SETTLED).await;
    let evidence = Evidence { client: &mesh.client, witness: &mut mesh.witness, faults: &mesh.faults };
    let (mut verdict, events) = evidence.count().await?;
    verdict.settled = settled;
    let promise = format!("{} cuts between hosts, one-way ones too: whole again within 5 s of healing", plan.cuts);
    let row = verdict.put_into(Row::new(promise, plan.cuts)).timed(&spans, plan.limits).note(slowest.1);
    if row.holds() {
        mesh.forget();
    } else {
        mesh.write("events.jsonl", &events)?;
    }
    Ok(row)
}
