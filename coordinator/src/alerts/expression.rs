//! What a rule measures: a metric, put together by labels; how much it has grown; or one of these against another.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use scheduler::Timestamp;
use serde::{Deserialize, Serialize};

use super::increases::Increases;
use super::matcher::Matcher;
use super::sample::{Labels, Sample};

/// What a ratio to nothing comes to; JSON has no infinity.
pub(crate) const ENDLESS: f64 = 1e9;

/// What becomes of several series that are one thing to a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Take {
    /// All of them together.
    #[default]
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// How many there are.
    Count,
}

impl Take {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Take::Sum => "sum",
            Take::Max => "max",
            Take::Min => "min",
            Take::Count => "count",
        }
    }

    fn put_together(self, values: &[f64]) -> f64 {
        match self {
            Take::Sum => values.iter().sum(),
            Take::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Take::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
            Take::Count => values.len() as f64,
        }
    }
}

/// What is looked at of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// By how much it has grown.
    Increase,
    /// By how much it has grown a second.
    Rate,
}

impl Measure {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Measure::Increase => "increase",
            Measure::Rate => "rate",
        }
    }
}

/// A metric, or those of its series that are asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operand {
    pub(crate) metric: String,
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) take: Take,
}

/// What a rule measures.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expression {
    pub(crate) value: Operand,
    /// What that is divided by.
    pub(crate) of: Option<Operand>,
    /// A ratio to less than this is not looked at.
    pub(crate) at_least: f64,
    /// Of counters, what is looked at, and over how long.
    pub(crate) window: Option<(Measure, Duration)>,
    /// The labels that tell things apart.
    pub(crate) by: Vec<String>,
}

/// What is remembered for an expression between two looks.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    value: Increases,
    of: Increases,
}

/// What an expression comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// The metrics were not seen for long enough to tell.
    Unknown,
    /// The value of each thing there is.
    Values(BTreeMap<Labels, f64>),
}

impl Expression {
    /// The metrics that it needs.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = &str> {
        [Some(&self.value), self.of.as_ref()].into_iter().flatten().map(|operand| operand.metric.as_str())
    }

    /// What it comes to by these samples, and by those before.
    pub(crate) fn evaluate(&self, samples: &[Sample], memory: &mut Memory, now: Timestamp) -> Found {
        let Some(values) = self.look(&self.value, samples, &mut memory.value, now) else { return Found::Unknown };
        let Some(of) = &self.of else { return Found::Values(values) };
        let Some(of) = self.look(of, samples, &mut memory.of, now) else { return Found::Unknown };
        let things = values.keys().chain(of.keys());
        let value = |of: &BTreeMap<Labels, f64>, labels: &Labels| of.get(labels).copied().unwrap_or(0.0);
        let ratios = things.filter_map(|labels| {
            Some((labels.clone(), ratio(value(&values, labels), value(&of, labels), self.at_least)?))
        });
        Found::Values(ratios.collect())
    }

    fn look(
        &self,
        operand: &Operand,
        samples: &[Sample],
        memory: &mut Increases,
        now: Timestamp,
    ) -> Option<BTreeMap<Labels, f64>> {
        let series = samples.iter().filter(|sample| operand.selects(sample));
        let series = series.map(|sample| (&sample.labels, sample.value));
        let Some((measure, over)) = self.window else { return Some(self.put_together(operand.take, series)) };
        memory.observe(series, over, now);
        let covered = memory.covered(over, now)?;
        let divisor = match measure {
            Measure::Increase => 1.0,
            Measure::Rate => covered.as_secs_f64(),
        };
        Some(self.put_together(operand.take, memory.each().map(|(labels, grown)| (labels, grown / divisor))))
    }

    fn put_together<'a>(&self, take: Take, series: impl Iterator<Item = (&'a Labels, f64)>) -> BTreeMap<Labels, f64> {
        let mut things: BTreeMap<Labels, Vec<f64>> = BTreeMap::new();
        for (labels, value) in series {
            let label = |name: &String| Some((name.clone(), labels.get(name)?.clone()));
            things.entry(self.by.iter().filter_map(label).collect()).or_default().push(value);
        }
        things.into_iter().map(|(labels, values)| (labels, take.put_together(&values))).collect()
    }
}

/// Nothing of nothing is no ratio; something of nothing is more than any other.
fn ratio(value: f64, of: f64, at_least: f64) -> Option<f64> {
    if of < at_least || (value == 0.0 && of == 0.0) {
        None
    } else if of == 0.0 {
        Some(ENDLESS)
    } else {
        Some(value / of)
    }
}

impl Operand {
    fn selects(&self, sample: &Sample) -> bool {
        let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
        sample.name == self.metric && self.matchers.iter().all(|matcher| matcher.allows(label(matcher.label())))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, window: Option<(Measure, Duration)>) -> fmt::Result {
        let matchers: Vec<String> = self.matchers.iter().map(Matcher::to_string).collect();
        let matchers = if matchers.is_empty() { String::new() } else { format!("{{{}}}", matchers.join(", ")) };
        let (take, metric) = (self.take.as_str(), &self.metric);
        match window {
            None => write!(f, "{take} {metric}{matchers}"),
            Some((measure, over)) => {
                let over = humantime::format_duration(over);
                write!(f, "{take} {} of {metric}{matchers} over {over}", measure.as_str())
            }
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.write(f, self.window)?;
        if let Some(of) = &self.of {
            f.write_str(" / ")?;
            of.write(f, self.window)?;
        }
        if !self.by.is_empty() {
            write!(f, " by {}", self.by.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand(metric: &str, matchers: &[&str], take: Take) -> Operand {
        let matchers = matchers.iter().map(|matcher| matcher.parse().unwrap()).collect();
        Operand { metric: metric.to_owned(), matchers, take }
    }

    fn expression(value: Operand, by: &[&str]) -> Expression {
        let by = by.iter().map(|label| (*label).to_owned()).collect();
        Expression { value, of: None, at_least: 0.0, window: None, by }
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(1000 + second))
    }

    fn values(expression: &Expression, samples: &[Sample]) -> Vec<(String, f64)> {
        shown(expression.evaluate(samples, &mut Memory::default(), at(0)))
    }

    fn shown(found: Found) -> Vec<(String, f64)> {
        let Found::Values(values) = found else { panic!("nothing is known") };
        let show = |(labels, value): (Labels, f64)| (labels.into_values().collect::<Vec<_>>().join(" "), value);
        values.into_iter().map(show).collect()
    }

    fn waiting() -> [Sample; 3] {
        [("a", "high", 1.0), ("a", "low", 4.0), ("b", "low", 2.0)]
            .map(|(kind, priority, value)| Sample::new("depth", &[("kind", kind), ("priority", priority)], value))
    }

    #[test]
    fn series_are_put_together_by_the_labels_that_count() {
        let by_kind = |take| values(&expression(operand("depth", &[], take), &["kind"]), &waiting());

        assert_eq!(by_kind(Take::Sum), [("a".into(), 5.0), ("b".into(), 2.0)]);
        assert_eq!(by_kind(Take::Max), [("a".into(), 4.0), ("b".into(), 2.0)]);
        assert_eq!(by_kind(Take::Min), [("a".into(), 1.0), ("b".into(), 2.0)]);
        assert_eq!(by_kind(Take::Count), [("a".into(), 2.0), ("b".into(), 1.0)]);
        let all = expression(operand("depth", &["priority=low"], Take::Sum), &[]);
        assert_eq!(values(&all, &waiting()), [(String::new(), 6.0)]);
        assert!(values(&expression(operand("other", &[], Take::Sum), &[]), &waiting()).is_empty());
    }

    #[test]
    fn a_ratio_is_of_what_is_there_of_either() {
        let pools = |name: &str, pool: &str, value| Sample::new(name, &[("pool", pool)], value);
        let samples = [
            pools("present", "half", 2.0),
            pools("wished", "half", 4.0),
            pools("wished", "none", 4.0),
            pools("present", "too-many", 1.0),
            pools("wished", "too-many", 0.0),
            pools("present", "empty", 0.0),
            pools("wished", "empty", 0.0),
        ];
        let ratio = Expression {
            of: Some(operand("wished", &[], Take::Sum)),
            ..expression(operand("present", &[], Take::Sum), &["pool"])
        };

        let expected = [("half".into(), 0.5), ("none".into(), 0.0), ("too-many".into(), ENDLESS)];
        assert_eq!(values(&ratio, &samples), expected);
        let enough = Expression { at_least: 4.5, ..ratio };
        assert!(values(&enough, &samples).is_empty());
    }

    #[test]
    fn a_rate_is_known_when_the_counter_was_seen_for_a_while() {
        let window = Some((Measure::Rate, Duration::from_secs(60)));
        let rate = Expression { window, ..expression(operand("settled", &[], Take::Sum), &[]) };
        let (mut memory, settled) = (Memory::default(), |value| [Sample::new("settled", &[("kind", "a")], value)]);

        assert_eq!(rate.evaluate(&settled(100.0), &mut memory, at(0)), Found::Unknown);
        assert_eq!(rate.evaluate(&settled(130.0), &mut memory, at(29)), Found::Unknown);
        assert_eq!(shown(rate.evaluate(&settled(160.0), &mut memory, at(30))), [(String::new(), 2.0)]);
        assert_eq!(shown(rate.evaluate(&settled(160.0), &mut memory, at(300))), [(String::new(), 0.0)]);
    }

    #[test]
    fn an_expression_is_told_in_one_line() {
        let failed = Expression {
            of: Some(operand("settled", &[], Take::Sum)),
            window: Some((Measure::Increase, Duration::from_secs(300))),
            ..expression(operand("settled", &["outcome=failed|dead"], Take::Sum), &["kind"])
        };

        assert_eq!(
            failed.to_string(),
            "sum increase of settled{outcome=failed|dead} over 5m / sum increase of settled over 5m by kind"
        );
    }
}
