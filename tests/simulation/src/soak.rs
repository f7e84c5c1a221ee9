//! Many seeds, on all cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::marks::Marks;
use crate::{Plant, run};

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// How many seeds were played.
    pub seeds: u64,
    /// How many steps there were.
    pub steps: u64,
    /// Virtual time in seconds.
    pub seconds: f64,
    /// How many messages were accepted.
    pub accepted: u64,
    /// How many handlers were started.
    pub starts: u64,
    /// Rare states reached.
    pub marks: Marks,
    /// Seeds that failed, with what is wrong.
    pub failures: Vec<(u64, String)>,
}

/// Plays seeds until there are none left, time is up, or enough have failed.
pub fn play(
    seeds: impl Iterator<Item = u64> + Send,
    steps: u64,
    plant: Option<Plant>,
    limit: Option<Duration>,
    most_failures: usize,
) -> Sum {
    let began = Instant::now();
    let (seeds, sum, failed) = (Mutex::new(seeds), Mutex::new(Sum::default()), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let work = || {
        while failed.load(Ordering::Relaxed) < most_failures as u64 && limit.is_none_or(|l| began.elapsed() < l) {
            let Some(seed) = seeds.lock().expect("nobody panics with it").next() else { return };
            let report = std::panic::catch_unwind(|| run(seed, steps, plant));
            let mut sum = sum.lock().expect("nobody panics with it");
            sum.seeds += 1;
            let violation = match report {
                Ok(report) => {
                    sum.steps += report.steps;
                    sum.seconds += report.time as f64 / 1e6;
                    sum.accepted += report.accepted;
                    sum.starts += report.starts;
                    sum.marks = sum.marks.and(report.marks);
                    report.violation
                }
                Err(panic) => Some(format!("a panic: {}", panic_text(&*panic))),
            };
            if let Some(violation) = violation {
                failed.fetch_add(1, Ordering::Relaxed);
                sum.failures.push((seed, violation));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    sum.into_inner().expect("nobody panics with it")
}

/// Plays seeds with a planted bug until one fails: how many it took, and what was wrong.
pub fn find(plant: Plant, seeds: std::ops::Range<u64>, steps: u64) -> Option<(u64, String)> {
    let first = seeds.start;
    for seed in seeds {
        let report = std::panic::catch_unwind(|| run(seed, steps, Some(plant)));
        let violation = report.map_or_else(|panic| Some(format!("a panic: {}", panic_text(&*panic))), |r| r.violation);
        if let Some(violation) = violation {
            return Some((seed - first + 1, violation));
        }
    }
    None
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
