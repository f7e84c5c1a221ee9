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
/// How often a script is played until what differs at the same place is believed.
const TRIES: u64 = 3;
/// How many steps before a difference are shown.
const SHOWN: usize = 40;

#[tokio::test]
async fn the_model_of_the_broker_does_what_the_real_one_does() {
    compare(0..30, 70).await;
}

/// 100,000 asks: `cargo test -p mesh-tests --test differential -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a soak: takes some minutes"]
async fn the_model_of_the_broker_does_so_for_long() {
    let first = fastrand::u64(..1 << 32);
    compare(first..first + 1000, 100).await;
}

/// Plays the scripts of these seeds, each of so many asks.
async fn compare(seeds: std::ops::Range<u64>, asks: usize) {
    let (began, count) = (Instant::now(), seeds.end - seeds.start);
    let directory = tempfile::tempdir().unwrap();
    let options = broker::Options::new(nats_server().await, directory.path());
    let broker = Broker::start(&Launcher::new(program::exe()), options).await.unwrap();
    let url = broker.url();

    let play = |seed| play_until_sure(seed, asks, url.clone());
    let played: Vec<Result<Played, String>> = stream::iter(seeds).map(play).buffer_unordered(AT_ONCE).collect().await;

    let differ: Vec<&String> = played.iter().filter_map(|played| played.as_ref().err()).collect();
    let good: Vec<&Played> = played.iter().filter_map(|played| played.as_ref().ok()).collect();
    println!(
        "{count} scripts of {asks} asks, {} deliveries, {} pauses, {} played again, in {:.1} s: {} differ",
        good.iter().map(|played| played.deliveries).sum::<usize>(),
        good.iter().map(|played| played.pauses).sum::<usize>(),
        good.iter().filter(|played| played.tries > 1).count(),
        began.elapsed().as_secs_f64(),
        differ.len()
    );
    differ.iter().for_each(|text| println!("{}", text.lines().next().unwrap_or_default()));
    assert!(differ.is_empty(), "{} of {count} scripts differ; the shortest:\n{}", differ.len(), shortest(&differ));
}

/// Where the least has happened until it differs.
fn shortest<'a>(differ: &[&'a String]) -> &'a str {
    differ.iter().min_by_key(|text| text.len()).map_or("", |text| text.as_str())
}

/// A script that was played to its end.
struct Played {
    tries: u64,
    deliveries: usize,
    pauses: usize,
}

/// Plays a script; again and slower where it differs or is late.
async fn play_until_sure(seed: u64, asks: usize, url: String) -> Result<Played, String> {
    let mut places = Vec::new();
    for tries in 1..=2 * TRIES {
        let lates = tries - 1 - places.len() as u64;
        let scale = 1 << lates.min(2);
        let script = script::write(seed, asks, scale);
        let nats = async_nats::connect(&url).await.unwrap();
        let mesh = format!("d{seed}-{tries}").parse().unwrap();
        let mut real = Real::new(nats, mesh, script::timing(scale), scale).await;
        let played = tokio::time::timeout(limit(&script), real.play(&script)).await;
        real.end().await;
        match played.expect("a script comes to its end") {
            Ok(()) => {
                let deliveries = script.iter().flat_map(|step| step.seen.delivered.values()).map(Vec::len).sum();
                let pauses = script.iter().filter(|step| step.ask.is_none()).count();
                return Ok(Played { tries, deliveries, pauses });
            }
            Err(Stopped::Late) => {}
            Err(Stopped::Differs { step, how }) => {
                places.push(step);
                if places.len() as u64 == TRIES {
                    return Err(explain(seed, &script, step, &how));
                }
            }
        }
    }
    Err(format!("seed {seed}: this machine is too slow, or it differs now here, now there: {places:?}"))
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
