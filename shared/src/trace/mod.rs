//! Traces by OpenTelemetry: spans of what is done for tasks, sent to a collector over OTLP.
//!
//! The context of a span is made when it begins ([`Tracing::begin`]), and can be handed on at once. The span itself is
//! recorded when all is known of it ([`Tracing::record`]), with its times. So nothing is held open while a task goes from
//! one state to the next, and what is not sampled costs a context.
//!
//! The environment that all of OpenTelemetry goes by switches it on (see [`start`]). As long as it does not, [`active`] is
//! `None`, which is one branch for whoever asks.

mod context;
mod export;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId};
use opentelemetry::{Context, InstrumentationScope, Key};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Config, IdGenerator as _, RandomIdGenerator, SamplingDecision,
    SamplingResult, ShouldSample, SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};
use tracing::{info, warn};

use crate::names::excerpt;
use export::{Counted, Counts};

pub use context::{ids_of, read, read_environment, traceparent, write};
pub use opentelemetry::KeyValue;
pub use opentelemetry::trace::{SpanContext, SpanKind};

/// How long the last spans may take to reach the collector when the program ends.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);
/// How many spans wait for the collector at most, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise.
const QUEUE: usize = 16_384;
/// How often they are sent, unless `OTEL_BSP_SCHEDULE_DELAY` says otherwise.
const DELAY: Duration = Duration::from_secs(1);

static ACTIVE: OnceLock<Tracing> = OnceLock::new();

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Tracing {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
    counts: Counts,
    finished: AtomicBool,
}

/// A span, when all is known of it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its own context, as [`Tracing::begin`] made it.
    pub context: SpanContext,
    /// What it is within; the first of its trace if `None`.
    pub parent: Option<SpanContext>,
    /// An earlier one that it follows without being within it.
    pub follows: Option<SpanContext>,
    /// What was done, and to what.
    pub name: String,
    /// On which side of a message it is.
    pub kind: SpanKind,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What is known of it.
    pub attributes: Vec<KeyValue>,
    /// Why it failed, in words.
    pub error: Option<String>,
}

/// Why there are no traces although they are wanted.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL: `{0}` is not spoken here: use http/protobuf or http/json")]
    Protocol(String),
    #[error("the exporter cannot be made")]
    Exporter(#[from] ExporterBuildError),
}

/// Traces from now on, if the environment wants it: `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) names the
/// collector, and neither `OTEL_SDK_DISABLED=true` nor `OTEL_TRACES_EXPORTER=none` stands against it. `service` is the
/// service's name unless `OTEL_SERVICE_NAME` says otherwise.
///
/// What cannot be used of it is logged: a program does its work without traces rather than not at all.
pub fn start(service: &'static str) {
    let get = |name: &str| std::env::var(name).ok();
    if !is_wanted(get) {
        return;
    }
    match protocol(get).and_then(|protocol| Tracing::to_collector(service, protocol)) {
        Ok(tracing) => {
            if ACTIVE.set(tracing).is_ok() {
                info!(service, "traces are sent over OTLP");
            }
        }
        Err(error) => warn!(error = &error as &dyn std::error::Error, "there are no traces"),
    }
}

/// What traces are sent by, if they are wanted.
pub fn active() -> Option<&'static Tracing> {
    ACTIVE.get()
}

/// Sends what is left, within 2 s, and nothing afterwards. To be called when the program ends.
pub fn finish() {
    if let Some(tracing) = active() {
        tracing.finish();
    }
}

fn is_wanted(get: impl Fn(&str) -> Option<String>) -> bool {
    let says = |name: &str, value: &str| get(name).is_some_and(|said| said.trim().eq_ignore_ascii_case(value));
    let names = |name: &str| get(name).is_some_and(|said| !said.trim().is_empty());
    (names("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") || names("OTEL_EXPORTER_OTLP_ENDPOINT"))
        && !says("OTEL_SDK_DISABLED", "true")
        && !says("OTEL_TRACES_EXPORTER", "none")
}

fn protocol(get: impl Fn(&str) -> Option<String>) -> Result<Protocol, StartError> {
    let said = get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").filter(|said| !said.is_empty());
    match said.or_else(|| get("OTEL_EXPORTER_OTLP_PROTOCOL")).as_deref() {
        None | Some("" | "http/protobuf") => Ok(Protocol::HttpBinary),
        Some("http/json") => Ok(Protocol::HttpJson),
        Some(other) => Err(StartError::Protocol(excerpt(other))),
    }
}

impl Tracing {
    fn to_collector(service: &'static str, protocol: Protocol) -> Result<Self, StartError> {
        crate::connect::choose_cryptography();
        let exporter = SpanExporter::builder().with_http().with_protocol(protocol).build()?;
        let tracing = Self::by(exporter, Config::default().sampler, &resource(service));
        Ok(tracing)
    }

    /// The exporter works in a thread of its own, and so beside any runtime.
    fn by<E>(exporter: E, sampler: Box<dyn ShouldSample>, resource: &Resource) -> Self
    where
        E: opentelemetry_sdk::trace::SpanExporter + 'static,
    {
        let counts = Counts::default();
        let is_set = |name: &str| std::env::var_os(name).is_some();
        let mut config = BatchConfigBuilder::default();
        if !is_set("OTEL_BSP_MAX_QUEUE_SIZE") {
            config = config.with_max_queue_size(QUEUE);
        }
        if !is_set("OTEL_BSP_SCHEDULE_DELAY") {
            config = config.with_scheduled_delay(DELAY);
        }
        let exporter = Counted::new(exporter, counts.clone());
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(config.build()).build();
        processor.set_resource(resource);
        let scope = InstrumentationScope::builder("hivemesh").with_version(env!("CARGO_PKG_VERSION")).build();
        let (ids, finished) = (RandomIdGenerator::default(), AtomicBool::new(false));
        Self { processor, sampler, ids, scope, counts, finished }
    }

    /// The context of a span that begins now, within another one or in a trace of its own.
    pub fn begin(&self, parent: Option<&SpanContext>) -> SpanContext {
        let trace_id = parent.map_or_else(|| self.ids.new_trace_id(), SpanContext::trace_id);
        self.sample(parent, trace_id, self.ids.new_span_id())
    }

    /// The context of the first span of a task that came without one. It follows from the task's sequence in the task
    /// stream and the moment of its acceptance: whichever coordinator makes it, it is the same.
    pub fn begin_task(&self, sequence: u64, accepted: Duration) -> SpanContext {
        let accepted = u64::try_from(accepted.as_micros()).unwrap_or(u64::MAX);
        let seed = mix(accepted ^ mix(sequence));
        let trace_id = u128::from(mix(seed)) << 64 | u128::from(mix(seed ^ 1));
        // No id is zero.
        self.sample(None, TraceId::from(trace_id | 1), SpanId::from(mix(seed ^ 2) | 1))
    }

    fn sample(&self, parent: Option<&SpanContext>, trace_id: TraceId, span_id: SpanId) -> SpanContext {
        let around = parent.map(|parent| Context::new().with_remote_span_context(parent.clone()));
        let sampled = self.sampler.should_sample(around.as_ref(), trace_id, "task", &SpanKind::Internal, &[], &[]);
        let SamplingResult { decision, trace_state, .. } = sampled;
        let flags = TraceFlags::default().with_sampled(decision == SamplingDecision::RecordAndSample);
        SpanContext::new(trace_id, span_id, flags, false, trace_state)
    }

    /// Sends a span, if it is sampled. It is only put into a queue here; where that is full, the span is lost and
    /// counted.
    pub fn record(&self, span: Span) {
        if span.context.is_sampled() {
            self.counts.recorded();
            self.processor.on_end(span.into_data(self.scope.clone()));
        }
    }

    /// How many spans were not taken by the collector, or are not yet.
    pub fn outstanding(&self) -> u64 {
        self.counts.outstanding()
    }

    fn finish(&self) {
        if self.finished.swap(true, Ordering::Relaxed) {
            return;
        }
        // Whether it was in time shows in what is outstanding.
        let _ = self.processor.shutdown_with_timeout(FLUSH_PATIENCE);
        let lost = self.outstanding();
        if lost > 0 {
            warn!(lost, "spans were not taken by the collector of traces");
        }
    }
}

impl Span {
    /// The name of an operation on tasks of a kind, and what is known of every task.
    pub fn about(operation: &'static str, kind: &str, task: &str) -> (String, Vec<KeyValue>) {
        let attributes = vec![
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.destination.name", kind.to_owned()),
            KeyValue::new("messaging.message.id", task.to_owned()),
        ];
        (format!("{operation} {kind}"), attributes)
    }

    fn into_data(self, instrumentation_scope: InstrumentationScope) -> SpanData {
        let Self { context, parent, follows, name, kind, began, ended, attributes, error } = self;
        let mut links = SpanLinks::default();
        links.links.extend(follows.map(Link::with_context));
        SpanData {
            span_context: context,
            parent_span_id: parent.as_ref().map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: parent.is_some_and(|parent| parent.is_remote()),
            span_kind: kind,
            name: name.into(),
            start_time: began,
            // Two hosts' clocks may differ.
            end_time: ended.max(began),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope,
        }
    }
}

fn resource(service: &'static str) -> Resource {
    let found = Resource::builder().build();
    let name = found.get(&Key::from_static_str("service.name")).map(|name| name.to_string()).unwrap_or_default();
    let mut builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if name.is_empty() || name.starts_with("unknown_service") {
        builder = builder.with_service_name(service);
    }
    builder.build()
}

/// Spreads a number over all numbers, one to one (the finalizer of SplitMix64: Steele, Lea and Flood, 2014).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
    use opentelemetry_sdk::trace::Sampler;

    use super::*;

    #[test]
    fn traces_are_wanted_where_a_collector_is_named_and_nothing_stands_against_it() {
        let wanted = |said: &[(&str, &str)]| {
            is_wanted(|name| said.iter().find(|(said, _)| *said == name).map(|(_, value)| (*value).to_owned()))
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

        assert!(wanted(&[endpoint]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")]));
        assert!(wanted(&[endpoint, ("OTEL_SDK_DISABLED", "false")]));
        assert!(!wanted(&[]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
        assert!(!wanted(&[endpoint, ("OTEL_SDK_DISABLED", "True")]));
        assert!(!wanted(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]));
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_told_with_those_that_are() {
        let said = |value: &str| protocol(|name| (name == "OTEL_EXPORTER_OTLP_PROTOCOL").then(|| value.to_owned()));

        assert_eq!(protocol(|_| None).unwrap(), Protocol::HttpBinary);
        assert_eq!(said("http/json").unwrap(), Protocol::HttpJson);
        assert!(said("grpc").unwrap_err().to_string().contains("`grpc` is not spoken here: use http/protobuf"));
    }

    #[test]
    fn a_span_is_sent_with_its_parent_its_times_and_what_it_follows() {
        let (tracing, kept) = tracing(Sampler::AlwaysOn);
        let (parent, before) = (tracing.begin(None), tracing.begin(None));
        let context = tracing.begin(Some(&parent));
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        let span = Span {
            parent: Some(parent.clone()),
            follows: Some(before.clone()),
            error: Some("no luck".to_owned()),
            ..span(&context, began)
        };

        tracing.record(span);
        tracing.finish();

        let sent = kept.lock().unwrap();
        assert_eq!(sent.len(), 1);
        assert_eq!((&sent[0].span_context, sent[0].parent_span_id), (&context, parent.span_id()));
        assert_eq!((sent[0].start_time, sent[0].end_time), (began, began + Duration::from_secs(1)));
        assert_eq!(sent[0].links.links[0].span_context, before);
        assert_eq!(sent[0].status, Status::error("no luck"));
        assert_eq!(context.trace_id(), parent.trace_id());
        assert_eq!(tracing.outstanding(), 0);
    }

    #[test]
    fn what_is_not_sampled_is_not_sent_and_nothing_within_it_is() {
        let (tracing, kept) = tracing(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
        let parent = tracing.begin(None);
        let context = tracing.begin(Some(&parent));

        tracing.record(span(&context, SystemTime::now()));
        tracing.finish();

        assert!(!parent.is_sampled() && !context.is_sampled());
        assert!(kept.lock().unwrap().is_empty());
    }

    #[test]
    fn every_coordinator_gives_a_task_the_same_trace_and_no_two_tasks_share_one() {
        let (one, other) = (tracing(Sampler::AlwaysOn).0, tracing(Sampler::AlwaysOn).0);
        let accepted = Duration::from_secs(1_795_353_890);

        let contexts: Vec<_> = (0..1000).map(|sequence| one.begin_task(sequence, accepted)).collect();

        assert!((0..1000).all(|sequence| contexts[sequence as usize] == other.begin_task(sequence, accepted)));
        let traces: BTreeSet<_> = contexts.iter().map(|context| context.trace_id().to_bytes()).collect();
        assert_eq!(traces.len(), 1000);
        assert_ne!(contexts[7].trace_id(), one.begin_task(7, accepted + Duration::from_secs(1)).trace_id());
    }

    #[test]
    fn what_the_collector_does_not_take_is_counted() {
        let tracing = Tracing::by(Refusing, Box::new(Sampler::AlwaysOn), &Resource::builder_empty().build());

        for _ in 0..3 {
            tracing.record(span(&tracing.begin(None), SystemTime::now()));
        }
        tracing.finish();

        assert_eq!(tracing.outstanding(), 3);
    }

    type Sent = Arc<Mutex<Vec<SpanData>>>;

    #[derive(Clone, Debug, Default)]
    struct Keeping(Sent);

    impl opentelemetry_sdk::trace::SpanExporter for Keeping {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[derive(Debug)]
    struct Refusing;

    impl opentelemetry_sdk::trace::SpanExporter for Refusing {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Err(OTelSdkError::InternalFailure("nobody listens".to_owned()))
        }
    }

    fn tracing(sampler: Sampler) -> (Tracing, Sent) {
        let exporter = Keeping::default();
        let kept = exporter.0.clone();
        (Tracing::by(exporter, Box::new(sampler), &Resource::builder_empty().build()), kept)
    }

    fn span(context: &SpanContext, began: SystemTime) -> Span {
        let (name, attributes) = Span::about("run", "echo", "t-1");
        let ended = began + Duration::from_secs(1);
        let (context, kind) = (context.clone(), SpanKind::Consumer);
        Span { context, parent: None, follows: None, name, kind, began, ended, attributes, error: None }
    }
}
