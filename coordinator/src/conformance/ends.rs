//! How the agent tells the end of attempts.

use std::time::{Duration, Instant};

use bytes::Bytes;
use shared::Epoch;
use shared::header;
use shared::message::{AttemptRef, Beat, HeldState};
use shared::subject::AgentVerb;
use shared::task::AttemptOutcome;

use super::candidate::{Candidate, FOR_LONG, SOON};
use super::order::{is_done_of, state_of};
use super::{Checked, require};

/// The biggest body that is tried, whatever the broker takes.
const BIG: usize = 1 << 20;
/// What a message leaves for headers at least, in both directions.
const ROOM: usize = 8 << 10;
/// Enough for the headers of a `run`, and too little for those of a `done` with a long error.
const LITTLE_ROOM: usize = 700;
/// How long an attempt may run that takes longer.
const TIMEOUT: Duration = Duration::from_millis(500);

pub(super) async fn output_empty(candidate: &mut Candidate) -> Checked {
    comes_back(candidate, Bytes::new()).await
}

pub(super) async fn output_bytes(candidate: &mut Candidate) -> Checked {
    comes_back(candidate, (0..=u8::MAX).collect::<Vec<u8>>().into()).await
}

pub(super) async fn output_big(candidate: &mut Candidate) -> Checked {
    let size = candidate.max_payload().min(BIG).saturating_sub(ROOM);
    comes_back(candidate, pattern(size)).await
}

async fn comes_back(candidate: &mut Candidate, body: Bytes) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, body).await;
    let done = candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    same(&done.body, &order.body)
}

fn same(output: &Bytes, body: &Bytes) -> Checked {
    require(output.len() == body.len(), format!("of {} bytes {} came back", body.len(), output.len()))?;
    let differs = output.iter().zip(body).position(|(one, other)| one != other);
    require(differs.is_none(), format!("byte {} came back as another", differs.unwrap_or_default()))
}

fn pattern(size: usize) -> Bytes {
    // 89 is a prime: no block of a power of two looks like the next. All of it is printable.
    (0..size).map(|i| b'!' + (i % 89) as u8).collect::<Vec<u8>>().into()
}

pub(super) async fn output_limit(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, pattern(candidate.max_payload().saturating_sub(LITTLE_ROOM))).await;
    let done = candidate.done(mark, &order.attempt, SOON).await?;
    match done.header(header::OUTCOME) {
        Some("succeeded") => same(&done.body, &order.body),
        Some("failed") => require(done.header(header::ERROR).is_some(), "it failed, and does not say why"),
        other => require(false, format!("its outcome is {other:?}, and neither `succeeded` nor `failed`")),
    }
}

pub(super) async fn failed(candidate: &mut Candidate) -> Checked {
    let fail = candidate.fail()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&fail, "no\r\nsuch file").await;
    let done = candidate.ends(mark, &order, AttemptOutcome::Failed, SOON).await?;
    let error = done.header(header::ERROR).unwrap_or_default();
    require(!error.trim().is_empty(), format!("there is no `{}`", header::ERROR))?;
    let limit = header::MAX_ERROR_BYTES;
    require(error.len() <= limit, format!("its error has {} bytes, and not {limit} at most", error.len()))
}

pub(super) async fn timeout(candidate: &mut Candidate) -> Checked {
    let nap = candidate.sleep()?;
    let mark = candidate.mark();
    let mut order = candidate.order(&nap, FOR_LONG);
    order.timeout = Some(TIMEOUT);
    let began = Instant::now();
    candidate.run(&order).await;
    let done = candidate.ends(mark, &order, AttemptOutcome::Timeout, TIMEOUT + SOON).await?;
    let ran = done.at - began;
    require(ran > TIMEOUT * 4 / 5, format!("it may run {TIMEOUT:?}, and was ended after {ran:?}"))
}

pub(super) async fn repeated(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, "again and again").await;
    let first = candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    // After 1 s, and after no more than 5 s each time.
    let dones = candidate.several(mark, AgentVerb::Done, 3, Duration::from_secs(10)).await;
    let dones: Vec<_> = dones.iter().filter(|said| is_done_of(said, &order.attempt)).collect();
    require(dones.len() == 3, format!("it came {} times, and was never settled", dones.len()))?;
    let gap = dones[1].at - first.at;
    require(gap > Duration::from_millis(500), format!("it was repeated after no more than {gap:?}"))?;
    let same = dones.iter().all(|said| said.body == first.body && said.headers == first.headers);
    require(same, "it says something else when it is repeated")
}

pub(super) async fn settled(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, "once").await;
    candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    candidate.settle(&order.attempt).await;
    let holds_nothing = |beat: &Beat| beat.holds.is_empty();
    candidate.until_looks(SOON, "that it holds nothing", holds_nothing).await?;
    let mark = candidate.mark();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    require(candidate.dones(mark, &order.attempt.task).is_empty(), "it repeats a `done` that is settled")
}

pub(super) async fn settled_other(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, "not yet").await;
    candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON).await?;
    let AttemptRef { task, attempt, epoch } = order.attempt.clone();
    candidate.settle(&AttemptRef { task: task.clone(), attempt: attempt + 1, epoch }).await;
    candidate.settle(&AttemptRef { task, attempt, epoch: Epoch(epoch.0 - 1) }).await;
    let beat = candidate.look().await?;
    let state = state_of(&beat, &order.attempt);
    require(state == Some(HeldState::Done), "another attempt of the task was settled, and it has forgotten this one")
}
