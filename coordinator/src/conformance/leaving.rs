//! How the agent leaves, and how it comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use shared::Epoch;
use shared::codec::DecodeError;
use shared::message::{AttemptRef, Beat, Bye, HeldState};
use shared::subject::AgentVerb;
use shared::task::AttemptOutcome;
use tokio::time::sleep;

use super::candidate::{Candidate, FOR_LONG, SOON};
use super::ear::Mark;
use super::order::{Order, state_of};
use super::{Checked, Trouble, require};

/// How long it may wait for a last `settled`, with a margin.
const LEAVE_PATIENCE: Duration = Duration::from_secs(9);
/// More slots than this are not filled.
const MOST_SLOTS: u32 = 64;

pub(super) async fn old_drain(candidate: &mut Candidate) -> Checked {
    candidate.drain(Epoch(candidate.epoch().0 - 1)).await;
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, "after an old drain").await;
    candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    require(!candidate.look().await?.draining, "it says that it drains")
}

pub(super) async fn drain(candidate: &mut Candidate) -> Checked {
    let (echo, nap) = (candidate.echo()?, candidate.sleep()?);
    let mut running = Vec::new();
    for _ in 0..candidate.hello.slots.min(MOST_SLOTS) {
        running.push(candidate.run_new(&nap, "3000ms").await);
    }
    let waiting = candidate.run_new(&nap, FOR_LONG).await;
    let is_held = |order: &Order, beat: &Beat| state_of(beat, &order.attempt).is_some();
    let are_held = |beat: &Beat| running.iter().chain([&waiting]).all(|order| is_held(order, beat));
    let beat = candidate.until_looks(SOON, "that it holds what it was given", are_held).await?;
    let waits = state_of(&beat, &waiting.attempt) == Some(HeldState::Queued);
    if !waits {
        // It has room for one more, which would run for long.
        candidate.settle(&waiting.attempt).await;
    }

    let mark = candidate.mark();
    candidate.drain(candidate.epoch()).await;
    let late = candidate.run_new(&echo, "too late").await;
    candidate.ends(mark, &late, AttemptOutcome::Rejected, SOON).await?;
    candidate.settle(&late.attempt).await;
    require(candidate.look().await?.draining, "it does not say that it drains")?;
    for order in &running {
        candidate.ends(mark, order, AttemptOutcome::Succeeded, SOON).await?;
        candidate.settle(&order.attempt).await;
    }
    let returned = goodbye(candidate, mark, LEAVE_PATIENCE).await?;
    let expected: BTreeSet<String> = waits.then(|| shown(&waiting.attempt)).into_iter().collect();
    require(returned == expected, format!("its `bye` returns {returned:?}, not {expected:?}"))?;
    is_gone(candidate).await
}

pub(super) async fn drain_unsettled(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, "never settled").await;
    candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    candidate.drain(candidate.epoch()).await;
    let returned = goodbye(candidate, mark, LEAVE_PATIENCE).await?;
    require(returned.is_empty(), format!("its `bye` returns {returned:?}, which it has run"))?;
    is_gone(candidate).await
}

pub(super) async fn sigterm(candidate: &mut Candidate) -> Checked {
    let nap = candidate.sleep()?;
    let order = candidate.run_new(&nap, "2000ms").await;
    candidate.until_held(&order.attempt, HeldState::Running).await?;
    let mark = candidate.mark();
    candidate.host()?.ask_agent_to_end();
    let (_, hello) = candidate.hello_since(mark, SOON).await?;
    require(hello.draining, "the hello that it said does not say that it drains")?;
    candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    candidate.settle(&order.attempt).await;
    is_gone(candidate).await
}

pub(super) async fn incarnation(candidate: &mut Candidate) -> Checked {
    let before = candidate.hello.incarnation;
    candidate.restart().await?;
    let now = candidate.hello.incarnation;
    require(now > before, format!("its `incarnation` was {before}, and is {now} after a restart"))
}

/// What its `bye` hands back.
async fn goodbye(candidate: &Candidate, from: Mark, limit: Duration) -> Result<BTreeSet<String>, Trouble> {
    let said =
        candidate.until(from, limit, "`bye`", |said| (said.verb == AgentVerb::Bye).then(|| said.clone())).await?;
    let unreadable =
        |error: DecodeError| Trouble::Failed(format!("its `bye` cannot be read: {}", crate::chain(&error)));
    let bye: Bye = said.read().map_err(unreadable)?;
    let incarnation = bye.incarnation;
    require(incarnation == candidate.hello.incarnation, format!("its `bye` is of incarnation {incarnation}"))?;
    // What came after it would bring the agent back.
    let mark = candidate.mark();
    sleep(Duration::from_secs(1)).await;
    let is_quiet = [AgentVerb::Hello, AgentVerb::Beat].iter().all(|verb| candidate.said(mark, *verb).is_empty());
    require(is_quiet, "it goes on after its `bye`")?;
    Ok(bye.returned.iter().map(shown).collect())
}

fn shown(attempt: &AttemptRef) -> String {
    format!("{} {} {}", attempt.task, attempt.attempt, attempt.epoch)
}

/// Its process ends, and ends well, if it is ours.
async fn is_gone(candidate: &mut Candidate) -> Checked {
    let Ok(host) = candidate.host() else { return Ok(()) };
    let Some(status) = host.agent_exit_within(LEAVE_PATIENCE).await else {
        return Err(Trouble::Failed("its process does not end".to_owned()));
    };
    require(status.success(), format!("its process ended with {status}: {}", host.agent_said()))
}
