//! Counts what the collector takes. A collector that is away costs spans, and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tracing::warn;

/// How often it is told, at most, that the collector takes nothing.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How many spans there were, and how many the collector has taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    recorded: AtomicU64,
    taken: AtomicU64,
}

impl Counts {
    pub(super) fn recorded(&self) {
        self.0.recorded.fetch_add(1, Ordering::Relaxed);
    }

    /// How many wait, or are lost.
    pub(super) fn outstanding(&self) -> u64 {
        let taken = self.0.taken.load(Ordering::Relaxed);
        self.0.recorded.load(Ordering::Relaxed).saturating_sub(taken)
    }
}

/// An exporter whose successes are counted, and whose failures are told.
#[derive(Debug)]
pub(super) struct Counted<E> {
    exporter: E,
    counts: Counts,
    told: Mutex<Option<Instant>>,
}

impl<E> Counted<E> {
    pub(super) fn new(exporter: E, counts: Counts) -> Self {
        Self { exporter, counts, told: Mutex::new(None) }
    }

    fn is_to_be_told(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| told.elapsed() >= TOLD_EVERY);
        if is_due {
            *told = Some(Instant::now());
        }
        is_due
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let exported = self.exporter.export(batch).await;
        match &exported {
            Ok(()) => {
                self.counts.0.taken.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) if self.is_to_be_told() => {
                let outstanding = self.counts.outstanding();
                warn!(%error, lost = count, outstanding, "the collector of traces took no spans");
            }
            Err(_) => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
