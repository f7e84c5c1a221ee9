//! Compares each result with the same work done without the mesh.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use shared::client::TaskResult;
use shared::{Outcome, TaskId};

use super::Meter;
use super::work::Task;

/// What a comparison said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The result is the same.
    Right,
    /// There is no result.
    Missing,
    /// The task ended otherwise, for this reason.
    NotDone(Outcome, String),
    /// The result differs.
    Wrong {
        /// What the mesh says.
        got: String,
        /// What is right.
        expected: String,
    },
    /// The result differs, but so does the file from what was sent.
    FileChanged,
}

/// Checks each task, in the order of the tasks.
pub(super) async fn verify(tasks: &[Task<'_>], results: &HashMap<TaskId, TaskResult>) -> anyhow::Result<Vec<Check>> {
    let mut meter = Meter::new("comparing", tasks.len());
    let at_once = std::thread::available_parallelism().map_or(2, usize::from) * 2;
    let mut checks = stream::iter(tasks.iter().map(|task| check(task, results.get(&task.id)))).buffered(at_once);
    let mut all = Vec::with_capacity(tasks.len());
    while let Some(check) = checks.try_next().await? {
        all.push(check);
        meter.set(all.len());
    }
    meter.finish();
    Ok(all)
}

async fn check(task: &Task<'_>, result: Option<&TaskResult>) -> anyhow::Result<Check> {
    let Some(result) = result else { return Ok(Check::Missing) };
    if result.outcome != Outcome::Succeeded {
        return Ok(Check::NotDone(result.outcome, result.error.clone().unwrap_or_default()));
    }
    let expected = match task.handler.run_on(&task.file.path).await {
        Ok(expected) => expected,
        Err(_) if task.file.has_changed() => return Ok(Check::FileChanged),
        Err(error) => return Err(error),
    };
    Ok(if expected == result.body {
        Check::Right
    } else if task.file.has_changed() {
        Check::FileChanged
    } else {
        Check::Wrong { got: excerpt(&result.body), expected: excerpt(&expected) }
    })
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().chars().take(80).flat_map(char::escape_debug).collect()
}
