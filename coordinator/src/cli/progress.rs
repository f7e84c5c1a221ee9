//! Shows how far a task is while it is waited for.

use std::convert::Infallible;
use std::time::Duration;

use shared::api::logs::TaskProgress;
use shared::api::{ById, Task};
use shared::client::{TaskResult, WaitError};
use shared::{Client, TaskId};

use super::api::{self, Api};
use super::output::Waiting;

/// How often the task is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Waits for a task's result.
pub(super) async fn wait(
    client: &Client,
    id: &TaskId,
    limit: Duration,
    waiting: &Waiting,
) -> Result<TaskResult, WaitError> {
    shown(client.wait(id, limit), client, id, waiting).await
}

/// Does some work for which a task is waited, and shows meanwhile how far the task is, if somebody looks.
pub(super) async fn shown<T>(work: impl Future<Output = T>, client: &Client, id: &TaskId, waiting: &Waiting) -> T {
    tokio::select! {
        done = work => done,
        never = show(client, id, waiting) => match never {},
    }
}

/// How far a task is, in a few words.
pub(super) fn describe(progress: &TaskProgress) -> String {
    let percent = format!("{:.0} %", progress.fraction * 100.0);
    match &progress.text {
        Some(text) => format!("{percent}: {text}"),
        None => percent,
    }
}

async fn show(client: &Client, id: &TaskId, waiting: &Waiting) -> Infallible {
    if !waiting.is_seen() {
        return std::future::pending().await;
    }
    let (api, by_id) = (Api::over(client.clone(), String::new()), ById { id: id.to_string() });
    loop {
        tokio::time::sleep(LOOK).await;
        // It is only shown: whoever waits is told what goes wrong.
        let answer = api.ask("task", "get", &by_id).await.and_then(|answer| api::read::<Task>("task.get", answer));
        if let Ok(Task { progress: Some(progress), .. }) = answer {
            waiting.progress(&progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_a_few_words() {
        let progress = |fraction, text: Option<&str>| {
            describe(&TaskProgress { fraction, text: text.map(str::to_owned), age_ms: 0 })
        };

        assert_eq!(progress(0.426, Some("frame 42")), "43 %: frame 42");
        assert_eq!(progress(1.0, None), "100 %");
    }
}
