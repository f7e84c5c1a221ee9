//! Lists in pages: how much of one is asked for, and where the next page begins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Listing {
    /// At most so many: 1 to 1000, which it is unless something else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Only what comes after this: the `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A page of a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Page<T> {
    /// The things listed.
    pub items: Vec<T>,
    /// The `cursor` of the next page, if there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The page that is asked for of all there are, which are put in the order of their keys.
    pub fn of(mut all: Vec<T>, asked: &Listing, key: impl Fn(&T) -> String) -> Self {
        all.sort_by_cached_key(&key);
        if let Some(cursor) = &asked.cursor {
            all.retain(|item| key(item) > *cursor);
        }
        let limit = asked.limit.unwrap_or_default().get();
        let next = if all.len() > limit { all.get(limit - 1).map(&key) } else { None };
        all.truncate(limit);
        Self { items: all, next }
    }
}

/// How many things one page holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Limit(u16);

impl Limit {
    /// The most that can be asked for.
    pub const MOST: u16 = 1000;

    /// So many, or as near as can be.
    pub fn at_most(count: usize) -> Self {
        Self(u16::try_from(count).unwrap_or(u16::MAX).clamp(1, Self::MOST))
    }

    /// How many.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(Self::MOST)
    }
}

impl TryFrom<u64> for Limit {
    type Error = String;
    fn try_from(count: u64) -> Result<Self, String> {
        match u16::try_from(count) {
            Ok(count @ 1..=Self::MOST) => Ok(Self(count)),
            _ => Err(format!("a page holds 1 to {} things, and not {count}", Self::MOST)),
        }
    }
}

impl From<Limit> for u64 {
    fn from(limit: Limit) -> u64 {
        limit.0.into()
    }
}

/// A span of time, written `500ms`, `30s`, `5m` or `1h 30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |error| format!("`{}` is not a span of time: {error}: write `30s`", text.escape_debug());
        humantime::parse_duration(text).map(Self).map_err(bad)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        humantime::format_duration(span.0).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(all: &[&str], limit: usize) -> Vec<Vec<String>> {
        let mut asked = Listing { limit: Some(Limit::at_most(limit)), cursor: None };
        let mut pages = Vec::new();
        loop {
            let all = all.iter().map(|item| (*item).to_owned()).collect();
            let page = Page::of(all, &asked, String::clone);
            pages.push(page.items);
            match page.next {
                Some(next) => asked.cursor = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_together_are_the_list_and_none_follows_the_last() {
        assert_eq!(pages(&["b", "a", "d", "c"], 2), [["a", "b"], ["c", "d"]]);
        assert_eq!(pages(&["b", "a", "c"], 2), [vec!["a", "b"], vec!["c"]]);
        assert_eq!(pages(&[], 2), [Vec::<String>::new()]);
    }

    #[test]
    fn a_page_of_nothing_or_of_too_much_is_refused() {
        let limit = |text: &str| serde_json::from_str::<Limit>(text).map(Limit::get).map_err(|e| e.to_string());

        assert_eq!(limit("1000"), Ok(1000));
        assert!(limit("0").unwrap_err().contains("1 to 1000"));
        assert!(limit("1001").unwrap_err().contains("not 1001"));
        assert_eq!(Limit::at_most(5000).get(), 1000);
    }

    #[test]
    fn a_span_is_written_as_it_is_read() {
        let span: Span = serde_json::from_str(r#""90s""#).unwrap();

        assert_eq!(span, Span(Duration::from_secs(90)));
        assert_eq!(serde_json::to_string(&span).unwrap(), r#""1m 30s""#);
        assert!("soon".parse::<Span>().unwrap_err().contains("write `30s`"));
    }
}
