//! A leader stands still until another has taken over, and wakes up.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::up_to;
use crate::client::{Ear, Order, Pace};
use crate::clock::Moment;
use crate::figures::Row;
use crate::task::Job;
use crate::witness::{Deed, Note};
use crate::world::{Setup, World};
use crate::{Context, oracle};

/// Meshes side by side: each waits most of the time.
const MESHES: usize = 5;
/// A takeover that has not come by then never will.
const LIMIT: Duration = Duration::from_secs(30);
/// We may hear an order that much earlier than the agent does.
const CROSSING: Duration = Duration::from_millis(100);

/// What one mesh came to.
#[derive(Debug)]
struct Overlaps {
    /// How many there were.
    count: usize,
    /// Orders of old leaders after a new one had spoken.
    spoken: usize,
    /// Of them, those that were obeyed.
    obeyed: Vec<String>,
}

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let meshes = context.pick(MESHES, 1);
    let each = context.times(500, 2).div_ceil(meshes);
    let all = try_join_all((0..meshes).map(|mesh| one_mesh(context, mesh, each))).await?;
    let (overlaps, verdict) = super::together(all);
    let count: usize = overlaps.iter().map(|o| o.count).sum();
    let spoken: usize = overlaps.iter().map(|o| o.spoken).sum();
    let obeyed: Vec<String> = overlaps.into_iter().flat_map(|o| o.obeyed).collect();
    let promise =
        format!("{count} overlaps of two leaders: no order of the old one obeyed once the new one has spoken");
    let row = verdict.put_into(Row::new(promise, count));
    let row = row
        .note(format!("the old ones gave {spoken} orders after the new ones had spoken; {} were obeyed", obeyed.len()));
    Ok(vec![row.must(obeyed.is_empty(), oracle::some(&obeyed))])
}

async fn one_mesh(context: &Context, mesh: usize, times: usize) -> anyhow::Result<(Vec<Overlaps>, oracle::Verdict)> {
    // Nothing is given in advance: what starts was ordered just now. There is a little more to do than can be done, so
    // that a leader that wakes up always has something to order.
    let setup = Setup { agents: 3, slots: 4, queue: 0, coordinators: 2, ..Setup::default() };
    let mut world = World::start(context, setup).await?;
    let ear = Ear::open(&world.client).await?;
    let pace = Pace::steady(130.0, 300);
    let load = world.client.load(pace, |number| Job::new(format!("t{number}"), Duration::from_millis(100)));
    let mut random = context.random(&format!("two-leaders {mesh}"));
    let mut spoken = 0;
    for time in 0..times {
        let leader = world.leader_within(LIMIT).await?;
        let epoch = world.epoch_of(leader).await.unwrap_or_else(|| ear.newest_epoch());
        ear.first_run_after(epoch - 1, LIMIT).await?;
        tokio::time::sleep(up_to(&mut random, Duration::from_millis(500))).await;
        world.coordinator(leader).pause();
        let new = ear.first_run_after(epoch, LIMIT).await?;
        tokio::time::sleep(up_to(&mut random, Duration::from_millis(1000))).await;
        world.coordinator(leader).resume();
        until_it_stands_by(&world, leader).await?;
        spoken += ear.heard().iter().filter(|order| order.is_run && order.at > new.at && order.epoch <= epoch).count();
        if time % 25 == 24 {
            context.tell("two-leaders", format_args!("mesh {mesh}: {} of {times}", time + 1));
        }
    }
    load.stop().await?;
    let verdict = oracle::judge(&mut world, context.patience(120)).await?;
    let obeyed = obeyed(world.witness.notes(), &ear.heard());
    if !obeyed.is_empty() {
        world.keep();
    }
    Ok((vec![Overlaps { count: times, spoken, obeyed }], verdict))
}

async fn until_it_stands_by(world: &World, index: usize) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    while !world.says(index).await.starts_with("standing by") {
        anyhow::ensure!(started.elapsed() < LIMIT, "the old leader still leads after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Starts by the word of a leader that was an old one by then, as their agent knew.
fn obeyed(notes: &[Note], heard: &[Order]) -> Vec<String> {
    let mut told: HashMap<&str, Vec<(Moment, u64)>> = HashMap::new();
    for order in heard {
        let known = told.entry(&order.agent).or_default();
        if known.last().is_none_or(|(_, epoch)| *epoch < order.epoch) {
            known.push((order.at, order.epoch));
        }
    }
    let newest_known = |note: &Note| {
        let known = told.get(note.by.agent.as_str())?;
        known.iter().rev().find(|(at, _)| at.after(CROSSING) < note.at).map(|(_, epoch)| *epoch)
    };
    let starts = notes.iter().filter(|note| note.deed == Deed::Start);
    let late = starts.filter_map(|note| {
        let known = newest_known(note).filter(|known| *known > note.epoch)?;
        Some(format!("{} started {} of epoch {} and knew of {known}", note.by, note.task, note.epoch))
    });
    late.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::witness::Doer;

    fn order(at: u64, epoch: u64) -> Order {
        Order { at: Moment(at * 1_000_000), agent: "ada".to_owned(), is_run: true, epoch }
    }

    fn start(at: u64, epoch: u64) -> Note {
        let by = Arc::new(Doer { agent: "ada".to_owned(), pid: 1 });
        Note { deed: Deed::Start, at: Moment(at * 1_000_000), task: "t".to_owned(), attempt: 1, epoch, by }
    }

    #[test]
    fn an_old_order_that_is_obeyed_late_is_seen() {
        let heard = [order(0, 5), order(1000, 9), order(1500, 5)];

        assert_eq!(obeyed(&[start(900, 5), start(1050, 5), start(1600, 9)], &heard), Vec::<String>::new());
        assert_eq!(obeyed(&[start(1600, 5)], &heard).len(), 1);
    }
}
