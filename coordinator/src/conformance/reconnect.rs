//! What the agent does when the NATS server comes back.

use std::time::Duration;

use shared::message::{HeldState, Hello};
use shared::task::AttemptOutcome;

use super::candidate::{Candidate, SOON};
use super::{Checked, require};

/// How long a client may take to connect again.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn hello(candidate: &mut Candidate) -> Checked {
    let (echo, nap) = (candidate.echo()?, candidate.sleep()?);
    let mark = candidate.mark();
    let done = candidate.run_new(&echo, "done before").await;
    candidate.ends(mark, &done, AttemptOutcome::Succeeded, SOON).await?;
    let running = candidate.run_new(&nap, "30000ms").await;
    candidate.until_held(&running.attempt, HeldState::Running).await?;
    candidate.host()?.kill_broker().await;
    let mark = candidate.mark();
    candidate.host()?.restart_broker().await?;
    let (_, hello) = candidate.hello_since(mark, PATIENCE).await?;
    let (now, before) = (hello.incarnation, candidate.hello.incarnation);
    require(now == before, format!("its `incarnation` has changed from {before} to {now}"))?;
    for order in [&done, &running] {
        let task = &order.attempt.task;
        require(holds(&hello, task), format!("its hello does not list {task}, which it holds"))?;
    }
    Ok(())
}

fn holds(hello: &Hello, task: &shared::TaskId) -> bool {
    hello.holds.iter().any(|held| held.task == *task)
}

pub(super) async fn done(candidate: &mut Candidate) -> Checked {
    let (echo, nap) = (candidate.echo()?, candidate.sleep()?);
    let mark = candidate.mark();
    let before = candidate.run_new(&echo, "done before").await;
    candidate.ends(mark, &before, AttemptOutcome::Succeeded, SOON).await?;
    let meanwhile = candidate.run_new(&nap, "1000ms").await;
    candidate.until_held(&meanwhile.attempt, HeldState::Running).await?;
    candidate.host()?.kill_broker().await;
    // It ends meanwhile, and nobody can hear that.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mark = candidate.mark();
    candidate.host()?.restart_broker().await?;
    for order in [&before, &meanwhile] {
        candidate.ends(mark, order, AttemptOutcome::Succeeded, PATIENCE).await?;
    }
    Ok(())
}
