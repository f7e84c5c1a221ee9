//! How long the coordinator takes from a task's delivery to its order, as it counts itself and shows at `/metrics`.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context as _;
use serde::Serialize;

/// The histogram's name.
const METRIC: &str = "hive_assignment_seconds";

/// Where the figures are read.
#[derive(Clone, Debug)]
pub(super) struct Assignments {
    url: String,
}

/// A cumulative histogram: how many took no longer than so many microseconds; the last bound is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    up_to: BTreeMap<u64, u64>,
    all: u64,
}

/// Upper bounds of what is known: a histogram tells between which two of its bounds a quantile is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half took no longer; absent if that is beyond the last bound.
    pub p50_at_most_ms: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_at_most_ms: Option<f64>,
    /// How many there were.
    pub tasks: u64,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |ms: Option<f64>| ms.map_or("more than is told apart".to_owned(), |ms| format!("at most {ms} ms"));
        write!(f, "p50 {}, p99 {} of {}", show(self.p50_at_most_ms), show(self.p99_at_most_ms), self.tasks)
    }
}

impl Assignments {
    pub(super) fn of(http: &str) -> Self {
        Self { url: format!("{http}/metrics") }
    }

    /// What has been counted so far; nothing if the coordinator does not tell.
    pub(super) async fn read(&self) -> anyhow::Result<Option<Counted>> {
        let answer = reqwest::get(&self.url).await.with_context(|| format!("failed to read {}", self.url))?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        Ok(parse(&answer.text().await?))
    }
}

/// Adds the histogram up over all its labels.
fn parse(exposition: &str) -> Option<Counted> {
    let mut counted = Counted::default();
    let prefix = format!("{METRIC}_bucket{{");
    for line in exposition.lines() {
        let Some((labels, value)) = line.strip_prefix(&prefix).and_then(|rest| rest.split_once('}')) else { continue };
        let bound = labels.split(',').find_map(|label| label.strip_prefix("le=\"")?.strip_suffix('"'))?;
        let count: u64 = value.split_whitespace().next()?.parse().ok()?;
        if bound == "+Inf" {
            counted.all += count;
        } else {
            *counted.up_to.entry((bound.parse::<f64>().ok()? * 1e6).round() as u64).or_default() += count;
        }
    }
    (!counted.up_to.is_empty()).then_some(counted)
}

impl Counted {
    /// What came since an earlier look.
    pub(super) fn since(&self, earlier: &Counted) -> Latency {
        let all = self.all - earlier.all;
        let quantile = |share: f64| {
            let wanted = (all as f64 * share).ceil() as u64;
            let counts = |bound: &u64, count: &u64| count - earlier.up_to.get(bound).copied().unwrap_or(0);
            let bound = self.up_to.iter().find(|(bound, count)| counts(bound, count) >= wanted);
            bound.map(|(micros, _)| *micros as f64 / 1000.0)
        };
        Latency { p50_at_most_ms: quantile(0.5), p99_at_most_ms: quantile(0.99), tasks: all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposition(counts: [u64; 3]) -> String {
        let [short, long, all] = counts;
        format!(
            "# TYPE hive_assignment_seconds histogram\n\
             hive_assignment_seconds_bucket{{kind=\"a\",le=\"0.001\"}} {short}\n\
             hive_assignment_seconds_bucket{{kind=\"a\",le=\"0.01\"}} {long}\n\
             hive_assignment_seconds_bucket{{kind=\"a\",le=\"+Inf\"}} {all}\n\
             hive_other_bucket{{le=\"0.001\"}} 7\n"
        )
    }

    #[test]
    fn a_quantile_is_told_by_the_bound_above_it() {
        let (before, after) = (parse(&exposition([50, 60, 60])).unwrap(), parse(&exposition([100, 159, 160])).unwrap());

        let latency = after.since(&before);

        assert_eq!(latency, Latency { p50_at_most_ms: Some(1.0), p99_at_most_ms: Some(10.0), tasks: 100 });
    }

    #[test]
    fn what_is_beyond_the_last_bound_is_not_guessed() {
        let before = parse(&exposition([0, 0, 0])).unwrap();

        assert_eq!(parse(&exposition([1, 1, 10])).unwrap().since(&before).p99_at_most_ms, None);
        assert_eq!(parse("hive_other_bucket{le=\"1\"} 7\n"), None);
    }
}
