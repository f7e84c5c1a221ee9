//! What a label must be: `kind=resize`, `outcome!=succeeded`, `kind=video-*|audio`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A condition on one label. A label that is not there is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Matcher {
    label: String,
    is_equal: bool,
    values: Vec<String>,
}

/// Why a text is not a condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a condition on a label: write `kind=resize`, `kind!=resize` or `kind=video-*|audio`", .0.escape_debug())]
pub struct BadMatcher(String);

impl Matcher {
    /// The label that it is about.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Whether a value of the label is as it must be.
    pub(crate) fn allows(&self, value: &str) -> bool {
        self.values.iter().any(|wanted| is_like(wanted, value)) == self.is_equal
    }
}

/// A `*` at the end stands for any rest.
fn is_like(wanted: &str, value: &str) -> bool {
    wanted.strip_suffix('*').map_or(wanted == value, |beginning| value.starts_with(beginning))
}

impl FromStr for Matcher {
    type Err = BadMatcher;
    fn from_str(text: &str) -> Result<Self, BadMatcher> {
        let bad = || BadMatcher(text.chars().take(80).collect());
        let (label, values) = text.split_once('=').ok_or_else(bad)?;
        let (label, is_equal) = label.strip_suffix('!').map_or((label, true), |label| (label, false));
        let is_name = !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if !is_name {
            return Err(bad());
        }
        Ok(Self { label: label.to_owned(), is_equal, values: values.split('|').map(str::to_owned).collect() })
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_equal { "=" } else { "!=" };
        write!(f, "{}{sign}{}", self.label, self.values.join("|"))
    }
}

impl TryFrom<String> for Matcher {
    type Error = BadMatcher;
    fn try_from(text: String) -> Result<Self, BadMatcher> {
        text.parse()
    }
}

impl From<Matcher> for String {
    fn from(matcher: Matcher) -> String {
        matcher.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(matcher: &str, value: &str) -> bool {
        matcher.parse::<Matcher>().unwrap().allows(value)
    }

    #[test]
    fn a_label_is_compared_with_each_value() {
        assert!(allows("kind=resize|train", "train") && !allows("kind=resize|train", "echo"));
        assert!(!allows("kind!=resize|train", "train") && allows("kind!=resize|train", "echo"));
        assert!(allows("kind=video-*", "video-4k") && !allows("kind=video-*", "audio"));
        assert!(allows("kind=*", "anything") && allows("kind=", "") && !allows("kind!=", ""));
    }

    #[test]
    fn a_condition_is_written_as_it_is_read() {
        for text in ["kind=resize", "kind!=a|b", "kind=video-*", "kind="] {
            assert_eq!(text.parse::<Matcher>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_in_words() {
        for text in ["kind", "=resize", "ki nd=x", "!=x", "kind~=x", ""] {
            let error = text.parse::<Matcher>().unwrap_err().to_string();
            assert!(error.contains("is not a condition"), "{error}");
        }
    }
}
