//! How far an attempt is, as its handler reports it.
//!
//! A command writes a line `::progress 0.42 what it does` to its standard error. That takes no open file and no variable
//! beside those of the contract, works through a shell, a pipe or a child, and harms nobody where nobody reads it. A line is
//! one only if it begins so, with a number from 0 to 1, and is whole; any other line belongs to the log. Whoever writes
//! such a line, what is shown is all that depends on it.

use shared::header;

/// What a line begins with that reports.
const MARK: &[u8] = b"::progress ";
/// How much of the words is told.
const TEXT_BYTES: usize = 200;

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    /// 0 to 1.
    pub(super) fraction: f64,
    /// What it does, in words; may be empty.
    pub(super) text: String,
}

impl Report {
    /// `None` if it is no number, or none from 0 to 1.
    pub(super) fn new(fraction: f64, text: &str) -> Option<Self> {
        (0.0..=1.0).contains(&fraction).then(|| {
            let text = header::clean(text, TEXT_BYTES).trim().to_owned();
            Self { fraction, text }
        })
    }

    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let said = std::str::from_utf8(line.strip_prefix(MARK)?).ok()?.trim();
        let (fraction, text) = said.split_once(char::is_whitespace).unwrap_or((said, ""));
        Self::new(fraction.parse().ok()?, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_reports_is_read() {
        let report = |fraction, text: &str| Some(Report { fraction, text: text.to_owned() });

        assert_eq!(Report::parse(b"::progress 0.42 frame 42 of 100\n"), report(0.42, "frame 42 of 100"));
        assert_eq!(Report::parse(b"::progress 1\r\n"), report(1.0, ""));
        assert_eq!(Report::parse(b"::progress 0 \x1b[2Jhi"), report(0.0, "[2Jhi"));
    }

    #[test]
    fn any_other_line_belongs_to_the_log() {
        for line in [
            "progress 0.5",
            " ::progress 0.5",
            "::progress",
            "::progress half",
            "::progress 42",
            "::progress -0.1",
            "::progress NaN",
            "::progress 0.5% done",
            "::progressive 0.5",
        ] {
            assert_eq!(Report::parse(line.as_bytes()), None, "{line}");
        }
    }
}
