//! How far attempts are, as their handlers report it: shown with their tasks, kept by the leader in memory, and nothing
//! depends on it.

use std::time::Instant;

use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, Message};
use rustc_hash::FxHashMap;
use shared::api::logs::TaskProgress;
use shared::header::name;
use shared::{AgentId, TaskId};
use tracing::debug;

use super::Node;

/// How many reports are kept of attempts that the leader does not know yet: it may have just begun.
const UNKNOWN: usize = 4096;

/// What was reported last of each running task whose handler reports.
#[derive(Debug, Default)]
pub(super) struct Board(FxHashMap<TaskId, Reported>);

#[derive(Debug)]
struct Reported {
    agent: AgentId,
    attempt: u32,
    fraction: f64,
    text: Option<String>,
    at: Instant,
}

impl Board {
    /// The task is settled.
    pub(super) fn forget(&mut self, id: &TaskId) {
        // Few handlers report, and this is on the way of every task.
        if !self.0.is_empty() {
            self.0.remove(id);
        }
    }
}

impl Node {
    pub(super) fn on_progress(&mut self, agent: &AgentId, message: &Message) {
        let (Some(reign), Some(headers)) = (&mut self.reign, &message.headers) else { return };
        // A piece of a log is for those who follow it.
        let Some(fraction) = headers.get(name::PROGRESS) else { return };
        let Some((task, reported)) = read(agent, headers, fraction.as_str()) else {
            return debug!(%agent, "a report of how far an attempt is cannot be read");
        };
        // Only whoever runs it can know.
        let is_taken = match self.scheduler.attempt_of(&task) {
            Some(running) => running == (agent, reported.attempt),
            None => reign.progress.0.len() < UNKNOWN,
        };
        if is_taken {
            reign.progress.0.insert(task, reported);
        }
    }

    /// How far the attempt is that runs of a task, if that is known.
    pub(super) fn progress_of(&self, id: &TaskId) -> Option<TaskProgress> {
        let reported = self.reign.as_ref()?.progress.0.get(id)?;
        if self.scheduler.attempt_of(id) != Some((&reported.agent, reported.attempt)) {
            return None;
        }
        let age_ms = u64::try_from(reported.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(TaskProgress { fraction: reported.fraction, text: reported.text.clone(), age_ms })
    }
}

fn read(agent: &AgentId, headers: &HeaderMap, fraction: &str) -> Option<(TaskId, Reported)> {
    let task = TaskId::new(headers.get(name::TASK)?.as_str()).ok()?;
    let attempt = headers.get(name::ATTEMPT)?.as_str().parse().ok()?;
    let fraction: f64 = fraction.parse().ok().filter(|fraction| (0.0..=1.0).contains(fraction))?;
    let text = headers.get(name::PROGRESS_TEXT).map(HeaderValue::as_str).map(str::to_owned);
    Some((task, Reported { agent: agent.clone(), attempt, fraction, text, at: Instant::now() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_share_of_a_named_attempt_is_progress() {
        let read = |fraction: &str, attempt: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("Hive-Task", "t-1");
            headers.insert("Hive-Attempt", attempt);
            read(&"ada".parse().unwrap(), &headers, fraction).map(|(_, reported)| reported.fraction)
        };

        assert_eq!(read("0.25", "2"), Some(0.25));
        for (fraction, attempt) in [("1.5", "2"), ("NaN", "2"), ("half", "2"), ("0.5", "second")] {
            assert_eq!(read(fraction, attempt), None, "{fraction} {attempt}");
        }
    }
}
