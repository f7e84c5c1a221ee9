//! How often something took how long.

use std::time::Duration;

/// How many bounds there are between the buckets of a histogram.
const COUNT: usize = 19;

/// The upper bounds of buckets, in seconds, the smallest first; what is above the last is counted as well.
pub type Bounds = [f64; COUNT];

/// For what takes as long as tasks do: 1 ms to an hour.
pub static BOUNDS: Bounds = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0,
    3600.0,
];

/// For what takes no longer than it must: 50 µs to a minute.
pub static FINE_BOUNDS: Bounds = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// Plain numbers: whoever counts has them for itself, and neither locks nor allocates.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    counts: [u64; COUNT + 1],
    sum: f64,
}

impl Histogram {
    /// Nothing counted yet.
    pub const fn new(bounds: &'static Bounds) -> Self {
        Self { bounds, counts: [0; COUNT + 1], sum: 0.0 }
    }

    /// Counts one that took so long.
    pub fn observe(&mut self, span: Duration) {
        let seconds = span.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The upper bound of each bucket, and how many fell between it and the one before.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts).collect()
    }
}
