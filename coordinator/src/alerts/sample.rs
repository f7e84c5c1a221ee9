//! Samples of metrics: a name, labels and a value each, as `/metrics` gives them.

use std::collections::{BTreeMap, BTreeSet};

/// What tells the series of one metric apart.
pub(crate) type Labels = BTreeMap<String, String>;

/// One value of one series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The metric.
    pub(crate) name: String,
    /// Which of its series.
    pub(crate) labels: Labels,
    /// What it is now.
    pub(crate) value: f64,
}

impl Sample {
    /// A sample with these labels.
    pub(crate) fn new(name: &str, labels: &[(&str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { name: name.to_owned(), labels, value }
    }
}

/// Reads the metrics that are wanted out of an exposition in the text format of OpenMetrics or Prometheus.
///
/// A line that cannot be read is left out: one metric that somebody got wrong does not blind the rules on others. What
/// follows the value (a time, an exemplar) is not needed.
pub(crate) fn parse(exposition: &str, wanted: &BTreeSet<String>) -> Vec<Sample> {
    exposition.lines().filter_map(|line| sample(line, wanted)).collect()
}

fn sample(line: &str, wanted: &BTreeSet<String>) -> Option<Sample> {
    let line = line.trim_start();
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    if !wanted.contains(name) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    // `NaN`, `+Inf` and `-Inf` are numbers to `f64` as well. What is not a number can be compared with nothing.
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    (!value.is_nan()).then(|| Sample { name: name.to_owned(), labels, value })
}

/// Reads `name="value",…}`, and returns what follows.
fn labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once('=')?;
        let (value, rest) = quoted(rest.trim_start().strip_prefix('"')?)?;
        labels.insert(name.trim().to_owned(), value);
        text = rest;
    }
}

/// Reads up to the closing quotation mark, and returns what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            character => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Sample> {
        let wanted = ["hive_slots", "hive_queue_depth", "hive_odd"].map(str::to_owned).into_iter().collect();
        parse(text, &wanted)
    }

    #[test]
    fn what_is_wanted_is_read_and_the_rest_is_not() {
        let text = "# HELP hive_slots Slots.\n# TYPE hive_slots gauge\nhive_slots 12\nhive_other 3\n\
                    hive_queue_depth{kind=\"resize\",priority=\"high\"} 4.0 1700000000.123\n# EOF\n";

        let expected = [
            Sample::new("hive_slots", &[], 12.0),
            Sample::new("hive_queue_depth", &[("kind", "resize"), ("priority", "high")], 4.0),
        ];
        assert_eq!(read(text), expected);
    }

    #[test]
    fn a_label_may_hold_what_the_format_is_made_of() {
        let odd = read("hive_odd{a=\"x,y}=\\\"z\\\" \\\\ \\n\", b=\"\",} 1e3 # {trace=\"q\"} 0.5");

        assert_eq!(odd, [Sample::new("hive_odd", &[("a", "x,y}=\"z\" \\ \n"), ("b", "")], 1000.0)]);
    }

    #[test]
    fn a_line_that_cannot_be_read_hides_no_other() {
        let text = "hive_odd{a=\"x 1\nhive_odd{a} 1\nhive_odd x\nhive_odd\nhive_odd NaN\nhive_odd +Inf\nhive_slots 1";

        let expected = [Sample::new("hive_odd", &[], f64::INFINITY), Sample::new("hive_slots", &[], 1.0)];
        assert_eq!(read(text), expected);
    }
}
