//! What a task asks of the labels of its agent: `gpu=a100, region in (eu,us), arch!=arm64, ssd, cores>=8`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::excerpt;

/// Labels of an agent: free texts by name.
pub type Labels = BTreeMap<String, String>;

/// Requirements on labels; all of them must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Needs(Vec<Need>);

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Need {
    /// The label's name.
    pub label: String,
    /// What must be so about it.
    pub test: Test,
}

/// What must be so about a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Test {
    /// It is there: `ssd`.
    Present,
    /// It is not there: `!spot`.
    Absent,
    /// It is there and is this: `gpu=a100`.
    Equals(String),
    /// It is not there, or is something else: `arch!=arm64`.
    Differs(String),
    /// It is there and is one of these: `region in (eu,us)`.
    OneOf(Vec<String>),
    /// It is there, is a number, and compares so: `cores>=8`.
    Compares(Comparison, Number),
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

/// A number as it was written; compared by value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number(String);

impl Number {
    fn value(&self) -> f64 {
        self.0.parse().expect("a Number is only made from a text that parses")
    }
}

/// Why a text says nothing about labels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` is not a requirement on a label: write `gpu=a100`, `arch!=arm64`, `region in (eu,us)`, `ssd`, `!spot` or `cores>=8`"
)]
pub struct BadNeeds {
    part: String,
}

impl Needs {
    /// Whether an agent with these labels will do.
    pub fn are_met_by(&self, labels: &Labels) -> bool {
        self.0.iter().all(|need| need.is_met_by(labels))
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each requirement.
    pub fn iter(&self) -> impl Iterator<Item = &Need> {
        self.0.iter()
    }
}

impl Need {
    /// Whether an agent with these labels will do.
    pub fn is_met_by(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.label);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Equals(wanted) => value == Some(wanted),
            Test::Differs(unwanted) => value != Some(unwanted),
            Test::OneOf(wanted) => value.is_some_and(|v| wanted.contains(v)),
            Test::Compares(comparison, wanted) => {
                let Some(Ok(value)) = value.map(|v| v.parse::<f64>()) else { return false };
                let wanted = wanted.value();
                match comparison {
                    Comparison::Less => value < wanted,
                    Comparison::AtMost => value <= wanted,
                    Comparison::Greater => value > wanted,
                    Comparison::AtLeast => value >= wanted,
                }
            }
        }
    }

    fn parse(part: &str) -> Option<Need> {
        let need = |label: &str, test| {
            let label = label.trim();
            is_word(label).then(|| Need { label: label.to_owned(), test })
        };
        let word = |text: &str| Some(text.trim().to_owned()).filter(|w| is_word(w));
        let number = |text: &str| {
            let text = text.trim();
            text.parse::<f64>().ok().filter(|n| n.is_finite()).map(|_| Number(text.to_owned()))
        };
        if let Some((label, set)) = part.split_once(" in ") {
            let items = set.trim().strip_prefix('(')?.strip_suffix(')')?;
            let items = items.split(',').map(word).collect::<Option<Vec<_>>>()?;
            return need(label, Test::OneOf(items));
        }
        let comparisons = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        if let Some((label, unwanted)) = part.split_once("!=") {
            return need(label, Test::Differs(word(unwanted)?));
        }
        for (sign, comparison) in comparisons {
            if let Some((label, wanted)) = part.split_once(sign) {
                return need(label, Test::Compares(comparison, number(wanted)?));
            }
        }
        if let Some((label, wanted)) = part.split_once('=') {
            return need(label, Test::Equals(word(wanted)?));
        }
        match part.strip_prefix('!') {
            Some(label) => need(label, Test::Absent),
            None => need(part, Test::Present),
        }
    }
}

/// A label's name or value: no spaces, and none of the signs that a requirement is written with.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_./:+@".contains(c))
}

impl FromStr for Needs {
    type Err = BadNeeds;

    fn from_str(text: &str) -> Result<Self, BadNeeds> {
        let mut needs = Vec::new();
        for part in split_outside_parentheses(text).filter(|part| !part.trim().is_empty()) {
            let part = part.trim();
            needs.push(Need::parse(part).ok_or_else(|| BadNeeds { part: excerpt(part) })?);
        }
        // Equal requirements are equal values, in whatever order they were written.
        needs.sort();
        needs.dedup();
        Ok(Needs(needs))
    }
}

fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0u32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = &self.label;
        match &self.test {
            Test::Present => write!(f, "{label}"),
            Test::Absent => write!(f, "!{label}"),
            Test::Equals(value) => write!(f, "{label}={value}"),
            Test::Differs(value) => write!(f, "{label}!={value}"),
            Test::OneOf(values) => write!(f, "{label} in ({})", values.join(",")),
            Test::Compares(Comparison::Less, n) => write!(f, "{label}<{}", n.0),
            Test::Compares(Comparison::AtMost, n) => write!(f, "{label}<={}", n.0),
            Test::Compares(Comparison::Greater, n) => write!(f, "{label}>{}", n.0),
            Test::Compares(Comparison::AtLeast, n) => write!(f, "{label}>={}", n.0),
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, need) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            need.fmt(f)?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Needs {
    type Error = BadNeeds;
    fn try_from(text: String) -> Result<Self, BadNeeds> {
        text.parse()
    }
}

impl From<Needs> for String {
    fn from(needs: Needs) -> String {
        needs.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(needs: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        needs.parse::<Needs>().unwrap().are_met_by(&labels)
    }

    #[test]
    fn each_requirement_means_what_it_says() {
        let labels = [("gpu", "a100"), ("region", "eu"), ("cores", "16"), ("ssd", "")];

        for yes in ["", "gpu=a100", "region in (us, eu)", "arch!=arm64", "ssd", "!spot", "cores>=16, cores<17"] {
            assert!(met(yes, &labels), "{yes}");
        }
        for no in ["gpu=h100", "region in (us)", "region!=eu", "spot", "!ssd", "cores>16", "gpu>1", "gpu=a100, spot"] {
            assert!(!met(no, &labels), "{no}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for bad in ["=x", "a==b", "a in eu", "cores>many", "a b", "x in (a", "a=b=c"] {
            assert!(bad.parse::<Needs>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn needs_read_back_as_they_are_written() {
        let needs: Needs = "ssd, region in (us,eu), cores>=8, arch!=arm64, gpu=a100, !spot".parse().unwrap();

        assert_eq!(needs.to_string().parse::<Needs>().unwrap(), needs);
    }
}
