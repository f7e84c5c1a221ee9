//! Leaders are killed, and asked to end, under load.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::up_to;
use crate::client::{Ear, Pace};
use crate::clock::Moment;
use crate::figures::{Limits, Row};
use crate::task::Job;
use crate::world::{Setup, World, signal};
use crate::{Context, oracle};

/// Tasks a second.
const RATE: f64 = 200.0;
/// A takeover that has not come by then never will.
const LIMIT: Duration = Duration::from_secs(30);

const KILLED: Limits =
    Limits { p50: Some(Duration::from_millis(1200)), p99: Some(Duration::from_millis(2000)), max: None };
const HANDED_OVER: Limits = Limits { max: Some(Duration::from_millis(300)), ..Limits::NONE };

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let setup = Setup { agents: 4, slots: 8, coordinators: 3, ..Setup::default() };
    let mut world = World::start(context, setup).await?;
    let ear = Ear::open(&world.client).await?;
    let pace = Pace::steady(RATE, 2000);
    let load = world.client.load(pace, |number| Job::new(format!("t{number}"), Duration::from_millis(5)));
    let mut random = context.random("leader");
    let (kills, handovers) = (context.times(200, 3), context.times(50, 3));
    let killed = take_over(context, &mut world, &ear, &mut random, Signal::SIGKILL, kills).await?;
    let handed_over = take_over(context, &mut world, &ear, &mut random, Signal::SIGTERM, handovers).await?;
    load.stop().await?;
    let verdict = oracle::judge(&mut world, context.patience(180)).await?;
    let promise = format!("{kills} SIGKILLs of the leader to the next one's first order: p50 < 1.2 s, p99 < 2 s");
    let row = verdict.put_into(Row::new(promise, kills)).timed(&killed, context.limits(KILLED));
    let promise = format!("{handovers} clean handovers to the next one's first order: < 300 ms");
    let handover = Row::new(promise, handovers).timed(&handed_over, context.limits(HANDED_OVER));
    Ok(vec![row, handover])
}

async fn take_over(
    context: &Context,
    world: &mut World,
    ear: &Ear,
    random: &mut fastrand::Rng,
    by: Signal,
    times: usize,
) -> anyhow::Result<Vec<Duration>> {
    let mut spans = Vec::new();
    for time in 0..times {
        let leader = world.leader_within(LIMIT).await?;
        // Its reign is under way, and the others stand by.
        let epoch = world.epoch_of(leader).await.unwrap_or_else(|| ear.newest_epoch());
        ear.first_run_after(epoch - 1, LIMIT).await?;
        tokio::time::sleep(Duration::from_millis(300) + up_to(random, Duration::from_millis(700))).await;
        let at = Moment::now();
        signal(world.coordinator(leader), by);
        let order = ear.first_run_after(epoch, LIMIT).await?;
        spans.push(order.at.since(at));
        world.coordinator(leader).wait().await;
        world.local.restart_coordinator(leader).await?;
        world.until_it_answers(leader, LIMIT).await?;
        if time % 25 == 24 {
            context.tell("leader", format_args!("{} of {times} by {by}", time + 1));
        }
    }
    Ok(spans)
}
