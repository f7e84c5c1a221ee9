//! An event of the stream, read once and written once.

use bytes::Bytes;
use shared::api::Event;

/// An event of the stream, and how it goes to those who follow.
#[derive(Debug)]
pub(crate) struct Told {
    /// Its sequence in the stream.
    pub(crate) sequence: u64,
    /// The event; nothing if it is none of ours, which nobody gets.
    pub(crate) event: Option<Event>,
    /// The event as a server-sent event.
    pub(crate) frame: Bytes,
}

impl Told {
    /// Reads a message of the stream.
    pub(crate) fn new(sequence: u64, body: &[u8]) -> Self {
        let event = serde_json::from_slice::<Event>(body).ok();
        let frame = if event.is_some() { frame(sequence, body) } else { Bytes::new() };
        Self { sequence, event, frame }
    }

    /// About how much memory it takes.
    pub(crate) fn size(&self) -> usize {
        const BESIDES: usize = 256;
        BESIDES + 2 * self.frame.len()
    }
}

/// A line break ends a line of a server-sent event, so an event that somebody has laid out over several is written anew.
fn frame(sequence: u64, body: &[u8]) -> Bytes {
    let laid_out = body.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    let anew = laid_out.then(|| serde_json::from_slice::<serde_json::Value>(body).ok()).flatten();
    let anew = anew.map(|value| value.to_string());
    let data = anew.as_ref().map_or(body, |text| text.as_bytes());
    let mut frame = format!("id: {sequence}\ndata: ").into_bytes();
    frame.extend_from_slice(data);
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LED: &str = r#"{"time":"2026-12-01T12:00:00.000Z","topic":"mesh","what":"led","epoch":3}"#;

    #[test]
    fn an_event_goes_out_as_it_came_in_with_its_sequence() {
        let told = Told::new(17, LED.as_bytes());

        assert_eq!(told.event.as_ref().unwrap().what, "led");
        assert_eq!(told.frame, format!("id: 17\ndata: {LED}\n\n"));
    }

    #[test]
    fn an_event_over_several_lines_goes_out_in_one() {
        let told = Told::new(17, LED.replace(',', ",\r\n  ").as_bytes());

        let frame = std::str::from_utf8(&told.frame).unwrap();
        assert_eq!(frame.lines().count(), 3, "{frame}");
        assert!(frame.lines().nth(1).unwrap().contains(r#""what":"led""#), "{frame}");
    }

    #[test]
    fn what_is_no_event_is_kept_for_its_sequence_only() {
        let told = Told::new(17, b"data: forged\n\n");

        assert!(told.event.is_none() && told.frame.is_empty());
    }
}
