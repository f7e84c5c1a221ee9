//! How a webhook is doing: its last attempts, and since when it fails. Kept for the next leader.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use shared::api::hooks::HookAttempt;

/// How a webhook is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Events that were taken.
    pub(crate) delivered: u64,
    /// Attempts that failed since one was taken.
    pub(crate) failures: u64,
    /// When the first of them was.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub(crate) failing_since: Option<SystemTime>,
    /// The last attempts, the newest first.
    pub(crate) attempts: VecDeque<HookAttempt>,
}

impl Record {
    /// Notes an attempt that ended now; so many are kept.
    pub(crate) fn note(&mut self, attempt: HookAttempt, now: SystemTime, kept: usize) {
        if attempt.error.is_none() {
            self.delivered += 1;
            self.failures = 0;
            self.failing_since = None;
        } else {
            self.failures += 1;
            self.failing_since.get_or_insert(now);
        }
        self.attempts.push_front(attempt);
        self.attempts.truncate(kept);
    }

    /// For how long nothing was taken.
    pub(crate) fn failing_for(&self, now: SystemTime) -> Duration {
        self.failing_since.and_then(|since| now.duration_since(since).ok()).unwrap_or_default()
    }

    /// It gets a fresh start.
    pub(crate) fn forgive(&mut self) {
        self.failures = 0;
        self.failing_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(event: u64, error: Option<&str>) -> HookAttempt {
        HookAttempt {
            time: "2026-12-01T12:00:00.000Z".into(),
            webhook_id: format!("evt_{event}"),
            event: Some(event),
            status: Some(if error.is_some() { 500 } else { 200 }),
            duration_ms: 3,
            error: error.map(Into::into),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn it_fails_since_the_first_failure_after_the_last_success() {
        let mut record = Record::default();

        record.note(attempt(1, None), at(10), 9);
        record.note(attempt(2, Some("no")), at(20), 9);
        record.note(attempt(2, Some("no")), at(30), 9);

        assert_eq!((record.delivered, record.failures, record.failing_for(at(50))), (1, 2, Duration::from_secs(30)));
        record.note(attempt(2, None), at(60), 9);
        assert_eq!((record.delivered, record.failures, record.failing_for(at(70))), (2, 0, Duration::ZERO));
    }

    #[test]
    fn only_the_last_attempts_are_kept() {
        let mut record = Record::default();

        (1..=5).for_each(|event| record.note(attempt(event, None), at(event), 2));

        assert_eq!(record.attempts.iter().map(|attempt| attempt.event).collect::<Vec<_>>(), [Some(5), Some(4)]);
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        let mut record = Record::default();
        record.note(attempt(1, Some("no")), at(10), 9);

        let text = serde_json::to_string(&record).unwrap();

        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert_eq!(serde_json::from_str::<Record>("{}").unwrap(), Record::default());
    }
}
