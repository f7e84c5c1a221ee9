//! Which orders the agent takes, and what it starts of them.

use std::time::Duration;

use shared::Kind;
use shared::header;
use shared::message::{Beat, HeldState};
use shared::task::AttemptOutcome;
use tokio::time::sleep;

use super::candidate::{Candidate, FOR_LONG, SOON};
use super::order::{count, is_done_of};
use super::{Checked, Trouble, require};

/// More slots than this are not filled.
const MOST_SLOTS: u32 = 64;
/// More than this is not put into its queue.
const MOST_QUEUED: u32 = 8;

pub(super) async fn run(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, "hello").await;
    let done = candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    // Task, number and epoch are what the `done` was found by.
    let numbers = [(header::SEQUENCE, order.sequence), (header::INCARNATION, order.incarnation.0)];
    for (name, number) in numbers {
        let said = done.header(name);
        require(said == Some(&*number.to_string()), format!("header `{name}` is {said:?}, not {number}"))?;
    }
    let kind = done.header(header::KIND);
    require(kind == Some(echo.as_str()), format!("header `{}` is {kind:?}", header::KIND))?;
    let run_ms = done.header(header::RUN_MS);
    let is_number = run_ms.is_none_or(|millis| millis.parse::<f64>().is_ok_and(|millis| millis >= 0.0));
    require(is_number, format!("header `{}` is {run_ms:?}, which is no number", header::RUN_MS))?;
    require(done.body == order.body, "its output is not what the handler returned")
}

pub(super) async fn old_epoch(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let before = candidate.epoch();
    // One that it knows from a `welcome`, whatever a standby says, and one that it knows from a `run`.
    candidate.newer_epoch();
    candidate.welcome(false).await;
    candidate.stand_by().await;
    let older = candidate.order(&echo, "old").renumbered(1, before);
    candidate.refuses(&older).await?;
    let before = candidate.epoch();
    candidate.newer_epoch();
    let mark = candidate.mark();
    let newer = candidate.run_new(&echo, "new").await;
    candidate.ends(mark, &newer, AttemptOutcome::Succeeded, SOON).await?;
    let older = candidate.order(&echo, "old").renumbered(1, before);
    candidate.refuses(&older).await
}

pub(super) async fn other_incarnation(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    for other in [-1, 1] {
        let mut order = candidate.order(&echo, "for another");
        order.incarnation.0 = order.incarnation.0.saturating_add_signed(other);
        candidate.refuses(&order).await?;
    }
    Ok(())
}

/// One that is started again ends when the second start does, or twice.
pub(super) async fn repeated(candidate: &mut Candidate) -> Checked {
    let nap = candidate.sleep()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&nap, "2000ms").await;
    candidate.run(&order).await;
    sleep(Duration::from_millis(1500)).await;
    candidate.run(&order).await;
    let limit = Duration::from_millis(1600);
    let done = candidate.done(mark, &order.attempt, limit).await;
    let done =
        done.map_err(|_| Trouble::Failed("it ended much later than it should, so it was started again".into()))?;
    // It is repeated after a second; what was started with it would have ended by then.
    sleep(Duration::from_millis(700)).await;
    let dones = candidate.dones(mark, &order.attempt.task);
    let at_once = dones.iter().filter(|said| said.at - done.at < Duration::from_millis(700)).count();
    require(at_once == 1, format!("it was ordered three times, and {at_once} `done` came at once"))
}

pub(super) async fn adopted(candidate: &mut Candidate) -> Checked {
    let nap = candidate.sleep()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&nap, "2000ms").await;
    candidate.until_held(&order.attempt, HeldState::Running).await?;
    let epoch = candidate.newer_epoch();
    let again = order.renumbered(2, epoch);
    candidate.run(&again).await;
    candidate.until_held(&again.attempt, HeldState::Running).await?;
    candidate.ends(mark, &again, AttemptOutcome::Succeeded, SOON).await?;
    let dones = candidate.dones(mark, &order.attempt.task);
    let of_before = dones.iter().any(|said| is_done_of(said, &order.attempt));
    require(!of_before, "it said `done` under the number and epoch that it had before")
}

pub(super) async fn adopted_when_done(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, "once").await;
    candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    let again = order.renumbered(2, candidate.newer_epoch());
    candidate.run(&again).await;
    let done = candidate.ends(mark, &again, AttemptOutcome::Succeeded, SOON * 2).await?;
    require(done.body == order.body, "its output is another one")
}

pub(super) async fn retried(candidate: &mut Candidate) -> Checked {
    let fail = candidate.fail()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&fail, "the first attempt").await;
    candidate.ends(mark, &order, AttemptOutcome::Failed, SOON).await?;
    let mut again = order.renumbered(2, candidate.newer_epoch());
    again.body = "the second attempt".into();
    candidate.run(&again).await;
    let done = candidate.ends(mark, &again, AttemptOutcome::Failed, SOON * 2).await?;
    let error = done.header(header::ERROR).unwrap_or_default();
    require(error.contains("second"), format!("the second attempt was not started: its error is `{error}`"))
}

pub(super) async fn unknown_kind(candidate: &mut Candidate) -> Checked {
    let unknown = Kind::new("a-kind-that-nobody-has").expect("it is a good name");
    let mark = candidate.mark();
    let order = candidate.run_new(&unknown, "what").await;
    candidate.ends(mark, &order, AttemptOutcome::Rejected, SOON).await?;
    Ok(())
}

pub(super) async fn slots(candidate: &mut Candidate) -> Checked {
    let nap = candidate.sleep()?;
    let slots = candidate.hello.slots;
    if slots > MOST_SLOTS {
        let text = format!("it has {slots} slots: give it {MOST_SLOTS} at most to have it checked");
        return Err(Trouble::Skipped(text));
    }
    let more = candidate.hello.queue.clamp(1, MOST_QUEUED);
    let mark = candidate.mark();
    let mut orders = Vec::new();
    for _ in 0..slots + more {
        orders.push(candidate.run_new(&nap, FOR_LONG).await);
    }
    let (slots, more) = (slots as usize, more as usize);
    let what = format!("that {slots} run and {more} are queued");
    let is_full =
        |beat: &Beat, queued| count(beat, HeldState::Running) == slots && count(beat, HeldState::Queued) == queued;
    candidate.until_looks(SOON, &what, |beat| is_full(beat, more)).await?;
    sleep(Duration::from_millis(500)).await;
    let beat = candidate.look().await?;
    require(is_full(&beat, more), "it starts more than it has slots for, a moment later")?;
    // The first in its queue takes the place of what ends.
    candidate.cancel(&orders[0].attempt).await;
    candidate.ends(mark, &orders[0], AttemptOutcome::Cancelled, SOON).await?;
    let what = format!("that {slots} run and {} are queued, after one has ended", more - 1);
    candidate.until_looks(SOON, &what, |beat| is_full(beat, more - 1)).await?;
    candidate.until_held(&orders[slots].attempt, HeldState::Running).await?;
    Ok(())
}
