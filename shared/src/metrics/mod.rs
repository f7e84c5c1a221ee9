//! What a program says of itself to Prometheus: families that are declared in one table, samples that are put together
//! when somebody asks, and both text formats.
//!
//! Nothing is kept here. Who counts something keeps it in numbers of its own, so that counting costs no more than that.

mod histogram;
mod process;

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use histogram::{BOUNDS, Bounds, FINE_BOUNDS, Histogram};
pub use process::{ALL as OF_A_PROCESS, add as add_process};

/// What samples of one name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, with its unit, and with `_total` if it counts.
    pub name: &'static str,
    /// How its numbers behave.
    pub measures: Measures,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in words.
    pub help: &'static str,
}

impl Family {
    /// Its row in the table of `docs/metrics.md`.
    pub fn row(&self) -> String {
        let labels: Vec<String> = self.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |", self.name, self.measures.as_str(), labels.join(", "), self.help)
    }
}

/// How the numbers of a family behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measures {
    /// They only grow, from the start of the program.
    Counter,
    /// They go up and down.
    Gauge,
    /// How often something took how long.
    Histogram,
}

impl Measures {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Measures::Counter => "counter",
            Measures::Gauge => "gauge",
            Measures::Histogram => "histogram",
        }
    }
}

impl From<Measures> for MetricType {
    fn from(measures: Measures) -> Self {
        match measures {
            Measures::Counter => MetricType::Counter,
            Measures::Gauge => MetricType::Gauge,
            Measures::Histogram => MetricType::Histogram,
        }
    }
}

/// Declares families, and in tests the list `ALL` of them: `NAME = Counter "name" ["label"] "what it means";`.
#[macro_export]
macro_rules! metric_families {
    ($($family:ident = $measures:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) static $family: $crate::metrics::Family = $crate::metrics::Family {
            name: $name,
            measures: $crate::metrics::Measures::$measures,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// Every family, in the order of its declaration.
        #[cfg(test)]
        pub(crate) static ALL: &[&$crate::metrics::Family] = &[$(&$family),*];
    };
}

/// A number on its way out.
#[derive(Clone, Debug)]
pub enum Value {
    /// A whole one.
    Whole(u64),
    /// One with a fraction.
    Real(f64),
    /// How often something took how long.
    Histogram(Box<Histogram>),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Whole(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Real(number)
    }
}

impl From<bool> for Value {
    fn from(holds: bool) -> Self {
        Value::Whole(u64::from(holds))
    }
}

impl From<&Histogram> for Value {
    fn from(histogram: &Histogram) -> Self {
        Value::Histogram(Box::new(histogram.clone()))
    }
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

/// Samples on their way out. A family without any is not mentioned.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, (&'static Family, Vec<Sample>)>,
}

impl Exposition {
    /// One more sample, with a value for each of the family's labels, in their order.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: impl Into<Value>) {
        debug_assert_eq!(labels.len(), family.labels.len(), "labels of {}", family.name);
        let values = labels.iter().map(|value| (*value).to_owned());
        let sample = Sample { labels: family.labels.iter().copied().zip(values).collect(), value: value.into() };
        self.families.entry(family.name).or_insert((family, Vec::new())).1.push(sample);
    }

    /// All of them, as text.
    pub fn write(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        let done = match format {
            Format::OpenMetrics => text::encode(&mut written, &registry),
            Format::Text => prometheus_text::encode(&mut written, &registry),
        };
        done.expect("writing to a text cannot fail");
        written
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in self.families.values() {
            // The suffix of what counts is the encoder's to add.
            let name = family.name.strip_suffix("_total").unwrap_or(family.name);
            let measures = family.measures;
            let mut family = encoder.encode_descriptor(name, family.help, None, measures.into())?;
            for sample in samples {
                let encoder = family.encode_family(&sample.labels)?;
                sample.value.encode(measures, encoder)?;
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, measures: Measures, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match (self, measures) {
            (Value::Whole(number), Measures::Counter) => encoder.encode_counter::<NoLabelSet, _, f64>(number, None),
            (Value::Real(number), Measures::Counter) => encoder.encode_counter::<NoLabelSet, _, f64>(number, None),
            (Value::Whole(number), _) => encoder.encode_gauge(number),
            (Value::Real(number), _) => encoder.encode_gauge(number),
            (Value::Histogram(histogram), _) => {
                let (sum, count) = (histogram.sum(), histogram.count());
                encoder.encode_histogram::<NoLabelSet>(sum, count, &histogram.buckets(), None)
            }
        }
    }
}

/// A text format of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0: what Prometheus asks for.
    OpenMetrics,
    /// The older one, 0.0.4: what everything reads, `promtool check metrics` too.
    Text,
}

impl Format {
    /// The format to answer in, by the request's header `Accept`.
    pub fn accepted(accept: Option<&str>) -> Self {
        let takes_new = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if takes_new { Format::OpenMetrics } else { Format::Text }
    }

    /// The `Content-Type` of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => prometheus_text::CONTENT_TYPE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    static DONE: Family =
        Family { name: "hive_done_total", measures: Measures::Counter, labels: &["kind"], help: "What is done" };
    static ROOM: Family = Family { name: "hive_room", measures: Measures::Gauge, labels: &[], help: "What is left" };
    static RUN: Family =
        Family { name: "hive_run_seconds", measures: Measures::Histogram, labels: &["kind"], help: "How long it ran" };

    fn samples() -> Exposition {
        let mut samples = Exposition::default();
        samples.add(&ROOM, &[], 0.5);
        samples.add(&DONE, &["a\"b"], 3_u64);
        samples.add(&DONE, &["c"], 0_u64);
        samples
    }

    #[test]
    fn both_formats_name_a_counter_as_it_is_asked_for() {
        let open = samples().write(Format::OpenMetrics);
        let text = samples().write(Format::Text);

        let sample = "hive_done_total{kind=\"a\\\"b\"} 3\nhive_done_total{kind=\"c\"} 0\n";
        assert!(open.contains("# TYPE hive_done counter\n") && open.contains(sample), "{open}");
        assert!(open.ends_with("hive_room 0.5\n# EOF\n"), "{open}");
        assert!(text.contains("# TYPE hive_done_total counter\n") && text.contains(sample), "{text}");
        assert!(!text.contains("EOF"), "{text}");
    }

    #[test]
    fn a_histogram_counts_what_took_no_longer_than_each_bound() {
        let mut histogram = Histogram::new(&BOUNDS);
        for millis in [1, 2, 700, 7_200_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut samples = Exposition::default();
        samples.add(&RUN, &["a"], &histogram);

        let text = samples.write(Format::Text);

        for (bound, count) in [("0.001", 1), ("0.0025", 2), ("0.5", 2), ("1", 3), ("3600", 3), ("+Inf", 4)] {
            let bucket = format!("hive_run_seconds_bucket{{kind=\"a\",le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&bucket), "{bucket} is not in {text}");
        }
        assert!(text.contains("hive_run_seconds_count{kind=\"a\"} 4\n"), "{text}");
    }

    #[test]
    fn who_takes_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("text/html,*/*;q=0.8")), Format::Text);
        assert_eq!(Format::accepted(None), Format::Text);
    }
}
