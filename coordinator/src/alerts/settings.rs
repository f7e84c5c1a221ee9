//! The settings of alerts: how often is looked, the rules that a coordinator has by itself, and the user's own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::Kind;
use shared::api::alerts::Severity;

use super::expression::{Expression, Measure, Operand, Take};
use super::matcher::Matcher;
use super::rule::{Rule, Side, Threshold};

/// The rules that every coordinator has.
const BUILT_IN: &str = include_str!("built_in.toml");

/// How alerts are looked at and told.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// How often the leader looks.
    ///
    /// Shorter tells sooner; each look costs the leader what a scrape of its metrics does.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How often an alert is told again that fires on and that nobody has acknowledged; `0s` is never.
    #[serde(with = "humantime_serde")]
    pub notify_every: Duration,
    /// How long a new leader lets no alert resolve.
    ///
    /// It must get to know what waits and who is there first. Shorter lets an alert resolve that fires again at once.
    #[serde(with = "humantime_serde")]
    pub takeover_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            notify_every: Duration::from_secs(4 * 3600),
            takeover_grace: Duration::from_secs(30),
        }
    }
}

/// A rule as it is written, or what is to be otherwise of one that the coordinator has by itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuleConfig {
    /// Whether it is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What is the matter when it fires, with `{value}`, `{threshold}` and the names of labels where their values go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// How grave that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The metric, as `/metrics` calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Only those of its series for which all of these hold: `kind=resize`, `outcome!=succeeded`.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub matchers: Option<Vec<Matcher>>,
    /// What becomes of several series that are one thing: `sum`, `max`, `min` or `count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub take: Option<Take>,
    /// The labels that tell things apart; each thing has an alert of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Vec<String>>,
    /// Of a counter: its `increase`, or its `rate` a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
    /// Over how long.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub over: Option<Duration>,
    /// A ratio to less than this is not looked at: one failure of one task is no trend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// It is bad above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// It is bad below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// An alert that fires goes on until this line is crossed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<f64>,
    /// For how long it must be bad until an alert fires.
    ///
    /// Longer leaves out what passes by itself; shorter tells sooner.
    #[serde(rename = "for", with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Duration>,
    /// For how long it must be good until an alert resolves.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub keep_firing_for: Option<Duration>,
    /// What the metric is divided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<OperandConfig>,
}

/// What a metric is divided by; `measure`, `over` and `by` are those of the rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OperandConfig {
    /// The metric.
    pub metric: String,
    /// Only those of its series for which all of these hold.
    #[serde(rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub matchers: Vec<Matcher>,
    /// What becomes of several series that are one thing.
    pub take: Take,
}

impl Config {
    pub(crate) fn problems(&self) -> Vec<String> {
        let is_sensible = (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.interval);
        if is_sensible { Vec::new() } else { vec!["[alerting] interval: write 100ms to 1h".to_owned()] }
    }
}

/// What is wrong with the rules.
pub(crate) fn problems(said: &BTreeMap<String, RuleConfig>) -> Vec<String> {
    rules(said).err().unwrap_or_default()
}

/// All rules: those that the coordinator has by itself, with what is said of them, and the user's own. Or else everything
/// that is wrong with them.
pub(crate) fn rules(said: &BTreeMap<String, RuleConfig>) -> Result<Vec<Rule>, Vec<String>> {
    let built_in = built_in();
    let mut all = built_in.clone();
    for (name, said) in said {
        let before = all.remove(name).unwrap_or_default();
        all.insert(name.clone(), said.clone().over(before));
    }
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for (name, config) in all {
        match config.build(&name, built_in.contains_key(&name)) {
            Ok(rule) => rules.push(rule),
            Err(wrong) => problems.extend(wrong.into_iter().map(|wrong| format!("[alerts.{name}] {wrong}"))),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

fn built_in() -> BTreeMap<String, RuleConfig> {
    toml::from_str(BUILT_IN).expect("a test reads the rules that are built in")
}

impl RuleConfig {
    /// This, and where it says nothing what was said before.
    fn over(self, before: Self) -> Self {
        // Another line than before stands alone: its own second line goes with it.
        let is_moved = self.above.is_some() || self.below.is_some();
        let line = if is_moved { (None, None, None) } else { (before.above, before.below, before.resolve) };
        Self {
            enabled: self.enabled.or(before.enabled),
            summary: self.summary.or(before.summary),
            severity: self.severity.or(before.severity),
            metric: self.metric.or(before.metric),
            matchers: self.matchers.or(before.matchers),
            take: self.take.or(before.take),
            by: self.by.or(before.by),
            measure: self.measure.or(before.measure),
            over: self.over.or(before.over),
            at_least: self.at_least.or(before.at_least),
            above: self.above.or(line.0),
            below: self.below.or(line.1),
            resolve: self.resolve.or(line.2),
            lasts: self.lasts.or(before.lasts),
            keep_firing_for: self.keep_firing_for.or(before.keep_firing_for),
            of: self.of.or(before.of),
        }
    }

    fn build(self, name: &str, is_built_in: bool) -> Result<Rule, Vec<String>> {
        let mut problems = Vec::new();
        if Kind::new(name).is_err() {
            problems.push("a rule has a name of 1 to 64 of A-Z a-z 0-9 - _".to_owned());
        }
        let threshold = self.threshold().map_err(|problem| problems.push(problem)).ok();
        let expression = self.expression().map_err(|problem| problems.push(problem)).ok();
        let (Some(threshold), Some(expression), true) = (threshold, expression, problems.is_empty()) else {
            return Err(problems);
        };
        Ok(Rule {
            name: name.to_owned(),
            is_built_in,
            is_enabled: self.enabled.unwrap_or(true),
            severity: self.severity.unwrap_or_default(),
            summary: self.summary.unwrap_or_else(|| summary(name, &expression)),
            expression,
            threshold,
            lasts: self.lasts.unwrap_or_default(),
            keep_firing_for: self.keep_firing_for.unwrap_or_default(),
        })
    }

    fn threshold(&self) -> Result<Threshold, String> {
        let (side, fires) = match (self.above, self.below) {
            (Some(fires), None) => (Side::Above, fires),
            (None, Some(fires)) => (Side::Below, fires),
            (None, None) => return Err("above: say where the line is, by `above` or `below`".to_owned()),
            (Some(_), Some(_)) => return Err("above, below: write one of them".to_owned()),
        };
        let resolves = self.resolve.unwrap_or(fires);
        if !fires.is_finite() || !resolves.is_finite() {
            return Err("above, below, resolve: write a number".to_owned());
        }
        match side {
            Side::Above if resolves > fires => Err("resolve: it must not be more than `above`".to_owned()),
            Side::Below if resolves < fires => Err("resolve: it must not be less than `below`".to_owned()),
            side => Ok(Threshold { side, fires, resolves }),
        }
    }

    fn expression(&self) -> Result<Expression, String> {
        let metric = self.metric.as_deref().ok_or("metric: say which one is looked at, such as `hive_queue_depth`")?;
        let window = match (self.measure, self.over) {
            (Some(measure), Some(over)) if over >= Duration::from_secs(1) => Some((measure, over)),
            (Some(_), Some(_)) => return Err("over: write 1s or more".to_owned()),
            (Some(_), None) => return Err("over: say over how long the counter is looked at".to_owned()),
            (None, Some(_)) => return Err("measure: write `increase` or `rate`, or leave out `over`".to_owned()),
            (None, None) => None,
        };
        let operand = |metric: &str, matchers: &[Matcher], take| match is_metric(metric) {
            true => Ok(Operand { metric: metric.to_owned(), matchers: matchers.to_vec(), take }),
            false => Err(format!("metric: `{}` is not the name of one", metric.escape_debug())),
        };
        let of = self.of.as_ref().map(|of| operand(&of.metric, &of.matchers, of.take)).transpose()?;
        Ok(Expression {
            value: operand(metric, self.matchers.as_deref().unwrap_or_default(), self.take.unwrap_or_default())?,
            of,
            at_least: self.at_least.unwrap_or(0.0),
            window,
            by: self.by.clone().unwrap_or_default(),
        })
    }
}

/// As OpenMetrics has it.
fn is_metric(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

/// What is said of a rule that does not say it.
fn summary(name: &str, expression: &Expression) -> String {
    let of: String = expression.by.iter().map(|label| format!(" {label} {{{label}}}")).collect();
    format!("{name}:{of} is at {{value}}, and the line is at {{threshold}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Rule>, Vec<String>> {
        rules(&toml::from_str(text).unwrap())
    }

    fn rule(text: &str, name: &str) -> Rule {
        read(text).unwrap().into_iter().find(|rule| rule.name == name).unwrap()
    }

    #[test]
    fn the_rules_that_are_built_in_are_rules() {
        let rules = read("").unwrap();

        assert_eq!(rules.len(), 10);
        assert!(rules.iter().all(|rule| rule.is_built_in && rule.is_enabled));
    }

    #[test]
    fn what_is_said_of_a_rule_goes_before_what_is_built_in() {
        let changed = rule("[oldest-task]\nabove = 60.0\nseverity = \"critical\"\n", "oldest-task");

        assert_eq!((changed.threshold.fires, changed.threshold.resolves), (60.0, 60.0), "the second line goes with it");
        assert_eq!((changed.severity, changed.lasts), (Severity::Critical, Duration::from_secs(60)));
        assert!(!rule("[agents-lost]\nenabled = false\n", "agents-lost").is_enabled);
    }

    #[test]
    fn a_rule_of_ones_own_needs_a_metric_and_a_line() {
        let deep = rule("[deep]\nmetric = \"hive_queue_depth\"\nby = [\"kind\"]\nabove = 1000.0\n", "deep");
        assert_eq!(deep.condition(), "sum hive_queue_depth by kind > 1000");
        assert_eq!(deep.summary, "deep: kind {kind} is at {value}, and the line is at {threshold}");

        let problems = read("[deep]\n").unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.starts_with("[alerts.deep] ")), "{problems:?}");
    }

    #[test]
    fn what_cannot_be_is_told_with_its_place() {
        for (said, why) in [
            ("[a]\nmetric = \"m\"\nabove = 1.0\nbelow = 2.0\n", "write one of them"),
            ("[a]\nmetric = \"m\"\nabove = 1.0\nresolve = 2.0\n", "must not be more than"),
            ("[a]\nmetric = \"m\"\nbelow = 2.0\nresolve = 1.0\n", "must not be less than"),
            ("[a]\nmetric = \"m\"\nabove = 1.0\nmeasure = \"rate\"\n", "over how long"),
            ("[a]\nmetric = \"m\"\nabove = 1.0\nover = \"5m\"\n", "measure"),
            ("[a]\nmetric = \"m-x\"\nabove = 1.0\n", "is not the name"),
            ("[a]\nmetric = \"m\"\nabove = nan\n", "a number"),
            ("[\"a b\"]\nmetric = \"m\"\nabove = 1.0\n", "a rule has a name"),
        ] {
            let problems = read(said).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(why), "{said}: {problems:?}");
        }
    }

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        let said: BTreeMap<String, RuleConfig> = toml::from_str(BUILT_IN).unwrap();

        let again: BTreeMap<String, RuleConfig> = toml::from_str(&toml::to_string(&said).unwrap()).unwrap();

        assert_eq!(again, said);
    }
}
