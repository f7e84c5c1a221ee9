//! Seeds of the simulation that are part of the tests, and proofs that it can fail.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use simulation::marks::Mark;
use simulation::{Plant, explain, run, soak};

/// Steps of each seed's phase with faults.
const STEPS: u64 = 10_000;

/// Seeds that are always played: about twenty million steps.
const FIXED: std::ops::Range<u64> = 0..1600;

/// Seeds that differ each time.
const RANDOM: u64 = 16;

/// Far less is needed on two cores; a machine that is busy with something else still comes to an end.
const LIMIT: Duration = Duration::from_secs(90);

/// More seeds than any of the planted bugs takes to be found that are not hard to find.
const ENOUGH: u64 = 500;

#[test]
fn whatever_goes_wrong_no_promise_is_broken() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first = u64::try_from(now.as_micros()).unwrap_or_default();
    println!("random seeds: {first}..{}", first + RANDOM);

    let sum = soak::play(FIXED.chain(first..first + RANDOM), STEPS, None, Some(LIMIT), 1);

    println!(
        "{} seeds, {} steps, {:.1} virtual hours, {} tasks, {} starts, {} of {} rare states",
        sum.seeds,
        sum.steps,
        sum.seconds / 3600.0,
        sum.accepted,
        sum.starts,
        sum.marks.count(),
        Mark::ALL.len()
    );
    if let Some((seed, _)) = sum.failures.first() {
        panic!("{}", explain(*seed, STEPS, None));
    }
    assert_eq!(sum.marks.missing(), [], "states that were never reached");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..40 {
        let (first, second) = (run(seed, STEPS, None), run(seed, STEPS, None));

        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let easy = Plant::ALL.into_iter().filter(|plant| !Plant::HARD.contains(plant));
    let missed: Vec<Plant> = easy.filter(|plant| soak::find(*plant, 0..ENOUGH, STEPS).is_none()).collect();

    assert_eq!(missed, []);
}
