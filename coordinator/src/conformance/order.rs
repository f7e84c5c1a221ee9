//! An order to run an attempt, and what an agent says of it.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;
use shared::message::{AttemptRef, Beat, HeldState};
use shared::subject::AgentVerb;
use shared::{Epoch, Incarnation, Kind, header};

use super::ear::Said;

/// An order to run an attempt.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) attempt: AttemptRef,
    pub(super) sequence: u64,
    pub(super) kind: Kind,
    pub(super) incarnation: Incarnation,
    pub(super) timeout: Option<Duration>,
    pub(super) body: Bytes,
}

impl Order {
    /// The same task under another attempt's number, by the leader of another epoch.
    pub(super) fn renumbered(&self, attempt: u32, epoch: Epoch) -> Order {
        Order { attempt: AttemptRef { task: self.attempt.task.clone(), attempt, epoch }, ..self.clone() }
    }

    /// The headers of its `run`.
    pub(super) fn headers(&self) -> HeaderMap {
        let AttemptRef { task, attempt, epoch } = &self.attempt;
        let mut headers = HeaderMap::new();
        headers.insert(header::TASK, task.as_str());
        headers.insert(header::SEQUENCE, HeaderValue::from(self.sequence));
        headers.insert(header::KIND, self.kind.as_str());
        headers.insert(header::ATTEMPT, HeaderValue::from(*attempt));
        headers.insert(header::EPOCH, HeaderValue::from(epoch.0));
        headers.insert(header::INCARNATION, HeaderValue::from(self.incarnation.0));
        if let Some(timeout) = self.timeout {
            headers.insert(header::TIMEOUT, format!("{}ms", timeout.as_millis()).as_str());
        }
        headers
    }
}

/// How far an attempt is, if it is held.
pub(super) fn state_of(beat: &Beat, attempt: &AttemptRef) -> Option<HeldState> {
    let AttemptRef { task, attempt, epoch } = attempt;
    let held = beat.holds.iter().find(|held| held.task == *task && held.attempt == *attempt && held.epoch == *epoch);
    held.map(|held| held.state)
}

/// How many attempts are held in a state.
pub(super) fn count(beat: &Beat, state: HeldState) -> usize {
    beat.holds.iter().filter(|held| held.state == state).count()
}

/// Whether it is the `done` of this attempt.
pub(super) fn is_done_of(said: &Said, attempt: &AttemptRef) -> bool {
    let number = |name| said.header(name).and_then(|value| value.parse::<u64>().ok());
    said.verb == AgentVerb::Done
        && said.header(header::TASK) == Some(attempt.task.as_str())
        && number(header::ATTEMPT) == Some(u64::from(attempt.attempt))
        && number(header::EPOCH) == Some(attempt.epoch.0)
}
