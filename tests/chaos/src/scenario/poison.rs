//! Some tasks kill each agent that they meet; the others must not suffer.

use std::collections::BTreeSet;
use std::time::Duration;

use super::up_to;
use crate::client::Pace;
use crate::figures::Row;
use crate::task::{Job, POISON};
use crate::witness::Deed;
use crate::world::{Fault, Setup, World};
use crate::{Context, oracle, world};

/// Agents at any time.
const AGENTS: usize = 8;
/// No task takes more agents down.
const MOST: usize = 3;

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let (poison, good) = (context.times(20, 2), context.times(10_000, 400));
    let mut world = World::start(context, Setup { agents: AGENTS, slots: 4, ..Setup::default() }).await?;
    let every = (good / poison) as u64;
    let pace = Pace::steady(400.0, 2000).up_to((good + poison) as u64);
    let load = world.client.load(pace, move |number| {
        // The first of each lot but the last.
        if number % (every + 1) == every / 2 && number / (every + 1) < poison as u64 {
            Job::poison(format!("p{number}"))
        } else {
            Job::new(format!("t{number}"), Duration::from_millis(20))
        }
    });
    let mut random = context.random("poison");
    let mut restarted = 0;
    while !load.is_over() || !world.settle(Duration::from_millis(200)).await {
        restarted += bring_back(&mut world, &mut random).await?;
        anyhow::ensure!(restarted <= 2 * MOST * poison + AGENTS, "{restarted} agents died: far too many");
    }
    load.all().await?;
    blame(&mut world)?;
    let verdict = oracle::judge(&mut world, context.patience(60)).await?;
    let jobs: Vec<Job> = world.client.ledger().values().filter(|job| job.kind == POISON).cloned().collect();
    let mut row = verdict.put_into(Row::new(format!("{poison} poison tasks among {good} good ones"), poison));
    let mut deaths = Vec::new();
    for job in &jobs {
        let problem = look_at(&world, &verdict, job, &mut deaths);
        row = row.must(problem.is_none(), format!("{}: {}", job.id, problem.unwrap_or_default()));
    }
    let row = row.must(jobs.len() == poison, format!("{} were submitted", jobs.len()));
    let row =
        row.must(verdict.succeeded == good as u64, format!("{} of {good} good ones succeeded", verdict.succeeded));
    let most = deaths.iter().max().copied().unwrap_or(0);
    Ok(vec![row.note(format!("{restarted} agents were killed and brought back, at most {most} by one task"))])
}

/// What poison did to agents was our doing.
fn blame(world: &mut World) -> anyhow::Result<()> {
    world.witness.read()?;
    let doses: BTreeSet<String> =
        world.client.ledger().values().filter(|j| j.kind == POISON).map(|j| j.id.clone()).collect();
    let starts = world.witness.notes().iter().filter(|note| doses.contains(&note.task));
    let faults: Vec<Fault> =
        starts.map(|note| Fault { at: note.at, deed: world::Deed::Killed, to: (*note.by).clone() }).collect();
    world.faults.extend(faults);
    Ok(())
}

/// Starts agents again whose processes ended: half under their own name, half under a new one.
async fn bring_back(world: &mut World, random: &mut fastrand::Rng) -> anyhow::Result<usize> {
    let living: BTreeSet<_> = world.living().into_iter().collect();
    let missing = AGENTS - living.len();
    for _ in 0..missing {
        tokio::time::sleep(up_to(random, Duration::from_millis(300))).await;
        let dead = world.local.agents().iter().rev().find(|agent| !agent.process().is_running());
        match dead.map(|agent| agent.id().clone()).filter(|_| random.bool()) {
            Some(id) => world.local.restart_agent(&id).await?,
            None => _ = world.add_agent().await?,
        }
    }
    Ok(missing)
}

/// What is wrong with how a poison task ended.
fn look_at(world: &World, verdict: &oracle::Verdict, job: &Job, deaths: &mut Vec<usize>) -> Option<String> {
    let starts = world.witness.notes().iter().filter(|note| note.deed == Deed::Start && note.task == job.id);
    let agents: BTreeSet<_> = starts.map(|note| note.by.clone()).collect();
    deaths.push(agents.len());
    if agents.len() > MOST {
        return Some(format!("it took {} agents down", agents.len()));
    }
    let Some((_, error)) = verdict.dead.iter().find(|(id, _)| *id == job.id) else {
        return Some("it is not dead".to_owned());
    };
    if !error.contains("agents were lost") {
        return Some(format!("it is dead for another reason: {error}"));
    }
    match verdict.dead_letters.get(&job.id).map(Vec::as_slice) {
        Some([letter]) if letter.body == job.body() && !letter.get("Hive-Error").is_empty() => None,
        Some([letter]) => Some(format!("its dead letter is another: {letter:?}")),
        letters => Some(format!("it has {} dead letters", letters.map_or(0, <[_]>::len))),
    }
}
