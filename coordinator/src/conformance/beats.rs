//! What the agent says of itself unasked, and when it is pinged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::message::{AttemptRef, Beat, Held, HeldState, Report};
use shared::subject::AgentVerb;

use super::candidate::{BEAT, Candidate, REPORT, SOON};
use super::ear::{Mark, Said};
use super::order::{Order, state_of};
use super::{Checked, Trouble, require};

pub(super) async fn interval(candidate: &mut Candidate) -> Checked {
    for interval in [Duration::from_millis(200), Duration::from_secs(1)] {
        let mark = candidate.mark();
        candidate.beat_every(interval).await;
        // The first may have been due by the interval before.
        let beats = candidate.several(mark, AgentVerb::Beat, 5, interval * 15).await;
        require(beats.len() == 5, format!("at an interval of {interval:?} it beat {} times in 15", beats.len()))?;
        let mean = (beats[4].at - beats[1].at) / 3;
        let is_near = mean > interval / 2 && mean < interval * 2;
        require(is_near, format!("at an interval of {interval:?} it beats every {mean:?}"))?;
    }
    Ok(())
}

pub(super) async fn sequence(candidate: &mut Candidate) -> Checked {
    let said = candidate.several(candidate.mark(), AgentVerb::Beat, 5, BEAT * 20).await;
    let beats = said.iter().map(|said| read(said)).collect::<Result<Vec<Beat>, Trouble>>()?;
    let sequences: Vec<u64> = beats.iter().map(|beat| beat.sequence).collect();
    let grow = sequences.windows(2).all(|pair| pair[0] < pair[1]);
    require(grow && sequences.first().is_some_and(|first| *first > 0), format!("its `sequence`s are {sequences:?}"))?;
    let other =
        beats.iter().map(|beat| beat.incarnation).find(|incarnation| *incarnation != candidate.hello.incarnation);
    require(other.is_none(), format!("its hello says incarnation {}, a beat {other:?}", candidate.hello.incarnation))
}

pub(super) async fn holds(candidate: &mut Candidate) -> Checked {
    let sleep = candidate.sleep()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&sleep, "1500ms").await;
    let beat = beat_with(candidate, mark, &order, Some(HeldState::Running)).await?;
    let expected = expected(&order, HeldState::Running);
    let listed = beat.holds.into_iter().find(|held| held.task == order.attempt.task);
    require(listed.as_ref() == Some(&expected), format!("a beat lists {listed:?}, not {expected:?}"))?;
    candidate.done(mark, &order.attempt, SOON).await?;
    beat_with(candidate, candidate.mark(), &order, Some(HeldState::Done)).await?;
    candidate.settle(&order.attempt).await;
    beat_with(candidate, candidate.mark(), &order, None).await?;
    Ok(())
}

async fn beat_with(
    candidate: &Candidate,
    from: Mark,
    order: &Order,
    state: Option<HeldState>,
) -> Result<Beat, Trouble> {
    let what = match state {
        Some(state) => format!("beat that lists a task as {state:?}"),
        None => "beat that lists it no more".to_owned(),
    };
    let wanted = |beat: &Beat| state_of(beat, &order.attempt) == state;
    let beat_of = |said: &Arc<Said>| (said.verb == AgentVerb::Beat).then(|| said.read::<Beat>().ok()).flatten();
    candidate.until(from, SOON, &what, |said| beat_of(said).filter(wanted)).await
}

fn expected(order: &Order, state: HeldState) -> Held {
    let AttemptRef { task, attempt, epoch } = order.attempt.clone();
    Held { task, sequence: order.sequence, kind: order.kind.clone(), attempt, epoch, state }
}

fn read(said: &Said) -> Result<Beat, Trouble> {
    said.read().map_err(|error| Trouble::Failed(format!("a beat cannot be read: {}", crate::chain(&error))))
}

pub(super) async fn ping(candidate: &mut Candidate) -> Checked {
    let sleep = candidate.sleep()?;
    let order = candidate.run_new(&sleep, "2000ms").await;
    let asked = Instant::now();
    let pong = candidate.ping().await.map_err(Trouble::Failed)?;
    let waited = asked.elapsed();
    require(waited < Duration::from_secs(1), format!("it answered after {waited:?}"))?;
    let (id, hello) = (&candidate.id, &candidate.hello);
    require(pong.agent == *id, format!("it is `{id}`, but answers as `{}`", pong.agent))?;
    let incarnation = pong.beat.incarnation;
    require(incarnation == hello.incarnation, format!("its answer is of incarnation {incarnation}"))?;
    let state = state_of(&pong.beat, &order.attempt);
    require(state.is_some(), "what was ordered just before is not in its answer")
}

pub(super) async fn report(candidate: &mut Candidate) -> Checked {
    let said = candidate.several(candidate.mark(), AgentVerb::Report, 1, REPORT * 4).await;
    let Some(said) = said.first() else {
        return Err(Trouble::Skipped("it reports nothing, which it need not".to_owned()));
    };
    let report: Report =
        said.read().map_err(|error| Trouble::Failed(format!("a report cannot be read: {}", crate::chain(&error))))?;
    let Report { incarnation, cpu, memory, disk, network, .. } = report;
    require(incarnation == candidate.hello.incarnation, format!("a report is of incarnation {incarnation}"))?;
    let are_shares = [cpu, memory, disk, network].iter().all(|share| (0.0..=1.0).contains(share));
    require(are_shares, format!("its shares are cpu {cpu}, memory {memory}, disk {disk}, network {network}"))
}
