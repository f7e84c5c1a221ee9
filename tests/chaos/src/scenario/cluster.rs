//! A cluster of three brokers loses the one that leads the task stream, and the stream of the mesh's own lease with it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::jetstream::stream::ClusterInfo;

use super::up_to;
use crate::client::{Ear, Pace};
use crate::figures::{Limits, Row};
use crate::task::Job;
use crate::world::{Setup, World};
use crate::{Context, oracle};

/// An election or a catching-up that has not ended by then never will.
const LIMIT: Duration = Duration::from_secs(90);
/// The server that nobody of the mesh is connected to: what is done to it is done to the streams alone.
const APART: usize = 2;

/// The streams that lose their leader.
const TASKS: &str = "HIVE_TASKS";
const LEASE: &str = "KV_HIVE_LEASE";

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The leader of the task stream is killed, whoever is connected to it, and restarted.
    Killed,
    /// It is halted, and nobody of the mesh is connected to it.
    Paused,
}

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let config = "[streams]\nreplicas = 3\n".to_owned();
    let setup = Setup { agents: 6, slots: 16, coordinators: 2, config, brokers: 3, ..Setup::default() };
    let mut world = World::start(context, setup).await?;
    world.none_may_restart = true;
    let ear = Ear::open(&world.client).await?;
    let pace = Pace::steady(12.0, 500);
    let load = world
        .client
        .load(pace, |number| Job::new(format!("t{number}"), Duration::from_millis(500 + number * 7919 % 7500)));
    let mut random = context.random("cluster");
    let faults = context.times(40, 1);
    let (mut stalls, mut notes, mut restarted, mut leaders) = (Vec::new(), Vec::new(), 0, 1);
    for number in 0..faults {
        tokio::time::sleep(Duration::from_secs(1) + up_to(&mut random, Duration::from_secs(2))).await;
        let fault = if number % 2 == 0 { Fault::Killed } else { Fault::Paused };
        stalls.push(happen(&mut world, fault, number).await?);
        world.until_healthy(LIMIT).await?;
        let (starts, heard) = (world.extra_starts()?, ear.leaders());
        if (starts, heard) != (restarted, leaders) {
            notes.push(format!(
                "{fault:?} ({number}): {} restarted, {} takeovers",
                starts - restarted,
                heard - leaders
            ));
            context.tell("cluster", &notes[notes.len() - 1]);
            (restarted, leaders) = (starts, heard);
        }
    }
    load.stop().await?;
    let verdict = oracle::judge(&mut world, context.patience(240)).await?;
    let row = verdict
        .put_into(Row::new(format!("{faults} losses of the task stream's leader in a cluster of three"), faults));
    let alive = &verdict.restarted_alive;
    let row =
        row.must(alive.is_empty(), format!("{} restarted whose agent lives: {}", alive.len(), oracle::some(alive)));
    let row = row.must(leaders == 1, format!("the mesh changed its leader {} times", leaders - 1));
    let row = row.note("the times are how long the stream confirmed nothing").timed(&stalls, Limits::NONE);
    Ok(vec![notes.into_iter().fold(row, Row::note)])
}

/// Does it, and undoes it; how long the task stream confirmed nothing is returned.
async fn happen(world: &mut World, fault: Fault, number: usize) -> anyhow::Result<Duration> {
    let victim = match fault {
        Fault::Killed => leader_of(world, TASKS).await?,
        Fault::Paused => APART,
    };
    for stream in [TASKS, LEASE] {
        move_leader(world, stream, victim).await?;
    }
    let began = Instant::now();
    match fault {
        Fault::Killed => broker(world, victim).kill9().await,
        Fault::Paused => broker(world, victim).process().pause(),
    }
    world.client.submit(Job::new(format!("probe{number}"), Duration::ZERO)).await?;
    let stalled = began.elapsed();
    match fault {
        Fault::Killed if victim == 0 => world.local.broker_mut().restart().await?,
        Fault::Killed => world.others[victim - 1].restart().await?,
        Fault::Paused => broker(world, victim).process().resume(),
    }
    until_whole(world).await?;
    Ok(stalled)
}

fn broker(world: &World, index: usize) -> &coordinator::local::Broker {
    if index == 0 { world.local.broker() } else { &world.others[index - 1] }
}

async fn cluster_of(world: &World, stream: &str) -> anyhow::Result<ClusterInfo> {
    let stream = world.client.jetstream().get_stream(stream).await?;
    stream.cached_info().cluster.clone().context("the stream is not in a cluster")
}

/// Which server leads a stream.
async fn leader_of(world: &World, stream: &str) -> anyhow::Result<usize> {
    let started = Instant::now();
    loop {
        let leader = cluster_of(world, stream).await.ok().and_then(|cluster| cluster.leader);
        if let Some(leader) = leader.and_then(|name| name.strip_prefix('n')?.parse().ok()) {
            return Ok(leader);
        }
        ensure!(started.elapsed() < LIMIT, "{stream} has no leader for {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Lets a server lead a stream.
async fn move_leader(world: &World, stream: &str, to: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    while leader_of(world, stream).await? != to {
        ensure!(started.elapsed() < LIMIT, "{stream} is not led by n{to} after {LIMIT:?}");
        let order = format!(r#"{{"placement":{{"preferred":"n{to}"}}}}"#);
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        let _ = world.client.nats().request(subject, order.into()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Waits until all copies of these streams are current.
async fn until_whole(world: &World) -> anyhow::Result<()> {
    let started = Instant::now();
    let is_whole = |cluster: ClusterInfo| {
        let others = &cluster.replicas;
        cluster.leader.is_some() && others.len() == 2 && others.iter().all(|other| other.current && !other.offline)
    };
    loop {
        let (tasks, lease) = (cluster_of(world, TASKS).await, cluster_of(world, LEASE).await);
        if tasks.is_ok_and(is_whole) && lease.is_ok_and(is_whole) {
            return Ok(());
        }
        ensure!(started.elapsed() < LIMIT, "the copies of the streams are not current after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
