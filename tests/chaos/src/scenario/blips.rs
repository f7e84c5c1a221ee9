//! What runs is not restarted because the broker or the leader was away for a while: the agents live.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::log_uniform;
use crate::client::Pace;
use crate::figures::Row;
use crate::proxy::Weather;
use crate::task::Job;
use crate::world::{Proxied, Setup, World};
use crate::{Context, oracle};

/// How long somebody is away.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(20);
/// What has not recovered by then never will.
const LIMIT: Duration = Duration::from_secs(90);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blip {
    BrokerKilled,
    BrokerPaused,
    LeaderPaused,
    LeaderCutOff,
}

const BLIPS: [Blip; 4] = [Blip::BrokerKilled, Blip::BrokerPaused, Blip::LeaderPaused, Blip::LeaderCutOff];

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let events = context.times(200, 8).div_ceil(2);
    // One mesh has a single coordinator, the other one a standby.
    let all = try_join_all([1, 2].map(|coordinators| one_mesh(context, coordinators, events))).await?;
    let (told, verdict) = super::together(all);
    let promise =
        format!("{} blips of the broker and the leader: no running task restarted whose agent lives", events * 2);
    let row = verdict.put_into(Row::new(promise, events * 2));
    let restarted = &verdict.restarted_alive;
    let row = row.must(restarted.is_empty(), format!("{} restarted: {}", restarted.len(), oracle::some(restarted)));
    let row =
        row.must(verdict.event("agent.lost") == 0, format!("{} agents declared lost", verdict.event("agent.lost")));
    Ok(vec![told.into_iter().fold(row, Row::note)])
}

async fn one_mesh(
    context: &Context,
    coordinators: usize,
    events: usize,
) -> anyhow::Result<(Vec<String>, oracle::Verdict)> {
    let agents = context.pick(200, 10);
    let setup = Setup { agents, slots: 1, queue: 0, coordinators, proxied: Proxied::Coordinators, ..Setup::default() };
    let mut world = World::start(context, setup).await?;
    world.none_may_restart = true;
    // Every agent runs something at any time.
    let (shortest, spread) = context.pick((30_000, 60_000), (2_000, 3_000));
    let pace = Pace::steady(agents as f64 / 4.0, agents as u64 * 5 / 4);
    let load = world.client.load(pace, move |number| {
        Job::new(format!("t{number}"), Duration::from_millis(shortest + number * 7919 % spread))
    });
    tokio::time::sleep(context.pick(Duration::from_secs(8), Duration::from_secs(3))).await;
    let mut random = context.random(&format!("blips {coordinators}"));
    let (mut told, mut restarted) = (Vec::new(), 0);
    for event in 0..events {
        let blip = BLIPS[event % BLIPS.len()];
        let span = log_uniform(&mut random, SHORTEST, context.pick(LONGEST, LONGEST / 8));
        happen(&mut world, blip, span).await?;
        world.leader_within(LIMIT).await?;
        world.until_healthy(LIMIT).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let restarts = world.extra_starts()?;
        if restarts > restarted {
            let case =
                format!("{coordinators} coordinators, {blip:?} for {span:.1?}: {} restarted", restarts - restarted);
            context.tell("blips", &case);
            told.push(case);
            restarted = restarts;
        }
        if event % 20 == 19 {
            context.tell("blips", format_args!("{coordinators} coordinators: {} of {events}", event + 1));
        }
    }
    load.stop().await?;
    let verdict = oracle::judge(&mut world, context.patience(240)).await?;
    Ok((told, verdict))
}

async fn happen(world: &mut World, blip: Blip, span: Duration) -> anyhow::Result<()> {
    let leader = world.leader_within(LIMIT).await?;
    match blip {
        Blip::BrokerKilled => {
            world.local.broker().kill9().await;
            tokio::time::sleep(span / 4).await;
            world.local.broker_mut().restart().await?;
        }
        Blip::BrokerPaused => {
            world.local.broker().process().pause();
            tokio::time::sleep(span).await;
            world.local.broker().process().resume();
        }
        Blip::LeaderPaused => {
            world.coordinator(leader).pause();
            tokio::time::sleep(span).await;
            world.coordinator(leader).resume();
        }
        Blip::LeaderCutOff => {
            world.coordinator_proxies[leader].set(Weather::CUT);
            tokio::time::sleep(span).await;
            world.coordinator_proxies[leader].set(Weather::FAIR);
        }
    }
    Ok(())
}
