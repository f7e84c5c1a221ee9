//! The context of a span as it travels: `traceparent` and `tracestate` of the W3C, in the headers of a message or in the
//! environment.

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use crate::header::{self, name};

/// What the headers of a message name, if they name any that can be read.
pub fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let traceparent = headers.get(name::TRACEPARENT)?.as_str();
    parse(traceparent, headers.get(name::TRACESTATE).map(HeaderValue::as_str))
}

/// What `TRACEPARENT` and `TRACESTATE` name: what started this program may be traced itself.
pub fn read_environment() -> Option<SpanContext> {
    let traceparent = std::env::var("TRACEPARENT").ok()?;
    parse(&traceparent, std::env::var("TRACESTATE").ok().as_deref())
}

/// Puts a context into the headers of a message, in the place of the one that stands there.
pub fn write(context: &SpanContext, headers: &mut HeaderMap) {
    headers.insert(name::TRACEPARENT, traceparent(context).as_str());
    let state = context.trace_state().header();
    if !state.is_empty() && !state.chars().any(char::is_control) {
        headers.insert(name::TRACESTATE, state.as_str());
    }
}

/// A context as `traceparent` has it.
pub fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
}

/// The ids of trace and span that headers name, for the log: whatever somebody has sent.
pub fn ids_of(headers: &HeaderMap) -> (Option<&str>, Option<&str>) {
    let mut parts = headers.get(name::TRACEPARENT).map(HeaderValue::as_str).unwrap_or_default().split('-').skip(1);
    (parts.next(), parts.next())
}

fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let named = TraceContextPropagator::new().extract_with_context(&Context::new(), &Named { traceparent, tracestate });
    let context = named.span().span_context().clone();
    context.is_valid().then_some(context)
}

struct Named<'a> {
    traceparent: &'a str,
    tracestate: Option<&'a str>,
}

impl Extractor for Named<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            header::TRACEPARENT => Some(self.traceparent),
            header::TRACESTATE => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![header::TRACEPARENT, header::TRACESTATE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_comes_back_as_it_was_sent() {
        let context = read(&headers(TRACEPARENT, "vendor=1,other=2")).unwrap();

        let mut written = HeaderMap::new();
        write(&context, &mut written);

        assert!(context.is_remote() && context.is_sampled());
        assert_eq!(traceparent(&context), TRACEPARENT);
        assert_eq!(written.get("traceparent").unwrap().as_str(), TRACEPARENT);
        assert_eq!(written.get("tracestate").unwrap().as_str(), "vendor=1,other=2");
    }

    #[test]
    fn what_is_no_context_is_none() {
        for bad in ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-0000000000000000-01", "soon"] {
            assert_eq!(read(&headers(bad, "")), None, "{bad}");
        }
        assert_eq!(read(&HeaderMap::new()), None);
    }

    #[test]
    fn the_log_names_what_was_sent() {
        let headers = headers(TRACEPARENT, "");

        assert_eq!(ids_of(&headers), (Some("4bf92f3577b34da6a3ce929d0e0e4736"), Some("00f067aa0ba902b7")));
        assert_eq!(ids_of(&HeaderMap::new()), (None, None));
    }

    fn headers(traceparent: &str, tracestate: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", traceparent);
        headers.insert("tracestate", tracestate);
        headers
    }
}
