//! The broker's model of the simulation against a real nats-server: the same random scripts, and every answer, every
//! delivery and what is held must be the same.
//!
//! A script (`script`) is written from a seed, by asking the model (`model`); then the server (`real`) is asked the
//! same, at the same times. What differs by chance, because this machine was slow or two timers ran out in the same
//! millisecond, does not differ again at the same place when the script is played again.

#![allow(clippy::unwrap_used)]

mod model;
mod real;
mod script;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use coordinator::local::{Broker, Launcher, broker};
use futures_util::{StreamExt as _, stream};
use mesh_tests::{mesh::nats_server, program};
use real::{Real, Stopped};
use script::Step;

/// How many scripts are played at once: most of the time they wait.
const AT_ONCE: usize = 30;
/// How often a script must differ at the same place until that is believed.
const SURE: usize = 3;
/// How often a script is played at most.
const MOST_TRIES: u64 = 8;
/// How much slower than at first a script is played at most.
const SLOWEST: u64 = 4;
/// How many steps before a difference are shown.
const SHOWN: usize = 40;

#[tokio::test]
async fn the_model_of_the_broker_does_what_the_real_one_does() {
    compare(0..30, 70, Duration::from_secs(45)).await;
}

/// 100,000 asks: `cargo test -p mesh-tests --test differential -- --ignored --nocapture`. With `SEED` and `SCRIPTS` in the
/// environment, the scripts from this seed on, so many.
#[tokio::test]
#[ignore = "a soak: takes some minutes"]
async fn the_model_of_the_broker_does_so_for_long() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    compare(first..first + number("SCRIPTS").unwrap_or(1000), 100, Duration::from_secs(3600)).await;
}

/// Plays the scripts of these seeds, each of so many asks. After the patience none is played again because
/// it was late.
async fn compare(seeds: std::ops::Range<u64>, asks: usize, patience: Duration) {
    let (began, count) = (Instant::now(), seeds.end - seeds.start);
    let directory = tempfile::tempdir().unwrap();
    let options = broker::Options::new(nats_server().await, directory.path());
    let broker = Broker::start(&Launcher::new(program::exe()), options).await.unwrap();
    let url = broker.url();

    let play = |seed| play_until_sure(seed, asks, url.clone(), began + patience);
    let sum: Sum = stream::iter(seeds).map(play).buffer_unordered(AT_ONCE).collect().await;

    let Sum { same, again, unsure, deliveries, pauses, differ } = &sum;
    println!(
        "{count} scripts of {asks} asks in {:.1} s: {same} the same ({again} of them played again), with {deliveries} \
         deliveries and {pauses} pauses; {} differ; {} could not be played in time: {unsure:?}",
        began.elapsed().as_secs_f64(),
        differ.len(),
        unsure.len(),
    );
    differ.iter().for_each(|text| println!("{}", text.lines().next().unwrap_or_default()));
    let shortest = differ.iter().min_by_key(|text| text.len());
    assert!(differ.is_empty(), "{} of {count} scripts differ; the shortest:\n{}", differ.len(), shortest.unwrap());
    assert!(*same > 0, "this machine is too slow to compare anything");
}

/// What came of a script.
enum Played {
    /// The server did the same.
    Same { tries: u64, deliveries: usize, pauses: usize },
    /// It did something else, always at the same place.
    Differs(String),
    /// This machine was too slow each time, or it differed now here, now there.
    Unsure(u64),
}

/// What came of all.
#[derive(Default)]
struct Sum {
    same: usize,
    again: usize,
    unsure: Vec<u64>,
    deliveries: usize,
    pauses: usize,
    differ: Vec<String>,
}

impl Extend<Played> for Sum {
    fn extend<I: IntoIterator<Item = Played>>(&mut self, all: I) {
        for played in all {
            match played {
                Played::Same { tries, deliveries, pauses } => {
                    self.same += 1;
                    self.again += usize::from(tries > 1);
                    self.deliveries += deliveries;
                    self.pauses += pauses;
                }
                Played::Differs(text) => self.differ.push(text),
                Played::Unsure(seed) => self.unsure.push(seed),
            }
        }
    }
}

/// Plays a script; again where it differs, and slower where it is late.
async fn play_until_sure(seed: u64, asks: usize, url: String, until: Instant) -> Played {
    let mut scale = 1;
    let mut differences: Vec<(u64, usize)> = Vec::new();
    for tries in 1..=MOST_TRIES {
        let script = script::write(seed, asks, scale);
        let nats = async_nats::connect(&url).await.unwrap();
        let mesh = format!("d{seed}-{tries}").parse().unwrap();
        let mut real = Real::new(nats, mesh, script::timing(scale), scale).await;
        let played = tokio::time::timeout(limit(&script), real.play(&script)).await;
        real.end().await;
        match played.unwrap_or(Err(Stopped::Late)) {
            Ok(()) => {
                let deliveries = script.iter().flat_map(|step| step.seen.delivered.values()).map(Vec::len).sum();
                let pauses = script.iter().filter(|step| step.ask.is_none()).count();
                return Played::Same { tries, deliveries, pauses };
            }
            Err(Stopped::Late) if Instant::now() > until => break,
            Err(Stopped::Late) => scale = SLOWEST.min(scale * 2),
            Err(Stopped::Differs { step, how }) => {
                differences.push((scale, step));
                if differences.iter().filter(|other| **other == (scale, step)).count() == SURE {
                    return Played::Differs(explain(seed, &script, step, &how));
                }
            }
        }
    }
    Played::Unsure(seed)
}

fn limit(script: &[Step]) -> Duration {
    Duration::from_micros(real::length(script)) + Duration::from_secs(30)
}

fn explain(seed: u64, script: &[Step], place: usize, how: &str) -> String {
    let mut text = format!("seed {seed}, step {place}:\n");
    for step in &script[place.saturating_sub(SHOWN)..=place] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{step}");
    }
    format!("{text}{how}")
}
