//! How soon the task of an agent starts elsewhere that hangs or is cut off; and what becomes of its late result.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::up_to;
use crate::figures::{Limits, Row};
use crate::proxy::Weather;
use crate::task::Job;
use crate::world::{Deed, Proxied, Setup, World};
use crate::{Context, oracle};

/// An agent falls silent at any phase of its beat.
const BEAT: Duration = Duration::from_millis(500);
/// How long a first attempt takes: it ends while its agent is away, so that its result is late.
const FIRST: Duration = Duration::from_millis(1500);
/// Agents at any time, all with free slots.
const AGENTS: usize = 8;
/// Meshes side by side: each waits most of the time.
const MESHES: usize = 5;
/// What takes longer is told, and its mesh is kept.
const SLOW: Duration = Duration::from_millis(2500);
/// A task that has not started by then never will.
const LIMIT: Duration = Duration::from_secs(30);
/// The promise.
const SILENT: Limits = Limits { p50: None, p99: Some(Duration::from_millis(2500)), max: None };

/// How an agent falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Stopped,
    CutOff,
}

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let stopped = measure(
        context,
        How::Stopped,
        context.times(200, 2),
        "SIGSTOP of an agent to its task's start elsewhere: p99 < 2.5 s",
    );
    let mut rows = vec![stopped.await?];
    rows.push(measure(context, How::CutOff, context.times(100, 2), "the same when its link is cut").await?);
    Ok(rows)
}

async fn measure(context: &Context, how: How, trials: usize, promise: &str) -> anyhow::Result<Row> {
    let meshes = context.pick(MESHES, 1);
    let each = trials.div_ceil(meshes);
    let all = try_join_all((0..meshes).map(|mesh| one_mesh(context, how, mesh, each))).await?;
    let (spans, verdict) = super::together(all);
    let row = verdict.put_into(Row::new(promise, spans.len()));
    Ok(row.timed(&spans, context.limits(SILENT)))
}

async fn one_mesh(
    context: &Context,
    how: How,
    mesh: usize,
    trials: usize,
) -> anyhow::Result<(Vec<Duration>, oracle::Verdict)> {
    let mut random = context.random(&format!("hang {how:?} {mesh}"));
    let proxied = if how == How::CutOff { Proxied::Agents } else { Proxied::Nobody };
    let agents = context.pick(AGENTS, 4);
    let mut world = World::start(context, Setup { agents, slots: 2, proxied, ..Setup::default() }).await?;
    // No verdict is given in the first seconds of a reign.
    tokio::time::sleep(context.pick(super::FIRST_VERDICT, super::FIRST_VERDICT / 2)).await;
    let mut spans = Vec::new();
    for trial in 0..trials {
        // Of the late result and the second attempt's, now the one is first, now the other.
        let later = if trial % 2 == 0 { Duration::ZERO } else { Duration::from_secs(2) };
        let job = Job::new(format!("t{trial}"), FIRST).later(later);
        let id = job.id.clone();
        world.client.submit(job).await?;
        let first = world.until_started(&id, 1, LIMIT).await?;
        tokio::time::sleep(BEAT / 2 + up_to(&mut random, BEAT)).await;
        let victim = first.by.agent.parse()?;
        // Half of the cuts are half-open: what is sent vanishes.
        let weather = if trial % 4 < 2 { Weather::CUT } else { Weather::HALF_OPEN };
        let silent = match how {
            How::Stopped => world.pause_agent(&victim)?,
            How::CutOff => {
                let at = world.note(Deed::Cut, &victim)?;
                world.proxy(&victim)?.set(weather);
                at
            }
        };
        let second = world.until_started(&id, 2, LIMIT).await?;
        let span = second.at.since(silent);
        if span > SLOW {
            context.tell("hang", format_args!("mesh {mesh}, trial {trial}: {span:.1?}, in {}", world.dir().display()));
            world.keep();
        }
        spans.push(span);
        match how {
            How::Stopped => world.process(&victim)?.resume(),
            How::CutOff => {
                let proxy = world.proxy(&victim)?;
                proxy.set(Weather::FAIR);
                if weather == Weather::HALF_OPEN {
                    proxy.reset();
                }
            }
        }
        world.until_healthy(LIMIT).await?;
        world.settle(LIMIT).await;
        // One that falls silent again and again would be quarantined.
        world.remove_agent(&victim).await?;
        world.add_agent().await?;
        world.until_healthy(LIMIT).await?;
    }
    let verdict = oracle::judge(&mut world, LIMIT).await?;
    context.tell("hang", format_args!("mesh {mesh}, {how:?}: {trials} trials"));
    Ok((spans, verdict))
}
