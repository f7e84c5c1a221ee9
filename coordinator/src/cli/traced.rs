//! The span of a task's submission, where there are traces: what all other spans of the task are within.

use std::time::SystemTime;

use shared::client::NewTask;
use shared::trace::{self, KeyValue, Span, SpanContext, SpanKind, Tracing};

/// A submission, or nothing where there are no traces.
#[derive(Debug)]
pub(super) struct Submission(Option<Begun>);

#[derive(Debug)]
struct Begun {
    tracing: &'static Tracing,
    parent: Option<SpanContext>,
    context: SpanContext,
    began: SystemTime,
    name: String,
    attributes: Vec<KeyValue>,
}

impl Submission {
    /// Begins to submit a task, which carries the span from now on. It is within the one that the task's own header
    /// names, or that this program was started in.
    pub(super) fn begin(operation: &'static str, task: &mut NewTask) -> Self {
        let Some(tracing) = trace::active() else { return Self(None) };
        let parent = trace::read(&task.headers).or_else(trace::read_environment);
        let context = tracing.begin(parent.as_ref());
        trace::write(&context, &mut task.headers);
        let (name, mut attributes) = Span::about(operation, task.kind.as_str(), task.id.as_str());
        let size = i64::try_from(task.body.len()).unwrap_or(i64::MAX);
        attributes.extend([
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.message.body.size", size),
        ]);
        Self(Some(Begun { tracing, parent, context, began: SystemTime::now(), name, attributes }))
    }

    /// It is over, and went wrong if there is an error.
    pub(super) fn end(self, error: Option<String>) {
        let Some(Begun { tracing, parent, context, began, name, attributes }) = self.0 else { return };
        let (follows, kind, ended) = (None, SpanKind::Producer, SystemTime::now());
        tracing.record(Span { context, parent, follows, name, kind, began, ended, attributes, error });
    }
}
