//! How a task's earlier attempts ended: what its retries are counted by, and the evidence in its dead letter.

use std::fmt;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use shared::{AgentId, Epoch, TaskId};

use crate::Timestamp;
use crate::tasks::Attempt;

/// How many ends are kept, the last ones.
const KEPT: usize = 10;

/// The attempts of a task that did not end well.
///
/// The coordinator keeps it in a stream whenever it changes, so that the next leader counts on: otherwise a task that
/// always fails, or takes its agent down, would begin anew with each leader.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The task's id. (Under the same sequence another one may stand, where a stream was made anew.)
    pub task: Option<TaskId>,
    /// The number of the last attempt when this was written.
    pub attempts: u32,
    /// Attempts that failed by their handler's word, or ran too long.
    pub failures: u32,
    /// Agents that were lost while they had it.
    pub losses: u32,
    /// The last ends, the oldest first.
    pub ends: Vec<End>,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The attempt's number.
    pub attempt: u32,
    /// The epoch that ordered it.
    pub epoch: Epoch,
    /// Who had it.
    pub agent: AgentId,
    /// What became of it.
    pub how: HowEnded,
    /// Why, in words.
    pub reason: CompactString,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What became of an attempt that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HowEnded {
    /// Its handler said so, or it ran too long.
    Failed,
    /// Its agent was lost.
    Lost,
}

impl fmt::Display for End {
    /// `attempt 2 (epoch 7) lost on ada at 2026-11-22T10:00:00.000Z: it is silent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempt, epoch, agent, how, reason, at_ms } = self;
        let how = match how {
            HowEnded::Failed => "failed",
            HowEnded::Lost => "lost",
        };
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(*at_ms);
        let at = humantime::format_rfc3339_millis(at);
        write!(f, "attempt {attempt} (epoch {epoch}) {how} on {agent} at {at}: {reason}")
    }
}

impl History {
    /// Whether nothing went wrong.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn failed(&mut self, agent: AgentId, attempt: &Attempt, reason: CompactString, now: Timestamp) {
        self.failures += 1;
        self.add(agent, attempt, HowEnded::Failed, reason, now);
    }

    pub(crate) fn lost(&mut self, agent: AgentId, attempt: &Attempt, reason: &str, now: Timestamp) {
        self.losses += 1;
        self.add(agent, attempt, HowEnded::Lost, reason.into(), now);
    }

    fn add(&mut self, agent: AgentId, attempt: &Attempt, how: HowEnded, reason: CompactString, now: Timestamp) {
        if self.ends.len() == KEPT {
            self.ends.remove(0);
        }
        let at_ms = now.since_origin().as_millis() as u64;
        self.ends.push(End { attempt: attempt.number, epoch: attempt.epoch, agent, how, reason, at_ms });
    }

    /// The attempt was given up for lost and runs all the same. Answers whether it was.
    pub(crate) fn lives_on(&mut self, agent: &AgentId, number: u32, epoch: Epoch) -> bool {
        let is_it = |end: &End| end.how == HowEnded::Lost && &end.agent == agent && end.attempt == number;
        let found = self.ends.iter().rposition(|end| is_it(end) && end.epoch == epoch);
        if let Some(place) = found {
            self.ends.remove(place);
            self.losses = self.losses.saturating_sub(1);
        }
        found.is_some()
    }

    /// Whether the attempt is among those that failed.
    pub(crate) fn has_failed(&self, number: u32, epoch: Epoch) -> bool {
        self.ends.iter().any(|end| end.how == HowEnded::Failed && end.attempt == number && end.epoch == epoch)
    }

    /// Takes over what a leader before has kept, from before what has happened since.
    pub(crate) fn follow(&mut self, kept: History) {
        self.failures += kept.failures;
        self.losses += kept.losses;
        self.attempts = self.attempts.max(kept.attempts);
        let since = std::mem::replace(&mut self.ends, kept.ends);
        self.ends.extend(since);
        let surplus = self.ends.len().saturating_sub(KEPT);
        self.ends.drain(..surplus);
    }

    /// Why the last one ended, in words.
    pub(crate) fn last_error(&self) -> Option<&CompactString> {
        self.ends.last().map(|end| &end.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::AgentKey;

    fn attempt(number: u32) -> Attempt {
        Attempt::new(AgentKey::default(), number, Epoch(3), Timestamp::default())
    }

    #[test]
    fn an_attempt_that_lives_on_is_not_counted_as_lost() {
        let ada = AgentId::new("ada").unwrap();
        let mut history = History::default();
        history.lost(ada.clone(), &attempt(1), "it is silent", Timestamp::default());
        history.lost(ada.clone(), &attempt(2), "it is silent", Timestamp::default());

        assert!(history.lives_on(&ada, 1, Epoch(3)));
        assert!(!history.lives_on(&ada, 1, Epoch(3)), "it was taken off before");
        assert!(!history.lives_on(&ada, 2, Epoch(4)), "it is another attempt");

        assert_eq!((history.losses, history.ends.len()), (1, 1));
    }

    #[test]
    fn no_more_than_the_last_ends_are_kept() {
        let ada = AgentId::new("ada").unwrap();
        let mut before = History::default();
        (1..=8).for_each(|n| before.failed(ada.clone(), &attempt(n), "no".into(), Timestamp::default()));
        let mut since = History::default();
        (9..=13).for_each(|n| since.failed(ada.clone(), &attempt(n), "no".into(), Timestamp::default()));

        since.follow(before);

        assert_eq!(since.failures, 13);
        assert_eq!(since.ends.iter().map(|end| end.attempt).collect::<Vec<_>>(), (4..=13).collect::<Vec<_>>());
    }

    #[test]
    fn an_end_reads_as_a_line() {
        let mut history = History::default();
        let noon = Timestamp::from_origin(std::time::Duration::from_secs(1_700_000_000));
        history.lost(AgentId::new("ada").unwrap(), &attempt(2), "it is silent", noon);

        let line = history.ends[0].to_string();
        assert_eq!(line, "attempt 2 (epoch 3) lost on ada at 2023-11-14T22:13:20.000Z: it is silent");
    }
}
