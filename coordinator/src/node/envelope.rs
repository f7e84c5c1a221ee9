//! What the leader holds of a task besides what the scheduler knows: the message itself, and how far its settling is.

use std::time::Instant;

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use compact_str::CompactString;
use scheduler::{Delivery, Dispatch, Settlement, Timestamp};
use shared::header::name;
use shared::{Kind, TaskId, header, quantity};

use super::lanes::LaneKey;
use super::traces::Traced;
use crate::store::Call;

/// A message of the task stream, from its delivery to its removal.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) id: TaskId,
    pub(crate) kind: Kind,
    pub(crate) subject: Subject,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) body: Bytes,
    /// When the broker accepted it.
    pub(crate) accepted: Timestamp,
    /// When it came, until it was first given to an agent.
    pub(crate) arrived: Option<Instant>,
    /// Where it is acknowledged; empty if it was fetched by its sequence.
    pub(crate) ack: Subject,
    pub(crate) reply_to: Option<CompactString>,
    pub(crate) discard_result: bool,
    /// The lane whose window it takes up until it is placed.
    pub(crate) lane: Option<LaneKey>,
    pub(crate) stage: Stage,
    pub(crate) settlement: Option<Box<Settlement>>,
    /// Since when its result is on its way by itself, and beside how many others.
    pub(crate) recording: Option<(Instant, u32)>,
    /// The handler's output.
    pub(crate) output: Bytes,
    /// Whether somebody wanted the task to end before the scheduler had it.
    pub(crate) cancel_wanted: bool,
    /// The task, while it is being looked up whether it is settled.
    pub(crate) delivery: Option<Box<Delivery>>,
    /// What is remembered of it where there are traces.
    pub(crate) traced: Option<Box<Traced>>,
}

/// How far a message is on its way out of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is being looked up whether the task is settled already.
    LookingUp,
    /// The scheduler has it.
    Held,
    /// Its result is being stored.
    Recording,
    /// It is being stored among the dead letters.
    Burying,
    /// It is being acknowledged.
    Removing,
}

impl Stage {
    /// What JetStream is asked for at it.
    pub(crate) const fn call(self) -> Option<Call> {
        match self {
            Stage::LookingUp => Some(Call::LookUp),
            Stage::Held => None,
            Stage::Recording => Some(Call::Record),
            Stage::Burying => Some(Call::Bury),
            Stage::Removing => Some(Call::Acknowledge),
        }
    }
}

impl Envelope {
    /// The headers of `run`: the submitter's that are not the mesh's own, and those of the attempt.
    pub(crate) fn run_headers(&self, dispatch: &Dispatch) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(submitted) = &self.headers {
            for (name, values) in submitted.iter() {
                let text: &str = name.as_ref();
                if !header::OWN.iter().any(|own| own.eq_ignore_ascii_case(text)) && !text.starts_with("Nats-") {
                    values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
                }
            }
        }
        headers.insert(name::TASK, self.id.as_str());
        headers.insert(name::SEQUENCE, HeaderValue::from(dispatch.sequence.0));
        headers.insert(name::KIND, self.kind.as_str());
        headers.insert(name::ATTEMPT, HeaderValue::from(u64::from(dispatch.attempt.attempt)));
        headers.insert(name::EPOCH, HeaderValue::from(dispatch.attempt.epoch.0));
        headers.insert(name::INCARNATION, HeaderValue::from(dispatch.incarnation.0));
        if let Some(timeout) = dispatch.timeout {
            headers.insert(name::TIMEOUT, format!("{}ms", timeout.as_millis().max(1)).as_str());
        }
        let reserved = &dispatch.reserved.resources;
        // What its submitter asked for stands there already; what its kind's settings say does not.
        let mut add = |name: HeaderName, amount: u64, write: fn(u64) -> String| {
            if amount > 0 && headers.get(name.clone()).is_none() {
                headers.insert(name, write(amount).as_str());
            }
        };
        add(name::CPU, reserved.cpu_millis, quantity::cpu::write);
        add(name::MEMORY, reserved.memory_bytes, quantity::bytes::write);
        add(name::DISK, reserved.disk_bytes, quantity::bytes::write);
        add(name::NETWORK, reserved.network_bps, quantity::bandwidth::write);
        let countable = &dispatch.reserved.countable;
        if !countable.is_empty() && headers.get(name::RESOURCES).is_none() {
            headers.insert(name::RESOURCES, countable.to_string().as_str());
        }
        headers
    }

    /// The headers of a dead letter: the original ones, and why it is there.
    pub(crate) fn dead_headers(&self, settlement: &Settlement) -> HeaderMap {
        let mut headers = HeaderMap::new();
        // What the submitter told the broker is not meant for this stream: `Nats-Expected-Last-Subject-Sequence: 0`
        // would keep all dead letters of a kind out but the first.
        for (name, values) in self.headers.iter().flat_map(HeaderMap::iter) {
            if !AsRef::<str>::as_ref(name).starts_with("Nats-") {
                values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
            }
        }
        headers.insert("Hive-Subject", self.subject.as_str());
        headers.insert(name::MSG_ID, format!("dead.{}.{}", settlement.sequence, self.id).as_str());
        add_settlement(&mut headers, settlement);
        for end in &settlement.history {
            headers.append(name::HISTORY, header::clean(&end.to_string(), header::MAX_ERROR_BYTES / 2).as_str());
        }
        headers
    }
}

/// The headers of a result.
pub(crate) fn result_headers(settlement: &Settlement) -> HeaderMap {
    let mut headers = HeaderMap::new();
    add_settlement(&mut headers, settlement);
    headers
}

fn add_settlement(headers: &mut HeaderMap, settlement: &Settlement) {
    headers.insert(name::TASK, settlement.id.as_str());
    headers.insert(name::KIND, settlement.kind.as_str());
    headers.insert(name::OUTCOME, settlement.outcome.as_str());
    headers.insert(name::ATTEMPTS, HeaderValue::from(u64::from(settlement.attempts)));
    if let Some((agent, _)) = &settlement.by {
        headers.insert(name::AGENT, agent.as_str());
    }
    if let Some(error) = &settlement.error {
        headers.insert(name::ERROR, header::clean(error, header::MAX_ERROR_BYTES).as_str());
    }
    headers.insert(name::QUEUED_MS, HeaderValue::from(settlement.queued.as_millis() as u64));
    headers.insert(name::RUN_MS, HeaderValue::from(settlement.run.as_millis() as u64));
}

/// Whether a result with these headers ended badly enough for the dead letters.
pub(crate) fn is_dead(headers: &HeaderMap) -> bool {
    matches!(headers.get(name::OUTCOME).map(HeaderValue::as_str), Some("failed" | "dead"))
}
