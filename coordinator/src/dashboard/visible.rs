//! Escapes whatever the pages show, for HTML and against what deceives the eye: control characters, characters that
//! turn the direction of the text around them, and such as cannot be seen at all.

use std::fmt::{self, Write};

use askama::filters::Escaper;

/// The escaper of all templates; `askama.toml` says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visible;

impl Escaper for Visible {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        let mut written = 0;
        for (at, c) in text.char_indices() {
            let entity = entity(c);
            if entity.is_none() && !deceives(c) {
                continue;
            }
            dest.write_str(&text[written..at])?;
            match entity {
                Some(entity) => dest.write_str(entity)?,
                None => write!(dest, "{}", c.escape_default())?,
            }
            written = at + c.len_utf8();
        }
        dest.write_str(&text[written..])
    }
}

/// A text as the templates would show it.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    // Writing to a string cannot fail.
    let _ = Visible.write_escaped_str(&mut escaped, text);
    escaped
}

fn entity(c: char) -> Option<&'static str> {
    Some(match c {
        '<' => "&lt;",
        '>' => "&gt;",
        '&' => "&amp;",
        '"' => "&quot;",
        '\'' => "&#39;",
        _ => return None,
    })
}

/// Whether a character is not what a reader takes it for. (A tab is only space.)
fn deceives(c: char) -> bool {
    let is_hidden = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    (c.is_control() && c != '\t') || is_hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_text() {
        assert_eq!(escaped("<b>\"it's\" & all</b>"), "&lt;b&gt;&quot;it&#39;s&quot; &amp; all&lt;/b&gt;");
        assert_eq!(escaped("grün 文 🐝\tok"), "grün 文 🐝\tok");
    }

    #[test]
    fn what_hides_or_turns_text_is_seen() {
        assert_eq!(escaped("a\u{1b}[2J\r\n\u{0}\u{7f}\u{9b}"), "a\\u{1b}[2J\\r\\n\\u{0}\\u{7f}\\u{9b}");
        assert_eq!(escaped("gpj.\u{202e}exe\u{2066}\u{200f}"), "gpj.\\u{202e}exe\\u{2066}\\u{200f}");
        assert_eq!(escaped("ad\u{200b}min\u{feff}\u{e0041}"), "ad\\u{200b}min\\u{feff}\\u{e0041}");
    }
}
