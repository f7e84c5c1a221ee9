//! `coordinator scale simulate`: what a pool would have been like under a load that was recorded.
//!
//! The load runs through the arbiter in virtual time, as in its tests: each task comes when it came and runs for as long as
//! it ran, in whichever slot is free first. What is by chance is drawn from a seed, so the same question has the same answer.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use scheduler::scaling::Policy;
use scheduler::scaling::world::{Actuator, Curve, Task, World};

use super::super::output::{self, Usage};
use super::picture;
use super::recording::{self, Recording};
use super::report::Report;

/// Replay a recorded load with other settings of a pool: waits, use, agents and cost, against what really happened.
///
/// The tasks come and run as they did. Whatever the pool does otherwise, such as retries and labels, is not replayed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The load: lines of JSON, as `coordinator scale record` writes them; `-` is standard input.
    #[arg(long, value_name = "EVENTS")]
    from: PathBuf,
    /// The settings: a TOML file with a [pools.NAME], as the coordinator's.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Which pool of the file, if it has several.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Draw a picture of it, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// What is by chance is drawn from this.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print a JSON document.
    #[arg(long)]
    json: bool,
}

/// Replays the load, and prints what came of it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (pool, policy) = read_policy(&args.policy, args.pool.as_deref())?;
    let recording = read_recording(&args.from, &policy)?;
    let curve = curve(&pool, policy, &recording);
    let run = World::new(&curve, Actuator::Works(curve.policy.startup_time), args.seed).run();
    if let Some(path) = &args.svg {
        let picture = picture::draw(&curve, &run, &recording).context("failed to draw the picture")?;
        fs::write(path, picture).with_context(|| format!("failed to write `{}`", path.display()))?;
    }
    let report = Report::new(&curve, &run, &recording, args.seed);
    if args.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read_recording(path: &Path, policy: &Policy) -> anyhow::Result<Recording> {
    if path == Path::new("-") {
        return Ok(Recording::read(io::stdin().lock(), &policy.kinds)?);
    }
    let file = File::open(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    Ok(Recording::read(BufReader::new(file), &policy.kinds)?)
}

/// The settings of one pool of a file. Who starts its agents makes no difference here.
fn read_policy(path: &Path, pool: Option<&str>) -> anyhow::Result<(String, Policy)> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("failed to read `{shown}`"))?;
    let file = text.parse::<toml::Table>().map_err(|error| Usage(format!("`{shown}` is no TOML: {error}")))?;
    let pools = file.get("pools").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let named = match (pool, pools.len()) {
        (Some(name), _) => pools.get_key_value(name),
        (None, 1) => pools.iter().next(),
        (None, _) => None,
    };
    let Some((name, settings)) = named else {
        let names: Vec<&str> = pools.keys().map(String::as_str).collect();
        return Err(Usage(which_pool(&shown.to_string(), pool, &names)).into());
    };
    let mut settings = settings.as_table().cloned().unwrap_or_default();
    for of_the_mesh in ["actuator", "paused"] {
        settings.remove(of_the_mesh);
    }
    let policy: Policy =
        settings.try_into().map_err(|error| Usage(format!("[pools.{name}] in `{shown}` cannot be used: {error}")))?;
    match policy.problems(name) {
        problems if problems.is_empty() => Ok((name.clone(), Policy { enabled: true, ..policy })),
        problems => Err(Usage(format!("`{shown}` cannot be used:\n  {}", problems.join("\n  "))).into()),
    }
}

fn which_pool(file: &str, asked: Option<&str>, names: &[&str]) -> String {
    match (asked, names) {
        (_, []) => format!("`{file}` has no pool: write [pools.NAME] and what is to hold below it"),
        (Some(asked), names) => format!("`{file}` has no pool `{asked}`, but {}", names.join(", ")),
        (None, names) => format!("`{file}` has several pools: say --pool with one of {}", names.join(", ")),
    }
}

fn curve(pool: &str, policy: Policy, recording: &Recording) -> Curve {
    let task = |task: &recording::Task| Task { comes: task.comes, runs: task.runs, kind: task.kind };
    Curve {
        name: pool.to_owned(),
        tasks: recording.tasks.iter().map(task).collect(),
        end: recording.end,
        agents: policy.bounded(recording.agents_at(Duration::ZERO)),
        policy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str, pool: Option<&str>) -> Result<(String, Policy), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        read_policy(file.path(), pool).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pool_is_read_as_the_coordinators_file_has_it() {
        let text = "[http]\naddress = \"127.0.0.1:0\"\n[pools.workers]\nmax-agents = 7\nenabled = false\npaused = true\n\
                    [pools.workers.actuator]\ntype = \"process\"\n";

        let (name, policy) = policy(text, None).unwrap();

        assert_eq!((name.as_str(), policy.max_agents, policy.enabled), ("workers", 7, true));
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let two = "[pools.a]\n[pools.b]\n";
        assert!(policy(two, None).unwrap_err().contains("--pool with one of a, b"));
        assert!(policy(two, Some("c")).unwrap_err().contains("no pool `c`, but a, b"));
        assert_eq!(policy(two, Some("b")).unwrap().0, "b");
        assert!(policy("", None).unwrap_err().contains("write [pools.NAME]"));
        assert!(policy("[pools.a]\nmax-agentz = 1\n", None).unwrap_err().contains("max-agentz"));
        assert!(policy("[pools.a]\nmax-agents = 0\n", None).unwrap_err().contains("write 1 or more"));
    }

    /// Twenty minutes of 20 busy slots, as ten agents of four slots had it.
    fn lines() -> String {
        let line = |number: u64| {
            let at = std::time::UNIX_EPOCH + Duration::from_millis(1_796_126_400_000 + number * 100);
            serde_json::json!({
                "time": humantime::format_rfc3339_millis(at).to_string(), "topic": "task", "what": "settled",
                "kind": "resize", "agent": format!("agent-{}", number % 10), "data": { "queued_ms": 0, "run_ms": 2000 },
            })
        };
        (0..12_000).map(|number| format!("{}\n", line(number))).collect()
    }

    #[test]
    fn the_same_question_has_the_same_answer() {
        let (name, policy) = policy("[pools.workers]\nmax-agents = 20\n", None).unwrap();
        let recording = Recording::read(lines().as_bytes(), &policy.kinds).unwrap();
        let curve = curve(&name, policy, &recording);
        let report = || {
            let run = World::new(&curve, Actuator::Works(curve.policy.startup_time), 1).run();
            serde_json::to_value(Report::new(&curve, &run, &recording, 1)).unwrap()
        };

        let answer = report();

        assert_eq!(answer, report());
        assert_eq!((&answer["tasks"], &answer["recorded"]["agents_most"]), (&12_000.into(), &10.into()));
        let utilisation = |side: &str| answer[side]["utilisation"].as_f64().unwrap();
        assert!((utilisation("recorded") - 0.5).abs() < 0.01, "{answer}");
        // It takes no more than six or seven of the ten, and finds that out.
        assert!(utilisation("simulated") > 0.6, "{answer}");
        assert!(answer["simulated"]["wait_p95_s"].as_f64().unwrap() <= 5.0, "{answer}");
        assert!(!answer["changes"].as_array().unwrap().is_empty(), "{answer}");
    }

    #[test]
    fn a_picture_shows_both() {
        let (name, policy) = policy("[pools.workers]\nmax-agents = 20\n", None).unwrap();
        let recording = Recording::read(lines().as_bytes(), &policy.kinds).unwrap();
        let curve = curve(&name, policy, &recording);
        let run = World::new(&curve, Actuator::Works(Duration::from_secs(5)), 1).run();

        let picture = picture::draw(&curve, &run, &recording).unwrap();

        assert!(picture.starts_with("<svg") && picture.matches("<polyline").count() >= 5, "{picture}");
        assert!(picture.contains("recorded") && picture.contains("simulated"), "{picture}");
    }
}
