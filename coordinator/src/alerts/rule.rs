//! A rule: what is measured, where the line is, and for how long it must be crossed.

use std::fmt;
use std::time::Duration;

use shared::api::alerts::Severity;

use super::expression::{ENDLESS, Expression, Measure};
use super::sample::Labels;

/// On which side of the line it is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Above,
    Below,
}

/// Where the line is. An alert that fires goes on until the second line is crossed, so that a value that sways around the
/// first does not make it come and go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) side: Side,
    pub(crate) fires: f64,
    pub(crate) resolves: f64,
}

impl Threshold {
    /// Whether a value is on the bad side, of an alert that fires or of one that does not.
    pub(crate) fn is_crossed(&self, value: f64, is_firing: bool) -> bool {
        let line = if is_firing { self.resolves } else { self.fires };
        match self.side {
            Side::Above => value > line,
            Side::Below => value < line,
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) is_built_in: bool,
    pub(crate) is_enabled: bool,
    pub(crate) severity: Severity,
    pub(crate) expression: Expression,
    pub(crate) threshold: Threshold,
    /// For how long the line must be crossed until an alert fires.
    pub(crate) lasts: Duration,
    /// For how long it must not be, until one resolves.
    pub(crate) keep_firing_for: Duration,
    /// What is the matter, with `{value}`, `{threshold}` and the names of labels where their values go.
    pub(crate) summary: String,
}

impl Rule {
    /// Its condition, in one line.
    pub(crate) fn condition(&self) -> String {
        let Threshold { side, fires, resolves } = self.threshold;
        let (sign, back) = match side {
            Side::Above => (">", "<="),
            Side::Below => ("<", ">="),
        };
        let mut text = format!("{} {sign} {}", self.expression, self.show(fires));
        if resolves.to_bits() != fires.to_bits() {
            text += &format!(", until {back} {}", self.show(resolves));
        }
        text
    }

    /// What is the matter with what has these labels, in words.
    pub(crate) fn summary(&self, labels: &Labels, value: f64) -> String {
        let mut text = self.summary.replace("{value}", &self.show(value));
        text = text.replace("{threshold}", &self.show(self.threshold.fires));
        for (name, value) in labels {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }

    /// A value as people read it: by what the metric's name says that it is.
    pub(crate) fn show(&self, value: f64) -> String {
        let is_rate = matches!(self.expression.window, Some((Measure::Rate, _)));
        if self.expression.of.is_some() && value >= ENDLESS {
            "any number".to_owned()
        } else if self.expression.of.is_some() {
            format!("{}%", Short(value * 100.0))
        } else if is_rate {
            format!("{}/s", Short(value))
        } else if self.expression.value.metric.ends_with("_seconds") {
            let span = Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default();
            let whole = if span.as_secs() > 0 { Duration::from_secs(span.as_secs()) } else { span };
            humantime::format_duration(whole).to_string()
        } else {
            Short(value).to_string()
        }
    }

    /// What an alert of this rule about what has these labels is called.
    pub(crate) fn alert_id(&self, labels: &Labels) -> String {
        let mut id = self.name.clone();
        for label in &self.expression.by {
            id.push(':');
            id.extend(labels.get(label).map_or("", String::as_str).chars().map(plain));
        }
        id
    }
}

/// A character as it may stand in an id, which stands in addresses and on command lines.
fn plain(c: char) -> char {
    if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '~' }
}

/// A number with as many decimals as it needs, and two at most.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::super::expression::{Operand, Take};
    use super::*;

    fn rule(metric: &str) -> Rule {
        let value = Operand { metric: metric.to_owned(), matchers: Vec::new(), take: Take::Max };
        Rule {
            name: "old".to_owned(),
            is_built_in: false,
            is_enabled: true,
            severity: Severity::Warning,
            expression: Expression { value, of: None, at_least: 0.0, window: None, by: vec!["kind".to_owned()] },
            threshold: Threshold { side: Side::Above, fires: 600.0, resolves: 300.0 },
            lasts: Duration::ZERO,
            keep_firing_for: Duration::ZERO,
            summary: "{kind} waits for {value}, and {threshold} is too long".to_owned(),
        }
    }

    #[test]
    fn what_fires_goes_on_until_the_second_line() {
        let threshold = rule("age_seconds").threshold;

        let crossed = [600.0, 601.0].map(|value| threshold.is_crossed(value, false));
        let still = [599.0, 301.0, 300.0].map(|value| threshold.is_crossed(value, true));

        assert_eq!((crossed, still), ([false, true], [true, true, false]));
    }

    #[test]
    fn a_summary_says_values_in_their_unit() {
        let labels = [("kind".to_owned(), "resize".to_owned())].into();

        let of_time = rule("age_seconds").summary(&labels, 754.8);
        let of_number = rule("tasks").summary(&labels, 12.5);

        assert_eq!(of_time, "resize waits for 12m 34s, and 10m is too long");
        assert_eq!(of_number, "resize waits for 12.5, and 600 is too long");
    }

    #[test]
    fn an_id_can_stand_in_an_address() {
        let labels = [("kind".to_owned(), "a b/ä".to_owned())].into();

        assert_eq!(rule("tasks").alert_id(&labels), "old:a~b~~");
        assert_eq!(rule("tasks").condition(), "max tasks by kind > 600, until <= 300");
    }
}
