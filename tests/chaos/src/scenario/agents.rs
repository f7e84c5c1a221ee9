//! Agents are killed, one after the other, under load.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::up_to;
use crate::client::Pace;
use crate::figures::Row;
use crate::task::Job;
use crate::world::{Setup, World};
use crate::{Context, oracle};

/// How long a task takes.
const TASK: Duration = Duration::from_millis(20);
/// Agents at any time.
const AGENTS: usize = 16;

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let (kills, tasks) = (context.times(1000, 8), context.times(100_000, 800));
    let pause = context.pick(Duration::from_millis(450), Duration::from_millis(300));
    let mut random = context.random("agents");
    let setup = Setup { agents: AGENTS.min(kills.max(6)), slots: 4, coordinators: 2, ..Setup::default() };
    let mut world = World::start(context, setup).await?;
    // The load lasts as long as the kills: each allows its share of the tasks.
    let share = (tasks / kills) as u64;
    let pace = Pace::steady(2.0 * share as f64 / pause.as_secs_f64(), 4000).up_to(tasks as u64);
    let allowed = pace.allowed.clone();
    allowed.store(share, Ordering::Relaxed);
    let load = world.client.load(pace, |number| Job::new(format!("t{number}"), TASK));
    let mut same_name = 0;
    for kill in 0..kills {
        tokio::time::sleep(up_to(&mut random, pause * 2)).await;
        let living = world.living();
        let victim = &living[random.usize(..living.len())];
        world.kill_agent(victim).await?;
        allowed.fetch_add(share, Ordering::Relaxed);
        // A third comes back under its name, as by a supervisor; the others are replaced.
        if random.u8(..3) == 0 {
            world.local.restart_agent(victim).await?;
            same_name += 1;
        } else {
            world.add_agent().await?;
        }
        if kill % 100 == 99 {
            context.tell(
                "agents",
                format_args!("{} of {kills} killed, {} accepted", kill + 1, world.client.ledger().len()),
            );
        }
    }
    allowed.store(u64::MAX, Ordering::Relaxed);
    load.all().await?;
    let verdict = oracle::judge(&mut world, context.patience(180)).await?;
    let kills_told = verdict.event("agent.lost");
    let row = verdict.put_into(Row::new(format!("{kills} SIGKILLs of agents in {tasks} tasks"), kills));
    let row = row
        .note(format!(
            "{same_name} came back under their name, quarantined {} times",
            verdict.event("agent.quarantined")
        ))
        .note(format!(
            "the mesh told {kills_told} losses, {} starts anew, {} reassignments",
            verdict.event("agent.joined"),
            verdict.event("task.reassigned")
        ));
    // Whoever was with three agents when they were lost is dead: explained, and rare.
    let dead_well = verdict.dead.iter().all(|(_, error)| error.contains("agents were lost"));
    Ok(vec![row.must(dead_well, format!("dead without three losses: {:?}", verdict.dead))])
}
