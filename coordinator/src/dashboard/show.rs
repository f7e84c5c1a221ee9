//! How figures are written for people to read: spans, counts, rates, shares, moments, bodies.

use std::time::{Duration, SystemTime};

/// Bytes of a body that are shown.
const BODY_SHOWN: usize = 4 << 10;
/// Bytes on a line of one that is no text.
const HEX_LINE: usize = 16;

/// A span of time with its units: `340 ms`, `2.5 s`, `3 min 12 s`, `5 h 03 min`, `2 d 07 h`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{seconds}.{} s", span.subsec_millis() / 100),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// The same for a number of milliseconds.
pub(super) fn millis(millis: u64) -> String {
    span(Duration::from_millis(millis))
}

/// A span that may not be known.
pub(super) fn maybe_span(known: Option<Duration>) -> String {
    known.map_or_else(|| NOT_KNOWN.to_owned(), span)
}

/// What stands where nothing is known.
pub(super) const NOT_KNOWN: &str = "–";

/// A count, its thousands apart: `12,345`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many a second.
pub(super) fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { count(per_second.round() as u64) }
}

/// A fraction in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A share that may not be known.
pub(super) fn maybe_percent(share: Option<f64>) -> String {
    share.map_or_else(|| NOT_KNOWN.to_owned(), percent)
}

/// `1 agent`, `2 agents`.
pub(super) fn several(number: u64, one: &str, more: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { more })
}

/// A moment to the second, in UTC.
pub(super) fn absolute(moment: SystemTime) -> String {
    // Beyond the year 9999 there is no such notation.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(moment.clamp(SystemTime::UNIX_EPOCH, last)).to_string()
}

/// A body to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Body {
    /// Its lines, or those of its bytes in hexadecimal.
    pub(super) lines: Vec<String>,
    /// How much of what that is.
    pub(super) note: String,
}

/// The head of a body: as text, or in hexadecimal where it is none.
pub(super) fn body(bytes: &[u8]) -> Body {
    let head = &bytes[..bytes.len().min(BODY_SHOWN)];
    let shown = text_of(head, bytes.len() > head.len());
    let what = if shown.is_some() { "text" } else { "bytes that are no text, in hexadecimal" };
    let lines = match shown {
        Some(text) => text.lines().map(str::to_owned).collect(),
        None => head.chunks(HEX_LINE).enumerate().map(|(number, chunk)| hex_line(number * HEX_LINE, chunk)).collect(),
    };
    let length = several(bytes.len() as u64, "byte", "bytes");
    let note = match head.len() {
        0 => "empty".to_owned(),
        shown if shown < bytes.len() => format!("the first {} of {length} of {what}", count(shown as u64)),
        _ => format!("{length} of {what}"),
    };
    Body { lines, note }
}

/// The head as text; a character that it cuts through is left out.
fn text_of(head: &[u8], is_cut: bool) -> Option<&str> {
    match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok(),
        Err(_) => None,
    }
}

fn hex_line(offset: usize, bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let plain: String = bytes
        .iter()
        .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
        .collect();
    format!("{offset:06x}  {:<width$}  {plain}", hex.join(" "), width = HEX_LINE * 3 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_their_units_written_out() {
        let shown = [0, 340, 2_550, 192_000, 18_180_000, 198_000_000].map(millis);

        assert_eq!(shown, ["0 ms", "340 ms", "2.5 s", "3 min 12 s", "5 h 03 min", "2 d 07 h"]);
    }

    #[test]
    fn counts_and_rates_are_read_at_a_glance() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 3.12, 12_345.6].map(rate), ["0.0", "3.1", "12,346"]);
        assert_eq!(
            (several(1, "agent", "agents"), several(0, "agent", "agents")),
            ("1 agent".into(), "0 agents".into())
        );
    }

    #[test]
    fn a_body_is_shown_as_text_up_to_a_limit() {
        let short = body("one\ntwo".as_bytes());
        let long = body("ä".repeat(BODY_SHOWN).as_bytes());

        assert_eq!((short.lines, short.note.as_str()), (vec!["one".to_owned(), "two".to_owned()], "7 bytes of text"));
        assert_eq!(long.lines[0].chars().count(), BODY_SHOWN / 2);
        assert!(long.note.starts_with("the first 4,096 of 8,192 bytes"), "{}", long.note);
        assert_eq!(body(b"").note, "empty");
    }

    #[test]
    fn a_body_that_is_no_text_is_shown_in_hexadecimal() {
        let shown = body(b"\xff<b>\x00");

        assert_eq!(shown.lines, [format!("000000  {:<47}  .<b>.", "ff 3c 62 3e 00")]);
        assert!(shown.note.contains("no text"), "{}", shown.note);
        // Cut in the middle of a character it is text still.
        assert!(body(format!("x{}", "ä".repeat(BODY_SHOWN)).as_bytes()).note.ends_with("of text"));
    }
}
