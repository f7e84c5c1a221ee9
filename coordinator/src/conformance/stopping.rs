//! What the agent ends when it is told to.

use std::time::Duration;

use shared::Epoch;
use shared::message::{Beat, HeldState};
use shared::task::AttemptOutcome;
use tokio::time::sleep;

use super::candidate::{Candidate, FOR_LONG, SOON};
use super::order::{Order, state_of};
use super::{Checked, Trouble, require};

/// Orders an attempt that runs for long, and waits until it does.
async fn running_for_long(candidate: &mut Candidate, attempt: u32) -> Result<Order, Trouble> {
    let nap = candidate.sleep()?;
    let order = candidate.order(&nap, FOR_LONG);
    let order = order.renumbered(attempt, candidate.epoch());
    candidate.run(&order).await;
    candidate.until_held(&order.attempt, HeldState::Running).await?;
    Ok(order)
}

pub(super) async fn running(candidate: &mut Candidate) -> Checked {
    let mark = candidate.mark();
    let order = running_for_long(candidate, 1).await?;
    candidate.cancel(&order.attempt).await;
    candidate.ends(mark, &order, AttemptOutcome::Cancelled, SOON).await?;
    Ok(())
}

pub(super) async fn queued(candidate: &mut Candidate) -> Checked {
    let nap = candidate.sleep()?;
    let mark = candidate.mark();
    let mut orders = Vec::new();
    for _ in 0..=candidate.hello.slots {
        orders.push(candidate.run_new(&nap, FOR_LONG).await);
    }
    let (last, running) = orders.split_last().expect("there is one more than slots");
    candidate.until_held(&last.attempt, HeldState::Queued).await?;
    candidate.cancel(&last.attempt).await;
    candidate.ends(mark, last, AttemptOutcome::Cancelled, SOON).await?;
    let beat = candidate.look().await?;
    let undisturbed = running.iter().all(|order| state_of(&beat, &order.attempt) == Some(HeldState::Running));
    require(undisturbed, "what ran beside it does not run any more")
}

pub(super) async fn earlier(candidate: &mut Candidate) -> Checked {
    let order = running_for_long(candidate, 2).await?;
    let before = Epoch(candidate.epoch().0 - 1);
    for earlier in [order.renumbered(1, candidate.epoch()), order.renumbered(2, before)] {
        candidate.cancel(&earlier.attempt).await;
    }
    sleep(Duration::from_millis(500)).await;
    let state = state_of(&candidate.look().await?, &order.attempt);
    require(state == Some(HeldState::Running), "it has ended the attempt that it holds")
}

pub(super) async fn later(candidate: &mut Candidate) -> Checked {
    let mark = candidate.mark();
    let order = running_for_long(candidate, 1).await?;
    let epoch = candidate.newer_epoch();
    candidate.cancel(&order.renumbered(2, epoch).attempt).await;
    candidate.ends(mark, &order, AttemptOutcome::Cancelled, SOON).await?;
    Ok(())
}

pub(super) async fn settled(candidate: &mut Candidate) -> Checked {
    let order = running_for_long(candidate, 1).await?;
    let mark = candidate.mark();
    candidate.settle(&order.attempt).await;
    let is_gone = |beat: &Beat| state_of(beat, &order.attempt).is_none();
    candidate.until_looks(SOON, "that it does not hold it any more", is_gone).await?;
    sleep(Duration::from_secs(1)).await;
    require(candidate.dones(mark, &order.attempt.task).is_empty(), "it said `done` of what is settled")
}
