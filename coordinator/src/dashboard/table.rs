//! Long lists: where the next page is, and how each column would sort.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::show;

/// How many rows there are on a page.
pub(super) const ROWS: usize = 50;

/// The query of an address that leads to another part of the same list.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// The same with another value; an empty one is left out.
    pub(super) fn with(&self, name: &'static str, value: impl Into<String>) -> Self {
        let mut pairs: Vec<_> = self.0.iter().filter(|(other, _)| *other != name).cloned().collect();
        let value = value.into();
        if !value.is_empty() {
            pairs.push((name, value));
        }
        Self(pairs)
    }

    /// The address on this path.
    pub(super) fn on(&self, path: &str) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
    }
}

/// A text as it may stand in an address.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Where one is in a list.
#[derive(Clone, Debug, Default)]
pub(super) struct Pager {
    /// `1 to 50 of 1,234`.
    pub(super) shown: String,
    /// Where the pages beside it are.
    pub(super) previous: Option<String>,
    pub(super) next: Option<String>,
}

impl Pager {
    /// So many rows from this one on, of so many.
    pub(super) fn new(path: &str, query: &Query, offset: usize, rows: usize, total: usize) -> Self {
        let at = |offset: usize| query.with("offset", if offset == 0 { String::new() } else { offset.to_string() });
        let shown = match (rows, total) {
            (_, 0) => "none".to_owned(),
            (0, total) => format!("none of {} on this page", show::count(total as u64)),
            (rows, total) => {
                let [first, last, total] = [offset + 1, offset + rows, total].map(|n| show::count(n as u64));
                format!("{first} to {last} of {total}")
            }
        };
        Self {
            shown,
            previous: (offset > 0).then(|| at(offset.saturating_sub(ROWS)).on(path)),
            next: (rows > 0 && offset + rows < total).then(|| at(offset + rows).on(path)),
        }
    }
}

/// The head of a column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) label: &'static str,
    /// Where the same list is sorted by it; nowhere if it cannot be.
    pub(super) path: Option<String>,
    /// How it is sorted by it: `ascending` or `descending`, as screen readers are told.
    pub(super) sorted: Option<&'static str>,
}

/// The heads of columns: label, and the name that it is sorted by (or an empty one).
pub(super) fn columns(
    path: &str,
    query: &Query,
    sort: &str,
    is_descending: bool,
    all: &[(&'static str, &'static str)],
) -> Vec<Column> {
    let column = |&(label, name): &(&'static str, &'static str)| {
        let is_sorted = name == sort;
        // Once more turns it round.
        let order = if is_sorted && !is_descending { "down" } else { "up" };
        let to = query.with("sort", name).with("order", order).with("offset", "");
        Column {
            label,
            path: (!name.is_empty()).then(|| to.on(path)),
            sorted: is_sorted.then_some(if is_descending { "descending" } else { "ascending" }),
        }
    };
    all.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_carries_what_was_typed_and_nothing_empty() {
        let query = Query::default().with("text", "a&b=<c>").with("kind", "").with("state", "healthy");

        assert_eq!(query.on("/agents"), "/agents?text=a%26b%3D%3Cc%3E&state=healthy");
        assert_eq!(query.with("text", "").with("state", "").on("/agents"), "/agents");
    }

    #[test]
    fn a_pager_leads_on_and_back_and_no_further() {
        let pager = |offset, rows, total| Pager::new("/agents", &Query::default(), offset, rows, total);

        let (first, last, none) = (pager(0, 50, 120), pager(100, 20, 120), pager(0, 0, 0));
        assert_eq!((first.shown.as_str(), first.next.as_deref()), ("1 to 50 of 120", Some("/agents?offset=50")));
        assert!(first.previous.is_none() && last.next.is_none() && none.next.is_none());
        assert_eq!(last.previous.as_deref(), Some("/agents?offset=50"));
        assert_eq!(pager(50, 50, 120).previous.as_deref(), Some("/agents"));
        assert_eq!(none.shown, "none");
        assert!(pager(500, 0, 120).previous.is_some(), "whoever went too far gets back");
    }

    #[test]
    fn a_column_that_is_sorted_by_turns_round() {
        let columns = columns("/agents", &Query::default(), "cpu", false, &[("CPU", "cpu"), ("Kinds", "")]);

        assert_eq!(columns[0].path.as_deref(), Some("/agents?sort=cpu&order=down"));
        assert_eq!(columns[0].sorted, Some("ascending"));
        assert!(columns[1].path.is_none() && columns[1].sorted.is_none());
    }
}
