//! What the agent tells of its logs, if it tells anything.

use std::sync::Arc;
use std::time::Duration;

use shared::TaskId;
use shared::header;
use shared::message::{Follow, HeldState};
use shared::subject::{AgentVerb, InboxVerb};

use super::candidate::{Candidate, FOR_LONG};
use super::ear::Said;
use super::{Checked, Trouble, require};

/// An agent that has no logs need not say so.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn follow(candidate: &mut Candidate) -> Checked {
    let nap = candidate.sleep()?;
    let order = candidate.run_new(&nap, FOR_LONG).await;
    candidate.until_held(&order.attempt, HeldState::Running).await?;
    let task = &order.attempt.task;
    let Some(said) = told_of(candidate, task).await else {
        return Err(Trouble::Skipped("it tells nothing of logs, which it need not".to_owned()));
    };
    let number = |name| said.header(name).and_then(|value| value.parse::<u64>().ok());
    let attempt = number(header::ATTEMPT);
    require(attempt == Some(1), format!("it tells of attempt {attempt:?}, and runs the first"))?;
    let (offset, end, state) = (number(header::LOG_OFFSET), number(header::LOG_END), said.header(header::LOG_STATE));
    let (Some(offset), Some(end)) = (offset, end) else {
        return Err(Trouble::Failed("`Hive-Log-Offset` or `Hive-Log-End` is missing or no number".to_owned()));
    };
    let told = offset + said.body.len() as u64;
    require(told <= end, format!("it tells {told} bytes of a log that has {end}"))?;
    require(state == Some("running"), format!("the log of what runs is {state:?}"))?;
    let unknown = TaskId::generate();
    let Some(said) = told_of(candidate, &unknown).await else {
        return Err(Trouble::Failed("it is silent about a task that it has not".to_owned()));
    };
    let state = said.header(header::LOG_STATE);
    require(state == Some("gone"), format!("the log of a task that it has not is {state:?}"))
}

/// What it says when somebody follows the task.
async fn told_of(candidate: &Candidate, task: &TaskId) -> Option<Arc<Said>> {
    let mark = candidate.mark();
    let follow = Follow { task: task.clone(), attempt: 0, after: 0, lasting: Duration::from_secs(1) };
    candidate.tell(InboxVerb::Follow, &follow).await;
    let about_it = |said: &Arc<Said>| {
        let is_meant = said.verb == AgentVerb::Progress
            && said.header(header::TASK) == Some(task.as_str())
            && said.header(header::LOG_STATE).is_some();
        is_meant.then(|| said.clone())
    };
    candidate.until(mark, PATIENCE, "progress", about_it).await.ok()
}
