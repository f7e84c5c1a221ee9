//! How soon the task of a crashed agent starts elsewhere.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::up_to;
use crate::figures::{Limits, Row};
use crate::task::Job;
use crate::world::{Setup, World};
use crate::{Context, oracle};

/// An agent dies at any phase of its beat.
const BEAT: Duration = Duration::from_millis(500);
/// Agents at any time, all with free slots.
const AGENTS: usize = 8;
/// Meshes side by side: each waits most of the time.
const MESHES: usize = 4;
/// Longer than any trial.
const LONG: Duration = Duration::from_secs(600);
/// What takes longer is told, and its mesh is kept.
const SLOW: Duration = Duration::from_millis(1500);
/// A task that has not started by then never will.
const LIMIT: Duration = Duration::from_secs(30);

const ADVISED: Limits =
    Limits { p50: Some(Duration::from_millis(250)), p99: Some(Duration::from_millis(500)), max: None };
const UNADVISED: Limits = Limits { p50: None, p99: Some(Duration::from_millis(1500)), max: None };

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let advised =
        measure(context, true, "a crash to its task's start elsewhere, with advisories: p50 < 250 ms, p99 < 500 ms");
    let mut rows = vec![advised.await?];
    rows.push(measure(context, false, "the same without advisories: p99 < 1.5 s").await?);
    Ok(rows)
}

async fn measure(context: &Context, exports_disconnects: bool, promise: &str) -> anyhow::Result<Row> {
    let meshes = context.pick(MESHES, 1);
    let trials = context.times(500, 3).div_ceil(meshes);
    let all = try_join_all((0..meshes).map(|mesh| one_mesh(context, exports_disconnects, mesh, trials))).await?;
    let (spans, verdict) = super::together(all);
    let limits = context.limits(if exports_disconnects { ADVISED } else { UNADVISED });
    Ok(verdict.put_into(Row::new(promise, spans.len())).timed(&spans, limits))
}

async fn one_mesh(
    context: &Context,
    exports_disconnects: bool,
    mesh: usize,
    trials: usize,
) -> anyhow::Result<(Vec<Duration>, oracle::Verdict)> {
    let mut random = context.random(&format!("crash {exports_disconnects} {mesh}"));
    let agents = context.pick(AGENTS, 4);
    let mut world = World::start(context, Setup { agents, slots: 2, exports_disconnects, ..Setup::default() }).await?;
    // No verdict is given in the first seconds of a reign.
    tokio::time::sleep(context.pick(super::FIRST_VERDICT, super::FIRST_VERDICT / 2)).await;
    let mut spans = Vec::new();
    for trial in 0..trials {
        // The second attempt ends at once.
        let job = Job::new(format!("t{trial}"), LONG).later(Duration::ZERO);
        let id = job.id.clone();
        world.client.submit(job).await?;
        let first = world.until_started(&id, 1, LIMIT).await?;
        tokio::time::sleep(BEAT / 2 + up_to(&mut random, BEAT)).await;
        let victim = first.by.agent.parse()?;
        let killed = world.kill_agent(&victim).await?;
        let second = world.until_started(&id, 2, LIMIT).await?;
        let span = second.at.since(killed);
        if span > SLOW {
            context.tell("crash", format_args!("mesh {mesh}, trial {trial}: {span:.1?}, in {}", world.dir().display()));
            world.keep();
        }
        spans.push(span);
        world.remove_agent(&victim).await?;
        world.add_agent().await?;
        world.until_healthy(LIMIT).await?;
    }
    let verdict = oracle::judge(&mut world, LIMIT).await?;
    context.tell("crash", format_args!("mesh {mesh}, advisories {exports_disconnects}: {trials} trials"));
    Ok((spans, verdict))
}
