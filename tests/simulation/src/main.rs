//! Plays seeds of the simulation: many for a soak, or one to see what happened.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::{Plant, explain, replay, soak};

/// Plays seeds of the simulation.
#[derive(Debug, Parser)]
struct Args {
    /// Seeds to play: `A..B`.
    #[arg(long, value_parser = parse_range, default_value = "0..1000")]
    seeds: std::ops::Range<u64>,
    /// One seed to replay, with its options and its last events.
    #[arg(long)]
    seed: Option<u64>,
    /// Steps of the phase with faults.
    #[arg(long, default_value_t = 10_000)]
    steps: u64,
    /// A bug to put in on purpose.
    #[arg(long)]
    plant: Option<Plant>,
    /// Put each known bug in, one after the other, and tell how many seeds it takes to find it.
    #[arg(long)]
    plants: bool,
    /// Print every event of the seed that is replayed.
    #[arg(long)]
    verbose: bool,
    /// Stop after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Stop after this many failures.
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let bad = || format!("`{text}` is no range: write `0..1000`");
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    Ok(from.parse().map_err(|_| bad())?..to.parse().map_err(|_| bad())?)
}

/// A table of which seed finds which planted bug, and by what.
fn find_plants(args: &Args) -> ExitCode {
    let mut all = true;
    println!("| planted bug | seeds until found | by |\n|---|---|---|");
    for plant in Plant::ALL {
        let found = simulation::soak::find(plant, args.seeds.clone(), args.steps);
        all &= found.is_some();
        let (seeds, how) = found.map_or(("not found".to_owned(), String::new()), |(n, how)| (n.to_string(), how));
        let how: String = how.lines().next().unwrap_or_default().chars().take(120).collect();
        println!("| {plant} | {seeds} | {} |", how.replace('|', "/"));
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        if args.verbose {
            replay(seed, args.steps, args.plant, true);
        }
        println!("{}", explain(seed, args.steps, args.plant));
        return ExitCode::SUCCESS;
    }
    if args.plants {
        return find_plants(&args);
    }
    let began = Instant::now();
    let limit = args.seconds.map(Duration::from_secs);
    let sum = soak::play(args.seeds, args.steps, args.plant, limit, args.failures);
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} steps ({:.0} a second), {:.1} virtual hours, {} tasks, {} starts, {}/{} rare states in {took:.1} s",
        sum.seeds,
        sum.steps,
        sum.steps as f64 / took,
        sum.seconds / 3600.0,
        sum.accepted,
        sum.starts,
        sum.marks.count(),
        simulation::marks::Mark::ALL.len(),
    );
    println!("never reached: {:?}", sum.marks.missing());
    for (seed, violation) in &sum.failures {
        println!("seed {seed}: {violation}\n");
    }
    if sum.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
