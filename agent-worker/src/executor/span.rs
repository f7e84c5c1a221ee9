//! An attempt as traces and the log tell of it: the span `run`, and a line for its beginning and its end, with the same
//! ids.

use std::sync::Arc;
use std::time::SystemTime;

use async_nats::HeaderMap;
use shared::AgentId;
use shared::task::AttemptOutcome;
use shared::trace::{self, KeyValue, Span, SpanContext, SpanKind, Tracing};
use tracing::{Level, debug};

use crate::session::{Ended, Order};

/// What is told of an attempt. Where nothing is told of any, it is empty.
#[derive(Debug, Default)]
pub(super) struct Account(Option<Box<Opened>>);

#[derive(Debug)]
struct Opened {
    order: Arc<Order>,
    agent: AgentId,
    trace_id: Option<String>,
    span_id: Option<String>,
    span: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    tracing: &'static Tracing,
    parent: Option<SpanContext>,
    context: SpanContext,
    at: SystemTime,
}

impl Account {
    /// An attempt starts. Where there are traces, its handler sees the span of the attempt in the headers.
    pub(super) fn open(agent: &AgentId, order: &Arc<Order>, headers: &mut HeaderMap) -> Self {
        let span = trace::active().map(|tracing| Begun::within(headers, tracing));
        if span.is_none() && !tracing::enabled!(Level::DEBUG) {
            return Self::default();
        }
        let (trace_id, span_id) = trace::ids_of(headers);
        debug!(task = %order.task, attempt = order.attempt, trace_id, span_id, "attempt starts");
        let [trace_id, span_id] = [trace_id, span_id].map(|id| id.map(str::to_owned));
        Self(Some(Box::new(Opened { order: order.clone(), agent: agent.clone(), trace_id, span_id, span })))
    }

    /// It has ended.
    pub(super) fn close(self, ended: &Ended) {
        let Some(opened) = self.0 else { return };
        let Opened { order, trace_id, span_id, .. } = &*opened;
        let outcome = ended.outcome.as_str();
        debug!(task = %order.task, attempt = order.attempt, trace_id, span_id, outcome, "attempt ended");
        opened.record(ended);
    }
}

impl Opened {
    fn record(self, ended: &Ended) {
        let Some(Begun { tracing, parent, context, at }) = self.span else { return };
        if !context.is_sampled() {
            return;
        }
        let (name, mut attributes) = Span::about("run", self.order.kind.as_str(), self.order.task.as_str());
        attributes.extend([
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("hive.agent", self.agent.to_string()),
            KeyValue::new("hive.attempt", i64::from(self.order.attempt)),
            KeyValue::new("hive.outcome", ended.outcome.as_str()),
        ]);
        let is_failure = !matches!(ended.outcome, AttemptOutcome::Succeeded | AttemptOutcome::Cancelled);
        if is_failure {
            attributes.push(KeyValue::new("error.type", ended.outcome.as_str()));
        }
        tracing.record(Span {
            context,
            parent,
            follows: None,
            name,
            kind: SpanKind::Consumer,
            began: at,
            // The span of time is from a clock that is never put right.
            ended: at + ended.run,
            attributes,
            error: is_failure.then(|| ended.error.clone()),
        });
    }
}

impl Begun {
    fn within(headers: &mut HeaderMap, tracing: &'static Tracing) -> Self {
        let parent = trace::read(headers);
        let context = tracing.begin(parent.as_ref());
        if context.is_sampled() {
            trace::write(&context, headers);
        }
        Self { tracing, parent, context, at: SystemTime::now() }
    }
}
