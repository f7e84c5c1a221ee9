//! What the leader does for a task, as spans: `queue` from its acceptance to its first order, `place` for each order,
//! `settle` from the decision about its outcome until its message is gone.
//!
//! All of them are within the span that the submitter has named in `traceparent`; where it has named none, within `queue`,
//! whose ids follow from the message, so that another leader goes on in the same trace. An attempt's `run` is within its
//! `place`, whose context the order carries. A retry follows from the placing before.

use std::time::SystemTime;

use async_nats::HeaderMap;
use scheduler::{Dispatch, Sequence, Settlement, Timestamp};
use shared::trace::{self, KeyValue, Span, SpanContext, SpanKind, Tracing};
use shared::{AgentId, Outcome};
use tracing::{Level, debug};

use super::Node;
use super::envelope::Envelope;

/// What is remembered of a task where there are traces.
#[derive(Debug)]
pub(crate) struct Traced {
    /// What its spans are within.
    task: SpanContext,
    /// Whether its submitter has named none, so that `queue` is what they are within.
    is_root: bool,
    placed: Option<Placed>,
    settling_since: Option<SystemTime>,
}

/// The last placing.
#[derive(Debug)]
struct Placed {
    agent: AgentId,
    attempt: u32,
    context: SpanContext,
}

impl Node {
    /// An order goes out: where there are traces, its headers name the placing.
    pub(super) fn trace_order(&mut self, dispatch: &Dispatch, headers: &mut HeaderMap) {
        if let Some(tracing) = trace::active() {
            self.trace_placing(tracing, dispatch, headers);
        }
        if tracing::enabled!(Level::DEBUG) {
            let (trace_id, span_id) = trace::ids_of(headers);
            let (task, attempt, agent) = (&dispatch.attempt.task, dispatch.attempt.attempt, &dispatch.agent);
            debug!(%task, attempt, %agent, trace_id, span_id, "attempt ordered");
        }
    }

    fn trace_placing(&mut self, tracing: &Tracing, dispatch: &Dispatch, headers: &mut HeaderMap) {
        let now = wall(self.clock.now());
        let envelopes = self.reign.as_mut().map(|reign| &mut reign.envelopes);
        let Some(envelope) = envelopes.and_then(|envelopes| envelopes.get_mut(&dispatch.sequence)) else { return };
        let mut traced = envelope.traced.take().unwrap_or_else(|| Traced::begin(tracing, dispatch.sequence, envelope));
        if traced.placed.is_none() && dispatch.attempt.attempt == 1 {
            traced.record_queue(tracing, envelope, now);
        }
        if !traced.placed.as_ref().is_some_and(|placed| placed.is_by(dispatch)) {
            let context = tracing.begin(Some(&traced.task));
            let (agent, attempt) = (dispatch.agent.clone(), dispatch.attempt.attempt);
            let before = traced.placed.replace(Placed { agent, attempt, context: context.clone() });
            if context.is_sampled() {
                let choice = self.scheduler.choice_of(dispatch.sequence);
                let (name, mut attributes) = envelope.about("place");
                attributes.extend([
                    KeyValue::new("hive.agent", dispatch.agent.to_string()),
                    KeyValue::new("hive.attempt", i64::from(dispatch.attempt.attempt)),
                ]);
                attributes.extend(choice.into_iter().flat_map(|(strategy, score)| {
                    [KeyValue::new("hive.strategy", strategy.as_str()), KeyValue::new("hive.score", score)]
                }));
                let follows = before.map(|before| before.context);
                let (parent, kind) = (Some(traced.task.clone()), SpanKind::Internal);
                let (began, ended, error) = (now, now, None);
                tracing.record(Span { context, parent, follows, name, kind, began, ended, attributes, error });
            }
        }
        if let Some(placed) = &traced.placed {
            trace::write(&placed.context, headers);
        }
        envelope.traced = Some(traced);
    }

    /// How the task ended is decided, and is about to be recorded.
    pub(super) fn trace_settling(&mut self, sequence: Sequence) {
        if trace::active().is_none() && !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let envelopes = self.reign.as_mut().map(|reign| &mut reign.envelopes);
        let Some(envelope) = envelopes.and_then(|envelopes| envelopes.get_mut(&sequence)) else { return };
        if let Some(tracing) = trace::active() {
            let now = wall(self.clock.now());
            let mut traced = envelope.traced.take().unwrap_or_else(|| Traced::begin(tracing, sequence, envelope));
            if envelope.settlement.as_ref().is_some_and(|settlement| settlement.attempts == 0) {
                traced.record_queue(tracing, envelope, now);
            }
            traced.settling_since.get_or_insert(now);
            envelope.traced = Some(traced);
        }
        if tracing::enabled!(Level::DEBUG)
            && let Some(settlement) = &envelope.settlement
        {
            let [trace_id, span_id] = envelope.trace_ids();
            let (task, outcome, attempts) = (&settlement.id, settlement.outcome, settlement.attempts);
            debug!(%task, %outcome, attempts, trace_id, span_id, "task settled");
        }
    }

    /// The task's message is gone.
    pub(super) fn trace_settled(&self, envelope: &Envelope) {
        let (Some(tracing), Some(traced), Some(settlement)) = (trace::active(), &envelope.traced, &envelope.settlement)
        else {
            return;
        };
        if let Some(since) = traced.settling_since {
            traced.record_settle(tracing, envelope, settlement, [since, wall(self.clock.now())]);
        }
    }
}

impl Traced {
    fn begin(tracing: &Tracing, sequence: Sequence, envelope: &Envelope) -> Box<Self> {
        let named = envelope.headers.as_ref().and_then(trace::read);
        let is_root = named.is_none();
        let task = named.unwrap_or_else(|| tracing.begin_task(sequence.0, envelope.accepted.since_origin()));
        Box::new(Self { task, is_root, placed: None, settling_since: None })
    }

    fn record_queue(&self, tracing: &Tracing, envelope: &Envelope, ended: SystemTime) {
        let (context, parent) = if self.is_root {
            (self.task.clone(), None)
        } else {
            (tracing.begin(Some(&self.task)), Some(self.task.clone()))
        };
        if !context.is_sampled() {
            return;
        }
        let (name, attributes) = envelope.about("queue");
        // The broker has another clock.
        let began = wall(envelope.accepted).min(ended);
        let (follows, kind, error) = (None, SpanKind::Internal, None);
        tracing.record(Span { context, parent, follows, name, kind, began, ended, attributes, error });
    }

    fn record_settle(
        &self,
        tracing: &Tracing,
        envelope: &Envelope,
        settlement: &Settlement,
        [began, ended]: [SystemTime; 2],
    ) {
        let context = tracing.begin(Some(&self.task));
        if !context.is_sampled() {
            return;
        }
        let (name, mut attributes) = envelope.about("settle");
        attributes.extend([
            KeyValue::new("messaging.operation.type", "settle"),
            KeyValue::new("hive.outcome", settlement.outcome.as_str()),
            KeyValue::new("hive.attempts", i64::from(settlement.attempts)),
        ]);
        let is_failure = matches!(settlement.outcome, Outcome::Failed | Outcome::Dead);
        let error = settlement.error.as_ref().filter(|_| is_failure).map(ToString::to_string);
        if is_failure {
            attributes.push(KeyValue::new("error.type", settlement.outcome.as_str()));
        }
        let (parent, follows, kind) = (Some(self.task.clone()), None, SpanKind::Client);
        tracing.record(Span { context, parent, follows, name, kind, began, ended, attributes, error });
    }
}

impl Placed {
    /// Whether it is this one: an order may be repeated.
    fn is_by(&self, dispatch: &Dispatch) -> bool {
        self.attempt == dispatch.attempt.attempt && self.agent == dispatch.agent
    }
}

impl Envelope {
    fn about(&self, operation: &'static str) -> (String, Vec<KeyValue>) {
        Span::about(operation, self.kind.as_str(), self.id.as_str())
    }

    /// The ids of trace and span that its spans are within, for the log.
    fn trace_ids(&self) -> [Option<String>; 2] {
        if let Some(traced) = &self.traced {
            return [traced.task.trace_id().to_string(), traced.task.span_id().to_string()].map(Some);
        }
        let (trace_id, span_id) = self.headers.as_ref().map(trace::ids_of).unwrap_or_default();
        [trace_id, span_id].map(|id| id.map(str::to_owned))
    }
}

fn wall(moment: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + moment.since_origin()
}
