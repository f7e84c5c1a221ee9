//! Figures: what a scenario measured, how it is kept, and the table of all.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// One line of the table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// What is promised, with its limit.
    pub promise: String,
    /// How often it was tried.
    pub trials: u64,
    /// Milliseconds, where the promise is a time.
    pub times: Option<Times>,
    /// Accepted tasks, where tasks were counted.
    pub tasks: Option<u64>,
    /// Of them, those without their one result.
    pub lost: Option<u64>,
    /// Of them, those with another record after the first, or with a wrong one.
    pub overwritten: Option<u64>,
    /// Starts without a cause.
    pub unexplained: Option<u64>,
    /// What else is worth telling, the worst case above all.
    pub notes: Vec<String>,
    /// What the promise is broken by; it holds if there is nothing.
    pub broken: Vec<String>,
}

impl Row {
    /// A row that holds so far.
    pub fn new(promise: impl Into<String>, trials: usize) -> Self {
        Self { promise: promise.into(), trials: trials as u64, ..Self::default() }
    }

    /// Whether the promise holds.
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    /// Notes something.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The promise is broken unless this is so.
    #[must_use]
    pub fn must(mut self, is_so: bool, otherwise: impl Into<String>) -> Self {
        if !is_so {
            self.broken.push(otherwise.into());
        }
        self
    }

    /// Adds times, and the limits that they must keep.
    #[must_use]
    pub fn timed(mut self, spans: &[Duration], limits: Limits) -> Self {
        let times = Times::of(spans);
        let over = |what: &str, is: f64, limit: Option<Duration>| {
            let limit = limit?.as_secs_f64() * 1000.0;
            (is > limit).then(|| format!("{what} {is:.0} ms is over {limit:.0} ms"))
        };
        self.broken.extend(over("p50", times.p50, limits.p50));
        self.broken.extend(over("p99", times.p99, limits.p99));
        self.broken.extend(over("max", times.max, limits.max));
        self.times = Some(times);
        self
    }
}

/// How long something may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// At the median.
    pub p50: Option<Duration>,
    /// At the 99th of a hundred.
    pub p99: Option<Duration>,
    /// At most.
    pub max: Option<Duration>,
}

impl Limits {
    /// None.
    pub const NONE: Self = Self { p50: None, p99: None, max: None };

    /// What a loaded machine in the test command may take instead.
    #[must_use]
    pub fn generous(self) -> Self {
        let more = |limit: Option<Duration>| limit.map(|limit| limit * 4);
        Self { p50: more(self.p50), p99: more(self.p99), max: more(self.max) }
    }
}

/// How long something took, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Times {
    /// The median.
    pub p50: f64,
    /// All but one in a hundred took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Times {
    /// Of all of these; the percentiles are values that occurred (nearest rank).
    pub fn of(spans: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = spans.iter().map(|span| span.as_secs_f64() * 1000.0).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            let place = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
        };
        Self { p50: rank(0.5), p99: rank(0.99), max: rank(1.0) }
    }
}

/// What one scenario measured, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The scenario.
    pub scenario: String,
    /// What was drawn from.
    pub seed: u64,
    /// 1.0 for the full figures.
    pub scale: f64,
    /// When it ended.
    pub date: String,
    /// Of the source.
    pub commit: String,
    /// How long it took.
    pub seconds: u64,
    /// Its lines.
    pub rows: Vec<Row>,
}

impl Part {
    /// Keeps it in a directory of parts.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}.json", self.scenario));
        std::fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| format!("failed to write {path:?}"))
    }

    /// Reads what was kept of a scenario.
    pub fn load(dir: &Path, scenario: &str) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(format!("{scenario}.json"))).ok()?).ok()
    }
}

/// Now, as the table says it.
pub fn date() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// The commit of the source, and whether the source differs from it.
pub fn commit() -> String {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args).output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changed| !changed.trim().is_empty());
    format!("{}{}", commit.trim(), if dirty { " (dirty)" } else { "" })
}

/// The machine, in a line.
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let found = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key);
        found.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let memory: u64 = value(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cores} cores of {}, {} GiB, {}",
        value(&read("/proc/cpuinfo"), "model name"),
        memory >> 20,
        std::env::consts::OS
    )
}

/// The table of all parts, in Markdown.
pub fn table(parts: &[Part], nats_server: &str) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# Chaos soak\n");
    let _ =
        writeln!(text, "- written: {}\n- machine: {}\n- {nats_server}\n- build: {}\n", date(), machine(), profile());
    let _ = writeln!(text, "Times are milliseconds. A dash is what a promise does not speak of.\n");
    let _ = writeln!(
        text,
        "| scenario | promise | n | p50 | p99 | max | tasks | lost | overwritten | unexplained starts | holds |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    );
    for part in parts {
        part.rows.iter().for_each(|row| write_row(&mut text, &part.scenario, row));
    }
    let _ = writeln!(text, "\n## What else was seen\n");
    for part in parts {
        let Part { scenario, seed, scale, date, commit, seconds, rows } = part;
        let _ = writeln!(text, "- **{scenario}**: commit {commit}, {date}, {seconds} s, seed {seed}, scale {scale}");
        for row in rows {
            row.notes.iter().for_each(|note| _ = writeln!(text, "  - {}: {note}", row.promise));
            row.broken.iter().for_each(|broken| _ = writeln!(text, "  - **broken**, {}: {broken}", row.promise));
        }
    }
    text
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

fn write_row(text: &mut String, scenario: &str, row: &Row) {
    let time =
        |pick: fn(&Times) -> f64| row.times.as_ref().map_or("–".to_owned(), |times| format!("{:.0}", pick(times)));
    let count = |count: Option<u64>| count.map_or("–".to_owned(), |count| count.to_string());
    let _ = writeln!(
        text,
        "| {scenario} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        row.promise,
        row.trials,
        time(|t| t.p50),
        time(|t| t.p99),
        time(|t| t.max),
        count(row.tasks),
        count(row.lost),
        count(row.overwritten),
        count(row.unexplained),
        if row.holds() { "yes" } else { "**no**" },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let spans: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();

        let times = Times::of(&spans);

        assert_eq!((times.p50, times.p99, times.max), (100.0, 198.0, 200.0));
    }

    #[test]
    fn a_row_over_its_limit_does_not_hold() {
        let limits = Limits { p99: Some(Duration::from_millis(10)), ..Limits::NONE };

        assert!(Row::new("it is fast", 1).timed(&[Duration::from_millis(10)], limits).holds());
        assert!(!Row::new("it is fast", 1).timed(&[Duration::from_millis(11)], limits).holds());
    }
}
