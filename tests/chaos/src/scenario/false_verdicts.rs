//! Agents that are only slow are not given up: all cores are busy with something else, and now and then one of them
//! stands still for up to a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::up_to;
use crate::burner::Burners;
use crate::client::Pace;
use crate::clock::Moment;
use crate::figures::Row;
use crate::task::Job;
use crate::world::{Setup, World};
use crate::{Context, oracle};

/// How long an agent may stand still.
const PAUSE: Duration = Duration::from_secs(1);
/// Agents that stand still at once.
const AT_ONCE: usize = 3;
/// No longer than this, however few beats there were.
const LIMIT: Duration = Duration::from_secs(3000);

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let (agents, wanted) = (context.pick(400, 16), context.times(1_000_000, 240) as u64);
    let mut world = World::start(context, Setup { agents, slots: 1, queue: 1, ..Setup::default() }).await?;
    world.none_may_restart = true;
    let beats = count_beats(&world).await?;
    let pace = Pace::steady(agents as f64 / 8.0, agents as u64);
    let load = world.client.load(pace, |number| Job::new(format!("t{number}"), Duration::from_secs(2)));
    let burners = Burners::light(&context.exe)?;
    let mut random = context.random("false-verdicts");
    let ids = world.living();
    let (began, mut pauses, mut paused) = (Instant::now(), 0u64, Vec::new());
    while beats.load(Ordering::Relaxed) < wanted && began.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = Moment::now();
        for (id, _) in paused.extract_if(.., |(_, until)| *until <= now) {
            world.process(&id)?.resume();
        }
        let victim = &ids[random.usize(..ids.len())];
        if paused.len() < AT_ONCE && !paused.iter().any(|(id, _)| id == victim) {
            world.process(victim)?.pause();
            paused.push((victim.clone(), now.after(up_to(&mut random, PAUSE))));
            pauses += 1;
            if pauses % 1000 == 0 {
                context.tell("false-verdicts", format_args!("{} beats", beats.load(Ordering::Relaxed)));
            }
        }
    }
    for (id, _) in paused {
        world.process(&id)?.resume();
    }
    let (heard, busy) = (beats.load(Ordering::Relaxed), burners.count());
    drop(burners);
    load.stop().await?;
    let verdict = oracle::judge(&mut world, context.patience(120)).await?;
    let wrong = ["agent.lost", "task.reassigned", "task.redispatched"];
    let verdicts: Vec<String> = wrong.iter().map(|event| format!("{event} {}", verdict.event(event))).collect();
    let is_right = wrong.iter().all(|event| verdict.event(event) == 0) && verdict.extra_starts == 0;
    let row = verdict.put_into(Row::new(format!("no false verdicts in {wanted} beats on busy cores"), heard as usize));
    let row = row.must(is_right, verdicts.join(", ")).must(heard >= wanted, "there were fewer beats");
    Ok(vec![row.note(format!(
        "{agents} agents, {busy} burners, {pauses} pauses of up to 1 s, {} were suspected and recovered, {} storms, in {:.0} s",
        verdict.event("agent.recovered"),
        verdict.event("mesh.storm-began"),
        began.elapsed().as_secs_f64()
    ))])
}

async fn count_beats(world: &World) -> anyhow::Result<Arc<AtomicU64>> {
    let count = Arc::new(AtomicU64::new(0));
    let mut beats = world.client.nats().subscribe("hive.agent.*.beat").await?;
    let counted = count.clone();
    tokio::spawn(async move {
        while beats.next().await.is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(count)
}
